"""Lists of experiments: those in docs can be run, and what cannot is refused before anything runs."""

from pathlib import Path

import pytest
import yaml

from atft.config import read_checked
from atft.errors import InputError
from experiments import Plan, check_runs

ROOT = Path(__file__).parents[1]
LISTS = [file for file in sorted((ROOT / "docs").glob("*.yaml")) if "variants" in yaml.safe_load(file.read_text())]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("file", LISTS, ids=lambda file: file.stem)
def test_every_list_in_docs_can_be_run(file: Path) -> None:
    check_runs(read_checked(file, Plan).runs(), file)


@pytest.mark.parametrize(
    ("variants", "says"),
    [
        ({"base": {"train.lr": 0.1}}, "variants: base is what has the common values alone"),
        ({"a": {"train.lrr": 0.1}}, "a: params.yaml has no knob train.lrr"),
        ({"a": {"train.lr": -1}}, "a: params.yaml: train.lr: Input should be greater than 0"),
        ({}, "variants: Dictionary should have at least 1 item"),
    ],
)
def test_a_list_that_cannot_be_run_is_refused(tmp_path: Path, variants: dict, says: str) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump({"prefix": "p", "common": {"train.epochs": 1}, "variants": variants}))
    with pytest.raises(InputError, match=says):
        check_runs(read_checked(file, Plan).runs(), file)
