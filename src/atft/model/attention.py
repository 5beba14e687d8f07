"""Graph attention with edge features and a learnable temperature."""

import math
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATv2Conv
from torch_geometric.utils import softmax

from atft.model.gating import GatedSkip


class TemperedGATv2(GATv2Conv):
    r"""GATv2 whose softmax is divided by a learnt temperature per head, between 0.5 and 2.

    alpha_ij = softmax_j(a . LeakyReLU(W_l x_j + W_r x_i + W_e e_ij) / tau), tau = exp(ln 2 tanh rho).

    Source: Brody et al., How Attentive are Graph Attention Networks?, 2022.
    """

    def __init__(self, hidden: int, heads: int, edge_features: int, dropout: float) -> None:
        super().__init__(
            hidden, hidden // heads, heads=heads, edge_dim=edge_features, dropout=dropout, add_self_loops=False
        )
        self.rho = nn.Parameter(torch.zeros(heads))

    def temperature(self) -> Tensor:
        """[head] in (0.5, 2); 1 at the start."""
        return torch.exp(math.log(2.0) * torch.tanh(self.rho))

    # torch-geometric reads this signature at run time and knows `Optional`, not `X | None`.
    def edge_update(
        self,
        x_j: Tensor,
        x_i: Tensor,
        edge_attr: Optional[Tensor],
        index: Tensor,
        ptr: Optional[Tensor],
        dim_size: Optional[int],
    ) -> Tensor:
        assert edge_attr is not None
        assert self.lin_edge is not None
        mixed = x_i + x_j + self.lin_edge(edge_attr).view(-1, self.heads, self.out_channels)
        logits = (functional.leaky_relu(mixed, self.negative_slope) * self.att).sum(dim=-1)
        alpha = softmax(logits / self.temperature(), index, ptr, dim_size)
        return functional.dropout(alpha, p=self.dropout, training=self.training)


class GraphAttention(nn.Module):
    """Residual graph attention layers, each behind a gate; layer l of L is skipped for a day with chance l/L p.

    Every stock also listens to itself, through a self-loop marked as such among the edge features.

    Shapes: nodes [day, stock, hidden]; `edge_index` [2, edge] numbers nodes day x stock;
    `edge_attr` [edge, feature]. Output like the nodes.

    Source: Huang et al., Deep Networks with Stochastic Depth, 2016. One draw a day, not a stock:
    dropping single stocks would tear the cross-section.
    """

    def __init__(self, hidden: int, heads: int, edge_features: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TemperedGATv2(hidden, heads, edge_features + 1, dropout) for _ in range(layers))
        self.skips = nn.ModuleList(GatedSkip(hidden, dropout) for _ in range(layers))

    def forward(self, nodes: Tensor, edge_index: Tensor, edge_attr: Tensor, depth_drop: float) -> Tensor:
        days, stocks, hidden = nodes.shape
        own = torch.arange(days * stocks, device=nodes.device)
        loops = torch.zeros(len(own), edge_attr.shape[1] + 1, device=nodes.device)
        loops[:, -1] = 1.0
        edge_index = torch.cat([edge_index, own.expand(2, -1)], dim=1)
        edge_attr = torch.cat([functional.pad(edge_attr, (0, 1)), loops])
        for depth, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True), start=1):
            message = layer(nodes.view(-1, hidden), edge_index, edge_attr).view(days, stocks, hidden)
            nodes = skip(nodes, message, self._keep(days, depth_drop * depth / len(self.layers), nodes))
        return nodes

    def _keep(self, days: int, drop: float, like: Tensor) -> Tensor | float:
        if not self.training or drop == 0:
            return 1.0
        return like.new_empty(days, 1, 1).bernoulli_(1 - drop) / (1 - drop)
