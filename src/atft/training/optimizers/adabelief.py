"""AdaBelief by its authors, made safe."""

import contextlib
import io
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from adabelief_pytorch import AdaBelief

CAP = 1.0  # root mean square of a tensor's step, in learning rates: what AdamW takes at most in the long run


class CappedAdaBelief(AdaBelief):
    r"""AdaBelief with decoupled decay whose steps are at most `CAP` learning rates in size.

    u = m / (1 - b1^t) / sqrt(s / (1 - b2^t)), w <- (1 - lr decay) w - lr u min(1, CAP / RMS(u)), with s the
    mean squared deviation of the gradient from its mean m.

    Where the gradient hardly changes s is tiny: a constant one gives steps of 5, 20 and 67 learning
    rates at t = 100, 1000 and 3000, hence the cap. eps is 1e-16: it is added inside s at every step, and
    1e-8 makes it plain momentum. No rectification: we warm up anyway. The greeting is swallowed.

    Source: Zhuang et al., AdaBelief Optimizer, 2020; the cap from Shazeer & Stern, Adafactor, 2018.
    """

    def __init__(self, params: Iterable[Any], lr: float) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            super().__init__(params, lr=lr, eps=1e-16, rectify=False, weight_decouple=True, print_change_log=False)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The authors' step, then back by what exceeds the cap."""
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._retreat(parameter, self.state[parameter], group)
        return loss

    @torch.no_grad()
    def _retreat(self, parameter: torch.Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        root = state["exp_avg_var"].sqrt() / math.sqrt(1 - beta2 ** state["step"]) + group["eps"]
        update = state["exp_avg"] / root / (1 - beta1 ** state["step"])
        excess = 1 - CAP / update.square().mean().sqrt().clamp(min=CAP)
        parameter.add_(update * (group["lr"] * excess))
