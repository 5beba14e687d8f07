"""Bars on a full date x stock grid, with returns nobody can dispute, and who could be traded when."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

TYPICAL_DAYS = 20  # trading days behind a stock's typical money traded
BELIEVABLE = 3.0  # factor of a day's price change that no crowd explains: a reverse split with its merger
ANCHOR = 750  # days between two places where rolling expressions start afresh, about three years
REACH = 260  # days before such a place that they need: more than the longest window of `panel.features`


@dataclass(frozen=True)
class Grid:
    """Every stock on every date.

    Attributes:
        frame: Rows sorted by (code, date), one per pair.
        dates: [T] ascending.
        codes: [N] ascending.
        start: Number of the first of the dates on the calendar: 0, unless earlier days were left out.
        first: Number of the first day whose features are wanted; those before serve its windows.
        warm: Days that the windows of `windows` start before their first day, at least `REACH`.
        earlier: `date, market, dispersion` of the days before `first`, see `features.market_days`; None from day 0 on.
    """

    frame: pl.DataFrame
    dates: NDArray[np.datetime64]
    codes: list[str]
    start: int = 0
    first: int = 0
    warm: int = REACH
    earlier: pl.DataFrame | None = None

    @property
    def end(self) -> int:
        """Number of the day after the last one."""
        return self.start + len(self.dates)

    def dense(self, column: str) -> NDArray[Any]:
        """The column as [date, stock]; null is NaN."""
        return self.frame[column].to_numpy().reshape(len(self.codes), len(self.dates)).T

    def with_columns(self, **columns: pl.Expr) -> "Grid":
        """The grid with more columns."""
        return replace(self, frame=self.frame.with_columns(**columns))

    def stocks(self, start: int, end: int) -> pl.DataFrame:
        """Rows of stocks start .. end - 1."""
        return self.frame.slice(start * len(self.dates), (end - start) * len(self.dates))

    def wanted(self) -> "Grid":
        """The days from `first` on alone."""
        frame, dates = self.days(self.frame, self.first, self.end), self.dates[self.first - self.start :]
        return replace(self, frame=frame, dates=dates, start=self.first)

    def days(self, rows: pl.DataFrame, begin: int, end: int) -> pl.DataFrame:
        """Of the rows of whole stocks those of days begin .. end - 1."""
        if (begin, end) == (self.start, self.end):
            return rows
        day = pl.int_range(pl.len()) % len(self.dates) + self.start
        return rows.filter(day.is_between(begin, end, closed="left"))


def windows(first: int, end: int, warm: int) -> Iterator[tuple[int, int, int]]:
    """(begin, first, end) of stretches of days: rolling expressions see begin .. end - 1 and give first .. end - 1.

    Rolling sums carry the rounding of values that have left their window, so that last bits depend on where they
    started. They start `warm` days before every `ANCHOR`-th day of the calendar: whoever appends days
    goes back to the same place as whoever builds the whole, and finds the same bits.
    """
    for anchor in range(first // ANCHOR * ANCHOR, end, ANCHOR):
        yield max(anchor - warm, 0), max(anchor, first), min(anchor + ANCHOR, end)


def anchored(
    grid: Grid, value: pl.Expr, prepare: Callable[[pl.DataFrame], pl.DataFrame] = lambda rows: rows
) -> NDArray[np.float64]:
    """A rolling expression over each stock, for the days from `grid.first` on. [stock, day], null is NaN"""
    parts = []
    for begin, first, end in windows(grid.first, grid.end, grid.warm):
        rows = prepare(grid.days(grid.frame, begin, end)).select(value.over("code").cast(pl.Float64))
        parts.append(rows.to_series().to_numpy().reshape(len(grid.codes), end - begin)[:, first - begin :])
    return np.concatenate(parts, axis=1)


SEEDS = {
    "factor": pl.Float64, "adjusted": pl.Float64, "typical": pl.Float64, "path": pl.Float64,
    "terminal_return": pl.Float64, "bars": pl.Int64, "age": pl.Int64, "unbroken": pl.Int64,
    "sector": pl.Int16, "industry": pl.Int16,
}  # fmt: skip


def seeds_of(grid: Grid) -> pl.DataFrame:
    """`code` and `SEEDS` as of the grid's last day: what later days know of all earlier ones."""
    last = grid.frame.filter(pl.int_range(pl.len()) % len(grid.dates) == len(grid.dates) - 1)
    return last.select("code", *(pl.col(name).cast(kind) for name, kind in SEEDS.items()))


def age() -> pl.Expr:
    """Calendar days since the stock's first bar, which is 1; 0 before."""
    return pl.col("close").is_not_null().cum_max().cum_sum().cast(pl.Int64)


def unbroken(row: pl.Expr, before: pl.Expr) -> pl.Expr:
    """Calendar days since the last one without a bar; since the first bar where none was missing; 0 before it.

    Rows below 0 do not count; `before` is what stood on the row before row 0, null where nothing did.
    """
    broken = (row >= 0) & (pl.col("close").is_null() | (pl.col("age") == 1))
    since = row - pl.when(broken).then(row).forward_fill()
    return pl.when(pl.col("age") > 0).then(since.fill_null(before + row + 1)).otherwise(0)


def on_grid(
    bars: pl.DataFrame, max_daily_return: float, news_volume: float, before: pl.DataFrame | None = None, quiet: int = 0
) -> Grid:
    """Bars with numbered labels on one row per (stock, date), null where the stock printed no bar.

    A stock that skips days gets its whole return on the day it is back. A price that changes by
    more than the factor 1 + `max_daily_return` in a day, up or down, is nearly always a missed split,
    unless the crowd was there: it is believed when at least `news_volume` times the stock's typical
    money was traded (median of the 20 days before) and the factor is below 3; otherwise it is dropped
    (`error`), not traded.

    Prices are cleaned causally, from the first bar on: adjustment factors and dropped jumps are taken
    out of all later prices and put into the volume, so that no row depends on what follows.

    Args:
        bars: As `numbered_labels` makes them.
        max_daily_return, news_volume: As above.
        before: `seeds_of` the day before the first bar, to go on from there; None at the beginning.
        quiet: With `before`, the number of first dates that only tell the money traded before the
            first day that counts.

    Returns:
        Columns `date`, `code`; clean `open, high, low, close, vwap` (level 1 at the first bar: only
        ratios mean anything) and `volume` (price x volume is money); `value`, money traded;
        `printed`, the close as it came; `has_bar`; `can_trade` (bar, no halt, not locked at a limit);
        `listed` (between first and last bar); `simple`, the return as printed; `daily_return` (simple,
        null without bar or on error; on the day after a delisted stock's last bar, its terminal
        return); `terminal`; `large` (beyond the threshold) and `error`; `times_typical` (money traded
        over the typical); `path` (log of the growth of 1, errors skipped, null before the first bar);
        `sector`, `industry` numbers, 0 unknown; `age`, `unbroken`; `bars`, the number printed so far; and what
        `seeds_of` needs beside: `factor`, the growth of the adjustment factor, `adjusted` the last close over
        it, `typical` the last typical money, `terminal_return`.
    """
    seed = {name: pl.lit(None, kind) if before is None else pl.col(f"{name}_before") for name, kind in SEEDS.items()}
    row = pl.int_range(pl.len(), dtype=pl.Int64).over("code") - quiet
    rows = _counted(_placed(bars, before), row, seed, quiet)
    rows = _judged(_returns(rows, row, seed), 1 + max_daily_return, news_volume)
    rows = _cleaned(rows, row, seed)
    spent = ("adjustment_factor", "traded_value", "halted", "limit_up", "limit_down")
    dates = rows["date"].unique().sort().to_numpy().astype("datetime64[D]")
    return Grid(rows.drop(*spent, "^.*_before$"), dates, rows["code"].unique().sort().to_list())


def _placed(bars: pl.DataFrame, before: pl.DataFrame | None) -> pl.DataFrame:
    """One row per (stock, date); beside it what the stock's earlier days left, as NAME_before."""
    codes = bars.select("code") if before is None else pl.concat([bars.select("code"), before.select("code")])
    rows = bars.select("date").unique().join(codes.unique(), how="cross")
    rows = rows.join(bars, on=["date", "code"], how="left")
    if before is not None:
        rows = rows.join(before.rename({name: f"{name}_before" for name in SEEDS}), on="code", how="left")
    return rows.sort("code", "date")


def _counted(rows: pl.DataFrame, row: pl.Expr, seed: dict[str, pl.Expr], quiet: int) -> pl.DataFrame:
    """With what only counts and carries on: bars, days, labels, the adjustment factor, money."""
    old = seed["age"].fill_null(0) > 0
    step = pl.col("adjustment_factor").fill_null(1.0)
    factor = pl.when(row == 0).then(seed["factor"].fill_null(1.0) * step).otherwise(step).cum_prod()
    rows = rows.with_columns(
        has_bar=pl.col("close").is_not_null(),
        factor=factor.over("code"),
        value=pl.col("traded_value").fill_null(pl.col("close") * pl.col("volume")),
        printed=pl.col("close"),
        sector=pl.col("sector").forward_fill().over("code").fill_null(seed["sector"]).fill_null(0),
        industry=pl.col("industry").forward_fill().over("code").fill_null(seed["industry"]).fill_null(0),
        bars=pl.col("close").is_not_null().cast(pl.Int64).cum_sum().over("code") + seed["bars"].fill_null(0),
        age=pl.when(old).then(seed["age"] + row + 1).otherwise(age().over("code")),
        terminal=pl.col("terminal_return").shift(1).over("code"),
    )
    since = unbroken(pl.int_range(pl.len(), dtype=pl.Int64) - quiet, seed["unbroken"])
    return rows.with_columns(unbroken=since.over("code"), adjusted=pl.col("close") / pl.col("factor"))


def _returns(rows: pl.DataFrame, row: pl.Expr, seed: dict[str, pl.Expr]) -> pl.DataFrame:
    """With each bar's return since the one before, as printed, and how unusual its money was."""
    locked = pl.any_horizontal(pl.col("halted", "limit_up", "limit_down").fill_null(value=False))
    usual = pl.col("value").shift(1).rolling_median(TYPICAL_DAYS, min_samples=5)
    typical = pl.when((usual > 0) & (row >= 0)).then(usual).forward_fill()
    adjusted = pl.col("adjusted").forward_fill().fill_null(seed["adjusted"])
    rows = rows.with_columns(
        can_trade=pl.col("has_bar") & ~locked,
        listed=pl.col("close").forward_fill().is_not_null().over("code")
        & pl.col("close").backward_fill().is_not_null().over("code"),
        simple=(pl.col("adjusted") / adjusted.shift(1).fill_null(seed["adjusted"]) - 1).over("code"),
        typical=typical.fill_null(seed["typical"]).over("code"),
    )
    return rows.with_columns(adjusted=adjusted.over("code"), times_typical=pl.col("value") / pl.col("typical"))


def _judged(rows: pl.DataFrame, most: float, news_volume: float) -> pl.DataFrame:
    """With the returns that are believed; `most` is the factor beyond which one must be news."""
    large = (pl.col("simple") > most - 1) | (pl.col("simple") < 1 / most - 1)
    news = (pl.col("times_typical") >= news_volume) & pl.col("simple").is_between(1 / BELIEVABLE - 1, BELIEVABLE - 1)
    rows = rows.with_columns(large=large.fill_null(value=False))
    rows = rows.with_columns(error=pl.col("large") & ~news.fill_null(value=False))
    kept = pl.when(~pl.col("error")).then(pl.col("simple"))
    return rows.with_columns(daily_return=kept.fill_null(pl.col("terminal")))


def _cleaned(rows: pl.DataFrame, row: pl.Expr, seed: dict[str, pl.Expr]) -> pl.DataFrame:
    """With prices that move by the believed returns alone, and the volume that keeps the money."""
    growth = pl.col("daily_return").clip(lower_bound=-0.9999).log1p().fill_null(0.0)
    growth = pl.when(row == 0).then(seed["path"].fill_null(0.0) + growth).otherwise(growth).cum_sum()
    rows = rows.with_columns(path=pl.when(pl.col("age") > 0).then(growth).over("code"))
    scale = pl.col("path").exp() / pl.col("close")
    middle = pl.mean_horizontal("high", "low", "close", ignore_nulls=False)
    average = pl.when(pl.col("volume") > 0).then(pl.col("traded_value") / pl.col("volume")).fill_null(middle)
    return rows.with_columns(
        *(pl.col(name) * scale for name in ("open", "high", "low", "close")),
        vwap=average * scale,
        volume=pl.col("volume") / scale,
    )


def money_traded() -> pl.Expr:
    """Mean money traded a day over the last 20 days, null below 10 of them; to be taken over the code."""
    return pl.col("value").rolling_mean(20, min_samples=10)


def tradable(min_history: int, min_dollar_volume: float, volume_from: date | None) -> pl.Expr:
    """Whether a stock could be ranked at the close of the date, from what was known by then; of columns `on_grid` and
    `money` (`money_traded` over the code).

    It printed a bar that could be traded, with volume and a believable return, has `min_history`
    bars behind it, and its mean money traded of the last 20 days is high enough. No price limit: an
    adjusted price level knows the splits to come. Before `volume_from`, the first date with a
    volume, there is nothing to know about them.
    """
    traded = ((pl.col("volume") > 0) & (pl.col("money") >= min_dollar_volume)).fill_null(value=False)
    too_early = pl.lit(value=True) if volume_from is None else pl.col("date") < volume_from
    return (pl.col("can_trade") & ~pl.col("error") & (pl.col("bars") >= min_history) & (traded | too_early)).fill_null(
        value=False
    )


def last_labels(bars: pl.DataFrame) -> pl.DataFrame:
    """`code, sector, industry` of each stock as last known, null where never."""
    return (
        bars.sort("code", "date")
        .group_by("code", maintain_order=True)
        .agg(pl.col("sector", "industry").drop_nulls().last())
    )


def numbered_labels(
    bars: pl.DataFrame, known_sectors: Sequence[str] = ("unknown",), known_industries: Sequence[str] = ("unknown",)
) -> tuple[pl.DataFrame, list[str], list[str]]:
    """The bars with `sector` and `industry` as numbers, and what these stand for; 0 is unknown.

    An industry is one of a sector: "Software" of two sectors counts as two. Numbers follow the
    first appearance, so that later labels cannot renumber earlier ones; those already known stay.
    """
    bars = bars.sort("code", "date").with_columns(pl.col("sector", "industry").forward_fill().over("code"))
    sector = pl.col("sector")
    nested = pl.when(pl.col("industry").is_not_null()).then(pl.format("{}/{}", sector.fill_null("unknown"), "industry"))
    bars = bars.with_columns(industry=nested)
    names = {}
    for column, old in (("sector", known_sectors), ("industry", known_industries)):
        found = bars.filter(pl.col(column).is_not_null()).sort("date", "code")[column].unique(maintain_order=True)
        known = [*old[1:], *(label for label in found.to_list() if label not in old[1:])]
        names[column] = ["unknown", *known]
        number = pl.Series(np.arange(1, len(known) + 1, dtype=np.int16))
        known = pl.Series(known, dtype=pl.String)
        bars = bars.with_columns(pl.col(column).replace_strict(known, number, default=None, return_dtype=pl.Int16))
    return bars, names["sector"], names["industry"]
