"""Contrastive views: the same stock some days later, told from others without a day in common."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from atft.errors import InputError
from atft.model.atft_gat_fan import Encoder
from atft.training.blocks import Block, Source
from atft.training.processes import gathered

LOOKS = 4  # training days, evenly spread, on which an epoch is looked at
FLAT = 1e-3  # spread of a channel within a view below which it is a constant: ranks within a date have about 1


class Views(NamedTuple):
    """Two looks at each of n stocks, [lookback, n, feature] each, and whom to tell a stock from, [n, n].

    `others` has True for the stock itself.
    """

    later: Tensor
    earlier: Tensor
    others: Tensor


def views(source: Source, day: int, lag: int, channels: Sequence[int]) -> Views:
    """Views of `lag` - 1 days that end on `day`, and `lag` days before it.

    A channel looks at a day and the day before, so the later view begins with the change from day - lag + 1 to
    day - lag + 2: not even a close is in both. Only stocks take part that have a bar on each of the
    days and know every channel: after a gap a change reaches further back, and who lacks what would tell who it
    is. All 2 lag - 1 rows lie within what the encoder may see of `day`, if lag <= lookback.

    Negatives are of the same days and of another sector (of an unknown one: all): mates move together.
    """
    rows = source.rows(day - 2 * lag + 2, day + 1)[..., channels]
    bars = source.panel.has_bar[max(day - 2 * lag + 1, 0) : day + 1]
    whole = torch.from_numpy(bars.all(0) & (len(bars) == 2 * lag)).to(source.device)
    who = torch.nonzero(whole & torch.isfinite(rows).all(2).all(0)).flatten()
    sector = torch.from_numpy(source.panel.sector[day].astype(np.int64)).to(source.device)[who]
    others = (sector[:, None] != sector) | (sector == 0) | torch.eye(len(who), dtype=torch.bool, device=source.device)
    features = len(source.panel.feature_names)
    later, earlier = (view(part[:, who], channels, features, source.lookback) for part in (rows[lag:], rows[: lag - 1]))
    return Views(later, earlier, others)


def view(rows: Tensor, channels: Sequence[int], features: int, lookback: int) -> Tensor:
    """[day, stock, channel] as the newest rows of [lookback, stock, feature], all else unknown.

    Each channel less its mean over the view and at unit spread: its usual level and size belong to a stock as its
    name does, and would tell who it is.
    """
    off = rows - rows.mean(0)
    spread = off.square().mean(0).sqrt()
    out = rows.new_full((lookback, rows.shape[1], features), torch.nan)
    out[-len(rows) :, :, channels] = torch.where(spread > FLAT, off / spread.clamp(min=FLAT), 0.0)
    return out


class Contrastive:
    """The part of recognising a stock `lag` days later among others (InfoNCE, van den Oord et al. 2018).

    For each lag a day of the block is drawn, and every stock is asked both ways. The graph is left out: its edges
    are the same in both views and would tell who is who; so its weights stay as they are.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Module,
        source: Source,
        train: Sequence[int],
        lags: Sequence[int],
        channels: Sequence[str],
        temperature: float,
    ) -> None:
        names = source.panel.feature_names
        if missing := [name for name in channels if name not in names]:
            raise InputError(f"pretrain.channels: {missing[0]!r} is no feature of the panel; name changes of one day")
        self.modules: list[nn.Module] = [part for name, part in encoder.named_children() if name != "graph"] + [head]
        self._encoder, self._head, self._source = encoder, head, source
        self._lags, self._channels = lags, [names.index(name) for name in channels]
        self._temperature = temperature
        self._looks = [train[i] for i in np.unique(np.linspace(0, len(train) - 1, LOOKS).round().astype(int))]
        self._untrained = self._look()
        self._seen: list[list[float]] = []

    def loss(self, block: Block) -> Tensor:
        """InfoNCE, mean over the lags for which anybody can be asked."""
        asked = [self._info_nce(found) for found in self._drawn(block) if len(found.others) > 1]
        if not asked:
            return torch.stack([parameter.sum() for parameter in self._head.parameters()]).sum() * 0.0
        self._seen += [[loss.item(), guessing] for loss, guessing in asked]
        return torch.stack([loss for loss, _ in asked]).mean()

    def blame(self, block: Block) -> str | None:
        bad = [lag for lag, found in zip(self._lags, self._drawn(block), strict=True)
               if len(found.others) > 1 and not torch.isfinite(self._info_nce(found)[0])]  # fmt: skip
        return f"the contrast at a lag of {bad[0]} days" if bad else None

    def epoch_facts(self) -> dict[str, float]:
        """`contrastive_loss` beside `log_candidates`, log N, which guessing loses; then what `Look` tells."""
        rows = [row for part in gathered(self._seen) for row in part]
        if not rows:
            raise InputError(
                "pretrain.channels: no two stocks know all of them on all days of two views; name others, or set "
                "shorter pretrain.lags"
            )
        loss, guessing = np.mean(rows, axis=0).tolist()
        self._seen = []
        now = self._look()
        return {"contrastive_loss": loss, "log_candidates": guessing, **now} | {
            f"untrained_{name}": self._untrained[name] for name in ("retrieval", "effective_rank")
        }

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "untrained": self._untrained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._seen, self._untrained = state["seen"], state["untrained"]

    def _drawn(self, block: Block) -> list[Views]:
        days = [block.days[int(i)] for i in torch.randint(len(block.days), (len(self._lags),))]
        return [views(self._source, day, lag, self._channels) for day, lag in zip(days, self._lags, strict=True)]

    def _info_nce(self, found: Views) -> tuple[Tensor, float]:
        """(the loss, log N): both ways, N the stock and all it is told from."""
        later, earlier = (_unit(self._head(state)) for state in states(self._encoder, found))
        logits = (later @ earlier.T / self._temperature).masked_fill(~found.others, -torch.inf)
        itself = torch.arange(len(logits), device=logits.device)
        loss = functional.cross_entropy(logits, itself) + functional.cross_entropy(logits.T, itself)
        return loss / 2, found.others.sum(1).log().mean().item()

    def _look(self) -> dict[str, float]:
        """The encoder without dropout on a few training days; see `geometry`."""
        self._encoder.eval()
        self._head.eval()
        seen = [views(self._source, day, lag, self._channels) for day in self._looks for lag in self._lags]
        with torch.inference_mode():
            rows = [geometry(*states(self._encoder, found), found.others) for found in seen if len(found.others) > 1]
        if not rows:
            return {"retrieval": math.nan, "effective_rank": math.nan}
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def states(encoder: Encoder, found: Views) -> tuple[Tensor, Tensor]:
    """[stock, hidden] of the later and of the earlier views, each stock for itself."""
    later, earlier = encoder.stocks(torch.cat([found.later, found.earlier], 1), 1)[0][0].chunk(2)
    return later, earlier


def geometry(later: Tensor, earlier: Tensor, others: Tensor) -> dict[str, float]:
    """What states [stock, hidden] of two views tell, each view's mean taken off and scaled to length 1.

    - retrieval: share of stocks whose own earlier state is the nearest among `others`; `chance` is that of guessing.
    - effective_rank: of the later states, exp(entropy of their singular values as shares); 1 = collapsed.
    - alignment: mean squared distance of a stock's two states, 0 = the same, 2 = unrelated.
    - uniformity: log of the mean of exp(-2 d^2) over pairs of later states; lower = more evenly spread.

    Source: Wang & Isola 2020 for the last two; Roy & Vetterli 2007 for the rank.
    """
    centred = later.double() - later.double().mean(0)
    share = torch.linalg.svdvals(centred)
    share = share / share.sum().clamp(min=1e-12)
    one, two = _unit(centred), _unit(earlier.double() - earlier.double().mean(0))
    nearest = (one @ two.T).masked_fill(~others, -torch.inf).argmax(1)
    hits = nearest == torch.arange(len(one), device=one.device)
    return {
        "retrieval": hits.double().mean().item(),
        "chance": (1 / others.sum(1)).mean().item(),
        "effective_rank": torch.special.entr(share).sum().exp().item(),
        "alignment": (one - two).square().sum(1).mean().item(),
        "uniformity": torch.pdist(one).square().mul(-2).exp().mean().log().item(),
    }


def _unit(values: Tensor) -> Tensor:
    return functional.normalize(values, dim=-1)
