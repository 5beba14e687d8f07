"""Days of training that count more: those of a state of the market in which the network has ranked worse so far.

T days of the panel, H horizons, S states.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atft.evaluation.market import REGIMES, Market
from atft.training.processes import gathered

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

STATES = tuple(
    f"{volatility}_{correlation}" for volatility in REGIMES["volatility"] for correlation in REGIMES["correlation"]
)
LIMIT = 2.0  # weights lie in [1 / LIMIT, LIMIT]
SHRINK_DAYS = 60  # a state's Sharpe ratio over n days is believed to n / (n + SHRINK_DAYS)
MIN_DAYS = 20  # of a state, below which nothing is believed: neighbouring labels overlap, so their spread says little
LEAST_SPREAD = 0.01  # of daily correlations, whose noise alone is 1 / sqrt(N)


def market_states(market: Market) -> NDArray[np.int8]:
    """Number in `STATES` of the state of the market as of the day's close, when the day is scored; -1 unknown. [T]"""
    volatility, correlation = (market.regimes[kind] for kind in REGIMES)
    known = (volatility >= 0) & (correlation >= 0)
    return np.where(known, len(REGIMES["correlation"]) * volatility + correlation, -1).astype(np.int8)


def log_weights(quality: Array, state: NDArray[np.int8], horizons: Sequence[int], delay: int, strength: float) -> Array:
    """Logarithm of what a day should weigh, up to a factor; 0 where nothing is known. [T, H]

    strength x n / (n + SHRINK_DAYS) x (Sharpe of all days - Sharpe of the n days of its state), where a Sharpe
    ratio is mean / standard deviation of the daily `quality` [T, H] over days whose label had ended by the day:
    s <= t - (h + delay). NaN days are left out.
    """
    out = np.zeros_like(quality)
    for column, horizon in enumerate(horizons):
        values, span = quality[:, column], horizon + delay
        known = np.isfinite(values)
        overall = _sharpe(values, known, span)[1]
        for number in range(len(STATES)):
            here = state == number
            days, sharpe = _sharpe(values, known & here, span)
            trust = np.where(days >= MIN_DAYS, days / (days + SHRINK_DAYS), 0.0)
            out[here, column] = (strength * trust * (overall - sharpe))[here]
    return out


def normalized(log_weight: Array) -> Array:
    """exp(log_weight [day, H]) times one factor a horizon, in [1 / LIMIT, LIMIT] and of mean 1.

    Clipping moves the mean, and dividing by it would leave the bounds: the factor before clipping is
    found by bisection.
    """
    bound = np.log(LIMIT)

    def weight(factor: Array) -> Array:
        return np.exp(np.clip(log_weight + factor, -bound, bound))

    high = np.abs(log_weight).max(0) + bound
    low = -high
    for _ in range(80):
        middle = (low + high) / 2
        less = weight(middle).mean(0) < 1
        low, high = np.where(less, middle, low), np.where(less, high, middle)
    return weight(high)


class RegimeWeights:
    """Weights of the days of training, from one epoch to the next; its arrays are all that changes.

    Every day weighs 1 in the first epoch, one of an unknown state always. The others have mean 1. Quality is what
    the network, which is fitted to all days of training in any order, shows in passing: later days enter through its
    weights and through the one factor that makes the mean 1, not through labels or states.

    Attributes:
        quality: [T, H] correlation of score and ranked label when the day was last trained on in an epoch that has
            ended, NaN for never.
        fresh: The same of the epoch that runs, by this process.
        weight: [T, H] of this epoch.
    """

    def __init__(
        self, state: NDArray[np.int8], train: Sequence[int], horizons: Sequence[int], delay: int, strength: float
    ) -> None:
        self.quality = np.full((len(state), len(horizons)), np.nan)
        self.fresh, self.weight = self.quality.copy(), np.ones_like(self.quality)
        self._state, self._horizons, self._delay, self._strength = state, horizons, delay, strength
        self._train = np.isin(np.arange(len(state)), train)

    def saw(self, days: Sequence[int], quality: NDArray[np.floating]) -> None:
        """Keep the quality [day, H] of days just trained on; a day of NaN keeps what it had."""
        self.fresh[days] = quality

    def next_epoch(self) -> dict[str, float | None]:
        """Weigh the days anew, by what all processes saw.

        Gives the mean weight by state of the epoch that ends, None for a state without days.
        """
        members = {name: self._train & (self._state == number) for number, name in enumerate(STATES)}
        facts = {
            f"regime_weight_{name}": float(self.weight[days].mean()) if days.any() else None
            for name, days in members.items()
        }
        for seen in gathered(self.fresh):
            self.quality = np.where(np.isfinite(seen), seen, self.quality)
        self.fresh = np.full_like(self.quality, np.nan)
        known = self._train & (self._state >= 0)
        if known.any():
            found = log_weights(self.quality, self._state, self._horizons, self._delay, self._strength)
            self.weight[known] = normalized(found[known])
        return facts

    def state_dict(self) -> dict[str, Tensor]:
        """The arrays."""
        return {name: torch.from_numpy(getattr(self, name)) for name in ("quality", "fresh", "weight")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where `state_dict` was taken."""
        for name, values in state.items():
            setattr(self, name, values.numpy())


def _sharpe(values: Array, among: Mask, span: int) -> tuple[Array, Array]:
    """(days, mean / standard deviation of their values) of the days `among` up to `span` days before each. [T] each"""
    known = np.where(among, values, 0.0)
    count, total, squares = (
        np.concatenate([np.zeros(span), moment.cumsum()])[: len(values)]
        for moment in (among.astype(float), known, known**2)
    )
    mean = total / np.maximum(count, 1)
    variance = (squares - count * mean**2) / np.maximum(count - 1, 1)
    return count, mean / np.sqrt(np.maximum(variance, LEAST_SPREAD**2))
