"""Gates of the Temporal Fusion Transformer (Lim et al. 2021, section 4.1)."""

from torch import Tensor, nn
from torch.nn import functional


class GatedSkip(nn.Module):
    """LayerNorm(skip + GLU(dropout(branch))): the branch can be switched off, feature by feature."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.gate = nn.Linear(hidden, 2 * hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, skip: Tensor, branch: Tensor, keep: Tensor | float = 1.0) -> Tensor:
        """`skip`, `branch` [..., hidden] -> [..., hidden]; `keep` scales the branch (stochastic depth)."""
        return self.norm(skip + keep * functional.glu(self.gate(self.dropout(branch)), dim=-1))


class GatedResidual(nn.Module):
    """Gated residual network: a = GLU(W1 ELU(W2 x)), out = LayerNorm(x + a)."""

    def __init__(self, hidden: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden, hidden)
        self.outer = nn.Linear(hidden, hidden)
        self.skip = GatedSkip(hidden, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]"""
        return self.skip(x, self.outer(functional.elu(self.inner(x))))
