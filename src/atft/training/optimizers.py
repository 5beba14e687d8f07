"""Optimisers by name, with safe settings, and the learning-rate schedule."""

import contextlib
import io
import math
from typing import Literal

import torch
from adabelief_pytorch import AdaBelief
from torch import nn


def make_optimizer(
    name: Literal["adamw", "adabelief"], module: nn.Module, lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Optimiser over all trained parameters; only matrices decay.

    AdaBelief runs with eps 1e-16 (it is added inside the variance; 1e-8 makes it plain momentum) and
    without rectification (we warm up anyway). Its greeting is swallowed.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, fused=True)
    with contextlib.redirect_stdout(io.StringIO()):
        return AdaBelief(groups, lr=lr, eps=1e-16, rectify=False, weight_decouple=True, print_change_log=False)


def lr_scale(step: int, steps: int, warmup_share: float, floor: float) -> float:
    """Learning rate at `step` of `steps` as a share of the peak: linear warm-up, then cosine to `floor`."""
    warmup = round(warmup_share * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup - 1, 1)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
