"""Shampoo on blocks, with the step sizes of Adam."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Shampoo(Optimizer):
    r"""Gradients whitened from both sides, block by block, at the step size that Adam would have taken.

    For each block G of a matrix's gradient, with means b2 = `statistics`, M the mean of G as in Adam:

    L <- b2 L + (1 - b2) G G', R <- b2 R + (1 - b2) G' G, P = L^(-1/4) M R^(-1/4),
    w <- (1 - lr decay) w - lr P |A| / |P|, A the block's step of Adam.

    The length is Adam's, so its learning rates serve here too; only the direction is new. The roots are taken
    anew every `every` steps by eigenvalues, the same size at once, from step `start` on; until then, and for
    vectors, the step is Adam's. Eigenvalues get `ridge` times the largest added: directions that a
    block has not seen are not blown up without bound. Blocks are as equal as the shape allows and at most `block`
    wide. Dimensions beyond the first are one, those of size 1 none.

    State holds tensors alone, so it loads under `weights_only`.

    Source: Gupta, Koren & Singer, Shampoo, 2018; blocks, grafting and the mean from Anil et al., Scalable
    second order optimization for deep learning, 2020.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        statistics: float = 0.95,
        ridge: float = 1e-6,
        block: int = 128,
        every: int = 20,
        start: int = 20,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.statistics, self.ridge, self.block, self.every, self.start = statistics, ridge, block, every, start

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [(group, p) for group in self.param_groups for p in group["params"] if p.grad is not None]
        for group, parameter in active:
            self._observe(parameter, group["betas"])
        self._refresh([self.state[parameter] for _, parameter in active])
        for group, parameter in active:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.sub_(group["lr"] * self._direction(self.state[parameter], group))
        return loss

    def _observe(self, parameter: Tensor, betas: tuple[float, float]) -> None:
        """Take the gradient into the means; parameters are single precision at least, and so are these."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        blocks = _blocks(gradient, self.block)
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
            if blocks is not None:
                for side, size in (("left", blocks.shape[-2]), ("right", blocks.shape[-1])):
                    state[side] = blocks.new_zeros(*blocks.shape[:-2], size, size)
                    state[f"{side}_root"] = torch.zeros_like(state[side])
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - betas[0])
        state["exp_avg_sq"].lerp_(gradient.square(), 1 - betas[1])
        if blocks is not None:
            state["left"].lerp_(blocks @ blocks.mT, 1 - self.statistics)
            state["right"].lerp_(blocks.mT @ blocks, 1 - self.statistics)

    def _refresh(self, states: list[dict[str, Tensor]]) -> None:
        """Roots of those that are due, all of one size in one call."""
        due: dict[int, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for state in states:
            since = int(state["step"]) - self.start
            if "left" in state and since >= 0 and since % self.every == 0:
                for side in ("left", "right"):
                    due[state[side].shape[-1]].append((state[side], state[f"{side}_root"]))
        for size, pairs in due.items():
            roots = inverse_fourth_root(torch.cat([found.view(-1, size, size) for found, _ in pairs]), self.ridge)
            split = roots.split([found.numel() // size**2 for found, _ in pairs])
            for (_, root), new in zip(pairs, split, strict=True):
                root.copy_(new.view_as(root))

    def _direction(self, state: dict[str, Tensor], group: dict[str, Any]) -> Tensor:
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        mean = state["exp_avg"] / (1 - beta1**step)
        adam = mean / ((state["exp_avg_sq"] / (1 - beta2**step)).sqrt() + group["eps"])
        if step < self.start or "left" not in state:
            return adam
        blocks, length = _blocks(mean, self.block), _blocks(adam, self.block)
        assert blocks is not None
        assert length is not None
        whitened = state["left_root"] @ blocks @ state["right_root"]
        tiny = torch.finfo(whitened.dtype).tiny
        grafted = whitened * (_norm(length) / _norm(whitened).clamp(min=tiny))
        return _whole(grafted, adam)


def inverse_fourth_root(matrices: Tensor, ridge: float) -> Tensor:
    """(S + ridge x largest eigenvalue)^(-1/4) of symmetric positive semidefinite S. [..., n, n]"""
    values, vectors = torch.linalg.eigh(matrices)
    values = values.clamp(min=0)
    # Without any gradient so far S is 0; what its root is does not matter, but it must be finite.
    powers = (values + ridge * values[..., -1:] + 1e-30).pow(-0.25)
    return (vectors * powers[..., None, :]) @ vectors.mT


def _blocks(values: Tensor, block: int) -> Tensor | None:
    """[row block, column block, row, column], padded with 0 where the shape does not divide; None for vectors."""
    values = values.squeeze()
    if values.ndim < 2:
        return None
    matrix = values.flatten(1)
    (rows, row_size), (columns, column_size) = (_cut(length, block) for length in matrix.shape)
    padded = torch.nn.functional.pad(
        matrix, (0, columns * column_size - matrix.shape[1], 0, rows * row_size - matrix.shape[0])
    )
    return padded.view(rows, row_size, columns, column_size).transpose(1, 2)


def _whole(blocks: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_blocks`."""
    rows, columns, row_size, column_size = blocks.shape
    matrix = like.squeeze().flatten(1)
    padded = blocks.transpose(1, 2).reshape(rows * row_size, columns * column_size)
    return padded[: matrix.shape[0], : matrix.shape[1]].reshape(like.shape)


def _cut(length: int, block: int) -> tuple[int, int]:
    """(number, size) of the fewest equal parts of at most `block`."""
    number = -(-length // block)
    return number, -(-length // number)


def _norm(blocks: Tensor) -> Tensor:
    return blocks.square().sum(dim=(-2, -1), keepdim=True).sqrt()
