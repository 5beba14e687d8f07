"""Raw bars to the arrays of a `Panel`: the one place that knows the order of the steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.panel import features as feature_library
from atft.panel.bars import on_grid, stock_labels, tradable
from atft.panel.labels import forward_return
from atft.panel.standardize import standardize
from atft.panel.store import scatter

MIN_NAMES = 20  # a smaller cross-section has no deciles


@dataclass(frozen=True)
class BuiltPanel:
    """`panel.store.write_panel`'s arguments, the first date worth ranking, and what was found wrong."""

    dates: NDArray[np.datetime64]
    stocks: pl.DataFrame
    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]
    first: int
    report: dict[str, Any]


def build_panel(
    bars: pl.DataFrame,
    families: Sequence[str],
    horizons: Sequence[int],
    delay: int,
    min_history: int,
    min_dollar_volume: float,
    max_daily_return: float,
    method: str,
) -> BuiltPanel:
    """Build everything the later stages read from checked bars.

    Raises:
        InputError: When no date has `MIN_NAMES` tradable stocks.
    """
    stocks = stock_labels(bars)
    grid = on_grid(bars, max_daily_return)
    grid = grid.with_columns(tradable=tradable(min_history, min_dollar_volume))
    grid, names = feature_library.add_features(grid, families)
    grid = grid.sort("date", "code")

    shape = (grid["date"].n_unique(), len(stocks))
    dense = {name: grid[name].to_numpy().reshape(shape) for name in ("has_bar", "tradable", "error", "path")}
    universe = dense["tradable"]
    enough = np.nonzero(universe.sum(1) >= MIN_NAMES)[0]
    if not len(enough):
        raise InputError(
            f"data: no date has {MIN_NAMES} tradable stocks (most: {universe.sum(1).max()}); "
            f"lower data.min_history or data.min_dollar_volume, or bring more stocks"
        )
    rows = grid.filter("tradable")
    market = [name for name in names if name in feature_library.MARKET]
    by_stock = [name for name in names if name not in market]
    values = np.hstack(
        [
            standardize(rows.select("date", *by_stock), method),
            rows.select(market).cast(pl.Float32).fill_null(0.0).to_numpy(),
        ]
    )
    terminal = grid["terminal_return"].to_numpy().reshape(shape)
    left = np.cumsum(np.vstack([np.zeros((1, shape[1]), bool), np.isfinite(terminal)[:-1]]), axis=0) > 0
    returns = forward_return(dense["path"], dense["has_bar"], left, dense["error"], horizons, delay)
    returns[~universe] = np.nan
    labelled = pl.DataFrame(
        {"date": rows["date"], **{f"h{h}": returns[..., i][universe] for i, h in enumerate(horizons)}}
    )
    label = np.where(np.isnan(returns), np.nan, scatter(standardize(labelled, "rank_gauss"), universe, np.nan))
    arrays = {
        "features": scatter(values, universe, 0.0),
        "tradable": universe,
        "label": label.astype(np.float32),
        "forward_return": returns,
        "daily_return": grid["daily_return"].fill_null(0.0).to_numpy().reshape(shape).astype(np.float32),
        "has_bar": dense["has_bar"],
    }
    facts = {
        "feature_names": by_stock + market,
        "market_features": market,
        "horizons": list(horizons),
        "delay": delay,
    }
    dates = grid["date"].unique().sort().to_numpy().astype("datetime64[D]")
    return BuiltPanel(dates, stocks, arrays, facts, int(enough[0]), _report(bars, grid))


def _report(bars: pl.DataFrame, grid: pl.DataFrame) -> dict[str, Any]:
    """What was found wrong with the bars and what was done about it."""
    errors = grid.filter("error").select("date", "code").sort("date", "code")
    return {
        "rows": len(bars),
        "dates": [str(bars["date"].min()), str(bars["date"].max())],
        "stocks": bars["code"].n_unique(),
        "tradable_stock_days": int(grid["tradable"].sum()),
        "absent_prints": {name: bars[name].null_count() for name in ("open", "high", "low", "close")},
        "zero_volumes": int((bars["volume"] == 0).sum()),
        "missing_bars_while_listed": int((grid["listed"] & ~grid["has_bar"]).sum()),
        "unbelievable_returns_dropped": len(errors),
        "unbelievable_returns": [f"{day} {code}" for day, code in errors.iter_rows()],
    }
