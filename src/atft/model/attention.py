"""Graph attention with edge features, weighted links, virtual nodes and a learnable temperature."""

import math
from collections.abc import Iterator
from typing import NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import GATv2Conv
from torch_geometric.utils import scatter, softmax

from atft.model.gating import GatedSkip


class TemperedGATv2(GATv2Conv):
    r"""GATv2 whose softmax is divided by a learnt temperature per head, between 0.5 and 2.

    alpha_ij = softmax_j(a . LeakyReLU(W_l x_j + W_r x_i + W_e e_ij) / tau + ln w_ij), tau = exp(ln 2 tanh rho).

    The last column of the edge attributes is w > 0: twice the weight, twice the odds to be listened
    to, whatever the network has learnt. The other columns are the features e.

    A temperature bounds nothing as long as `a` may grow. With `scores` "normalized" (else "free") the logit is
    sqrt(C) cos(a, LeakyReLU(...)) / tau, C = hidden / heads: no link has more than exp(2 sqrt(C) / tau) times the
    odds of another of its weight.

    Source: Brody et al., How Attentive are Graph Attention Networks?, 2022.
    """

    def __init__(self, hidden: int, heads: int, edge_features: int, dropout: float, scores: str) -> None:
        super().__init__(
            hidden, hidden // heads, heads=heads, edge_dim=edge_features - 1, dropout=dropout, add_self_loops=False
        )
        self.normalized = scores == "normalized"
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
        # lin_edge, its weight laid out the other way: then torch takes the weight's gradient as attr^T g, which for so
        # few columns is 12 times as fast on a CPU as the g^T attr that it takes for a linear layer.
        told = edge_attr[:, :-1] @ self.lin_edge.weight.T.contiguous()
        mixed = x_i + x_j + told.view(-1, self.heads, self.out_channels)
        heard, att = functional.leaky_relu(mixed, self.negative_slope), self.att
        if self.normalized:
            heard, att = (
                functional.normalize(heard, dim=-1, eps=1e-3),
                self.out_channels**0.5 * functional.normalize(att, dim=-1),
            )
        logits = (heard * att).sum(dim=-1)
        alpha = softmax(logits / self.temperature() + edge_attr[:, -1:].log(), index, ptr, dim_size)
        return functional.dropout(alpha, p=self.dropout, training=self.training)


class Listening(NamedTuple):
    """What the nodes heard in one layer.

    Attributes:
        before: [node, hidden] states they came with.
        alpha: [edge, head] attention weights, which sum to 1 over the links of a node where none is dropped.
        added: [node, hidden] what passed the gate.
        after: [node, hidden] states they leave with.
    """

    before: Tensor
    alpha: Tensor
    added: Tensor
    after: Tensor


class GraphAttention(nn.Module):
    """Residual graph attention layers, each behind a gate; layer l of L is skipped for a day with chance l/L p.

    Nodes beyond the stocks are virtual: industries and sectors, whose links carry what a clique
    would. They start as the mean state of their stocks and take part in every layer.

    Shapes: stocks [day, stock, hidden], and so the output. `edge_index` [2, edge] numbers D days x N
    stocks first, then virtual nodes, node v of day d at D N + v D + d; members have lower numbers than
    their groups. `edge_attr` [edge, feature], the last column the link's weight. A node without links
    hears nothing, so a stock that shall hear itself needs a self-loop.

    Source: Huang et al., Deep Networks with Stochastic Depth, 2016. One draw a day, not a stock:
    dropping single stocks would tear the cross-section.
    """

    def __init__(
        self,
        hidden: int,
        heads: int,
        edge_features: int,
        layers: int,
        dropout: float,
        attention_dropout: float,
        attention_scores: str,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            TemperedGATv2(hidden, heads, edge_features, attention_dropout, attention_scores) for _ in range(layers)
        )
        self.skips = nn.ModuleList(GatedSkip(hidden, dropout) for _ in range(layers))

    def forward(self, stocks: Tensor, edge_index: Tensor, edge_attr: Tensor, depth_drop: float) -> Tensor:
        days, count, hidden = stocks.shape
        nodes = stocks.flatten(0, 1)
        for heard in self.listen(stocks, edge_index, edge_attr, depth_drop):
            nodes = heard.after
        return nodes[: days * count].view(days, count, hidden)

    def listen(self, stocks: Tensor, edge_index: Tensor, edge_attr: Tensor, depth_drop: float) -> Iterator[Listening]:
        """The forward pass a layer at a time, for those who want to look on."""
        days, count, hidden = stocks.shape
        nodes = with_groups(stocks.reshape(-1, hidden), edge_index, days)
        day = torch.arange(days, device=nodes.device)
        day = torch.cat([day.repeat_interleave(count), day.repeat(len(nodes) // days - count)])
        for depth, (layer, skip) in enumerate(zip(self.layers, self.skips, strict=True), start=1):
            keep = self._keep(day, depth_drop * depth / len(self.layers), nodes)
            message, (_, alpha) = layer(nodes, edge_index, edge_attr, return_attention_weights=True)
            assert isinstance(skip, GatedSkip)
            before, added = nodes, keep * skip.gated(message)
            nodes = skip.norm(before + added)
            yield Listening(before, alpha, added, nodes)

    def _keep(self, day: Tensor, drop: float, like: Tensor) -> Tensor | float:
        if not self.training or drop == 0:
            return 1.0
        return (like.new_empty(int(day[-1]) + 1, 1).bernoulli_(1 - drop) / (1 - drop))[day]


def with_groups(stocks: Tensor, edge_index: Tensor, days: int) -> Tensor:
    """[node, hidden] the stocks, and below them each virtual node as the mean of the stocks below it.

    The highest number among the edges tells how many there are; one without members is 0.
    """
    first = len(stocks)
    beyond = int(edge_index.max()) + 1 - first if edge_index.numel() else 0
    if beyond <= 0:
        return stocks
    total = first + -(-beyond // days) * days
    source, target = edge_index
    upward = (source < target) & (target >= first)
    # The last column counts stocks: industries add up their stocks, then sectors their industries and stocks.
    sums = functional.pad(functional.pad(stocks, (0, 1), value=1.0), (0, 0, 0, total - first))
    for level in (upward & (source < first), upward & (source >= first)):
        sums = sums + scatter(sums[source[level]], target[level], dim=0, dim_size=total, reduce="sum")
    return torch.cat([stocks, sums[first:, :-1] / sums[first:, -1:].clamp(min=1)])


def split_days(
    edge_index: Tensor, edge_attr: Tensor, days: int, stocks: int, at_once: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Edges of each `at_once` days in turn, their nodes numbered as `GraphAttention` wants it of so many days."""
    first = days * stocks
    beyond = edge_index - first
    day = torch.where(beyond < 0, edge_index // stocks, beyond % days)
    for start in range(0, days, at_once):
        count = min(at_once, days - start)
        here = (day[1] >= start) & (day[1] < start + count)
        index, own_day = edge_index[:, here], day[:, here] - start
        virtual = count * stocks + (index - first) // days * count + own_day
        yield torch.where(index < first, index - start * stocks, virtual), edge_attr[here]
