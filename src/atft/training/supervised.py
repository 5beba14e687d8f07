"""Fitting ATFT-GAT-FAN to forward returns, and scoring days with it."""

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atft.errors import InputError
from atft.evaluation.market import Market
from atft.graph.edges import EDGE_FEATURES
from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import AtftGatFan, Encoder, block_start
from atft.model.heads import Forecast
from atft.panel.store import Panel
from atft.training.blocks import Block, Source, consecutive
from atft.training.choice import Choice, Keep
from atft.training.diagnostics import blocks_of, coverage, refuse_collapse, stop_facts, stop_rank_ic
from atft.training.inspection import attention_facts
from atft.training.loop import EXPLODED, Plan, fit, pick_device
from atft.training.losses import daily_correlation
from atft.training.objective import LossWatch, Objective, Targets
from atft.training.optimizers.averaging import WeightAverage
from atft.training.optimizers.factory import Name, make_optimizer
from atft.training.processes import gathered, share
from atft.training.regimes import RegimeWeights, market_states
from atft.training.scratch import Checkpoint

MAX_DEPTH_DROP = 0.5
LOOK_EVERY = 10  # days of `stop`: on each such one an epoch's attention is looked at

# Told the rows of all epochs so far after each one; what it raises ends the fit.
Listener = Callable[[Sequence[Mapping[str, Any]]], None]


class Scored(NamedTuple):
    """What a ranker says of a day, or of several; NaN where the stock is not tradable.

    Attributes:
        score: [..., stock, horizon].
        quantiles: [..., stock, horizon, level] of the label; None from rankers without quantiles.
    """

    score: NDArray[np.float32]
    quantiles: NDArray[np.float32] | None


def make_encoder(panel: Panel, fan_channels: Sequence[str], **shape: Any) -> Encoder:
    """An encoder for the panel's features; arguments as in `params.yaml`, section model, `Encoder` knows the others.

    Raises:
        InputError: When a FAN channel is not a feature of the panel.
    """
    channels = fan_channels if shape["normalization"] == "fan" else []
    if missing := [name for name in channels if name not in panel.feature_names]:
        has = ", ".join(panel.feature_names[:30]) + (", ..." if len(panel.feature_names) > 30 else "")
        raise InputError(
            f"model.fan_channels: {missing[0]!r} is no feature of the panel; it has {has}. Name daily changes, "
            f"or set model.normalization: none"
        )
    indices = [panel.feature_names.index(name) for name in channels]
    return Encoder(len(panel.feature_names), fan_channels=indices, edge_features=len(EDGE_FEATURES), **shape)


def train_network(
    network: AtftGatFan,
    panel: Panel,
    snapshots: Snapshots,
    train: Sequence[int],
    stop: Sequence[int],
    objective: Objective,
    plan: Plan,
    optimizer: Name,
    lr: float,
    weight_decay: float,
    feature_clip: float,
    ema_decay: float,
    keep: Keep,
    patience: int,
    freeze_epochs: int,
    days_per_step: int,
    micro_batch: int,
    regime_weighting: float,
    turnover_threshold: float,
    seed: int,
    fold: int,
    checkpoint: Checkpoint | None = None,
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Fit in place; the weights of the epoch stay that `Choice` keeps. One row per epoch.

    In the first `freeze_epochs` epochs the heads alone are fitted.

    With `ema_decay` `stop` judges, and what stays is, the mean of the weights over steps.

    With `regime_weighting`, its strength, days count as `RegimeWeights` has it.

    Raises:
        InputError: When the loss is no longer finite, or the scores of `stop` are all alike.
    """
    source = Source(panel, snapshots, network.encoder.lookback, pick_device())
    network.to(source.device).encoder.micro_batch = micro_batch
    regimes = None
    if regime_weighting:
        states = market_states(Market.of(panel))
        regimes = RegimeWeights(states, train, panel.horizons, panel.delay, strength=regime_weighting)
    average = WeightAverage(network, ema_decay) if ema_decay else None
    title = f"train fold {fold} seed {seed}"
    descent = make_optimizer(optimizer, network, lr, weight_decay, feature_clip)  # of all weights, frozen ones too
    choice = Choice(keep, max(panel.horizons), patience)
    task = Ranking(
        network, source, stop, objective, choice, freeze_epochs, turnover_threshold, regimes, average, title, listener
    )
    if average:
        descent.register_step_post_hook(lambda *_: average.update())
    runs = consecutive(train, source.lookback, days_per_step)
    fit(task, source, runs, descent, plan, seed, fold, checkpoint)
    network.load_state_dict(task.kept_weights)
    return task.history


class Ranking:
    """The task of ranking stocks by their labels, watched on `stop`.

    Stochastic depth rises with the turnover of the scores on `stop` (measured without dropout,
    which would inflate it): p (1 + excess over the threshold), at most `MAX_DEPTH_DROP`.

    Attributes:
        history: One row per epoch.
        kept_weights: Of the epoch that was chosen.
    """

    def __init__(
        self,
        network: AtftGatFan,
        source: Source,
        stop: Sequence[int],
        objective: Objective,
        choice: Choice,
        freeze_epochs: int,
        turnover_threshold: float,
        regimes: RegimeWeights | None,
        average: WeightAverage | None,
        title: str,
        listener: Listener | None = None,
    ) -> None:
        self.title, self.module, self.blocks = title, network, blocks_of(network)
        self._source, self._stop, self._objective, self._choice = source, stop, objective, choice
        self._threshold, self._base_drop = turnover_threshold, network.encoder.depth_drop
        self._regimes, self._average, self._watch = regimes, average, LossWatch(objective)
        self._listener = listener
        self._turnover = None
        self.kept_weights = copy.deepcopy(network.state_dict())
        self.history: list[dict[str, Any]] = []
        self._freeze_epochs = freeze_epochs
        self._freeze()

    def loss(self, block: Block) -> Tensor:
        forecast, targets = self._forecast(block)
        if self._regimes is not None:
            self._regimes.saw(block.days, daily_correlation(forecast.score.detach(), block.label).cpu().numpy())
        return self._watch.loss(forecast.score, targets, forecast.quantiles)

    def blame(self, block: Block) -> str | None:
        forecast, targets = self._forecast(block)
        for i, day in enumerate(block.days):
            date = self._source.panel.dates[day]
            if not torch.isfinite(forecast.score[i]).all():
                return f"scores of {date}"
            quantiles = None if forecast.quantiles is None else forecast.quantiles[i : i + 1]
            for name, value in self._objective.terms(forecast.score[i : i + 1], targets.of_day(i), quantiles).items():
                if not abs(value.item()) < EXPLODED:
                    return f"term {name} of {date}"
        return None

    def after_epoch(self, epoch: int, facts: dict[str, float]) -> bool:
        network, panel = self.module, self._source.panel
        with self._average.applied() if self._average else nullcontext():
            scores, quantiles = self._forecast_stop()
            refuse_collapse(panel, self._stop, scores, f"{self.title}, epoch {epoch}")
            rank_ics = stop_rank_ic(panel, self._stop, scores)
            found = stop_facts(panel.horizons, rank_ics, scores)
            if quantiles is not None:
                found |= coverage(panel, self._stop, quantiles, self._objective.quantile_levels)
            found |= attention_facts(network, self._source, self._stop[::LOOK_EVERY])
            kept = self._choice.keeps(rank_ics)
            if kept:
                self.kept_weights = copy.deepcopy(network.state_dict())
        before = found["turnover"] if self._turnover is None else self._turnover
        self._turnover = 0.5 * before + 0.5 * found["turnover"]
        network.encoder.depth_drop = min(self._base_drop * max(self._turnover / self._threshold, 1.0), MAX_DEPTH_DROP)
        self.history.append(
            {
                "epoch": epoch,
                "kept": int(kept),
                **facts,
                **self._watch.epoch_facts(),
                **found,
                "depth_drop": network.encoder.depth_drop,
            }
            | (self._regimes.next_epoch() if self._regimes else {})
        )
        if self._listener:
            self._listener(self.history)
        self._freeze()
        return self._choice.is_over

    def state_dict(self) -> dict[str, Any]:
        return {
            "depth_drop": self.module.encoder.depth_drop,
            "choice": self._choice.state_dict(),
            "kept_weights": self.kept_weights,
            "turnover": self._turnover,
            "history": json.dumps(self.history),  # as text: rows may hold numpy's floats
            "watch": self._watch.state_dict(),
            "average": self._average.state_dict() if self._average else None,
            "regimes": self._regimes.state_dict() if self._regimes else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.module.encoder.depth_drop = state["depth_drop"]
        self._choice.load_state_dict(state["choice"])
        self.kept_weights = state["kept_weights"]
        self._turnover, self.history = state["turnover"], json.loads(state["history"])
        self._freeze()
        self._watch.load_state_dict(state["watch"])
        if self._average:
            self._average.load_state_dict(state["average"])
        if self._regimes:
            self._regimes.load_state_dict(state["regimes"])

    def _freeze(self) -> None:
        """Fix the encoder's weights, or set them free: optimisers pass over what has no gradient."""
        if self._freeze_epochs:
            self.module.encoder.requires_grad_(len(self.history) >= self._freeze_epochs)

    def _forecast(self, block: Block) -> tuple[Forecast, Targets]:
        forecast = self.module(block.x, len(block.days), block.edge_index, block.edge_attr)
        weight = None
        if self._regimes is not None:
            weight = torch.from_numpy(self._regimes.weight[block.days]).float().to(self._source.device)
        return forecast, Targets(block.label, block.forward_return, self._source.panel.horizons, weight)

    def _forecast_stop(self) -> Scored:
        """The forecast of all days of `stop`, of which each process made its share."""
        mine = list(forecast_days(self.module, self._source, share(list(self._stop))))
        return stacked(day for days in gathered(mine) for day in days)


def forecast_days(network: AtftGatFan, source: Source, days: Sequence[int]) -> Iterator[Scored]:
    """The forecast of each day in turn; the network must be on the source's device."""
    panel = source.panel
    network.eval()
    for day, state in zip(days, encoded_days(network.encoder, source, days), strict=True):
        with torch.inference_mode():
            forecast = network.judge(state)
        quantiles = None if forecast.quantiles is None else _of_tradable(panel, day, forecast.quantiles)
        yield Scored(_of_tradable(panel, day, forecast.score), quantiles)


def encoded_days(encoder: Encoder, source: Source, days: Sequence[int]) -> Iterator[Tensor]:
    """The states [1, stock, hidden] of each day in turn; the encoder must be on the source's device.

    Selection and temporal encoder always pass over the whole group of days that share an anchor, FAN and graph
    over one day: shapes depend on the date alone, so a day's scores do not depend, to the last bit,
    on which other days are asked for.
    """
    lookback = encoder.lookback
    encoder.eval()
    group, x, states = None, torch.empty(0), torch.empty(0)
    for day in days:
        start = block_start(day, lookback)
        with torch.inference_mode():
            if group != start:
                x = source.rows(start, start + 2 * lookback - 1)
                group, states = start, encoder.remembered(x, lookback)[0]
            offset = day - (start + lookback - 1)
            state = encoder.with_cycles(states[offset : offset + 1], x[offset : offset + lookback])
            state = encoder.together(state, *source.edges(day))
        yield state


def stacked(days: Iterable[Scored]) -> Scored:
    """All days at once, the day first."""
    scores, quantiles = zip(*days, strict=True)
    return Scored(np.stack(scores), None if quantiles[0] is None else np.stack(quantiles))


def _of_tradable(panel: Panel, day: int, values: Tensor) -> NDArray[np.float32]:
    """`values` [1, stock, ...] of the day without the first dimension; NaN where the stock is not tradable."""
    array = values[0].float().cpu().numpy()
    tradable = panel.tradable[day].reshape(-1, *[1] * (array.ndim - 1))
    return np.where(tradable, array, np.nan).astype(np.float32)
