"""Masked cross-section: predict a hidden stock's return from its own past and its neighbours."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from atft.model.atft_gat_fan import Encoder
from atft.training.blocks import Block, Source
from atft.training.pretext.targets import Target, residual_target
from atft.training.processes import gathered

ZERO, SECTOR, NEIGHBOR = "zero", "sector", "neighbor"


class Masked:
    """The part of predicting the residual returns of hidden stocks.

    A hidden stock's row of the day is unknown. Features relative to the sector or industry are unknown
    for all: a visible mate's return less the sector's mean would tell the hidden one's. Market-wide
    columns stay, in which a stock is one of hundreds. Edges are a day old at least.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, source: Source, target: Target, mask_share: float) -> None:
        self.modules: list[nn.Module] = [encoder, head]
        self._encoder, self._head, self._source = encoder, head, source
        self._target: Target = target
        self._mask_share = mask_share
        names = enumerate(source.panel.feature_names)
        self._relative = [i for i, name in names if name.endswith(("_in_sector", "_in_industry"))]
        self._seen: list[list[float]] = []

    def loss(self, block: Block) -> Tensor:
        """Mean squared error over the hidden stocks of the block."""
        guess, target, hidden = self._guess(block)
        count = hidden.sum().clamp(min=1)
        loss = ((guess - target.nan_to_num()).square() * hidden).sum() / count
        simple = guesses(block, target, hidden, torch.from_numpy(self._source.panel.sector[block.days]))
        y = target.nan_to_num()
        sums = [y.square(), *(part for x in simple.values() for part in ((y - x).square(), x * y, x * x))]
        with torch.no_grad():
            found = [loss, *((part * hidden).sum() / count for part in sums)]
            self._seen.append(torch.stack(found).tolist())
        return loss

    def blame(self, block: Block) -> str | None:
        guess, target, hidden = self._guess(block)
        bad = ~torch.isfinite((guess - target.nan_to_num()).square() * hidden).all(1)
        return (
            f"the prediction of {self._source.panel.dates[block.days[int(bad.int().argmax())]]}" if bad.any() else None
        )

    def epoch_facts(self) -> dict[str, float]:
        """Means over blocks, of all processes: `masked_loss` beside what simple guesses lose; then forgets.

        - zero_loss: of the guess 0.
        - sector_loss, neighbor_loss: of the mean target of the visible stocks of the sector, and of the visible
          neighbours; 0 where there is none.
        - sector_scaled_loss, neighbor_scaled_loss: the same means times the factor >= 0 that suits the epoch best,
          found with hindsight: less than this the encoder must lose to have found more than co-movement.
        """
        rows = [row for part in gathered(self._seen) for row in part]
        loss, zero, *others = np.mean(rows, axis=0).tolist()
        self._seen = []
        facts = {"masked_loss": loss, f"{ZERO}_loss": zero}
        for name, (plain, xy, xx) in zip((SECTOR, NEIGHBOR), (others[:3], others[3:]), strict=True):
            scaled = zero - max(xy, 0.0) ** 2 / xx if xx > 0 else zero
            facts |= {f"{name}_loss": plain, f"{name}_scaled_loss": scaled}
        return facts

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen = state["seen"]

    def _guess(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """What is guessed, the target, and who is hidden, [day, stock] each."""
        days, device, panel = block.days, self._source.device, self._source.panel
        target = torch.from_numpy(np.stack([residual_target(panel, day, self._target) for day in days])).to(device)
        hidden = (torch.rand(target.shape, device=device) < self._mask_share) & torch.isfinite(target)
        x = block.x.clone()
        x[..., self._relative] = torch.nan
        x[-len(days) :][hidden] = torch.nan
        guess = self._head(self._encoder(x, len(days), block.edge_index, block.edge_attr)).squeeze(-1)
        return guess, target, hidden


def guesses(block: Block, target: Tensor, hidden: Tensor, sector: Tensor) -> dict[str, Tensor]:
    """Mean target of each stock's visible sector mates, and of its visible neighbours; 0 where none. [day, stock]"""
    visible = (torch.isfinite(target) & ~hidden).flatten()
    y = target.nan_to_num().flatten() * visible
    days, stocks = target.shape
    sector = sector.long().to(target.device)
    group = (sector + (int(sector.max()) + 1) * torch.arange(days, device=target.device)[:, None]).flatten()
    source, into = block.edge_index
    pair = (source < days * stocks) & (into < days * stocks) & (source != into)
    source, into = source[pair], into[pair]
    mates = _means(y[visible], group[visible], int(group.max()) + 1)[group] * (sector.flatten() > 0)
    heard = visible[source]
    near = _means(y[source][heard], into[heard], days * stocks)
    return {SECTOR: mates.view(days, stocks), NEIGHBOR: near.view(days, stocks)}


def _means(values: Tensor, group: Tensor, groups: int) -> Tensor:
    total = values.new_zeros(groups).index_add(0, group, values)
    count = values.new_zeros(groups).index_add(0, group, torch.ones_like(values))
    return total / count.clamp(min=1)
