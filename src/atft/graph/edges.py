"""Edges as of one date, from one window of returns: who has moved with whom, once market and sector are taken out.

W days, N stocks. Nodes are the stocks 0 .. N - 1, then the industries, then the sectors. A label of 0 is
unknown: it neither groups nor joins anybody.
"""

import numpy as np
from numpy.typing import NDArray

EDGE_FEATURES = (
    "residual_correlation",   # after market and sector, shrunk
    "correlation",            # of the returns themselves, shrunk
    "volatility_similarity",  # exp(-|v_i - v_j| / sigma), sigma the spread of v over stocks
    "sector_comovement",      # mean correlation between members of the two stocks' sectors, after the market
    "same_sector",
    "same_industry",
    "self_loop",
    "upward",                 # stock -> industry -> sector
    "downward",               # sector -> industry -> stock
    "weight",                 # odds of the link in attention; the last column, and no feature to the network
)  # fmt: skip
MEASURED = EDGE_FEATURES[:4]  # the others say what kind of link it is
CLIP = 4.0  # robust standard deviations; one crash day must not decide a correlation
RECENT = 5  # days without a print after which a stock is nobody's neighbour: most are gone for good
FLAT = 1e-4  # of its own variance: a stock that moved less on the common days has no correlation there
ROWS = 125  # of a matrix [stock, stock] worked on at a time, so that they stay in the processor's cache

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
Edges = tuple[Numbers, NDArray[np.float32]]  # edge_index [2, edge], source informs target; edge_attr [edge, feature]


def day_weights(days: int, half_life: int) -> Array:
    """Weights of the window's days, newest last, that sum to the effective number of days.

    Equal weights (`half_life` 0) sum to `days`; weights that halve every `half_life` days sum to
    (sum w)^2 / sum w^2, the number of equal days whose mean would be as uncertain (Kish 1965).
    """
    weights = 0.5 ** (np.arange(days)[::-1] / half_life) if half_life else np.ones(days)
    return weights * weights.sum() / (weights**2).sum()


def standardized(values: Array, present: Mask, weights: Array) -> tuple[Array, Array]:
    """Columns less their mean, over their standard deviation, and the latter; 0 where absent or constant."""
    share = present * weights[:, None]
    total = np.maximum(share.sum(0), 1e-12)
    centred = np.where(present, values - (share * values).sum(0) / total, 0.0)
    spread = np.sqrt((share * centred**2).sum(0) / total)
    return np.where(spread > 1e-12, centred / np.maximum(spread, 1e-12), 0.0), spread


def tamed(returns: Array, present: Mask) -> Array:
    """Returns less the stock's mean, clipped at CLIP robust deviations; 0 where absent.

    A crash inflates the standard deviation that should have tamed it, and the beta that should
    have explained it; the median does not move.
    """
    days = np.maximum(present.sum(0), 1)
    centred = np.where(present, returns - np.where(present, returns, 0.0).sum(0) / days, 0.0)
    std = np.sqrt((centred**2).sum(0) / days)
    size = np.sort(np.where(present, np.abs(centred), np.inf), axis=0)
    middle = np.take_along_axis(size, np.stack([(days - 1) // 2, days // 2]), axis=0).mean(0)
    scale = np.fmax(1.4826 * np.where(present.any(0), middle, 0.0), 0.2 * std)
    return np.clip(centred, -CLIP * scale, CLIP * scale)


def market_residuals(returns: Array, present: Mask, weights: Array) -> Array:
    """Returns less mean and beta x market, fitted by least squares on the stock's own days; 0 where absent.

    The market is the mean return of the stocks that printed that day.
    """
    share = present * weights[:, None]
    total = np.maximum(share.sum(0), 1e-12)
    returns = np.where(present, returns, 0.0)
    market = returns.sum(1, keepdims=True) / np.maximum(present.sum(1, keepdims=True), 1)
    own = np.where(present, returns - (share * returns).sum(0) / total, 0.0)
    moved = np.where(present, market - (share * market).sum(0) / total, 0.0)
    beta = (share * own * moved).sum(0) / np.maximum((share * moved**2).sum(0), 1e-12)
    return own - beta * moved


def sector_residuals(residual: Array, present: Mask, sector: Numbers) -> Array:
    """Less the mean of the sector's stocks that printed that day; 0 where absent.

    A stock that is alone in its sector that day, or whose sector is unknown, keeps its residual:
    its own mean would take all of it.
    """
    member = (sector[:, None] == np.arange(sector.max() + 1)).astype(np.float64)
    names = present @ member
    mean = np.where(names >= 2, (residual @ member) / np.maximum(names, 1), 0.0)
    mean[:, 0] = 0.0
    return np.where(present, residual - mean[:, sector], 0.0)


def correlations(
    values: Array, present: Mask, weights: Array, shrinkage: float, min_overlap: int
) -> NDArray[np.float32]:
    """Correlation of each pair of columns on their common days, times n / (n + shrinkage). [stock, stock]

    n is the effective number of common days, so a pair that shares few of them is pulled further
    towards 0: between stocks without gaps the order of neighbours stays, a newcomer's accidents
    fall behind. As a rule of thumb, `shrinkage` = 1 / variance of the true correlations.

    0 where a pair shares fewer than `min_overlap` days. In float32, good to about 1e-6.
    """
    unit, _ = standardized(values, present, weights)
    whole = (unit * np.sqrt(weights / (weights.sum() + shrinkage))[:, None]).astype(np.float32)
    out = np.ascontiguousarray(whole.T) @ whole
    # One product serves all pairs of stocks without a gap; only the others are redone.
    gaps = np.flatnonzero(~present.all(0))
    one, z, w = present.astype(np.float32), unit.astype(np.float32), weights.astype(np.float32)
    square = z * z
    for start in range(0, len(gaps), ROWS):
        rows = gaps[start : start + ROWS]
        days, mine, power = (np.ascontiguousarray(values[:, rows].T) * w for values in (one, z, square))
        n, sum_i, sum_j = np.maximum(days @ one, np.float32(1e-6)), mine @ one, days @ z
        variance = np.maximum(power @ one - sum_i**2 / n, FLAT * n)
        variance *= np.maximum(days @ square - sum_j**2 / n, FLAT * n)
        part = np.clip((mine @ z - sum_i * sum_j / n) / np.sqrt(variance), -1, 1) * (n / (n + np.float32(shrinkage)))
        part[np.ascontiguousarray(one[:, rows].T) @ one < min_overlap] = 0.0
        out[rows], out[:, rows] = part, part.T
    return out


def nearest(similarity: NDArray[np.float32], neighbors: int, floor: float) -> tuple[Numbers, Numbers]:
    """(source, target) of each row's `neighbors` largest columns above `floor`, by target, then source.

    Ties go to the lower number. The matrix is symmetric; its diagonal counts like any other place.
    """
    stocks = len(similarity)
    place = max(stocks - neighbors, 0)
    least = np.nextafter(np.float32(floor), np.float32(np.inf))
    found = []
    for start in range(0, stocks, ROWS):
        rows = similarity[start : start + ROWS]
        cut = np.maximum(np.partition(rows, place, axis=1)[:, place, None], least)
        found.append(np.flatnonzero(rows >= cut) + start * stocks)
    coded = np.concatenate(found)
    target, source = np.divmod(coded, stocks)
    # The stable sort leaves equal values in the order of their numbers, the lower one first.
    order = np.argsort(-similarity.ravel()[coded], kind="stable")
    order = order[np.argsort(target[order], kind="stable")]
    rank = np.arange(len(coded)) - np.searchsorted(target, target)
    kept = np.sort(order[rank < neighbors])
    return source[kept], target[kept]


def sector_comovement(residual: Array, present: Mask, weights: Array, sector: Numbers) -> Array:
    """Mean correlation of market residuals over the pairs (i of one sector, j of another), i != j. [sector, sector]

    The diagonal says how closely a sector moves together. Absent days count as no surprise. 0 where
    there is no pair, and for sector 0.
    """
    unit, _ = standardized(residual, present, weights)
    unit = unit * np.sqrt(weights)[:, None]
    unit /= np.maximum(np.sqrt((unit**2).sum(0)), 1e-12)
    member = (sector[:, None] == np.arange(sector.max() + 1)).astype(np.float64)
    member[:, 0] = 0.0
    names, total = member.sum(0), unit @ member
    itself = np.diag((unit**2).sum(0) @ member)
    pairs = np.outer(names, names) - np.diag(names)
    return np.where(pairs > 0, (total.T @ total - itself) / np.maximum(pairs, 1), 0.0)


def peer_edges(
    returns: Array,
    present: Mask,
    sector: Numbers,
    industry: Numbers,
    neighbors: int,
    min_overlap: int,
    half_life: int,
    shrinkage: float,
    min_correlation: float,
) -> tuple[Numbers, NDArray[np.float32], Array]:
    """Links between stocks, and how sectors move together: `edge_index`, `edge_attr`, [sector, sector].

    Each stock listens to its `neighbors` nearest by residual correlation above `min_correlation`.
    Stocks with fewer than `min_overlap` days, and those that stopped printing or never moved, neither
    listen nor speak.
    """
    weights = day_weights(len(returns), half_life)
    returns = tamed(returns, present)
    residual = market_residuals(returns, present, weights)
    who = np.flatnonzero((present.sum(0) >= min_overlap) & present[-RECENT:].any(0) & returns.any(0))
    together = np.zeros((sector.max() + 1, sector.max() + 1))
    if not len(who):
        return np.empty((2, 0), np.int64), np.empty((0, len(EDGE_FEATURES)), np.float32), together
    own = sector_residuals(residual, present, sector)
    returns, residual, own = returns[:, who], residual[:, who], own[:, who]
    present, sector, industry = present[:, who], sector[who], industry[who]
    settings = (present, weights, shrinkage, min_overlap)
    similar = correlations(own, *settings)
    np.fill_diagonal(similar, 0.0)
    source, target = nearest(similar, neighbors, min_correlation)
    _, volatility = standardized(returns, present, weights)
    sigma = max(volatility.std(), 1e-12)
    some = sector_comovement(residual, present, weights, sector)
    together[: len(some), : len(some)] = some
    attr = edge_attr(
        len(source),
        residual_correlation=similar[target, source],
        correlation=correlations(returns, *settings)[target, source],
        volatility_similarity=np.exp(-np.abs(volatility[source] - volatility[target]) / sigma),
        sector_comovement=together[sector[source], sector[target]],
        same_sector=(sector[source] == sector[target]) & (sector[source] > 0),
        same_industry=(industry[source] == industry[target]) & (industry[source] > 0),
        weight=1.0,
    )
    return np.stack([who[source], who[target]]), attr, together


def self_loops(stocks: int) -> Edges:
    """Each stock hears itself, also one that is new or like no other: then nothing else may reach it."""
    own = np.arange(stocks)
    same = dict.fromkeys(("residual_correlation", "correlation", "volatility_similarity"), 1.0)
    return np.stack([own, own]), edge_attr(stocks, **same, same_sector=1, same_industry=1, self_loop=1, weight=1.0)


def hierarchy(sector: Numbers, industry: Numbers, together: Array, weight: float) -> Edges:
    """Links stock - industry - sector, both ways; none if `weight` is 0.

    Virtual nodes carry what a clique would at a link per stock. A stock of unknown industry joins
    its sector directly. Industries and sectors are numbered among those that somebody belongs to, so
    the numbers mean nothing outside the snapshot.
    """
    stocks = np.arange(len(sector))
    industries, first = np.unique(industry[industry > 0], return_index=True)
    sectors = np.unique(sector[sector > 0])
    parent = sector[industry > 0][first]
    below = np.concatenate([stocks, len(stocks) + np.arange(len(industries))])
    of_sector = len(stocks) + len(industries) + np.searchsorted(sectors, np.concatenate([sector, parent]))
    above = of_sector.copy()
    above[: len(stocks)] = np.where(
        industry > 0, len(stocks) + np.searchsorted(industries, industry), of_sector[: len(stocks)]
    )
    known = np.concatenate([(industry > 0) | (sector > 0), parent > 0]) & (weight > 0)
    strength = np.diag(together)[np.concatenate([sector, parent])][known]
    up = np.stack([below[known], above[known]])
    attr = [
        edge_attr(up.shape[1], sector_comovement=strength, upward=1, weight=weight),
        edge_attr(up.shape[1], sector_comovement=strength, downward=1, weight=weight),
    ]
    return np.concatenate([up, up[::-1]], axis=1), np.concatenate(attr)


def edge_attr(edges: int, **columns: NDArray[np.generic] | float) -> NDArray[np.float32]:
    """[edge, feature] with these columns of `EDGE_FEATURES`, the others 0."""
    out = np.zeros((edges, len(EDGE_FEATURES)), np.float32)
    for name, values in columns.items():
        out[:, EDGE_FEATURES.index(name)] = values
    return out
