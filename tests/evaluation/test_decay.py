"""How fast scores fade, on one sample of dates and stocks."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from atft.evaluation.decay import decay_rank_ic
from atft.evaluation.market import Market
from evaluation.judged import VECTORS, market_of

DECAY = VECTORS["ic_decay"]


def random_market(seed: int, days: int = 14, stocks: int = 30, **facts: object) -> tuple[Market, np.ndarray]:
    rng = np.random.default_rng(seed)
    market = market_of(rng.normal(0, 0.03, (days, stocks)), **facts)
    return market, rng.normal(size=(days, stocks, 1)).astype(np.float32)


def growth(market: Market, start: int, end: int) -> np.ndarray:
    """Return of a position held from the close of `start` to that of `end`."""
    return np.prod(1 + market.daily_return[start + 1 : end + 1].astype(float), axis=0) - 1


@pytest.mark.parametrize("lag", [1, 2, 3])
def test_both_kinds_match_the_vector(lag: int) -> None:
    """Each lag of the page has all dates it can; so do ours where it is the last."""
    market = market_of(DECAY["ret_row_t_is_t-1_to_t"])
    scores = np.array(DECAY["pred"], np.float32)[..., None]
    cumulative, marginal = (x[:, 0, lag - 1] for x in decay_rank_ic(market, range(10), scores, lag, min_names=6))
    expected = DECAY["cumulative_rankic"][str(lag)]
    assert np.isfinite(cumulative).sum() == expected["n"]
    assert np.nanmean(cumulative) == pytest.approx(expected["mean"])
    assert np.nanmean(marginal) == pytest.approx(DECAY["marginal_rankic"][str(lag)])


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(0, 2))
def test_a_position_is_entered_after_the_delay_and_ranked_by_what_it_earned(seed: int, delay: int) -> None:
    market, scores = random_market(seed, delay=delay)
    cumulative, marginal = decay_rank_ic(market, [2, 5], scores[[2, 5]], 4)
    for row, day in enumerate([2, 5]):
        entry = day + delay
        for lag in range(1, 5):
            for found, returns in (
                (cumulative, growth(market, entry, entry + lag)),
                (marginal, market.daily_return[entry + lag]),
            ):
                assume(
                    np.diff(np.sort(np.log1p(returns))).min() > 1e-6
                )  # closer ones tie: single precision tells no more
                expected = stats.spearmanr(scores[day, :, 0], returns).statistic
                assert found[row, 0, lag - 1] == pytest.approx(expected, abs=1e-9)


def test_all_lags_share_their_dates() -> None:
    """A day whose last lag lies beyond the sample counts at no lag."""
    market, scores = random_market(0, delay=1)
    for found in decay_rank_ic(market, range(14), scores, 5):
        np.testing.assert_array_equal(np.isfinite(found[:, 0]).sum(0), [14 - 1 - 5] * 5)
        np.testing.assert_array_equal(np.isfinite(found[:, 0]).all(1), np.arange(14) < 14 - 1 - 5)


def test_a_sample_shorter_than_the_last_lag_has_no_decay() -> None:
    market, scores = random_market(0)
    for found in decay_rank_ic(market, range(14), scores, 14):
        assert np.isnan(found).all()


@pytest.mark.parametrize("defect", ["no bar later", "no entry", "no score at another horizon"])
def test_all_lags_share_their_stocks(defect: str) -> None:
    """A stock that one lag or horizon misses is ranked at none."""
    market, one = random_market(1)
    scores = np.repeat(one, 2, axis=2)
    if defect == "no bar later":
        market.has_bar[5, 7] = False
    elif defect == "no entry":
        market.can_trade[2, 7] = False
    else:
        scores[2, 7, 1] = np.nan
    others = np.delete(np.arange(30), 7)
    for found, returns in zip(
        decay_rank_ic(market, [2], scores[[2]], 4), (growth(market, 2, 3), market.daily_return[3]), strict=True
    ):
        expected = stats.spearmanr(scores[2, others, 0], returns[others]).statistic
        assert found[0, 0, 0] == pytest.approx(expected, abs=1e-9)


def test_a_delisted_stock_stays_with_what_its_holders_got() -> None:
    market, scores = random_market(2)
    market.has_bar[4:, 7] = False  # its last bar is day 3, its terminal return stands on day 4
    market.daily_return[4, 7], market.daily_return[5:, 7] = -0.9, 0.0
    scores[2, 7] = -10
    cumulative, _ = decay_rank_ic(market, [2], scores[[2]], 4)
    for lag in range(1, 5):
        returns = growth(market, 2, 2 + lag)
        assert cumulative[0, 0, lag - 1] == pytest.approx(stats.spearmanr(scores[2, :, 0], returns).statistic, abs=1e-9)
    assert growth(market, 2, 6)[7] < -0.8


def test_prices_that_are_back_where_they_were_tie() -> None:
    """Up by this or that and back again is no return, whatever single precision leaves of it."""
    market, scores = random_market(3)
    up = np.linspace(-0.2, 0.2, 30)
    market.daily_return[3], market.daily_return[4] = up, 1 / (1 + up) - 1
    market.daily_return[4, :10] = up[:10] + 0.5
    assert len(np.unique(growth(market, 2, 4)[10:])) > 1
    cumulative, _ = decay_rank_ic(market, [2], scores[[2]], 2)
    returns = np.where(np.arange(30) < 10, growth(market, 2, 4), 0.0)
    assert cumulative[0, 0, 1] == pytest.approx(stats.spearmanr(scores[2, :, 0], returns).statistic, abs=1e-9)


def test_a_small_cross_section_and_a_constant_are_undefined() -> None:
    market, scores = random_market(4)
    for change in (slice(0, 11), slice(None)):
        changed = scores[[2]].copy()
        changed[0, change] = np.nan if change != slice(None) else 0.1
        assert all(np.isnan(found).all() for found in decay_rank_ic(market, [2], changed, 3))
