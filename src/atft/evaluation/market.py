"""What the market did and what was known of it: the returns a book could earn, and who carries which risk."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from atft.panel.regimes import ewma_volatility, high_state, mean_correlation
from atft.panel.store import Panel

Array = NDArray[np.float64]
Single = NDArray[np.float32]
Mask = NDArray[np.bool_]

EXPOSURE_DAYS = 60  # trailing window of volatility and beta
MIN_EXPOSURE_DAYS = 20
REGIMES = {"volatility": ("calm", "stormy"), "correlation": ("dispersed", "together")}


@dataclass(frozen=True)
class Market:
    """Facts of the panel, [day, stock] but for the calendar; see `atft.panel.store.Panel`.

    Everything derived here as of a day uses returns up to that day alone.
    """

    dates: NDArray[np.datetime64]
    codes: Sequence[str]
    horizons: Sequence[int]
    delay: int
    daily_return: Single
    has_bar: Mask
    can_trade: Mask
    tradable: Mask
    forward_return: Single
    label: Single
    money_traded: Single
    sector: NDArray[np.int16]
    sector_names: Sequence[str]

    @classmethod
    def of(cls, panel: Panel) -> Self:
        """The market of a panel, in memory: an evaluation goes over it many times."""
        return cls(
            dates=panel.dates,
            codes=panel.codes,
            horizons=panel.horizons,
            delay=panel.delay,
            daily_return=np.array(panel.daily_return),
            has_bar=np.array(panel.has_bar),
            can_trade=np.array(panel.can_trade),
            tradable=np.array(panel.tradable),
            forward_return=np.array(panel.forward_return),
            label=np.array(panel.label),
            money_traded=np.array(panel.money_traded),
            sector=np.array(panel.sector),
            sector_names=panel.sector_names,
        )

    @cached_property
    def equal_weight(self) -> Array:
        """Daily return of all stocks tradable the day before, equally weighted; no costs. [day]"""
        held = np.vstack([np.zeros_like(self.tradable[:1]), self.tradable[:-1]])
        count = held.sum(1)
        total = np.where(held, self.daily_return, 0.0).sum(1, dtype=np.float64)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    @cached_property
    def gone(self) -> Mask:
        """[day, stock] the last bar was printed before the day."""
        days = np.arange(len(self.dates))[:, None]
        return days > np.where(self.has_bar, days, -1).max(0)

    def reversal(self, days: int = 5) -> Single:
        """Minus the trailing `days`-day log return: the baseline that needs no model. [day, stock]"""
        path = self.log_growth
        return -(path - np.vstack([np.zeros((days, path.shape[1])), path[:-days]])).astype(np.float32)

    @cached_property
    def log_growth(self) -> Array:
        """Logarithm of the growth of 1 held in each stock from the first day on. [day, stock]"""
        return np.log1p(np.maximum(self.daily_return.astype(np.float64), -0.9999)).cumsum(0)

    @cached_property
    def volatility(self) -> Single:
        """Trailing standard deviation of daily returns; NaN below `MIN_EXPOSURE_DAYS` bars. [day, stock]"""
        return self._exposures[0]

    @cached_property
    def beta(self) -> Single:
        """Trailing slope of the return on the equal-weighted market's, over the stock's own days. [day, stock]"""
        return self._exposures[1]

    @cached_property
    def _exposures(self) -> tuple[Single, Single]:
        present = self.has_bar
        r = np.where(present, self.daily_return, 0.0)
        m = np.where(present, np.nan_to_num(self.equal_weight)[:, None], 0.0)
        n, sr, sm = (_trailing(x, EXPOSURE_DAYS) for x in (present.astype(np.float64), r, m))
        enough = n >= MIN_EXPOSURE_DAYS
        count = np.maximum(n, 2)
        variance = _trailing(r * r, EXPOSURE_DAYS) - sr * sr / count
        covariance = _trailing(r * m, EXPOSURE_DAYS) - sr * sm / count
        spread = _trailing(m * m, EXPOSURE_DAYS) - sm * sm / count
        deviation = np.sqrt(np.maximum(variance, 0) / (count - 1))
        slope = np.divide(covariance, spread, out=np.full(r.shape, np.nan), where=enough & (spread > 1e-12))
        return np.where(enough, deviation, np.nan).astype(np.float32), slope.astype(np.float32)

    @cached_property
    def regimes(self) -> dict[str, NDArray[np.int8]]:
        """State of each kind in `REGIMES` as of the day's close: index of its name, -1 unknown. [day]"""
        volatility = ewma_volatility(self.equal_weight, half_life=20)
        returns = self.daily_return.astype(np.float64)
        together = mean_correlation(returns, self.has_bar, self.volatility.astype(np.float64), EXPOSURE_DAYS)
        return {"volatility": high_state(volatility), "correlation": high_state(together)}


def _trailing(values: Array, days: int) -> Array:
    """Sum over the trailing `days` rows, today included; fewer at the start."""
    total = values.cumsum(0)
    total[days:] -= total[:-days].copy()
    return total
