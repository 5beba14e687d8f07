"""The book: vectors, a brute-force ledger of money, and stocks that cannot be traded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atft.evaluation import metrics
from atft.evaluation.portfolio import Book, tranche_book
from atft.evaluation.weights import long_short_weights
from evaluation.judged import VECTORS

COST = VECTORS["cost"]


def book_of(target: np.ndarray, returns: np.ndarray, horizon: int, delay: int, **knobs: bool | float) -> Book:
    """A book of stocks that always trade."""
    shape = np.shape(target)
    return tranche_book(target, returns, np.ones(shape, bool), np.zeros(shape, bool), horizon, delay, **knobs)


# --- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("netted", [True, False])
@pytest.mark.parametrize("horizon", [1, 2, 3])
def test_tranches_match_the_vectors(horizon: int, netted: bool) -> None:
    """Where weights do not drift, the sleeves' own trades are those of the whole."""
    score = np.array(VECTORS["ic_decay"]["pred"])
    returns = np.array(VECTORS["ic_decay"]["ret_row_t_is_t-1_to_t"])
    expected = VECTORS["tranche_ls"]["h"][str(horizon)]
    target = np.array([long_short_weights(row, 1 / 3) for row in score])
    book = book_of(target, returns, horizon, 0, drift=False, netted=netted)
    complete = slice(horizon, None)
    np.testing.assert_allclose(book.gross[complete], expected["ret_t1.."][horizon - 1 :], atol=1e-12)
    np.testing.assert_allclose(book.turnover[complete], expected["two_way_turnover"][horizon - 1 :], atol=1e-12)
    assert book.turnover[horizon + 1 :].mean() == pytest.approx(expected["mean_turnover_after_ramp"])
    assert np.isnan(book.gross[:horizon]).all()
    assert np.isnan(book.held[:horizon]).all()


@pytest.fixture
def costed() -> Book:
    """The vector's days as a book: weights wanted at a close earn the next day's return."""
    weights, returns = np.array(COST["w"]), np.array(COST["r"])
    nothing = np.zeros((1, 4))
    return book_of(np.vstack([weights, nothing]), np.vstack([nothing, returns]), 1, 0)


def test_returns_turnover_and_costs_match_the_vector(costed: Book) -> None:
    """The first day buys the whole book; later ones trade from weights that have drifted."""
    np.testing.assert_allclose(costed.gross[1:], COST["gross"])
    np.testing.assert_allclose(costed.turnover[1:], COST["two_way_turnover_drift"])
    assert metrics.sharpe(costed.gross, 252) == pytest.approx(COST["sharpe_gross"])
    assert metrics.sharpe(costed.net(COST["bps_per_side"]), 252) == pytest.approx(COST["sharpe_net"])


def test_the_first_order_estimate_is_near_and_the_roadmaps_literals_are_not(costed: Book) -> None:
    """Rejected: SR - 10 turnover and SR - 0.001 turnover subtract a return from a ratio; neither has a unit.

    First order: SR_net = SR - sqrt(252) c turnover / sigma, the same cost in units of the daily deviation.
    """
    gross, turnover = costed.gross[1:], costed.turnover[1:]
    sharpe, cost = metrics.sharpe(gross, 252), COST["bps_per_side"] / 1e4
    assert sharpe is not None
    first_order = sharpe - np.sqrt(252) * cost * turnover.mean() / gross.std(ddof=1)
    literal, decimal = sharpe - COST["bps_per_side"] * turnover.mean(), sharpe - cost * turnover.mean()
    assert first_order == pytest.approx(COST["first_order"])
    assert literal == pytest.approx(COST["roadmap_literal_bps10"])
    assert decimal == pytest.approx(COST["roadmap_decimal"])
    net = metrics.sharpe(costed.net(10), 252)
    assert net == pytest.approx(first_order, abs=0.1)
    assert all(abs(net - rejected) > 1 for rejected in (literal, decimal))


def test_net_is_gross_less_the_cost_of_both_sides(costed: Book) -> None:
    np.testing.assert_allclose(costed.net(0)[1:], costed.gross[1:])
    np.testing.assert_allclose(costed.net(25)[1:], costed.gross[1:] - 0.0025 * costed.turnover[1:])


# --- a ledger of money ----------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(0, 2), st.sampled_from([1.0, 0.5, 0.2]), st.booleans())
def test_the_book_equals_a_ledger_of_money(
    seed: int, horizon: int, delay: int, trade_share: float, netted: bool
) -> None:
    """Sleeves kept one by one in money, traded one by one, come to the same returns, turnover and weights.

    Netted, gains compound and the trades of all sleeves together count. Otherwise each sleeve starts
    from the same capital whatever was earned, and its own trades count; only one sleeve trades a day.
    """
    rng = np.random.default_rng(seed)
    days, stocks = 14, 9
    score, returns = rng.normal(size=(days, stocks)), rng.normal(0, 0.03, (days, stocks))
    target = np.array([long_short_weights(row, 1 / 3) for row in score])
    book = book_of(target, returns, horizon, delay, trade_share=trade_share, netted=netted)
    capital, sleeves = 1.0, {}
    for day in range(days - 1):
        before = sum(sleeves.values(), np.zeros(stocks))
        old, traded = sleeves.get(day % horizon), np.zeros(stocks)
        if day >= delay:
            wanted = capital * target[day - delay] / horizon
            new = wanted if old is None else (1 - trade_share) * old + trade_share * wanted
            traded = new - (0 if old is None else old)
            sleeves[day % horizon] = new
        money = sum(sleeves.values(), np.zeros(stocks))
        if day >= delay + horizon - 1:
            assert book.gross[day + 1] == pytest.approx(money @ returns[day + 1] / capital)
            assert book.turnover[day + 1] == pytest.approx(np.abs(money - before if netted else traded).sum() / capital)
            np.testing.assert_allclose(book.held[day + 1], money / capital, atol=1e-7)
        if netted:
            capital += money @ returns[day + 1]
        sleeves = {slot: held * (1 + returns[day + 1]) for slot, held in sleeves.items()}


def test_a_share_of_the_way_is_traded_less_and_the_first_time_all_of_it() -> None:
    rng = np.random.default_rng(0)
    target = np.array([long_short_weights(row, 1 / 3) for row in rng.normal(size=(40, 12))])
    returns = np.zeros((40, 12))
    whole, half = (book_of(target, returns, 2, 1, trade_share=share) for share in (1.0, 0.5))
    np.testing.assert_allclose(half.held[3], (target[0] + target[1]) / 2, atol=1e-7)
    assert np.nanmean(half.turnover[4:]) < 0.75 * np.nanmean(whole.turnover[4:])


@pytest.mark.parametrize(("horizon", "delay"), [(1, 0), (1, 1), (5, 1), (3, 2)])
def test_the_book_is_undefined_until_its_last_sleeve_is_filled(horizon: int, delay: int) -> None:
    target = np.tile([0.5, -0.5], (20, 1))
    book = book_of(target, np.zeros((20, 2)), horizon, delay)
    first = delay + horizon
    assert np.isnan(book.gross[:first]).all()
    assert np.isfinite(book.gross[first:]).all()
    np.testing.assert_allclose(np.abs(book.held[first:]).sum(1), 1)


@pytest.mark.parametrize("delay", [0, 1, 2])
def test_a_signal_earns_nothing_before_its_delay_has_passed(delay: int) -> None:
    """One signal, one day: it earns the return of the day after the close at which it was traded."""
    target, returns = np.zeros((8, 2)), np.zeros((8, 2))
    target[3] = [0.5, -0.5]
    returns[:, 0] = 0.01 * 2.0 ** np.arange(8)
    book = book_of(target, returns, 1, delay)
    earned = np.flatnonzero(np.nan_to_num(book.gross))
    assert earned.tolist() == [3 + delay + 1]


def test_the_future_changes_no_day_of_the_book() -> None:
    rng = np.random.default_rng(1)
    target = np.array([long_short_weights(row, 1 / 3) for row in rng.normal(size=(20, 12))])
    returns = rng.normal(0, 0.02, (20, 12))
    before = book_of(target, returns, 3, 1)
    target[12:], returns[12:] = 0, 0.5
    after = book_of(target, returns, 3, 1)
    np.testing.assert_array_equal(before.gross[:12], after.gross[:12])
    np.testing.assert_array_equal(before.held[:13], after.held[:13])


# --- stocks that cannot be traded -----------------------------------------------------------------


def test_a_delisted_stock_brings_its_terminal_return_and_is_not_traded() -> None:
    target = np.tile([0.5, -0.5], (6, 1))
    returns = np.zeros((6, 2))
    returns[3, 0] = -0.8
    printed = np.array([[True, True]] * 3 + [[False, True]] * 3)
    book = tranche_book(target, returns, printed, ~printed, horizon=1, delay=1)
    assert book.gross[3] == pytest.approx(-0.4)
    # What is left of the long side is cash; only the short side is brought back to a half.
    assert book.turnover[4] == pytest.approx(0.5 / 0.6 - 0.5)
    np.testing.assert_allclose(book.held[4], [0, -0.5])


def test_a_terminal_return_reaches_every_sleeve_that_holds_the_stock() -> None:
    target = np.tile([0.5, -0.5], (8, 1))
    returns = np.zeros((8, 2))
    returns[5, 0] = -0.5
    printed = np.array([[True, True]] * 5 + [[False, True]] * 3)
    book = tranche_book(target, returns, printed, ~printed, horizon=3, delay=1)
    assert book.gross[5] == pytest.approx(-0.25)
    assert (book.held[6:, 0] == 0).all()


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
    assert book.held[5, 0] == 0
    never = can_trade.copy()
    never[:, 0] = False
    lapsed = tranche_book(target, returns, never, np.zeros((6, 2), bool), horizon=1, delay=1)
    assert lapsed.gross[4] == 0
    assert lapsed.turnover[2] == pytest.approx(0.5)


def test_the_sleeves_own_trades_hold_the_closing_of_what_waited() -> None:
    target = np.zeros((6, 2))
    target[:2] = [0.5, -0.5]
    can_trade = np.ones((6, 2), bool)
    can_trade[3, 0] = False
    book = tranche_book(target, np.zeros((6, 2)), can_trade, np.zeros((6, 2), bool), horizon=1, delay=1, netted=False)
    np.testing.assert_allclose(book.turnover[2:], [1, 0, 0.5, 0.5])


def test_a_book_that_never_holds_anything_is_undefined_not_a_return_of_zero() -> None:
    nothing = book_of(np.zeros((6, 2)), np.ones((6, 2)), 1, 1)
    for series in (nothing.gross, nothing.turnover, nothing.held, nothing.net(10)):
        assert np.isnan(series).all()


def test_days_in_cash_between_two_positions_are_returns_of_zero() -> None:
    target = np.zeros((6, 2))
    target[[0, 3]] = [0.5, -0.5]
    book = book_of(target, np.full((6, 2), [0.01, 0.0]), 1, 0)
    np.testing.assert_allclose(book.gross[1:], [0.005, 0, 0, 0.005, 0])


# --- what it carries ------------------------------------------------------------------------------


def test_sector_exposure_is_the_net_weight_of_each_sector() -> None:
    target = np.tile([0.25, 0.25, -0.5, 0.0], (5, 1))
    sector = np.tile(np.array([1, 2, 2, 0], np.int16), (5, 1))
    exposure = book_of(target, np.zeros((5, 4)), 1, 0).sector_exposure(sector, 4)
    np.testing.assert_allclose(exposure[1:], np.tile([0, 0.25, -0.25, 0], (4, 1)), atol=1e-7)
    assert np.isnan(exposure[0, :3]).all()
