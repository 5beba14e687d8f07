"""What was known of the market as of a day: exposures, the equal-weighted return, who has left."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm

from atft.evaluation.market import EXPOSURE_DAYS, MIN_EXPOSURE_DAYS, REGIMES, Market
from conftest import World
from evaluation.judged import market_of

DAYS, STOCKS = 260, 30


@pytest.fixture
def market() -> Market:
    """A market of betas around 1, stock 3 with gaps, stock 4 listed late, stock 5 delisted."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.01, (DAYS, 1))
    returns = common * rng.uniform(0.5, 1.5, STOCKS) + rng.normal(0, 0.02, (DAYS, STOCKS))
    present = np.ones((DAYS, STOCKS), bool)
    present[50:120:3, 3], present[:100, 4], present[90:, 5] = False, False, False
    return market_of(np.where(present, returns, 0), has_bar=present, can_trade=present, tradable=present)


def test_of_a_panel_is_that_panel_in_memory(world: World) -> None:
    market = Market.of(world.panel)
    for name in ("daily_return", "has_bar", "can_trade", "tradable", "forward_return", "label", "money_traded"):
        np.testing.assert_array_equal(getattr(market, name), getattr(world.panel, name))
        assert getattr(market, name).flags.c_contiguous
    assert (market.delay, list(market.horizons), list(market.codes)) == (1, [1, 5], list(world.panel.codes))


def test_the_market_is_the_mean_of_the_stocks_tradable_the_day_before(market: Market) -> None:
    known = market.equal_weight
    assert np.isnan(known[0])
    returns = pd.DataFrame(market.daily_return.astype(float))
    held = pd.DataFrame(market.tradable).shift(1, fill_value=False)
    np.testing.assert_allclose(known[1:], returns.where(held).mean(axis=1)[1:])


def test_a_return_on_the_day_of_leaving_counts_and_one_of_the_first_day_does_not(market: Market) -> None:
    """Who holds a stock until it is delisted gets its terminal return; nobody could hold it before its first bar."""
    returns = market.daily_return.copy()
    returns[90, 5], returns[100, 4] = -0.9, 5.0
    changed = replace(market, daily_return=returns).equal_weight[1:] != market.equal_weight[1:]
    assert (np.flatnonzero(changed) + 1).tolist() == [90]


def test_volatility_is_pandas_rolling_deviation_over_the_stocks_own_bars(market: Market) -> None:
    returns = pd.DataFrame(np.where(market.has_bar, market.daily_return.astype(float), np.nan))
    expected = returns.rolling(EXPOSURE_DAYS, min_periods=MIN_EXPOSURE_DAYS).std()
    np.testing.assert_allclose(market.volatility, expected, rtol=1e-4)


@pytest.mark.parametrize(("day", "stock"), [(100, 0), (149, 7), (110, 3), (130, 4), (95, 5), (30, 2)])
def test_beta_is_the_regression_over_the_trailing_window(market: Market, day: int, stock: int) -> None:
    window = slice(max(day + 1 - EXPOSURE_DAYS, 0), day + 1)
    here = market.has_bar[window, stock]
    y = market.daily_return[window, stock][here].astype(float)
    x = np.nan_to_num(market.equal_weight)[window][here]
    assert market.beta[day, stock] == pytest.approx(sm.OLS(y, sm.add_constant(x)).fit().params[1], rel=1e-4)


def test_exposures_need_twenty_bars(market: Market) -> None:
    first = 100 + MIN_EXPOSURE_DAYS - 1
    for exposure in (market.volatility, market.beta):
        assert np.isnan(exposure[:first, 4]).all()
        assert np.isfinite(exposure[first:, 4]).all()


def test_the_stocks_of_the_market_have_a_beta_of_one_together(market: Market) -> None:
    """Equal weights of all of them are the market, so where all are present their betas average 1."""
    whole = market_of(market.daily_return[:, 6:])
    np.testing.assert_allclose(whole.beta[EXPOSURE_DAYS:].mean(1), 1, atol=1e-4)


def test_a_stock_has_gone_once_its_last_bar_is_past(market: Market) -> None:
    assert np.flatnonzero(market.gone.any(0)).tolist() == [5]
    np.testing.assert_array_equal(market.gone[:, 5], np.arange(DAYS) >= 90)


def test_reversal_is_minus_the_return_of_the_last_five_days(market: Market) -> None:
    growth = np.log1p(market.daily_return[31:36].astype(float)).sum(0)
    np.testing.assert_allclose(market.reversal()[35], -growth, rtol=1e-4)
    np.testing.assert_allclose(market.reversal(1)[35], -np.log1p(market.daily_return[35]), rtol=1e-3)


def test_a_stock_that_lost_everything_keeps_a_finite_path(market: Market) -> None:
    returns = market.daily_return.copy()
    returns[40, 0] = -1.0
    assert np.isfinite(replace(market, daily_return=returns).log_growth).all()


@pytest.mark.parametrize("fact", ["equal_weight", "volatility", "beta", "log_growth", "reversal", *REGIMES])
def test_the_future_changes_nothing_known_today(market: Market, fact: str) -> None:
    def known(one: Market) -> np.ndarray:
        if fact in REGIMES:
            return one.regimes[fact]
        return one.reversal() if fact == "reversal" else getattr(one, fact)

    today = 200
    returns, present = market.daily_return.copy(), market.has_bar.copy()
    returns[today + 1 :] = 0.1 * np.random.default_rng(1).normal(size=(DAYS - today - 1, 1))  # all stocks as one
    present[today + 5 :, ::2] = False
    another = replace(market, daily_return=returns, has_bar=present, tradable=present, can_trade=present)
    past, future = slice(0, today + 1), slice(today + 1, None)
    np.testing.assert_array_equal(known(market)[past], known(another)[past])
    assert not np.array_equal(known(market)[future], known(another)[future])


def test_regimes_are_named_and_unknown_before_there_is_a_past(market: Market) -> None:
    for kind, names in REGIMES.items():
        state = market.regimes[kind]
        assert set(np.unique(state)) <= set(range(-1, len(names)))
        assert (state[:60] == -1).all()
        assert (state[-1:] >= 0).all()


def test_days_before_there_was_a_market_are_not_taken_for_calm_ones() -> None:
    """Returns from the 61st day on: the first volatilities are as high as the later ones, not a climb from zero."""
    rng = np.random.default_rng(2)
    returns = rng.normal(0, 0.01, (400, 1)) + rng.normal(0, 0.01, (400, STOCKS))
    ranked = np.arange(400)[:, None] >= 60 + np.zeros(STOCKS)
    whole = market_of(returns)
    late = replace(whole, tradable=ranked)
    from_then = market_of(returns[60:])
    np.testing.assert_array_equal(late.regimes["volatility"][60:], from_then.regimes["volatility"])
