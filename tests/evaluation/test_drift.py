"""Drift of scores: published vectors, and false alarms counted where nothing drifts."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.signal import lfilter

from atft.evaluation import drift

PSI = json.loads((Path(__file__).parent / "vectors.json").read_text())["psi"]
counts = arrays(np.int64, 6, elements=st.integers(1, 10_000))


def index_of(reference: np.ndarray, current: np.ndarray, bins: int = 10) -> float:
    p, q = drift.bin_counts(reference, current, bins)
    return drift.population_stability(p.sum(axis=0), q.sum(axis=0))


def scores(rng: np.random.Generator, phi: float, days: int, stocks: int) -> np.ndarray:
    """Scores whose daily level is an AR(1) as wide as the cross-section: persistent, never drifting."""
    level = lfilter([np.sqrt(1 - phi**2)], [1.0, -phi], rng.normal(size=days + 300))[300:]
    return level[:, None] + rng.normal(size=(days, stocks))


def test_the_index_matches_the_hand_made_vector() -> None:
    assert drift.population_stability(PSI["ref"], PSI["cur"]) == pytest.approx(PSI["psi"])


def test_the_index_matches_feature_engine() -> None:
    rng = np.random.default_rng(5)
    before, after = rng.normal(0, 1, 1000), rng.normal(0.3, 1.1, 800)
    expected = pytest.approx(PSI["feature_engine_value"], abs=1e-12)
    assert index_of(before[None], after[None]) == expected
    assert index_of(before.reshape(10, 100), after.reshape(8, 100)) == expected


NORMALS = [("normal_shift", shift, float(shift), 1.0) for shift in PSI["normal_shift"]] + [
    ("normal_scale", scale, 0.0, float(scale)) for scale in PSI["normal_scale"]
]


@pytest.mark.parametrize(("kind", "key", "shift", "scale"), NORMALS)
def test_the_index_of_normal_scores_matches_the_vectors(kind: str, key: str, shift: float, scale: float) -> None:
    """The vectors are themselves simulated: the exact index lies within 2e-4 of each."""
    edges = stats.norm.ppf(np.linspace(0, 1, 11))
    exact = np.diff(stats.norm.cdf(edges, shift, scale))
    assert drift.population_stability(np.full(10, 0.1), exact) == pytest.approx(PSI[kind][key], abs=2e-4)
    rng = np.random.default_rng(0)
    simulated = index_of(rng.normal(size=(200, 1000)), rng.normal(shift, scale, (200, 1000)))
    assert simulated == pytest.approx(PSI[kind][key], abs=4 * np.sqrt(8 * PSI[kind][key] / 200_000))


@given(counts, counts, st.integers(2, 9))
def test_the_index_is_symmetric_and_knows_only_shares(p: np.ndarray, q: np.ndarray, times: int) -> None:
    value = drift.population_stability(p, q)
    assert value >= 0
    assert drift.population_stability(q, p) == pytest.approx(value)
    assert drift.population_stability(times * p, q) == pytest.approx(value)
    assert drift.population_stability(p, p) == 0


def test_an_empty_bin_is_floored_and_an_empty_sample_undefined() -> None:
    expected = (0.5 - 1e-4) * np.log(0.5 / 1e-4) + (0.5 - 1) * np.log(0.5)
    assert drift.population_stability([0, 10], [5, 5]) == pytest.approx(expected)
    assert drift.population_stability([0, 0], [5, 5]) is None


@pytest.mark.parametrize(("stocks", "expected"), [(500, 0.036), (2000, 0.009)])
def test_the_index_of_two_equal_samples_is_not_zero(stocks: int, expected: float) -> None:
    """(bins - 1)(1/N + 1/M) on average: 60 a side would reach 0.3, above the alarm, from noise."""
    rng = np.random.default_rng(0)
    p, q = rng.multinomial(stocks, np.full(10, 0.1), (2, 4000))
    assert np.mean([drift.population_stability(*pair) for pair in zip(p, q, strict=True)]) == pytest.approx(
        expected, rel=0.05
    )


def test_sixty_scores_a_side_alarm_by_noise() -> None:
    p, q = np.random.default_rng(0).multinomial(60, np.full(10, 0.1), (2, 1000))
    assert np.mean([drift.population_stability(*pair) for pair in zip(p, q, strict=True)]) > drift.ALARM


def test_counts_are_those_of_numpy_and_missing_scores_are_dropped() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(30, 50)), rng.normal(0.5, 1, (20, 40))
    before[rng.random(before.shape) < 0.1] = np.nan
    after[3] = np.nan
    after[5, 0] = np.inf
    p, q = drift.bin_counts(before, after, 7)
    edges = np.concatenate([[-np.inf], np.nanquantile(before, np.arange(1, 7) / 7), [np.inf]])
    known = after[np.isfinite(after)]
    assert p.sum(axis=0) == pytest.approx(np.histogram(before[np.isfinite(before)], edges)[0])
    assert q.sum(axis=0) == pytest.approx(np.histogram(known, edges)[0])
    assert p.shape == (30, 7)
    assert q.shape == (19, 7)
    assert (p.sum(axis=1) == np.isfinite(before).sum(axis=1)).all()


def test_a_score_on_an_edge_falls_below_it() -> None:
    p, q = drift.bin_counts([[1.0, 2.0, 3.0]], [[2.0, 2.0, 9.0]], 2)
    assert p.tolist() == [[2, 1]]
    assert q.tolist() == [[2, 1]]


def test_tied_or_missing_scores_are_undefined() -> None:
    fine = np.random.default_rng(0).normal(size=(40, 30))
    assert drift.bin_counts(np.zeros((40, 30)), fine, 10) is None
    assert drift.bin_counts(fine[:1, :9], fine, 10) is None
    assert drift.bin_counts(fine, np.full((5, 5), np.nan), 10) is None
    assert drift.stability(np.zeros((40, 30)), fine, 10, 50, 0) is None
    assert drift.stability(fine[:9], fine[:10], 10, 50, 0) is None
    assert drift.stability(fine[:10], fine[:10], 10, 50, 0) is not None


def test_daily_ranks_hide_every_drift() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(30, 100)), rng.normal(3, 1, (30, 100))
    assert index_of(before, after) > 1
    assert index_of(*(stats.rankdata(x, axis=1) for x in (before, after))) == 0


def independent_band(reference: np.ndarray, current: np.ndarray, seed: int) -> float:
    """The band as if dates were independent."""
    pooled = np.concatenate([reference, current]).astype(float)
    days = np.random.default_rng(seed).integers(len(pooled), size=(200, len(pooled)))
    pairs = (pooled[drawn] for drawn in days)
    cut = len(reference)
    return float(np.quantile([drift.population_stability(x[:cut].sum(0), x[cut:].sum(0)) for x in pairs], 0.95))


def false_alarms(phi: float, worlds: int) -> dict[str, float]:
    rng, rows = np.random.default_rng(0), []
    for seed in range(worlds):
        x = scores(rng, phi, 500, 30)
        p, q = drift.bin_counts(x[:250], x[250:], 10)
        psi, band = drift.population_stability(p.sum(0), q.sum(0)), drift.stability_band(p, q, 200, seed)
        rows.append((psi > drift.ALARM, psi > independent_band(p, q, seed), psi > band, drift.Drift(psi, band).moved))
    return dict(zip(("fixed", "independent", "band", "moved"), np.mean(rows, axis=0), strict=True))


def test_persistent_scores_raise_false_alarms_that_the_band_does_not() -> None:
    rate = false_alarms(0.8, 60)
    assert rate["independent"] > 0.4
    assert rate["band"] <= 0.13


def test_very_persistent_scores_fool_the_convention() -> None:
    """250 days then hold six independent stretches: no band keeps its level, but it alarms least of all."""
    rate = false_alarms(0.95, 60)
    assert rate["fixed"] > 0.15
    assert rate["independent"] > 0.8
    assert rate["band"] < 0.3 < rate["independent"] / 2
    assert rate["moved"] <= min(rate["fixed"], rate["band"])


def test_independent_days_keep_the_level_and_a_shift_is_found() -> None:
    assert 0 < false_alarms(0.0, 60)["band"] <= 0.13
    rng = np.random.default_rng(1)
    found = drift.stability(scores(rng, 0.3, 250, 40), scores(rng, 0.3, 250, 40) + 1.5, 10, 300, 0)
    assert found.moved
    assert found.psi > 0.5


def test_a_significant_but_small_shift_has_not_moved() -> None:
    rng = np.random.default_rng(0)
    small = drift.stability(rng.normal(size=(250, 200)), rng.normal(0.1, 1, (250, 200)), 10, 200, 0)
    assert small.band < small.psi < drift.ALARM
    assert not small.moved
    assert not drift.Drift(psi=0.4, band=0.5).moved


def test_a_changing_spread_lengthens_the_block() -> None:
    """Its mean bin is white noise: only the distance from the middle shows the persistence."""
    rng = np.random.default_rng(0)
    wide = np.exp(0.5 * scores(rng, 0.95, 500, 1)) * rng.normal(size=(500, 200))
    assert drift._block(*drift.bin_counts(wide[:250], wide[250:], 10)) > 1.5 * drift.MIN_BLOCK


def test_a_drift_does_not_lengthen_its_own_block() -> None:
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(250, 50)), rng.normal(1, 1, (250, 50))
    assert drift._block(*drift.bin_counts(before, after, 10)) == drift.MIN_BLOCK


def test_one_seed_gives_one_band() -> None:
    p, q = drift.bin_counts(*np.random.default_rng(0).normal(size=(2, 40, 30)), 5)
    assert drift.stability_band(p, q, 100, 1) == drift.stability_band(p, q, 100, 1)
    assert drift.stability_band(p, q, 100, 1) != drift.stability_band(p, q, 100, 2)


def test_a_year_each_of_a_large_market_takes_a_moment() -> None:
    before, after = np.random.default_rng(0).normal(size=(2, 250, 4000))
    start = time.perf_counter()
    drift.stability(before, after, 10, 1000, 0)
    assert time.perf_counter() - start < 0.5
