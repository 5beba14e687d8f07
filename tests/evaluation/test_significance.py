"""Errors, intervals and multiple looks: published vectors, trusted packages, and simulations with a known truth."""

import json
import time
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from arch.bootstrap import optimal_block_length
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq
from scipy.signal import lfilter
from skfolio.measures import deflated_sharpe_ratio, expected_max_sharpe_ratio, probabilistic_sharpe_ratio
from statsmodels.stats.multitest import multipletests
from statsmodels.tsa.stattools import acf, diebold_mariano_test

from atft.evaluation import bootstrap, sharpe, significance
from atft.evaluation.capacity import capacity

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
SERIES, RETURNS, DM = VECTORS["ic_series"], VECTORS["returns10"], VECTORS["dm"]
TEN = RETURNS["ret"]
seeds = st.integers(0, 2**32 - 1)


def ar1(rng: np.random.Generator, phi: float, shape: tuple[int, ...]) -> np.ndarray:
    """Stationary AR(1) of unit variance along the last axis."""
    shocks = rng.normal(size=(*shape[:-1], shape[-1] + 200)) * np.sqrt(1 - phi**2)
    return lfilter([1.0], [1.0, -phi], shocks)[..., 200:]


def moving_average(rng: np.random.Generator, width: int, shape: tuple[int, ...]) -> np.ndarray:
    """Overlapping means of iid days, as overlapping labels give."""
    shocks = rng.normal(size=(*shape[:-1], shape[-1] + width))
    return lfilter(np.ones(width) / width, [1.0], shocks)[..., width:]


# The mean of a daily series


@pytest.mark.parametrize("lags", [0, 1, 3, 4])
def test_newey_west_matches_the_vector_and_statsmodels(lags: int) -> None:
    fit = sm.OLS(SERIES["ic"], np.ones(12)).fit(cov_type="HAC", cov_kwds={"maxlags": lags})
    assert significance.newey_west_t(SERIES["ic"], lags) == pytest.approx(SERIES["nw_t"][f"L{lags}_corr0"])
    assert significance.newey_west_variance(SERIES["ic"], lags) == pytest.approx(fit.cov_params()[0, 0])


@pytest.mark.parametrize("lags", [0, 1, 3, 4])
def test_statsmodels_small_sample_correction_is_the_only_difference(lags: int) -> None:
    """`use_correction` multiplies the variance by T / (T - 1); the definitions do not."""
    corrected = significance.newey_west_t(SERIES["ic"], lags) * np.sqrt(11 / 12)
    assert corrected == pytest.approx(SERIES["nw_t"][f"L{lags}_corr1"])


def test_iid_t_matches_the_vector_and_scipy() -> None:
    assert significance.iid_t(SERIES["ic"]) == pytest.approx(SERIES["t_iid"])
    assert significance.iid_t(SERIES["ic"]) == pytest.approx(stats.ttest_1samp(SERIES["ic"], 0).statistic)


def test_lags_cover_the_overlap() -> None:
    assert significance.default_lags(100, 1) == 4
    assert significance.default_lags(1250, 20) == 19


def test_missing_days_are_dropped_and_short_or_constant_series_are_undefined() -> None:
    gaps = [np.nan, *SERIES["ic"], np.inf]
    assert significance.newey_west_t(gaps, 3) == significance.newey_west_t(SERIES["ic"], 3)
    for value in (significance.newey_west_t, significance.newey_west_variance):
        assert value([0.1, 0.2, 0.3], 2) is None
        assert value([0.1] * 50, 2) is None
        assert value([], 0) is None
    assert significance.iid_t([0.1]) is None
    assert significance.iid_t([0.1] * 5) is None
    assert significance.autocorrelation([0.1] * 5, 1) is None
    assert significance.autocorrelation([0.1, 0.2], 2) is None
    assert significance.diebold_mariano([0.1] * 30, 2, 1) is None


@given(seeds, st.integers(0, 8), st.floats(0.01, 100))
def test_t_is_free_of_scale_and_flips_with_sign(seed: int, lags: int, scale: float) -> None:
    x = ar1(np.random.default_rng(seed), 0.5, (40,))
    assert significance.newey_west_t(-scale * x, lags) == pytest.approx(-significance.newey_west_t(x, lags))
    assert significance.newey_west_variance(x, lags) > 0


def test_autocorrelation_matches_the_vector_and_statsmodels() -> None:
    rho = significance.autocorrelation(TEN, 5)
    assert rho == pytest.approx(RETURNS["acf1_5"])
    assert rho == pytest.approx(acf(TEN, nlags=5, fft=False)[1:])


# Comparing models


def paired() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    a = rng.normal(0.03, 0.1, 60)
    return a, 0.5 * a + rng.normal(0.02, 0.08, 60)


def test_diebold_mariano_matches_the_vector() -> None:
    """The vector takes loss = -IC, so a positive value there is worse: B - A here."""
    a, b = paired()
    dm, hln, p = significance.diebold_mariano(b - a, 4, 5)
    assert (dm, hln, p) == pytest.approx((DM["dm_L4"], DM["hln_h5"], DM["hln_p"]))


@given(seeds, st.integers(0, 6), st.integers(1, 8))
def test_diebold_mariano_equals_statsmodels(seed: int, lags: int, horizon: int) -> None:
    difference = np.random.default_rng(seed).normal(0.05, 1, 50)
    options = {"lags": lags, "horizon": horizon, "criterion": lambda _, loss: loss}
    plain = diebold_mariano_test(np.zeros(50), difference, np.zeros(50), **options)
    small = diebold_mariano_test(np.zeros(50), difference, np.zeros(50), harvey_adj=True, **options)
    expected = (plain.statistic, small.statistic, small.pvalue)
    assert significance.diebold_mariano(difference, lags, horizon) == pytest.approx(expected)


def test_a_horizon_as_long_as_the_sample_is_undefined() -> None:
    assert significance.diebold_mariano(paired()[0][:10], 2, 9) is not None
    assert significance.diebold_mariano(paired()[0][:10], 2, 10) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    assert significance.holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1])


def test_a_comparison_without_a_p_value_still_counts() -> None:
    assert significance.holm([0.01, None]) == [pytest.approx(0.02), None]
    assert significance.holm([]) == []


# Sharpe ratios


def test_probabilistic_sharpe_matches_the_vector_and_skfolio() -> None:
    assert sharpe.moments(TEN).sharpe == pytest.approx(RETURNS["sharpe_daily"])
    assert sharpe.probabilistic_sharpe(TEN) == pytest.approx(RETURNS["psr0_popmoments"])
    for benchmark in (-0.1, 0.0, 0.1):
        assert sharpe.probabilistic_sharpe(TEN, benchmark) == pytest.approx(
            probabilistic_sharpe_ratio(np.array(TEN), benchmark)
        )


def test_quantstats_differs_by_bias_corrected_moments() -> None:
    """pandas' skew and kurt correct for bias; the source's moments are population."""
    corrected = replace(
        sharpe.moments(TEN), skew=stats.skew(TEN, bias=False), kurtosis=3 + stats.kurtosis(TEN, bias=False)
    )
    assert sharpe.probabilistic_sharpe(corrected) == pytest.approx(RETURNS["psr0_quantstats_biascorr"])


def test_the_2025_error_under_the_null_matches_the_vector() -> None:
    vector = VECTORS["psr_2025_null_se"]
    given_ = vector["in"]
    m = sharpe.Moments(given_["sr"], given_["T"], given_["skew"], given_["kurt"])
    assert sharpe.probabilistic_sharpe_null(m, given_["sr0"]) == pytest.approx(vector["rho0"])
    assert sharpe.probabilistic_sharpe_null(replace(m, rho=0.2), given_["sr0"]) == pytest.approx(vector["rho.2"])
    assert sharpe.minimum_track_record(m) == pytest.approx(vector["minTRL_95"])
    assert sharpe.probabilistic_sharpe(m) == pytest.approx(vector["same_with_2012_formula"])


def test_the_error_of_a_sharpe_ratio_is_that_of_simulated_skewed_ar1_returns() -> None:
    """The vectors have benchmark 0, where skew and kurtosis drop out; here all three terms count."""
    rho, days, true = 0.3, 500, 0.4
    shocks = np.random.default_rng(0).exponential(size=(6000, days + 50)) - 1
    returns = lfilter([np.sqrt(1 - rho**2)], [1.0, -rho], shocks)[:, 50:] + true
    estimates = returns.mean(axis=1) / returns.std(axis=1, ddof=1)
    skew = 2 * (1 - rho**2) ** 1.5 / (1 - rho**3)
    kurtosis = 3 + 6 * (1 - rho**2) ** 2 / (1 - rho**4)
    claimed = sharpe.sharpe_variance(sharpe.Moments(true, days, skew, kurtosis, rho), true)
    assert claimed == pytest.approx(estimates.var(), rel=0.06)
    for wrong in (
        replace(sharpe.Moments(true, days, skew, kurtosis, rho), **term) for term in ({"skew": 0}, {"rho": 0})
    ):
        assert sharpe.sharpe_variance(wrong, true) != pytest.approx(estimates.var(), rel=0.15)


@pytest.mark.parametrize("rho", [-0.4, 0.0, 0.5])
def test_the_error_sums_the_covariances_of_all_lags(rho: float) -> None:
    lag = np.arange(1, 200)
    of_mean, of_variance = 1 + 2 * (rho**lag).sum(), 1 + 2 * (rho ** (2 * lag)).sum()
    of_both = 1 + (rho**lag).sum() + (rho ** (2 * lag)).sum()
    expected = of_mean - of_both * -0.7 * 0.3 + of_variance * (5 - 1) / 4 * 0.3**2
    assert sharpe.sharpe_variance(sharpe.Moments(0.2, 100, -0.7, 5.0, rho), 0.3) == pytest.approx(expected / 100)


def test_a_track_record_of_the_minimum_length_is_just_convincing() -> None:
    m = sharpe.Moments(0.1, 300, -0.5, 6.0, 0.1)
    days = sharpe.minimum_track_record(m, 0.03, confidence=0.9)
    assert sharpe.probabilistic_sharpe_null(replace(m, days=days), 0.03) == pytest.approx(0.9)


def test_undefined_sharpe_figures_are_none() -> None:
    for undefined in ([], [0.1, 0.2], [0.01] * 30):
        assert sharpe.moments(undefined) is None
        assert sharpe.probabilistic_sharpe(undefined) is None
        assert sharpe.probabilistic_sharpe_null(undefined) is None
        assert sharpe.minimum_track_record(undefined) is None
        assert sharpe.deflated_sharpe(undefined, [0.1]) is None
    assert sharpe.minimum_track_record(TEN, benchmark=0.5) is None
    assert sharpe.probabilistic_sharpe(sharpe.Moments(1.0, 100, 3.0, 2.0)) is None
    assert sharpe.probabilistic_sharpe_null(sharpe.Moments(1.0, 100, 3.0, 2.0, -0.9), 0.5) is None


@pytest.mark.parametrize("trials", [46, 88, 100])
def test_deflated_sharpe_reproduces_the_paper(trials: int) -> None:
    given_, out = VECTORS["dsr_paper"]["in"], VECTORS["dsr_paper"]["out"][str(trials)]
    year = given_["periods"]
    m = sharpe.Moments(given_["sr_ann"] / np.sqrt(year), given_["T"], given_["skew"], given_["kurt"])
    bar = sharpe.expected_maximum_sharpe(given_["var_sr_ann"] / year, trials)
    assert bar == pytest.approx(out["sr0"])
    assert bar == pytest.approx(expected_max_sharpe_ratio(trials, np.sqrt(given_["var_sr_ann"] / year)))
    spread = np.linspace(-1, 1, trials)
    tried = spread / spread.std(ddof=1) * np.sqrt(given_["var_sr_ann"] / year)
    assert sharpe.deflated_sharpe(m, list(tried)) == pytest.approx(out["dsr"])
    if trials == 88:
        gaussian = replace(m, skew=0.0, kurtosis=3.0)
        assert sharpe.deflated_sharpe(gaussian, list(tried)) == pytest.approx(VECTORS["dsr_paper"]["gaussian_N88"])


def test_deflated_sharpe_matches_the_small_vector_and_skfolio() -> None:
    tried = VECTORS["dsr_small"]["trial_sr"]
    assert sharpe.deflated_sharpe(TEN, tried) == pytest.approx(VECTORS["dsr_small"]["dsr"])
    assert sharpe.deflated_sharpe(TEN, tried) == pytest.approx(deflated_sharpe_ratio(np.array(TEN), tried))


def test_failed_trials_raise_the_bar_and_a_single_trial_sets_none() -> None:
    """skfolio drops NaN trials from the count; a failed trial was a try all the same."""
    tried = VECTORS["dsr_small"]["trial_sr"]
    failed = [*tried, None, None]
    bar = sharpe.expected_maximum_sharpe(np.var(tried, ddof=1), 10)
    assert sharpe.deflated_sharpe(TEN, failed) == sharpe.probabilistic_sharpe(TEN, bar)
    assert sharpe.deflated_sharpe(TEN, failed) < sharpe.deflated_sharpe(TEN, tried)
    two = sharpe.expected_maximum_sharpe(np.var([0.19, 0.1], ddof=1), 2)
    assert sharpe.deflated_sharpe(TEN, [0.19, 0.1]) == sharpe.probabilistic_sharpe(TEN, two)
    assert sharpe.deflated_sharpe(TEN, [0.19]) == sharpe.probabilistic_sharpe(TEN)
    assert sharpe.deflated_sharpe(TEN, [0.19, None]) is None
    assert sharpe.deflated_sharpe(TEN, []) is None


def test_the_expected_maximum_is_that_of_simulated_trials() -> None:
    """The formula approximates: one per cent too high at 50 trials."""
    best = np.random.default_rng(0).normal(0, 0.05, (20_000, 50)).max(axis=1).mean()
    assert sharpe.expected_maximum_sharpe(0.05**2, 50) == pytest.approx(best, rel=0.02)


def ar1_factor(q: int, phi: float) -> float:
    """Lo's closed form for an AR(1)."""
    return np.sqrt(q) / np.sqrt(1 + 2 * phi / (1 - phi) * (1 - (1 - phi**q) / (q * (1 - phi))))


@pytest.mark.parametrize(("q", "phi"), [(252, 0.2), (252, -0.2), (12, 0.2)])
def test_lo_factor_matches_the_closed_form(q: int, phi: float) -> None:
    vector = VECTORS["lo_ar1_closed_eta"][f"q{q}_rho{phi:.1f}".replace("0.", ".")]
    assert sharpe.lo_factor(phi ** np.arange(1, q), q) == pytest.approx(vector)
    assert ar1_factor(q, phi) == pytest.approx(vector)


@pytest.mark.parametrize("q", [2, 3, 5])
def test_lo_factor_matches_the_vector(q: int) -> None:
    """pypbo drops the term k = q - 1 and gives 3.71 at q = 5."""
    assert sharpe.lo_factor(significance.autocorrelation(TEN, 5), q) == pytest.approx(RETURNS["lo_eta"][str(q)])


def test_lo_factor_of_white_noise_is_the_square_root_and_of_no_process_undefined() -> None:
    assert sharpe.lo_factor([], 252) == pytest.approx(np.sqrt(252))
    assert sharpe.lo_factor([0.0] * 300, 252) == pytest.approx(np.sqrt(252))
    assert sharpe.lo_factor([-0.9], 5) is None


def test_sharpe_lo_undoes_the_smoothing_of_overlapping_returns() -> None:
    """Means of 5 days have 5 times less variance: the plain figure is inflated by sqrt(5)."""
    returns = moving_average(np.random.default_rng(1), 5, (20_000,)) + 0.03
    plain = np.sqrt(252) * returns.mean() / returns.std(ddof=1)
    assert plain / sharpe.sharpe_lo(returns, 252, 100) == pytest.approx(np.sqrt(5), rel=0.04)
    assert sharpe.sharpe_lo(returns, 252, 0) == pytest.approx(plain)
    assert sharpe.sharpe_lo([0.01] * 50, 252, 10) is None
    assert sharpe.sharpe_lo(TEN, 252, 9) is None


@given(seeds, st.integers(0, 30))
def test_bartlett_weights_keep_sharpe_lo_defined(seed: int, lags: int) -> None:
    alternating = np.resize([0.01, -0.01], 40) + np.random.default_rng(seed).normal(0, 1e-4, 40)
    assert sharpe.sharpe_lo(alternating, 252, lags) is not None


# The choice among trials


def sliced_overfitting(returns: np.ndarray, blocks: int) -> tuple[float, float, float]:
    """The definition, halving by halving, on slices of the data."""
    parts = np.array_split(returns[len(returns) % blocks :], blocks)
    logits, losses = [], []
    for pick in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[i] for i in pick])
        outside = np.concatenate([parts[i] for i in range(blocks) if i not in pick])
        best = np.argmax(inside.mean(axis=0) / inside.std(axis=0, ddof=1))
        scores = outside.mean(axis=0) / outside.std(axis=0, ddof=1)
        relative = stats.rankdata(scores)[best] / (len(scores) + 1)
        logits.append(np.log(relative / (1 - relative)))
        losses.append(scores[best] < 0)
    return float(np.mean(np.array(logits) <= 0)), float(np.mean(logits)), float(np.mean(losses))


def test_probability_of_overfitting_matches_both_vectors() -> None:
    vector = VECTORS["pbo"]
    returns = np.random.default_rng(42).normal(0, 0.01, (240, 10))
    assert returns[0, :3] == pytest.approx(vector["M[0,:3]"])
    plain = sharpe.probability_of_overfitting(returns, 8)
    assert plain.probability == pytest.approx(vector["pbo"])
    assert plain.mean_logit == pytest.approx(vector["mean_logit"])
    returns[:, 3] += 0.002
    skilled, expected = sharpe.probability_of_overfitting(returns, 8), vector["plus_.002_on_col3"]
    assert skilled.probability == pytest.approx(expected["pbo"])
    assert skilled.mean_logit == pytest.approx(expected["mean_logit"])
    assert skilled.loss_probability == pytest.approx(expected["p_oos_loss"])


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(24, 60), st.integers(2, 6), st.sampled_from([2, 4, 6]))
def test_sums_of_blocks_equal_slices_of_days(seed: int, days: int, trials: int, blocks: int) -> None:
    returns = np.random.default_rng(seed).normal(0.001, 0.01, (days, trials))
    mine = sharpe.probability_of_overfitting(returns, blocks)
    assert (mine.probability, mine.mean_logit, mine.loss_probability) == pytest.approx(
        sliced_overfitting(returns, blocks), abs=1e-12
    )


def test_the_oldest_days_are_dropped() -> None:
    returns = np.random.default_rng(0).normal(size=(83, 5))
    assert sharpe.probability_of_overfitting(returns, 8) == sharpe.probability_of_overfitting(returns[3:], 8)
    assert sharpe.probability_of_overfitting(returns, 8) != sharpe.probability_of_overfitting(returns[:-3], 8)


def test_overfitting_needs_two_trials_that_vary() -> None:
    returns = np.random.default_rng(0).normal(size=(80, 3))
    known = sharpe.probability_of_overfitting(returns, 4)
    unusable = np.column_stack([returns, np.full(80, 0.1), np.full(80, np.nan)])
    assert sharpe.probability_of_overfitting(unusable, 4) == known
    gap = np.vstack([np.full(3, np.nan), returns])
    assert sharpe.probability_of_overfitting(gap, 4) == known
    assert sharpe.probability_of_overfitting(returns[:, :1], 4) is None
    assert sharpe.probability_of_overfitting(np.zeros((80, 3)), 4) is None
    assert sharpe.probability_of_overfitting(np.full((80, 3), np.nan), 4) is None
    assert sharpe.probability_of_overfitting(returns[:3], 4) is None
    with pytest.raises(ValueError, match="even"):
        sharpe.probability_of_overfitting(returns, 5)


def test_a_trial_flat_in_one_half_is_not_picked_by_it() -> None:
    """It earns nothing while its rival loses, then wins: only the second half can pick it."""
    rng = np.random.default_rng(0)
    late = np.concatenate([np.zeros(40), rng.normal(1, 0.1, 40)])
    rival = rng.normal(-1, 1, 80)
    assert sharpe.probability_of_overfitting(np.column_stack([late, rival]), 2).probability == 1.0


def test_true_skill_is_not_overfitting_and_identical_trials_are() -> None:
    rng = np.random.default_rng(0)
    returns = rng.normal(0, 0.01, (500, 10))
    skilled = returns + np.where(np.arange(10) == 4, 0.01, 0.0)
    assert sharpe.probability_of_overfitting(skilled, 10).probability == 0
    same = np.repeat(returns[:, :1], 3, axis=1)
    assert sharpe.probability_of_overfitting(same, 4).mean_logit == 0


def test_overfitting_of_a_hundred_trials_takes_a_second_or_two() -> None:
    returns = np.random.default_rng(0).normal(0, 0.01, (1250, 100))
    start = time.perf_counter()
    sharpe.probability_of_overfitting(returns, 16)
    assert time.perf_counter() - start < 5


# The bootstrap


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(20, 400), st.floats(-0.9, 0.98))
def test_the_block_equals_arch(seed: int, days: int, phi: float) -> None:
    x = ar1(np.random.default_rng(seed), phi, (days,))
    assert bootstrap.politis_white_block(x) == pytest.approx(optimal_block_length(x)["stationary"].iloc[0], rel=1e-9)


def test_a_block_of_a_short_or_constant_series_is_undefined() -> None:
    assert bootstrap.politis_white_block(np.arange(19.0)) is None
    assert bootstrap.politis_white_block(np.full(100, 0.1)) is None


def test_drawn_days_have_the_variance_politis_and_romano_derived() -> None:
    """Lemma 1 gives the bootstrap variance of a mean in closed form, from circular autocovariances."""
    days, block = 40, 6.0
    x = ar1(np.random.default_rng(0), 0.7, (days,))
    centred, k = x - x.mean(), np.arange(1, days)
    circular = np.array([centred @ np.roll(centred, -lag) for lag in range(days)]) / days
    keep = 1 - 1 / block
    weight = (1 - k / days) * keep**k + k / days * keep ** (days - k)
    exact = (circular[0] + weight @ circular[1:]) / days
    indices = bootstrap.stationary_bootstrap_indices(days, block, 60_000, 1)
    assert x[indices].mean(axis=1).var() == pytest.approx(exact, rel=0.025)


def test_drawn_days_run_on_and_wrap_around() -> None:
    indices = bootstrap.stationary_bootstrap_indices(30, 8.0, 5000, 0)
    assert indices.shape == (5000, 30)
    assert np.bincount(indices.ravel(), minlength=30) == pytest.approx(5000, rel=0.1)
    runs_on = (np.diff(indices, axis=1) % 30 == 1).mean()
    assert runs_on == pytest.approx(7 / 8 + 1 / 8 / 30, abs=0.005)


def test_one_seed_gives_the_same_bytes() -> None:
    draw = [bootstrap.stationary_bootstrap_indices(50, 5.0, 20, seed).tobytes() for seed in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]


def test_a_block_below_one_draws_single_days() -> None:
    single, tiny = (bootstrap.stationary_bootstrap_indices(30, block, 20, 0) for block in (1.0, 0.01))
    assert (single == tiny).all()
    assert (np.diff(single, axis=1) % 30 == 1).mean() < 0.1


def mean(drawn: np.ndarray) -> np.ndarray:
    return drawn.mean(axis=1)


@pytest.mark.parametrize("series", ["ar1", "moving_average"])
def test_the_interval_covers_the_true_mean(series: str) -> None:
    """Nominal 95 %, in 600 worlds 91 %; intervals of independent days cover two thirds."""
    rng, worlds, days = np.random.default_rng(0), 200, 500
    x = ar1(rng, 0.6, (worlds, days)) if series == "ar1" else moving_average(rng, 5, (worlds, days))
    intervals = [bootstrap.bootstrap_interval(world, mean, draws=300, seed=i) for i, world in enumerate(x)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    iid = np.abs(x.mean(axis=1)) <= 1.96 * x.std(axis=1) / np.sqrt(days)
    assert 0.87 <= covered <= 0.98
    assert iid.mean() < 0.8 < covered


def test_the_error_of_overlapping_means_is_newey_wests_not_that_of_independent_days() -> None:
    x = moving_average(np.random.default_rng(2), 5, (1250,)) + 0.02
    block = bootstrap.politis_white_block(x)
    error = x[bootstrap.stationary_bootstrap_indices(1250, block, 2000, 0)].mean(axis=1).std()
    newey_west, iid = np.sqrt(significance.newey_west_variance(x, 10)), x.std(ddof=1) / np.sqrt(1250)
    assert error == pytest.approx(newey_west, rel=0.15)
    assert error > 1.5 * iid


def test_columns_are_drawn_together_and_missing_days_dropped() -> None:
    x = ar1(np.random.default_rng(0), 0.5, (100,))
    pair = np.column_stack([x, x + 1])
    gap = np.vstack([pair, [np.nan, 1.0]])
    interval = bootstrap.bootstrap_interval(gap, lambda d: d[:, :, 1].mean(1) - d[:, :, 0].mean(1), draws=50, seed=0)
    assert interval == pytest.approx((1, 1))


def test_an_interval_of_too_few_days_or_of_no_statistic_is_undefined() -> None:
    x = np.random.default_rng(0).normal(size=30)
    assert bootstrap.bootstrap_interval(x, mean, draws=10, seed=0) is not None
    assert bootstrap.bootstrap_interval(x[:19], mean, draws=10, seed=0) is None
    assert bootstrap.bootstrap_interval([], mean, draws=10, seed=0) is None
    assert bootstrap.bootstrap_interval(np.ones(30), mean, draws=10, seed=0) is None
    assert bootstrap.bootstrap_interval(x, lambda d: d[:, 0] * np.nan, draws=10, seed=0) is None


def test_a_higher_level_widens_the_interval() -> None:
    x = np.random.default_rng(0).normal(size=200)
    low, high = bootstrap.bootstrap_interval(x, mean, 0.5, draws=500, seed=0)
    lower, higher = bootstrap.bootstrap_interval(x, mean, 0.99, draws=500, seed=0)
    assert lower < low < x.mean() < high < higher


# Capacity


def test_capacity_matches_the_vector_and_a_root_finder() -> None:
    given_, vector = VECTORS["capacity"]["in"], VECTORS["capacity"]
    alpha, turnover, names, volume = given_["mu"], given_["tau_two_way_daily"], given_["n"], given_["ADV"]
    zero, half = capacity(alpha, turnover, names, volume, given_["c0"], given_["sigma"], given_["Y"])
    assert (zero, half) == pytest.approx((vector["A_zero"], vector["A_half"]))

    def net(capital: float) -> float:
        impact = given_["sigma"] * np.sqrt(capital * turnover / names / volume)
        return alpha - 252 * turnover * (given_["c0"] + impact)

    assert zero == pytest.approx(brentq(net, 1, 1e12))
    assert half == pytest.approx(brentq(lambda capital: net(capital) - net(0) / 2, 1, 1e12))


def test_capacity_is_undefined_where_nothing_bounds_or_nothing_is_left() -> None:
    assert capacity(0.01, 0.2, 100, 5e7, 0.00025, 0.02) is None
    assert capacity(0.15, 0.0, 100, 5e7, 0.00025, 0.02) is None
    assert capacity(0.15, 0.2, 100, float("nan"), 0.00025, 0.02) is None
