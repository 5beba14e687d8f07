"""From scores to the weights a book wants: who is held, how much, and how slowly it changes its mind."""

import numpy as np
from numpy.typing import NDArray

from atft.evaluation.cross_section import centred_ranks
from atft.panel.ordering import order_rows

Array = NDArray[np.float64]
Single = NDArray[np.float32]


def long_short_weights(score: NDArray[np.floating], quantile: float) -> Array:
    """+1/2 spread over the top `quantile` of the stocks, -1/2 over the bottom; [stock].

    NaN scores are not held. Of stocks that tie at a cut the lower numbers count as the lower scores. All 0
    where every score ties: a constant is no opinion.
    """
    weights = np.zeros(len(score))
    known = np.flatnonzero(np.isfinite(score))
    bottom, top = _extremes(score, known[np.argsort(score[known], kind="stable")], quantile)
    weights[bottom] -= 0.5 / max(len(bottom), 1)
    weights[top] += 0.5 / max(len(top), 1)
    return weights


def target_weights(
    score: Single,
    *,
    quantile: float,
    horizon: int,
    long_only: bool = False,
    smoothing: float = 0.0,
    exit_quantile: float = 0.0,
    neutral: str = "none",
    beta: Single | None = None,
    sector: NDArray[np.int16] | None = None,
) -> Array:
    """Weights the signal of each day asks for: gross 1, long-short +-1/2 or long only. [day, stock]

    Args:
        score: [day, stock] of consecutive days, NaN where not ranked; a day of NaN holds nothing.
        quantile: Share of the ranked stocks on each side.
        horizon: Days between two signals of the same sleeve: what it held then is what
            `exit_quantile` may keep.
        smoothing: Share of yesterday in an exponential average of the stock's rank; 0 is none.
        exit_quantile: A stock held by the sleeve stays while it is within this share from its end,
            and leaves no room for a new one. At most `quantile`: no such band.
        neutral: none | beta | sector | beta_sector. What is taken out of the held stocks' weights by
            projection, before they are brought back to gross 1; not for long-only books.
        beta, sector: [day, stock] as of the day, for `neutral`. An unknown beta counts as 1.
    """
    days, stocks = score.shape
    ranked = _smoothed(score, smoothing) if smoothing else score
    order = order_rows(np.where(np.isfinite(ranked), ranked, np.nan).astype(np.float32, copy=False))
    weights = np.zeros((days, stocks))
    members: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for day in range(days):
        held = members[day - horizon] if exit_quantile > quantile and day >= horizon else None
        ascending = order.place[day, : order.known[day]].astype(np.int64)
        bottom, top = _extremes(ranked[day], ascending, quantile, held, exit_quantile)
        members.append((bottom, top))
        if not len(top):
            continue
        if long_only:
            weights[day, top] = 1 / len(top)
            continue
        weights[day, bottom] -= 0.5 / len(bottom)
        weights[day, top] += 0.5 / len(top)
        if neutral != "none":
            assert beta is not None
            assert sector is not None
            here = np.concatenate([bottom, top])
            weights[day, here] = _neutral(weights[day, here], beta[day, here], sector[day, here], neutral)
    return weights


def _extremes(
    score: NDArray[np.floating],
    order: NDArray[np.int64],
    quantile: float,
    held: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    exit_quantile: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the stocks at the bottom and at the top; both empty where there is no opinion.

    Args:
        order: Numbers of the ranked stocks, lowest score first.
    """
    side = int(np.floor(len(order) * quantile + 1e-9))
    if side == 0 or score[order[0]] == score[order[-1]]:
        return order[:0], order[:0]
    bottom, top = order[:side], order[-side:]
    if held is None:
        return bottom, top
    band = min(max(int(np.floor(len(order) * exit_quantile + 1e-9)), side), len(order) - side)
    return _kept(order[:band], held[0], side), _kept(order[::-1][:band], held[1], side)


def _kept(band: NDArray[np.int64], held: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """`side` stocks of the band, best first: those already held, then the best others."""
    stays = np.isin(band, held)
    return np.concatenate([band[stays], band[~stays]])[:side]


def _smoothed(score: Single, share: float) -> Single:
    """Exponential average of the centred rank's share; a stock without yesterday starts with today."""
    known = np.isfinite(score)
    rank = centred_ranks(score, known) / np.maximum(known.sum(1, keepdims=True), 1)
    out = np.empty_like(rank)
    last = np.full(score.shape[1], np.nan)
    for day in range(len(score)):
        today = np.where(np.isfinite(last), share * last + (1 - share) * rank[day], rank[day])
        last = np.where(known[day], today, np.nan)
        out[day] = last
    return out.astype(np.float32)


def _neutral(weights: Array, beta: Single, sector: NDArray[np.int16], kind: str) -> Array:
    """The weights less their projection on what they shall not carry, at the same gross.

    All 0 where nothing is left: every held stock alone in its sector, say.
    """
    groups = np.unique(sector, return_inverse=True)[1] if "sector" in kind else np.zeros(len(weights), int)
    columns = (groups[:, None] == np.arange(groups.max() + 1)).astype(np.float64)
    if "beta" in kind:
        columns = np.column_stack([columns, np.where(np.isfinite(beta), beta, 1.0)])
    left = weights - columns @ np.linalg.lstsq(columns, weights, rcond=None)[0]
    gross = np.abs(left).sum()
    return left / gross if gross > 1e-9 else np.zeros_like(left)
