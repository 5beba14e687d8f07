"""States of the market, from the past alone and without flicker."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atft.panel.regimes import CLIP, ewma_volatility, high_state, mean_correlation

seeds = st.integers(0, 2**32 - 1)


# --- volatility -----------------------------------------------------------------------------------


@given(seeds, st.sampled_from([1, 5, 20]))
def test_volatility_is_pandas_exponential_mean_of_squares(seed: int, half_life: int) -> None:
    returns = np.random.default_rng(seed).normal(0, 0.01, 80)
    expected = np.sqrt(pd.Series(returns**2).ewm(halflife=half_life).mean())
    np.testing.assert_allclose(ewma_volatility(returns, half_life), expected)


def test_an_unknown_return_is_left_out_of_the_volatility() -> None:
    returns = np.array([np.nan, np.nan, 0.01, np.nan, -0.02, 0.03])
    found = ewma_volatility(returns, 3)
    known = np.isfinite(returns)
    np.testing.assert_allclose(found[known], ewma_volatility(returns[known], 3))
    assert np.isnan(found[~known]).all()


# --- correlation ----------------------------------------------------------------------------------


def pairs(rho: float, days: int = 400, stocks: int = 25, seed: int = 0) -> np.ndarray:
    """Returns of stocks that all correlate by rho, each with its own size."""
    rng = np.random.default_rng(seed)
    common = np.sqrt(rho) * rng.normal(size=(days, 1)) + np.sqrt(1 - rho) * rng.normal(size=(days, stocks))
    return common * rng.uniform(0.01, 0.04, stocks)


def trailing_volatility(returns: np.ndarray) -> np.ndarray:
    return pd.DataFrame(returns).rolling(60, min_periods=20).std().to_numpy()


@settings(max_examples=20)
@given(seeds)
def test_one_pass_gives_the_mean_product_of_all_pairs(seed: int) -> None:
    """((sum z)^2 - sum z^2) / (n (n - 1)) is the mean over all pairs, whoever is missing that day."""
    rng = np.random.default_rng(seed)
    returns, volatility = rng.normal(0, 0.02, (12, 8)), rng.uniform(0.01, 0.03, (12, 8))
    present = rng.random((12, 8)) < 0.8
    volatility[rng.random((12, 8)) < 0.1] = np.nan
    found = mean_correlation(returns, present, volatility, 1)
    for day in range(1, 12):
        here = present[day] & np.isfinite(volatility[day - 1])
        z = np.clip(returns[day, here] / volatility[day - 1, here], -CLIP, CLIP)
        products = [z[i] * z[j] for i in range(len(z)) for j in range(i)]
        assert found[day] == pytest.approx(np.mean(products) if products else np.nan, abs=1e-12, nan_ok=True)
    assert np.isnan(found[0])


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.6])
def test_it_is_about_the_mean_of_the_correlation_matrix(rho: float) -> None:
    returns = pairs(rho)
    found = mean_correlation(returns, np.ones(returns.shape, bool), trailing_volatility(returns), 300)
    matrix = np.corrcoef(returns[-300:].T)
    expected = matrix[np.triu_indices(25, 1)].mean()
    assert found[-1] == pytest.approx(expected, abs=0.05)
    assert expected == pytest.approx(rho, abs=0.1)


def test_one_days_news_of_one_stock_is_no_co_movement() -> None:
    returns = pairs(0.2)
    shocked = returns.copy()
    shocked[-1, 0] = 5.0
    volatility, everywhere = trailing_volatility(returns), np.ones(returns.shape, bool)
    one, two = (mean_correlation(x, everywhere, volatility, 60)[-1] for x in (returns, shocked))
    assert abs(one - two) < 0.02


def test_correlation_needs_a_whole_window_of_days_with_two_stocks() -> None:
    returns = pairs(0.2, days=100)
    everywhere = np.ones(returns.shape, bool)
    found = mean_correlation(returns, everywhere, trailing_volatility(returns), 60)
    first = 20 + 60 - 1  # volatilities are known from the 20th day on, and used the day after
    assert np.isnan(found[:first]).all()
    assert np.isfinite(found[first:]).all()
    alone = everywhere.copy()
    alone[90, 1:] = False
    assert np.isnan(mean_correlation(returns, alone, trailing_volatility(returns), 60)[90:]).all()
    assert np.isnan(mean_correlation(returns[:50], everywhere[:50], trailing_volatility(returns)[:50], 60)).all()


# --- states ---------------------------------------------------------------------------------------


def test_a_state_is_entered_above_one_threshold_and_left_below_another() -> None:
    """Against a past of 1 .. 10: high above 7, and then until 5 or less; the values seen join the past."""
    past = list(range(1, 11))
    days = [6, 8, 6, 5, 6, 9]
    assert high_state(np.array([*past, *days], float), history=10).tolist() == [-1] * 10 + [0, 1, 1, 0, 0, 1]


def test_a_day_is_not_held_against_itself() -> None:
    """The highest value ever is above all of its past; equal values are not above the median of each other."""
    assert high_state(np.array([1.0] * 5 + [2.0]), history=5)[-1] == 1
    assert high_state(np.arange(30.0), history=5).tolist() == [-1] * 5 + [1] * 25


def test_an_unknown_value_keeps_the_state_and_joins_no_past() -> None:
    values = np.array([np.nan, 1, 2, np.nan, 3, 4, 10, np.nan, 0, np.nan])
    state = high_state(values, history=4)
    assert state.tolist() == [-1, -1, -1, -1, -1, -1, 1, 1, 0, 0]


@settings(max_examples=30)
@given(seeds, st.integers(60, 119))
def test_the_future_changes_no_state(seed: int, today: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=120)
    another = values.copy()
    another[today + 1 :] = 100 * rng.normal(size=120 - today - 1)
    np.testing.assert_array_equal(high_state(values)[: today + 1], high_state(another)[: today + 1])


def test_two_thresholds_flicker_less_than_one() -> None:
    values = ewma_volatility(np.random.default_rng(0).normal(size=2000), 20)
    two, one = high_state(values), high_state(values, leave=0.7)
    assert np.abs(np.diff(two)).sum() < 0.8 * np.abs(np.diff(one)).sum()


def test_states_of_a_market_that_turns_are_found() -> None:
    """Volatility triples for 100 days of 400."""
    rng = np.random.default_rng(3)
    size = np.where((np.arange(400) >= 200) & (np.arange(400) < 300), 0.03, 0.01)
    state = high_state(ewma_volatility(size * rng.normal(size=400), 20))
    assert (state[215:300] == 1).mean() > 0.9
    assert (state[380:] == 0).all()
