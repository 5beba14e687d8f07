"""The factors are qlib's, and no expression of the feature library knows the future or a price level."""

import math
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from atft.panel import features
from atft.panel.alpha158 import ALPHA158, WINDOWS
from atft.panel.bars import age, unbroken
from atft.panel.features import FAMILIES

Series = NDArray[np.float64]
DAYS = 150
T = 110  # the present, as a day number
LIBRARY = {name: expr for family in FAMILIES.values() for name, expr in family.items()}


def bars_of(seed: int, first: int = 0, last: int = DAYS, gaps: float = 0.0) -> dict[str, Series]:
    """Random bars of one stock between two days, some of them missing."""
    rng = np.random.default_rng(seed)
    close = np.exp(np.cumsum(rng.normal(0, 0.02, DAYS)))
    opening = close * np.exp(rng.normal(0, 0.01, DAYS))
    high = np.maximum(opening, close) * np.exp(rng.exponential(0.005, DAYS))
    low = np.minimum(opening, close) * np.exp(-rng.exponential(0.005, DAYS))
    bars = {"open": opening, "high": high, "low": low, "close": close, "volume": np.exp(rng.normal(12, 0.5, DAYS))}
    bars["vwap"] = (high + low + close) / 3
    day = np.arange(DAYS)
    for values in bars.values():
        values[(day < first) | (day >= last)] = np.nan
    missing = (rng.random(DAYS) < gaps) & (day > first)
    for values in bars.values():
        values[missing] = np.nan
    return bars


def stocks() -> dict[str, dict[str, Series]]:
    """An ordinary stock, one with gaps, one with ties and idle days, and one listed late and gone early."""
    gappy = bars_of(2, gaps=0.1)
    for values in gappy.values():
        values[40:49] = np.nan
    idle = bars_of(3)
    for name in ("open", "high", "low", "close", "vwap"):
        idle[name][:40] = np.round(idle[name][:40], 1)
        idle[name][50:125] = idle["close"][50]
    idle["volume"][[3, 4, 20]] = 0
    idle["volume"][55:122] = 0
    return {"A": bars_of(1), "B": gappy, "C": idle, "D": bars_of(4, first=80, last=141)}


def grid_of(of_stock: dict[str, dict[str, Series]]) -> pl.DataFrame:
    """Rows by (code, date) with the columns that expressions may use."""
    dates = [date(2020, 1, 1) + timedelta(days=day) for day in range(DAYS)]
    parts = []
    for number, (code, bars) in enumerate(of_stock.items()):
        value = bars["close"] * bars["volume"]
        parts.append(pl.DataFrame({"code": code, "date": dates, **bars, "value": value, "number": number}))
    grid = pl.concat(parts).with_columns(pl.col(pl.Float64).fill_nan(None))
    simple = (pl.col("close") / pl.col("close").forward_fill().shift(1) - 1).over("code")
    grid = grid.with_columns(daily_return=simple)
    grid = grid.with_columns(
        path=pl.col("daily_return").fill_null(0.0).log1p().cum_sum().over("code"),
        market=pl.col("daily_return").mean().over("date").fill_null(0.0),
    )
    return features.prepared(counted(grid))


def counted(grid: pl.DataFrame) -> pl.DataFrame:
    """With the counts that reach back to the first bar."""
    row = pl.int_range(pl.len(), dtype=pl.Int64)
    grid = grid.with_columns(age=age().over("code"))
    return grid.with_columns(unbroken=unbroken(row, pl.lit(None, pl.Int64)).over("code"))


def evaluate(grid: pl.DataFrame, library: dict[str, pl.Expr]) -> dict[str, Series]:
    """Each expression over each stock; null is NaN, as nothing else may be."""
    table = grid.select(expr.over("code").cast(pl.Float64).alias(name) for name, expr in library.items())
    assert not any(table.select(pl.all().is_nan().any()).row(0))
    assert not any(table.select(pl.all().is_infinite().any()).row(0))
    return {name: table[name].to_numpy() for name in library}


@pytest.fixture(scope="module")
def grid() -> pl.DataFrame:
    return grid_of(stocks())


@pytest.fixture(scope="module")
def values(grid: pl.DataFrame) -> dict[str, Series]:
    return evaluate(grid, LIBRARY)


# An independent computation: one window after the other, as the formulas are written.


def before(x: Series, days: int = 1) -> Series:
    return np.concatenate([np.full(days, np.nan), x[:-days]])


def rolling(function: Callable[..., float], days: int, *series: Series) -> Series:
    """`function` of the rows present in all series, in each window cut off at the first row."""
    out = np.full(len(series[0]), np.nan)
    for end in range(len(out)):
        window = np.stack(series)[:, max(0, end + 1 - days) : end + 1]
        window = window[:, np.isfinite(window).all(0)]
        if window.shape[1]:
            out[end] = function(*window)
    return out


def deviation(x: Series) -> float:
    return np.std(x, ddof=1) if len(x) > 1 else np.nan


def slope(y: Series, x: Series) -> float:
    return np.polyfit(x - x.mean(), y, 1)[0] if len(x) > 1 else np.nan


def correlation(x: Series, y: Series, x_unit: float) -> float:
    if len(x) < 2 or np.std(x) <= 2e-5 * x_unit or np.std(y) <= 2e-5:
        return np.nan
    return np.corrcoef(x, y)[0, 1]


def share(part: Series, whole: Series) -> Series:
    return np.where(whole == 0, 0.0, part / np.where(whole == 0, 1.0, whole)) + 0 * part


def percentile(x: Series) -> float:
    return ((x < x[-1]).sum() + ((x == x[-1]).sum() + 1) / 2) / len(x)


def first_extreme(x: Series, days: int, find: Callable[[Series], np.intp]) -> Series:
    out = np.full(len(x), np.nan)
    for end in range(len(x)):
        window = x[max(0, end + 1 - days) : end + 1]
        if np.isfinite(window).any():
            out[end] = find(window) + 1
    return out


def alpha158_of(bars: dict[str, Series]) -> dict[str, Series]:
    """The published formulas for one stock from its first bar on."""
    o, h, l, c, v = (bars[name] for name in ("open", "high", "low", "close", "volume"))  # noqa: E741
    top, bottom, size = np.maximum(o, c), np.minimum(o, c), h - l
    row = np.arange(len(c), dtype=float)
    traded = np.where(v > 0, v, np.nan)
    out = {
        "KMID": (c - o) / o, "KLEN": size / o, "KMID2": share(c - o, size), "KUP": (h - top) / o,
        "KUP2": share(h - top, size), "KLOW": (bottom - l) / o, "KLOW2": share(bottom - l, size),
        "KSFT": (2 * c - h - l) / o, "KSFT2": share(2 * c - h - l, size),
        "OPEN0": o / c, "HIGH0": h / c, "LOW0": l / c, "VWAP0": bars["vwap"] / c,
    }  # fmt: skip
    change, volume_change = c - before(c), v - before(v)
    growth, volume_growth = c / before(c), np.log(v / np.where(before(v) > 0, before(v), np.nan) + 1)
    move = np.abs(growth - 1) * v
    for d in WINDOWS:
        lowest, highest = rolling(np.min, d, l), rolling(np.max, d, h)
        line = rolling(slope, d, c, row)
        middle = rolling(lambda _, x: x.mean(), d, c, row)
        high_at, low_at = first_extreme(h, d, np.nanargmax), first_extreme(l, d, np.nanargmin)
        up, down = (change > 0).astype(float), (change < 0).astype(float)
        gain, loss = rolling(np.sum, d, np.maximum(change, 0)), rolling(np.sum, d, np.maximum(-change, 0))
        more = rolling(np.sum, d, np.maximum(volume_change, 0))
        less = rolling(np.sum, d, np.maximum(-volume_change, 0))
        out |= {
            f"ROC{d}": before(c, d) / c, f"MA{d}": rolling(np.mean, d, c) / c, f"STD{d}": rolling(deviation, d, c) / c,
            f"BETA{d}": line / c,
            f"RSQR{d}": rolling(lambda y, x: correlation(y, x, y.mean()) ** 2, d, c, row),
            f"RESI{d}": (c - rolling(np.mean, d, c) - line * (row - middle)) / c,
            f"MAX{d}": highest / c, f"MIN{d}": lowest / c,
            f"QTLU{d}": rolling(lambda x: np.quantile(x, 0.8), d, c) / c,
            f"QTLD{d}": rolling(lambda x: np.quantile(x, 0.2), d, c) / c,
            f"RANK{d}": rolling(percentile, d, c) + 0 * c,
            f"RSV{d}": share(c - lowest, highest - lowest),
            f"IMAX{d}": high_at / d, f"IMIN{d}": low_at / d, f"IMXD{d}": (high_at - low_at) / d,
            f"CORR{d}": rolling(lambda x, y: correlation(x, y, x.mean()), d, c, np.log(traded)),
            f"CORD{d}": rolling(lambda x, y: correlation(x, y, 1.0), d, growth, volume_growth),
            f"CNTP{d}": rolling(np.mean, d, up), f"CNTN{d}": rolling(np.mean, d, down),
            f"CNTD{d}": rolling(np.mean, d, up) - rolling(np.mean, d, down),
            f"SUMP{d}": share(gain, gain + loss), f"SUMN{d}": share(loss, gain + loss),
            f"SUMD{d}": share(gain - loss, gain + loss),
            f"VMA{d}": rolling(np.mean, d, v) / traded, f"VSTD{d}": rolling(deviation, d, v) / traded,
            f"WVMA{d}": share(rolling(deviation, d, move), rolling(np.mean, d, move)),
            f"VSUMP{d}": share(more, more + less), f"VSUMN{d}": share(less, more + less),
            f"VSUMD{d}": share(more - less, more + less),
        }  # fmt: skip
    return out


def test_every_factor_equals_its_published_formula(values: dict[str, Series]) -> None:
    with np.errstate(invalid="ignore"):
        for number, bars in enumerate(stocks().values()):
            first = int(np.argmax(np.isfinite(bars["close"])))
            expected = alpha158_of({name: series[first:] for name, series in bars.items()})
            assert set(expected) == set(ALPHA158)
            for name, series in expected.items():
                mine = values[name][number * DAYS : (number + 1) * DAYS]
                assert np.isnan(mine[:first]).all(), name
                np.testing.assert_allclose(mine[first:], series, rtol=1e-6, atol=1e-9, err_msg=f"{name} of {number}")


def test_there_are_158_factors() -> None:
    assert len(ALPHA158) == 158


def test_no_name_stands_in_two_families() -> None:
    assert len(LIBRARY) == sum(len(family) for family in FAMILIES.values())
    assert set(features.RELATIVE) <= set(LIBRARY)


@pytest.mark.parametrize("later", ["other values", "no bars", "no rows"])
def test_later_rows_change_no_earlier_bit(grid: pl.DataFrame, values: dict[str, Series], later: str) -> None:
    past = np.tile(np.arange(DAYS) <= T, 4)
    future = pl.col("day") > T + 1
    noise = pl.Series(np.exp(np.random.default_rng(7).normal(0, 1, len(grid))))
    if later == "no rows":
        changed, kept = grid.filter(~future), np.ones(4 * (T + 1), bool)
    else:
        never_null = ("path", "market") if later == "no bars" else grid.columns
        columns = [name for name in grid.columns if grid[name].dtype == pl.Float64 and name != "day"]
        other = {name: pl.col(name) * noise if name in never_null else pl.lit(None, pl.Float64) for name in columns}
        changed = grid.with_columns(pl.when(future).then(other[name]).otherwise(name).alias(name) for name in columns)
        kept = past
    for name, column in evaluate(changed, LIBRARY).items():
        assert np.array_equal(column[kept], values[name][past], equal_nan=True), name


def test_a_look_ahead_is_caught(grid: pl.DataFrame) -> None:
    leak = {"leak": pl.col("close").shift(-1) / pl.col("close")}
    short = evaluate(grid.filter(pl.col("day") <= T + 1), leak)["leak"]
    whole = evaluate(grid, leak)["leak"][np.tile(np.arange(DAYS) <= T, 4)]
    assert not np.array_equal(short, whole, equal_nan=True)


def test_no_expression_knows_a_price_level(grid: pl.DataFrame, values: dict[str, Series]) -> None:
    prices = [pl.col(name) * 7 for name in ("open", "high", "low", "close", "vwap")]
    scaled = features.prepared(grid.with_columns(*prices, volume=pl.col("volume") / 7))
    for name, column in evaluate(scaled, LIBRARY).items():
        np.testing.assert_allclose(column, values[name], rtol=1e-6, atol=1e-9, err_msg=name)


def test_another_stock_in_the_frame_changes_no_bit(grid: pl.DataFrame, values: dict[str, Series]) -> None:
    alone = evaluate(grid.filter(pl.col("code") == "B"), LIBRARY)
    for name, column in alone.items():
        assert np.array_equal(column, values[name][DAYS : 2 * DAYS], equal_nan=True), name


# Hand-made cases.


def one(expr: pl.Expr, **columns: list[float | None]) -> list[float | None]:
    return pl.DataFrame(columns).select(expr.alias("x"))["x"].to_list()


MARKET = [0.01, -0.02, 0.03, -0.01, 0.02, -0.03]


def test_betas_of_a_stock_that_doubles_the_market() -> None:
    r = [2 * m for m in MARKET]
    assert one(features.market_beta(4), r=r, market=MARKET)[-1] == pytest.approx(2)
    assert one(features.market_r_squared(4), r=r, market=MARKET)[-1] == pytest.approx(1)
    only_down = [2 * m if m < 0 else 0.0 for m in MARKET]
    assert one(features.downside_beta(6), r=only_down, market=MARKET)[-1] == pytest.approx(2)


def test_a_beta_looks_at_the_stock_s_own_days() -> None:
    r = [0.02, None, 0.06, -0.02, None, -0.06]
    assert one(features.market_beta(6), r=r, market=MARKET)[-1] == pytest.approx(2)


def test_what_the_market_does_not_explain_is_the_residual() -> None:
    path = np.cumsum(np.log1p(MARKET)) + 0.004 * np.arange(6)
    r = np.diff(path, prepend=path[0] - np.log1p(MARKET[0]))
    columns = {"path": path.tolist(), "r": r.tolist(), "market": np.log1p(MARKET).tolist()}
    beta = one(features.market_beta(6), **columns)[-1]
    market = sum(np.log1p(columns["market"][-2:]))
    assert one(features.residual_momentum(2, 6), **columns)[-1] == pytest.approx(path[-1] - path[-3] - beta * market)
    skipped = one(features.residual_momentum(2, 6, skip=1), **columns)[-1]
    assert skipped == pytest.approx(path[-2] - path[-4] - beta * sum(np.log1p(columns["market"][-3:-1])))


def test_idiosyncratic_volatility_is_that_of_the_regression_s_residuals() -> None:
    r = [0.03, -0.03, 0.02, 0.01, 0.0, -0.05]
    fit = np.polyfit(MARKET, r, 1)
    left = np.log(np.std(np.array(r) - np.polyval(fit, MARKET)))
    assert one(features.idiosyncratic_volatility(6), r=r, market=MARKET)[-1] == pytest.approx(left)


def test_money_traded() -> None:
    assert one(features.value_shock(2), value=[1.0, math.e, math.e, 0.0, math.e])[2] == pytest.approx(0.5)
    assert one(features.value_shock(2), value=[1.0, 1.0, 0.0])[-1] is None
    assert one(features.illiquidity(2), r=[0.1, 0.1, 0.2], value=[1.0, 0.0, 2.0])[-1] == pytest.approx(math.log(0.1))
    assert one(features.dollar_volume(2), value=[1.0, 10.0, 30.0])[-1] == pytest.approx(math.log(20))


def test_untraded_days_count_from_the_first_bar() -> None:
    shares = one(features.untraded_share(4), age=[0, 1, 2, 3, 4], volume=[None, 5.0, 0.0, None, 5.0])
    assert shares == [None, None, 0.5, pytest.approx(2 / 3), 0.5]


def test_accumulation_weighs_close_locations_by_volume() -> None:
    columns = {"high": [2.0] * 3, "low": [1.0] * 3, "close": [2.0, 1.0, 1.5], "volume": [3.0, 1.0, 4.0]}
    assert one(features.accumulation(3), **columns)[-1] == pytest.approx((3 - 1 + 0) / 8)
    assert one(features.accumulation(3), **columns | {"volume": [0.0] * 3})[-1] is None


def test_the_high_low_spread_of_prices_that_only_bounce_is_the_spread() -> None:
    """Every day trades at bid and ask and nothing moves: the range of two days is that of one."""
    columns = {"high": [1.01] * 6, "low": [0.99] * 6, "close": [1.0] * 6}
    assert one(features.high_low_spread(4), **columns)[-1] == pytest.approx(0.02, rel=1e-3)


def test_a_jump_overnight_is_no_spread() -> None:
    level = np.array([1.0, 2.0, 4.0, 8.0])
    columns = {"high": (level * 1.01).tolist(), "low": (level * 0.99).tolist(), "close": level.tolist()}
    assert 0 <= one(features.high_low_spread(2), **columns)[-1] < 0.02


def test_the_calendar() -> None:
    days = pl.DataFrame({"date": [date(2024, 1, 1), date(2024, 1, 5), date(2024, 2, 15)]})  # Monday, Friday, Thursday
    sines = days.select(week=features.weekday_angle().sin(), month=features.month_angle().sin())
    assert sines["week"].to_list() == pytest.approx([0, math.sin(8 * math.pi / 5), math.sin(6 * math.pi / 5)])
    assert sines["month"].to_list() == pytest.approx([0, math.sin(8 * math.pi / 31), math.sin(28 * math.pi / 29)])


def test_age_and_unbroken_days_count_calendar_days() -> None:
    rows = counted(pl.DataFrame({"code": "A", "close": [None, 1.0, 1.0, None, 1.0, 1.0]}))
    age, unbroken = (rows.select(x=expr)["x"] for expr in (features.listing_age(), features.unbroken_days()))
    assert [None if x is None else round(math.exp(x)) for x in age] == [None, 1, 2, 3, 4, 5]
    assert [None if x is None else round(math.expm1(x)) for x in unbroken] == [None, 0, 1, 0, 1, 2]
