"""Masked cross-section: predict a hidden stock's return from its own past and its neighbours."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import Encoder
from atft.panel.labels import group_mean
from atft.panel.store import Panel
from atft.training.blocks import consecutive, load_block
from atft.training.loop import fit, pick_device, seed_everything
from atft.training.optimizers.factory import make_optimizer
from atft.training.schedule import Schedule


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
    seed: int,
    fold: int,
) -> list[dict[str, float]]:
    """Fit the encoder on the training dates alone; one row per epoch with the loss beside its baseline.

    A hidden stock's row of the day is unknown. Features relative to the sector or industry are unknown
    for all: a visible mate's return less the sector's mean would tell the
    hidden one's. Edges are a day old at least. `zero_loss` is the loss of predicting zero.
    """
    device = pick_device()
    order = seed_everything(seed, fold)
    head = nn.Linear(hidden, 1).to(device)
    module = nn.ModuleList([encoder.to(device), head])
    relative = [i for i, name in enumerate(panel.feature_names) if name.endswith(("_in_sector", "_in_industry"))]
    history: list[dict[str, float]] = []
    zero: list[float] = []

    def loss_of(days: Sequence[int]) -> Tensor:
        block = load_block(panel, snapshots, days, encoder.lookback, device)
        target = torch.from_numpy(np.stack([residual_target(panel, day) for day in days])).to(device)
        masked = (torch.rand(target.shape, device=device) < mask_share) & torch.isfinite(target)
        x = block.x.clone()
        x[..., relative] = torch.nan
        x[-len(days) :][masked] = torch.nan
        guess = head(encoder(x, len(days), block.edge_index, block.edge_attr)).squeeze(-1)
        count = masked.sum().clamp(min=1)
        zero.append(float((target.nan_to_num().square() * masked).sum() / count))
        return ((guess - target.nan_to_num()).square() * masked).sum() / count

    def after_epoch(epoch: int, facts: dict[str, float]) -> bool:
        history.append({"epoch": epoch, "loss": facts["train_loss"], "zero_loss": float(np.mean(zero))})
        zero.clear()
        return False

    runs = consecutive(train, encoder.lookback, days_per_step)
    fit(
        module,
        runs,
        loss_of,
        make_optimizer("adamw", module, lr, weight_decay=0.01, feature_clip=0.0),
        Schedule("cosine", warmup_epochs=epochs, warmup_share=0.1, t_0=1, t_mult=1, floor=0.05),
        epochs,
        day_share,
        gradient_clip=1.0,
        order=order,
        after_epoch=after_epoch,
        title=f"pretrain fold {fold} seed {seed}",
        blocks={},
    )
    return history
