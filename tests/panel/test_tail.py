"""Days put behind a history give what a build of the whole gives, to the last bit."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atft.errors import InputError
from atft.panel import features
from atft.panel.bars import windows
from atft.panel.build import Days
from atft.panel.raw import library_features
from atft.panel.simulate import simulate_market
from atft.panel.sources import check_bars, complete
from atft.panel.store import Panel, read_panel
from atft.panel.tail import Recipe, Tail, read_tail, write_days, write_tail
from conftest import FAMILIES, KNOBS, build_in

EVERYTHING = [*features.FAMILIES, "relative", "market"]
ARRAYS = ("features", "tradable", "label", "forward_return", "daily_return", "has_bar", "can_trade", "money_traded",
          "sector", "industry")  # fmt: skip
DAYS, ANCHOR = 300, 285  # rolling expressions start afresh among the last 30 days


def recipe(**knobs: Any) -> Recipe:
    names = ("min_history", "min_dollar_volume", "max_daily_return", "news_volume", "label", "beta_days")
    return Recipe(**{name: (KNOBS | knobs)[name] for name in names}, reach=130)


def eventful(bars: pl.DataFrame) -> pl.DataFrame:
    """Newcomers, a split, a jump, a halt, a new sector and a stock that comes back, all among the last days."""
    dates = bars["date"].unique().sort()
    day, code = pl.col("date"), pl.col("code")
    ago = {number: dates[len(dates) - number] for number in (60, 40, 25, 20, 15, 10)}
    bars = complete(bars)
    split, jump, halted, moved, away, late, older = bars.filter(day == dates[-1])["code"].to_list()[:7]
    price = pl.when((code == split) & (day >= ago[25])).then(0.5).when((code == jump) & (day >= ago[20])).then(1.9)
    bars = bars.with_columns(pl.col(name) * price.otherwise(1.0) for name in ("open", "high", "low", "close"))
    bars = bars.with_columns(
        adjustment_factor=pl.when((code == split) & (day == ago[25])).then(0.5).otherwise("adjustment_factor"),
        halted=(code == halted) & (day == ago[15]),
        sector=pl.when((code == moved) & (day >= ago[20])).then(pl.lit("a new one")).otherwise("sector"),
    )
    absent = (code == away) & day.is_between(ago[60], ago[10])
    absent |= ((code == late) & (day < ago[25])) | ((code == older) & (day < ago[40]))
    return check_bars(bars.filter(~absent), "test")


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return eventful(simulate_market(48, DAYS, "standard", 3, (1, 5), 1).bars)


@pytest.fixture(autouse=True)
def _anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bars", "tail"):
        monkeypatch.setattr(f"atft.panel.{module}.ANCHOR", ANCHOR)


def appended(
    folder: Path, bars: pl.DataFrame, steps: list[int], families: list[str], **knobs: Any
) -> tuple[Panel, int, Tail]:
    """The panel without the last days, to which they are then added in `steps`; its first day's number; its tail."""
    dates = bars["date"].unique().sort()
    known, start = len(dates) - sum(steps), 0
    first = bars.filter(pl.col("date") < dates[known])
    panel, _ = build_in(folder, first, families, **knobs)
    how, knobs = recipe(**knobs), KNOBS | knobs
    tail = Tail.of(first, how)
    for number, step in enumerate(steps):
        new = bars.filter(pl.col("date").is_between(dates[known], dates[known + step - 1]))
        known += step
        tail = tail.extended(new, how)
        raw = library_features(tail.grid, folder, families)
        how_labelled = (knobs[name] for name in ("horizons", "delay", "label", "label_scale", "method"))
        days = Days.of(tail.grid, raw, *how_labelled)
        names = {"codes": tail.grid.codes, "sector_names": tail.sector_names, "industry_names": tail.industry_names,
                 "feature_names": raw.output_names, "market_features": raw.market_names,
                 "horizons": list(knobs["horizons"]), "delay": knobs["delay"]}  # fmt: skip
        out = folder / f"step{number}"
        out.mkdir()
        keep = start or len(dates) - sum(steps) - 40
        write_days(out, panel, start, keep, days, knobs["delay"] + max(knobs["horizons"]), 1, names)
        raw.close()
        panel, start = read_panel(out), keep
        write_tail(out, tail.cut(how))
        tail = read_tail(out)
    return panel, start, tail


def differences(panel: Panel, start: int, whole: Panel) -> list[str]:
    """What is not the same in the panel, whose first day is number `start`, and in the whole."""
    names = ("codes", "sector_names", "industry_names", "feature_names")
    found = [name for name in names if getattr(panel, name) != getattr(whole, name)]
    if not np.array_equal(panel.dates, whole.dates[start:]):
        return [*found, "dates"]
    for name in ARRAYS:
        one, two = np.array(getattr(panel, name)), np.array(getattr(whole, name)[start:])
        if one.dtype != two.dtype or one.shape != two.shape or one.tobytes() != two.tobytes():
            found.append(name)
    return found


@pytest.mark.parametrize(
    ("steps", "families", "label"),
    [([30], EVERYTHING, "raw"), ([1, 1, 27, 1], FAMILIES, "sector_beta_neutral")],
    ids=["at once, all families", "bit by bit, neutral labels"],
)
def test_appended_days_are_those_of_a_whole_build(
    bars: pl.DataFrame, tmp_path: Path, steps: list[int], families: list[str], label: str
) -> None:
    """Bit for bit, features, labels, flags and names; of the old days too, whose labels have ended meanwhile."""
    (tmp_path / "whole").mkdir()
    whole, _ = build_in(tmp_path / "whole", bars, families, label=label)
    panel, start, tail = appended(tmp_path, bars, steps, families, label=label)
    assert start > 0
    assert differences(panel, start, whole) == []
    again = Tail.of(bars, recipe(label=label))
    for name in ("seeds", "labels", "market"):
        assert getattr(tail, name).equals(getattr(again, name)), name
    assert (tail.volume_from, tail.grid.start) == (again.volume_from, again.grid.start)
    frame = again.grid.frame.select(tail.grid.frame.columns)
    assert [c for c in frame.columns if not tail.grid.frame[c].equals(frame[c], null_equal=True)] == []


def test_windows_start_at_the_same_places_whoever_asks() -> None:
    whole = list(windows(0, 3 * ANCHOR, 100))
    assert whole == [(0, 0, 285), (185, 285, 570), (470, 570, 855)]
    assert list(windows(560, 600, 100)) == [(185, 560, 570), (470, 570, 600)]


def test_a_stock_does_not_return_from_its_terminal_return(bars: pl.DataFrame) -> None:
    dates = bars["date"].unique().sort()
    code = bars.filter(pl.col("date") == dates[-1])["code"][0]
    ended = pl.when((pl.col("code") == code) & (pl.col("date") == dates[-2])).then(-0.5).otherwise("terminal_return")
    known = bars.filter(pl.col("date") < dates[-1]).with_columns(terminal_return=ended)
    with pytest.raises(InputError, match=f"{code} prints on .* after its terminal return"):
        Tail.of(known, recipe()).extended(bars.filter(pl.col("date") == dates[-1]), recipe())


def test_what_money_was_usual_is_remembered_of_stocks_that_seldom_trade() -> None:
    """It decides whether a jump is news: half of a stock's days have no volume, and the last day jumps."""
    rng, knobs = np.random.default_rng(1), Recipe(5, 0.0, 0.5, 5.0, "raw", 20, reach=40)
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 2, 29), eager=True)
    for _ in range(60):
        trades = rng.random(60) < rng.uniform(0.35, 0.6)
        volume = np.where(trades, np.round(np.exp(rng.normal(5, 1.5, 60))), 0.0)
        volume[-1] = rng.choice([300, 1000, 3000])
        rare = pl.DataFrame({"date": days, "code": "A", "close": [10.0] * 59 + [16.0], "volume": volume})
        bars = pl.concat([rare, rare.with_columns(code=pl.lit("B"), close=10.0, volume=1000.0)])
        bars = check_bars(bars, "test")
        whole = Tail.of(bars, knobs)
        behind = pl.col("date") < days[-1]
        appended = Tail.of(bars.filter(behind), knobs).extended(bars.filter(~behind), knobs)
        of_last_day = [
            tail.grid.frame.filter(date=days[-1]).sort("code").select("error", "daily_return").rows()
            for tail in (whole, appended)
        ]
        assert of_last_day[0] == of_last_day[1]
