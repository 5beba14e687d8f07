"""What one date's scores are worth: vectors, scipy, regressions spelt out, and the properties that expose a lie."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from atft.evaluation.cross_section import (
    group_rank_ic,
    pearson_ic,
    precision,
    quantile_returns,
    rank_ic,
    residual_scores,
)
from evaluation.judged import VECTORS, day_of

IC = VECTORS["ic"]
PRED, RET = day_of(*IC["pred"]), day_of(*IC["ret"])
seeds = st.integers(0, 2**32 - 1)
# Few distinct values, so that they tie; NaN is a stock without.
tied = arrays(np.float32, (3, 25), elements=st.sampled_from([np.nan, *range(-4, 5)]))


def ordinal(values: list[float]) -> np.ndarray:
    return np.argsort(np.argsort(values, kind="stable"), kind="stable") + 1.0


# --- IC and RankIC --------------------------------------------------------------------------------


def test_ic_and_rank_ic_match_the_vectors() -> None:
    assert pearson_ic(PRED, RET, 2)[0] == pytest.approx(IC["pearson"], abs=1e-7)
    assert rank_ic(PRED, RET, 2)[0] == pytest.approx(IC["spearman_ties"], abs=1e-12)


def test_ties_share_their_average_rank() -> None:
    """Ranks by place and the formula without ties come to other numbers, the ones rejected on the page."""
    d = stats.rankdata(IC["pred"]) - stats.rankdata(IC["ret"])
    no_ties = 1 - 6 * (d**2).sum() / (6 * 35)
    by_place = np.corrcoef(ordinal(IC["pred"]), ordinal(IC["ret"]))[0, 1]
    assert no_ties == pytest.approx(IC["wrong_no_ties_formula"])
    assert by_place == pytest.approx(IC["wrong_ordinal_ranks"])
    assert rank_ic(PRED, RET, 2)[0] not in (pytest.approx(no_ties), pytest.approx(by_place))


@pytest.mark.parametrize("missing", ["score", "return"])
def test_a_missing_value_drops_the_stock_before_ranking(missing: str) -> None:
    score, returns = PRED.copy(), RET.copy()
    (score if missing == "score" else returns)[0, 2] = np.nan
    assert rank_ic(score, returns, 2)[0] == pytest.approx(IC["nan_at_2_drop_then_rank"], abs=1e-12)
    kept = np.delete(np.arange(6), 2)
    assert pearson_ic(score, returns, 2)[0] == pytest.approx(
        stats.pearsonr(np.array(IC["pred"])[kept], np.array(IC["ret"])[kept]).statistic, abs=1e-7
    )


@given(tied, tied)
def test_both_equal_scipys(score: np.ndarray, returns: np.ndarray) -> None:
    """With ties and gaps, many dates at once; NaN where scipy has no answer either."""
    for measure, oracle in ((pearson_ic, stats.pearsonr), (rank_ic, stats.spearmanr)):
        for found, a, b in zip(measure(score, returns, 3), score, returns, strict=True):
            known = np.isfinite(a) & np.isfinite(b)
            x, y = a[known].astype(float), b[known].astype(float)
            if known.sum() < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
                assert np.isnan(found)
            else:
                assert found == pytest.approx(oracle(x, y).statistic, abs=1e-12)


@pytest.mark.parametrize("measure", [pearson_ic, rank_ic])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e-30])
def test_a_constant_is_undefined_never_zero(measure, value: float) -> None:
    """0.1 has no exact mean in float32: rounding must not pass for a difference."""
    returns = np.random.default_rng(0).normal(size=(1, 31)).astype(np.float32)
    flat = np.full((1, 31), value, np.float32)
    assert np.isnan(measure(flat, returns)).all()
    assert np.isnan(measure(returns, flat)).all()


@pytest.mark.parametrize("measure", [pearson_ic, rank_ic])
def test_a_small_cross_section_is_undefined(measure) -> None:
    values = np.random.default_rng(0).normal(size=(2, 1, 20)).astype(np.float32)
    assert np.isfinite(measure(*values)).all()
    values[0, 0, 7] = np.nan
    assert np.isnan(measure(*values)).all()
    assert np.isfinite(measure(*values, min_names=19)).all()


def test_a_rising_market_is_not_skill() -> None:
    """Scores that follow the market's mean rank nothing, though pooled they correlate."""
    rng = np.random.default_rng(0)
    drift = np.linspace(-1, 1, 50)[:, None]
    score, returns = (drift + rng.normal(size=(2, 50, 30))).astype(np.float32)
    assert np.corrcoef(score.ravel(), returns.ravel())[0, 1] > 0.2
    for measure in (pearson_ic, rank_ic):
        assert abs(measure(score, returns).mean()) < 3 / np.sqrt(50 * 29)


@settings(max_examples=30)
@given(seeds)
def test_each_date_looks_at_itself_alone(seed: int) -> None:
    score, returns = np.random.default_rng(seed).normal(size=(2, 4, 30)).astype(np.float32)
    group = np.random.default_rng(seed).integers(0, 3, (4, 30)).astype(np.int16)
    for measure in (
        pearson_ic,
        rank_ic,
        lambda s, r: quantile_returns(s, r, 5),
        lambda s, r: precision(s, r, 3).T,
        lambda s, r: group_rank_ic(s, r, group[: len(s)], 3),
        lambda s, _: residual_scores(s, [returns[: len(s)]], group[: len(s)]),
    ):
        np.testing.assert_array_equal(measure(score, returns)[:2], measure(score[:2], returns[:2]))


@settings(max_examples=30)
@given(seeds)
def test_sign_flip_negates_and_the_order_of_stocks_is_irrelevant(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, returns = rng.normal(size=(2, 3, 40)).astype(np.float32)
    score[:, :5] = score[:, [5]]  # ties
    order = rng.permutation(40)
    for measure in (pearson_ic, rank_ic):
        base = measure(score, returns)
        np.testing.assert_allclose(measure(-score, returns), -base, atol=1e-12)
        np.testing.assert_allclose(measure(score[:, order], returns[:, order]), base, atol=1e-12)
        np.testing.assert_allclose(measure(returns, returns), 1, atol=1e-12)


@settings(max_examples=30)
@given(seeds)
def test_only_the_order_of_scores_counts(seed: int) -> None:
    """A monotone transform leaves every number as it is, but for the IC, which is about size."""
    score, returns = np.random.default_rng(seed).normal(size=(2, 3, 40)).astype(np.float32)
    bent = np.exp(3 * score) - 100
    assume(all(len(np.unique(row)) == 40 for row in bent))
    group = np.tile(np.arange(40) % 4, (3, 1)).astype(np.int16)
    for measure in (
        rank_ic,
        lambda s, r: quantile_returns(s, r, 5),
        lambda s, r: precision(s, r, 3),
        lambda s, r: group_rank_ic(s, r, group, 4),
        lambda s, r: residual_scores(s, [r], group),
    ):
        np.testing.assert_array_equal(measure(score, returns), measure(bent, returns))
    assert not np.allclose(pearson_ic(score, returns), pearson_ic(bent, returns))


# --- within groups --------------------------------------------------------------------------------


@given(tied, tied, arrays(np.int16, (3, 25), elements=st.integers(0, 3)))
def test_rank_ic_within_groups_equals_scipys(score: np.ndarray, returns: np.ndarray, group: np.ndarray) -> None:
    found = group_rank_ic(score, returns, group, 5, min_names=4)
    assert found.shape == (3, 5)
    for day in range(3):
        for number in range(5):
            here = (group[day] == number) & np.isfinite(score[day]) & np.isfinite(returns[day])
            x, y = score[day, here], returns[day, here]
            if here.sum() < 4 or np.ptp(x) == 0 or np.ptp(y) == 0:
                assert np.isnan(found[day, number])
            else:
                assert found[day, number] == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_the_right_sector_is_no_skill_within_it() -> None:
    """A score that knows which sector rises, and no more, has a RankIC and none within the sectors."""
    rng = np.random.default_rng(1)
    group = np.tile(np.repeat(np.arange(4), 25), (60, 1)).astype(np.int16)
    sector = rng.normal(size=(60, 4)).repeat(25, axis=1)
    score, returns = (sector + rng.normal(size=(2, 60, 100))).astype(np.float32)
    assert rank_ic(score, returns).mean() > 0.3
    assert abs(group_rank_ic(score, returns, group, 4).mean()) < 3 / np.sqrt(60 * 4 * 24)
    assert abs(rank_ic(residual_scores(score, [], group), returns).mean()) < 3 / np.sqrt(60 * 99)


# --- neutral scores -------------------------------------------------------------------------------


def regression(score: np.ndarray, exposures: list[np.ndarray], group: np.ndarray) -> np.ndarray:
    """Residuals of one date's ranks on [group dummies, ranked exposures] by numpy's least squares."""
    known = np.isfinite([score, *exposures]).all(0)
    y, *x = (stats.rankdata(values[known]) for values in (score, *exposures))
    dummies = (group[known][:, None] == np.unique(group[known])).astype(float)
    design = np.column_stack([dummies, *x])
    out = np.full(len(score), np.nan)
    out[known] = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return out


@settings(max_examples=50)
@given(seeds)
def test_neutral_scores_are_the_residuals_of_a_regression_of_ranks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, volatility, beta = rng.normal(size=(3, 4, 50)).astype(np.float32)
    beta += volatility  # they are no strangers
    score += 0.5 * beta
    score[:, :4] = score[:, [4]]
    for values in (score, volatility, beta):
        values[rng.random(values.shape) < 0.05] = np.nan
    group = rng.integers(0, 5, (4, 50)).astype(np.int16)
    group[:, 0] = 9  # alone in its group
    found = residual_scores(score, [volatility, beta], group)
    for day in range(4):
        expected = regression(score[day], [volatility[day], beta[day]], group[day])
        np.testing.assert_allclose(found[day], expected, atol=1e-4)


def test_neutral_scores_know_neither_exposure_nor_group() -> None:
    rng = np.random.default_rng(2)
    group = np.tile(np.repeat(np.arange(5), 20), (10, 1)).astype(np.int16)
    exposure = rng.normal(size=(10, 100)).astype(np.float32)
    score = (2 * exposure + rng.normal(size=(10, 100)) + group).astype(np.float32)
    left = residual_scores(score, [exposure], group)
    ranks = stats.rankdata(exposure, axis=1)
    for day in range(10):
        assert abs(np.corrcoef(left[day], ranks[day])[0, 1]) < 1e-6
        assert np.abs([left[day, group[day] == number].mean() for number in range(5)]).max() < 1e-5


def test_an_exposure_that_another_explains_is_counted_once_and_a_score_it_explains_leaves_nothing() -> None:
    rng = np.random.default_rng(3)
    score, exposure = rng.normal(size=(2, 2, 40)).astype(np.float32)
    group = np.zeros((2, 40), np.int16)
    once = residual_scores(score, [exposure], group)
    np.testing.assert_allclose(residual_scores(score, [exposure, np.exp(exposure)], group), once, atol=1e-5)
    np.testing.assert_allclose(residual_scores(np.exp(exposure), [exposure], group), 0, atol=1e-5)


def test_a_stock_whose_exposure_is_unknown_is_left_out_and_one_alone_in_its_group_gets_zero() -> None:
    rng = np.random.default_rng(4)
    score, exposure = rng.normal(size=(2, 1, 30)).astype(np.float32)
    group = np.zeros((1, 30), np.int16)
    exposure[0, 3], group[0, 7] = np.nan, 1
    left = residual_scores(score, [exposure], group)
    assert np.isnan(left[0, 3])
    assert left[0, 7] == 0
    others = np.delete(np.arange(30), 3)
    np.testing.assert_array_equal(
        left[:, others], residual_scores(score[:, others], [exposure[:, others]], group[:, others])
    )


# --- quantiles ------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(seeds, st.sampled_from([2, 5, 10]))
def test_quantile_returns_are_pandas_qcuts(seed: int, quantiles: int) -> None:
    """Without ties and where stocks divide evenly, which is where everybody agrees."""
    score, returns = np.random.default_rng(seed).normal(size=(2, 3, 40)).astype(np.float32)
    found = quantile_returns(score, returns, quantiles)
    for day in range(3):
        bins = pd.qcut(pd.Series(score[day]), quantiles, labels=False)
        expected = pd.Series(returns[day].astype(float)).groupby(bins).mean()
        np.testing.assert_allclose(found[day], expected, atol=1e-9)


def test_quantiles_by_hand() -> None:
    """Six stocks in three pairs, lowest scores first; the stock without a return is in none of them."""
    score = day_of(0.3, 0.1, 0.6, 0.5, 9.0, 0.2, 0.4)
    returns = day_of(0.03, 0.01, 0.06, 0.05, np.nan, 0.02, 0.04)
    np.testing.assert_allclose(quantile_returns(score, returns, 3), [[0.015, 0.035, 0.055]], atol=1e-8)


def test_stocks_that_tie_share_a_quantile_and_an_empty_one_is_undefined() -> None:
    score = day_of(1, 1, 1, 1, 2, 3)
    returns = day_of(0.01, 0.02, 0.03, 0.04, 0.05, 0.06)
    np.testing.assert_allclose(quantile_returns(score, returns, 3), [[np.nan, 0.025, 0.055]], atol=1e-8)


def test_quantiles_of_a_constant_are_undefined() -> None:
    assert np.isnan(quantile_returns(np.full((1, 30), 0.1, np.float32), np.ones((1, 30), np.float32), 10)).all()


# --- precision ------------------------------------------------------------------------------------


def test_precision_by_hand_counts_a_return_of_zero_as_a_miss() -> None:
    """The three best earned 2 %, 0 and -1 %: .333 above 0, where StockMixer's >= 0 says .667; half of all rise."""
    score = day_of(0.9, 0.8, 0.7, 0.1, 0.2, 0.0)
    returns = day_of(0.02, 0.0, -0.01, 0.03, 0.01, -0.02)
    np.testing.assert_allclose(precision(score, returns, 3)[:, 0], [1 / 3, 1 / 2, 1 / 3])
    best = np.argsort(-score[0])[:3]
    assert (returns[0, best] >= 0).mean() == pytest.approx(2 / 3)
    overlap = len(set(best) & set(np.argsort(-returns[0])[:3])) / 3
    assert overlap == pytest.approx(1 / 3)


@settings(max_examples=50)
@given(seeds, st.integers(1, 6))
def test_precision_counts_as_numpy_does(seed: int, names: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.permutation(20).reshape(1, 20).astype(np.float32)
    returns = rng.integers(-2, 3, (1, 20)).astype(np.float32)
    score[0, rng.random(20) < 0.2] = np.nan
    returns[0, rng.random(20) < 0.2] = np.nan
    known = np.flatnonzero(np.isfinite(score[0]) & np.isfinite(returns[0]))
    assume(len(known) >= max(names, 2))
    best = known[np.argsort(-score[0, known])][:names]
    expected = [
        (returns[0, best] > 0).mean(),
        (returns[0, known] > 0).mean(),
        (returns[0, best] > np.median(returns[0, known])).mean(),
    ]
    np.testing.assert_allclose(precision(score, returns, names)[:, 0], expected)


def test_in_a_rising_market_every_pick_is_right_and_so_is_the_base_rate() -> None:
    rng = np.random.default_rng(5)
    score, returns = rng.normal(size=(1, 30)).astype(np.float32), rng.uniform(0.01, 0.02, (1, 30)).astype(np.float32)
    hit, base, above = precision(score, returns, 10)[:, 0]
    assert (hit, base) == (1, 1)
    assert above < 1


def test_precision_of_a_constant_or_of_too_few_stocks_is_undefined() -> None:
    returns = np.random.default_rng(6).normal(size=(1, 12)).astype(np.float32)
    assert np.isnan(precision(np.full((1, 12), 0.1, np.float32), returns, 3)).all()
    assert np.isnan(precision(returns, returns, 13)).all()
    few = returns.copy()
    few[0, :3] = np.nan
    assert np.isnan(precision(few, returns, 10)).all()
    assert np.isfinite(precision(few, returns, 9)).all()


def test_ties_at_the_cut_go_to_the_lower_column() -> None:
    np.testing.assert_allclose(precision(day_of(1, 2, 2, 2), day_of(1, 1, -1, -1), 1)[0], 1)
    np.testing.assert_allclose(precision(day_of(1, 2, 2, 2), day_of(1, -1, 1, 1), 1)[0], 0)
