"""Processes that fit one network together, one per device; a process alone finds that nothing is to be done."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that `torchrun` started, where it did: over NCCL between GPUs, over gloo between CPUs."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 writes what all have found."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(value: Any) -> list[Any]:
    """The `value` of every process, by its number."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def share(items: list[int]) -> list[int]:
    """This process's part of `items`: parts are contiguous, and put together by `gathered` they are the whole."""
    size = -(-len(items) // count())
    return items[rank() * size : (rank() + 1) * size]


def add_up(parameters: Iterable[nn.Parameter], facts: list[float]) -> list[float]:
    """Add up the gradients of all processes, in place, and so their `facts`; a gradient that is missing is 0."""
    if count() == 1:
        return facts
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
    whole = torch.cat([*(part.flatten() for part in parts), parts[0].new_tensor(facts)])
    dist.all_reduce(whole)
    *sums, added = whole.split([part.numel() for part in parts] + [len(facts)])
    for parameter, total in zip(trained, sums, strict=True):
        parameter.grad = total.view_as(parameter)
    return added.tolist()
