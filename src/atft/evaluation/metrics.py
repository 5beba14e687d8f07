"""What a daily series is worth. Values that are not finite are left out; undefined is None, never 0 or NaN."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from atft.evaluation.significance import finite, newey_west_variance, ratio


def information_ratio(ic: ArrayLike) -> float | None:
    """Mean over standard deviation (ddof 1) of a daily IC series: ICIR, not annualised."""
    values = finite(ic)
    return ratio(values.mean(), values.std(ddof=1)) if len(values) > 1 else None


def sharpe(returns: ArrayLike, periods_per_year: int) -> float | None:
    """Annualised mean over standard deviation (ddof 1) of daily portfolio returns."""
    daily = information_ratio(returns)
    return None if daily is None else float(np.sqrt(periods_per_year) * daily)


def sortino(returns: ArrayLike, periods_per_year: int) -> float | None:
    """Annualised mean over the root mean square of the losses, over all days (target 0)."""
    values = finite(returns)
    if len(values) < 2:
        return None
    daily = ratio(values.mean(), np.sqrt((np.minimum(values, 0) ** 2).mean()))
    return None if daily is None else float(np.sqrt(periods_per_year) * daily)


def annual_return(returns: ArrayLike, periods_per_year: int) -> float | None:
    """Compound growth rate a year (CAGR), 0.01 = 1 %; -1 where the capital is lost."""
    values = finite(returns)
    if not len(values):
        return None
    wealth = float(np.prod(1 + values))
    return wealth ** (periods_per_year / len(values)) - 1 if wealth > 0 else -1.0


def max_drawdown(returns: ArrayLike) -> float | None:
    """Largest fall of compounded wealth from its peak, as a negative share; the start counts as a peak."""
    values = finite(returns)
    if not len(values):
        return None
    wealth = np.concatenate([[1.0], np.cumprod(1 + values)])
    return float((wealth / np.maximum.accumulate(wealth) - 1).min())


def calmar(returns: ArrayLike, periods_per_year: int) -> float | None:
    """Annual return over the size of the largest drawdown; None without one."""
    growth, fall = annual_return(returns, periods_per_year), max_drawdown(returns)
    return None if growth is None or fall is None else ratio(growth, -fall)


def hit_rate(returns: ArrayLike) -> float | None:
    """Share of days with a return above 0."""
    values = finite(returns)
    return float((values > 0).mean()) if len(values) else None


def break_even_bps(gross: ArrayLike, turnover: ArrayLike) -> float | None:
    """Cost per side, in basis points, at which the mean net return is 0; None without trades. May be negative."""
    earned, traded = finite(gross), finite(turnover)
    daily = ratio(earned.mean(), traded.mean()) if len(earned) and len(traded) else None
    return None if daily is None else 1e4 * daily


def market_slope(returns: ArrayLike, market: ArrayLike, lags: int) -> tuple[float | None, float | None]:
    """Ordinary least squares slope of daily returns on the market's, and its Newey-West t.

    Both None with fewer than 20 common days or where the market does not move.
    """
    both = np.column_stack([np.asarray(returns, float), np.asarray(market, float)])
    both = both[np.isfinite(both).all(1)]
    if len(both) < 20:
        return None, None
    y, x = (both - both.mean(0)).T
    if not x @ x > 0:
        return None, None
    slope = float(y @ x / (x @ x))
    variance = newey_west_variance(x * (y - slope * x), lags)
    return slope, None if variance is None else ratio(slope, len(x) * np.sqrt(variance) / (x @ x))


def monotonicity(quantile_means: ArrayLike) -> float | None:
    """Spearman correlation of a quantile's number and its mean return: 1 where every step pays."""
    means = np.asarray(quantile_means, float)
    if not np.isfinite(means).all() or np.ptp(means) == 0:
        return None
    ranks = stats.rankdata(means)
    return float(np.corrcoef(np.arange(len(means)), ranks)[0, 1])


def half_life(decay: ArrayLike) -> int | None:
    """First lag (from 1) whose value is at most half of lag 1's; None unless the values fall all the way to it."""
    values = np.asarray(decay, float)
    for lag in range(1, len(values)):
        if not values[lag] < values[lag - 1] or not values[0] > 0:
            return None
        if values[lag] <= values[0] / 2:
            return lag + 1
    return None
