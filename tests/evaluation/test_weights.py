"""What the book wants to hold: who, how much, and how slowly it changes its mind."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atft.evaluation.weights import long_short_weights, target_weights

DAYS, STOCKS = 30, 60


def noisy(seed: int = 0, persistence: float = 0.0) -> np.ndarray:
    """Scores [day, stock] with gaps: a lasting opinion and the day's noise."""
    rng = np.random.default_rng(seed)
    score = persistence * rng.normal(size=STOCKS) + rng.normal(size=(DAYS, STOCKS))
    score[rng.random(score.shape) < 0.05] = np.nan
    return score.astype(np.float32)


def exposures(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    beta = rng.normal(1, 0.4, (DAYS, STOCKS)).astype(np.float32)
    return beta, np.tile(rng.integers(0, 4, STOCKS).astype(np.int16), (DAYS, 1))


def wanted(score: np.ndarray, **knobs: Any) -> np.ndarray:
    return target_weights(score.astype(np.float32), **({"quantile": 0.1, "horizon": 1} | knobs))


def turnover(weights: np.ndarray) -> float:
    return np.abs(np.diff(weights, axis=0)).sum(1).mean()


# --- plain deciles --------------------------------------------------------------------------------


def test_deciles_by_hand() -> None:
    score = np.array([5, 3, np.nan, 9, 1, 7, 2, 8, 4, 6, 0], float)
    expected = np.zeros(11)
    expected[[3, 7]], expected[[10, 4]] = 0.25, -0.25
    np.testing.assert_array_equal(long_short_weights(score, 0.2), expected)


@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.2, 1 / 3]))
def test_both_sides_are_a_half_and_a_missing_score_is_not_held(seed: int, quantile: float) -> None:
    weights = wanted(noisy(seed), quantile=quantile)
    np.testing.assert_allclose(np.where(weights > 0, weights, 0).sum(1), 0.5)
    np.testing.assert_allclose(np.where(weights < 0, weights, 0).sum(1), -0.5)
    assert not weights[np.isnan(noisy(seed))].any()
    side = np.floor(np.isfinite(noisy(seed)).sum(1) * quantile)
    np.testing.assert_array_equal((weights > 0).sum(1), side)
    np.testing.assert_array_equal((weights < 0).sum(1), side)


def test_plain_targets_are_the_deciles_of_each_day() -> None:
    score = noisy()
    np.testing.assert_array_equal(wanted(score), [long_short_weights(day, 0.1) for day in score])


@given(st.lists(st.integers(0, 3), min_size=10, max_size=10))
def test_stocks_that_tie_are_never_on_both_sides(values: list[int]) -> None:
    weights = long_short_weights(np.array(values, float), 0.4)
    assert weights.sum() == pytest.approx(0)
    assert np.abs(weights).sum() == pytest.approx(0 if len(set(values)) == 1 else 1)
    if weights.any():
        bought, sold = np.array(values)[weights > 0], np.array(values)[weights < 0]
        assert bought.min() >= sold.max()


def test_of_stocks_that_tie_at_the_cut_the_lower_numbers_count_as_lower() -> None:
    np.testing.assert_array_equal(long_short_weights(np.array([1.0, 1, 1, 0]), 0.25), [0, 0, 0.5, -0.5])
    np.testing.assert_array_equal(long_short_weights(np.array([1.0, 1, 1, 2]), 0.25), [-0.5, 0, 0, 0.5])


@pytest.mark.parametrize(
    "knobs",
    [{}, {"long_only": True}, {"smoothing": 0.5}, {"exit_quantile": 0.3}, {"neutral": "beta_sector"}],
    ids=str,
)
def test_a_constant_and_a_day_without_scores_hold_nothing(knobs: dict[str, Any]) -> None:
    score = np.full((3, STOCKS), 0.1, np.float32)
    score[1] = np.nan
    beta, sector = exposures()
    assert not wanted(score, beta=beta[:3], sector=sector[:3], **knobs).any()


def test_too_few_stocks_for_one_a_side_hold_nothing() -> None:
    assert not long_short_weights(np.arange(9.0), 0.1).any()
    assert long_short_weights(np.arange(10.0), 0.1).any()


def test_long_only_holds_the_same_winners_and_all_of_the_capital() -> None:
    score = noisy()
    long_only, both = wanted(score, long_only=True), wanted(score)
    np.testing.assert_allclose(long_only.sum(1), 1)
    np.testing.assert_array_equal(long_only > 0, both > 0)
    assert (long_only >= 0).all()


# --- changing one's mind slowly ------------------------------------------------------------------


def test_smoothing_averages_the_ranks_of_the_days() -> None:
    """By hand: a quarter of yesterday; the stock that comes on the second day starts with that day."""
    score = np.array([[4, 3, 2, 1, np.nan], [1, 2, 3, 4, 5]], np.float32)
    first = np.array([1.5, 0.5, -0.5, -1.5]) / 4
    second = np.array([-2, -1, 0, 1, 2]) / 5
    smoothed = np.append(0.25 * first + 0.75 * second[:4], second[4])
    expected = long_short_weights(smoothed, 0.2)
    np.testing.assert_array_equal(wanted(score, quantile=0.2, smoothing=0.25)[1], expected)


def test_a_stock_that_was_not_ranked_yesterday_has_no_memory() -> None:
    score = noisy(2)
    score[:, 0] = 10
    score[15, 0], score[16:, 0] = np.nan, -10
    assert wanted(score, smoothing=0.9)[14, 0] > 0
    assert wanted(score, smoothing=0.9)[16, 0] < 0


def test_without_smoothing_or_band_only_the_day_counts() -> None:
    score = noisy(3)
    np.testing.assert_array_equal(wanted(score, smoothing=0.0, exit_quantile=0.1), wanted(score))
    np.testing.assert_array_equal(wanted(score, exit_quantile=0.0), wanted(score))


@pytest.mark.parametrize("knobs", [{"smoothing": 0.7}, {"exit_quantile": 0.3}], ids=str)
def test_noisy_scores_are_traded_less(knobs: dict[str, Any]) -> None:
    score = noisy(4, persistence=1.0)
    assert turnover(wanted(score, **knobs)) < 0.7 * turnover(wanted(score))


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 4), st.sampled_from([0.15, 0.3, 0.5, 0.9]))
def test_what_a_sleeve_holds_stays_while_it_is_in_the_band(seed: int, horizon: int, exit_quantile: float) -> None:
    """And the number of stocks stays; the places left go to the best of the others."""
    score = noisy(seed, persistence=0.5)
    weights = wanted(score, horizon=horizon, exit_quantile=exit_quantile)
    for day in range(DAYS):
        known = np.flatnonzero(np.isfinite(score[day]))
        side = int(len(known) * 0.1 + 1e-9)
        band = min(int(len(known) * exit_quantile + 1e-9), len(known) - side)
        order = known[np.argsort(-score[day, known])]
        for sign, ranked in ((1, order), (-1, order[::-1])):
            now = set(np.flatnonzero(sign * weights[day] > 0))
            before = set(np.flatnonzero(sign * weights[day - horizon] > 0)) if day >= horizon else set()
            assert len(now) == side
            stays = [stock for stock in ranked[:band] if stock in before][:side]
            assert set(stays) <= now
            others = [stock for stock in ranked if stock not in before]
            assert now - set(stays) == set(others[: side - len(stays)])


def test_a_band_by_hand() -> None:
    """Ten stocks, one a side, out beyond the third place: second stays, fourth goes."""
    score = np.arange(10.0, dtype=np.float32)
    second = score[[0, 1, 2, 3, 4, 5, 6, 7, 9, 8]]
    fourth = score[[0, 1, 2, 3, 4, 5, 7, 8, 9, 6]]
    weights = wanted(np.stack([score, second, fourth]), exit_quantile=0.3)
    assert weights.argmax(1).tolist() == [9, 9, 8]


# --- neutral books --------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(["beta", "sector", "beta_sector"]))
def test_a_neutral_book_carries_none_of_it_at_the_same_gross(seed: int, neutral: str) -> None:
    beta, sector = exposures(seed + 1)
    score = noisy(seed) + beta + 0.3 * sector
    weights = wanted(score, quantile=0.3, neutral=neutral, beta=beta, sector=sector)
    np.testing.assert_allclose(np.abs(weights).sum(1), 1)
    np.testing.assert_allclose(weights.sum(1), 0, atol=1e-12)
    if "beta" in neutral:
        np.testing.assert_allclose((weights * beta).sum(1), 0, atol=1e-12)
    if "sector" in neutral:
        by_sector = [np.where(sector == number, weights, 0).sum(1) for number in range(4)]
        np.testing.assert_allclose(by_sector, 0, atol=1e-12)


def test_the_plain_book_of_the_same_scores_does_carry_it() -> None:
    beta, sector = exposures()
    weights = wanted(noisy() + 2 * beta + sector, quantile=0.3)
    assert (weights * beta).sum(1).mean() > 0.2
    assert np.where(sector == 3, weights, 0).sum(1).mean() > 0.1


def test_a_neutral_book_holds_the_stocks_of_the_plain_one() -> None:
    beta, sector = exposures()
    score = noisy()
    neutral = wanted(score, quantile=0.3, neutral="beta_sector", beta=beta, sector=sector)
    assert not neutral[wanted(score, quantile=0.3) == 0].any()


def test_an_unknown_beta_counts_as_one() -> None:
    beta, sector = exposures()
    beta[:, ::3] = np.nan
    weights = wanted(noisy(), quantile=0.3, neutral="beta", beta=beta, sector=sector)
    np.testing.assert_allclose((weights * np.where(np.isfinite(beta), beta, 1)).sum(1), 0, atol=1e-12)


def test_where_neutrality_leaves_nothing_nothing_is_held() -> None:
    """Every stock alone in its sector."""
    score = np.arange(20, dtype=np.float32)[None]
    sector = np.arange(20, dtype=np.int16)[None]
    assert not wanted(score, neutral="sector", beta=np.ones_like(score), sector=sector).any()


# --- causality ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"long_only": True},
        {"smoothing": 0.8, "horizon": 3},
        {"exit_quantile": 0.3, "horizon": 3},
        {"neutral": "beta_sector", "quantile": 0.3},
        {"smoothing": 0.5, "exit_quantile": 0.5, "neutral": "beta_sector", "quantile": 0.2, "horizon": 2},
    ],
    ids=str,
)
def test_the_future_changes_no_weight(knobs: dict[str, Any]) -> None:
    score, (beta, sector) = noisy(5), exposures()
    before = wanted(score, beta=beta, sector=sector, **knobs)
    later = slice(15, None)
    score, beta, sector = score.copy(), beta.copy(), sector.copy()
    score[later], beta[later], sector[later] = noisy(6)[later], exposures(7)[0][later], exposures(8)[1][later]
    after = wanted(score, beta=beta, sector=sector, **knobs)
    np.testing.assert_array_equal(before[:15], after[:15])
    assert not np.array_equal(before[15:], after[15:])
