"""What the scores ask a book to hold and to trade next."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atft.evaluation.facts import Rules
from atft.evaluation.market import EXPOSURE_DAYS, Market
from atft.evaluation.portfolio import tranche_book
from atft.panel.store import Panel

Array = NDArray[np.float64]
Single = NDArray[np.float32]

LONG_GONE = 10  # days without a bar after which a position counts as delisted
EXPOSURE = EXPOSURE_DAYS + 1  # days behind a beta: the market's first return is of who was ranked the day before


@dataclass(frozen=True)
class Orders:
    """Of one book, each [stock], shares of its capital.

    Attributes:
        target: Weights of the sleeve that today's signal opens, gross 1, before it is scaled to the sleeve's 1/h.
        held: The whole book's weights before that sleeve is traded; NaN where the book is not complete yet.
        trade: What is bought (above 0) and sold when it is.
    """

    target: Array
    held: Array
    trade: Array

    @property
    def turnover(self) -> float | None:
        """Two-way: sum of absolute trades as a share of capital; None where the book is not complete."""
        total = float(np.abs(self.trade).sum())
        return total if np.isfinite(total) else None


def orders(panel: Panel, days: NDArray[np.int64], score: Single, rules: Rules, *, long_only: bool) -> Orders:
    """The book that follows the scores of `days`, as `evaluate`'s does, up to the trade that the last one asks for.

    Nothing is known of prices after the last day: the trade is reckoned at its closes, and every stock that is
    not long gone is taken to be tradable.

    Args:
        days: Consecutive row numbers of the panel.
        score: [day, stock] at the primary horizon, the seeds together; NaN where not ranked.
    """
    horizon = rules.primary_horizon
    begin = max(int(days[0]) - EXPOSURE, 0)
    market = Market.of(panel.part(begin, int(days[-1]) + 1))
    here = days - begin
    target = rules.weights(score, horizon, market.beta[here], market.sector[here], long_only=long_only)
    ahead = market.delay + 1
    day = np.arange(len(market.dates))[:, None]
    printed = np.where(market.has_bar, day, -1).max(0)
    # Only a terminal return is earned without a bar.
    paid = np.maximum.accumulate(~market.has_bar & (market.daily_return != 0), axis=0)
    gone = paid | ((day > printed) & (printed < len(day) - LONG_GONE))
    left = gone[-1]
    book = tranche_book(
        _ahead(target, ahead, 0.0),
        _ahead(market.daily_return[here], ahead, 0.0),
        _ahead(market.can_trade[here], ahead, ~left),
        _ahead(gone[here], ahead, left),
        horizon,
        market.delay,
        trade_share=rules.trade_share,
    )
    held, after = book.held[-2].astype(np.float64), book.held[-1].astype(np.float64)
    return Orders(target[-1], held, after - held)


def _ahead(values: NDArray, days: int, what: NDArray | float) -> NDArray:
    """The array with `days` more rows of `what`."""
    more = np.empty((days, values.shape[1]), values.dtype)
    more[:] = what
    return np.concatenate([values, more])
