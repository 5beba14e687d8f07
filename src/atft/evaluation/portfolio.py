"""The book that target weights make, day by day: what it earns, what it trades, what it carries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Book:
    """Daily facts of a portfolio, [day]; NaN before the book is complete, and throughout where it never holds anything.

    Attributes:
        gross: Return from the close of the day before to the close of the day, as a share of capital.
        turnover: Two-way: sum of |trades| as a share of capital, of the trades made at the close
            of the day before.
        held: [day, stock] weights held from the close of the day before to that of the day.
    """

    gross: Array
    turnover: Array
    held: NDArray[np.float32]

    def net(self, cost_bps: float) -> Array:
        """Gross less `cost_bps` basis points per side of the turnover."""
        return self.gross - cost_bps / 1e4 * self.turnover

    def sector_exposure(self, sector: NDArray[np.int16], sectors: int) -> Array:
        """Net weight of each sector, unknown (0) included. [day, sector]"""
        days = len(self.held)
        cell = np.arange(days)[:, None] * sectors + sector
        held = np.bincount(cell.ravel(), self.held.ravel(), days * sectors)
        return held.astype(np.float64).reshape(days, sectors)


def tranche_book(
    target: Array,
    returns: NDArray[np.floating],
    can_trade: Mask,
    gone: Mask,
    horizon: int,
    delay: int,
    *,
    trade_share: float = 1.0,
    drift: bool = True,
    netted: bool = True,
) -> Book:
    """The book of `horizon` overlapping sleeves: one is renewed each day and held `horizon` days.

    A signal of day t is traded at the close of t + delay. Between trades weights drift with
    prices. A stock without a price cannot be traded: an order to buy lapses, a position waits
    until it can be closed. A delisted stock leaves with its terminal return and is not traded.

    Args:
        target: [day, stock] weights wanted by the signal of each day; rows of 0 hold nothing.
        returns: [day, stock] simple returns of the day, terminal returns included, 0 without price.
        can_trade: [day, stock] a price was printed.
        gone: [day, stock] delisted by then: the position is cash after the day's return.
        trade_share: Share of the way from its holdings to its target that a sleeve trades when its
            turn comes; the first time it goes all the way.
        drift: False resets weights to target every day for nothing (comparison with textbooks).
        netted: True trades the whole book's difference, on capital that compounds. False sums the
            trades of each sleeve, a waiting position's closing included, on constant capital.

    Source: Jegadeesh & Titman (1993) for the sleeves.
    """
    days, stocks = target.shape
    sleeves, waiting = np.zeros((horizon, stocks)), np.zeros(stocks)
    gross, turnover = (np.full(days, np.nan) for _ in range(2))
    held_by_day = np.full((days, stocks), np.nan, np.float32)
    opened_before = np.zeros(horizon, bool)
    for day in range(days - 1):
        before = sleeves.sum(0) + waiting
        slot, signal = day % horizon, day - delay
        old, tradable = sleeves[slot], can_trade[day]
        wanted = target[signal] / horizon if signal >= 0 else np.zeros(stocks)
        if opened_before[slot] and trade_share < 1:
            wanted = old + trade_share * (wanted - old)
        opened_before[slot] |= signal >= 0
        opened = np.where(tradable, wanted, 0.0)
        closed = np.where(tradable, waiting, 0.0)
        traded = np.abs(opened - np.where(tradable, old, 0.0)).sum() + np.abs(closed).sum()
        waiting = np.where(tradable, 0.0, waiting + old)
        sleeves[slot] = opened
        held = sleeves.sum(0) + waiting
        earned = float(held @ returns[day + 1])
        if day >= delay + horizon - 1:
            gross[day + 1] = earned
            turnover[day + 1] = np.abs(held - before).sum() if netted else traded
            held_by_day[day + 1] = held
        if drift:
            capital = 1 + earned if netted else 1.0
            growth = np.where(gone[day + 1], 0.0, (1 + returns[day + 1]) / capital)
            sleeves *= growth
            waiting = waiting * growth
    if not np.nan_to_num(held_by_day).any():  # cash all the time is no opinion, not a return of 0
        gross[:], turnover[:], held_by_day[:] = np.nan, np.nan, np.nan
    return Book(gross, turnover, held_by_day)
