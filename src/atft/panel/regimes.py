"""The state of the market as of a date, from returns up to it.

Rules by quantiles of the past rather than a hidden Markov model: a little less accurate where the
truth is such a chain, but anybody can follow them, and nothing is fitted to the whole sample.
"""

from bisect import bisect_right, insort

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CLIP = 5.0  # standard deviations of a stock beyond which a day is news, not co-movement


def ewma_volatility(returns: Array, half_life: int) -> Array:
    """Root of the exponentially weighted mean square of a daily return series, today included. [day]

    An unknown return is left out, not taken for a calm day: it gives NaN and does not age the others.
    """
    decay = 0.5 ** (1 / half_life)
    out, weighted, weight = np.full(len(returns), np.nan), 0.0, 0.0
    for day in np.flatnonzero(np.isfinite(returns)):
        weighted, weight = decay * weighted + returns[day] ** 2, decay * weight + 1
        out[day] = np.sqrt(weighted / weight)
    return out


def mean_correlation(returns: Array, present: NDArray[np.bool_], volatility: Array, window: int) -> Array:
    """Mean over the trailing `window` days of the mean product of all pairs' standardised returns. [day]

    Each return is divided by its stock's volatility as of the day before, so a single pass over the
    stocks gives what all pairs' products would: ((sum z)^2 - sum z^2) / (n (n - 1)). NaN before
    `window` days with at least two stocks.

    Args:
        returns: [day, stock].
        present: [day, stock] whether the return is one.
        volatility: [day, stock] as of the day's close; NaN where unknown.
    """
    before = np.vstack([np.full_like(volatility[:1], np.nan), volatility[:-1]])
    known = present & (before > 0)
    z = np.clip(np.divide(returns, before, out=np.zeros_like(returns), where=known), -CLIP, CLIP)
    count = known.sum(1)
    pairs = count * (count - 1.0)
    product = np.divide(z.sum(1) ** 2 - (z * z).sum(1), pairs, out=np.full(len(z), np.nan), where=pairs > 0)
    out = np.full(len(z), np.nan)
    if len(z) >= window:
        out[window - 1 :] = np.lib.stride_tricks.sliding_window_view(product, window).mean(1)
    return out


def high_state(values: Array, enter: float = 0.7, leave: float = 0.5, history: int = 60) -> NDArray[np.int8]:
    """1 where a series is high against its own past, 0 where not, -1 where its past is too short. [day]

    It turns high above the `enter` quantile of all earlier values and low again below the `leave`
    quantile: two thresholds, so that it does not flicker. The day's own value is not in the past
    it is held against. Fewer than `history` earlier values give -1, an unknown value the last state.
    """
    past: list[float] = []
    state, out = -1, np.empty(len(values), np.int8)
    for day, value in enumerate(values):
        if np.isfinite(value):
            if len(past) >= history:
                state = int(_share_below(past, value) > (leave if state == 1 else enter))
            insort(past, value)
        out[day] = state
    return out


def _share_below(past: list[float], value: float) -> float:
    return bisect_right(past, value) / len(past)
