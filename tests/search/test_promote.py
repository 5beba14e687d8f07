"""An experiment of a name is reused if it is the one asked for, as Git keeps it."""

import subprocess
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from atft.errors import InputError
from atft.search.promote import is_there, override

DONE = """
model: {graph: on}
split: {valid: ['2010-01-01'], seal_test: true}
train: {lr: 1e-05, horizon_weights: [1, 0.5], optimizer: adamw}
"""  # as DVC writes it
SAME = {
    "split.valid": [date(2010, 1, 1)], "train.lr": "1e-5", "train.horizon_weights": [1.0, 0.5], "model.graph": "on",
    "train.optimizer": "adamw",
}  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiments `done`, `open`, whose test blocks were not sealed, and two that are called `twin`."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    def commit(text: str) -> str:
        (tmp_path / "params.yaml").write_text(text)
        git("add", "-A")
        git("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x")
        return git("rev-parse", "HEAD")

    monkeypatch.chdir(tmp_path)
    git("init", "-q")
    base = commit("train: {}")
    done, unsealed = commit(DONE), commit(DONE.replace("true", "false"))
    for start, name, revision in (
        (base, "done", done), (base, "open", unsealed), (base, "twin", done), (done, "twin", unsealed)
    ):  # fmt: skip
        git("update-ref", f"refs/exps/{start[:2]}/{start[2:]}/{name}", revision)
    return tmp_path


@pytest.mark.usefixtures("repository")
def test_the_same_values_in_other_words_are_the_same() -> None:
    assert is_there("done", SAME)
    assert not is_there("new", SAME)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("done", {"train.lr": 1e-4}, "done: was run with train.lr 1e-05, now 0.0001; `dvc exp remove done`, or"),
        ("done", {"split.valid": [date(2010, 1, 2)]}, r'split.valid \["2010-01-01"\], now \["2010-01-02"\]'),
        ("done", {"train.horizon_weights": None}, r"train.horizon_weights \[1, 0.5\], now null"),
        ("done", {"train.new": None}, "train.new unknown, now null"),
        ("open", {}, "open: was run with split.seal_test false, now true"),
        ("twin", SAME, "twin: several experiments have this name"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("repository")
def test_an_experiment_of_other_values_is_not_taken_for_it(name: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        is_there(name, SAME | values)


def test_dates_reach_dvc_as_text() -> None:
    assert override([date(2010, 1, 1)]) == '["2010-01-01"]'
