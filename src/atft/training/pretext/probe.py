"""What a frozen encoder's states are worth: a ridge from them to the label."""

from collections.abc import Sequence

import numpy as np
import torch

from atft.evaluation.cross_section import rank_ic
from atft.evaluation.significance import mean
from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import Encoder
from atft.panel.store import Panel
from atft.training.blocks import Source
from atft.training.loop import pick_device
from atft.training.supervised import encoded_days

DAYS = 250  # newest training days at most: a ridge on a few dozen states needs no more
PENALTY = 1e-3  # of the mean square of a state, which is 1


def probe(
    encoder: Encoder, panel: Panel, snapshots: Snapshots, train: Sequence[int], stop: Sequence[int]
) -> dict[str, float | None]:
    """Mean RankIC on `stop` of a linear map from states to label, by horizon as rank_ic_h; None where undefined.

    The map is fitted on the newest training days alone, and never touches the encoder. The penalty is fixed:
    one chosen on `stop` would flatter.
    """
    source = Source(panel, snapshots, encoder.lookback, pick_device())
    encoder.to(source.device).eval()
    fitted = list(train)[-DAYS:]
    states, labels = _states(encoder, source, fitted), panel.label[fitted].astype(np.float64)
    told = _states(encoder, source, stop)
    facts: dict[str, float | None] = {}
    for h, horizon in enumerate(panel.horizons):
        known = np.isfinite(labels[:, :, h]) & panel.tradable[fitted]
        scores = told @ _ridge(states[known], labels[:, :, h][known])
        scores = np.where(panel.tradable[stop], scores, np.nan).astype(np.float32)
        daily = rank_ic(scores, panel.forward_return[stop, :, h])
        facts[f"rank_ic_{horizon}"] = mean(daily)
    return facts


def _states(encoder: Encoder, source: Source, days: Sequence[int]) -> np.ndarray:
    """[day, stock, hidden]"""
    return torch.cat(list(encoded_days(encoder, source, days))).double().cpu().numpy()


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of x [row, column] for y [row]; means are taken off, which orders nothing."""
    x, y = x - x.mean(0), y - y.mean()
    size = np.maximum(x.std(0), 1e-9)
    x = x / size
    return np.linalg.solve(x.T @ x + PENALTY * len(x) * np.eye(x.shape[1]), x.T @ y) / size
