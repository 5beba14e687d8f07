"""Optimisers by name, with the settings that proved safe."""

from typing import Literal

import torch
from torch import nn

from atft.training.optimizers.adabelief import CappedAdaBelief
from atft.training.optimizers.row_clip import clip_rows, feature_layout
from atft.training.optimizers.shampoo import Shampoo

NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
Name = Literal["adamw", "adabelief", "shampoo"]


def make_optimizer(
    name: Name, module: nn.Module, lr: float, weight_decay: float, feature_clip: float
) -> torch.optim.Optimizer:
    """Optimiser over all trained parameters; decay, decoupled from the gradient, is for matrices alone.

    `feature_clip` is the c of `row_clip`; 0 = none.
    """
    groups = decay_groups(module, weight_decay)
    if name == "adabelief":
        optimizer = CappedAdaBelief(groups, lr)
    elif name == "shampoo":
        optimizer = Shampoo(groups, lr)
    else:
        optimizer = torch.optim.AdamW(groups, lr=lr, fused=True)
    if feature_clip:
        clip_rows(optimizer, feature_clip, feature_layout(module))
    return optimizer


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trained parameters in two groups: those that decay, and the others."""
    trained = [(name, parameter) for name, parameter in module.named_parameters() if parameter.requires_grad]
    decaying = [decays(module, name) for name, _ in trained]
    return [
        {"params": [p for (_, p), yes in zip(trained, decaying, strict=True) if yes], "weight_decay": weight_decay},
        {"params": [p for (_, p), yes in zip(trained, decaying, strict=True) if not yes], "weight_decay": 0.0},
    ]


def decays(module: nn.Module, name: str) -> bool:
    """Whether parameter `name` maps inputs to outputs: pulling it to 0 prefers the simpler map.

    Biases (those of attention by lag too), norms and temperatures (rho) are levels, of which 0 is no simpler than
    another, however many dimensions they have.
    """
    owner, _, leaf = name.rpartition(".")
    level = "bias" in leaf or leaf == "rho" or isinstance(module.get_submodule(owner), NORMS)
    return module.get_parameter(name).ndim >= 2 and not level
