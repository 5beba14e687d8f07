"""Stationary bootstrap of whole dates: stocks of one day move together, days that follow each other too."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from atft.evaluation.significance import finite, ratio

MIN_DAYS = 20  # fewer say nothing about their own autocorrelation


def politis_white_block(values: ArrayLike) -> float | None:
    """Mean block length, in days, that suits the stationary bootstrap of a daily series.

    Autocovariances count up to twice the lag from which max(5, log10 T) in a row are insignificant,
    fully to its half and fading from there. Independent days give less than 1.

    Returns:
        At most min(3 sqrt(T), T / 3), rounded up; None with fewer than 20 days or for a constant.

    Source: Politis & White 2004, Econometric Reviews 23(1), corrected by Patton, Politis & White
    2009, 28(4); the finite-sample choices are those of `arch.bootstrap.optimal_block_length`.
    """
    x = finite(values)
    days = len(x)
    if days < MIN_DAYS or ratio(x.mean(), x.std()) is None:
        return None
    centred = x - x.mean()
    run = max(5, int(np.log10(days)))
    longest = int(np.ceil(np.sqrt(days))) + run
    cross = np.array([centred[k:] @ centred[: days - k] for k in range(longest + 1)])
    cutoff = min(2 * _first_insignificant(centred, cross, run), longest)
    lag = np.arange(1, cutoff + 1)
    weighted = np.minimum(1, 2 * (1 - lag / cutoff)) * cross[1 : cutoff + 1] / days
    slope, long_run = 2 * float(lag @ weighted), cross[0] / days + 2 * float(weighted.sum())
    limit = float(np.ceil(min(3 * np.sqrt(days), days / 3)))
    return min(float((days * (slope / long_run) ** 2) ** (1 / 3)), limit) if long_run != 0 else limit


def _first_insignificant(centred: NDArray[np.float64], cross: NDArray[np.float64], run: int) -> int:
    """First lag from which `run` autocorrelations in a row lie within 2 sqrt(log10 T / T), else the last lag."""
    days, lags = len(centred), np.arange(len(cross))
    squares = np.concatenate([[0.0], np.cumsum(centred**2)])
    scale = np.sqrt((squares[-1] - squares[lags + 1]) * squares[days - 1 - lags])
    small = np.abs(cross) < 2 * np.sqrt(np.log10(days) / days) * scale
    windows = np.lib.stride_tricks.sliding_window_view(small[:-1], run).all(axis=1)
    return max(int(windows.argmax()), 1) if windows.any() else len(cross) - 1


def stationary_bootstrap_indices(days: int, block: float, draws: int, seed: int) -> NDArray[np.int64]:
    """Days to draw, [draws, days]: runs of consecutive days of geometric length, mean `block`.

    The calendar is a circle, so that every day is equally likely. A block below 1 means 1, the
    bootstrap of single days. One seed gives the same bytes.

    Source: Politis & Romano 1994, JASA 89(428).
    """
    rng = np.random.default_rng(seed)
    starts = rng.integers(days, size=(draws, days))
    restart = rng.random((draws, days)) < 1 / max(block, 1.0)
    position = np.arange(days)
    latest = np.maximum.accumulate(np.where(restart, position, 0), axis=1)
    return (np.take_along_axis(starts, latest, axis=1) + position - latest) % days


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    level: float = 0.95,
    *,
    draws: int,
    seed: int,
) -> tuple[float, float] | None:
    """Percentile interval of a statistic of a daily series, days drawn in blocks.

    Args:
        values: [day], or [day, k] for a statistic of k series that are drawn together, such as a
            difference of two Sharpe ratios. Days with any value missing are dropped.
        statistic: Maps drawn values [draws, day] (or [draws, day, k]) to [draws]; no loop over draws.
        level: Probability the interval should cover.
        draws: Bootstrap draws, 1,000 or more for 95 %.
        seed: Of the draws.

    Returns:
        (low, high) in units of the statistic. The block is the longest of the columns' own. None
        with fewer than 20 days, where every column is constant, or where a draw has no statistic.

        A little short, since a block cuts off dependence longer than itself: a nominal 95 % covers the
        mean of 500 days of overlapping 5-day labels, or of an AR(1) of 0.6, about 91 % of the time,
        which is what Newey-West with `default_lags` does too.

    Source: Politis & Romano 1994, JASA 89(428).
    """
    x = np.asarray(values, dtype=np.float64)
    series = np.atleast_2d(x.T)
    kept = np.isfinite(series).all(axis=0)
    known = [block for block in map(politis_white_block, series[:, kept]) if block is not None]
    if not known:
        return None
    drawn = statistic(x[kept][stationary_bootstrap_indices(int(kept.sum()), max(known), draws, seed)])
    if not np.isfinite(drawn).all():
        return None
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
