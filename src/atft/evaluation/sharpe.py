"""What a Sharpe ratio is worth: its error, the search it came from, its horizon. All per day unless said.

Undefined is None, never 0 or NaN.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from atft.evaluation.significance import autocorrelation, finite, ratio


@dataclass(frozen=True)
class Moments:
    """What the error of a Sharpe ratio depends on."""

    sharpe: float  # per day, mean over standard deviation (ddof 1), not annualised
    days: int
    skew: float  # population, as the source has it
    kurtosis: float  # population, raw: 3 for a normal distribution
    rho: float = 0.0  # autocorrelation at lag 1; only the 2025 formulas read it


def moments(returns: ArrayLike) -> Moments | None:
    """Moments of daily returns; None with fewer than 3 days or for a constant."""
    x = finite(returns)
    sharpe = ratio(x.mean(), x.std(ddof=1)) if len(x) > 2 else None
    rho = autocorrelation(x, 1)
    if sharpe is None or rho is None:
        return None
    z = (x - x.mean()) / x.std()
    return Moments(sharpe, len(x), float(np.mean(z**3)), float(np.mean(z**4)), float(rho[0]))


def probabilistic_sharpe(returns: ArrayLike | Moments, benchmark: float = 0.0) -> float | None:
    """Probability that the true Sharpe ratio exceeds `benchmark` (both per day).

    The error is taken at the estimate, with T - 1. Autocorrelation is ignored. None where
    `moments` is, or where moments that no sample has make the variance negative.

    Source: Bailey & Lopez de Prado 2012, Journal of Risk 15(2).
    """
    m = _moments(returns)
    if m is None:
        return None
    variance = 1 - m.skew * m.sharpe + (m.kurtosis - 1) / 4 * m.sharpe**2
    return float(stats.norm.cdf((m.sharpe - benchmark) * np.sqrt((m.days - 1) / variance))) if variance > 0 else None


def sharpe_variance(m: Moments, true: float) -> float | None:
    """Variance over many samples of a Sharpe ratio whose true value is `true`, returns AR(1) with `m.rho`.

    Delta method on the long-run covariance of mean and variance: their terms grow by the sums over all
    lags of rho^|k|, of rho^k for k < 0 with rho^(2k) for k > 0, and of rho^(2|k|). None where no AR(1)
    process has the skew and rho given, so that the sum turns negative.

    Source: Lopez de Prado, Lipton & Zoonekynd 2025, SSRN 5520741.
    """
    first, second = m.rho / (1 - m.rho), m.rho**2 / (1 - m.rho**2)
    of_mean, of_both, of_variance = 1 + 2 * first, 1 + first + second, 1 + 2 * second
    variance = of_mean - of_both * m.skew * true + of_variance * (m.kurtosis - 1) / 4 * true**2
    return variance / m.days if variance > 0 else None


def probabilistic_sharpe_null(returns: ArrayLike | Moments, benchmark: float = 0.0) -> float | None:
    """Probability that the true Sharpe ratio exceeds `benchmark`, the error taken as if it did not.

    A test's error belongs to its null hypothesis, so at benchmark 0 skew and kurtosis drop out, and
    autocorrelation stays. Reversal (rho < 0) raises it: set rho to 0 to refuse that credit.

    Source: Lopez de Prado, Lipton & Zoonekynd 2025, SSRN 5520741.
    """
    m = _moments(returns)
    variance = None if m is None else sharpe_variance(m, benchmark)
    return None if m is None or variance is None else float(stats.norm.cdf((m.sharpe - benchmark) / np.sqrt(variance)))


def minimum_track_record(
    returns: ArrayLike | Moments, benchmark: float = 0.0, confidence: float = 0.95
) -> float | None:
    """Days after which `probabilistic_sharpe_null` reaches `confidence`, if Sharpe and moments stay.

    A fraction of a day is left in. None at or below the benchmark: no length would do.
    """
    m = _moments(returns)
    variance = None if m is None else sharpe_variance(m, benchmark)
    if m is None or variance is None or m.sharpe <= benchmark:
        return None
    return float(variance * m.days * (stats.norm.ppf(confidence) / (m.sharpe - benchmark)) ** 2)


def expected_maximum_sharpe(variance_of_trials: float, trials: int) -> float:
    """Best Sharpe ratio expected from `trials` independent tries without skill; 0 for a single one.

    In units of the square root of the variance. Correlated trials amount to fewer: the bar is then
    too high, never too low.

    Source: Bailey & Lopez de Prado 2014, Journal of Portfolio Management 40(5).
    """
    if trials == 1:
        return 0.0
    tail = stats.norm.isf([1 / trials, 1 / (trials * np.e)])
    return float(np.sqrt(variance_of_trials) * ((1 - np.euler_gamma) * tail[0] + np.euler_gamma * tail[1]))


def deflated_sharpe(returns: ArrayLike | Moments, trial_sharpes: Sequence[float | None]) -> float | None:
    """Probability that the best of many trials has a true Sharpe ratio above 0, the search counted.

    Args:
        returns: Daily returns (or their moments) of the trial that was chosen.
        trial_sharpes: Per-day Sharpe ratios of every trial ever run, the chosen one too. A trial that
            failed is None: it counts among the tries, not in their variance (ddof 1).

    Returns:
        `probabilistic_sharpe` against `expected_maximum_sharpe`: with one trial the plain PSR(0). None
        without trials, or where several trials leave fewer than two Sharpe ratios.

    Source: Bailey & Lopez de Prado 2014, Journal of Portfolio Management 40(5).
    """
    known, trials = finite([s for s in trial_sharpes if s is not None]), len(trial_sharpes)
    if trials == 0 or (trials > 1 and len(known) < 2):
        return None
    variance = float(known.var(ddof=1)) if trials > 1 else 0.0
    return probabilistic_sharpe(returns, expected_maximum_sharpe(variance, trials))


@dataclass(frozen=True)
class Overfitting:
    """What picking the best trial in one half of the days bought in the other half, over all halvings."""

    probability: float  # share of halvings in which the pick ends in the lower half of the trials
    mean_logit: float  # of its relative rank; 0 is the middle, above 0 is better
    loss_probability: float  # share of halvings in which the pick loses money


def probability_of_overfitting(returns: ArrayLike, blocks: int) -> Overfitting | None:
    """Combinatorially symmetric cross-validation of the choice among trials by Sharpe ratio.

    Trials that are all good (or all useless) give a high probability too, since then the pick means
    nothing: it judges the choice, not the strategies.

    Args:
        returns: [day, trial] daily returns on the same dates. Trials without any value and then days
            that miss a value are dropped; so are trials that never vary, which have no Sharpe ratio.
        blocks: Even number S of blocks; there are C(S, S/2) halvings. The oldest days are dropped to
            make S blocks equal. Take blocks longer than the autocorrelation.

    Returns:
        None with fewer than two trials, or than two days a half. A trial flat over one half ranks last
        there, so that half cannot pick it. Ties share their average rank.

    Source: Bailey, Borwein, Lopez de Prado & Zhu 2017, Journal of Computational Finance 20(4).
    """
    if blocks < 2 or blocks % 2:
        raise ValueError(f"blocks must be even, at least 2: {blocks}")
    x = _comparable(returns, blocks)
    if len(x) < 4 or x.shape[1] < 2:
        return None
    picks = np.array(list(combinations(range(blocks), blocks // 2)))
    chosen = np.zeros((len(picks), blocks))
    np.put_along_axis(chosen, picks, 1.0, axis=1)
    inside, _ = _half_sharpes(x, chosen)
    outside, outside_mean = _half_sharpes(x, 1 - chosen)
    best = inside.argmax(axis=1)[:, None]
    score = np.take_along_axis(outside, best, axis=1)
    rank = (outside < score).sum(axis=1) + ((outside == score).sum(axis=1) + 1) / 2
    logit = np.log(rank / (x.shape[1] + 1 - rank))
    loss = np.take_along_axis(outside_mean, best, axis=1) < 0
    return Overfitting(float(np.mean(logit <= 0)), float(logit.mean()), float(loss.mean()))


def _comparable(returns: ArrayLike, blocks: int) -> NDArray[np.float64]:
    """Trials that vary, on the days all of them have, the oldest dropped to fill the blocks."""
    x = np.asarray(returns, dtype=np.float64)
    x = x[:, np.isfinite(x).any(axis=0)]
    x = x[np.isfinite(x).all(axis=1)]
    x = x[len(x) % blocks :]
    return x[:, (x != x[:1]).any(axis=0)]


def _half_sharpes(
    x: NDArray[np.float64], chosen: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sharpe ratio and mean, [halving, trial], over the blocks each halving chose; -inf where flat.

    Sums a block once, instead of slicing the days of every halving.
    """
    half, mean = len(x) // 2, x.mean(axis=0)
    split = (x - mean).reshape(chosen.shape[1], -1, x.shape[1])  # uncentred, sums of squares would cancel
    total, squares = chosen @ split.sum(axis=1), chosen @ (split**2).sum(axis=1)
    spread = squares - total**2 / half
    half_mean = mean + total / half
    varies = spread > 1e-12 * squares
    deviation = np.sqrt(np.where(varies, spread, 1.0) / (half - 1))
    return np.where(varies, half_mean / deviation, -np.inf), half_mean


def lo_factor(autocorrelations: ArrayLike, q: int) -> float | None:
    """Ratio of the Sharpe ratio of q-day returns to that of daily returns, sqrt(q) without autocorrelation.

    eta(q) = q / sqrt(q + 2 sum_{k=1}^{q-1} (q - k) rho_k), lags beyond those given being 0. None where
    the autocorrelations are of no process, so that the variance of the sum is not positive.

    Source: Lo 2002, Financial Analysts Journal 58(4).
    """
    rho = np.asarray(autocorrelations, dtype=np.float64)[: q - 1]
    variance = q + 2 * float((q - np.arange(1, len(rho) + 1)) @ rho)
    return float(q / np.sqrt(variance)) if variance > 0 else None


def sharpe_lo(returns: ArrayLike, periods_per_year: int, lags: int) -> float | None:
    """Annualised Sharpe ratio with autocorrelation up to `lags` counted, Bartlett-weighted.

    All 251 sample autocorrelations add more noise than they correct. Take max(h, 10) lags: the h
    sleeves overlap. None with `lags + 1` days or fewer, or for a constant.

    Source: Lo 2002; weights of Newey & West 1987.
    """
    x = finite(returns)
    rho = autocorrelation(x, lags) if len(x) > lags + 1 else None
    daily = ratio(x.mean(), x.std(ddof=1)) if rho is not None else None
    if rho is None or daily is None:
        return None
    factor = lo_factor((1 - np.arange(1, lags + 1) / (lags + 1)) * rho, periods_per_year)
    return None if factor is None else factor * daily


def _moments(returns: ArrayLike | Moments) -> Moments | None:
    return returns if isinstance(returns, Moments) else moments(returns)
