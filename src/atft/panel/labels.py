"""What the score is meant to order: the return of a position that could really have been entered.

All arrays are [date, stock]; a day's label looks at that day's stocks alone.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def forward_return(
    path: NDArray[np.float64],
    has_bar: NDArray[np.bool_],
    can_trade: NDArray[np.bool_],
    left: NDArray[np.bool_],
    error: NDArray[np.bool_],
    horizons: Sequence[int],
    delay: int,
) -> NDArray[np.float32]:
    """Simple return from the close of t + delay to the close of t + delay + h, [date, stock, horizon].

    NaN where one could not enter, where the exit price is missing, where a price error lies between
    them, and where the sample ends first: never filled. A stock that is delisted on the way counts
    with its terminal return, where one is known.

    Args:
        path: Log growth of 1 by date and stock, terminal return included.
        has_bar: Whether a price was printed.
        can_trade: Whether one could buy at it.
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
        known = can_trade[entry] & (has_bar[leave] | left[leave]) & (errors[leave] == errors[entry])
        out[:last, :, i] = np.where(known, growth, np.nan)
    return out


def residual_label(
    returns: NDArray[np.float32], beta: NDArray[np.float32] | None, sector: NDArray[np.int16] | None
) -> NDArray[np.float32]:
    """One date's forward returns less what the market and the sector explain, [stock, horizon].

    With `beta` (trailing, as of the date) beta times the equal-weighted mean return is taken off
    first, then with `sector` the sector's mean. NaN where the return or the beta is unknown, and for
    a stock whose sector is unknown or that is alone in it.

    Args:
        returns: [stock, horizon] of the date's tradable stocks, NaN masked.
        beta: [stock], or None to leave the market in.
        sector: [stock] numbers, or None to leave the sectors in.
    """
    left = returns.astype(np.float64)
    if beta is not None:
        known = np.isfinite(left)
        market = np.where(known, left, 0.0).sum(0) / np.maximum(known.sum(0), 1)
        left -= beta[:, None] * market
    if sector is not None:
        left -= group_mean(left, sector)
    return left.astype(np.float32)


def group_mean(values: NDArray[np.float64], group: NDArray[np.int16]) -> NDArray[np.float64]:
    """Mean of the known values of each stock's group, [stock, column].

    NaN where the group is unknown (0), and for a stock that is alone in it: it has nothing to be
    compared with.
    """
    known = np.isfinite(values)
    groups = int(group.max(initial=0)) + 1
    total, count = np.zeros((groups, values.shape[1])), np.zeros((groups, values.shape[1]))
    np.add.at(total, group, np.where(known, values, 0.0))
    np.add.at(count, group, known)
    count[0] = 0
    return np.where(count > 1, total / np.maximum(count, 1), np.nan)[group]
