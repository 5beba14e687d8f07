"""Edges as of one date: who has moved with whom, once market and sector are taken out."""

import numpy as np
from numpy.typing import NDArray

EDGE_FEATURES = ("residual_correlation", "correlation", "volatility_similarity", "same_sector", "same_industry")
CLIP = 4.0  # robust standard deviations; one crash day must not decide a correlation


def residual_returns(
    returns: NDArray[np.float64], present: NDArray[np.bool_], sector: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Daily returns less market beta x market and less the sector's mean residual; 0 where absent.

    Args:
        returns: [day, stock] simple daily returns of one window.
        present: [day, stock] the stock printed that day.
        sector: [stock] sector numbers.
    """
    count = np.maximum(present.sum(1, keepdims=True), 1)
    market = np.where(present, returns, 0.0).sum(1, keepdims=True) / count
    days = np.maximum(present.sum(0), 1)
    mean = np.where(present, returns, 0.0).sum(0) / days
    own = np.where(present, returns - mean, 0.0)
    moved = np.where(present, market - market.mean(), 0.0)
    beta = (own * moved).sum(0) / np.maximum((moved**2).sum(0), 1e-12)
    residual = np.where(present, own - beta * moved, 0.0)
    for s in np.unique(sector):
        members = sector == s
        names = np.maximum(present[:, members].sum(1, keepdims=True), 1)
        residual[:, members] -= residual[:, members].sum(1, keepdims=True) / names
    return np.where(present, residual, 0.0)


def tamed(returns: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Returns less the stock's mean, clipped at CLIP robust deviations; 0 where absent.

    A crash inflates the standard deviation that should have tamed it, and the beta that should
    have explained it; the median does not move.
    """
    centred = np.where(present, returns - np.where(present, returns, 0.0).mean(0), 0.0)
    std = np.sqrt((centred**2).sum(0) / np.maximum(present.sum(0), 1))
    size = np.where(present | ~present.any(0), np.abs(centred), np.nan)
    scale = np.fmax(1.4826 * np.nanmedian(size, axis=0), 0.2 * std)
    return np.clip(centred, -CLIP * scale, CLIP * scale)


def correlations(values: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pairwise correlation [stock, stock] of columns; absent days count as the column's mean."""
    mean = np.where(present, values, 0.0).sum(0) / np.maximum(present.sum(0), 1)
    centred = np.where(present, values - mean, 0.0)
    unit = centred / np.maximum(np.sqrt((centred**2).sum(0)), 1e-12)
    return unit.T @ unit


def nearest(similarity: NDArray[np.float64], neighbors: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(source, target) of each column's `neighbors` most similar rows; only positive similarity counts."""
    order = np.argsort(-similarity, axis=0, kind="stable")[:neighbors]
    target = np.broadcast_to(np.arange(similarity.shape[1]), order.shape)
    keep = np.take_along_axis(similarity, order, axis=0) > 0
    return order[keep], target[keep]


def snapshot_edges(
    returns: NDArray[np.float64],
    present: NDArray[np.bool_],
    sector: NDArray[np.int64],
    industry: NDArray[np.int64],
    neighbors: int,
    industry_neighbors: int,
    min_overlap: int,
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Edges of one window: `edge_index` [2, edge] (source informs target), `edge_attr` [edge, feature].

    Each stock listens to its `neighbors` nearest by residual correlation and to its
    `industry_neighbors` nearest of the same industry. A pair found both ways is one edge. Stocks
    with fewer than `min_overlap` days have none. Ties go to the lower stock number. Sorted by
    target, then source; no self-loops.
    """
    enough = present.sum(0) >= min_overlap
    returns = tamed(returns, present)
    residual = residual_returns(returns, present, sector)
    similar = correlations(residual, present)
    pair = enough[:, None] & enough[None, :] & ~np.eye(len(enough), dtype=bool)
    same_sector, same_industry = sector[:, None] == sector, industry[:, None] == industry
    source, target = nearest(np.where(pair, similar, -1.0), neighbors)
    if industry_neighbors:
        # Shifted above zero: an industry link stands even where the residuals disagree.
        within = np.where(pair & same_industry, similar + 2.0, -1.0)
        more_source, more_target = nearest(within, industry_neighbors)
        source, target = np.append(source, more_source), np.append(target, more_target)
    coded = np.unique(target * len(enough) + source)
    target, source = np.divmod(coded, len(enough))
    spread = returns.std(0)
    typical = np.median(spread[enough]) if enough.any() else 1.0
    raw = correlations(returns, present)
    features = [
        similar[source, target],
        raw[source, target],
        np.exp(-np.abs(spread[source] - spread[target]) / max(typical, 1e-8)),
        same_sector[source, target],
        same_industry[source, target],
    ]
    return np.stack([source, target]), np.stack(features, axis=1).astype(np.float32)
