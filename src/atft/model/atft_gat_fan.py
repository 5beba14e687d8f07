"""ATFT-GAT-FAN: selection, temporal encoder beside FAN, graph attention, a score per horizon, quantiles beside it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from atft.model.attention import GraphAttention, split_days
from atft.model.fan import FrequencyAdaptiveNorm
from atft.model.gating import GatedSkip
from atft.model.heads import Forecast, QuantileHeads
from atft.model.selection import SELECTIONS
from atft.model.temporal import TemporalEncoder


class Encoder(nn.Module):
    """Everything but the heads: what pretraining fits and training starts from.

    Rows are embedded once per block of consecutive days, not once per window: `x` holds the days
    before the wanted ones that their windows need, `last` says how many newest days are wanted.

    Args:
        features: Columns of x.
        fan_channels: Columns of x that FAN sums to levels.
        edge_features: Columns of the edge attributes, the last of which is the weight of the link.
        selection: "hinge", "paper" or "none".
        attention_scores: "free" or "normalized".
        graph: "off" (stocks do not see each other) or "on"; "plain" and "shuffled" are the caller's to arrange.
        normalization: "fan" or "none".
        precision: "fp32", or "bf16" for the products of selection and temporal encoder; weights, softmax over
            neighbours, heads and all that is handed on stay in single precision.
        (others): see `params.yaml`, section model.

    Attributes:
        micro_batch: Stocks that pass `stocks` at a time, and as many stock-days of whole days the graph, to bound
            memory: with gradients each part is computed again on the way back. 0 = all at once. May be set at any
            time; no parameter depends on it.
    """

    def __init__(
        self,
        features: int,
        fan_channels: Sequence[int],
        edge_features: int,
        lookback: int,
        hidden: int,
        heads: int,
        selection: str,
        graph: str,
        graph_layers: int,
        normalization: str,
        fan_components: int,
        dropout: float,
        attention_dropout: float,
        attention_scores: str,
        stochastic_depth: float,
        precision: str,
    ) -> None:
        super().__init__()
        self.bf16, self.micro_batch = precision == "bf16", 0
        self.lookback, self.depth_drop, self.fan_channels = lookback, stochastic_depth, list(fan_channels)
        self.selection = SELECTIONS[selection](features, hidden, dropout)
        self.temporal = TemporalEncoder(hidden, heads, lookback, dropout, attention_dropout)
        self.fan = (
            FrequencyAdaptiveNorm(len(self.fan_channels), lookback, fan_components, hidden, dropout)
            if normalization == "fan"
            else None
        )
        self.fuse = GatedSkip(hidden, dropout) if self.fan else None
        self.graph = (
            GraphAttention(hidden, heads, edge_features, graph_layers, dropout, attention_dropout, attention_scores)
            if graph != "off"
            else None
        )

    def stocks(self, x: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """x [day, stock, feature], day >= last + lookback - 1 -> [last, stock, hidden], each stock for itself.

        Beside it the attention's weights of the days, [last, stock, lag].
        """
        return self._in_parts(self._stocks, x, last)

    def remembered(self, x: Tensor, last: int) -> tuple[Tensor, Tensor]:
        """As `stocks`, without FAN: what is common work of many days."""
        return self._in_parts(self._remembered, x, last)

    def with_cycles(self, state: Tensor, x: Tensor) -> Tensor:
        """FAN's part added to what is `remembered`, [last, stock, hidden]; `x` as there."""
        if self.fan is None or self.fuse is None:
            return state
        return self.fuse(state, self.fan(x[..., self.fan_channels], len(state)))

    def together(self, state: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """[day, stock, hidden] -> the same, informed by neighbours; nodes as in `GraphAttention`."""
        if self.graph is None:
            return state
        days, stocks = state.shape[:2]
        at_once = max(self.micro_batch * days // stocks, 1)
        if not 0 < self.micro_batch < stocks or at_once >= days:
            return self.graph(state, edge_index, edge_attr, self.depth_drop)
        parts = split_days(edge_index, edge_attr, days, stocks, at_once)
        return torch.cat(
            [
                checkpoint(self.graph, part, *edges, self.depth_drop, use_reentrant=False)
                for part, edges in zip(state.split(at_once), parts, strict=True)
            ]
        )

    def _stocks(self, x: Tensor, last: int) -> tuple[Tensor, Tensor]:
        state, lags = self._remembered(x, last)
        return self.with_cycles(state, x), lags

    def _remembered(self, x: Tensor, last: int) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            state, lags = self.temporal(self.selection(x)[0], last)
        return state.float(), lags.float()

    def _in_parts(
        self, run: Callable[[Tensor, int], tuple[Tensor, Tensor]], x: Tensor, last: int
    ) -> tuple[Tensor, Tensor]:
        if not 0 < self.micro_batch < x.shape[1]:
            return run(x, last)
        parts = [checkpoint(run, part, last, use_reentrant=False) for part in x.split(self.micro_batch, 1)]
        return torch.cat([state for state, _ in parts], 1), torch.cat([lags for _, lags in parts], 1)

    def forward(self, x: Tensor, last: int, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return self.together(self.stocks(x, last)[0], edge_index, edge_attr)


class AtftGatFan(nn.Module):
    """The encoder and its heads: a score per horizon, and `levels` quantiles of the label beside it.

    The score's head is linear without bias: a constant orders nothing.
    """

    def __init__(self, encoder: Encoder, hidden: int, horizons: int, levels: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.Linear(hidden, horizons, bias=False)
        self.quantiles = QuantileHeads(hidden, horizons, levels) if levels else None

    def judge(self, state: Tensor) -> Forecast:
        """[day, stock, hidden] -> the forecast of each stock's label."""
        return Forecast(self.heads(state), None if self.quantiles is None else self.quantiles(state))

    def forward(self, x: Tensor, last: int, edge_index: Tensor, edge_attr: Tensor) -> Forecast:
        """-> the forecast of the `last` newest days"""
        return self.judge(self.encoder(x, last, edge_index, edge_attr))


def block_start(day: int, lookback: int) -> int:
    """First day whose row enters the score of `day`: the last calendar anchor at or before t - L + 1.

    Anchors stand every `lookback` days, so a day's history is lookback to 2 lookback - 1 days,
    fixed by the date and never by the days that share its batch.
    """
    return (day - lookback + 1) // lookback * lookback


def parameter_count(module: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in module.parameters())
