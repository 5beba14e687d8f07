"""What the score is meant to order: the return of a position that could really have been entered."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def forward_return(
    path: NDArray[np.float64],
    has_bar: NDArray[np.bool_],
    left: NDArray[np.bool_],
    error: NDArray[np.bool_],
    horizons: Sequence[int],
    delay: int,
) -> NDArray[np.float32]:
    """Simple return from the close of t + delay to the close of t + delay + h, [date, stock, horizon].

    NaN where the entry or exit price is missing, where a price error lies between them, and where
    the sample ends first: never filled. A stock that is delisted on the way counts with its
    terminal return, where one is known.

    Args:
        path: Log growth of 1 by date and stock, terminal return included.
        has_bar: Whether a price was printed.
        left: Delisted with a known terminal return, from that day on.
        error: Unbelievable one-day return ending at this date.
    """
    days = len(path)
    errors = np.cumsum(error, axis=0)
    out = np.full((*path.shape, len(horizons)), np.nan, np.float32)
    for i, horizon in enumerate(horizons):
        last = days - delay - horizon
        if last <= 0:
            continue
        entry, leave = slice(delay, delay + last), slice(delay + horizon, days)
        growth = np.expm1(path[leave] - path[entry])
        known = has_bar[entry] & (has_bar[leave] | left[leave]) & (errors[leave] == errors[entry])
        out[:last, :, i] = np.where(known, growth, np.nan)
    return out
