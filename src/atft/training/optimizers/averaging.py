"""Weights averaged over steps: less noise than the last ones."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Exponential mean of a module's parameters, one `update` a step.

    The mean of the weights seen so far, without the starting ones' head start: after t steps the
    newest counts (1 - decay) / (1 - decay^t). The first update is the weights themselves.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.parameters, self.decay = list(module.parameters()), decay
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they stand."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps)
        for mean, parameter in zip(self.average, self.parameters, strict=True):
            mean.lerp_(parameter, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module with the averages in place of its weights.

        Copied, not swapped: a recurrent layer on a GPU wants its weights where they are.
        """
        own = [parameter.detach().clone() for parameter in self.parameters]
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and the number of steps, as references."""
        return {"average": self.average, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.steps = state["steps"]
        for mean, saved in zip(self.average, state["average"], strict=True):
            mean.copy_(saved)

    @torch.no_grad()
    def _write(self, values: list[torch.Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
