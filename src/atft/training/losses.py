"""Losses on one block of days; every day counts the same, whatever its number of stocks.

Shape letters: D days, N stocks, H horizons, Q quantiles. A label of NaN is masked; days with fewer than
`MIN_NAMES` labels count nothing. Each loss is a vector [H], a mean over days: horizons are weighted by
whoever adds the losses up (see `objective.py`). A `day_weight` makes days count unlike, see `usable`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from atft.training.soft_ranks import soft_ranks

MIN_NAMES = 20  # a smaller cross-section teaches noise
RankMethod = Literal["linear", "cdf", "sigmoid"]


def usable(label: Tensor, day_weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(mask [D, N, H] of known labels, share [D, 1, H]: 1 / days where a day has MIN_NAMES, else 0).

    The share times `day_weight` [D, H], which is relative to all days of training: it is not brought to mean 1
    here, or a block of days that all weigh little would weigh as much as any other.
    """
    mask = torch.isfinite(label)
    enough = (mask.sum(1, keepdim=True) >= MIN_NAMES).float()
    share = enough / enough.sum(0, keepdim=True).clamp(min=1)
    return mask, share if day_weight is None else share * day_weight[:, None]


def huber_loss(score: Tensor, label: Tensor, day_weight: Tensor | None = None) -> Tensor:
    """Huber loss (delta 1) of score [D, N, H] against label, mean over stocks, then days. [H]"""
    error = functional.huber_loss(_precise(score), label.nan_to_num(), reduction="none")
    return _mean(error, label, day_weight)


def mse_loss(score: Tensor, label: Tensor, day_weight: Tensor | None = None) -> Tensor:
    """Squared error of score [D, N, H] against label, mean over stocks, then days. [H]"""
    return _mean((_precise(score) - label.nan_to_num()).square(), label, day_weight)


def quantile_loss(
    quantiles: Tensor, label: Tensor, levels: Sequence[float], day_weight: Tensor | None = None
) -> Tensor:
    """Pinball loss of quantiles [D, N, H, Q] at `levels` in (0, 1), mean over levels, stocks, then days. [H]

    Source: Koenker & Bassett, Regression Quantiles, 1978.
    """
    level = torch.tensor(levels, dtype=torch.float64, device=label.device).to(_precise(quantiles).dtype)
    error = label.nan_to_num()[..., None] - _precise(quantiles)
    return _mean(torch.maximum(level * error, (level - 1) * error).mean(-1), label, day_weight)


def correlation_loss(score: Tensor, label: Tensor, day_weight: Tensor | None = None) -> Tensor:
    """One minus the correlation of score [D, N, H] and ranked label, averaged over days. [H]

    Adding a constant to a day's scores, or scaling them, changes nothing; constant scores cost 1.
    """
    return _distance(_precise(score), label, day_weight)


def rank_loss(
    score: Tensor, label: Tensor, method: RankMethod, temperature: float, day_weight: Tensor | None = None
) -> Tensor:
    """One minus the rank correlation of score [D, N, H] and label, averaged over days. [H]

    The label is ranked hard. Ranks of the score have no gradient, so they are replaced by

    - linear: the score itself. The gradient reaches everyone alike, and nothing was gained
      by the softer ranks below when measured: the default;
    - cdf: the normal distribution function of the standardised score. Outliers stop counting;
    - sigmoid: sums of sigmoids of pairwise differences of the standardised score over `temperature`.
      Towards 0 these are the true ranks without a gradient, towards infinity the score itself. Takes
      N^2 time: past 2000 stocks prefer cdf on a CPU.

    Shift and scale of a day's scores change nothing; constant scores cost 1.
    """
    score = _precise(score)
    if method == "linear":
        return _distance(score, label, day_weight)
    mask, _ = usable(label)
    z = standardized(score, mask)
    if method == "cdf":
        return _distance(torch.special.ndtr(z), label, day_weight)
    by_column = soft_ranks(z.transpose(1, 2), mask.transpose(1, 2), temperature).transpose(1, 2)
    return _distance(by_column / mask.sum(1, keepdim=True).clamp(min=1), label, day_weight)


def daily_correlation(score: Tensor, label: Tensor) -> Tensor:
    """Correlation of score [D, N, H] and ranked label, by day; NaN where a day counts nothing. [D, H]"""
    mask, share = usable(label)
    return _correlation(_precise(score), label, mask).masked_fill(share == 0, torch.nan)[:, 0]


def ranks(label: Tensor, mask: Tensor) -> Tensor:
    """(Rank - 1/2) / n among the day's known labels, in (0, 1); ties share their average. [D, N, H]

    Right for any scale of the label: equal to the normal distribution function of rank-gauss labels, and
    what it would not be for plain returns. Masked entries mean nothing.
    """
    columns = label.masked_fill(~mask, torch.inf).transpose(1, 2).contiguous()
    ordered = columns.sort(dim=-1).values
    below = torch.searchsorted(ordered, columns, right=False)
    through = torch.searchsorted(ordered, columns, right=True)
    count = mask.sum(1, keepdim=True).clamp(min=1)
    return ((below + through) / 2).to(_precise(label).dtype).transpose(1, 2) / count


def standardized(score: Tensor, mask: Tensor) -> Tensor:
    """Score less its mean over its standard deviation among the day's known stocks; 0 elsewhere. [D, N, H]

    The deviation has a floor of 1e-4: where scores tie, their rounding is no opinion.
    """
    spread = _centred(_precise(score), mask)
    variance = spread.square().sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return spread / variance.add(1e-8).sqrt()


def _distance(values: Tensor, label: Tensor, day_weight: Tensor | None) -> Tensor:
    """One minus the correlation with the ranked label, mean over days. [H]"""
    mask, day = usable(label, day_weight)
    return ((1 - _correlation(values, label, mask)) * day).sum(dim=(0, 1))


def _correlation(values: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """With the ranked label, by day. [D, 1, H]"""
    ranked = _centred(ranks(label, mask), mask)
    spread = _centred(values, mask)
    covariance = (spread * ranked).sum(1, keepdim=True)
    norm = spread.square().sum(1, keepdim=True).add(1e-8).sqrt() * ranked.square().sum(1, keepdim=True).add(1e-8).sqrt()
    return covariance / norm


def _mean(error: Tensor, label: Tensor, day_weight: Tensor | None) -> Tensor:
    """Mean over known stocks, then over days. [H]"""
    mask, day = usable(label, day_weight)
    return ((error * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1) * day).sum(dim=(0, 1))


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    mean = (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return (values - mean) * mask


def _precise(values: Tensor) -> Tensor:
    """At least single precision: bf16 has too few digits for a correlation."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
