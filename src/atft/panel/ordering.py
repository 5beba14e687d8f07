"""Many cross-sections sorted at once, ties and all: what ranks and quantiles are made of."""

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LOW = 0 if sys.byteorder == "little" else 1


@dataclass(frozen=True)
class Order:
    """Each row of a matrix in ascending order, unknown values last.

    Attributes:
        place: [row, n] column of the value at each place of the order.
        known: [row] number of values that are not NaN.
        start, size: Of each run of equal known values: its first place, counted through all rows,
            and its length, at least 2.
    """

    place: NDArray[np.uint32]
    known: NDArray[np.int64]
    start: NDArray[np.int64]
    size: NDArray[np.int64]

    def spread(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """[run member] each run's value, repeated for its members; see `members`."""
        return np.repeat(values, self.size)

    def members(self) -> NDArray[np.int64]:
        """Places, counted through all rows, of all values that tie with another."""
        within = np.arange(self.size.sum()) - np.repeat(np.cumsum(self.size) - self.size, self.size)
        return np.repeat(self.start, self.size) + within

    def back(self, ordered: NDArray[np.float32]) -> NDArray[np.float32]:
        """What stands at each place put back to the value's own column."""
        out = np.empty(ordered.size, np.float32)
        out[self.place + np.arange(len(ordered))[:, None] * ordered.shape[1]] = ordered
        return out.reshape(ordered.shape)


def order_rows(rows: NDArray[np.float32]) -> Order:
    """Sort each row of `rows`, [row, n]; NaN is unknown, -0 ties with 0."""
    rows = np.add(rows, np.float32(0), order="C")  # -0 becomes 0
    count = rows.shape[1]
    unknown = np.isnan(rows)
    known = count - np.count_nonzero(unknown, axis=1)
    # One integer per value, its order above its place: sorting these needs no indirection and is
    # a third of the time of argsort. Negative floats count down in their bits, hence the flip.
    bits = rows.view(np.int32)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    if known.min(initial=count) < count:
        order[unknown] = 2**31 - 1
    packed = order.astype(np.int64)
    packed <<= 32
    packed |= np.arange(count)
    packed.sort(axis=1)
    place, height = packed.view(np.uint32)[:, _LOW::2], packed.view(np.int32)[:, 1 - _LOW :: 2]
    tied = np.zeros(rows.shape, bool)  # with the next
    np.equal(height[:, 1:], height[:, :-1], out=tied[:, :-1])
    tied &= np.arange(1, count + 1) < known[:, None]
    ties = np.flatnonzero(tied)
    first = np.append(True, np.diff(ties) > 1)[: len(ties)]
    size = np.diff(np.append(np.flatnonzero(first), len(ties))) + 1
    return Order(place, known, ties[first], size)


def average_ranks(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rank of each value within its row, from 1; ties share their average, NaN stays NaN. [row, n]

    Exact up to 2^23 columns.
    """
    order = order_rows(rows)
    count = rows.shape[1]
    ranks = np.tile(np.arange(1, count + 1, dtype=np.float32), (len(rows), 1))
    if len(order.start):
        shared = (order.start % count + 1 + (order.size - 1) / 2).astype(np.float32)
        ranks.ravel()[order.members()] = order.spread(shared)
    if order.known.min(initial=count) < count:
        ranks[np.arange(count) >= order.known[:, None]] = np.nan
    return order.back(ranks)
