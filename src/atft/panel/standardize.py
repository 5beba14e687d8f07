"""Values made comparable within their date; nothing is learned from other dates."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from atft.panel.ordering import order_rows

CLIP = 3.0  # standard deviations


def rank_gauss(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average ranks mapped to normal quantiles: (rank - 1/2) / n.

    No input, however wrong, moves the others of its day by more than one rank.
    """
    order = order_rows(values.T)
    stocks = len(values)
    scores = np.empty(order.place.shape, np.float32)
    for count in np.unique(order.known):
        scores[order.known == count, :count] = _quantiles(int(count))[1::2]
        scores[order.known == count, count:] = np.nan
    if len(order.start):
        row, first = np.divmod(order.start, stocks)
        shared = np.empty(len(row), np.float32)
        for count in np.unique(order.known[row]):
            here = order.known[row] == count
            shared[here] = _quantiles(int(count))[2 * first[here] + order.size[here]]
        scores.ravel()[order.members()] = order.spread(shared)
    return order.back(scores).T


@lru_cache(maxsize=64)
def _quantiles(count: int) -> NDArray[np.float32]:
    """Normal quantiles of i / (2 count), i = 0 .. 2 count - 1: entry 2 r - 1 belongs to rank r, also between ranks."""
    with np.errstate(divide="ignore"):
        return ndtri(np.arange(2 * count) / max(2 * count, 1)).astype(np.float32)


def zscore(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Less the mean, over the standard deviation, clipped at `CLIP`; a column that is equal for all is all 0."""
    exact = values.astype(np.float64)
    known = np.isfinite(exact)
    count = np.maximum(known.sum(0), 1)
    centred = np.where(known, exact, 0.0)
    centred = np.where(known, exact - centred.sum(0) / count, 0.0)
    spread = np.sqrt((centred**2).sum(0) / np.maximum(count - 1, 1))
    return _scaled(np.where(known, centred, np.nan), spread, _quantile(np.abs(exact), 0.5))


def robust(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Less the median, over 1.4826 times the median absolute deviation, clipped at `CLIP`.

    Where more than half of the stocks tie that deviation is 0; the mean one (times 1.2533) steps in.
    """
    exact = values.astype(np.float64)
    centred = exact - _quantile(exact, 0.5)
    size = np.abs(centred)
    median, known = 1.4826 * _quantile(size, 0.5), np.isfinite(size)
    mean = 1.2533 * np.where(known, size, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    return _scaled(centred, np.where(median > 0, median, mean), _quantile(np.abs(exact), 0.5))


def winsorised(values: NDArray[np.float32], tail: float = 0.01) -> NDArray[np.float32]:
    """Pulled in to the `tail` and 1 - `tail` quantiles of the date, then `zscore`."""
    exact = values.astype(np.float64)
    return zscore(np.clip(exact, _quantile(exact, tail), _quantile(exact, 1 - tail)).astype(np.float32))


def _quantile(values: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Linearly interpolated quantile of each column's known values; NaN where none is known."""
    ordered = np.sort(values, axis=0)
    place = share * (np.maximum(np.isfinite(values).sum(0), 1) - 1)
    low = place.astype(np.int64)
    high = np.minimum(low + 1, len(values) - 1)
    column = np.arange(values.shape[1])
    below, above = ordered[low, column], ordered[high, column]
    return np.where(place > low, below + (place - low) * (above - below), below)


def _scaled(
    centred: NDArray[np.float64], spread: NDArray[np.float64], usual: NDArray[np.float64]
) -> NDArray[np.float32]:
    # A spread far below the rounding of the column's usual value is that of equal values.
    equal = ~(spread > 1e-9 * usual)
    scaled = np.where(equal, 0.0 * centred, centred / np.where(equal, 1.0, spread))
    return np.clip(scaled, -CLIP, CLIP).astype(np.float32)


METHODS: dict[str, Callable[[NDArray[np.float32]], NDArray[np.float32]]] = {
    "rank_gauss": rank_gauss,
    "zscore": zscore,
    "robust": robust,
    "winsorised": winsorised,
}


def standardize(values: NDArray[np.float32], method: str) -> NDArray[np.float32]:
    """Columns of one date's universe standardised across its stocks; [stock, column], NaN stays NaN.

    Args:
        values: Finite or NaN (unknown).
        method: A name out of `METHODS`.
    """
    return METHODS[method](values) if len(values) else values.astype(np.float32)
