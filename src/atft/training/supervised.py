"""Fitting ATFT-GAT-FAN to forward returns, and scoring days with it."""

import copy
from collections.abc import Iterable, Iterator, Sequence
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
from atft.panel.store import Panel
from atft.training.blocks import consecutive, day_edges, load_block, rows
from atft.training.diagnostics import blocks_of, coverage, refuse_collapse, stop_facts
from atft.training.inspection import attention_facts
from atft.training.loop import fit, pick_device, seed_everything
from atft.training.losses import daily_correlation
from atft.training.objective import LossWatch, Objective, Targets
from atft.training.optimizers.averaging import WeightAverage
from atft.training.optimizers.factory import Name, make_optimizer
from atft.training.regimes import RegimeWeights, market_states
from atft.training.schedule import Schedule

MAX_DEPTH_DROP = 0.5
LOOK_EVERY = 10  # days of `stop`: on each such one an epoch's attention is looked at


class Scored(NamedTuple):
    """What a ranker says of a day, or of several; NaN where the stock is not tradable.

    Attributes:
        score: [..., stock, horizon].
        quantiles: [..., stock, horizon, level] of the label; None from rankers without quantiles.
    """

    score: NDArray[np.float32]
    quantiles: NDArray[np.float32] | None


def make_encoder(
    panel: Panel,
    lookback: int,
    hidden: int,
    heads: int,
    selection: str,
    graph: str,
    graph_layers: int,
    normalization: str,
    fan_channels: Sequence[str],
    fan_components: int,
    dropout: float,
    attention_dropout: float,
    attention_scores: str,
    stochastic_depth: float,
) -> Encoder:
    """An encoder for the panel's features; arguments as in `params.yaml`, section model.

    Raises:
        InputError: When a FAN channel is not a feature of the panel.
    """
    channels = fan_channels if normalization == "fan" else []
    if missing := [name for name in channels if name not in panel.feature_names]:
        has = ", ".join(panel.feature_names[:30]) + (", ..." if len(panel.feature_names) > 30 else "")
        raise InputError(
            f"model.fan_channels: {missing[0]!r} is no feature of the panel; it has {has}. Name daily changes, "
            f"or set model.normalization: none"
        )
    return Encoder(
        features=len(panel.feature_names),
        fan_channels=[panel.feature_names.index(name) for name in channels],
        edge_features=len(EDGE_FEATURES),
        lookback=lookback,
        hidden=hidden,
        heads=heads,
        selection=selection,
        graph=graph,
        graph_layers=graph_layers,
        normalization=normalization,
        fan_components=fan_components,
        dropout=dropout,
        attention_dropout=attention_dropout,
        attention_scores=attention_scores,
        stochastic_depth=stochastic_depth,
    )


def train_network(
    network: AtftGatFan,
    panel: Panel,
    snapshots: Snapshots,
    train: Sequence[int],
    stop: Sequence[int],
    objective: Objective,
    schedule: Schedule,
    optimizer: Name,
    lr: float,
    weight_decay: float,
    gradient_clip: float,
    feature_clip: float,
    ema_decay: float,
    epochs: int,
    patience: int,
    day_share: float,
    days_per_step: int,
    regime_weighting: float,
    turnover_threshold: float,
    seed: int,
    fold: int,
) -> list[dict[str, Any]]:
    """Fit in place; the weights of the epoch with the best mean RankIC on `stop` stay. One row per epoch.

    With `ema_decay` `stop` judges, and what stays is, the mean of the weights over steps.

    Stochastic depth rises with the turnover of the scores on `stop` (measured without dropout,
    which would inflate it): p (1 + excess over the threshold), at most `MAX_DEPTH_DROP`.

    With `regime_weighting`, its strength, days count as `RegimeWeights` has it.

    Raises:
        InputError: When the loss is no longer finite, or the scores of `stop` are all alike.
    """
    device = pick_device()
    order = seed_everything(seed, fold)
    network.to(device)
    lookback, base_drop = network.encoder.lookback, network.encoder.depth_drop
    best, best_weights, since, turnover = -np.inf, copy.deepcopy(network.state_dict()), 0, None
    history: list[dict[str, Any]] = []
    watch = LossWatch(objective)
    regimes = None
    if regime_weighting:
        regimes = RegimeWeights(
            market_states(Market.of(panel)), train, panel.horizons, panel.delay, strength=regime_weighting
        )
    title = f"train fold {fold} seed {seed}"

    def loss_of(days: Sequence[int]) -> Tensor:
        block = load_block(panel, snapshots, days, lookback, device)
        forecast = network(block.x, len(days), block.edge_index, block.edge_attr)
        weight = None
        if regimes is not None:
            regimes.saw(days, daily_correlation(forecast.score.detach(), block.label).cpu().numpy())
            weight = torch.from_numpy(regimes.weight[days]).float().to(device)
        targets = Targets(block.label, block.forward_return, panel.horizons, weight)
        return watch.loss(forecast.score, targets, forecast.quantiles)

    def after_epoch(epoch: int, facts: dict[str, float]) -> bool:
        nonlocal best, best_weights, since, turnover
        with average.applied() if average else nullcontext():
            scores, quantiles = stacked(forecast_days(network, panel, snapshots, stop))
            refuse_collapse(panel, stop, scores, f"{title}, epoch {epoch}")
            found = stop_facts(panel, stop, scores)
            if quantiles is not None:
                found |= coverage(panel, stop, quantiles, objective.quantile_levels)
            found |= attention_facts(network, panel, snapshots, stop[::LOOK_EVERY])
            since += 1
            if found["stop_rank_ic"] > best:
                best, best_weights, since = found["stop_rank_ic"], copy.deepcopy(network.state_dict()), 0
        turnover = found["turnover"] if turnover is None else 0.5 * turnover + 0.5 * found["turnover"]
        network.encoder.depth_drop = min(base_drop * max(turnover / turnover_threshold, 1.0), MAX_DEPTH_DROP)
        history.append(
            {"epoch": epoch, **facts, **watch.epoch_facts(), **found, "depth_drop": network.encoder.depth_drop}
            | (regimes.next_epoch() if regimes else {})
        )
        return since >= patience

    descent = make_optimizer(optimizer, network, lr, weight_decay, feature_clip)
    average = WeightAverage(network, ema_decay) if ema_decay else None
    if average:
        descent.register_step_post_hook(lambda *_: average.update())
    fit(
        network,
        consecutive(train, lookback, days_per_step),
        loss_of,
        descent,
        schedule,
        epochs,
        day_share,
        gradient_clip,
        order,
        after_epoch,
        title,
        blocks_of(network),
    )
    network.load_state_dict(best_weights)
    return history


def score_days(
    network: AtftGatFan, panel: Panel, snapshots: Snapshots, days: Sequence[int]
) -> Iterator[NDArray[np.float32]]:
    """Scores [stock, horizon] of each day in turn; NaN where the stock is not tradable."""
    return (day.score for day in forecast_days(network, panel, snapshots, days))


def forecast_days(network: AtftGatFan, panel: Panel, snapshots: Snapshots, days: Sequence[int]) -> Iterator[Scored]:
    """The forecast of each day in turn.

    The encoder always passes over the whole group of days that share an anchor, and the graph
    over one day: shapes depend on the date alone, so a day's scores do not depend, to the last bit,
    on which other days are asked for.
    """
    device = next(network.parameters()).device
    lookback = network.encoder.lookback
    network.eval()
    group, states = None, torch.empty(0)
    for day in days:
        start = block_start(day, lookback)
        with torch.inference_mode():
            if group != start:
                x = rows(panel, start, start + 2 * lookback - 1).to(device)
                group, states = start, network.encoder.stocks(x, lookback)[0]
            offset = day - (start + lookback - 1)
            index, attr = day_edges(panel, snapshots, day)
            edges = torch.from_numpy(index).to(device), torch.from_numpy(attr).to(device)
            state = network.encoder.together(states[offset : offset + 1], *edges)
            forecast = network.judge(state)
        quantiles = None if forecast.quantiles is None else _of_tradable(panel, day, forecast.quantiles)
        yield Scored(_of_tradable(panel, day, forecast.score), quantiles)


def stacked(days: Iterable[Scored]) -> Scored:
    """All days at once, the day first."""
    scores, quantiles = zip(*days, strict=True)
    return Scored(np.stack(scores), None if quantiles[0] is None else np.stack(quantiles))


def _of_tradable(panel: Panel, day: int, values: Tensor) -> NDArray[np.float32]:
    """`values` [1, stock, ...] of the day without the first dimension; NaN where the stock is not tradable."""
    array = values[0].float().cpu().numpy()
    tradable = panel.tradable[day].reshape(-1, *[1] * (array.ndim - 1))
    return np.where(tradable, array, np.nan).astype(np.float32)
