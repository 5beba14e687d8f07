"""Days of a panel as tensors: blocks of consecutive days that share one pass of the encoder."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import block_start
from atft.panel.store import Panel


@dataclass(frozen=True)
class Block:
    """D wanted days of N stocks, with the S >= D + lookback - 1 days their windows need.

    Attributes:
        days: The wanted days, consecutive.
        x: [S, N, F] rows, oldest first; NaN where unknown. May be a view of the file: read-only.
        edge_index, edge_attr: Edges among tradable stocks and their groups. Nodes: D x N stocks, then
            group x D virtual ones.
        tradable: [D, N].
        label, forward_return: [D, N, H], NaN masked.
    """

    days: Sequence[int]
    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    tradable: Tensor
    label: Tensor
    forward_return: Tensor


def load_block(panel: Panel, snapshots: Snapshots, days: Sequence[int], lookback: int, device: torch.device) -> Block:
    """The block of `days`, which share one anchor (see `consecutive`)."""
    edges = [day_edges(panel, snapshots, day) for day in days]
    stocks = len(panel.codes)
    # Virtual node v of day i follows all stocks, at D N + v D + i: the model reads the day off the number.
    index = np.concatenate(
        [np.where(index < stocks, i * stocks + index, len(days) * index + i) for i, (index, _) in enumerate(edges)],
        axis=1,
    )
    wanted = slice(days[0], days[-1] + 1)
    return Block(
        days=days,
        x=rows(panel, block_start(days[0], lookback), days[-1] + 1).to(device),
        edge_index=torch.from_numpy(index).to(device),
        edge_attr=torch.from_numpy(np.concatenate([attr for _, attr in edges])).to(device),
        tradable=torch.from_numpy(panel.tradable[wanted].copy()).to(device),
        label=torch.from_numpy(panel.label[wanted].copy()).to(device),
        forward_return=torch.from_numpy(panel.forward_return[wanted].copy()).to(device),
    )


def rows(panel: Panel, start: int, end: int) -> Tensor:
    """Feature rows of days start .. end - 1, [day, stock, feature]; NaN outside the panel.

    Inside it a view of the file, which must not be written to.
    """
    if start >= 0 and end <= len(panel.dates):
        return panel.window(start, end)
    inside = panel.window(max(start, 0), min(end, len(panel.dates)))
    out = torch.full((end - start, *inside.shape[1:]), torch.nan)
    first = max(-start, 0)
    out[first : first + len(inside)] = inside
    return out


def day_edges(panel: Panel, snapshots: Snapshots, day: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Edges known before `day` among the stocks tradable on it and their groups."""
    return snapshots.among(day, panel.tradable[day])


def consecutive(days: Sequence[int], lookback: int, per_step: int) -> list[list[int]]:
    """`days` cut into runs of at most `per_step` consecutive days that share one anchor."""
    out: list[list[int]] = []
    for day in days:
        run = out[-1] if out else []
        follows = bool(run) and day == run[-1] + 1 and len(run) < per_step
        if follows and block_start(day, lookback) == block_start(run[0], lookback):
            run.append(day)
        else:
            out.append([day])
    return out
