"""What training minimises: a weighted sum of losses, each of which can be looked at by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from atft.training.losses import RankMethod, correlation_loss, huber_loss, mse_loss, quantile_loss, rank_loss
from atft.training.portfolio_loss import portfolio_loss
from atft.training.processes import gathered

TERMS = ("huber", "mse", "correlation", "rank", "quantile", "portfolio")


@dataclass(frozen=True)
class Targets:
    """What the scores of a block of consecutive days are held against.

    Attributes:
        label: [D, N, H], NaN masked.
        forward_return: [D, N, H] simple, NaN masked.
        horizons: [H] days that the return is earned in.
        day_weight: [D, H], mean 1 over all days of training; None where all count alike.
    """

    label: Tensor
    forward_return: Tensor
    horizons: Sequence[int]
    day_weight: Tensor | None = None

    def of_day(self, i: int) -> "Targets":
        """The targets of the block's i-th day alone."""
        weight = None if self.day_weight is None else self.day_weight[i : i + 1]
        return Targets(self.label[i : i + 1], self.forward_return[i : i + 1], self.horizons, weight)


@dataclass(frozen=True)
class Objective:
    """Weighted sum of the terms of `losses.py` and of `portfolio_loss`; one of weight 0 is not computed.

    Attributes:
        weights: Weight of each of `TERMS`.
        rank_method, rank_temperature: See `rank_loss`.
        horizon_weights: One per horizon, brought to mean 1, so that they move no weight between terms;
            None where all horizons count alike.
        portfolio_cost_bps: See `portfolio_loss`.
        quantile_levels: Of the quantiles, ascending, in (0, 1).
    """

    weights: Mapping[str, float]
    rank_method: RankMethod
    rank_temperature: float
    horizon_weights: Sequence[float] | None
    portfolio_cost_bps: float
    quantile_levels: Sequence[float] = ()

    def terms(self, score: Tensor, targets: Targets, quantiles: Tensor | None = None) -> dict[str, Tensor]:
        """Each term before its weight, by name.

        In single precision whatever autocast does around it: correlations need the digits.

        Args:
            score: [D, N, H].
            quantiles: [D, N, H, Q], for the quantile term alone.
        """
        with torch.autocast(score.device.type, enabled=False):
            by_horizon = {name: self._term(name, score, targets, quantiles) for name in TERMS if self.weights[name]}
            return {name: self._over_horizons(value) for name, value in by_horizon.items()}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `terms`."""
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def gradient_norms(self, terms: Mapping[str, Tensor], outputs: Sequence[Tensor]) -> dict[str, float]:
        """Norm of each weighted term's gradient by the network's outputs: how hard it pulls at them.

        Stops at the outputs, so it costs next to nothing, and leaves the graph for `backward`.
        """
        norms = {}
        for name, value in terms.items():
            found = torch.autograd.grad(value, outputs, retain_graph=True, allow_unused=True)
            size = torch.stack([part.square().sum() for part in found if part is not None]).sum().sqrt()
            norms[name] = self.weights[name] * size.item()
        return norms

    def _term(self, name: str, score: Tensor, targets: Targets, quantiles: Tensor | None) -> Tensor:
        label, weight = targets.label, targets.day_weight
        if name == "huber":
            return huber_loss(score, label, weight)
        if name == "mse":
            return mse_loss(score, label, weight)
        if name == "correlation":
            return correlation_loss(score, label, weight)
        if name == "rank":
            return rank_loss(score, label, self.rank_method, self.rank_temperature, weight)
        if name == "portfolio":
            return portfolio_loss(score, targets.forward_return, targets.horizons, self.portfolio_cost_bps, weight)
        assert quantiles is not None
        return quantile_loss(quantiles, label, self.quantile_levels, weight)

    def _over_horizons(self, by_horizon: Tensor) -> Tensor:
        if self.horizon_weights is None:
            return by_horizon.mean()
        weights = torch.tensor(self.horizon_weights, dtype=by_horizon.dtype, device=by_horizon.device)
        return (weights / weights.mean() * by_horizon).mean()


class LossWatch:
    """The objective as the loss of a block, and what an epoch of blocks was worth, term by term."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._values: list[dict[str, Tensor]] = []
        self._pull: dict[str, float] = {}

    def loss(self, score: Tensor, targets: Targets, quantiles: Tensor | None = None) -> Tensor:
        """The weighted sum of the terms; see `Objective.terms`."""
        terms = self._objective.terms(score, targets, quantiles)
        if not self._values:
            outputs = [score] if quantiles is None else [score, quantiles]
            self._pull = self._objective.gradient_norms(terms, outputs)
        self._values.append({name: value.detach() for name, value in terms.items()})
        return self._objective.total(terms)

    def epoch_facts(self) -> dict[str, float]:
        """loss_x, the mean over blocks of term x, unweighted, and pull_x, the norm of its weighted gradient
        by the scores (and quantiles) on the epoch's first block; of all processes; then forgets.
        """
        states = gathered(self.state_dict())
        values = {name: [v for state in states for v in state["values"][name]] for name in states[0]["values"]}
        self._values = []
        means = {f"loss_{name}": torch.tensor(terms).mean().item() for name, terms in values.items()}
        return means | {f"pull_{name}": size for name, size in states[0]["pull"].items()}

    def state_dict(self) -> dict[str, Any]:
        """The epoch so far: values by term, and pull."""
        names = self._values[0] if self._values else {}
        values = {name: torch.stack([row[name] for row in self._values]).tolist() for name in names}
        return {"values": values, "pull": self._pull}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        values, self._pull = state["values"], state["pull"]
        rows = zip(*values.values(), strict=True)
        self._values = [dict(zip(values, map(torch.tensor, row), strict=True)) for row in rows]
