"""How fast the scores of a date lose their worth."""

from collections.abc import Sequence

import numpy as np

from atft.evaluation.cross_section import MIN_NAMES, Array, Single, centred_ranks, correlation_of
from atft.evaluation.market import Market


def decay_rank_ic(
    market: Market, days: Sequence[int], scores: Single, lags: int, min_names: int = MIN_NAMES
) -> tuple[Array, Array]:
    """RankIC with the return of the first k days after entry, and of the k-th day alone. Each [day, horizon, lag].

    All lags rank the same stocks: those scored that could be entered and whose prices are known up to
    the last lag (a delisted stock's is: it stays at what its holders got). A day whose last lag lies
    beyond the sample is NaN throughout, so that all lags also share their dates: otherwise a change
    of the sample would pass for decay.

    Args:
        days: Positions on the market's calendar.
        scores: [day, stock, horizon], NaN where not ranked.
        lags: k runs from 1 to this.
    """
    cumulative, marginal = (np.full((len(days), scores.shape[2], lags), np.nan) for _ in range(2))
    entry = np.asarray(days) + market.delay
    inside = np.flatnonzero(entry + lags < len(market.dates))
    if not len(inside):
        return cumulative, marginal
    entry, scores = entry[inside], scores[inside]
    known = np.isfinite(scores).all(2) & market.can_trade[entry]
    for lag in range(1, lags + 1):
        known &= market.has_bar[entry + lag] | market.gone[entry + lag]
    ranked = [centred_ranks(np.ascontiguousarray(scores[:, :, h]), known) for h in range(scores.shape[2])]
    start = market.log_growth[entry]
    for lag in range(1, lags + 1):
        # Rounded to what single-precision returns can tell, so that prices that are back where they were tie.
        grown = np.round(market.log_growth[entry + lag] - start, 7).astype(np.float32)
        for out, returns in ((cumulative, grown), (marginal, market.daily_return[entry + lag])):
            ranks = centred_ranks(returns, known)
            for h, score in enumerate(ranked):
                out[inside, h, lag - 1] = correlation_of(score, ranks, known, min_names)
    return cumulative, marginal
