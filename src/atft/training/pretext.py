"""Masked cross-section: predict a hidden stock's return from its own past and its neighbours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import Encoder
from atft.panel.labels import group_mean
from atft.panel.store import Panel
from atft.training.blocks import Block, Source, consecutive
from atft.training.loop import Plan, fit, pick_device, seed_everything
from atft.training.optimizers.factory import make_optimizer
from atft.training.processes import gathered
from atft.training.schedule import Schedule
from atft.training.scratch import Checkpoint


def residual_target(panel: Panel, day: int) -> NDArray[np.float32]:
    """The day's return less its sector's mean, at unit spread and clipped at 3; NaN if not tradable. [stock]

    Less the sector (the market where it is unknown): otherwise the market factor is the easiest thing
    to predict.
    """
    tradable = panel.tradable[day]
    out = np.full(len(tradable), np.nan)
    values = panel.daily_return[day][tradable].astype(np.float64)[:, None]
    mean = group_mean(values, panel.sector[day][tradable])
    residual = (values - np.where(np.isfinite(mean), mean, values.mean() if len(values) else 0.0))[:, 0]
    out[tradable] = np.clip(residual / max(residual.std(), 1e-8), -3, 3) if len(residual) else residual
    return out.astype(np.float32)


def pretrain(
    encoder: Encoder,
    panel: Panel,
    snapshots: Snapshots,
    train: Sequence[int],
    hidden: int,
    epochs: int,
    mask_share: float,
    day_share: float,
    lr: float,
    days_per_step: int,
    accumulate: int,
    micro_batch: int,
    seed: int,
    fold: int,
    checkpoint: Checkpoint | None = None,
) -> list[dict[str, float]]:
    """Fit the encoder on the training dates alone; one row per epoch with the loss beside its baseline."""
    source = Source(panel, snapshots, encoder.lookback, pick_device())
    seed_everything(seed, fold)
    task = Masked(encoder, nn.Linear(hidden, 1), source, mask_share, f"pretrain fold {fold} seed {seed}")
    task.module.to(source.device)
    encoder.micro_batch = micro_batch
    schedule = Schedule("cosine", warmup_epochs=epochs, warmup_share=0.1, t_0=1, t_mult=1, floor=0.05)
    plan = Plan(epochs, day_share, accumulate, gradient_clip=1.0, schedule=schedule)
    optimizer = make_optimizer("adamw", task.module, lr, weight_decay=0.01, feature_clip=0.0)
    fit(task, source, consecutive(train, encoder.lookback, days_per_step), optimizer, plan, seed, fold, checkpoint)
    return task.history


class Masked:
    """The task of predicting the returns of hidden stocks.

    A hidden stock's row of the day is unknown. Features relative to the sector or industry are unknown
    for all: a visible mate's return less the sector's mean would tell the
    hidden one's. Edges are a day old at least.

    Attributes:
        history: One row per epoch: its loss, and the `zero_loss` of predicting zero.
    """

    def __init__(self, encoder: Encoder, head: nn.Module, source: Source, mask_share: float, title: str) -> None:
        self.title, self.module, self.blocks = title, nn.ModuleList([encoder, head]), {}
        self._encoder, self._head, self._source, self._mask_share = encoder, head, source, mask_share
        names = enumerate(source.panel.feature_names)
        self._relative = [i for i, name in names if name.endswith(("_in_sector", "_in_industry"))]
        self._zero: list[float] = []
        self.history: list[dict[str, float]] = []

    def loss(self, block: Block) -> Tensor:
        wrong, masked, target = self._errors(block)
        count = masked.sum().clamp(min=1)
        self._zero.append(float((target.nan_to_num().square() * masked).sum() / count))
        return (wrong * masked).sum() / count

    def blame(self, block: Block) -> str | None:
        wrong, masked, _ = self._errors(block)
        bad = ~torch.isfinite(wrong * masked).all(1)
        return (
            f"the prediction of {self._source.panel.dates[block.days[int(bad.int().argmax())]]}" if bad.any() else None
        )

    def after_epoch(self, epoch: int, facts: dict[str, float]) -> bool:
        zero = [value for part in gathered(self._zero) for value in part]
        self.history.append({"epoch": epoch, "loss": facts["train_loss"], "zero_loss": float(np.mean(zero))})
        self._zero = []
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"zero": self._zero, "history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._zero, self.history = state["zero"], state["history"]

    def _errors(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """Squared error, what was hidden, and the target, [day, stock] each."""
        days, device = block.days, self._source.device
        target = torch.from_numpy(np.stack([residual_target(self._source.panel, day) for day in days])).to(device)
        masked = (torch.rand(target.shape, device=device) < self._mask_share) & torch.isfinite(target)
        x = block.x.clone()
        x[..., self._relative] = torch.nan
        x[-len(days) :][masked] = torch.nan
        guess = self._head(self._encoder(x, len(days), block.edge_index, block.edge_attr)).squeeze(-1)
        return (guess - target.nan_to_num()).square(), masked, target
