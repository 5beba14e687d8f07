"""What a stock's state says of its label: a score, and quantiles beside it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Forecast(NamedTuple):
    """What the network says of D days of N stocks at H horizons.

    Attributes:
        score: [D, N, H], the order of which ranks.
        quantiles: [D, N, H, Q] of the label, ascending; None where none are asked for.
    """

    score: Tensor
    quantiles: Tensor | None


class QuantileHeads(nn.Module):
    r"""Quantiles that cannot cross: q_1 = w_1 s + b_1, q_k = q_{k-1} + softplus(w_k s + b_k).

    Shapes: input [..., hidden], output [..., horizon, level], levels ascending.
    """

    def __init__(self, hidden: int, horizons: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.linear = nn.Linear(hidden, horizons * levels)

    def forward(self, state: Tensor) -> Tensor:
        first, steps = self.linear(state).unflatten(-1, (-1, self.levels)).split([1, self.levels - 1], dim=-1)
        # A product in place of cumsum, which has no deterministic form on a GPU.
        sums = torch.ones(self.levels, self.levels, dtype=first.dtype, device=first.device).triu()
        return torch.cat([first, functional.softplus(steps)], dim=-1) @ sums
