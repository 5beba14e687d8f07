"""Losses on one block of days; every day and horizon counts the same, whatever its number of stocks.

Shape letters: D days, N stocks, H horizons. Labels are rank-gauss within the day; NaN is masked.
"""

import torch
from torch import Tensor
from torch.nn import functional

MIN_NAMES = 20  # a smaller cross-section teaches noise


def usable(label: Tensor) -> tuple[Tensor, Tensor]:
    """(mask [D, N, H] of known labels, day weight [D, 1, H]: 1 / days where a day has MIN_NAMES, else 0)."""
    mask = torch.isfinite(label)
    enough = (mask.sum(1, keepdim=True) >= MIN_NAMES).float()
    return mask, enough / enough.sum(0, keepdim=True).clamp(min=1)


def huber_loss(score: Tensor, label: Tensor) -> Tensor:
    """Huber loss (delta 1) of score against label, mean over stocks, then days, then horizons."""
    mask, day = usable(label)
    error = functional.huber_loss(score.float(), label.nan_to_num(), reduction="none") * mask
    return (error.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1) * day).sum(dim=(0, 1)).mean()


def rank_loss(score: Tensor, label: Tensor) -> Tensor:
    """One minus the correlation of score and ranked label, averaged over days and horizons.

    Only the target is ranked: ranks of the score have no gradient, and softening them gained
    nothing when measured. Average ranks come back from rank-gauss labels by the normal
    distribution function. Adding a constant to a day's scores changes nothing; constant scores
    cost 1.
    """
    mask, day = usable(label)
    ranked = _centred(torch.special.ndtr(label.nan_to_num()), mask)
    spread = _centred(score.float(), mask)
    covariance = (spread * ranked).sum(1, keepdim=True)
    norm = spread.square().sum(1, keepdim=True).add(1e-8).sqrt() * ranked.square().sum(1, keepdim=True).add(1e-8).sqrt()
    return ((1 - covariance / norm) * day).sum(dim=(0, 1)).mean()


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    mean = (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    return (values - mean) * mask
