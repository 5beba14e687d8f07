"""The seam between the cache and the days after it: both sides must be of the same bars under the same knobs."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.graph.snapshots import HierarchicalGraphBuilder, Snapshots
from atft.panel.bars import Grid
from atft.panel.build import Days
from atft.panel.raw import RawFeatures
from atft.panel.store import Panel
from atft.panel.tail import Recipe, Tail

QUOTED = ("close", "open", "high", "low", "volume")
OVERLAP = 5  # last days of the cache whose features are computed again
MEND = "data/raw or params.yaml are no longer those the cache was made of; run `dvc repro`"


@dataclass(frozen=True)
class Stages:
    """How new days are made: what the cache and graph stages take from `params.yaml`.

    Attributes:
        need: Days before the cache's last one that a prediction looks back at.
        lookback: Of the network: the panel's first day stays on one of its anchors.
    """

    recipe: Recipe
    make_features: Callable[[Grid, Path], RawFeatures]
    builder: HierarchicalGraphBuilder
    label_scale: str
    method: str
    need: int
    lookback: int
    threads: int


def tail_of(cache: Panel, snapshots: Snapshots, bars: pl.DataFrame, stages: Stages) -> Tail:
    """The tail of the bars behind the cache, once they are known to be those that cache and graph were made of.

    Stocks, returns, flags, labels of groups and money traded are compared on every day, features on the last `OVERLAP`
    ones, labels on those and as many before as have ended since, links as of the last snapshot. A number may
    differ by its last bits: the cache may come from another processor.

    Args:
        cache, snapshots: What the stages made.
        bars: Checked, up to the cache's last day.

    Raises:
        InputError: At the first difference.
    """
    _same_stocks(cache, bars)
    tail = Tail.whole(bars, stages.recipe)
    _same_facts(cache, tail)
    _same_features(cache, tail, stages)
    _same_links(cache, snapshots, stages.builder)
    return tail.cut(stages.recipe)


def _same_stocks(cache: Panel, bars: pl.DataFrame) -> None:
    days = bars["date"].unique().sort().to_numpy().astype("datetime64[D]")
    if not len(days):
        raise InputError(f"no bar is of {cache.dates[-1]}, the cache's last day, or earlier: {MEND}")
    if days[-1] != cache.dates[-1]:
        raise InputError(
            f"data/raw ends on {days[-1]} and the cache on {cache.dates[-1]}; run `dvc repro` so that both are the same"
        )
    _same_members("stock", set(cache.codes), set(bars["code"].unique().to_list()))
    _same_members("day", set(cache.dates.tolist()), set(days.tolist()))


def _same_members(name: str, cached: set[Any], known: set[Any]) -> None:
    for alone, where in ((cached - known, "not in the bars behind the cache"), (known - cached, "not in the cache")):
        if alone:
            raise InputError(f"{name} {min(alone)} is {where} ({len(alone)} such): {MEND}")


def _same_facts(cache: Panel, tail: Tail) -> None:
    """What `Days` takes from the grid as it is, of all days."""
    for name in ("sector_names", "industry_names"):
        if getattr(tail, name) != getattr(cache, name):
            raise InputError(f"{name.removesuffix('_names')} labels are not those of the cache: {MEND}")
    for name in ("has_bar", "can_trade", "tradable", "sector", "industry", "daily_return", "money"):
        now, old = tail.grid.dense(name), getattr(cache, "money_traded" if name == "money" else name)
        now = np.nan_to_num(now) if name == "daily_return" else now
        _refuse_other(cache, name, 0, now.astype(old.dtype), old)


def _same_features(cache: Panel, tail: Tail, stages: Stages) -> None:
    grid, span = tail.last_days(OVERLAP, stages.recipe), cache.delay + max(cache.horizons)
    with TemporaryDirectory() as folder:
        raw = stages.make_features(grid, Path(folder))
        if raw.output_names != cache.feature_names:
            raise InputError("data.families: are not those of the cache; run `dvc repro`")
        label = stages.recipe.label, stages.label_scale
        days = Days.of(grid, raw, cache.horizons, cache.delay, *label, stages.method)
        for day in range(max(grid.first - span, grid.start), grid.first):
            for name, now in days.labels(day).items():
                _refuse_other(cache, name, day, now[None], getattr(cache, name)[day : day + 1])
        for day, arrays in enumerate(days.arrays(stages.threads), grid.first):
            for name in ("features", "label", "forward_return"):
                _refuse_other(cache, name, day, arrays[name][None], getattr(cache, name)[day : day + 1])
        raw.close()


def _refuse_other(cache: Panel, name: str, first: int, now: NDArray[Any], old: NDArray[Any]) -> None:
    """[day, stock] or [day, stock, column], from day number `first` on."""
    same = now == old
    if now.dtype.kind == "f" and not same.all():
        same = np.isclose(now, old, rtol=1e-5, atol=1e-6, equal_nan=True)
    if same.all():
        return
    day, stock, *column = (int(i) for i in np.argwhere(~same)[0])
    names = cache.feature_names if name == "features" else [f"{name} of horizon {h}" for h in cache.horizons]
    what = names[column[0]] if column else name
    where = f"{what} of {cache.codes[stock]} on {cache.dates[first + day]}"
    here, there = now[day, stock, *column], old[day, stock, *column]
    raise InputError(
        f"{where} is {here} by the bars behind the cache and {there} in it ({int((~same).sum())} such): {MEND}"
    )


def _same_links(cache: Panel, snapshots: Snapshots, builder: HierarchicalGraphBuilder) -> None:
    days = list(builder.days(len(cache.dates)))
    same, when = snapshots.as_of.tolist() == days, "the calendar"
    if same:
        when = cache.dates[days[-1]]
        arrays = cache.daily_return, cache.has_bar, cache.sector, cache.industry
        _, index, attr = next(builder.snapshots(*arrays, first=days[-1]))
        old, old_attr = snapshots.on(days[-1] + 1)
        same = np.array_equal(index, old) and np.allclose(attr, old_attr, rtol=1e-5, atol=1e-6)
    if not same:
        raise InputError(
            f"graph: the links as of {when} are not those of data/graph: it or params.yaml is no longer that of the "
            f"cache; run `dvc repro`"
        )


def refuse_other_graph(snapshots: Snapshots, cache: Panel) -> None:
    """The file of the graph names neither stocks nor days: their numbers must be those of the cache.

    Raises:
        InputError: When the graph has another number of stocks, groups that the cache has not, or later days.
    """
    groups = len(cache.sector_names) + len(cache.industry_names)
    last, nodes = int(snapshots.as_of[-1]), int(snapshots.edge_index.max()) + 1
    if snapshots.stocks != len(cache.codes) or nodes > snapshots.stocks + groups or last >= len(cache.dates):
        raise InputError(
            f"data/graph: is of {snapshots.stocks} stocks up to day {last}, and data/cache of {len(cache.codes)} and "
            f"{len(cache.dates)} days: it was made of another cache; run `dvc repro`"
        )


def refuse_older(bars: pl.DataFrame, cache: Panel) -> None:
    last = bars["date"].max()
    if isinstance(last, date) and np.datetime64(last) < cache.dates[-1]:
        raise InputError(
            f"--data: its last day, {last}, is older than the cache's, {cache.dates[-1]}; bring later bars, or put "
            f"these into data/raw and run `dvc repro`"
        )


def refuse_restated(bars: pl.DataFrame, tail: Tail, cached: np.datetime64, folder: Path) -> None:
    """Known days must stand in the bars as they were, up to 1e-6: they are passed over, and returns lead across them.

    Args:
        bars: Checked, of any days.
        tail: Of all known days.
        cached: The cache's last day; later ones lie in `folder`.

    Raises:
        InputError: When a close of the last known day, or another number of a bar of the days that the tail holds, is
            another one.
    """
    first = tail.grid.dates[0].astype(object)
    again = bars.filter(pl.col("date").is_between(first, tail.last)).select("date", "code", *QUOTED)
    if again.is_empty():
        return
    # Prices and volumes of the tail are cleaned: the factor between its close and the printed one undoes that.
    scale = pl.col("close") / pl.col("printed")
    prices = (pl.col(name) / scale for name in ("open", "high", "low"))
    known = tail.grid.frame.filter(pl.col("date").is_between(again["date"].min(), tail.last))
    known = known.select("date", "code", *prices, pl.col("volume") * scale, close="printed")
    both = again.join(known, on=["date", "code"], how="left", suffix="_before").sort("date", "code")
    for name in QUOTED:
        now, old = pl.col(name), pl.col(f"{name}_before")
        other = (now - old).abs() > 1e-6 * old.abs()
        other = other.fill_null(now.is_null() != old.is_null())
        if name != "close":  # what stands beside no close was never looked at
            other &= pl.col("close").is_not_null() & pl.col("close_before").is_not_null()
        if not (wrong := both.filter(other)).is_empty():
            row = wrong.row(0, named=True)
            appended = f"if only that bar was corrected, delete {folder} and bring its days again; "
            raise InputError(
                f"bars: {name} {row[name]} of {row['code']} on {row['date']} was {row[f'{name}_before']} before "
                f"({len(wrong)} such): {appended if np.datetime64(row['date']) > cached else ''}if its history was "
                f"restated, for a split perhaps, put the new history into data/raw and run `dvc repro`"
            )
