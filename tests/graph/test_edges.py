"""Each number on an edge against numpy and pandas, by hand where there is no oracle."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from atft.graph.edges import (
    EDGE_FEATURES,
    correlations,
    day_weights,
    hierarchy,
    market_residuals,
    nearest,
    peer_edges,
    sector_comovement,
    sector_residuals,
    self_loops,
    standardized,
    tamed,
)

DAYS, STOCKS = 80, 30
SECTOR, INDUSTRY = np.repeat([1, 2, 3], 10), np.repeat([1, 2, 3, 4, 5, 6], 5)
KNOBS: dict[str, Any] = {
    "neighbors": 4, "min_overlap": 20, "half_life": 0, "shrinkage": 0.0, "min_correlation": 0.0,
}  # fmt: skip


def window(seed: int = 0, gaps: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Returns of 1 % with a market, sectors and pairs (2k, 2k + 1) that belong together; the share of absent days."""
    rng = np.random.default_rng(seed)
    returns = rng.normal(size=(DAYS, 1)) + 0.7 * rng.normal(size=(DAYS, 4))[:, SECTOR]
    returns = returns + 0.8 * np.repeat(rng.normal(size=(DAYS, STOCKS // 2)), 2, axis=1)
    returns = 0.01 * (returns + rng.normal(size=(DAYS, STOCKS)))
    return returns, rng.random((DAYS, STOCKS)) >= gaps


def feature(attr: np.ndarray, name: str) -> np.ndarray:
    return attr[:, EDGE_FEATURES.index(name)]


def frame_of(values: np.ndarray, present: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(np.where(present, values, np.nan))


@pytest.mark.parametrize("gaps", [0.0, 0.3])
@pytest.mark.parametrize("min_overlap", [10, 40])
def test_correlations_are_those_of_pandas(gaps: float, min_overlap: int) -> None:
    values, present = window(1, gaps)
    present[:, :5] = True  # stocks with and without gaps meet
    mine = correlations(values, present, day_weights(DAYS, 0), 0.0, min_overlap)
    theirs = frame_of(values, present).corr(min_periods=min_overlap).fillna(0.0)
    np.testing.assert_allclose(mine, theirs, atol=2e-6)
    assert (mine == 0).any() == (gaps > 0 and min_overlap == 40)


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_a_half_life_weighs_days_as_pandas_does(gaps: float) -> None:
    values, present = window(2, gaps)
    mine = correlations(values, present, day_weights(DAYS, 15), 0.0, 10)
    weights = 0.5 ** (np.arange(DAYS)[::-1] / 15)
    for i, j in ((0, 1), (3, 17), (28, 29)):
        both = present[:, i] & present[:, j]
        covariance = np.cov(values[both][:, [i, j]].T, aweights=weights[both])
        expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        assert mine[i, j] == pytest.approx(expected, abs=2e-6)
    if not gaps:
        ewm = pd.DataFrame(values).ewm(halflife=15).corr().xs(DAYS - 1)
        np.testing.assert_allclose(mine, ewm, atol=2e-6)


def test_weights_sum_to_the_effective_number_of_days() -> None:
    assert day_weights(50, 0).tolist() == [1.0] * 50
    weights = day_weights(50, 10)
    assert weights[-11] / weights[-1] == pytest.approx(0.5)
    assert weights.sum() == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert 20 < weights.sum() < 30  # 2 / ln 2 half-lives


def test_shrinkage_doubts_a_newcomer_more() -> None:
    """Stock 0 is closer to the newcomer 1 by the plain figure, and to its old acquaintance 2 by the shrunk one."""
    rng = np.random.default_rng(3)
    own = rng.normal(size=(100, 1))
    values = np.hstack([own, own + 1.1 * rng.normal(size=(100, 1)), own + 1.25 * rng.normal(size=(100, 1))])
    present = np.ones(values.shape, bool)
    present[:70, 1] = False
    plain, shrunk = (correlations(values, present, day_weights(100, 0), s, 20) for s in (0.0, 40.0))
    assert plain[0, 1] > plain[0, 2]
    assert nearest(plain - np.eye(3, dtype=np.float32), 1, 0.0)[0][0] == 1
    assert nearest(shrunk - np.eye(3, dtype=np.float32), 1, 0.0)[0][0] == 2
    np.testing.assert_allclose(shrunk[0, 1:], plain[0, 1:] * [30 / 70, 100 / 140], rtol=1e-5)


def test_a_stock_that_did_not_move_correlates_with_nobody() -> None:
    values, present = window(4, 0.1)
    values[:, 3] = 0.0
    values[:-20, 4] = 0.0  # moves only where its mate 5 is absent
    present[-20:, 5] = False
    found = correlations(values, present, day_weights(DAYS, 0), 0.0, 10)
    assert np.isfinite(found).all()
    assert np.abs(found[3]).max() == 0
    assert abs(found[4, 5]) < 0.1


def test_residuals_carry_neither_market_nor_sector() -> None:
    returns, present = window(5, 0.2)
    weights = day_weights(DAYS, 20)
    residual = market_residuals(returns, present, weights)
    market = pd.DataFrame(np.where(present, returns, np.nan)).mean(axis=1).to_numpy()
    for i in (0, 13, 29):
        days = present[:, i]
        slope, level = np.polyfit(market[days], returns[days, i], 1, w=np.sqrt(weights[days]))
        np.testing.assert_allclose(residual[days, i], returns[days, i] - level - slope * market[days], atol=1e-12)
    rest = sector_residuals(residual, present, SECTOR)
    for label in (1, 2, 3):
        np.testing.assert_allclose(rest[:, label == SECTOR].sum(1), 0, atol=1e-12)
    assert not rest[~present].any()


def test_a_sector_of_one_and_an_unknown_sector_keep_their_residual() -> None:
    returns, present = window(6)
    sector = np.repeat([0, 2], [20, 10])
    sector[0] = 1
    rest = sector_residuals(returns, present, sector)
    np.testing.assert_array_equal(rest[:, :20], returns[:, :20])
    assert not np.allclose(rest[:, 20:], returns[:, 20:])


def test_one_crash_day_does_not_make_peers() -> None:
    rng = np.random.default_rng(2)
    returns = rng.normal(0, 0.01, (120, 60))
    returns[60, :2] = -0.45
    present, groups = np.ones(returns.shape, bool), np.zeros(60, np.int64)
    (source, target), attr, _ = peer_edges(returns, present, groups, groups, **KNOBS)
    between = feature(attr, "residual_correlation")[(source == 0) & (target == 1)]
    assert not len(between) or between[0] < 0.35


def test_the_median_behind_the_clip_is_numpys() -> None:
    returns, present = window(7, 0.3)
    centred = frame_of(returns, present) - frame_of(returns, present).mean()
    scale = np.fmax(1.4826 * centred.abs().median(), 0.2 * centred.std(ddof=0))
    expected = centred.clip(-4 * scale, 4 * scale, axis=1).fillna(0.0)
    np.testing.assert_allclose(tamed(returns, present), expected, atol=1e-15)


def test_nearest_takes_the_most_similar_above_the_floor() -> None:
    similarity = np.array([[0.0, 0.5, 0.9], [0.5, 0.0, -0.2], [0.9, -0.2, 0.0]], np.float32)
    assert list(zip(*(part.tolist() for part in nearest(similarity, 2, 0.0)), strict=True)) == [
        (1, 0), (2, 0), (0, 1), (0, 2),
    ]  # fmt: skip
    assert [part.tolist() for part in nearest(similarity, 2, 0.5)] == [[2, 0], [0, 2]]
    assert [part.tolist() for part in nearest(similarity, 1, 0.0)] == [[2, 0, 0], [0, 1, 2]]


def test_ties_go_to_the_lower_number() -> None:
    similarity = np.full((300, 300), 0.5, np.float32)  # more rows than are worked on at a time
    similarity[:, 7] = 0.9
    np.fill_diagonal(similarity, 0.0)
    source, target = nearest(similarity, 3, 0.0)
    assert np.bincount(target).tolist() == [3] * 300
    assert source[target == 299].tolist() == [0, 1, 7]
    assert source[target == 0].tolist() == [1, 2, 7]
    assert source[target == 7].tolist() == [0, 1, 2]


def test_neighbours_and_features_are_those_of_pandas() -> None:
    returns, present = window(8, 0.2)
    sector, industry = SECTOR.copy(), INDUSTRY.copy()
    sector[:2] = industry[:2] = 0
    (source, target), attr, together = peer_edges(returns, present, sector, industry, **KNOBS)
    calm, weights = tamed(returns, present), day_weights(DAYS, 0)
    residual = sector_residuals(market_residuals(calm, present, weights), present, sector)
    similar = frame_of(residual, present).corr(min_periods=20).to_numpy(copy=True)
    raw = frame_of(calm, present).corr(min_periods=20).to_numpy()
    np.fill_diagonal(similar, -1)
    for i in range(STOCKS):
        best = [j for j in np.argsort(-similar[i])[:4] if similar[i, j] > 0]
        assert sorted(source[target == i].tolist()) == sorted(best)
    np.testing.assert_allclose(feature(attr, "residual_correlation"), similar[source, target], atol=2e-6)
    np.testing.assert_allclose(feature(attr, "correlation"), raw[source, target], atol=2e-6)
    volatility = frame_of(calm, present).std(ddof=0).to_numpy()
    expected = np.exp(-np.abs(volatility[source] - volatility[target]) / volatility.std())
    np.testing.assert_allclose(feature(attr, "volatility_similarity"), expected, rtol=1e-5)
    np.testing.assert_allclose(
        feature(attr, "sector_comovement"), together[sector[source], sector[target]].astype(np.float32)
    )
    for name, label in (("same_sector", sector), ("same_industry", industry)):
        expected = (label[source] == label[target]) & (label[source] > 0)
        np.testing.assert_array_equal(feature(attr, name), expected)
        assert 0 < expected.mean() < 1
    assert (feature(attr, "weight") == 1).all()
    assert not attr[:, EDGE_FEATURES.index("self_loop") : -1].any()


def test_sector_comovement_is_the_mean_correlation_of_pairs() -> None:
    returns, present = window(9)
    weights = day_weights(DAYS, 0)
    residual = market_residuals(returns, present, weights)
    sector = SECTOR.copy()
    sector[:4], sector[29] = 0, 4
    found = sector_comovement(residual, present, weights, sector)
    pairs = np.corrcoef(residual.T)
    np.fill_diagonal(pairs, np.nan)
    for one in (1, 2, 3):
        for other in (1, 2, 3, 4):
            expected = np.nanmean(pairs[np.ix_(sector == one, sector == other)])
            assert found[one, other] == pytest.approx(expected, abs=1e-12)
    assert found[1, 1] > 0.1 > found[1, 2]
    assert not found[0].any()
    assert found[4, 4] == 0  # one stock has no pair


@pytest.mark.parametrize(("knob", "value"), [("half_life", 15), ("shrinkage", 30.0), ("min_correlation", 0.2)])
def test_each_option_reaches_the_edges(knob: str, value: float) -> None:
    returns, present = window(10, 0.3)
    before = peer_edges(returns, present, SECTOR, INDUSTRY, **KNOBS)[1]
    after = peer_edges(returns, present, SECTOR, INDUSTRY, **KNOBS | {knob: value})[1]
    assert before.shape != after.shape or not np.allclose(before, after, atol=1e-3)
    if knob == "min_correlation":
        assert feature(after, "residual_correlation").min() > 0.2 > feature(before, "residual_correlation").min()


def test_overlap_is_counted_per_pair() -> None:
    """Each mate printed on 50 days or more, but on 24 together."""
    returns, present = window(11)
    present[:30, 0] = present[50:76, 1] = False
    for least, linked in ((24, True), (25, False)):
        source, target = peer_edges(returns, present, SECTOR, INDUSTRY, **KNOBS | {"min_overlap": least})[0]
        assert bool(((source == 1) & (target == 0)).any()) == linked
        assert {0, 1} <= set(target.tolist())


def test_the_new_and_the_gone_have_no_neighbours() -> None:
    returns, present = window(12)
    present[:-19, 0] = False  # 19 days old
    present[-5:, 2] = False  # gone for 5 days
    present[-4:, 4] = False  # gone for 4
    linked = set(peer_edges(returns, present, SECTOR, INDUSTRY, **KNOBS)[0].ravel().tolist())
    assert linked == set(range(STOCKS)) - {0, 2}
    nobody = peer_edges(returns, np.zeros_like(present), SECTOR, INDUSTRY, **KNOBS)
    assert nobody[0].shape == (2, 0)
    assert nobody[1].shape == (0, len(EDGE_FEATURES))


def test_the_hierarchy_is_a_star_of_stars() -> None:
    sector = np.array([1, 1, 1, 3, 3, 0, 3])
    industry = np.array([2, 2, 5, 4, 4, 0, 0])  # stock 6: sector alone; stock 5: neither
    together = np.diag([0.0, 0.1, 0.2, 0.3])
    (source, target), attr = hierarchy(sector, industry, together, 0.25)
    # 7, 8, 9: industries 2, 4, 5; 10, 11: sectors 1, 3.
    up = {(0, 7), (1, 7), (2, 9), (3, 8), (4, 8), (6, 11), (7, 10), (8, 11), (9, 10)}
    links = list(zip(source.tolist(), target.tolist(), strict=True))
    assert len(links) == 2 * len(up)
    assert set(links) == up | {(b, a) for a, b in up}
    np.testing.assert_array_equal(feature(attr, "upward"), source < target)
    np.testing.assert_array_equal(feature(attr, "downward"), source > target)
    assert (feature(attr, "weight") == 0.25).all()
    own = {0: 0.1, 1: 0.1, 2: 0.1, 7: 0.1, 9: 0.1, 3: 0.3, 4: 0.3, 6: 0.3, 8: 0.3}
    np.testing.assert_allclose(feature(attr, "sector_comovement"), [own[min(link)] for link in links], rtol=1e-6)
    assert hierarchy(sector, industry, together, 0.0)[0].shape == (2, 0)
    assert hierarchy(np.zeros(3, int), np.zeros(3, int), np.zeros((1, 1)), 1.0)[0].shape == (2, 0)


def test_every_stock_has_one_self_loop() -> None:
    (source, target), attr = self_loops(4)
    assert source.tolist() == target.tolist() == [0, 1, 2, 3]
    assert (feature(attr, "self_loop") == 1).all()
    assert (feature(attr, "weight") == 1).all()


def test_standardized_ignores_absent_days() -> None:
    values, present = window(13, 0.3)
    unit, spread = standardized(values, present, day_weights(DAYS, 0))
    frame = frame_of(values, present)
    np.testing.assert_allclose(spread, frame.std(ddof=0), rtol=1e-12)
    np.testing.assert_allclose(unit, ((frame - frame.mean()) / frame.std(ddof=0)).fillna(0.0), atol=1e-12)
