"""What a day's scores ask a book to trade."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from atft.evaluation.weights import long_short_weights
from atft.panel.store import Panel
from atft.predict.book import LONG_GONE, orders
from evaluation.judged import RULES

DAYS, STOCKS, FIRST = 90, 20, 80
HORIZON2 = replace(RULES, primary_horizon=2)


def panel_of(**facts: Any) -> Panel:
    """Prices that never move."""
    flat, everywhere = np.zeros((DAYS, STOCKS), np.float32), np.ones((DAYS, STOCKS), bool)
    ones = np.ones((DAYS, STOCKS), np.int16)
    plain = Panel(
        np.datetime64("2020-01-01") + np.arange(DAYS), [f"{i:02d}" for i in range(STOCKS)], ["unknown", "one"],
        ["unknown", "one"], [], [], [2], 1, np.zeros((DAYS, STOCKS, 0), np.float32), everywhere, flat[..., None],
        flat[..., None], flat, everywhere, everywhere, flat, ones, ones,
    )  # fmt: skip
    return replace(plain, **facts)


def scores(days: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(days, STOCKS)).astype(np.float32)


@pytest.mark.parametrize("delay", [1, 2])
def test_the_sleeve_of_two_days_ago_makes_room_for_today_s(delay: int) -> None:
    """Without a price that moves: held are yesterday's and the one before's targets, a half each."""
    score = scores(7)
    found = orders(panel_of(delay=delay), np.arange(FIRST, FIRST + 7), score, HORIZON2, long_only=False)
    before, yesterday, today = (long_short_weights(day, 0.1) for day in score[-3:])
    np.testing.assert_array_equal(found.target, today)
    np.testing.assert_allclose(found.held, (before + yesterday) / 2, atol=1e-7)
    np.testing.assert_allclose(found.trade, (today - before) / 2, atol=1e-7)
    assert found.turnover == pytest.approx(np.abs(today - before).sum() / 2)


def test_long_only_is_fully_invested() -> None:
    found = orders(panel_of(), np.arange(FIRST, FIRST + 5), scores(5), HORIZON2, long_only=True)
    assert found.target.sum() == found.held.sum() == pytest.approx(1)
    assert found.trade.sum() == pytest.approx(0, abs=1e-7)
    assert (found.target >= 0).all()


def test_a_book_that_is_not_complete_says_so() -> None:
    assert orders(panel_of(), np.arange(FIRST, FIRST + 2), scores(2), HORIZON2, long_only=False).turnover is None
    assert orders(panel_of(), np.arange(FIRST, FIRST + 3), scores(3), HORIZON2, long_only=False).turnover is not None


def test_weights_drift_with_prices() -> None:
    returns = np.zeros((DAYS, STOCKS), np.float32)
    score = scores(5)
    held = np.flatnonzero(long_short_weights(score[2], 0.1) > 0)[0]
    returns[FIRST + 4, held] = 0.5
    still, moved = (
        orders(panel_of(daily_return=r), np.arange(FIRST, FIRST + 5), score, HORIZON2, long_only=True).held[held]
        for r in (np.zeros_like(returns), returns)
    )
    assert moved > 1.2 * still > 0


def test_a_stock_long_gone_or_paid_out_is_not_held_and_a_halted_one_waits() -> None:
    rising = np.tile(np.arange(STOCKS, dtype=np.float32), (LONG_GONE + 6, 1))
    days = np.arange(DAYS - len(rising), DAYS)
    absent = np.ones((DAYS, STOCKS), bool)
    for since, held in ((LONG_GONE + 2, False), (1, True)):
        bars = absent.copy()
        bars[DAYS - since :, -1] = False
        found = orders(panel_of(has_bar=bars, can_trade=bars), days, rising, HORIZON2, long_only=True)
        assert (found.held[-1] > 0) == held
    bars = absent.copy()
    bars[-2:, -1] = False
    returns = np.zeros((DAYS, STOCKS), np.float32)
    returns[-2, -1] = -0.5  # a terminal return: nothing else is earned without a bar
    paid = orders(panel_of(has_bar=bars, can_trade=bars, daily_return=returns), days, rising, HORIZON2, long_only=True)
    assert paid.held[-1] == 0
