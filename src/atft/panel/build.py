"""Checked bars to the panel on disk: the one place that knows the order of the steps."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from atft.errors import InputError
from atft.panel.bars import REACH, Grid, anchored, money_traded, numbered_labels, on_grid, tradable
from atft.panel.features import market_beta, prepared
from atft.panel.labels import forward_return, group_mean, residual_label
from atft.panel.raw import RawFeatures
from atft.panel.standardize import standardize
from atft.panel.store import PanelWriter

COLUMNS_AT_ONCE = 64  # that are standardised together
MIN_NAMES = 20  # a smaller cross-section has no deciles


@dataclass(frozen=True)
class Built:
    """What the split table and the report need to know of a panel that was written.

    Attributes:
        dates: [T] trading days.
        first: Number of the first date worth ranking.
        report: What was found wrong with the data and what was done about it.
        large_returns: The corporate-action guard's list: `date, code, price_change, times_typical_money,
            verdict`.
    """

    dates: NDArray[np.datetime64]
    first: int
    report: dict[str, Any]
    large_returns: pl.DataFrame


def build_panel(
    folder: Path,
    bars: pl.DataFrame,
    make_features: Callable[[Grid, Path], RawFeatures],
    *,
    horizons: Sequence[int],
    delay: int,
    label: str,
    label_scale: str,
    beta_days: int,
    min_history: int,
    min_dollar_volume: float,
    max_daily_return: float,
    news_volume: float,
    method: str,
    threads: int,
) -> Built:
    """Write everything the later stages read; arguments as in `params.yaml`, section data.

    One date after the other is standardised and written: memory holds the bars and a few dates, not
    the panel.

    Raises:
        InputError: When no date has `MIN_NAMES` tradable stocks.
    """
    bars, sector_names, industry_names = numbered_labels(bars)
    if "sector" in label and len(sector_names) == 1:
        raise InputError(f"data.label: {label} needs sectors; map data.file.columns.sector, or choose another label")
    grid = replace(on_grid(bars, max_daily_return, news_volume), warm=max(REACH, beta_days))
    grid = with_universe(grid, min_history, min_dollar_volume, first_volume(bars))
    grid = replace(grid, frame=grid.frame.drop("factor", "adjusted", "typical", "terminal_return"))
    if "beta" in label:
        grid = with_beta(grid, beta_days)
    universe = grid.dense("tradable")
    enough = np.nonzero(universe.sum(1) >= MIN_NAMES)[0]
    if not len(enough):
        raise InputError(
            f"data: no date has {MIN_NAMES} tradable stocks (most: {universe.sum(1).max()}); "
            f"lower data.min_history or data.min_dollar_volume, or bring more stocks"
        )
    features = make_features(grid, folder)
    days = Days.of(grid, features, horizons, delay, label, label_scale, method)
    facts = {
        "codes": grid.codes,
        "sector_names": sector_names,
        "industry_names": industry_names,
        "feature_names": features.output_names,
        "market_features": features.market_names,
        "horizons": list(horizons),
        "delay": delay,
    }
    bar = tqdm(total=len(grid.dates), desc="cache", unit="day", disable=None)
    with PanelWriter(folder, facts) as writer, bar:
        for day, arrays in zip(grid.dates, days.arrays(threads), strict=True):
            writer.write_day(day, arrays)
            bar.update()
    features.close()
    large = _large_returns(grid)
    return Built(grid.dates, int(enough[0]), _report(bars, grid, large) | features.report, large)


def first_volume(bars: pl.DataFrame) -> date | None:
    """The first date with a volume; None without any."""
    return bars.filter(pl.col("volume").is_not_null()).select(pl.col("date").min()).item()


def with_universe(grid: Grid, min_history: int, min_dollar_volume: float, volume_from: date | None) -> Grid:
    """The grid's wanted days alone, with `money` (`money_traded`), `tradable` and `market`."""
    money = pl.Series("money", anchored(grid, money_traded()).ravel(), nan_to_null=True)
    grid = grid.wanted()
    grid = replace(grid, frame=grid.frame.with_columns(money)).with_columns(
        tradable=tradable(min_history, min_dollar_volume, volume_from)
    )
    return grid.with_columns(market=pl.col("daily_return").filter("tradable").mean().over("date").fill_null(0.0))


def with_beta(grid: Grid, beta_days: int) -> Grid:
    """The grid's wanted days alone, with `beta`, the trailing one of beta-neutral labels."""
    beta = pl.Series("beta", anchored(grid, market_beta(beta_days), prepared).ravel(), nan_to_null=True)
    grid = grid.wanted()
    return replace(grid, frame=grid.frame.with_columns(beta))


@dataclass(frozen=True)
class Days:
    """A grid's days as the panel has them; each looks at its own stocks alone.

    Attributes:
        universe: [day, stock] who is tradable, of all days of the grid.
        returns, beta: [day, stock, horizon], and [day, stock] or None.
        by_day: Arrays of the panel that are taken as they are.
        features: Raw features of the days from `grid.first` on.
    """

    grid: Grid
    features: RawFeatures
    universe: NDArray[np.bool_]
    returns: NDArray[np.float32]
    beta: NDArray[np.float64] | None
    by_day: Mapping[str, NDArray[Any]]
    label: str
    label_scale: str
    method: str

    @classmethod
    def of(
        cls,
        grid: Grid,
        features: RawFeatures,
        horizons: Sequence[int],
        delay: int,
        label: str,
        label_scale: str,
        method: str,
    ) -> Self:
        universe = grid.dense("tradable")
        returns = _forward_returns(grid, universe, horizons, delay)
        beta = grid.dense("beta") if "beta" in label else None
        by_day = {name: grid.dense(name) for name in ("has_bar", "can_trade", "money", "sector", "industry")}
        by_day["money"] = by_day["money"].astype(np.float32)
        by_day["daily_return"] = np.nan_to_num(grid.dense("daily_return")).astype(np.float32)
        return cls(grid, features, universe, returns, beta, by_day, label, label_scale, method)

    def arrays(self, threads: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The arrays of each day from `grid.first` on, in order."""
        with ThreadPoolExecutor(threads) as pool:
            yield from _read_ahead(pool, self._arrays, self.features.blocks())

    def labels(self, day: int) -> dict[str, NDArray[np.float32]]:
        """`label` and `forward_return` of a day, by its number on the calendar."""
        row = day - self.grid.start
        here = self.universe[row]
        target = residual_label(
            self.returns[row][here],
            self.beta[row][here] if self.beta is not None else None,
            self.by_day["sector"][row][here] if "sector" in self.label else None,
        )
        target = standardize(target, "rank_gauss") if self.label_scale == "rank_gauss" else target
        return {"label": _scatter(target, here), "forward_return": self.returns[row]}

    def _arrays(self, number: int, raw: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The arrays of the `number`-th wanted day."""
        features, method, day = self.features, self.method, self.grid.first + number
        row = day - self.grid.start
        here = self.universe[row]
        groups = {name: self.by_day[name][row][here] for name in ("sector", "industry")}
        values = np.full((len(here), len(features.output_names)), np.nan, np.float32)
        # A few columns at a time stay in the processor's cache.
        for start in range(0, features.kept, COLUMNS_AT_ONCE):
            part = slice(start, min(start + COLUMNS_AT_ONCE, features.kept))
            values[here, part] = standardize(_finite(raw[here, part]), method)
        if features.relative:
            bases = _finite(raw[here][:, [column for column, _ in features.relative]])
            less = [
                bases[:, [i]] - group_mean(bases[:, [i]].astype(np.float64), groups[group])
                for i, (_, group) in enumerate(features.relative)
            ]
            part = slice(features.kept, features.kept + len(less))
            values[here, part] = standardize(np.hstack(less).astype(np.float32), method)
        if features.market_names:
            values[here, -len(features.market_names) :] = features.market[number]
        return {
            "features": values,
            "tradable": here,
            **self.labels(day),
            **{name: self.by_day[name][row] for name in ("daily_return", "has_bar", "can_trade")},
            "money_traded": self.by_day["money"][row],
            **{name: self.by_day[name][row] for name in ("sector", "industry")},
        }


def _read_ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[int, NDArray[np.float32]], dict[str, NDArray[Any]]],
    blocks: Iterator[NDArray[np.float32]],
) -> Iterator[dict[str, NDArray[Any]]]:
    """`work(day, values)` of each day in order; the next block is read while the pool is at the last one."""
    waiting: deque[Iterator[dict[str, NDArray[Any]]]] = deque()
    day = 0
    for block in blocks:
        waiting.append(pool.map(work, range(day, day + len(block)), block))
        day += len(block)
        if len(waiting) > 1:
            yield from waiting.popleft()
    yield from chain.from_iterable(waiting)


def _forward_returns(
    grid: Grid, universe: NDArray[np.bool_], horizons: Sequence[int], delay: int
) -> NDArray[np.float32]:
    ended = np.isfinite(grid.dense("terminal").astype(np.float64))
    left = np.cumsum(ended, axis=0) > 0
    returns = forward_return(
        grid.dense("path"), grid.dense("has_bar"), grid.dense("can_trade"), left, grid.dense("error"), horizons, delay
    )
    returns[~universe] = np.nan
    return returns


def _finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(values), values, np.float32(np.nan))


def _scatter(values: NDArray[np.float32], where: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Rows of `values` at the True places of `where`, NaN elsewhere."""
    out = np.full((len(where), values.shape[1]), np.nan, np.float32)
    out[where] = values
    return out


def _large_returns(grid: Grid) -> pl.DataFrame:
    """Every price change beyond the threshold and what was made of it."""
    verdict = pl.when("error").then(pl.lit("dropped")).otherwise(pl.lit("believed"))
    return (
        grid.frame.filter("large")
        .select(
            "date",
            "code",
            price_change=pl.col("simple").round(4),
            times_typical_money=pl.col("times_typical").round(2),
            verdict=verdict,
        )
        .sort("date", "code")
    )


def _report(bars: pl.DataFrame, grid: Grid, large: pl.DataFrame) -> dict[str, Any]:
    """What was found wrong with the bars and what was done about it."""
    frame = grid.frame
    return {
        "rows": len(bars),
        "dates": [str(bars["date"].min()), str(bars["date"].max())],
        "stocks": bars["code"].n_unique(),
        "tradable_stock_days": int(frame["tradable"].sum()),
        "absent_prints": {name: bars[name].null_count() for name in ("open", "high", "low", "close", "volume")},
        "zero_volumes": int((bars["volume"] == 0).sum()),
        "missing_bars_while_listed": int((frame["listed"] & ~frame["has_bar"]).sum()),
        "halted_or_locked": int((frame["has_bar"] & ~frame["can_trade"]).sum()),
        "adjustment_factors_applied": int((bars["adjustment_factor"] != 1).sum()),
        "large_returns_dropped": int((large["verdict"] == "dropped").sum()),
        "large_returns_believed": int((large["verdict"] == "believed").sum()),
    }
