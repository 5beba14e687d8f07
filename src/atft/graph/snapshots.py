"""The graph through time: snapshots taken at the close of a day, used from the next day on."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.graph.edges import EDGE_FEATURES, MEASURED, Edges, Mask, Numbers, hierarchy, peer_edges, self_loops
from atft.program import out_of_memory

Snapshot = tuple[int, Numbers, NDArray[np.float32]]  # as_of, edge_index, edge_attr


@dataclass(frozen=True)
class HierarchicalGraphBuilder:
    """Links between stocks, to themselves, and to their industries and sectors, as of a day.

    Attributes: as in `params.yaml`, section graph.
    """

    every: int
    window: int
    min_overlap: int
    neighbors: int
    half_life: int
    shrinkage: float
    min_correlation: float
    sector_edge_weight: float

    def days(self, total: int, first: int = 0) -> range:
        """Day numbers from `first` on at whose close a snapshot is taken: fixed by the calendar's start."""
        before = max(-(-(first - self.min_overlap + 1) // self.every), 0)
        return range(self.min_overlap - 1 + before * self.every, total, self.every)

    def snapshots(
        self,
        daily_return: NDArray[np.float32],
        has_bar: Mask,
        sector: NDArray[np.integer],
        industry: NDArray[np.integer],
        start: int = 0,
        first: int = 0,
    ) -> Iterator[Snapshot]:
        """Each snapshot in turn, from the `window` days up to its own; arrays [day, stock], labels as of the day.

        Args:
            start: Number of the arrays' first day on the calendar.
            first: Day number from which on snapshots are wanted; the arrays hold the window before it.
        """
        for day in self.days(start + len(daily_return), first):
            rows = slice(max(day + 1 - self.window, 0) - start, day + 1 - start)
            yield day, *self.edges(daily_return[rows], has_bar[rows], sector[day - start], industry[day - start])

    def edges(
        self,
        returns: NDArray[np.float32],
        present: Mask,
        sector: NDArray[np.integer],
        industry: NDArray[np.integer],
    ) -> Edges:
        """Edges of one window [day, stock], sorted by target, then source; no pair stands twice."""
        sector, industry = sector.astype(np.int64), industry.astype(np.int64)
        index, attr, together = peer_edges(
            returns.astype(np.float64),
            np.ascontiguousarray(present),
            sector,
            industry,
            self.neighbors,
            self.min_overlap,
            self.half_life,
            self.shrinkage,
            self.min_correlation,
        )
        parts = [(index, attr), self_loops(len(sector)), hierarchy(sector, industry, together, self.sector_edge_weight)]
        index, attr = np.concatenate([i for i, _ in parts], axis=1), np.concatenate([a for _, a in parts])
        order = np.lexsort(index)
        return index[:, order], attr[order]


@dataclass(frozen=True)
class Snapshots:
    """Edges of all snapshots, one after the other.

    Attributes:
        stocks: Nodes below are stocks, nodes from here on virtual: industries, then sectors.
        as_of: [snapshot] day number at whose close it was taken.
        offsets: [snapshot + 1] edges of snapshot s are offsets[s]:offsets[s + 1].
        edge_index: [2, edge] source informs target, node numbers.
        edge_attr: [edge, feature] see `EDGE_FEATURES`.
        first: Number of the first snapshot, counted from the calendar's start.
    """

    stocks: int
    as_of: Numbers
    offsets: Numbers
    edge_index: Numbers
    edge_attr: NDArray[np.float32]
    first: int = 0

    def on(self, day: int) -> Edges:
        """`edge_index`, `edge_attr` known before day `day` opens; self-loops alone before the first snapshot."""
        s = int(np.searchsorted(self.as_of, day)) - 1
        if s < 0:
            return self_loops(self.stocks)
        part = slice(self.offsets[s], self.offsets[s + 1])
        return self.edge_index[:, part], self.edge_attr[part]

    def among(self, day: int, tradable: Mask) -> Edges:
        """`on(day)` without the stocks that are not `tradable` [stock], and the groups they leave empty."""
        index, attr = self.on(day)
        source, target = index
        alive = np.zeros(max(int(index.max()) + 1, self.stocks), bool)
        alive[: self.stocks] = tradable
        upward = (source < target) & (target >= self.stocks)
        for virtual in (False, True):  # an industry lives through its stocks, then a sector through either
            level = upward & ((source >= self.stocks) == virtual)
            alive[target[level & alive[source]]] = True
        keep = alive[index].all(axis=0)
        return index[:, keep], attr[keep]

    def peers(self, day: int) -> Numbers:
        """[2, edge] the links between two stocks alone; sorted by target."""
        index, _ = self.on(day)
        return index[:, between_stocks(index, self.stocks)]


def between_stocks(index: Numbers, stocks: int) -> Mask:
    """Which edges link two different stocks."""
    return (index < stocks).all(axis=0) & (index[0] != index[1])


def write_snapshots(folder: Path, snapshots: Iterable[Snapshot]) -> None:
    """Write `edges.parquet`: as_of, source, target and the edge features.

    Raises:
        InputError: When no snapshot has a link between stocks.
    """
    frames, linked = [], False
    for day, index, attr in snapshots:
        columns = {"as_of": np.full(len(attr), day), "source": index[0], "target": index[1]}
        linked |= bool((attr[:, _KIND] == 0).all(axis=1).any())
        frames.append(
            pl.DataFrame(columns).cast(pl.Int32).hstack(pl.DataFrame(attr, schema=list(EDGE_FEATURES), orient="row"))
        )
    if not linked:
        raise InputError(
            "graph: no stock has a neighbour; lower graph.min_overlap or graph.min_correlation, or bring more days"
        )
    pl.concat(frames).write_parquet(folder / "edges.parquet", compression="zstd")


_KIND = [EDGE_FEATURES.index(name) for name in ("self_loop", "upward", "downward")]


def read_snapshots(folder: Path) -> Snapshots:
    """Read the snapshots.

    Raises:
        InputError: When the file is missing or damaged.
    """
    try:
        frame = pl.read_parquet(folder / "edges.parquet")
    except (OSError, pl.exceptions.PolarsError) as error:
        if out_of_memory(error):
            raise
        raise InputError(
            f"{folder}: cannot be read ({str(error).splitlines()[0]}); run `dvc repro -f graph`"
        ) from error
    as_of, counts = np.unique(frame["as_of"].to_numpy(), return_counts=True)
    return Snapshots(
        # Every stock has a self-loop in every snapshot.
        stocks=int(frame["self_loop"].sum()) // len(as_of),
        as_of=as_of.astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        edge_index=frame.select("source", "target").to_numpy().T.astype(np.int64),
        edge_attr=frame.select(EDGE_FEATURES).to_numpy().astype(np.float32),
    )


def as_heard(snapshots: Snapshots, graph: str) -> Snapshots:
    """The snapshots that `model.graph` asks for: as they are, `shuffled` or `plain`."""
    if graph == "shuffled":
        return shuffled(snapshots)
    return plain(snapshots) if graph == "plain" else snapshots


def plain(snapshots: Snapshots) -> Snapshots:
    """The same links of the same kinds and odds, which tell nothing of how close two stocks are."""
    attr = snapshots.edge_attr.copy()
    attr[:, [EDGE_FEATURES.index(name) for name in MEASURED]] = 0
    return replace(snapshots, edge_attr=attr)


def shuffled(snapshots: Snapshots) -> Snapshots:
    """The same number of neighbours with the same edge features, but random ones: the placebo.

    Drawn among the snapshot's stocks that have neighbours; the other links stay.
    """
    source, target = snapshots.edge_index.copy()
    for s, (a, b) in enumerate(zip(snapshots.offsets, snapshots.offsets[1:], strict=False)):
        links = a + np.flatnonzero(between_stocks(snapshots.edge_index[:, a:b], snapshots.stocks))
        known = np.unique(snapshots.edge_index[:, links])
        place = np.searchsorted(known, target[links])
        if not len(known):
            continue
        # One random ring of the stocks, and the same random distances along it for everyone: no
        # neighbour is drawn twice, and all are heard about equally often.
        draw = np.random.default_rng(snapshots.first + s)
        ring, distance = draw.permutation(len(known)), draw.permutation(np.arange(1, max(len(known), 2)))
        nth = np.arange(len(links)) - np.searchsorted(target[links], target[links])
        seat = np.argsort(ring)[place] + distance[nth % len(distance)]
        source[links] = known[ring[seat % len(known)]]
    return replace(snapshots, edge_index=np.stack([source, target]))


def since(snapshots: Snapshots, day: int) -> Snapshots:
    """The snapshot that is used on `day`, and all later ones."""
    s = max(int(np.searchsorted(snapshots.as_of, day)) - 1, 0)
    a = snapshots.offsets[s]
    return Snapshots(
        snapshots.stocks,
        snapshots.as_of[s:],
        snapshots.offsets[s:] - a,
        snapshots.edge_index[:, a:],
        snapshots.edge_attr[a:],
        snapshots.first + s,
    )


def listed(snapshots: Snapshots) -> Iterator[Snapshot]:
    """Each snapshot in turn."""
    for day, a, b in zip(snapshots.as_of, snapshots.offsets, snapshots.offsets[1:], strict=False):
        yield int(day), snapshots.edge_index[:, a:b], snapshots.edge_attr[a:b]


def with_newcomers(snapshot: Snapshot, place: Numbers, stocks: int) -> Snapshot:
    """The snapshot among more stocks: as if those that came later had been listed, and known to nobody but themselves.

    Args:
        place: [old stock] its new number, ascending.
        stocks: How many there are now.
    """
    day, index, attr = snapshot
    virtual = int(index.max()) + 1 - len(place)
    number = np.concatenate([place, stocks + np.arange(max(virtual, 0))])
    new = np.setdiff1d(np.arange(stocks), place)
    own, own_attr = self_loops(stocks)
    index = np.concatenate([number[index], own[:, new]], axis=1)
    attr = np.concatenate([attr, own_attr[new]])
    order = np.lexsort(index)
    return day, index[:, order], attr[order]
