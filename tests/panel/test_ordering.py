"""Many rows ranked at once, exactly as scipy ranks one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from atft.panel.ordering import average_ranks, order_rows

values = st.one_of(st.sampled_from([np.nan, -np.inf, np.inf, -0.0, 0.0, 1.0, -1.0, 1e-45]), st.floats(width=32))
rows = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=values)


@given(rows)
def test_average_ranks_are_scipys(table: np.ndarray) -> None:
    """Negative numbers, infinities, denormals and both zeros included; NaN stays and is ranked by nobody."""
    np.testing.assert_array_equal(average_ranks(table), stats.rankdata(table, axis=1, nan_policy="omit"))


@given(rows)
def test_places_are_those_of_a_stable_sort_with_the_unknown_last(table: np.ndarray) -> None:
    order = order_rows(table)
    np.testing.assert_array_equal(order.place, np.argsort(table, axis=1, kind="stable"))
    np.testing.assert_array_equal(order.known, (~np.isnan(table)).sum(1))


def test_the_rows_stay_as_they_are_and_in_any_layout() -> None:
    table = np.random.default_rng(0).integers(-3, 4, (6, 40)).astype(np.float32)
    before = table.copy()
    expected = average_ranks(table)
    np.testing.assert_array_equal(table, before)
    np.testing.assert_array_equal(average_ranks(np.asfortranarray(table)), expected)
    np.testing.assert_array_equal(average_ranks(table[::2]), expected[::2])


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)])
def test_nothing_to_rank_is_no_error(shape: tuple[int, int]) -> None:
    assert average_ranks(np.empty(shape, np.float32)).shape == shape


def test_half_ranks_of_a_wide_row_are_exact() -> None:
    table = np.repeat(np.arange(50_000, dtype=np.float32), 2)[None]
    np.testing.assert_array_equal(average_ranks(table)[0], np.repeat(2 * np.arange(50_000) + 1.5, 2))
