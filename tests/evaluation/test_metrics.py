"""What a daily series is worth: vectors, empyrical and statsmodels, and the horizon without its folklore."""

import empyrical
import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from atft.evaluation import metrics
from atft.evaluation.portfolio import tranche_book
from atft.evaluation.sharpe import sharpe_lo
from atft.evaluation.significance import autocorrelation
from evaluation.judged import VECTORS

SERIES, RETURNS = VECTORS["ic_series"], VECTORS["returns10"]
TEN = RETURNS["ret"]
seeds = st.integers(0, 2**32 - 1)
ALONE = (
    metrics.information_ratio,
    lambda x: metrics.sharpe(x, 252),
    lambda x: metrics.sortino(x, 252),
    lambda x: metrics.annual_return(x, 252),
    metrics.max_drawdown,
    lambda x: metrics.calmar(x, 252),
    metrics.hit_rate,
)  # of one series


def daily(seed: int, days: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, days) * 0.01


# --- ratios ---------------------------------------------------------------------------------------


def test_icir_matches_the_vector_with_one_degree_of_freedom() -> None:
    """StockMixer divides by T where pandas, Qlib and this page divide by T - 1."""
    icir = metrics.information_ratio(SERIES["ic"])
    assert icir == pytest.approx(SERIES["icir_ddof1"])
    assert icir * np.sqrt(12 / 11) == pytest.approx(SERIES["icir_ddof0"])


def test_return_statistics_match_the_vector() -> None:
    assert metrics.information_ratio(TEN) == pytest.approx(RETURNS["sharpe_daily"])
    assert metrics.sharpe(TEN, 252) == pytest.approx(RETURNS["sharpe_ann252"])
    assert metrics.sortino(TEN, 252) == pytest.approx(RETURNS["sortino"])
    assert metrics.max_drawdown(TEN) == pytest.approx(RETURNS["mdd_compound"])
    assert metrics.annual_return(TEN, 252) == pytest.approx(RETURNS["ann_return_cagr"])
    assert metrics.calmar(TEN, 252) == pytest.approx(RETURNS["calmar"])


def test_a_drawdown_from_the_start_counts() -> None:
    """Qlib's peaks begin after the first day, so a first loss is none to it."""
    first_loss = VECTORS["mdd_first_loss"]
    assert metrics.max_drawdown(first_loss["ret"]) == pytest.approx(first_loss["correct_with_base_1"])
    wealth = np.cumprod(1 + np.array(first_loss["ret"]))
    assert (wealth / np.maximum.accumulate(wealth) - 1).min() == first_loss["qlib_sum_or_product"]


@given(seeds)
def test_return_statistics_equal_empyricals(seed: int) -> None:
    x = daily(seed)
    assert metrics.sharpe(x, 252) == pytest.approx(empyrical.sharpe_ratio(x))
    assert metrics.sortino(x, 252) == pytest.approx(empyrical.sortino_ratio(x))
    assert metrics.annual_return(x, 252) == pytest.approx(empyrical.annual_return(x))
    assert metrics.max_drawdown(x) == pytest.approx(empyrical.max_drawdown(x))
    assert metrics.calmar(x, 252) == pytest.approx(empyrical.calmar_ratio(x))


def test_empyrical_differs_where_nothing_is_defined_or_days_are_missing() -> None:
    """Infinite without a loss and NaN without a fall, where ours is None; a missing day is dropped, not filled.

    empyrical drops a missing day from mean and deviation, yet counts it among the days of its growth
    rate: the same ten returns would earn less a year.
    """
    gains, gaps = np.array([0.01, 0.02, 0.01]), np.array([*TEN, np.nan, np.nan])
    assert metrics.sortino(gains, 252) is None
    assert np.isinf(empyrical.sortino_ratio(gains))
    assert metrics.calmar(gains, 252) is None
    assert np.isnan(empyrical.calmar_ratio(gains))
    assert metrics.annual_return(gaps, 252) == metrics.annual_return(TEN, 252)
    assert empyrical.annual_return(gaps) < empyrical.annual_return(np.array(TEN))


@pytest.mark.parametrize("value", ALONE)
def test_missing_days_are_left_out_and_an_empty_series_is_undefined(value) -> None:
    assert value([np.nan, *TEN, np.inf]) == value(TEN)
    assert value([]) is None
    assert value([np.nan, np.nan]) is None


@pytest.mark.parametrize("value", [metrics.information_ratio, ALONE[1], ALONE[2]])
@pytest.mark.parametrize("constant", [0.0, 0.1, 0.01])
def test_a_constant_has_no_ratio(value, constant: float) -> None:
    assert value([constant] * 7) is None
    assert value([constant]) is None


@given(seeds, st.floats(0.1, 10))
def test_leverage_leaves_ratios_and_a_sign_flip_negates_the_sharpe_ratio(seed: int, leverage: float) -> None:
    x = daily(seed)
    assert metrics.sharpe(leverage * x, 252) == pytest.approx(metrics.sharpe(x, 252))
    assert metrics.sortino(leverage * x, 252) == pytest.approx(metrics.sortino(x, 252))
    assert metrics.sharpe(-x, 252) == pytest.approx(-metrics.sharpe(x, 252))


def test_a_year_has_as_many_days_as_it_is_told() -> None:
    assert metrics.sharpe(TEN, 245) == pytest.approx(metrics.sharpe(TEN, 252) * np.sqrt(245 / 252))
    assert metrics.annual_return(TEN, 10) == pytest.approx(np.prod(1 + np.array(TEN)) - 1)


def test_a_lost_capital_is_minus_one() -> None:
    assert metrics.annual_return([0.1, -1.2, 0.5], 252) == -1


def test_a_day_of_zero_is_no_hit() -> None:
    assert metrics.hit_rate([0.01, 0.0, -0.01, 0.02, np.nan]) == 0.5


# --- costs ----------------------------------------------------------------------------------------


@given(seeds)
def test_at_the_break_even_cost_nothing_is_left(seed: int) -> None:
    gross, turnover = daily(seed), np.abs(daily(seed + 1)) * 20
    gross[0] = turnover[0] = np.nan
    bps = metrics.break_even_bps(gross, turnover)
    assert np.nanmean(gross - bps / 1e4 * turnover) == pytest.approx(0, abs=1e-12)
    assert np.sign(bps) == np.sign(np.nanmean(gross))


def test_without_trades_nothing_breaks_even() -> None:
    assert metrics.break_even_bps(TEN, [0.0] * 10) is None
    assert metrics.break_even_bps([np.nan], [np.nan]) is None


# --- the market -----------------------------------------------------------------------------------


@given(seeds, st.integers(0, 6))
def test_the_market_slope_and_its_t_are_statsmodels(seed: int, lags: int) -> None:
    market = daily(seed)
    returns = 0.3 * market + daily(seed + 1)
    returns[3], market[7] = np.nan, np.nan
    known = np.isfinite(returns) & np.isfinite(market)
    x = sm.add_constant(market[known])
    fit = sm.OLS(returns[known], x).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False})
    slope, t = metrics.market_slope(returns, market, lags)
    assert slope == pytest.approx(fit.params[1])
    assert t == pytest.approx(fit.tvalues[1])
    assert slope == pytest.approx(empyrical.beta(returns[known], market[known]))


def test_the_market_slope_is_undefined_on_few_days_or_beside_a_market_that_stands_still() -> None:
    x = daily(0)
    assert metrics.market_slope(x[:19], x[:19], 2) == (None, None)
    assert metrics.market_slope(x, np.zeros(60), 2) == (None, None)
    assert metrics.market_slope(np.full(60, np.nan), x, 2) == (None, None)


# --- shapes ---------------------------------------------------------------------------------------


@given(st.lists(st.integers(-5, 5), min_size=3, max_size=10))
def test_monotonicity_is_the_rank_correlation_with_the_quantiles_number(means: list[int]) -> None:
    assume(len(set(means)) > 1)
    expected = stats.spearmanr(range(len(means)), means).statistic
    assert metrics.monotonicity(means) == pytest.approx(expected)


def test_monotonicity_of_stairs_and_of_what_is_undefined() -> None:
    assert metrics.monotonicity([-3, -1, 0, 2, 9]) == pytest.approx(1)
    assert metrics.monotonicity([9, 2, 0, -1, -3]) == pytest.approx(-1)
    assert metrics.monotonicity([0.1] * 5) is None
    assert metrics.monotonicity([0.1, np.nan, 0.3]) is None


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ([0.08, 0.06, 0.04, 0.02], 3),  # half of the first is reached at lag 3
        ([0.08, 0.039], 2),
        ([0.08, 0.06, 0.07, 0.01], None),  # it does not fall all the way
        ([0.08, 0.06, 0.06, 0.01], None),
        ([0.08, 0.07, 0.06], None),  # never reached
        ([0.08, 0.03, 0.09], 2),  # what comes later is no matter
        ([-0.08, -0.1, -0.2], None),  # no skill, no life
        ([0.0, -0.1], None),
        ([np.nan, np.nan], None),
        ([0.08, np.nan, 0.01], None),
        ([0.08], None),
        ([], None),
    ],
)
def test_half_life_is_the_lag_at_which_half_is_left(decay: list[float], expected: int | None) -> None:
    assert metrics.half_life(decay) == expected


# --- horizon and overlap, section A2 ---------------------------------------------------------------


@pytest.mark.parametrize("horizon", [5, 20])
def test_the_overlap_is_corrected_once_and_the_roadmaps_chain_corrects_it_twice(horizon: int) -> None:
    """Daily sums of h-day returns, iid days, true Sharpe ratio .5: what each formula makes of them.

        SR_h sqrt(252)                     too high by sqrt(h): an h-day return is taken for a day's
        SR_h sqrt(252/h)                   right, though the samples overlap; only its error is not sqrt(1/T)
        sqrt(252) / sqrt(1 + 2 rho_1)      half a correction
        ... / sqrt(1 + 2 sum_{k<h} rho_k)  right: of overlapping sums that is sqrt(252/h)
        sqrt(252/h) / sqrt(1 + 2 rho_1)    the roadmap's two steps: corrected twice, so far too low

    The formulas live here alone. The report's figure is that of daily portfolio returns, which do not overlap.
    """
    true, days = 0.5, 200_000
    x = np.random.default_rng(0).normal(true / np.sqrt(252) * 0.01, 0.01, days)
    sums = np.convolve(x, np.ones(horizon), mode="valid")
    per_sum = metrics.information_ratio(sums)
    rho = autocorrelation(sums, horizon)
    np.testing.assert_allclose(rho, 1 - np.arange(1, horizon + 1) / horizon, atol=0.03)
    naive, scaled = per_sum * np.sqrt(252), per_sum * np.sqrt(252 / horizon)
    half = naive / np.sqrt(1 + 2 * rho[0])
    full = naive / np.sqrt(1 + 2 * rho[: horizon - 1].sum())
    chained = scaled / np.sqrt(1 + 2 * rho[0])
    plain = metrics.sharpe(x, 252)
    assert plain == pytest.approx(true, abs=0.1)
    assert naive == pytest.approx(np.sqrt(horizon) * plain, rel=0.05)
    assert scaled == pytest.approx(plain, rel=0.05)
    assert full == pytest.approx(plain, rel=0.05)
    assert half > 1.3 * plain
    assert chained < 0.65 * plain


@pytest.mark.parametrize("horizon", [5, 10])
def test_the_daily_returns_of_overlapping_sleeves_need_no_correction(horizon: int) -> None:
    """Positions of h days, renewed a sleeve a day, from a signal that says nothing: no autocorrelation arises."""
    rng = np.random.default_rng(1)
    days, stocks = 3000, 20
    target = np.zeros((days, stocks))
    np.put_along_axis(target, rng.permuted(np.tile(np.arange(stocks), (days, 1)), axis=1)[:, :4],
                      np.array([0.25, 0.25, -0.25, -0.25]), axis=1)  # fmt: skip
    returns = rng.normal(0, 0.02, (days, stocks))
    everywhere = np.ones((days, stocks), bool)
    gross = tranche_book(target, returns, everywhere, ~everywhere, horizon, 1).gross
    rho = autocorrelation(gross, horizon)
    assert np.abs(rho).max() < 4 / np.sqrt(days)
    assert sharpe_lo(gross + 5e-4, 252, 10) == pytest.approx(metrics.sharpe(gross + 5e-4, 252), rel=0.1)


def test_the_correction_for_one_lag_is_undefined_for_strong_reversal() -> None:
    """The roadmap's 1 + 2 rho_1 is negative for the ten returns: their first autocorrelation is -.62."""
    rho = autocorrelation(TEN, 1)
    assert rho[0] == pytest.approx(RETURNS["acf1_5"][0])
    assert 1 + 2 * rho[0] < 0
