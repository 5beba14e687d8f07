"""Bars on a full date x stock grid, with returns nobody can dispute, and who could be traded when."""

import polars as pl


def on_grid(bars: pl.DataFrame, max_daily_return: float) -> pl.DataFrame:
    """One row per (stock, date) of the calendar, null where the stock printed no bar.

    A stock that skips days gets its whole return on the day it is back. A one-day return beyond
    `max_daily_return` is nearly always a missed split: it is dropped (`error`), not traded.

    Returns:
        Sorted by (code, date): the bars; `has_bar`; `listed` (between its first and last bar);
        `daily_return` (simple, null without bar or on error; on the day after a delisted stock's
        last bar, its terminal return); `error`; `path` (log of the growth of 1, errors skipped).
    """
    calendar = bars.select("date").unique()
    grid = calendar.join(stock_labels(bars), how="cross")
    grid = grid.join(bars.drop("sector", "industry"), on=["date", "code"], how="left").sort("code", "date")
    filled = pl.col("close").forward_fill()
    simple = pl.col("close") / filled.shift(1) - 1
    grid = grid.with_columns(
        has_bar=pl.col("close").is_not_null(),
        listed=filled.is_not_null().over("code") & pl.col("close").backward_fill().is_not_null().over("code"),
        error=(simple.abs() > max_daily_return).fill_null(value=False).over("code"),
        simple=simple.over("code"),
        terminal=pl.col("terminal_return").shift(1).over("code"),
    )
    grid = grid.with_columns(
        daily_return=pl.when(~pl.col("error")).then(pl.col("simple")).otherwise(None).fill_null(pl.col("terminal"))
    )
    path = pl.col("daily_return").clip(lower_bound=-0.9999).log1p().fill_null(0.0).cum_sum().over("code")
    return grid.with_columns(path=path).drop("simple", "terminal")


def tradable(min_history: int, min_dollar_volume: float) -> pl.Expr:
    """Whether a stock could be ranked at the close of the date, from what was known by then.

    It printed a bar with volume and a believable return, has `min_history` bars behind it, and
    its mean dollar volume of the last 20 days is high enough. No price limit: an adjusted price
    level knows the splits to come.
    """
    dollars = (pl.col("close") * pl.col("volume")).rolling_mean(20, min_samples=10)
    return (
        pl.col("has_bar")
        & (pl.col("volume") > 0)
        & ~pl.col("error")
        & (pl.col("has_bar").cast(pl.Int32).cum_sum() >= min_history)
        & (dollars >= min_dollar_volume).fill_null(value=False)
    ).over("code").fill_null(value=False)  # fmt: skip


def stock_labels(bars: pl.DataFrame) -> pl.DataFrame:
    """`code, sector, industry` of each stock, its first known labels; "unknown" where none was given."""
    first = [pl.col(name).drop_nulls().first().fill_null("unknown") for name in ("sector", "industry")]
    return bars.group_by("code").agg(first).sort("code")
