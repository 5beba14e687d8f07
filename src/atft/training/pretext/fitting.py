"""Fitting an encoder to one pretext task, or to the sum of two."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import Encoder
from atft.panel.store import Panel
from atft.training.blocks import Block, Source, consecutive
from atft.training.loop import Plan, fit, pick_device, seed_everything
from atft.training.optimizers.factory import make_optimizer
from atft.training.pretext.contrastive import Contrastive
from atft.training.pretext.masked import Masked
from atft.training.pretext.targets import Target
from atft.training.schedule import Schedule
from atft.training.scratch import Checkpoint


def pretrain(
    encoder: Encoder,
    panel: Panel,
    snapshots: Snapshots,
    train: Sequence[int],
    hidden: int,
    task: Literal["masked", "contrastive", "both", "none"],
    epochs: int,
    target: Target,
    mask_share: float,
    lags: Sequence[int],
    channels: Sequence[str],
    temperature: float,
    contrastive_weight: float,
    day_share: float,
    lr: float,
    days_per_step: int,
    accumulate: int,
    micro_batch: int,
    seed: int,
    fold: int,
    checkpoint: Checkpoint | None = None,
) -> list[dict[str, float]]:
    """Fit the encoder on the training dates alone; one row per epoch with each loss beside its baselines.

    With task none or no epochs the encoder stays as it is, and there is no row.
    """
    if task == "none" or not epochs:
        return []
    source = Source(panel, snapshots, encoder.lookback, pick_device())
    seed_everything(seed, fold)
    encoder.to(source.device).micro_batch = micro_batch
    parts: dict[str, Part] = {}
    if task != "contrastive":
        parts["masked"] = Masked(encoder, nn.Linear(hidden, 1).to(source.device), source, target, mask_share)
    if task != "masked":
        head = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)).to(source.device)
        parts["contrastive"] = Contrastive(encoder, head, source, train, lags, channels, temperature)
    weights = {"contrastive": contrastive_weight} if task == "both" else {}
    fitted = Pretext(parts, weights, f"pretrain fold {fold} seed {seed}")
    schedule = Schedule("cosine", warmup_epochs=epochs, warmup_share=0.1, t_0=1, t_mult=1, floor=0.05)
    plan = Plan(epochs, day_share, accumulate, gradient_clip=1.0, schedule=schedule)
    optimizer = make_optimizer("adamw", fitted.module, lr, weight_decay=0.01, feature_clip=0.0)
    fit(fitted, source, consecutive(train, encoder.lookback, days_per_step), optimizer, plan, seed, fold, checkpoint)
    return fitted.history


class Part(Protocol):
    """One pretext task: `modules` are what it fits; its state is that of the epoch so far."""

    modules: list[nn.Module]

    def loss(self, block: Block) -> Tensor: ...

    def blame(self, block: Block) -> str | None: ...

    def epoch_facts(self) -> dict[str, float]:
        """What an epoch came to, of all processes; then forgets."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Pretext:
    """The sum of some parts' losses on the same block, as a task for the loop.

    Attributes:
        history: One row per epoch: the `loss`, and what each part tells of itself.
    """

    def __init__(self, parts: Mapping[str, Part], weights: Mapping[str, float], title: str) -> None:
        self._parts, self._weights, self.title = parts, weights, title
        self.blocks: Mapping[str, Sequence[nn.Parameter]] = {}
        modules = [module for part in parts.values() for module in part.modules]
        inner = {id(child) for module in modules for child in module.children()}
        self.module = nn.ModuleList([module for module in modules if id(module) not in inner])
        self.history: list[dict[str, float]] = []

    def loss(self, block: Block) -> Tensor:
        losses = [part.loss(block) * self._weights.get(name, 1.0) for name, part in self._parts.items()]
        return torch.stack(losses).sum()

    def blame(self, block: Block) -> str | None:
        return next((found for part in self._parts.values() if (found := part.blame(block))), None)

    def after_epoch(self, epoch: int, facts: dict[str, float]) -> bool:
        row = {"epoch": epoch, "loss": facts["train_loss"]}
        for part in self._parts.values():
            row |= part.epoch_facts()
        self.history.append(row)
        return False

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history} | {name: part.state_dict() for name, part in self._parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = state["history"]
        for name, part in self._parts.items():
            part.load_state_dict(state[name])
