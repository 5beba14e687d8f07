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
        query = self.query(asks).view(last, stocks * self.heads, self.size).transpose(0, 1)
        key = self.key(states).view(-1, stocks * self.heads, self.size).permute(1, 2, 0)
        # All days of the block by all that ask, of which the windows are a band: up to twice the products, but no
        # window, nor the gradient of one, is ever laid out, which took five times as long.
        asked = windows_of(torch.bmm(query, key), self.lookback).view(stocks, self.heads, last, self.lookback)
        logits = asked.permute(2, 0, 1, 3).contiguous() / self.size**0.5 + self.lag_bias
        weights = functional.dropout(torch.softmax(logits, dim=-1), self.attention_dropout, self.training).mean(dim=2)
        read = torch.bmm(of_windows(weights.transpose(0, 1)), self.value(states).transpose(0, 1)).transpose(0, 1)
        return self.refine(self.after_attention(asks, self.out(read))), weights


def windows_of(pairs: Tensor, lookback: int) -> Tensor:
    """[..., last, last + lookback - 1] by day -> [..., last, lookback] by lag: row t keeps columns t, t + 1, ...

    Rows one longer than they are, laid end to end, begin one later each.
    """
    last = pairs.shape[-2]
    return functional.pad(pairs.flatten(-2), (0, last)).unflatten(-1, (last, -1))[..., :lookback]


def of_windows(weights: Tensor) -> Tensor:
    """[..., last, lookback] by lag -> [..., last, last + lookback - 1] by day, 0 outside the window."""
    last = weights.shape[-2]
    return functional.pad(weights, (0, last)).flatten(-2)[..., :-last].unflatten(-1, (last, -1))
