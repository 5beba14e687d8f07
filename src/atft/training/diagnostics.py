"""What an epoch came to: the quality and the shape of the scores on `stop`, and which gradients are whose."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from atft.errors import InputError
from atft.evaluation.cross_section import rank_ic
from atft.evaluation.significance import default_lags, mean, newey_west_variance
from atft.evaluation.weights import long_short_weights
from atft.panel.store import Panel

Array = NDArray[np.float64]
Single = NDArray[np.float32]
FLAT = 1e-6  # of the label's or the score's own size: below, single precision knows no order


def stop_rank_ic(panel: Panel, days: Sequence[int], scores: Single) -> Array:
    """RankIC [horizon, day] of `scores` [day, stock, horizon]; NaN where undefined."""
    return np.stack([rank_ic(scores[:, :, h], panel.forward_return[days, :, h]) for h in range(scores.shape[2])])


def mean_rank_ic(rank_ics: Array) -> float:
    """Mean of all that are known; -1 where none is, so never the best."""
    known = mean(rank_ics)
    return -1.0 if known is None else known


def stop_facts(horizons: Sequence[int], rank_ics: Array, scores: Single) -> dict[str, Any]:
    """How good `scores` [day, stock, horizon] with these RankICs [horizon, day] are, by column of `metrics/epochs.csv`.

    - stop_rank_ic: mean RankIC over days and horizons; -1 where none is defined, so never the best. Beside it
      stop_rank_ic_h of each horizon, and its standard error as stop_rank_ic_se_h, which knows that the
      returns of neighbouring days overlap (Newey-West); None where undefined.
    - turnover: two-way and daily, of the long-short deciles, mean over horizons (0 to 2).
    - dispersion: standard deviation of a day's scores, mean over days and horizons.
    """
    facts: dict[str, Any] = {"stop_rank_ic": mean_rank_ic(rank_ics)}
    for horizon, daily in zip(horizons, rank_ics, strict=True):
        variance = newey_west_variance(daily, default_lags(len(daily), horizon))
        facts[f"stop_rank_ic_{horizon}"] = mean(daily)
        facts[f"stop_rank_ic_se_{horizon}"] = None if variance is None else variance**0.5
    return facts | {"turnover": _turnover(scores), "dispersion": float(_spread(scores).mean())}


def coverage(panel: Panel, days: Sequence[int], quantiles: Single, levels: Sequence[float]) -> dict[str, float]:
    """Share of the labels of `days` below `quantiles` [day, stock, horizon, level], by level.

    As coverage_Q, Q the level in percent; right is Q percent.
    """
    label = panel.label[days]
    known = np.isfinite(label)
    return {
        f"coverage_{percent(level)}": float((label < quantiles[..., q])[known].mean()) for q, level in enumerate(levels)
    }


def percent(level: float) -> str:
    """How a quantile is named: 0.1 is 10, 0.025 is 2.5."""
    return f"{100 * level:g}"


def refuse_collapse(panel: Panel, days: Sequence[int], scores: Single, when: str) -> None:
    """Fail where the scores [day, stock, horizon] of some horizon tie on most of `days`, but for rounding.

    Such a model ranks stocks by their place in the file. A spread counts as rounding below `FLAT` of the
    label's spread or of the scores' own size, whichever is larger.

    Raises:
        InputError: With the horizon, and `when` it happened.
    """
    size = np.maximum(_spread(panel.label[days]), np.abs(_mean(scores)))
    flat = _spread(scores) <= FLAT * size
    for horizon, share in zip(panel.horizons, flat.mean(0), strict=True):
        if share > 0.5:
            raise InputError(
                f"{when}: all stocks score alike on {share:.0%} of the days of `stop` at horizon {horizon}: "
                f"the network has collapsed; lower train.lr or train.weight_decay, or raise train.rank_weight"
            )


def blocks_of(network: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Parameters by block of the network: selection, temporal, fan (with its fusion), graph, heads."""
    blocks: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in network.named_parameters():
        block = name.removeprefix("encoder.").split(".")[0]
        blocks["fan" if block == "fuse" else block].append(parameter)
    return dict(blocks)


def _mean(values: Single) -> NDArray[np.float64]:
    """Mean over the stocks that are known; 0 where none is. [day, horizon]"""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(1, dtype=np.float64) / np.maximum(known.sum(1), 1)


def _spread(values: Single) -> NDArray[np.float64]:
    """Standard deviation over the stocks that are known; 0 where none is. [day, horizon]"""
    known = np.isfinite(values)
    off = np.where(known, values - _mean(values)[:, None], 0.0)
    return np.sqrt((off**2).sum(1) / np.maximum(known.sum(1), 1))


def _turnover(scores: Single, quantile: float = 0.1) -> float:
    weights = np.array([[long_short_weights(column.astype(float), quantile) for column in day.T] for day in scores])
    return float(np.abs(np.diff(weights, axis=0)).sum(-1).mean()) if len(weights) > 1 else 0.0
