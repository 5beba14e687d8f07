"""Variable selection: which features count for this stock today."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atft.model.gating import GatedResidual


class HingeSelection(nn.Module):
    r"""Softmax-gated features on a hinge basis, embedded by one matrix.

    With basis b(x) = [x, tanh x, |x|, (x - 1)+, (-x - 1)+] and weights v = F softmax(g(x)) over the
    F features, the embedding is GRN(W [v b_1, ..., v b_5]): the paper's sum over features
    of v_j GRN_j(x_j) with piecewise linear GRN_j, at a twentieth of its cost. The gate starts
    uniform.

    Shapes: input [..., feature], output [..., hidden] and weights [..., feature] (they sum to 1).

    Source: Lim et al., Temporal Fusion Transformers, 2021, section 4.2, for the selection.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.squeeze = nn.Linear(features, hidden)
        self.gate = nn.Linear(hidden, features)
        self.embed = nn.Linear(5 * features, hidden)
        self.refine = GatedResidual(hidden, dropout)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        weights = torch.softmax(self.gate(functional.elu(self.squeeze(x))), dim=-1)
        basis = torch.stack([x, torch.tanh(x), x.abs(), functional.relu(x - 1), functional.relu(-x - 1)], dim=-2)
        chosen = basis * (weights * x.shape[-1]).unsqueeze(-2)
        return self.refine(self.embed(chosen.flatten(-2))), weights
