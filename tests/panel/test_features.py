"""No feature, flag, label or universe knows the future, and no bad print dominates a day."""

from collections.abc import Callable
from functools import partial
from typing import get_args

import numpy as np
import polars as pl
import pytest

from atft.config import Family
from atft.panel import build as build_module
from atft.panel import features, raw
from atft.panel.simulate import simulate_market
from atft.panel.sources import complete
from atft.panel.standardize import METHODS
from atft.panel.store import Panel
from conftest import FAMILIES, panel_of

T = 140  # the present, as a day number


def with_another_future(bars: pl.DataFrame) -> pl.DataFrame:
    """The same bars up to day T; afterwards other prices and volumes, and half of the stocks gone."""
    present = bars["date"].unique().sort()[T]
    rng = np.random.default_rng(5)
    noise = pl.Series(np.exp(rng.normal(0, 0.3, len(bars))))
    later = pl.col("date") > present
    prices = [pl.when(later).then(pl.col(name) * noise).otherwise(pl.col(name)).alias(name) for name in
              ("open", "high", "low", "close", "volume")]  # fmt: skip
    known = pl.col("date").min().over("code") <= present
    gone = later & known & (pl.col("code").str.slice(-1).is_in(["1", "3", "5", "7", "9"]))
    return (
        complete(bars)
        .with_columns(
            *prices,
            sector=pl.when(later).then(pl.lit("another")).otherwise("sector"),
            terminal_return=pl.when(later).then(pl.col("terminal_return")),
            adjustment_factor=pl.when(later & (noise > 1.3)).then(pl.lit(0.5)).otherwise("adjustment_factor"),
            halted=pl.when(later & (noise < 0.8)).then(pl.lit(value=True)).otherwise("halted"),
        )
        .filter(~gone)
    )


def changes_of_the_past(build: Callable[[pl.DataFrame], Panel], bars: pl.DataFrame) -> list[str]:
    """Arrays whose values at or before T differ when only the bars after T do."""
    before, after = build(bars), build(with_another_future(bars))
    past = slice(0, T + 1)
    found = []
    arrays = ("tradable", "has_bar", "can_trade", "daily_return", "money_traded", "sector", "industry")
    for name in ("features", *arrays):
        one, two = getattr(before, name)[past], getattr(after, name)[past]
        if name == "features":
            found += [
                column
                for i, column in enumerate(before.feature_names)
                if not np.array_equal(one[..., i], two[..., i], equal_nan=True)
            ]
        elif not np.array_equal(one, two, equal_nan=True):
            found.append(name)
    return found


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return simulate_market(48, 200, "standard", 1, (1, 5), 1).bars


@pytest.mark.parametrize("method", METHODS)
def test_the_future_cannot_change_the_past(bars: pl.DataFrame, method: str) -> None:
    """All families, library and market-wide; sectors that change, splits and halts in the other future."""
    everything = [*features.FAMILIES, "relative", "market"]
    assert changes_of_the_past(partial(panel_of, families=everything, method=method), bars) == []


def test_a_planted_look_ahead_is_caught(bars: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    leak = {"momentum": features.FAMILIES["momentum"] | {"return_1": -features.trailing_return(-1)}}
    monkeypatch.setattr(raw, "FAMILIES", features.FAMILIES | leak)
    found = changes_of_the_past(panel_of, bars)
    assert "return_1" in found
    assert "return_5" not in found


@pytest.mark.parametrize("label", ["raw", "sector_neutral", "beta_neutral", "sector_beta_neutral"])
@pytest.mark.parametrize("scale", ["rank_gauss", "plain"])
def test_labels_end_where_they_say(bars: pl.DataFrame, label: str, scale: str) -> None:
    """A label of day t with horizon h depends on prices up to t + 1 + h, and on none after."""
    build = partial(panel_of, families=["momentum"], label=label, label_scale=scale)
    before, after = build(bars), build(with_another_future(bars))
    for name in ("forward_return", "label"):
        one, two = getattr(before, name), getattr(after, name)
        for i, horizon in enumerate((1, 5)):
            reach = T - 1 - horizon
            np.testing.assert_array_equal(one[: reach + 1, :, i], two[: reach + 1, :, i])
            assert not np.array_equal(one[reach + 1, :, i], two[reach + 1, :, i], equal_nan=True)


def test_a_trailing_beta_of_tomorrow_is_caught(bars: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beta-neutral label of the last day that is complete at T changes once its beta looks ahead."""
    monkeypatch.setattr(build_module, "market_beta", lambda days: features.market_beta(days).shift(-20))
    build = partial(panel_of, families=["momentum"], label="beta_neutral")
    one, two = build(bars).label[T - 2, :, 0], build(with_another_future(bars)).label[T - 2, :, 0]
    assert not np.array_equal(one, two, equal_nan=True)


def test_defects_neither_crash_nor_dominate_a_day(bars: pl.DataFrame) -> None:
    """A missed split, absent prints, a zero volume and a half-filled day."""
    dates = bars["date"].unique().sort()
    split = (pl.col("code") == "S0004") & (pl.col("date") >= dates[150])
    half = (pl.col("date") == dates[160]) & pl.col("code").str.slice(-1).is_in(["0", "2", "4", "6", "8"])
    absent = (pl.col("date") == dates[155]) & (pl.col("code") == "S0006")
    spoilt = bars.filter(~half).with_columns(
        pl.when(split).then(pl.col(name) / 10).otherwise(pl.col(name)).alias(name)
        for name in ("open", "high", "low", "close")
    )
    spoilt = spoilt.with_columns(
        open=pl.when(absent).then(None).otherwise(pl.col("open")),
        volume=pl.when(absent).then(0.0).otherwise(pl.col("volume")),
    )
    panel = panel_of(spoilt)
    stock = panel.codes.index("S0004")
    assert not panel.tradable[150, stock]
    assert panel.daily_return[150, stock] == 0
    assert np.isnan(panel.forward_return[148, stock]).all()
    assert not panel.tradable[155, panel.codes.index("S0006")]
    assert panel.tradable[160].sum() == pytest.approx(panel.tradable[159].sum() / 2, abs=4)
    known = np.isfinite(panel.features)
    assert not known[~panel.tradable].any()
    assert known[150:][panel.tradable[150:]].mean() > 0.9
    assert np.abs(panel.features[known]).max() < 4


def test_adjusted_price_levels_do_not_enter(bars: pl.DataFrame) -> None:
    """Dividing a stock's whole history by its future splits changes no feature: levels knew the splits to come."""
    this = pl.col("code") == "S0003"
    halved = bars.with_columns(
        *(pl.col(name) / (this + 1) for name in ("open", "high", "low", "close")), volume=pl.col("volume") * (this + 1)
    )
    one, two = panel_of(bars).features, panel_of(halved).features
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_families_are_named_alike_everywhere_and_no_feature_twice(bars: pl.DataFrame) -> None:
    names = panel_of(bars).feature_names
    assert 30 <= len(names) <= 50
    everything = [name for family in features.FAMILIES.values() for name in family]
    assert len(everything) == len(set(everything))
    assert set(get_args(Family)) == {*features.FAMILIES, "relative", "market"}
    assert set(FAMILIES) <= set(get_args(Family))


def test_hand_made_features() -> None:
    frame = pl.DataFrame(
        {"path": [0.0, 0.1, 0.3, 0.2], "r": [None, 0.1, 0.2, -0.1], "log_volume": [1.0, 2.0, 2.0, 5.0]}
    )
    assert frame.select(features.trailing_return(2)).to_series().to_list()[2:] == pytest.approx([0.3, 0.1])
    assert frame.select(features.trailing_return(1, skip=1)).to_series()[3] == pytest.approx(0.2)
    assert frame.select(features.volume_shock(2)).to_series()[3] == pytest.approx(3.0)
    assert frame.select(features.largest_return(2)).to_series()[3] == pytest.approx(0.2)
    assert frame.select(features.distance_to_high(3)).to_series()[3] == pytest.approx(-0.1)
    assert frame.select(features.strength_index(3)).to_series()[3] == pytest.approx(0.3 / 0.4)
