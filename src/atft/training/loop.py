"""One optimisation loop for pretraining and training."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from atft.errors import InputError
from atft.training.optimizers import lr_scale


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
    epochs: int,
    day_share: float,
    warmup_share: float,
    lr_floor: float,
    gradient_clip: float,
    order: np.random.Generator,
    after_epoch: Callable[[int, float], bool],
    title: str,
) -> None:
    """Run `epochs` passes over `runs` of days in random order, each over a fresh `day_share` of them.

    `after_epoch(epoch, mean loss)` may end the fit by returning True.

    Raises:
        InputError: When the loss is no longer finite, with the days at fault.
    """
    per_epoch = max(round(day_share * len(runs)), 1)
    steps = epochs * per_epoch
    peaks = [group["lr"] for group in optimizer.param_groups]
    step = 0
    bar = tqdm(total=steps, desc=title, disable=None, leave=False)
    for epoch in range(epochs):
        module.train()
        losses = []
        for run in order.permutation(len(runs))[:per_epoch]:
            scale = lr_scale(step, steps, warmup_share, lr_floor)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = scale * peak
            loss = loss_of(runs[run])
            value = loss.item()
            if not math.isfinite(value):
                days = runs[run]
                raise InputError(f"{title}: loss {value} in epoch {epoch} on days {days[0]}..{days[-1]}; lower the lr")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), gradient_clip)
            optimizer.step()
            losses.append(value)
            step += 1
            bar.update()
        if after_epoch(epoch, float(np.mean(losses))):
            break
    bar.close()
