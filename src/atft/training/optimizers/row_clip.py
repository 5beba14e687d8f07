"""Gradients that are spikes, bounded feature by feature."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

MEMORY = 0.99  # share of yesterday in the mean of a row's size
STATE = "row_rms"


@runtime_checkable
class ReadsFeatures(Protocol):
    """A layer that knows where in its parameters each feature of the panel sits."""

    def feature_layout(self) -> dict[str, tuple[tuple[int, ...], int]]:
        """Name of a parameter of its own or below: (shape to view it in, axis of the features)."""
        ...


Layout = tuple[tuple[int, ...], int]


def feature_layout(module: nn.Module) -> dict[Tensor, Layout]:
    """Where the features sit in every parameter that reads them."""
    return {
        layer.get_parameter(name): layout
        for layer in module.modules()
        if isinstance(layer, ReadsFeatures)
        for name, layout in layer.feature_layout().items()
    }


def clip_rows(optimizer: Optimizer, limit: float, layouts: Mapping[Tensor, Layout]) -> None:
    r"""Before each of its steps: g <- g min(1, limit mean(RMS(g)) / RMS(g)) for every row g of a matrix.

    A row holds all that belongs to one feature where `layouts` tells so, else to one output. Steps of
    Adam's kind do not depend on the size of gradients, so only what is out of proportion to a row's own
    past matters. That past is an exponential mean of the clipped size, so a spike cannot raise the
    bar for the next; a row without gradient keeps it, so a feature that is rarely known is not held
    to the zeros between. The means lie in the optimiser's state and are saved and loaded with it.

    Source: Shazeer & Stern, Adafactor, 2018, bound each tensor's step by its root mean square; here each
    row's gradient is bound, and by its own past.
    """
    clip = _RowClip(limit, layouts)
    optimizer.register_step_pre_hook(clip.before)
    optimizer.register_step_post_hook(clip.after)


@dataclass
class _RowClip:
    limit: float
    layouts: Mapping[Tensor, Layout]
    # Optimisers take a parameter with any state for one they have met, so the first mean waits for the step's end.
    means: dict[Tensor, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def before(self, optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.ndim >= 2:
                    self.means[parameter] = self._clip(parameter, optimizer.state[parameter].get(STATE))

    def after(self, optimizer: Optimizer, *_: Any) -> None:
        for parameter, mean in self.means.items():
            optimizer.state[parameter][STATE] = mean
        self.means.clear()

    def _clip(self, parameter: Tensor, mean: Tensor | None) -> Tensor:
        """Clip the gradient in place; the rows' new mean sizes."""
        gradient = parameter.grad
        assert gradient is not None
        shape, axis = self.layouts.get(parameter, (tuple(gradient.shape), 0))
        rows = gradient.reshape(shape)
        others = [i for i in range(len(shape)) if i != axis]
        size = rows.square().mean(dim=others, keepdim=True).sqrt()
        mean = torch.zeros_like(size) if mean is None else mean
        clipped = torch.where(mean > 0, size.clamp(max=self.limit * mean), size)
        share = torch.where(size > 0, clipped / size, 1.0)
        gradient.mul_(share.expand(shape).reshape(gradient.shape))
        moved = torch.where(mean > 0, MEMORY * mean + (1 - MEMORY) * clipped, clipped)
        return torch.where(size > 0, moved, mean)
