"""Bars on a full date x stock grid, with returns nobody can dispute, and who could be traded when."""

from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

TYPICAL_DAYS = 20  # trading days behind a stock's typical money traded
BELIEVABLE = 3.0  # factor of a day's price change that no crowd explains: a reverse split with its merger


@dataclass(frozen=True)
class Grid:
    """Every stock on every date.

    Attributes:
        frame: Rows sorted by (code, date), one per pair.
        dates: [T] ascending.
        codes: [N] ascending.
    """

    frame: pl.DataFrame
    dates: NDArray[np.datetime64]
    codes: list[str]

    def dense(self, column: str) -> NDArray[Any]:
        """The column as [date, stock]; null is NaN."""
        return self.frame[column].to_numpy().reshape(len(self.codes), len(self.dates)).T

    def with_columns(self, **columns: pl.Expr) -> "Grid":
        """The grid with more columns."""
        return replace(self, frame=self.frame.with_columns(**columns))

    def stocks(self, start: int, end: int) -> pl.DataFrame:
        """Rows of stocks start .. end - 1."""
        return self.frame.slice(start * len(self.dates), (end - start) * len(self.dates))


def on_grid(bars: pl.DataFrame, max_daily_return: float, news_volume: float) -> Grid:
    """Bars with numbered labels on one row per (stock, date), null where the stock printed no bar.

    A stock that skips days gets its whole return on the day it is back. A price that changes by
    more than the factor 1 + `max_daily_return` in a day, up or down, is nearly always a missed split,
    unless the crowd was there: it is believed when at least `news_volume` times the stock's typical
    money was traded (median of the 20 days before) and the factor is below 3; otherwise it is dropped
    (`error`), not traded.

    Prices are cleaned causally, from the first bar on: adjustment factors and dropped jumps are taken
    out of all later prices and put into the volume, so that no row depends on what follows.

    Returns:
        Columns `date`, `code`; clean `open, high, low, close, vwap` (level 1 at the first bar: only
        ratios mean anything) and `volume` (price x volume is money); `value`, money traded;
        `printed`, the close as it came; `has_bar`; `can_trade` (bar, no halt, not locked at a limit);
        `listed` (between first and last bar); `simple`, the return as printed; `daily_return` (simple,
        null without bar or on error; on the day after a delisted stock's last bar, its terminal
        return); `terminal`; `large` (beyond the threshold) and `error`; `times_typical` (money traded
        over the typical); `path` (log of the growth of 1, errors skipped, null before the first bar);
        `sector`, `industry` numbers, 0 unknown.
    """
    grid = bars.select("date").unique().join(bars.select("code").unique(), how="cross")
    grid = grid.join(bars, on=["date", "code"], how="left").sort("code", "date")
    factor = pl.col("adjustment_factor").fill_null(1.0).cum_prod()
    money = pl.col("traded_value").fill_null(pl.col("close") * pl.col("volume"))
    grid = grid.with_columns(
        has_bar=pl.col("close").is_not_null(),
        adjusted=(pl.col("close") / factor).over("code"),
        value=money,
        printed=pl.col("close"),
        sector=pl.col("sector").forward_fill().over("code").fill_null(0),
        industry=pl.col("industry").forward_fill().over("code").fill_null(0),
    )
    locked = pl.any_horizontal(pl.col("halted", "limit_up", "limit_down").fill_null(value=False))
    typical = pl.col("value").shift(1).rolling_median(TYPICAL_DAYS, min_samples=5)
    grid = grid.with_columns(
        can_trade=pl.col("has_bar") & ~locked,
        listed=pl.col("close").forward_fill().is_not_null().over("code")
        & pl.col("close").backward_fill().is_not_null().over("code"),
        simple=(pl.col("adjusted") / pl.col("adjusted").forward_fill().shift(1) - 1).over("code"),
        times_typical=(pl.col("value") / pl.when(typical > 0).then(typical).forward_fill()).over("code"),
        terminal=pl.col("terminal_return").shift(1).over("code"),
    )
    most = 1 + max_daily_return
    large = (pl.col("simple") > most - 1) | (pl.col("simple") < 1 / most - 1)
    grid = grid.with_columns(large=large.fill_null(value=False))
    news = (pl.col("times_typical") >= news_volume) & pl.col("simple").is_between(1 / BELIEVABLE - 1, BELIEVABLE - 1)
    grid = grid.with_columns(error=pl.col("large") & ~news.fill_null(value=False))
    kept = pl.when(~pl.col("error")).then(pl.col("simple"))
    grid = grid.with_columns(daily_return=kept.fill_null(pl.col("terminal")))
    growth = pl.col("daily_return").clip(lower_bound=-0.9999).log1p().fill_null(0.0).cum_sum()
    grid = grid.with_columns(path=pl.when(pl.col("close").forward_fill().is_not_null()).then(growth).over("code"))
    scale = pl.col("path").exp() / pl.col("close")
    typical_price = pl.mean_horizontal("high", "low", "close", ignore_nulls=False)
    average = pl.when(pl.col("volume") > 0).then(pl.col("traded_value") / pl.col("volume")).fill_null(typical_price)
    grid = grid.with_columns(
        *(pl.col(name) * scale for name in ("open", "high", "low", "close")),
        vwap=average * scale,
        volume=pl.col("volume") / scale,
    )
    spent = ("adjusted", "adjustment_factor", "traded_value", "terminal_return", "halted", "limit_up", "limit_down")
    dates = grid["date"].unique().sort().to_numpy().astype("datetime64[D]")
    return Grid(grid.drop(spent), dates, grid["code"].unique().sort().to_list())


def money_traded() -> pl.Expr:
    """Mean money traded a day over the last 20 days, null below 10 of them; to be taken over the code."""
    return pl.col("value").rolling_mean(20, min_samples=10)


def tradable(min_history: int, min_dollar_volume: float, volume_from: date | None) -> pl.Expr:
    """Whether a stock could be ranked at the close of the date, from what was known by then.

    It printed a bar that could be traded, with volume and a believable return, has `min_history`
    bars behind it, and its mean money traded of the last 20 days is high enough. No price limit: an
    adjusted price level knows the splits to come. Before `volume_from`, the first date with a
    volume, there is nothing to know about them.
    """
    traded = ((pl.col("volume") > 0) & (money_traded() >= min_dollar_volume)).fill_null(value=False)
    too_early = pl.lit(value=True) if volume_from is None else pl.col("date") < volume_from
    return (
        pl.col("can_trade")
        & ~pl.col("error")
        & (pl.col("has_bar").cast(pl.Int32).cum_sum() >= min_history)
        & (traded | too_early)
    ).over("code").fill_null(value=False)  # fmt: skip


def numbered_labels(bars: pl.DataFrame) -> tuple[pl.DataFrame, list[str], list[str]]:
    """The bars with `sector` and `industry` as numbers, and what these stand for; 0 is unknown.

    An industry is one of a sector: "Software" of two sectors counts as two. Numbers follow the
    first appearance, so that later labels cannot renumber earlier ones.
    """
    bars = bars.sort("code", "date").with_columns(pl.col("sector", "industry").forward_fill().over("code"))
    sector = pl.col("sector")
    nested = pl.when(pl.col("industry").is_not_null()).then(pl.format("{}/{}", sector.fill_null("unknown"), "industry"))
    bars = bars.with_columns(industry=nested)
    names = {}
    for column in ("sector", "industry"):
        known = bars.filter(pl.col(column).is_not_null()).sort("date", "code")[column].unique(maintain_order=True)
        names[column] = ["unknown", *known.to_list()]
        number = pl.Series(np.arange(1, len(known) + 1, dtype=np.int16))
        bars = bars.with_columns(pl.col(column).replace_strict(known, number, default=None, return_dtype=pl.Int16))
    return bars, names["sector"], names["industry"]
