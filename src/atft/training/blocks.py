"""Days of a panel as tensors: blocks of consecutive days that share one pass of the encoder."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import block_start
from atft.panel.store import Panel

RESIDENT_SHARE = 0.5  # of a GPU's free memory that the features may take to be kept there


@dataclass(frozen=True)
class Block:
    """D wanted days of N stocks, with the S >= D + lookback - 1 days their windows need.

    Attributes:
        days: The wanted days, consecutive.
        x: [S, N, F] rows, oldest first; NaN where unknown. May be a view of the file: read-only.
        edge_index, edge_attr: Edges among tradable stocks and their groups. Nodes: D x N stocks, then
            group x D virtual ones.
        label, forward_return: [D, N, H], NaN masked.
    """

    days: Sequence[int]
    x: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    label: Tensor
    forward_return: Tensor

    def to(self, device: torch.device) -> "Block":
        """The block on `device`; from pinned memory without waiting."""
        tensors = {f.name: getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)[1:]}
        return Block(self.days, **tensors)


class Source:
    """Blocks of a panel and its graph on a device.

    A GPU that can keeps all features; else they come from the file's map by way of pinned memory, while the device
    works on the block before.
    """

    def __init__(self, panel: Panel, snapshots: Snapshots, lookback: int, device: torch.device) -> None:
        self.panel, self.snapshots, self.lookback, self.device = panel, snapshots, lookback, device
        on_gpu = device.type == "cuda"
        fits = on_gpu and panel.features.nbytes < RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]
        self._resident = panel.window(0, len(panel.dates)).to(device) if fits else None
        self._pinned = on_gpu and not fits

    def rows(self, start: int, end: int) -> Tensor:
        """Feature rows of days start .. end - 1, [day, stock, feature]; NaN outside the panel.

        Inside it a view, which must not be written to.
        """
        return self._rows(start, end).to(self.device)

    def edges(self, day: int) -> tuple[Tensor, Tensor]:
        """Edges known before `day` among the stocks tradable on it and their groups."""
        index, attr = self.snapshots.among(day, self.panel.tradable[day])
        return torch.from_numpy(index).to(self.device), torch.from_numpy(attr).to(self.device)

    def block(self, days: Sequence[int]) -> Block:
        """The block of `days`, which share one anchor (see `consecutive`)."""
        return self._block(days).to(self.device)

    def blocks(self, runs: Iterable[Sequence[int]]) -> Iterator[Block]:
        """The block of each run in turn; the next one is fetched meanwhile."""
        with ThreadPoolExecutor(1) as fetch:
            waiting = None
            for run in runs:
                coming = fetch.submit(self._block, run)
                if waiting is not None:
                    yield waiting.result().to(self.device)
                waiting = coming
            if waiting is not None:
                yield waiting.result().to(self.device)

    def _block(self, days: Sequence[int]) -> Block:
        """The block where it is cheapest to prepare: features on the GPU if they live there, the others pinned."""
        panel, stocks = self.panel, len(self.panel.codes)
        edges = [self.snapshots.among(day, panel.tradable[day]) for day in days]
        # Virtual node v of day i follows all stocks, at D N + v D + i: the model reads the day off the number.
        index = np.concatenate(
            [np.where(index < stocks, i * stocks + index, len(days) * index + i) for i, (index, _) in enumerate(edges)],
            axis=1,
        )
        wanted = slice(days[0], days[-1] + 1)
        x = self._rows(block_start(days[0], self.lookback), days[-1] + 1)
        return Block(
            days=days,
            x=x.pin_memory() if self._pinned else x,
            edge_index=torch.from_numpy(index),
            edge_attr=torch.from_numpy(np.concatenate([attr for _, attr in edges])),
            label=_copy(panel.label[wanted]),
            forward_return=_copy(panel.forward_return[wanted]),
        )

    def _rows(self, start: int, end: int) -> Tensor:
        days = len(self.panel.dates)
        first, last = max(start, 0), min(end, days)
        inside = self.panel.window(first, last) if self._resident is None else self._resident[first:last]
        if start >= 0 and end <= days:
            return inside
        out = inside.new_full((end - start, *inside.shape[1:]), torch.nan)
        out[first - start : last - start] = inside
        return out


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


def _copy(values: NDArray) -> Tensor:
    return torch.from_numpy(values.copy())
