"""The model card is what its generator writes."""

import json
from pathlib import Path

import pytest
import yaml

from atft.config import check_params
from atft.errors import InputError
from atft.predict.card import model_card

ROOT = Path(__file__).parents[2]


def params() -> dict:
    return check_params(yaml.safe_load((ROOT / "params.yaml").read_text())).model_dump(mode="json")


def test_the_committed_card_is_up_to_date() -> None:
    """If not: python src/predict.py --card"""
    assert (ROOT / "docs/model_card.md").read_text() == model_card(params(), ROOT / "metrics")


def test_test_blocks_stand_under_their_own_heading() -> None:
    card, found = model_card(params(), ROOT / "metrics"), json.loads((ROOT / "metrics/evaluate.json").read_text())
    before, after = card.split("## Test blocks")
    assert f"| RankIC | {found['valid']['rank_ic']:.3f} | {found['valid']['reversal_rank_ic']:.3f} |" in before
    assert f"| RankIC | {found['test']['rank_ic']:.3f} |" in after
    assert found["test"]["from"] not in before
    assert "<details>" in after


def test_what_is_undefined_says_so(tmp_path: Path) -> None:
    found = json.loads((ROOT / "metrics/evaluate.json").read_text())
    found["valid"]["rank_ic_low"] = None
    (tmp_path / "evaluate.json").write_text(json.dumps(found))
    (tmp_path / "train.json").write_text((ROOT / "metrics/train.json").read_text())
    card = model_card(params(), tmp_path)
    assert "| 95 % interval, low | undefined |" in card
    assert "includes 0" in card
    with pytest.raises(InputError, match="run `dvc repro`"):
        model_card(params(), tmp_path / "nowhere")
