"""What the scores of one date are worth against the returns of the same stocks, many dates at once.

Arrays are [day, stock], float32 scores and returns, NaN where unknown. Results are float64 by day, NaN
where undefined. Every number looks at its own date alone: correlate within a date, average later;
pooled across dates, a market that rises all year passes for stock selection.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from atft.panel.ordering import average_ranks, order_rows

Array = NDArray[np.float64]
Single = NDArray[np.float32]

MIN_NAMES = 20  # stocks below which a date's correlation is noise


def pearson_ic(score: Single, returns: Single, min_names: int = MIN_NAMES) -> Array:
    """IC: Pearson correlation across the stocks of which both are known. [day]

    NaN below `min_names` stocks, and where all scores or all returns are equal.

    Source: Grinold & Kahn, Active Portfolio Management, 2nd ed., ch. 6.
    """
    known = np.isfinite(score) & np.isfinite(returns)
    flat = all_equal(score, known) | all_equal(returns, known)
    result = correlation_of(_centred(score, known), _centred(returns, known), known, min_names)
    result[flat] = np.nan
    return result


def rank_ic(score: Single, returns: Single, min_names: int = MIN_NAMES) -> Array:
    """RankIC: Pearson correlation of average ranks, so ties share one rank. [day]

    Stocks with either value missing are dropped before ranking. NaN as in `pearson_ic`.

    Source: Spearman (1904).
    """
    known = np.isfinite(score) & np.isfinite(returns)
    return correlation_of(centred_ranks(score, known), centred_ranks(returns, known), known, min_names)


def centred_ranks(values: Single, known: NDArray[np.bool_]) -> Array:
    """Average rank among the date's `known` stocks less its mean; 0 for the others. [day, stock]"""
    ranks = average_ranks(np.where(known, values, np.float32(np.nan)))
    return np.where(known, ranks - (known.sum(1, keepdims=True) + 1) / 2, 0.0)


def group_rank_ic(score: Single, returns: Single, group: NDArray[np.int16], groups: int, min_names: int = 5) -> Array:
    """RankIC within each group of stocks. [day, group]

    Args:
        group: [day, stock] numbers 0 .. groups - 1.
        min_names: Fewer members with both values known give NaN.
    """
    known = np.isfinite(score) & np.isfinite(returns)
    ranks = [_ranks_within(values, known, group) for values in (score, returns)]
    days = len(score)
    cell = np.arange(days)[:, None] * groups + group

    def total(values: Array | NDArray[np.bool_]) -> Array:
        return np.bincount(cell[known], values[known], days * groups).astype(np.float64).reshape(days, groups)

    count = total(known)
    mean = [np.divide(total(r), count, out=np.zeros_like(count), where=count > 0) for r in ranks]
    a, b = (
        np.where(known, r - np.take_along_axis(m, group.astype(int), 1), 0.0) for r, m in zip(ranks, mean, strict=True)
    )
    size = np.sqrt(total(a * a) * total(b * b))
    return np.divide(total(a * b), size, out=np.full(size.shape, np.nan), where=(size > 0) & (count >= min_names))


def residual_scores(score: Single, exposures: Sequence[Single], group: NDArray[np.int16]) -> Single:
    """Ranks of the score less what exposures and group explain by ordinary least squares. [day, stock]

    Score and exposures enter as average ranks of the date, so no outlier decides; an intercept for
    each group is part of the regression. NaN where the score or an exposure is unknown; 0 for a stock
    alone in its group.

    Args:
        exposures: For example volatility and market beta, as of the date.
        group: [day, stock] numbers from 0, for example sectors; unknown is a group of its own.
    """
    known = np.isfinite(score)
    for exposure in exposures:
        known &= np.isfinite(exposure)
    y, *x = (_less_group_mean(centred_ranks(values, known), known, group) for values in (score, *exposures))
    left = y
    # Gram-Schmidt, one exposure after the other, each day for itself.
    basis: list[Array] = []
    for column in x:
        size = (column * column).sum(1, keepdims=True)
        rest = column
        for earlier in basis:
            rest = rest - earlier * (earlier * rest).sum(1, keepdims=True)
        norm = np.sqrt((rest * rest).sum(1, keepdims=True))
        # What rounding leaves of an exposure that the others explain is no direction.
        unit = np.divide(rest, norm, out=np.zeros_like(rest), where=norm > 1e-6 * np.sqrt(size) + 1e-9)
        basis.append(unit)
        left = left - unit * (unit * left).sum(1, keepdims=True)
    return np.where(known, left, np.nan).astype(np.float32)


def quantile_returns(score: Single, returns: Single, quantiles: int) -> Array:
    """Mean return of the stocks in each quantile of the score, lowest first. [day, quantile]

    Stocks whose scores tie share a quantile. NaN for a quantile without stocks and for a day of
    equal scores.
    """
    known = np.isfinite(score) & np.isfinite(returns)
    ranks = centred_ranks(score, known)
    count = known.sum(1, keepdims=True)
    share = (ranks + count / 2) / np.maximum(count, 1)
    number = np.clip(np.floor(share * quantiles), 0, quantiles - 1).astype(int)
    days = len(score)
    cell = (np.arange(days)[:, None] * quantiles + number)[known]
    total = np.bincount(cell, returns[known], days * quantiles).reshape(days, quantiles)
    stocks = np.bincount(cell, minlength=days * quantiles).reshape(days, quantiles)
    flat = ~(ranks != 0).any(1)
    return np.divide(total, stocks, out=np.full(total.shape, np.nan), where=(stocks > 0) & ~flat[:, None])


def precision(score: Single, returns: Single, names: int) -> Array:
    """How often the `names` best scores were right, and how often anybody would have been. [3, day]

    Share of them with a return above 0, share of all stocks with one (the base rate of the first), share
    of them above the date's median (whose base rate is one half by construction). Ties at the cut go to
    the lower column. NaN with fewer than `names` stocks and where all scores are equal.
    """
    known = np.isfinite(score) & np.isfinite(returns)
    best = order_rows(np.where(known, -score, np.float32(np.nan))).place[:, :names]
    chosen = np.take_along_axis(returns, best, 1)
    enough = (known.sum(1) >= names) & ~all_equal(score, known) & (chosen.shape[1] == names)
    ordered = np.sort(np.where(known, returns, np.inf), axis=1)
    count = known.sum(1)
    row = np.arange(len(score))
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, score.shape[1] - 1)
    median = (ordered[row, low].astype(float) + ordered[row, high]) / 2
    base = ((returns > 0) & known).sum(1) / np.maximum(count, 1)
    found = np.stack([(chosen > 0).mean(1), base, (chosen > median[:, None]).mean(1)])
    return np.where(enough, found, np.nan)


def _centred(values: Single, known: NDArray[np.bool_]) -> Array:
    exact = np.where(known, values, 0).astype(np.float64)
    mean = exact.sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    return np.where(known, exact - mean, 0.0)


def all_equal(values: Single, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the date's known values are one and the same, or there are none. [day]"""
    return ~(np.where(known, values, -np.inf).max(1) > np.where(known, values, np.inf).min(1))


def correlation_of(a: Array, b: Array, known: NDArray[np.bool_], min_names: int) -> Array:
    """Correlation of rows that are centred already and 0 where unknown; NaN where undefined. [row]"""
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    enough = (known.sum(1) >= min_names) & (size > 0)
    return np.divide((a * b).sum(1), size, out=np.full(len(a), np.nan), where=enough)


def _ranks_within(values: Single, known: NDArray[np.bool_], group: NDArray[np.int16]) -> Array:
    """Ranks by group first, then by value: within a group they are its own but for a constant."""
    stocks = values.shape[1]
    ranks = average_ranks(np.where(known, values, np.float32(np.nan)))
    keyed = ranks + group.astype(np.float32) * (stocks + 1)
    assert (int(group.max(initial=0)) + 1) * (stocks + 1) < 2**23, "ranks by group must be exact in float32"
    return np.where(known, average_ranks(keyed), 0.0)


def _less_group_mean(values: Array, known: NDArray[np.bool_], group: NDArray[np.int16]) -> Array:
    days, groups = len(values), int(group.max(initial=0)) + 1
    cell = np.arange(days)[:, None] * groups + group
    total = np.bincount(cell[known], values[known], days * groups)
    count = np.bincount(cell[known], minlength=days * groups)
    mean = total / np.maximum(count, 1)
    return np.where(known, values - mean[cell], 0.0)
