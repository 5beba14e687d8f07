"""Losses: values against scipy, gradients, what must not matter, and how much memory they keep."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from atft.panel.standardize import standardize
from atft.training.losses import RankMethod, correlation_loss, huber_loss, mse_loss, quantile_loss, rank_loss, ranks
from atft.training.objective import TERMS, Objective, Targets
from atft.training.portfolio_loss import portfolio_loss
from atft.training.soft_ranks import soft_ranks

LEVELS = (0.1, 0.5, 0.9)
Loss = Callable[..., Tensor]  # score, label[, day_weight]


def rank_by(method: str) -> Loss:
    return partial(rank_loss, method=method, temperature=0.2)  # pyright: ignore


def quantiles_of(score: Tensor, label: Tensor, day_weight: Tensor | None = None) -> Tensor:
    """The quantile loss of three bands around the score, as a function of the score."""
    return quantile_loss(torch.stack([score - 0.8, 1.1 * score, score + 0.7], -1), label, LEVELS, day_weight)


SCALE_FREE = {"correlation": correlation_loss} | {f"rank-{m}": rank_by(m) for m in ("linear", "cdf", "sigmoid")}
LOSSES: dict[str, Loss] = {"huber": huber_loss, "mse": mse_loss, "quantile": quantiles_of} | SCALE_FREE


@pytest.fixture(params=LOSSES.values(), ids=LOSSES.keys())
def loss(request: pytest.FixtureRequest) -> Loss:
    return request.param


@pytest.fixture(params=SCALE_FREE.values(), ids=SCALE_FREE.keys())
def scale_free(request: pytest.FixtureRequest) -> Loss:
    return request.param


def returns(days: int = 3, stocks: int = 40, horizons: int = 2) -> Tensor:
    """Returns with ties and fat tails."""
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, (days, stocks, horizons)).round(1)).float() / 50


def labels(days: int = 3, stocks: int = 40, horizons: int = 2) -> Tensor:
    raw = returns(days, stocks, horizons).numpy()
    return torch.from_numpy(np.stack([standardize(day, "rank_gauss") for day in raw]))


def scores(like: Tensor, seed: int = 1) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like.dtype)


def over_columns(score: Tensor, label: Tensor, cost: Callable[[Any, Any], float]) -> list[float]:
    """cost(score, label) of the known stocks, mean over days, by horizon."""

    def on(day: int, h: int) -> float:
        known = torch.isfinite(label[day, :, h])
        return cost(score[day, known, h].numpy(), label[day, known, h].numpy())

    return [float(np.mean([on(day, h) for day in range(len(label))])) for h in range(label.shape[2])]


@pytest.mark.parametrize("label", [labels(), returns()], ids=["rank_gauss", "plain"])
def test_ranks_are_average_ranks_whatever_the_labels_scale(label: Tensor) -> None:
    label[:, ::7] = float("nan")
    known = torch.isfinite(label)
    found = ranks(label, known)
    for d in range(len(label)):
        for h in range(2):
            here = known[d, :, h]
            expected = (stats.rankdata(label[d, here, h]) - 0.5) / int(here.sum())
            np.testing.assert_allclose(found[d, here, h], expected, rtol=1e-6)


def test_ranks_of_rank_gauss_labels_are_their_normal_distribution_function() -> None:
    label = labels()
    torch.testing.assert_close(ranks(label, torch.isfinite(label)), torch.special.ndtr(label), atol=1e-6, rtol=0)


@pytest.mark.parametrize("label", [labels(), returns()], ids=["rank_gauss", "plain"])
def test_values_against_scipy(label: Tensor) -> None:
    label[0, :9] = float("nan")
    score = scores(label)

    def normal_score(s: Any) -> Any:
        return stats.norm.cdf(stats.zscore(s))

    def soft(s: Any) -> Any:
        z = stats.zscore(s)
        return (1 / (1 + np.exp(-(z[:, None] - z) / 0.2))).sum(1)

    expected = {
        "huber": lambda s, y: np.mean(np.where(abs(s - y) < 1, (s - y) ** 2 / 2, abs(s - y) - 0.5)),
        "mse": lambda s, y: np.mean((s - y) ** 2),
        "correlation": lambda s, y: 1 - stats.pearsonr(s, stats.rankdata(y))[0],
        "rank-linear": lambda s, y: 1 - stats.pearsonr(s, stats.rankdata(y))[0],
        "rank-cdf": lambda s, y: 1 - stats.pearsonr(normal_score(s), stats.rankdata(y))[0],
        "rank-sigmoid": lambda s, y: 1 - stats.pearsonr(soft(s), stats.rankdata(y))[0],
    }
    for name, cost in expected.items():
        np.testing.assert_allclose(LOSSES[name](score, label), over_columns(score, label, cost), atol=1e-5)


def test_a_sharp_sigmoid_is_spearman() -> None:
    label = labels()
    score = scores(label)
    expected = over_columns(score, label, lambda s, y: 1 - stats.spearmanr(s, y)[0])
    np.testing.assert_allclose(rank_loss(score, label, "sigmoid", 1e-3), expected, atol=2e-3)


def test_quantile_loss_is_least_at_the_true_quantile() -> None:
    """Pinball by hand, and its minimum over constants is the sample's quantile."""
    label = labels(1, 41, 1)
    y = label[0, :, 0].numpy()
    grid = np.linspace(-2, 2, 401)
    for level in LEVELS:
        at = [quantile_loss(torch.full((1, 41, 1, 1), c), label, [level]).item() for c in grid]
        by_hand = [np.mean(np.maximum(level * (y - c), (level - 1) * (y - c))) for c in grid]
        np.testing.assert_allclose(at, by_hand, atol=1e-6)
        assert grid[np.argmin(at)] == pytest.approx(np.quantile(y, level, method="inverted_cdf"), abs=0.011)


def test_gradients_are_those_of_the_values(loss: Loss) -> None:
    label = labels(2, 25, 2).double()
    label[0, 3] = float("nan")
    score = scores(label, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, label), (score,))


@pytest.mark.parametrize("temperature", [0.05, 0.2, 2.0])
@pytest.mark.parametrize("pairs", [1, 60, 2**20])
def test_soft_ranks_in_chunks_equal_plain_autograd(
    monkeypatch: pytest.MonkeyPatch, pairs: int, temperature: float
) -> None:
    monkeypatch.setattr("atft.training.soft_ranks.PAIRS", pairs)
    x = torch.randn(3, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.rand(3, 17, generator=torch.Generator().manual_seed(1)) < 0.7
    pull = torch.randn(3, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = (torch.sigmoid((x[:, :, None] - x[:, None, :]) / temperature) * mask[:, None, :]).sum(-1)
    (expected,) = torch.autograd.grad(plain, x, pull)
    found = soft_ranks(x, mask, temperature)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(torch.autograd.grad(found, x, pull)[0], expected)
    assert torch.autograd.gradcheck(lambda v: soft_ranks(v, mask, temperature), (x,))


def kept(function: Callable[[], Any]) -> int:
    """Values that autograd saves for the backward pass."""
    sizes: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        function()
    return sum(sizes)


def test_every_loss_keeps_memory_in_proportion_to_the_stocks(loss: Loss) -> None:
    def of(stocks: int) -> int:
        label = labels(1, stocks, 1)
        return kept(lambda: loss(scores(label).requires_grad_(), label))

    small, large = of(100), of(400)
    assert small > 0
    assert large <= 4 * small


def test_losses_ignore_masked_stocks(loss: Loss) -> None:
    label = labels()
    label[:, :7] = float("nan")
    score = scores(label, 2)
    wild = score.clone()
    wild[:, :7] = 1e6
    torch.testing.assert_close(loss(wild, label), loss(score, label), atol=1e-5, rtol=1e-5)
    wild.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(wild, label).sum(), wild)
    assert (gradient[:, :7] == 0).all()
    assert (gradient[:, 7:] != 0).any(1).all()


def test_rank_losses_ignore_shift_and_scale(scale_free: Loss) -> None:
    label = labels()
    score = scores(label, 2)
    torch.testing.assert_close(scale_free(3 * score + 5, label), scale_free(score, label), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scale_free(score, returns()), scale_free(score, label), atol=1e-6, rtol=1e-6)
    gradient = torch.autograd.grad(scale_free(score.requires_grad_(), label).sum(), score)[0]
    np.testing.assert_allclose(gradient.sum(1), 0, atol=1e-6)


def test_losses_of_perfect_and_of_constant_scores(scale_free: Loss) -> None:
    label = labels()
    assert huber_loss(label, label).sum() == 0
    assert mse_loss(label, label).sum() == 0
    assert scale_free(torch.special.ndtr(label), label).max() < 0.02
    constant = torch.full_like(label, 3.0).requires_grad_()
    torch.testing.assert_close(scale_free(constant, label), torch.ones(2))
    (gradient,) = torch.autograd.grad(scale_free(constant, label).sum(), constant)
    assert torch.isfinite(gradient).all()


def test_each_day_counts_the_same_and_small_days_not_at_all(loss: Loss) -> None:
    label = labels()
    score = scores(label, 3)
    thin = label.clone()
    thin[2, 15:] = float("nan")
    torch.testing.assert_close(loss(score, thin), loss(score[:2], label[:2]))
    half = label.clone()
    half[1, 20:] = float("nan")
    each = torch.stack([loss(score[d : d + 1], half[d : d + 1]) for d in range(3)])
    torch.testing.assert_close(loss(score, half), each.mean(0))
    nothing = loss(score, torch.full_like(label, torch.nan))
    assert (nothing == 0).all()


def test_days_count_by_their_weight_relative_to_all_of_training(loss: Loss) -> None:
    """Not to the block: the mean over its days of weight times loss, whatever its weights sum to."""
    label = labels()
    score = scores(label, 3)
    each = torch.stack([loss(score[d : d + 1], label[d : d + 1]) for d in range(3)])
    weight = torch.tensor([[0.5, 1.0], [2.0, 0.25], [0.75, 0.5]])
    torch.testing.assert_close(loss(score, label, day_weight=weight), (weight * each).mean(0))
    label[1, 12:] = torch.nan
    torch.testing.assert_close(loss(score, label, day_weight=weight), (weight * each)[[0, 2]].mean(0))


def objective(weights: dict[str, float], horizons: list[float] | None = None, method: RankMethod = "cdf") -> Objective:
    return Objective(dict.fromkeys(TERMS, 0.0) | weights, method, 0.2, horizons, 10.0, LEVELS)


def targets_of(label: Tensor) -> Targets:
    return Targets(label, 0.02 * label, (1, 5))


def test_the_objective_is_the_weighted_sum_of_its_terms_and_computes_no_other() -> None:
    label = labels()
    score, bands = scores(label), torch.stack([scores(label, s) for s in range(3)], -1)
    some = objective({"huber": 0.5, "rank": 2.0})
    terms = some.terms(score, targets_of(label))
    assert list(terms) == ["huber", "rank"]
    expected = 0.5 * huber_loss(score, label).mean() + 2 * rank_loss(score, label, "cdf", 0.2).mean()
    torch.testing.assert_close(some.total(terms), expected)
    every = objective(dict.fromkeys(TERMS, 1.0))
    terms = every.terms(score, targets_of(label), bands)
    assert list(terms) == list(TERMS)
    torch.testing.assert_close(terms["quantile"], quantile_loss(bands, label, LEVELS).mean())
    torch.testing.assert_close(terms["portfolio"], portfolio_loss(score, 0.02 * label, (1, 5), 10).mean())
    torch.testing.assert_close(every.total(terms), torch.stack(list(terms.values())).sum())


def test_horizon_weights_move_weight_between_horizons_alone() -> None:
    label = labels()
    score = scores(label)
    by_horizon = huber_loss(score, label)
    targets = targets_of(label)
    found = objective({"huber": 1.0}, [3.0, 1.0]).terms(score, targets)["huber"]
    torch.testing.assert_close(found, 0.75 * by_horizon[0] + 0.25 * by_horizon[1])
    torch.testing.assert_close(objective({"huber": 1.0}, [7.0, 7.0]).terms(score, targets)["huber"], by_horizon.mean())


def test_gradient_norms_are_each_terms_pull_at_the_scores() -> None:
    label = labels()
    bands = torch.stack([scores(label, s) for s in range(3)], -1).requires_grad_()
    score = scores(label).requires_grad_()
    weights = {"huber": 0.5, "mse": 3.0, "rank": 2.0, "quantile": 0.25, "portfolio": 0.5}
    goal, targets = objective(weights), targets_of(label)
    terms = goal.terms(score, targets, bands)
    norms = goal.gradient_norms(terms, [score, bands])
    for name, weight in weights.items():
        (weight * goal.terms(score, targets, bands)[name]).backward()
        found = bands.grad if name == "quantile" else score.grad
        assert found is not None
        assert norms[name] == pytest.approx(found.norm().item(), rel=1e-5)
        bands.grad = score.grad = None
    goal.total(terms).backward()
    assert score.grad is not None


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("method", ["linear", "cdf", "sigmoid"])
def test_autocast_does_not_coarsen_the_losses(name: str, method: RankMethod) -> None:
    """bf16 scores are taken as they are; products and sums over them are not bf16."""
    label = labels()
    score = scores(label).bfloat16()
    goal = objective({name: 1.0}, method=method)
    bands = torch.stack([score, score, score], -1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        coarse = goal.terms(score, targets_of(label), bands)[name]
    alone: dict[str, Loss] = LOSSES | {
        "rank": rank_by(method),
        "quantile": lambda _, label: quantile_loss(bands, label, LEVELS),
        "portfolio": lambda score, label: portfolio_loss(score, 0.02 * label, (1, 5), 10.0),
    }
    fine = alone[name](score, label)
    assert coarse.dtype == torch.float32
    assert coarse == fine.mean()
