"""What stages made is kept under what made it."""

from pathlib import Path

import pytest

from atft.errors import InputError
from atft.search.store import Store


def test_code_that_is_edited_while_a_search_runs_is_not_run_by_it(tmp_path: Path) -> None:
    for folder in ("src", "data/raw"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "dvc.yaml").write_text(
        "stages: {cache: {deps: [src/cache.py, data/raw], params: [data], outs: [data/cache]}}"
    )
    stage = tmp_path / "src/cache.py"
    text = "from pathlib import Path; Path('data').mkdir(exist_ok=True); Path('data/cache').write_text('{}')"
    stage.write_text(text.format("old"))
    running = Store(tmp_path / "store", tmp_path)
    stage.write_text(text.format("new"))
    made = running.build("cache", {"data": 1})
    assert (made / "data/cache").read_text() == "old"
    later = Store(tmp_path / "store", tmp_path).build("cache", {"data": 1})
    assert (later / "data/cache").read_text() == "new"
    stage.write_text(text.format("old"))
    again = Store(tmp_path / "store", tmp_path)
    assert again.place("cache", {"data": 1}) == made
    (tmp_path / "data/raw/more").touch()
    with pytest.raises(InputError, match="data/raw: changed while the search ran"):
        again.build("cache", {"data": 2})
    assert not again.place("cache", {"data": 2}).with_suffix(".part").exists()
