"""The model card is what its generator writes."""

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from atft.config import check_params
from atft.errors import InputError
from atft.predict.card import model_card
from page.readback import shown

ROOT = Path(__file__).parents[2]


def params() -> dict:
    return check_params(yaml.safe_load((ROOT / "params.yaml").read_text())).model_dump(mode="json")


def committed() -> tuple[Any, ...]:
    """What the card takes from the cache, which is not in Git: as the page of the same metrics shows it."""
    page = (ROOT / "metrics/report.html").read_text()
    rows = [
        (int(fold), day, role)
        for fold, spans in re.findall(r"<span>fold (\d+)</span>(.*?)</div>", page)
        for role, first, last in re.findall(r'title="(\w+): (\S+) to (\S+), \d+ days"', spans)
        for day in pl.date_range(date.fromisoformat(first), date.fromisoformat(last), eager=True)
        if day.weekday() < 5  # a simulated market is open on weekdays
    ]
    splits = pl.DataFrame(rows, schema=["fold", "date", "role"], orient="row")
    last = splits["date"].max()
    dates = np.arange("2014-01-02", np.datetime64(last) + 1, dtype="datetime64[D]")
    stocks = int(dict(shown(page))["defects.stocks"].replace(",", ""))
    return stocks, dates[np.is_busday(dates)], splits


def card_of(metrics: Path = ROOT / "metrics") -> str:
    return model_card(params(), metrics, *committed())


@pytest.mark.skipif(
    params()["data"]["source"] != "simulated", reason="when real markets were open stands in their bars"
)
def test_the_committed_card_is_up_to_date() -> None:
    """If not: python src/predict.py --card"""
    assert (ROOT / "docs/model_card.md").read_text() == card_of()


def test_the_card_tells_of_which_days_it_is() -> None:
    """For each fold the days that it learned from, `stop` included, and those that it never saw."""
    days = pl.date_range(date(2020, 1, 1), date(2020, 3, 30), eager=True)
    roles = ["train"] * 50 + ["purged"] * 3 + ["stop"] * 7 + ["purged"] * 10 + ["valid"] * 20
    splits = pl.DataFrame({"fold": 3, "date": days, "role": roles})
    dates = np.arange("2019-12-01", "2020-04-05", dtype="datetime64[D]")
    knobs = params()
    for source in ("simulated", "file", "table"):
        knobs["data"]["source"] = source
        card = model_card(knobs, ROOT / "metrics", 1234, dates, splits)
        assert "- Period: 2019-12-01 to 2020-04-04, 126 days with bars, 1,234 stocks.\n" in card
        assert "| 3 | 2020-01-01 | 2020-02-29 | 57 | valid | 2020-03-11 | 2020-03-30 | 20 |\n" in card


def test_test_blocks_stand_under_their_own_heading() -> None:
    card, found = card_of(), json.loads((ROOT / "metrics/evaluate.json").read_text())
    before, after = card.split("## Test blocks")
    assert f"| RankIC | {found['valid']['rank_ic']:.3f} | {found['valid']['reversal_rank_ic']:.3f} |" in before
    assert f"| RankIC | {found['test']['rank_ic']:.3f} |" in after
    assert before.count(found["test"]["from"]) == 1  # in the table of folds
    assert "<details>" in after


def test_what_is_undefined_says_so(tmp_path: Path) -> None:
    found = json.loads((ROOT / "metrics/evaluate.json").read_text())
    found["valid"]["rank_ic_low"] = None
    (tmp_path / "evaluate.json").write_text(json.dumps(found))
    (tmp_path / "train.json").write_text((ROOT / "metrics/train.json").read_text())
    card = card_of(tmp_path)
    assert "| 95 % interval, low | undefined |" in card
    assert "includes 0" in card
    with pytest.raises(InputError, match="run `dvc repro`"):
        card_of(tmp_path / "nowhere")
