"""The graph through time: snapshots taken at the close of a day, used from the next day on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.graph.edges import EDGE_FEATURES, snapshot_edges


@dataclass(frozen=True)
class Snapshots:
    """Edges of all snapshots, one after the other.

    Attributes:
        as_of: [snapshot] day number at whose close it was taken.
        offsets: [snapshot + 1] edges of snapshot s are offsets[s]:offsets[s + 1].
        edge_index: [2, edge] source informs target, stock numbers.
        edge_attr: [edge, feature] see `EDGE_FEATURES`.
    """

    as_of: NDArray[np.int64]
    offsets: NDArray[np.int64]
    edge_index: NDArray[np.int64]
    edge_attr: NDArray[np.float32]

    def on(self, day: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """`edge_index`, `edge_attr` known before day `day` opens; empty before the first snapshot."""
        s = int(np.searchsorted(self.as_of, day)) - 1
        if s < 0:
            return self.edge_index[:, :0], self.edge_attr[:0]
        part = slice(self.offsets[s], self.offsets[s + 1])
        return self.edge_index[:, part], self.edge_attr[part]


def snapshot_days(days: int, every: int, min_overlap: int) -> range:
    """Day numbers at whose close a snapshot is taken: fixed by the calendar's start."""
    return range(min_overlap - 1, days, every)


def build_snapshots(
    daily_return: NDArray[np.float32],
    present: NDArray[np.bool_],
    sector: NDArray[np.int64],
    industry: NDArray[np.int64],
    every: int,
    window: int,
    min_overlap: int,
    neighbors: int,
    industry_neighbors: int,
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """Yield (as_of, edge_index, edge_attr) of each snapshot, from the `window` days up to as_of."""
    for day in snapshot_days(len(daily_return), every, min_overlap):
        rows = slice(max(day + 1 - window, 0), day + 1)
        yield (
            day,
            *snapshot_edges(
                daily_return[rows].astype(np.float64),
                present[rows],
                sector,
                industry,
                neighbors,
                industry_neighbors,
                min_overlap,
            ),
        )


def write_snapshots(folder: Path, snapshots: list[tuple[int, NDArray[np.int64], NDArray[np.float32]]]) -> None:
    """Write `edges.parquet`: as_of, source, target and the edge features.

    Raises:
        InputError: When no snapshot has an edge.
    """
    if not any(len(attr) for _, _, attr in snapshots):
        raise InputError("graph: no stock has a neighbour; lower graph.min_overlap, or bring more days")
    frames = [
        pl.DataFrame(
            {
                "as_of": np.full(len(attr), day, np.int32),
                "source": index[0].astype(np.int32),
                "target": index[1].astype(np.int32),
            }
        ).hstack(pl.DataFrame(attr, schema=list(EDGE_FEATURES)))
        for day, index, attr in snapshots
    ]
    pl.concat(frames).write_parquet(folder / "edges.parquet", compression="zstd")


def read_snapshots(folder: Path) -> Snapshots:
    """Read the snapshots.

    Raises:
        InputError: When the file is missing or damaged.
    """
    try:
        frame = pl.read_parquet(folder / "edges.parquet")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(
            f"{folder}: cannot be read ({str(error).splitlines()[0]}); run `dvc repro -f graph`"
        ) from error
    as_of, counts = np.unique(frame["as_of"].to_numpy(), return_counts=True)
    return Snapshots(
        as_of=as_of.astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        edge_index=frame.select("source", "target").to_numpy().T.astype(np.int64),
        edge_attr=frame.select(EDGE_FEATURES).to_numpy().astype(np.float32),
    )


def summary(snapshots: Snapshots, sector: NDArray[np.int64], stocks: int) -> dict[str, float]:
    """Snapshots, mean edges per snapshot, mean neighbours of a connected stock, share of edges within a sector."""
    source, target = snapshots.edge_index
    listeners = [len(np.unique(target[a:b])) for a, b in zip(snapshots.offsets, snapshots.offsets[1:], strict=False)]
    return {
        "snapshots": len(snapshots.as_of),
        "stocks": stocks,
        "edges_per_snapshot": len(source) / len(snapshots.as_of),
        "neighbors_per_stock": len(source) / sum(listeners),
        "share_within_sector": float(np.mean(sector[source] == sector[target])),
    }


def shuffled(snapshots: Snapshots, stocks: int) -> Snapshots:
    """The same number of neighbours with the same edge features, but random ones: the placebo."""
    source, target = snapshots.edge_index.copy()
    for s, (a, b) in enumerate(zip(snapshots.offsets, snapshots.offsets[1:], strict=False)):
        draw = np.random.default_rng(s)
        source[a:b] = (target[a:b] + draw.integers(1, stocks, b - a)) % stocks
    return Snapshots(snapshots.as_of, snapshots.offsets, np.stack([source, target]), snapshots.edge_attr)
