"""What a score and a return series are worth. Undefined values are null (or None), never 0 or NaN."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

MIN_NAMES = 20  # stocks below which a date's correlation is noise


def daily_ic(scored: pl.DataFrame, keys: Sequence[str], min_names: int = MIN_NAMES) -> pl.DataFrame:
    """IC and RankIC across stocks, one row per group of `keys`, which holds the date.

    Correlate within a date, average later: pooled across dates, a market that rises all year
    passes for stock selection.

    Args:
        scored: One row per stock with `score` and `forward_return` (simple, 0.01 = 1 %). Rows
            with either missing are dropped before ranking.
        keys: Columns that make a cross-section, for example fold, seed, horizon, date.
        min_names: Fewer stocks than this give null.

    Returns:
        `keys`, `ic` (Pearson) and `rank_ic` (Pearson of average ranks, so ties share one rank),
        both null where all scores or all returns tie, and `stocks` behind them; sorted by `keys`.

    Source: Grinold & Kahn, Active Portfolio Management, 2nd ed., ch. 6.
    """
    both = scored.with_columns(pl.col("score", "forward_return").cast(pl.Float64))
    both = both.filter(pl.col("score").is_finite() & pl.col("forward_return").is_finite())
    ranks = [pl.col(name).rank("average").over(keys).alias(f"{name}_rank") for name in ("score", "forward_return")]
    varies = (pl.col("score").n_unique() > 1) & (pl.col("forward_return").n_unique() > 1) & (pl.len() >= min_names)
    return (
        both.with_columns(ranks)
        .group_by(keys)
        .agg(
            ic=pl.when(varies).then(pl.corr("score", "forward_return")),
            rank_ic=pl.when(varies).then(pl.corr("score_rank", "forward_return_rank")),
            stocks=pl.len(),
        )
        .sort(keys)
    )


def rank_ic(score: ArrayLike, target: ArrayLike, min_names: int = MIN_NAMES) -> float | None:
    """Spearman correlation of one cross-section; see `daily_ic` for ties and missing values."""
    frame = pl.DataFrame({"score": np.asarray(score, float), "forward_return": np.asarray(target, float)})
    result = daily_ic(frame.with_columns(date=pl.lit(0)), ["date"], min_names)["rank_ic"]
    return result[0] if len(result) else None


def information_ratio(ic: ArrayLike) -> float | None:
    """Mean over standard deviation (ddof 1) of a daily IC series: ICIR, not annualised."""
    values = _finite(ic)
    return _ratio(values.mean(), values.std(ddof=1)) if len(values) > 1 else None


def newey_west_t(values: ArrayLike, lags: int) -> float | None:
    """t-statistic of the mean with Bartlett-weighted autocovariances up to `lags` (Newey & West 1987).

    Labels of h days overlap, so h - 1 lags at least; see `default_lags`.
    """
    x = _finite(values)
    if len(x) <= lags + 1:
        return None
    centred = x - x.mean()
    variance = centred @ centred / len(x)
    for lag in range(1, lags + 1):
        variance += 2 * (1 - lag / (lags + 1)) * (centred[lag:] @ centred[:-lag]) / len(x)
    return _ratio(x.mean(), np.sqrt(variance / len(x))) if variance > 0 else None


def default_lags(days: int, horizon: int) -> int:
    """max(h - 1, floor(4 (T / 100)^(2/9)))."""
    return max(horizon - 1, int(4 * (days / 100) ** (2 / 9)))


def sharpe(returns: ArrayLike, periods_per_year: int) -> float | None:
    """Annualised mean over standard deviation (ddof 1) of daily portfolio returns."""
    values = _finite(returns)
    if len(values) < 2:
        return None
    ratio = _ratio(values.mean(), values.std(ddof=1))
    return None if ratio is None else float(np.sqrt(periods_per_year) * ratio)


def max_drawdown(returns: ArrayLike) -> float | None:
    """Largest fall of compounded wealth from its peak, as a negative share; the start counts as a peak."""
    values = _finite(returns)
    if not len(values):
        return None
    wealth = np.concatenate([[1.0], np.cumprod(1 + values)])
    return float((wealth / np.maximum.accumulate(wealth) - 1).min())


def population_stability(reference: ArrayLike, current: ArrayLike, bins: int) -> float | None:
    """Population stability index of raw scores: sum (q - p) ln(q / p) over quantile bins of the reference.

    Shares are floored at 1e-4. Above 0.25 the distribution has moved. Two samples of one
    distribution differ by (bins - 1)(1/N + 1/M) on average. Null where reference scores tie so
    much that a bin vanishes.
    """
    before, after = _finite(reference), _finite(current)
    if len(before) < bins or not len(after):
        return None
    edges = np.quantile(before, np.linspace(0, 1, bins + 1)[1:-1])
    if len(np.unique(edges)) < len(edges):
        return None
    p, q = (np.bincount(np.searchsorted(edges, x, side="left"), minlength=bins) / len(x) for x in (before, after))
    return stability_of_shares(p, q)


def stability_of_shares(reference: ArrayLike, current: ArrayLike) -> float:
    """Population stability index of two sets of bin shares, floored at 1e-4."""
    p, q = np.maximum(np.asarray(reference, float), 1e-4), np.maximum(np.asarray(current, float), 1e-4)
    return float(np.sum((q - p) * np.log(q / p)))


def _finite(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def _ratio(numerator: float, denominator: float) -> float | None:
    return float(numerator / denominator) if denominator > 1e-12 * max(abs(numerator), 1e-12) else None
