"""Variable selection: which features count for this stock today, and which are not known."""

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

    An unknown feature (NaN) weighs nothing, and adds a learnt vector of its own instead of a value:
    unknown is not the same as average. Where nothing is known all weights are 0.

    Shapes: input [..., feature], NaN unknown, output [..., hidden] and weights [..., feature], which
    sum to 1 over the known.

    Source: Lim et al., Temporal Fusion Transformers, 2021, section 4.2, for the selection.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.squeeze = nn.Linear(features, hidden)
        self.gate = nn.Linear(hidden, features)
        self.embed = nn.Linear(5 * features, hidden)
        self.unknown = nn.Linear(features, hidden, bias=False)
        self.refine = GatedResidual(hidden, dropout)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)
        nn.init.zeros_(self.unknown.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        unknown = torch.isnan(x)
        x = x.masked_fill(unknown, 0.0)
        logits = self.gate(functional.elu(self.squeeze(x))).masked_fill(unknown, -1e4)
        weights = torch.softmax(logits, dim=-1).masked_fill(unknown, 0.0)
        basis = torch.stack([x, torch.tanh(x), x.abs(), functional.relu(x - 1), functional.relu(-x - 1)], dim=-2)
        chosen = basis * (weights * x.shape[-1]).unsqueeze(-2)
        return self.refine(self.embed(chosen.flatten(-2)) + self.unknown(unknown.to(x.dtype))), weights

    def feature_layout(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Which weights belong to one feature: parameter -> (shape to view it in, axis of the features)."""
        hidden, features = self.unknown.weight.shape
        return {
            "embed.weight": ((hidden, 5, features), 2),
            "squeeze.weight": ((hidden, features), 1),
            "unknown.weight": ((hidden, features), 1),
            "gate.weight": ((features, hidden), 0),
        }
