"""Temporal encoder: a recurrent pass, then attention in which the last day asks."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from atft.model.gating import GatedResidual, GatedSkip


class TemporalEncoder(nn.Module):
    r"""LSTM and interpretable multi-head attention over the last `lookback` days.

    The recurrent pass runs once over a block of consecutive days and serves all of them; day t
    attends to days t - lookback + 1 .. t. Only the last day asks: one vector a stock-day is
    needed. Values are shared by the heads, whose weights are averaged (interpretable attention);
    a learnt bias per head and lag tells near from far.

    Shapes: input [day, stock, hidden] of consecutive days, oldest first; output
    [last, stock, hidden] of the `last` newest of them, and weights [last, stock, lag], oldest first, which
    sum to 1 where none is dropped. `day >= last + lookback - 1`.

    Source: Lim et al. 2021, sections 4.3 to 4.5.
    """

    def __init__(self, hidden: int, heads: int, lookback: int, dropout: float, attention_dropout: float) -> None:
        super().__init__()
        self.lookback, self.heads, self.size = lookback, heads, hidden // heads
        self.attention_dropout = attention_dropout
        self.lstm = nn.LSTM(hidden, hidden)
        self.after_lstm = GatedSkip(hidden, dropout)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden, bias=False)  # a constant key shifts all lags alike
        self.value = nn.Linear(hidden, self.size)
        self.lag_bias = nn.Parameter(torch.zeros(heads, lookback))
        self.out = nn.Linear(self.size, hidden, bias=False)
        self.after_attention = GatedSkip(hidden, dropout)
        self.refine = GatedResidual(hidden, dropout)

    def forward(self, rows: Tensor, last: int) -> tuple[Tensor, Tensor]:
        states = self.after_lstm(rows, self.lstm(rows)[0])[-(last + self.lookback - 1) :]
        asks = states[-last:]
        stocks = rows.shape[1]
        query = self.query(asks).view(last, stocks, self.heads, self.size)
        # [last, stock, head, size, lag] and [last, stock, size, lag] are views: no window is copied.
        keys = self.key(states).view(-1, stocks, self.heads, self.size).unfold(0, self.lookback, 1)
        values = self.value(states).unfold(0, self.lookback, 1)
        logits = torch.einsum("tnhd,tnhdl->tnhl", query, keys) / self.size**0.5 + self.lag_bias
        weights = functional.dropout(torch.softmax(logits, dim=-1), self.attention_dropout, self.training).mean(dim=2)
        read = torch.einsum("tnl,tndl->tnd", weights, values)
        return self.refine(self.after_attention(asks, self.out(read))), weights
