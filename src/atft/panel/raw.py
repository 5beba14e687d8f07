"""Features before they are standardised, whoever made them: our own library, or a table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.panel.bars import Grid, windows
from atft.panel.features import FAMILIES, MARKET, RELATIVE, market_days, market_state, prepared
from atft.panel.store import scratch_array

STOCKS_AT_ONCE = 125  # whose features stand in memory together
DAYS_AT_ONCE = 8


@dataclass(frozen=True)
class RawFeatures:
    """Columns by stock, and columns that are equal for all stocks of a date.

    Attributes:
        names: [F] columns of the blocks.
        kept: The first so many become features; the others only serve `relative`.
        relative: (column, "sector" or "industry"): the column less the group's mean that day.
        market_names, market: [M] and [T, M] values that are not standardised within the date.
        blocks: Yields [days, N, F] float32 from the grid's first wanted day to the last, each date once.
        report: What was found wrong with the columns and what was done about it.
        close: Frees what the blocks stood on.
    """

    names: Sequence[str]
    kept: int
    relative: Sequence[tuple[int, str]]
    market_names: list[str]
    market: NDArray[np.float32]
    blocks: Callable[[], Iterator[NDArray[np.float32]]]
    report: dict[str, Any] = field(default_factory=dict)
    close: Callable[[], None] = lambda: None

    @property
    def output_names(self) -> list[str]:
        """Names of the panel's features, in order."""
        less = [f"{self.names[column]}_in_{group}" for column, group in self.relative]
        return [*self.names[: self.kept], *less, *self.market_names]


def library_features(grid: Grid, folder: Path, families: Sequence[str]) -> RawFeatures:
    """The families of `panel.features` from `grid.first` on, computed a few stocks at a time into a scratch file."""
    chosen = {name: expr for family in families for name, expr in FAMILIES.get(family, {}).items()}
    everything = {name: expr for family in FAMILIES.values() for name, expr in family.items()}
    relative = (
        [(name, group) for group in ("sector", "industry") for name in RELATIVE] if "relative" in families else []
    )
    by_stock = {name: expr for name, expr in chosen.items() if name not in MARKET}
    needed = by_stock | {name: everything[name] for name, _ in relative}
    names = list(needed)

    dates, stocks = grid.end - grid.first, len(grid.codes)
    scratch = folder / "raw.scratch"
    raw = scratch_array(scratch, (dates, stocks, len(names)))
    for start in range(0, stocks, STOCKS_AT_ONCE):
        end = min(start + STOCKS_AT_ONCE, stocks)
        rows = grid.stocks(start, end)
        for begin, first, last in windows(grid.first, grid.end, grid.warm):
            seen = prepared(grid.days(rows, begin, last))
            values = seen.select(expr.over("code").cast(pl.Float32).alias(name) for name, expr in needed.items())
            found = values.to_numpy().reshape(end - start, last - begin, len(names))[:, first - begin :]
            raw[first - grid.first : last - grid.first, start:end] = found.swapaxes(0, 1)

    wanted = grid.days(grid.stocks(0, 1), grid.first, grid.end)
    calendar = prepared(wanted).select(expr.alias(name) for name, expr in chosen.items() if name in MARKET)
    state = _market_state(grid) if "market" in families else calendar.select()
    common = pl.concat([state, calendar], how="horizontal")
    return RawFeatures(
        names=names,
        kept=len(by_stock),
        relative=[(names.index(name), group) for name, group in relative],
        market_names=common.columns,
        market=common.cast(pl.Float32).to_numpy().reshape(dates, len(common.columns)),
        blocks=partial(in_blocks, raw),
        close=scratch.unlink,
    )


def _market_state(grid: Grid) -> pl.DataFrame:
    """`market_state` of the wanted days."""
    days = market_days(grid.days(grid.frame, grid.first, grid.end))
    known = days if grid.earlier is None else pl.concat([grid.earlier, days])
    return market_state(known).drop("date").slice(grid.first)


def in_blocks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The days of `values`, `DAYS_AT_ONCE` at a time."""
    for start in range(0, len(values), DAYS_AT_ONCE):
        yield values[start : start + DAYS_AT_ONCE]
