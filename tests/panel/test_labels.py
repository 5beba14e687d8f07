"""Labels that could be traded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atft.panel.labels import forward_return, residual_label


def test_a_label_is_the_return_of_a_position_entered_a_day_later() -> None:
    path = np.log(np.array([1.0, 1.1, 1.21, 1.0, 2.0]))[:, None]
    all_true, none = np.ones((5, 1), bool), np.zeros((5, 1), bool)
    label = forward_return(path, all_true, all_true, none, none, [1, 2], delay=1)
    np.testing.assert_allclose(label[:3, 0, 0], [0.1, 1 / 1.21 - 1, 1.0], rtol=1e-6)
    np.testing.assert_allclose(label[:2, 0, 1], [1 / 1.1 - 1, 2 / 1.21 - 1], rtol=1e-6)
    assert np.isnan(label[3:, 0, 0]).all()


def test_a_missing_price_masks_and_a_terminal_return_counts() -> None:
    path = np.log(np.array([1.0, 1.0, 1.0, 0.3, 0.3, 0.3]))[:, None]
    bars = np.array([1, 1, 1, 0, 0, 0], bool)[:, None]
    left, none = np.array([0, 0, 0, 1, 1, 1], bool)[:, None], np.zeros((6, 1), bool)
    known = forward_return(path, bars, bars, left, none, [2], delay=1)[:, 0, 0]
    assert known[0] == pytest.approx(-0.7)  # bought on day 1, delisted on day 3
    assert known[1] == pytest.approx(-0.7)
    assert np.isnan(known[2])  # could not be bought on day 3
    assert np.isnan(forward_return(path, bars, bars, none, none, [2], delay=1)[:2]).all()
    error = np.array([0, 0, 1, 0, 0, 0], bool)[:, None]
    every = np.ones_like(bars)
    assert np.isnan(forward_return(path, every, every, none, error, [2], delay=1)[0, 0, 0])


def test_a_stock_locked_at_its_limit_cannot_be_entered_but_can_be_held() -> None:
    path = np.log(np.array([1.0, 1.1, 1.2, 1.3, 1.4]))[:, None]
    bars, none = np.ones((5, 1), bool), np.zeros((5, 1), bool)
    locked = np.array([1, 0, 1, 1, 1], bool)[:, None]
    label = forward_return(path, bars, locked, none, none, [1], delay=1)[:, 0, 0]
    assert np.isnan(label[0])  # would have been bought on day 1
    assert label[1] == pytest.approx(1.3 / 1.2 - 1)
    through = forward_return(path, bars, np.array([1, 1, 0, 1, 1], bool)[:, None], none, none, [1], delay=1)
    assert through[0, 0, 0] == pytest.approx(1.2 / 1.1 - 1)  # sold on the locked day: its price was printed


def test_residual_labels_by_hand() -> None:
    returns = np.array([[0.01], [0.03], [0.02], [0.06], [np.nan], [0.04]], np.float32)
    sector = np.array([1, 1, 2, 2, 2, 3], np.int16)
    beta = np.array([1, 2, 0.5, 1, 1, np.nan], np.float32)
    market = 0.032  # mean of the known
    neutral = residual_label(returns, beta, None)[:, 0]
    np.testing.assert_allclose(
        neutral[:4], [0.01 - market, 0.03 - 2 * market, 0.02 - market / 2, 0.06 - market], atol=1e-7
    )
    assert np.isnan(neutral[4:]).all()
    in_sector = residual_label(returns, None, sector)[:, 0]
    np.testing.assert_allclose(in_sector[:4], [-0.01, 0.01, -0.02, 0.02], atol=1e-7)
    assert np.isnan(in_sector[4:]).all()  # unknown; alone in its sector
    both = residual_label(returns, beta, sector)[:, 0]
    np.testing.assert_allclose(both[:2], [(neutral[0] - neutral[1]) / 2, (neutral[1] - neutral[0]) / 2], atol=1e-7)
    np.testing.assert_array_equal(residual_label(returns, None, None), returns)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), stocks=st.integers(3, 60), sectors=st.integers(1, 6))
def test_neutral_labels_carry_neither_sector_nor_market(seed: int, stocks: int, sectors: int) -> None:
    rng = np.random.default_rng(seed)
    sector = rng.integers(1, sectors + 1, stocks).astype(np.int16)
    returns = rng.normal(size=(stocks, 2)).astype(np.float32)
    beta = rng.uniform(0.1, 2, stocks)
    beta = (beta / beta.mean()).astype(np.float32)  # against the equal-weighted market
    label = residual_label(returns, beta, sector)
    for group in np.unique(sector):
        members = label[sector == group]
        assert np.isnan(members).all() if len(members) == 1 else np.allclose(members.mean(0), 0, atol=1e-5)
    moved = residual_label(returns + 0.5 * beta[:, None], beta, None)
    np.testing.assert_allclose(moved, residual_label(returns, beta, None), atol=1e-4)
