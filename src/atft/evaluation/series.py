"""What `dvc plots` and the page draw: the valid blocks and one horizon alone, means over seeds."""

import numpy as np
import polars as pl

from atft.evaluation.market import REGIMES, Market
from atft.evaluation.report import Report
from atft.evaluation.significance import default_lags, newey_west_variance

ROLLING_DAYS = 60  # a quarter: long enough for a standard error, short enough to see a change
NORMAL_95 = 1.96


def valid_series(report: Report, market: Market, horizon: int) -> dict[str, pl.DataFrame]:
    """Tables by name; each is empty where the valid blocks do not define it.

    Returns:
        equity: `date, gross, net, market`, growth of 1.
        drawdown: The same columns; share lost since the last peak, 0 to -1.
        rank_ic: `date, rank_ic, cumulative`.
        rolling_rank_ic: `date, mean, low, high`, see `rolling_rank_ic`.
        decay, quantiles: As in the report.
        costs: `bps, sharpe_net`.
        book: `date, turnover, beta_held, sector_exposure`.
        regimes: `date` and a state for each of `REGIMES`, null where the past is too short.
    """
    decay, quantiles, daily, book = (
        table.filter((pl.col("role") == "valid") & (pl.col("horizon") == horizon)).drop("role", "horizon")
        for table in (report.decay, report.quantiles, report.daily, report.books)
    )
    series = daily.group_by("date", maintain_order=True).agg(pl.col("gross", "net", "rank_ic").mean()).sort("date")
    at = np.searchsorted(market.dates, series["date"].to_numpy().astype("datetime64[D]"))
    # No stock was tradable the day before: nobody held the market, whose curve stays where it is.
    series = series.with_columns(market=pl.Series(market.equal_weight[at], dtype=pl.Float64).fill_nan(0.0))
    growth = series.drop_nulls(["gross", "net"]).select("date", (pl.col("gross", "net", "market") + 1).cum_prod())
    ic = series.drop_nulls("rank_ic").select("date", "rank_ic", cumulative=pl.col("rank_ic").cum_sum())
    return {
        "equity": growth,
        "drawdown": drawdown(growth),
        "rank_ic": ic,
        "rolling_rank_ic": rolling_rank_ic(ic, horizon),
        "decay": decay,
        "quantiles": quantiles,
        "costs": cost_curve(report.summary["valid", horizon]["sharpe_by_cost"]),
        "book": book.drop_nulls("turnover"),
        "regimes": _states(market, series["date"]),
    }


def drawdown(growth: pl.DataFrame) -> pl.DataFrame:
    """Each column's distance from its highest value so far, the starting 1 among them; -0.1 is 10 % lost."""
    columns = pl.all().exclude("date")
    return growth.select("date", columns / columns.cum_max().clip(lower_bound=1.0) - 1)


def rolling_rank_ic(ic: pl.DataFrame, horizon: int, window: int = ROLLING_DAYS) -> pl.DataFrame:
    """Mean of the last `window` values of `rank_ic` and its 95 % band by Newey-West.

    The band is of one window alone: where windows overlap, so do their errors, and one excursion out of twenty
    is no event.

    Returns:
        `date, mean, low, high` from the first whole window on; the band is null where the error is undefined.
    """
    values = ic["rank_ic"].to_numpy()
    lags = default_lags(window, horizon)
    rows = []
    for end in range(window, len(values) + 1):
        part = values[end - window : end]
        mean, variance = float(part.mean()), newey_west_variance(part, lags)
        reach = None if variance is None else NORMAL_95 * float(np.sqrt(variance))
        rows.append((mean, *((None, None) if reach is None else (mean - reach, mean + reach))))
    schema = {"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return ic.select(pl.col("date").slice(window - 1)).hstack(pl.DataFrame(rows, schema=schema, orient="row"))


def cost_curve(sharpe_by_cost: dict[str, float | None]) -> pl.DataFrame:
    """`bps, sharpe_net` in ascending order of costs, from keys such as `bps10`."""
    rows = sorted((float(key.removeprefix("bps")), value) for key, value in sharpe_by_cost.items())
    return pl.DataFrame(rows, schema={"bps": pl.Float64, "sharpe_net": pl.Float64}, orient="row")


def mean_selection(selection: pl.DataFrame) -> pl.DataFrame:
    """`feature, weight`: `metrics/selection.csv` averaged over fits, the heaviest first."""
    table = selection.group_by("feature").agg(pl.col("weight").cast(pl.Float64).mean())
    return table.sort("weight", "feature", descending=[True, False])


def attention_curve(epochs: pl.DataFrame) -> pl.DataFrame:
    """`epoch, lag_entropy, attention_entropy, effective_neighbors`: means over fits and graph layers.

    Empty for rankers that do not attend; a column is null where the network lacks that part.
    """
    names = ("lag_entropy", "attention_entropy", "effective_neighbors")
    parts = {name: [c for c in epochs.columns if c == name or c.startswith(f"{name}_")] for name in names}
    known = [
        (pl.mean_horizontal(pl.col(parts[name]).cast(pl.Float64)) if parts[name] else pl.lit(None, pl.Float64)).alias(
            name
        )
        for name in names
    ]
    table = epochs.select(pl.col("epoch").cast(pl.Int64), *known)
    return table.group_by("epoch").agg(pl.col(names).mean()).sort("epoch")


def _states(market: Market, dates: pl.Series) -> pl.DataFrame:
    at = np.searchsorted(market.dates, dates.to_numpy().astype("datetime64[D]"))
    states = {kind: pl.Series(market.regimes[kind][at], dtype=pl.Int64) for kind in REGIMES}
    return pl.DataFrame({"date": dates} | states).with_columns(
        pl.when(pl.col(kind) >= 0).then(pl.col(kind)) for kind in REGIMES
    )
