"""Ranks with a gradient, in memory that grows with the number of stocks and not with its square."""

from typing import Any

import torch
from torch import Tensor

PAIRS = 2**20  # pairs looked at together: 4 MiB of float32 stay in the cache


def soft_ranks(values: Tensor, mask: Tensor, temperature: float) -> Tensor:
    r"""Smooth rank of each value among the masked-in ones of its row, from 1/2 to n - 1/2. [..., N]

    r_i = \sum_j m_j sigmoid((x_i - x_j) / temperature), the value itself included, which adds 1/2. As the
    temperature goes to 0 this is the true rank less 1/2. Pairs are formed again in the backward
    pass, a few rows at a time, so that only `values` and `mask` are kept.

    Source: Qin, Liu & Li, A general approximation framework for direct optimization of information
    retrieval measures, 2010.
    """
    shape = values.shape
    flat = _SoftRanks.apply(values.reshape(-1, shape[-1]), mask.reshape(-1, shape[-1]), temperature)
    assert isinstance(flat, Tensor)
    return flat.view(shape)


class _SoftRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(values, mask)
        ctx.temperature = temperature
        weight = mask.to(values.dtype)[..., None]
        return torch.cat([(_pairs(values, rows, temperature) @ weight).squeeze(-1) for rows in _chunks(values)], dim=1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """The slope s of a pair is the same seen from either side: g_i sum_j s_ij m_j - m_i sum_j s_ij g_j."""
        (gradient,) = grad_outputs
        values, mask = ctx.saved_tensors
        weight = mask.to(values.dtype)
        both = torch.stack([weight, gradient], dim=-1)
        out = torch.empty_like(values)
        for rows in _chunks(values):
            pairs = _pairs(values, rows, ctx.temperature)
            by_weight, by_gradient = ((pairs - pairs.square()) @ both).unbind(-1)
            out[:, rows] = (gradient[:, rows] * by_weight - weight[:, rows] * by_gradient) / ctx.temperature
        return out, None, None


def _pairs(values: Tensor, rows: slice, temperature: float) -> Tensor:
    """sigmoid((x_i - x_j) / temperature) for the i of `rows`. [row, i, N]"""
    return torch.sigmoid((values[:, rows, None] - values[:, None, :]) / temperature)


def _chunks(values: Tensor) -> list[slice]:
    """Slices of the stocks of which each forms about `PAIRS` pairs."""
    rows, count = values.shape
    size = max(PAIRS // max(rows * count, 1), 1)
    return [slice(start, start + size) for start in range(0, count, size)]
