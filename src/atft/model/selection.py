"""Variable selection: which features count for this stock today, and which are not known."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atft.model.gating import BankLinear, GatedResidual, GatedSkip

FeatureLayout = dict[str, tuple[tuple[int, ...], int]]


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
        weights = weights_of(self.gate(functional.elu(self.squeeze(x))), unknown)
        basis = torch.stack([x, torch.tanh(x), x.abs(), functional.relu(x - 1), functional.relu(-x - 1)], dim=-2)
        chosen = basis * (weights * x.shape[-1]).unsqueeze(-2)
        return self.refine(self.embed(chosen.flatten(-2)) + self.unknown(unknown.to(x.dtype))), weights

    def feature_layout(self) -> FeatureLayout:
        """Which weights belong to one feature: parameter -> (shape to view it in, axis of the features)."""
        hidden, features = self.unknown.weight.shape
        return {
            "embed.weight": ((hidden, 5, features), 2),
            "squeeze.weight": ((hidden, features), 1),
            "unknown.weight": ((hidden, features), 1),
            "gate.weight": ((features, hidden), 0),
        }


class PaperSelection(nn.Module):
    r"""The network as published: the sum over features of v_j GRN_j(xi_j), with v = softmax(GRN([xi_1, ..., xi_F])).

    xi_j = x_j w_j + b_j embeds feature j alone. All GRN_j run as one batched product. Unknown
    features as in `HingeSelection`; the xi_j of one is 0 where the weights are chosen.

    F (5 H^2 + 11 H + F H + 5) + H^2 + 2 H parameters for F features and width H, most of them in the
    GRN_j, where the hinge basis has about 8 F H + 4 H^2: at F = 150, H = 64 4.6M against .09M. And
    F H numbers are kept per stock and day at every step of the GRN_j. That is why the hinge is the default.

    Shapes: as `HingeSelection`.

    Source: Lim et al., Temporal Fusion Transformers, 2021, section 4.2.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = BankLinear(features, 1, hidden)
        self.each = GatedResidual(hidden, dropout, bank=features)
        self.shortcut = nn.Linear(features * hidden, features)
        self.inner = nn.Linear(features * hidden, hidden)
        self.outer = nn.Linear(hidden, hidden)
        self.choose = GatedSkip(hidden, dropout, outputs=features)
        self.unknown = nn.Linear(features, hidden, bias=False)
        nn.init.zeros_(self.unknown.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = x.shape[:-1]
        x = x.flatten(0, -2)
        unknown = torch.isnan(x)
        embedded = self.embed(x.masked_fill(unknown, 0.0).T.unsqueeze(-1))  # [feature, row, hidden]
        told = embedded.masked_fill(unknown.T.unsqueeze(-1), 0.0).transpose(0, 1).flatten(1)
        weights = weights_of(self.choose(self.shortcut(told), self.outer(functional.elu(self.inner(told)))), unknown)
        out = torch.einsum("rf,frh->rh", weights, self.each(embedded)) + self.unknown(unknown.to(x.dtype))
        return out.view(*shape, -1), weights.view(*shape, -1)

    def feature_layout(self) -> FeatureLayout:
        """As `HingeSelection.feature_layout`; by the feature that is read, where one weighs on another's choice."""
        hidden, features = self.unknown.weight.shape
        banks = {
            name: (tuple(parameter.shape), 0)
            for name, parameter in self.named_parameters()
            if name.startswith(("embed.", "each."))
        }
        return banks | {
            "shortcut.weight": ((features, features, hidden), 1),
            "inner.weight": ((hidden, features, hidden), 1),
            "unknown.weight": ((hidden, features), 1),
            "choose.gate.weight": ((2, features, hidden), 1),
        }


class NoSelection(nn.Module):
    """All features alike, by one matrix: what choosing among them is held against.

    Unknown features and shapes as in `HingeSelection`; the weights are equal.
    """

    def __init__(self, features: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Linear(features, hidden)
        self.unknown = nn.Linear(features, hidden, bias=False)
        self.refine = GatedResidual(hidden, dropout)
        nn.init.zeros_(self.unknown.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        unknown = torch.isnan(x)
        embedded = self.embed(x.masked_fill(unknown, 0.0)) + self.unknown(unknown.to(x.dtype))
        return self.refine(embedded), weights_of(torch.zeros_like(x), unknown)

    def feature_layout(self) -> FeatureLayout:
        """As `HingeSelection.feature_layout`."""
        hidden, features = self.unknown.weight.shape
        return dict.fromkeys(("embed.weight", "unknown.weight"), ((hidden, features), 1))


SELECTIONS = {"hinge": HingeSelection, "paper": PaperSelection, "none": NoSelection}


def weights_of(logits: Tensor, unknown: Tensor) -> Tensor:
    """Softmax over the known features; 0 for those `unknown`, all where nothing is known. [..., feature]"""
    return torch.softmax(logits.masked_fill(unknown, -1e4), dim=-1).masked_fill(unknown, 0.0)
