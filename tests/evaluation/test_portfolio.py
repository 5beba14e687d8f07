"""The book: vectors, a brute-force ledger, and stocks that cannot be traded."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atft.evaluation import metrics
from atft.evaluation.portfolio import long_short_weights, tranche_book, two_way_turnover

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())


def everything(shape: tuple[int, int], value: bool) -> np.ndarray:
    return np.full(shape, value)


@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_tranches_match_the_vectors(horizon: int) -> None:
    score = np.array(VECTORS["ic_decay"]["pred"])
    returns = np.array(VECTORS["ic_decay"]["ret_row_t_is_t-1_to_t"])
    expected = VECTORS["tranche_ls"]["h"][str(horizon)]
    target = np.array([long_short_weights(row, 1 / 3) for row in score])
    can_trade, gone = everything(score.shape, True), everything(score.shape, False)
    book = tranche_book(target, returns, can_trade, gone, horizon, delay=0, drift=False)
    complete = slice(horizon, None)
    np.testing.assert_allclose(book.gross[complete], expected["ret_t1.."][horizon - 1 :], atol=1e-12)
    np.testing.assert_allclose(book.turnover[complete], expected["two_way_turnover"][horizon - 1 :], atol=1e-12)
    assert np.isnan(book.gross[:horizon]).all()


def test_turnover_and_costs_match_the_vector() -> None:
    cost = VECTORS["cost"]
    weights, returns = np.array(cost["w"]), np.array(cost["r"])
    turnover = two_way_turnover(weights, returns)
    np.testing.assert_allclose(turnover, cost["two_way_turnover_drift"])
    gross = (weights * returns).sum(1)
    assert metrics.sharpe(gross, 252) == pytest.approx(cost["sharpe_gross"])
    net = gross - cost["bps_per_side"] / 1e4 * turnover
    assert metrics.sharpe(net, 252) == pytest.approx(cost["sharpe_net"])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 2))
def test_the_book_equals_a_ledger_of_money(seed: int, horizon: int, delay: int) -> None:
    """Sleeves kept one by one in money, traded one by one, come to the same returns and turnover."""
    rng = np.random.default_rng(seed)
    days, stocks = 12, 9
    score, returns = rng.normal(size=(days, stocks)), rng.normal(0, 0.03, (days, stocks))
    target = np.array([long_short_weights(row, 1 / 3) for row in score])
    book = tranche_book(target, returns, everything(score.shape, True), everything(score.shape, False), horizon, delay)
    capital, sleeves = 1.0, {}
    for day in range(days - 1):
        before = sum(sleeves.values(), np.zeros(stocks))
        sleeves.pop(day - horizon, None)
        if day >= delay:
            sleeves[day] = capital * target[day - delay] / horizon
        money = sum(sleeves.values(), np.zeros(stocks))
        if day >= delay + horizon - 1:
            earned = money @ returns[day + 1] / capital
            assert book.gross[day + 1] == pytest.approx(earned)
            assert book.turnover[day + 1] == pytest.approx(np.abs(money - before).sum() / capital)
        capital += money @ returns[day + 1]
        sleeves = {start: held * (1 + returns[day + 1]) for start, held in sleeves.items()}


def test_a_delisted_stock_brings_its_terminal_return_and_is_not_traded() -> None:
    target = np.tile([0.5, -0.5], (6, 1))
    returns = np.zeros((6, 2))
    returns[3, 0] = -0.8
    printed = np.array([[True, True]] * 3 + [[False, True]] * 3)
    book = tranche_book(target, returns, printed, ~printed, horizon=1, delay=1)
    assert book.gross[3] == pytest.approx(-0.4)
    # What is left of the long side is cash; only the short side is brought back to a half.
    assert book.turnover[4] == pytest.approx(0.5 / 0.6 - 0.5)


def test_a_halted_position_waits_and_an_order_to_buy_lapses() -> None:
    target = np.zeros((6, 2))
    target[:2] = [0.5, -0.5]
    returns = np.zeros((6, 2))
    returns[4] = [0.1, 0.0]
    can_trade = np.ones((6, 2), bool)
    can_trade[3, 0] = False  # the day the long should be closed
    book = tranche_book(target, returns, can_trade, np.zeros((6, 2), bool), horizon=1, delay=1)
    assert book.gross[4] == pytest.approx(0.05)
    assert book.turnover[5] > 0
    never = can_trade.copy()
    never[:, 0] = False
    lapsed = tranche_book(target, returns, never, np.zeros((6, 2), bool), horizon=1, delay=1)
    assert lapsed.gross[4] == 0
    assert lapsed.turnover[2] == pytest.approx(0.5)


def test_constant_scores_hold_nothing() -> None:
    assert not long_short_weights(np.full(30, 0.3), 0.1).any()
    weights = long_short_weights(np.append(np.arange(29.0), np.nan), 0.1)
    assert weights.sum() == pytest.approx(0)
    assert np.abs(weights).sum() == pytest.approx(1)
    assert weights[-1] == 0
