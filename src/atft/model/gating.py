"""Gates of the Temporal Fusion Transformer (Lim et al. 2021, section 4.1), one or a bank of them."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class BankLinear(nn.Module):
    """A linear map for each of several features, side by side: [feature, row, inputs] -> [feature, row, outputs]."""

    def __init__(self, features: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(features, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(features, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias[:, None], x, self.weight)


class BankNorm(nn.LayerNorm):
    """LayerNorm over hidden, with scale and shift of its own for each feature: [feature, row, hidden] -> the same."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__([features, hidden])

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return functional.layer_norm(input, input.shape[-1:], eps=self.eps) * self.weight[:, None] + self.bias[:, None]


class GatedSkip(nn.Module):
    """LayerNorm(skip + GLU(dropout(branch))): the branch can be switched off, feature by feature.

    Args:
        hidden: Width of the branch.
        dropout: Of the branch.
        outputs: Width of skip and output; None = hidden.
        bank: Number of gates side by side, in a first dimension of all shapes; None = a single one, without it.
    """

    def __init__(self, hidden: int, dropout: float, outputs: int | None = None, bank: int | None = None) -> None:
        super().__init__()
        outputs = hidden if outputs is None else outputs
        self.dropout = nn.Dropout(dropout)
        self.gate = linear(hidden, 2 * outputs, bank)
        self.norm = nn.LayerNorm(outputs) if bank is None else BankNorm(bank, outputs)

    def gated(self, branch: Tensor) -> Tensor:
        """What is added to the skip. [..., outputs]"""
        return functional.glu(self.gate(self.dropout(branch)), dim=-1)

    def forward(self, skip: Tensor, branch: Tensor) -> Tensor:
        """`skip` [..., outputs], `branch` [..., hidden] -> [..., outputs]"""
        return self.norm(skip + self.gated(branch))


class GatedResidual(nn.Module):
    """Gated residual network: a = GLU(W1 ELU(W2 x)), out = LayerNorm(x + a); `bank` as in `GatedSkip`."""

    def __init__(self, hidden: int, dropout: float, bank: int | None = None) -> None:
        super().__init__()
        self.inner = linear(hidden, hidden, bank)
        self.outer = linear(hidden, hidden, bank)
        self.skip = GatedSkip(hidden, dropout, bank=bank)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]"""
        return self.skip(x, self.outer(functional.elu(self.inner(x))))


def linear(inputs: int, outputs: int, bank: int | None) -> nn.Module:
    """One linear map, or a bank of them."""
    return nn.Linear(inputs, outputs) if bank is None else BankLinear(bank, inputs, outputs)
