"""Labels that could be traded, and sides of a split that never overlap."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from atft.errors import InputError
from atft.panel.labels import forward_return
from atft.panel.splits import walk_forward
from atft.panel.standardize import standardize


def test_a_label_is_the_return_of_a_position_entered_a_day_later() -> None:
    path = np.log(np.array([1.0, 1.1, 1.21, 1.0, 2.0]))[:, None]
    all_true, none = np.ones((5, 1), bool), np.zeros((5, 1), bool)
    label = forward_return(path, all_true, none, none, [1, 2], delay=1)
    np.testing.assert_allclose(label[:3, 0, 0], [0.1, 1 / 1.21 - 1, 1.0], rtol=1e-6)
    np.testing.assert_allclose(label[:2, 0, 1], [1 / 1.1 - 1, 2 / 1.21 - 1], rtol=1e-6)
    assert np.isnan(label[3:, 0, 0]).all()


def test_a_missing_price_masks_and_a_terminal_return_counts() -> None:
    path = np.log(np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3]))[:, None]
    bars = np.array([1, 1, 1, 0, 0, 0], bool)[:, None]
    left, none = np.array([0, 0, 0, 1, 1, 1], bool)[:, None], np.zeros((6, 1), bool)
    known = forward_return(path, bars, left, none, [2], delay=1)[:, 0, 0]
    assert known[0] == pytest.approx(-0.7)  # bought on day 1, delisted on day 3
    assert known[1] == pytest.approx(-0.7)
    assert np.isnan(known[2])  # could not be bought on day 3
    assert np.isnan(forward_return(path, bars, none, none, [2], delay=1)[:2]).all()
    error = np.array([0, 0, 1, 0, 0, 0], bool)[:, None]
    assert np.isnan(forward_return(path, np.ones_like(bars), none, error, [2], delay=1)[0, 0, 0])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(150, 500),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(25, 60),
    st.integers(5, 30),
    st.integers(1, 20),
)
def test_labels_of_two_sides_never_overlap(
    days: int, valid: int, test: int, block: int, stop: int, horizon: int
) -> None:
    purge = horizon + 1
    dates = [date(2020, 1, 1) + timedelta(days=d) for d in range(days)]
    try:
        splits = walk_forward(dates, 10, valid, test, block, stop, purge, 20)
    except InputError:
        assume(False)
    held_out_from = {"valid": days, "test": days}
    for _, fold in splits.group_by("fold", maintain_order=True):
        at = {
            role: [(day - dates[0]).days for day in fold.filter(pl.col("role") == role)["date"]]
            for role in ("train", "stop", "valid", "test")
        }
        # The last price a label touches lies before the first date of the next side.
        held_out = at["valid"] + at["test"]
        assert max(at["train"]) + 1 + horizon < min(at["stop"])
        assert max(at["stop"]) + 1 + horizon < min(held_out)
        for role in held_out_from:
            held_out_from[role] = min([held_out_from[role], *at[role]])
    last_valid = splits.filter(pl.col("role") == "valid")["date"].max()
    assert (last_valid - dates[0]).days + 1 + horizon < held_out_from["test"]
    held = splits.filter(pl.col("role").is_in(["valid", "test"]))
    assert held["date"].n_unique() == len(held)


def test_blocks_by_first_day() -> None:
    dates = [date(2020, 1, 1) + timedelta(days=d) for d in range(400)]
    splits = walk_forward(dates, 0, [date(2020, 9, 1)], [date(2020, 11, 1), date(2021, 1, 1)], 1, 30, 21, 50)
    blocks = splits.filter(pl.col("role").is_in(["valid", "test"])).group_by("fold", maintain_order=True)
    assert [(role["role"][0], str(role["date"].min()), str(role["date"].max())) for _, role in blocks] == [
        ("valid", "2020-09-01", "2020-10-10"),
        ("test", "2020-11-01", "2020-12-31"),
        ("test", "2021-01-01", "2021-02-03"),
    ]


@pytest.mark.parametrize("method", ["rank_gauss", "zscore"])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), shift=st.floats(-5, 5), scale=st.floats(0.1, 10))
def test_standardised_within_the_date(method: str, seed: int, shift: float, scale: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=60)
    frame = pl.DataFrame({"date": np.repeat([0, 1], 30), "x": values, "y": np.full(60, 2.0)})
    base = standardize(frame, method)
    second = pl.col("date") == 1
    moved = standardize(frame.with_columns(x=pl.when(second).then(shift + scale * pl.col("x")).otherwise("x")), method)
    np.testing.assert_allclose(base, moved, atol=1e-4)
    np.testing.assert_allclose(base[:, 1], 0)
    assert abs(base[:30, 0].mean()) < 0.1
    assert base[:30, 0].std() == pytest.approx(1, abs=0.15)


def test_unknown_values_stand_at_the_middle_and_outliers_do_not_move_others() -> None:
    frame = pl.DataFrame({"date": [0] * 30, "x": [*map(float, range(29)), None]})
    ranked = standardize(frame, "rank_gauss")[:, 0]
    largest = pl.col("x") == 28
    wild = standardize(frame.with_columns(x=pl.when(largest).then(1e12).otherwise("x")), "rank_gauss")[:, 0]
    assert ranked[-1] == 0
    np.testing.assert_array_equal(ranked, wild)
