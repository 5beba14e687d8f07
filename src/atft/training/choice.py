"""Which epoch's weights stay."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from atft.evaluation.significance import default_lags, newey_west_variance
from atft.training.diagnostics import mean_rank_ic

Array = NDArray[np.float64]
Keep = Literal["best", "latest"]


class Choice:
    """Chooses on `stop`, epoch by epoch.

    `best` keeps the epoch with the highest mean RankIC. The days of `stop` are few, so the best of several epochs
    may well be an early one that was lucky there; `latest` keeps the latest epoch that is not below the best
    beyond one standard error of their difference over the days (Newey-West, as labels overlap), which
    leaves the last one, the most annealed, unless it is seen to be worse.

    Args:
        longest: Horizon in days, for the standard error.
        patience: Epochs without a new best after which training is over.

    Source: the one-standard-error rule, Breiman et al. 1984, CART, section 3.4.3; there the simplest model within
        the error is kept, here the one trained longest, since a schedule that ends low is what simplifies.
    """

    def __init__(self, keep: Keep, longest: int, patience: int) -> None:
        self._keep, self._longest, self._patience = keep, longest, patience
        self._best, self._daily, self._since = -np.inf, np.empty(0), 0

    def keeps(self, rank_ics: Array) -> bool:
        """Whether the epoch with these RankICs [horizon, day] is the one to keep so far."""
        level, daily = mean_rank_ic(rank_ics), _daily(rank_ics)
        self._since += 1
        if level > self._best:
            self._best, self._daily, self._since = level, daily, 0
            return True
        if self._keep == "best":
            return False
        below = self._daily - daily
        variance = newey_west_variance(below, default_lags(len(below), self._longest))
        return variance is not None and float(np.nanmean(below)) <= variance**0.5

    @property
    def is_over(self) -> bool:
        return self._since >= self._patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "daily": self._daily.tolist(), "since": self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._daily, self._since = state["best"], np.array(state["daily"]), state["since"]


def _daily(rank_ics: Array) -> Array:
    """Mean over the horizons that are known, by day."""
    known = np.isfinite(rank_ics)
    return np.where(known, rank_ics, 0.0).sum(0) / np.where(known.any(0), known.sum(0), np.nan)
