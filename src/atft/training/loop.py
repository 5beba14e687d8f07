"""One optimisation loop for pretraining and training."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from atft.errors import InputError
from atft.training.blocks import Block, Source
from atft.training.processes import add_up, count, gathered, rank
from atft.training.schedule import Schedule
from atft.training.scratch import Checkpoint

EXPLODED = 1e4  # a loss; the terms are of order 1


def pick_device() -> torch.device:
    """The GPU where torch finds one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seed_everything(*where: int) -> None:
    """Seed torch for one place of the work: (seed, fold) for first weights, (seed, fold, epoch, run) for dropout.

    A run of days has draws of its own, so they depend neither on the process that works at it nor on where the
    loop was interrupted.
    """
    torch.manual_seed(int(np.random.SeedSequence(where).generate_state(1, np.uint64)[0]))


class Task(Protocol):
    """What the loop fits. Its state is what it has learnt of the run beside the module's weights.

    Attributes:
        title: For messages.
        module: What is trained.
        blocks: Parameters whose gradients are told apart, by name.
    """

    @property
    def title(self) -> str: ...

    @property
    def module(self) -> nn.Module: ...

    @property
    def blocks(self) -> Mapping[str, Sequence[nn.Parameter]]: ...

    def loss(self, block: Block) -> Tensor:
        """Mean over the days of `block`."""
        ...

    def blame(self, block: Block) -> str | None:
        """The term and the day of a loss on `block` that is not finite; None where all are."""
        ...

    def after_epoch(self, epoch: int, facts: dict[str, float]) -> bool:
        """Look at what an epoch came to; True ends the fit."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class Plan:
    """How long and in what steps to fit.

    Attributes:
        epochs: At most.
        day_share: Of the runs of days, drawn afresh for each epoch.
        accumulate: Runs a step, whose gradients are averaged over their days; a multiple of the number of processes.
        gradient_clip: Global norm.
        schedule: Of the learning rate.
    """

    epochs: int
    day_share: float
    accumulate: int
    gradient_clip: float
    schedule: Schedule


def fit(
    task: Task,
    source: Source,
    runs: Sequence[Sequence[int]],
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    seed: int,
    fold: int,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Run epochs over `runs` of days in random order, from `checkpoint` on if it holds anything.

    `task.after_epoch` is told the mean over steps of `train_loss`, of the norm of the gradient before it is
    clipped as `gradient`, and as `gradient_x` for the parameters that `task.blocks` calls x; `lr` of the last step.

    Raises:
        InputError: When loss or gradient are not finite, or the loss explodes, with step, term and day; the weights
            are those of the last good step. When processes cannot share the runs of a step evenly.
    """
    if plan.accumulate % count():
        raise InputError(
            f"{task.title}: accumulate: {plan.accumulate} runs of days a step cannot be shared evenly by {count()} "
            f"processes; set a multiple of {count()}"
        )
    torch.use_deterministic_algorithms(mode=True)
    per_epoch = max(round(plan.day_share * len(runs)), 1)
    steps = -(-per_epoch // plan.accumulate)
    peaks = [group["lr"] for group in optimizer.param_groups]
    names = ["train_loss", "gradient", *(f"gradient_{name}" for name in task.blocks)]
    first, done, values = _resumed(task, optimizer, checkpoint)
    quiet = True if rank() else None
    bar = tqdm(total=plan.epochs * steps, initial=first * steps + done, desc=task.title, disable=quiet, leave=False)
    for epoch in range(first, plan.epochs):
        order = np.random.default_rng([seed, fold, epoch]).permutation(len(runs))[:per_epoch].tolist()
        chunks = [order[start : start + plan.accumulate] for start in range(0, per_epoch, plan.accumulate)]
        blocks = source.blocks(runs[run] for chunk in chunks[done:] for run in chunk[rank() :: count()])
        task.module.train()
        for step in range(done, steps):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = plan.schedule.scale(epoch * steps + step, plan.epochs, steps) * peak
            optimizer.zero_grad(set_to_none=True)
            loss, days = torch.zeros((), device=source.device), sum(len(runs[run]) for run in chunks[step])
            for run in chunks[step][rank() :: count()]:
                block = next(blocks)
                seed_everything(seed, fold, epoch, run)
                part = task.loss(block) * (len(block.days) / days)
                part.backward()
                loss += part.detach()
            row, due = _gradient(task, loss, plan.gradient_clip, checkpoint)
            if not all(map(math.isfinite, row)) or abs(row[0]) > EXPLODED:
                suspects = {(seed, fold, epoch, run): runs[run] for run in chunks[step]}
                raise InputError(_complaint(task, source, row, epoch * steps + step, suspects))
            optimizer.step()
            values.append(row)
            bar.update()
            if due and checkpoint:
                _keep(task, optimizer, checkpoint, epoch, step + 1, values)
        facts = dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
        done, values = 0, []
        if task.after_epoch(epoch, facts | {"lr": optimizer.param_groups[0]["lr"]}):
            break
    bar.close()


def _gradient(task: Task, loss: Tensor, clip: float, checkpoint: Checkpoint | None) -> tuple[list[float], bool]:
    """Add up the gradients of all processes and clip them, in place: (loss, their norm, that of each block), due.

    Whether a checkpoint is due the first process's clock decides; the sum tells the others.
    """
    due = checkpoint is not None and rank() == 0 and checkpoint.due()
    total, flag = add_up(task.module.parameters(), [loss.item(), float(due)])
    parts = [[p.grad for p in block if p.grad is not None] for block in task.blocks.values()]
    norms = [nn.utils.get_total_norm(part) for part in parts]
    whole = nn.utils.clip_grad_norm_(task.module.parameters(), clip)
    return [total, *torch.stack([whole, *(norm.to(whole.device) for norm in norms)]).tolist()], flag > 0


def _complaint(
    task: Task, source: Source, row: Sequence[float], step: int, suspects: Mapping[tuple[int, ...], Sequence[int]]
) -> str:
    """One line on a bad step; the runs that were in it are asked once more, with the draws they had."""
    blamed = None
    for place, days in suspects.items():
        seed_everything(*place)
        with torch.no_grad():
            blamed = blamed or task.blame(source.block(days))
    first, last = (source.panel.dates[pick(day for days in suspects.values() for day in days)] for pick in (min, max))
    where = blamed or f"days {first} to {last}"
    good = f"the last good step was {step - 1}" if step else "no step was good"
    return f"{task.title}: loss {row[0]:g}, gradient {row[1]:g} in step {step}: {where}; {good}; lower the lr"


def _resumed(
    task: Task, optimizer: torch.optim.Optimizer, checkpoint: Checkpoint | None
) -> tuple[int, int, list[list[float]]]:
    """(epoch, steps of it that are done, what they came to) from where the checkpoint was taken, else the start."""
    state = checkpoint.load() if checkpoint else None
    if state is None:
        return 0, 0, []
    task.module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    task.load_state_dict(state["tasks"][rank()])
    if rank() == 0:
        tqdm.write(f"{task.title}: resumed in epoch {state['epoch']} after step {state['done']}", file=sys.stderr)
    return state["epoch"], state["done"], state["values"]


def _keep(
    task: Task,
    optimizer: torch.optim.Optimizer,
    checkpoint: Checkpoint,
    epoch: int,
    done: int,
    values: list[list[float]],
) -> None:
    tasks = gathered(task.state_dict())
    if rank() == 0:
        weights, moments = task.module.state_dict(), optimizer.state_dict()
        checkpoint.save(
            {
                "epoch": epoch,
                "done": done,
                "values": values,
                "module": weights,
                "optimizer": moments,
                "tasks": tasks,
            }
        )
