"""The residual return of a day: what masked pretraining predicts."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from atft.evaluation.market import EXPOSURE_DAYS, MIN_EXPOSURE_DAYS
from atft.panel.labels import group_mean
from atft.panel.store import Panel

Target = Literal["sector_neutral", "beta_neutral", "sector_beta_neutral"]


def residual_target(panel: Panel, day: int, kind: Target) -> NDArray[np.float32]:
    """The day's return less what `kind` takes out, at unit spread and clipped at 3; NaN if not tradable. [stock]

    - beta_neutral: less beta times the mean return; NaN where the beta is unknown.
    - sector_neutral: less the sector's mean (the market's where the sector is unknown).
    - sector_beta_neutral: the one, then the other.

    Never the return itself: the market factor would be the easiest thing to predict.
    """
    tradable = panel.tradable[day]
    out = np.full(len(tradable), np.nan)
    residual = panel.daily_return[day][tradable].astype(np.float64)[:, None]
    if "beta" in kind and len(residual):
        residual = residual - beta_before(panel, day)[tradable, None] * residual.mean()
    known = np.isfinite(residual)
    if not known.any():
        return out.astype(np.float32)
    if "sector" in kind:
        mean = group_mean(residual, panel.sector[day][tradable])
        residual = residual - np.where(np.isfinite(mean), mean, residual[known].mean())
    out[tradable] = np.clip(residual / max(residual[known].std(), 1e-8), -3, 3)[:, 0]
    return out.astype(np.float32)


def beta_before(panel: Panel, day: int) -> NDArray[np.float64]:
    """Slope on the equal-weighted market over the `EXPOSURE_DAYS` days before `day`; NaN below 20 bars. [stock]

    Looks at no other day, so that one that is held out beyond the window cannot reach it.
    """
    window = slice(max(day - EXPOSURE_DAYS, 0), day)
    returns, present = panel.daily_return[window].astype(np.float64), panel.has_bar[window]
    tradable = panel.tradable[window]
    count = np.maximum(tradable.sum(1, keepdims=True), 1)
    market = np.where(tradable, returns, 0.0).sum(1, keepdims=True) / count
    days = present.sum(0)
    n = np.maximum(days, 1)
    off_market = np.where(present, market - np.where(present, market, 0.0).sum(0) / n, 0.0)
    covariance, variance = (off_market * np.where(present, returns, 0.0)).sum(0), (off_market**2).sum(0)
    enough = (days >= MIN_EXPOSURE_DAYS) & (variance > 1e-12)
    return np.divide(covariance, variance, out=np.full(len(days), np.nan), where=enough)
