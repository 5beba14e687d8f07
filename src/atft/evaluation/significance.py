"""How sure we are of a mean of daily values that overlap. Undefined is None, never 0 or NaN.

Non-finite days are dropped first, so a lag counts the days that are kept.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


def newey_west_variance(values: ArrayLike, lags: int) -> float | None:
    """Variance of the mean of a daily series, Bartlett-weighted autocovariances up to `lags`.

    Autocovariances divide by T at every lag, which with Bartlett weights keeps the sum from going
    negative. No small-sample factor T/(T-1): `lags=0` is the population variance over T.

    Returns:
        Squared units of `values`; None with `lags + 1` days or fewer, and where the standard error
        is rounding error, as for a constant.

    Source: Newey & West 1987, Econometrica 55(3).
    """
    x = finite(values)
    if len(x) <= lags + 1:
        return None
    centred = x - x.mean()
    weights = 1 - np.arange(1, lags + 1) / (lags + 1)
    long_run = centred @ centred + 2 * sum(w * (centred[k:] @ centred[:-k]) for k, w in enumerate(weights, start=1))
    variance = max(float(long_run), 0.0) / len(x) ** 2
    return None if ratio(x.mean(), np.sqrt(variance)) is None else variance


def newey_west_t(values: ArrayLike, lags: int) -> float | None:
    """t-statistic of the mean under `newey_west_variance`.

    Labels of h days overlap, so h - 1 lags at least; see `default_lags`. Reversal raises it above
    `iid_t`: report both.
    """
    variance = newey_west_variance(values, lags)
    return None if variance is None else float(finite(values).mean() / np.sqrt(variance))


def iid_t(values: ArrayLike) -> float | None:
    """t-statistic of the mean as if days were independent (standard deviation with ddof 1)."""
    x = finite(values)
    return ratio(x.mean(), x.std(ddof=1) / np.sqrt(len(x))) if len(x) > 1 else None


def default_lags(days: int, horizon: int) -> int:
    """max(h - 1, floor(4 (T / 100)^(2/9))).

    Source: Newey & West 1994, Review of Economic Studies 61(4), the rule of thumb for Bartlett weights.
    """
    return max(horizon - 1, int(4 * (days / 100) ** (2 / 9)))


def autocorrelation(values: ArrayLike, lags: int) -> NDArray[np.float64] | None:
    """Autocorrelations at lags 1 to `lags`, around one mean and over one variance.

    Not the Pearson correlation of the two shifted halves: dividing every lag by the same T keeps
    the sequence positive definite. None with `lags` days or fewer, or for a constant.
    """
    x = finite(values)
    if len(x) <= lags or ratio(x.mean(), x.std()) is None:
        return None
    centred = x - x.mean()
    return np.array([centred[k:] @ centred[:-k] for k in range(1, lags + 1)]) / (centred @ centred)


def diebold_mariano(difference: ArrayLike, lags: int, horizon: int) -> tuple[float, float, float] | None:
    """Diebold-Mariano statistic of a daily difference A - B, its small-sample form, two-sided p.

    Args:
        difference: RankIC (or return) of A less that of B on the same day; positive means A leads.
            Average over seeds first; nested models need Clark & West instead.
        lags: Newey-West lags, at least horizon - 1; statsmodels defaults to max(h - 1, ceil(T^(1/3))).
        horizon: Days h each value looks ahead, for the factor sqrt((T + 1 - 2h + h(h - 1)/T) / T).

    Returns:
        (dm, hln, p) with p from t with T - 1 degrees of freedom at hln; None where `newey_west_t`
        is, or with `horizon` days or fewer, where the factor is 0.

    Source: Diebold & Mariano 1995; Harvey, Leybourne & Newbold 1997, Int. J. Forecasting 13(2).
    """
    days, dm = len(finite(difference)), newey_west_t(difference, lags)
    if dm is None or days <= horizon:
        return None
    hln = dm * np.sqrt((days + 1 - 2 * horizon + horizon * (horizon - 1) / days) / days)
    return dm, float(hln), float(2 * stats.t.sf(abs(hln), days - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for looking at all of them, in the order given (family-wise error).

    A comparison without a p-value stays None but counts: it was looked at too.

    Source: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    p = np.array([1.0 if value is None else value for value in p_values], dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return [None if given is None else float(value) for given, value in zip(p_values, adjusted, strict=True)]


def mean(values: ArrayLike) -> float | None:
    """Mean of the finite values."""
    known = finite(values)
    return float(known.mean()) if len(known) else None


def finite(values: ArrayLike) -> NDArray[np.float64]:
    """The finite values as float64; None and NaN are dropped."""
    array = np.asarray(values, dtype=np.float64)
    return array[np.isfinite(array)]


def ratio(numerator: float, denominator: float) -> float | None:
    """numerator / denominator; None where the denominator is zero up to rounding."""
    return float(numerator / denominator) if denominator > 1e-12 * max(abs(numerator), 1e-12) else None
