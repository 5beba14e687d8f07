"""Corporate actions, halts, price limits and labels count from the day they are known."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from atft.panel.bars import numbered_labels, on_grid
from atft.panel.simulate import simulate_market
from atft.panel.sources import complete
from conftest import build_in, panel_of

PRICES = ("open", "high", "low", "close")


@pytest.fixture(scope="module")
def bars() -> pl.DataFrame:
    return complete(simulate_market(48, 160, "standard", 1, (1, 5), 1).bars)


def day(bars: pl.DataFrame, number: int) -> pl.Expr:
    return pl.lit(bars["date"].unique().sort()[number])


def jump(bars: pl.DataFrame, factor: float, crowd: float) -> pl.DataFrame:
    """Stock S0004's prices times `factor` from day 100 on, money traded that day times `crowd`."""
    mine = pl.col("code") == "S0004"
    later = mine & (pl.col("date") >= day(bars, 100))
    volume = pl.when(later).then(pl.col("volume") / factor).otherwise("volume")
    volume = pl.when(mine & (pl.col("date") == day(bars, 100))).then(volume * crowd).otherwise(volume)
    moved = [pl.when(later).then(pl.col(name) * factor).otherwise(name).alias(name) for name in PRICES]
    return bars.with_columns(*moved, volume=volume)


@pytest.mark.parametrize(
    ("factor", "crowd", "verdict"),
    [
        (0.5, 1.0, "dropped"),  # a missed 1:2 split
        (0.55, 20.0, "believed"),  # bad news
        (1.9, 20.0, "believed"),  # good news
        (8.0, 20.0, "dropped"),  # a reverse split with its merger: no crowd makes it a return
        (0.1, 20.0, "dropped"),
    ],
)
def test_a_large_return_needs_a_crowd_to_be_believed(
    factor: float, crowd: float, verdict: str, bars: pl.DataFrame, tmp_path
) -> None:
    panel, built = build_in(tmp_path, jump(bars, factor, crowd))
    (row,) = built.large_returns.filter(pl.col("code") == "S0004").to_dicts()
    assert (row["date"], row["verdict"]) == (panel.dates[100].item(), verdict)
    assert row["price_change"] == pytest.approx(factor - 1, rel=0.15)
    assert built.report[f"large_returns_{verdict}"] >= 1
    stock = panel.codes.index("S0004")
    believed = verdict == "believed"
    assert panel.tradable[100, stock] == believed
    assert (panel.daily_return[100, stock] != 0) == believed
    assert np.isfinite(panel.forward_return[98, stock]).all() == believed
    assert np.isfinite(panel.forward_return[101, stock]).all()


def test_after_a_dropped_split_features_are_as_if_it_had_not_been(bars: pl.DataFrame) -> None:
    """The jump is taken out of prices and volumes, so that no feature sees it afterwards."""
    families = ["momentum", "shape", "volatility", "volume", "alpha158"]
    clean, spoilt = panel_of(bars, families), panel_of(jump(bars, 0.5, 1.0), families)
    stock = clean.codes.index("S0004")
    away = np.abs(clean.features[125:, stock] - spoilt.features[125:, stock])
    another = np.abs(clean.features[125:, stock] - clean.features[125:, stock - 1])
    assert np.nanmean(away) < np.nanmean(another) / 8  # the day's own return is lost, no more


def test_an_adjustment_factor_gives_the_adjusted_panel(bars: pl.DataFrame) -> None:
    """Raw prices of a stock that split 1:2 on day 80 and 3:1 on day 120, with the factors of these days."""
    mine = pl.col("code") == "S0006"
    scale = pl.when(pl.col("date") < day(bars, 80)).then(2 / 3).when(pl.col("date") < day(bars, 120)).then(1 / 3)
    scale = pl.when(mine).then(scale.otherwise(1.0)).otherwise(1.0)
    factor = pl.when(mine & (pl.col("date") == day(bars, 80))).then(0.5)
    factor = factor.when(mine & (pl.col("date") == day(bars, 120))).then(3.0).otherwise(1.0)
    raw = bars.with_columns(
        *(pl.col(name) * scale for name in PRICES), volume=pl.col("volume") / scale, adjustment_factor=factor
    )
    adjusted, honoured = panel_of(bars), panel_of(raw)
    assert not np.allclose(panel_of(raw.drop("adjustment_factor")).daily_return, adjusted.daily_return, atol=1e-3)
    for name in ("daily_return", "forward_return", "tradable"):
        np.testing.assert_allclose(getattr(honoured, name), getattr(adjusted, name), atol=1e-6)
    # A stock may change places with another whose value is equal but for rounding.
    assert np.nanmean(np.abs(honoured.features - adjusted.features) > 1e-5) < 1e-3


def test_the_factor_of_a_day_without_a_bar_is_not_lost(bars: pl.DataFrame) -> None:
    two = bars.filter(pl.col("code").is_in(["S0001", "S0002"])).with_columns(adjustment_factor=1.0)
    mine = (pl.col("code") == "S0001") & (pl.col("date") == day(bars, 50))
    none = [pl.when(mine).then(None).otherwise(name).alias(name) for name in PRICES]
    halved = (pl.col("code") == "S0001") & (pl.col("date") > day(bars, 50))
    raw = two.with_columns(*none, adjustment_factor=pl.when(mine).then(0.5).otherwise(1.0))
    raw = raw.with_columns(pl.when(halved).then(pl.col(name) / 2).otherwise(name).alias(name) for name in PRICES)
    labelled = numbered_labels(raw)[0]
    assert on_grid(labelled, 0.5, 5.0).frame.filter(pl.col("simple").abs() > 0.3).is_empty()


@pytest.mark.parametrize("flag", ["halted", "limit_up", "limit_down"])
def test_a_flag_makes_a_stock_untradable_that_day(flag: str, bars: pl.DataFrame) -> None:
    that = (pl.col("code") == "S0004") & (pl.col("date") == day(bars, 100))
    panel, plain = panel_of(bars.with_columns(that.alias(flag))), panel_of(bars)
    stock = panel.codes.index("S0004")
    changed = np.argwhere(panel.tradable != plain.tradable)
    assert changed.tolist() == [[100, stock]]
    assert panel.has_bar[100, stock]
    assert not panel.can_trade[100, stock]
    assert np.isnan(panel.forward_return[99, stock]).all()  # could not be entered
    assert np.isnan(panel.features[100, stock]).all()


def test_a_label_counts_from_the_day_it_is_known(bars: pl.DataFrame) -> None:
    mine = pl.col("code") == "S0004"
    known = pl.when(mine & (pl.col("date") < day(bars, 70))).then(None)
    known = known.when(mine & (pl.col("date") >= day(bars, 110))).then(pl.lit("new")).otherwise("sector")
    panel = panel_of(bars.with_columns(sector=known))
    names = [panel.sector_names[number] for number in panel.sector[:, panel.codes.index("S0004")]]
    assert set(names[:70]) == {"unknown"}
    assert len(set(names[70:110])) == 1
    assert set(names[110:]) == {"new"}


def test_labels_that_stand_on_the_first_row_alone_hold_on(bars: pl.DataFrame) -> None:
    once = pl.when(pl.col("date") == pl.col("date").min().over("code")).then("sector")
    panel, plain = panel_of(bars.with_columns(sector=once)), panel_of(bars)
    np.testing.assert_array_equal(panel.sector, plain.sector)
    np.testing.assert_array_equal(panel.industry, plain.industry)


def test_volumes_that_begin_later_do_not_change_the_past(bars: pl.DataFrame) -> None:
    late = pl.when(pl.col("date") >= day(bars, 120)).then("volume")
    never, some = (panel_of(bars.with_columns(volume=v)) for v in (pl.lit(None, pl.Float64), late))
    np.testing.assert_array_equal(never.tradable[:120], some.tradable[:120])


def test_an_industry_belongs_to_one_sector(bars: pl.DataFrame) -> None:
    panel = panel_of(bars.with_columns(industry=pl.lit("software")))
    for number in np.unique(panel.industry[panel.industry > 0]):
        assert len(np.unique(panel.sector[panel.industry == number])) == 1
    assert len(panel.industry_names) == len(panel.sector_names)


def test_data_without_volumes_is_ranked_without_them(bars: pl.DataFrame) -> None:
    panel = panel_of(bars.with_columns(volume=pl.lit(None, pl.Float64)))
    assert panel.tradable[100:].mean() > 0.7


def test_money_traded_is_pandas_rolling_mean_of_twenty_days(bars: pl.DataFrame) -> None:
    """Close times volume; a day without a bar is no day without trades, and ten of the twenty are needed."""
    panel = panel_of(bars)
    value = np.full(panel.has_bar.shape, np.nan)
    stock = np.searchsorted(np.array(panel.codes), bars["code"].to_numpy().astype(str))
    value[panel.positions(bars["date"]), stock] = (bars["close"] * bars["volume"]).to_numpy()
    expected = pd.DataFrame(value).rolling(20, min_periods=10).mean()
    np.testing.assert_allclose(panel.money_traded, expected, rtol=1e-5)
    assert np.isnan(panel.money_traded).any()
    assert panel.money_traded.dtype == np.float32


def test_money_traded_is_what_the_vendor_says_where_it_does(bars: pl.DataFrame) -> None:
    plain = panel_of(bars)
    said = panel_of(bars.with_columns(traded_value=2 * pl.col("close") * pl.col("volume")))
    np.testing.assert_allclose(said.money_traded, 2 * plain.money_traded, rtol=1e-5)
