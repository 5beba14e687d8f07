"""Comparable within the date, unknown stays unknown, and no input however wrong dominates a day."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri
from scipy.stats import rankdata
from scipy.stats.mstats import winsorize

from atft.panel.standardize import METHODS, standardize

NAN = np.float32(np.nan)
days = arrays(
    np.float32,
    st.tuples(st.integers(1, 70), st.integers(1, 5)),
    elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([0.0, -0.0, 1.0, 2.0]), st.just(np.nan)),
)


@given(days)
@settings(max_examples=200, deadline=None)
def test_rank_gauss_is_the_normal_quantile_of_the_average_rank(values: np.ndarray) -> None:
    out = standardize(values, "rank_gauss")
    for column, got in zip(values.T, out.T, strict=True):
        known = np.isfinite(column)
        expected = ndtri((rankdata(column[known]) - 0.5) / max(known.sum(), 1))
        np.testing.assert_allclose(got[known], expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@given(values=days, seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_unknown_stays_unknown_and_the_order_of_stocks_does_not_matter(
    method: str, values: np.ndarray, seed: int
) -> None:
    out = standardize(values, method)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(values))
    assert np.nanmax(np.abs(out), initial=0) < 6
    shuffle = np.random.default_rng(seed).permutation(len(values))
    np.testing.assert_allclose(standardize(values[shuffle], method), out[shuffle], atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**31), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_shift_and_scale_do_not_matter(method: str, seed: int, shift: float, scale: float) -> None:
    values = np.random.default_rng(seed).normal(size=(60, 2)).astype(np.float32)
    base = standardize(values, method)
    np.testing.assert_allclose(standardize((shift + scale * values).astype(np.float32), method), base, atol=2e-3)
    assert (np.diff(base[np.argsort(values[:, 0]), 0]) >= 0).all()
    assert abs(np.median(base[:, 0])) < 0.4
    assert 0.6 < base[:, 0].std() < 1.6


@pytest.mark.parametrize("method", ["zscore", "robust", "winsorised"])
def test_equal_values_say_nothing(method: str) -> None:
    np.testing.assert_array_equal(standardize(np.full((30, 1), 2.7, np.float32), method), 0)


@pytest.mark.parametrize("method", METHODS)
def test_neither_many_ties_nor_small_units_erase_a_column(method: str) -> None:
    counts = np.append(np.zeros(60), np.arange(1, 41))[:, None].astype(np.float32)
    for values in (counts, 1e-13 * counts):
        out = standardize(values.astype(np.float32), method)[:, 0]
        assert out[-1] > out[65] > out[0]


def test_an_outlier_moves_nobody_else_by_rank() -> None:
    values = np.append(np.arange(29), NAN)[:, None].astype(np.float32)
    wild = np.where(values == 28, np.float32(1e12), values)
    np.testing.assert_array_equal(standardize(values, "rank_gauss"), standardize(wild, "rank_gauss"))
    for method in ("robust", "winsorised"):
        calm, wilder = standardize(values, method)[:28, 0], standardize(wild, method)[:28, 0]
        assert np.abs(wilder - calm).max() < (0.2 if method == "robust" else 2)


def test_the_others_by_their_definitions() -> None:
    values = np.random.default_rng(3).standard_t(3, size=(201, 1)).astype(np.float32)
    x = values[:, 0].astype(float)
    np.testing.assert_allclose(
        standardize(values, "zscore")[:, 0], np.clip((x - x.mean()) / x.std(ddof=1), -3, 3), rtol=1e-5
    )
    deviation = np.median(np.abs(x - np.median(x)))
    np.testing.assert_allclose(
        standardize(values, "robust")[:, 0],
        np.clip((x - np.median(x)) / (1.4826 * deviation), -3, 3),
        rtol=1e-4,
        atol=1e-6,
    )
    pulled = np.asarray(winsorize(x, (0.01, 0.01)))  # 201 values: the 1 % quantiles are data points
    np.testing.assert_allclose(
        standardize(values, "winsorised")[:, 0],
        np.clip((pulled - pulled.mean()) / pulled.std(ddof=1), -3, 3),
        rtol=1e-4,
    )
