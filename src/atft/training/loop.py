"""One optimisation loop for pretraining and training."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from atft.errors import InputError
from atft.training.schedule import Schedule


def pick_device() -> torch.device:
    """The GPU where torch finds one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(seed: int, fold: int) -> np.random.Generator:
    """Seed torch for this (fold, seed); the generator returned orders the steps."""
    torch.manual_seed(seed * 1000 + fold)
    torch.use_deterministic_algorithms(mode=True)
    return np.random.default_rng([seed, fold])


def fit(
    module: nn.Module,
    runs: Sequence[Sequence[int]],
    loss_of: Callable[[Sequence[int]], Tensor],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    epochs: int,
    day_share: float,
    gradient_clip: float,
    order: np.random.Generator,
    after_epoch: Callable[[int, dict[str, float]], bool],
    title: str,
    blocks: Mapping[str, Sequence[nn.Parameter]],
) -> None:
    """Run `epochs` passes over `runs` of days in random order, each over a fresh `day_share` of them.

    `after_epoch(epoch, facts)` may end the fit by returning True. The facts: mean `train_loss`, `lr` of the
    last step, mean norm of the gradient before it is clipped as `gradient`, and as `gradient_x` for the
    parameters that `blocks` calls x.

    Raises:
        InputError: When the loss is no longer finite, with the days at fault.
    """
    per_epoch = max(round(day_share * len(runs)), 1)
    peaks = [group["lr"] for group in optimizer.param_groups]
    names = ["train_loss", "gradient", *(f"gradient_{name}" for name in blocks)]
    step = 0
    bar = tqdm(total=epochs * per_epoch, desc=title, disable=None, leave=False)
    for epoch in range(epochs):
        module.train()
        values = []
        for run in order.permutation(len(runs))[:per_epoch]:
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = schedule.scale(step, epochs, per_epoch) * peak
            loss = loss_of(runs[run])
            value = loss.item()
            if not math.isfinite(value):
                days = runs[run]
                raise InputError(f"{title}: loss {value} in epoch {epoch} on days {days[0]}..{days[-1]}; lower the lr")
            values.append([value, *_descend(loss, module, optimizer, gradient_clip, blocks)])
            step += 1
            bar.update()
        facts = dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
        if after_epoch(epoch, facts | {"lr": optimizer.param_groups[0]["lr"]}):
            break
    bar.close()


def _descend(
    loss: Tensor,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    gradient_clip: float,
    blocks: Mapping[str, Sequence[nn.Parameter]],
) -> list[float]:
    """One step; norm of the whole gradient before it is clipped, then of each block's."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parts = [[p.grad for p in block if p.grad is not None] for block in blocks.values()]
    norms = [nn.utils.get_total_norm(part) for part in parts]
    total = nn.utils.clip_grad_norm_(module.parameters(), gradient_clip)
    optimizer.step()
    return torch.stack([total, *(norm.to(total.device) for norm in norms)]).tolist()
