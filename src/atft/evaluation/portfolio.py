"""The long-short portfolio that a score implies, day by day: what it earns and what it trades."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Book:
    """Daily facts of a portfolio, [day].

    Attributes:
        gross: Return from the close of the day before to the close of the day, as a share of
            capital whose long and short sides are 1/2 each. NaN before the book is complete.
        turnover: Two-way: sum of |trades| as a share of capital, of the trades made at the close
            of the day before. One sleeve trades a day, from its old holdings to its new ones.
    """

    gross: Array
    turnover: Array

    def net(self, cost_bps: float) -> Array:
        """Gross less `cost_bps` basis points per side of the turnover."""
        return self.gross - cost_bps / 1e4 * self.turnover


def long_short_weights(score: Array, quantile: float) -> Array:
    """+1/2 spread over the top `quantile` of the stocks, -1/2 over the bottom; [stock].

    NaN scores are not held. Ties at the cut go to the lower stock number. All 0 where every score
    ties: a constant is no opinion.
    """
    held = np.nonzero(np.isfinite(score))[0]
    weights = np.zeros(len(score))
    side = int(np.floor(len(held) * quantile + 1e-9))
    if side == 0 or np.ptp(score[held]) == 0:
        return weights
    order = held[np.argsort(score[held], kind="stable")]
    weights[order[:side]] -= 0.5 / side
    weights[order[-side:]] += 0.5 / side
    return weights


def tranche_book(
    target: Array,
    returns: Array,
    can_trade: NDArray[np.bool_],
    gone: NDArray[np.bool_],
    horizon: int,
    delay: int,
    drift: bool = True,
) -> Book:
    """The book of `horizon` overlapping sleeves: one is opened each day and held `horizon` days.

    A signal of day t is traded at the close of t + delay. Between trades weights drift with
    prices. A stock without a price cannot be traded: an order to buy lapses, a position waits
    until it can be closed. A delisted stock leaves with its terminal return and is not traded.

    Args:
        target: [day, stock] weights wanted by the signal of each day; rows of 0 hold nothing.
        returns: [day, stock] simple returns of the day, terminal returns included, 0 without price.
        can_trade: [day, stock] a price was printed.
        gone: [day, stock] delisted by then: the position is cash after the day's return.
        drift: False resets weights to target every day for nothing (comparison with textbooks).

    Source: Jegadeesh & Titman (1993) for the sleeves.
    """
    days, stocks = target.shape
    sleeves, waiting = np.zeros((horizon, stocks)), np.zeros(stocks)
    gross, turnover = (np.full(days, np.nan) for _ in range(2))
    for day in range(days - 1):
        before = sleeves.sum(0) + waiting
        slot = day % horizon
        closing = sleeves[slot] + waiting
        waiting = np.where(can_trade[day], 0.0, closing)
        signal = day - delay
        opened = np.where(can_trade[day], target[signal] / horizon, 0.0) if signal >= 0 else np.zeros(stocks)
        sleeves[slot] = opened
        held = sleeves.sum(0) + waiting
        earned = float(held @ returns[day + 1])
        if day >= delay + horizon - 1:
            gross[day + 1] = earned
            turnover[day + 1] = np.abs(held - before).sum()
        if drift:
            growth = np.where(gone[day + 1], 0.0, (1 + returns[day + 1]) / (1 + earned))
            sleeves *= growth
            waiting = waiting * growth
    return Book(gross, turnover)


def two_way_turnover(weights: Array, returns: Array) -> Array:
    """sum |w_t - drifted w_{t-1}| of explicit daily weights [day, stock]; the first day buys everything."""
    earned = (weights * returns).sum(1, keepdims=True)
    drifted = np.vstack([np.zeros_like(weights[:1]), (weights * (1 + returns) / (1 + earned))[:-1]])
    return np.abs(weights - drifted).sum(1)
