"""Fitting ATFT-GAT-FAN to forward returns, and scoring days with it."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from atft.errors import InputError
from atft.evaluation.cross_section import rank_ic
from atft.evaluation.weights import long_short_weights
from atft.graph.edges import EDGE_FEATURES
from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import AtftGatFan, Encoder, block_start
from atft.panel.store import Panel
from atft.training.blocks import consecutive, day_edges, load_block, rows
from atft.training.loop import fit, pick_device, seed_everything
from atft.training.objective import Objective
from atft.training.optimizers import make_optimizer

MAX_DEPTH_DROP = 0.5


def make_encoder(
    panel: Panel,
    lookback: int,
    hidden: int,
    heads: int,
    graph: str,
    graph_layers: int,
    normalization: str,
    fan_channels: Sequence[str],
    fan_components: int,
    dropout: float,
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
        graph=graph,
        graph_layers=graph_layers,
        normalization=normalization,
        fan_components=fan_components,
        dropout=dropout,
        stochastic_depth=stochastic_depth,
    )


def train_network(
    network: AtftGatFan,
    panel: Panel,
    snapshots: Snapshots,
    train: Sequence[int],
    stop: Sequence[int],
    epochs: int,
    patience: int,
    day_share: float,
    days_per_step: int,
    optimizer: str,
    lr: float,
    weight_decay: float,
    warmup_share: float,
    lr_floor: float,
    gradient_clip: float,
    huber_weight: float,
    rank_weight: float,
    turnover_threshold: float,
    seed: int,
    fold: int,
) -> list[dict[str, float]]:
    """Fit in place; the weights of the epoch with the best mean RankIC on `stop` stay. One row per epoch.

    Stochastic depth rises with the turnover of the scores on `stop` (measured without dropout,
    which would inflate it): p (1 + excess over the threshold), at most `MAX_DEPTH_DROP`.
    """
    device = pick_device()
    order = seed_everything(seed, fold)
    network.to(device)
    lookback, base_drop = network.encoder.lookback, network.encoder.depth_drop
    best, best_weights, since, turnover = -np.inf, copy.deepcopy(network.state_dict()), 0, None
    history: list[dict[str, float]] = []
    weights = {"huber": huber_weight, "mse": 0.0, "correlation": 0.0, "rank": rank_weight, "quantile": 0.0}
    objective = Objective(weights, "linear", 0.2, None)

    def loss_of(days: Sequence[int]) -> Tensor:
        block = load_block(panel, snapshots, days, lookback, device)
        score = network(block.x, len(days), block.edge_index, block.edge_attr)
        return objective.total(objective.terms(score, block.label))

    def after_epoch(epoch: int, loss: float) -> bool:
        nonlocal best, best_weights, since, turnover
        scores = list(score_days(network, panel, snapshots, stop))
        quality = _mean_rank_ic(panel, stop, scores)
        traded = _mean_turnover(scores)
        turnover = traded if turnover is None else 0.5 * turnover + 0.5 * traded
        network.encoder.depth_drop = min(base_drop * max(turnover / turnover_threshold, 1.0), MAX_DEPTH_DROP)
        history.append(
            {
                "epoch": epoch,
                "train_loss": loss,
                "stop_rank_ic": quality,
                "turnover": traded,
                "depth_drop": network.encoder.depth_drop,
            }
        )
        since += 1
        if quality > best:
            best, best_weights, since = quality, copy.deepcopy(network.state_dict()), 0
        return since >= patience

    fit(
        network,
        consecutive(train, lookback, days_per_step),
        loss_of,
        make_optimizer("adabelief" if optimizer == "adabelief" else "adamw", network, lr, weight_decay),
        epochs,
        day_share,
        warmup_share,
        lr_floor,
        gradient_clip,
        order,
        after_epoch,
        f"train fold {fold} seed {seed}",
    )
    network.load_state_dict(best_weights)
    return history


def score_days(
    network: AtftGatFan, panel: Panel, snapshots: Snapshots, days: Sequence[int]
) -> Iterator[NDArray[np.float32]]:
    """Scores [stock, horizon] of each day in turn; NaN where the stock is not tradable.

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
                group, states = start, network.encoder.stocks(x, lookback)
            offset = day - (start + lookback - 1)
            index, attr = day_edges(panel, snapshots, day)
            edges = torch.from_numpy(index).to(device), torch.from_numpy(attr).to(device)
            state = network.encoder.together(states[offset : offset + 1], *edges)
            score = network.heads(state)[0].float().cpu().numpy()
        yield np.where(panel.tradable[day][:, None], score, np.nan).astype(np.float32)


def _mean_rank_ic(panel: Panel, days: Sequence[int], scores: Sequence[NDArray[np.float32]]) -> float:
    """Mean RankIC over days and horizons; -1 where none is defined, so never the best."""
    by_day = np.stack(scores)
    values = np.array([rank_ic(by_day[:, :, h], panel.forward_return[days, :, h]) for h in range(by_day.shape[2])])
    return float(np.nanmean(values)) if np.isfinite(values).any() else -1.0


def _mean_turnover(scores: Sequence[NDArray[np.float32]], quantile: float = 0.1) -> float:
    """Two-way daily turnover of the long-short deciles, mean over horizons (0 to 2)."""
    weights = np.array([[long_short_weights(column.astype(float), quantile) for column in score.T] for score in scores])
    return float(np.abs(np.diff(weights, axis=0)).sum(-1).mean()) if len(weights) > 1 else 0.0
