"""Days after the cache's last one, in a folder of their own: panel, graph and tail as the stages would have them.

The folder is written aside and put in place whole, so a killed run leaves what was there; days it already has are
passed over, so a repeated run changes nothing. It belongs to one cache and is made anew when that changes.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.graph.snapshots import (
    HierarchicalGraphBuilder,
    Snapshots,
    listed,
    read_snapshots,
    since,
    with_newcomers,
    write_snapshots,
)
from atft.panel.build import Days
from atft.panel.store import Panel, read_panel
from atft.panel.tail import Tail, read_tail, write_days, write_tail
from atft.predict.seam import Stages, refuse_older, refuse_restated, tail_of
from atft.program import new_folder


@dataclass(frozen=True)
class History:
    """Panel and graph up to the last known day.

    Attributes:
        panel: From day number `start` on.
        snapshots: Their days are counted from the panel's first.
        dates: Every day of the calendar, also those before the panel's first.
    """

    panel: Panel
    snapshots: Snapshots
    start: int
    dates: NDArray[np.datetime64]

    @property
    def last(self) -> date:
        return self.dates[-1].astype(object)


def cache_fingerprint(panel: Panel, snapshots: Snapshots, knobs: Mapping[str, Any], stages: Stages) -> str:
    """A name for this cache and graph under these knobs: other returns, universe, features or edges give another.

    So do another lookback or other needed days of `stages`, which say where the panel begins.
    """
    found = blake2b(digest_size=12)
    facts = (panel.codes, panel.sector_names, panel.industry_names, panel.feature_names, panel.horizons, panel.delay)
    begin = stages.need, stages.lookback
    found.update(json.dumps([facts, dict(knobs), begin], sort_keys=True, default=str).encode())
    last = panel.features[-1], snapshots.as_of, snapshots.edge_index[:, snapshots.offsets[-2] :]
    for array in (panel.dates, panel.daily_return, panel.tradable, panel.has_bar, *last):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def read_live(folder: Path, name: str, cache: Panel) -> History | None:
    """What was appended to the cache of this name; None where nothing was.

    Raises:
        InputError: When a file is missing or damaged.
    """
    facts = _facts(folder)
    if facts.get("name") != name:
        return None
    panel, snapshots = read_panel(folder), read_snapshots(folder)
    start = facts["start"]
    snapshots = replace(snapshots, as_of=snapshots.as_of - start, first=facts["first_snapshot"])
    return History(panel, snapshots, start, np.concatenate([cache.dates[:start], panel.dates]))


def append(
    folder: Path,
    name: str,
    cache: Panel,
    snapshots: Snapshots,
    bars: pl.DataFrame,
    read_history: Callable[[], pl.DataFrame],
    stages: Stages,
) -> History:
    """The history with the days of `bars` that it does not have yet, kept in `folder`.

    Args:
        cache, snapshots: What the stages made.
        bars: Checked; days that are known already are passed over.
        read_history: Reads the bars behind the cache; asked once per cache.

    Raises:
        InputError: When the bars are older than the cache or restate a known day, or when the cache was made of others.
    """
    before = read_live(folder, name, cache) or History(cache, snapshots, 0, cache.dates)
    new = bars.filter(pl.col("date") > before.last)
    known = _facts(folder).get("name") == name
    if new.is_empty():
        refuse_older(bars, cache)
    recipe = stages.recipe
    if known:
        tail = read_tail(folder)
    else:  # the files may already hold the new days
        tail = tail_of(cache, snapshots, read_history().filter(pl.col("date") <= before.last), stages)
    refuse_restated(bars, tail, cache.dates[-1], folder)
    if new.is_empty():
        return before
    tail = tail.extended(new, recipe)
    keep = before.start or max(len(cache.dates) - stages.need, 0) // stages.lookback * stages.lookback
    with new_folder(folder) as scratch:
        _write_panel(scratch, tail, before, keep, stages)
        first = _write_graph(scratch, tail, before, keep, stages.builder)
        write_tail(scratch, tail.cut(recipe))
        facts = {"name": name, "start": keep, "first_snapshot": first}
        (scratch / "live.json").write_text(json.dumps(facts, sort_keys=True) + "\n")
    found = read_live(folder, name, cache)
    assert found is not None, "it was just written"
    return found


def _facts(folder: Path) -> dict[str, Any]:
    file = folder / "live.json"
    try:
        return json.loads(file.read_text()) if file.exists() else {}
    except ValueError as error:
        raise InputError(f"{file}: cannot be read ({error}); delete {folder} and append its days again") from error


def _write_panel(folder: Path, tail: Tail, before: History, keep: int, stages: Stages) -> None:
    panel, recipe = before.panel, stages.recipe
    raw = stages.make_features(tail.grid, folder)
    days = Days.of(tail.grid, raw, panel.horizons, panel.delay, recipe.label, stages.label_scale, stages.method)
    names = {
        "codes": tail.grid.codes,
        "sector_names": tail.sector_names,
        "industry_names": tail.industry_names,
        "feature_names": raw.output_names,
        "market_features": raw.market_names,
        "horizons": panel.horizons,
        "delay": panel.delay,
    }
    span = panel.delay + max(panel.horizons)
    write_days(folder, panel, before.start, keep, days, span, stages.threads, names)
    raw.close()


def _write_graph(folder: Path, tail: Tail, before: History, keep: int, builder: HierarchicalGraphBuilder) -> int:
    """Write the snapshots that the kept days use, and those of the new days; the number of the first one."""
    grid = tail.grid
    old = before.snapshots
    old = since(replace(old, as_of=old.as_of + before.start), keep)
    place = np.searchsorted(np.asarray(grid.codes), np.asarray(before.panel.codes))
    known = [with_newcomers(snapshot, place, len(grid.codes)) for snapshot in listed(old)]
    returns = np.nan_to_num(grid.dense("daily_return")).astype(np.float32)
    new = builder.snapshots(
        returns, grid.dense("has_bar"), grid.dense("sector"), grid.dense("industry"), grid.start, grid.first
    )
    write_snapshots(folder, [*known, *new])
    return old.first
