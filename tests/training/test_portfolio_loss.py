"""The portfolio term: the book it stands for, what must not matter, and what it teaches."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from atft.evaluation.portfolio import Book, tranche_book
from atft.training.losses import MIN_NAMES
from atft.training.portfolio_loss import LEAST_RISK, TEMPERATURE, book_facts, portfolio_loss, soft_weights
from training.test_losses import kept

DAYS, STOCKS, HORIZONS = 8, 25, (1, 3)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def market(seed: int = 0, days: int = DAYS) -> Tensor:
    """Forward returns of which some are unknown."""
    returns = 0.03 * normal(days, STOCKS, len(HORIZONS), seed=seed)
    returns[2, 3], returns[5, :2, 1] = torch.nan, torch.nan
    return returns


def loss(score: Tensor, returns: Tensor, cost_bps: float = 10, day_weight: Tensor | None = None) -> Tensor:
    return portfolio_loss(score, returns, HORIZONS, cost_bps, day_weight)


# --- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("outlier", [1.0, 1e4])
def test_soft_weights_have_gross_one_and_net_nothing(outlier: float) -> None:
    score, mask = normal(3, 40, 2, seed=1), torch.rand(3, 40, 2, generator=torch.Generator().manual_seed(0)) < 0.8
    score[:, 5] *= outlier
    weights = soft_weights(score, mask)
    torch.testing.assert_close(weights.abs().sum(1), torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(weights.sum(1), torch.zeros(3, 2, dtype=torch.float64))
    assert (weights[~mask] == 0).all()
    here = mask[0, :, 0]
    assert (weights[0, here, 0].argsort() == score[0, here, 0].argsort()).all()


def test_soft_weights_of_normal_scores_hold_as_many_names_as_two_deciles() -> None:
    """Effectively, 1 / sum of squares at gross 1; the comment's formula is that number without a sample."""
    stocks = 1_000_000
    grid = (torch.arange(stocks, dtype=torch.float64) + 0.5) / stocks
    score = torch.special.ndtri(grid)[None, :, None]
    names = 1 / soft_weights(score, torch.ones_like(score, dtype=torch.bool)).square().sum()
    assert names / stocks == pytest.approx(0.2, rel=0.02)
    a = torch.tensor(1 / TEMPERATURE)
    phi = torch.special.ndtr(a)
    formula = 2 * (a**2).exp() * (2 * phi - 1) ** 2 / ((2 * a**2).exp() - 1)
    assert formula.item() == pytest.approx(0.2, rel=1e-3)


def test_scores_that_tie_and_days_without_stocks_hold_nothing() -> None:
    score = torch.full((2, 30, 1), 3.0, requires_grad=True)
    mask = torch.ones(2, 30, 1, dtype=torch.bool)
    mask[1] = False
    weights = soft_weights(score, mask)
    assert (weights == 0).all()
    (gradient,) = torch.autograd.grad((weights * normal(2, 30, 1).float()).sum(), score)
    assert torch.isfinite(gradient).all()


# --- the book -------------------------------------------------------------------------------------


def book_of(weights: np.ndarray, daily: np.ndarray, first: int, horizon: int, delay: int, **knobs: bool) -> Book:
    """The book of a block whose first signal is of day `first`; before and after it nothing is wanted."""
    target = np.zeros(daily.shape)
    target[first : first + len(weights)] = weights
    always = np.ones(daily.shape, bool)
    return tranche_book(target, daily, always, ~always, horizon, delay, **knobs)


@pytest.mark.parametrize("delay", [1, 2])
@pytest.mark.parametrize("horizon", [1, 2, 5])
def test_gross_and_turnover_are_those_of_the_tranche_book(horizon: int, delay: int) -> None:
    """Without drift a sleeve earns the sum of its days' returns; left to drift, on constant capital, their product."""
    rng = np.random.default_rng(horizon)
    first, total = horizon, horizon + DAYS + delay + horizon + 2
    daily = rng.normal(0, 0.02, (total, STOCKS))
    held = [slice(first + t + delay + 1, first + t + delay + 1 + horizon) for t in range(DAYS)]
    summed = np.array([daily[days].sum(0) for days in held])[..., None]
    compounded = np.array([np.prod(1 + daily[days], 0) - 1 for days in held])[..., None]
    summed[3, :4] = compounded[3, :4] = np.nan
    weights = soft_weights(normal(DAYS, STOCKS, 1, seed=delay), torch.isfinite(torch.from_numpy(summed)))
    reset = book_of(weights[..., 0].numpy(), daily, first, horizon, delay, drift=False)
    left = book_of(weights[..., 0].numpy(), daily, first, horizon, delay, drift=True, netted=False)
    for book, returns in ((reset, summed), (left, compounded)):
        gross, turnover, _ = book_facts(weights, torch.from_numpy(returns), [horizon])
        assert gross.item() == pytest.approx(np.nansum(book.gross) / DAYS)
    interior = reset.turnover[first + horizon + delay + 1 : first + DAYS + delay + 1]
    assert len(interior) == DAYS - horizon
    assert turnover.item() == pytest.approx(interior.mean())


def test_risk_is_the_deviation_of_stocks_that_move_on_their_own() -> None:
    """Over draws of independent returns around a common one: net 0 keeps the common one out."""
    rng = np.random.default_rng(0)
    weights = soft_weights(normal(1, STOCKS, 2), torch.ones(1, STOCKS, 2, dtype=torch.bool)).repeat(4000, 1, 1)
    common = 0.1 * rng.normal(size=(4000, 1, 1))
    returns = torch.from_numpy(common + rng.normal(0, 0.03, (4000, STOCKS, 2)))
    _, _, risk = book_facts(weights, returns, HORIZONS)
    found = (weights * returns).sum(1).std(0) / torch.tensor(HORIZONS)
    torch.testing.assert_close(risk, found, rtol=0.05, atol=0)


def test_a_block_that_is_too_short_compares_its_ends_and_a_day_alone_trades_nothing() -> None:
    returns = 0.01 * normal(4, STOCKS, 1)
    weights = soft_weights(normal(4, STOCKS, 1, seed=1), torch.isfinite(returns))
    ends = (weights[3] - weights[0]).abs().sum() / 20
    assert book_facts(weights, returns, [20])[1].item() == pytest.approx(ends.item())
    assert book_facts(weights[:1], returns[:1], [20])[1].item() == 0


def test_the_ends_of_a_short_block_are_a_lower_bound_where_opinions_fade() -> None:
    """Scores that forget a tenth a day, 40 days, cut into blocks of 5, held 10 days."""
    score = [normal(200, 1)]
    for day in range(39):
        score.append(0.9 * score[-1] + 0.19**0.5 * normal(200, 1, seed=day + 1))
    returns = 0.01 * normal(40, 200, 1)
    weights = soft_weights(torch.stack(score), torch.isfinite(returns))
    whole = book_facts(weights, returns, [10])[1]
    cut = torch.stack([book_facts(weights[d : d + 5], returns[d : d + 5], [10])[1] for d in range(0, 40, 5)])
    assert 0.4 * whole < cut.mean() < whole


# --- the loss -------------------------------------------------------------------------------------


def test_the_loss_is_minus_the_net_return_over_the_risk() -> None:
    score, returns = normal(DAYS, STOCKS, 2, seed=1), market()
    gross, turnover, risk = book_facts(soft_weights(score, torch.isfinite(returns)), returns, HORIZONS)
    torch.testing.assert_close(loss(score, returns, 25), -(gross - 0.0025 * turnover) / risk)
    assert (turnover > 0.1).all()


def test_gradients_are_those_of_the_values_at_the_same_risk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The risk is a unit, not an aim: with the one at hand for good, the gradient is the value's."""
    score, returns = normal(5, STOCKS, 2, seed=1).requires_grad_(), market(days=6)[:5]
    returns[4, MIN_NAMES - 1 :] = torch.nan
    _, _, risk = book_facts(soft_weights(score, torch.isfinite(returns)), returns, HORIZONS)
    weight = 1 + torch.rand(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (expected,) = torch.autograd.grad(loss(score, returns, day_weight=weight).sum(), score)

    def with_fixed_risk(weights: Tensor, *args: object) -> tuple[Tensor, Tensor, Tensor]:
        return *book_facts(weights, *args)[:2], risk  # pyright: ignore

    monkeypatch.setattr("atft.training.portfolio_loss.book_facts", with_fixed_risk)
    assert torch.autograd.gradcheck(lambda s: loss(s, returns, day_weight=weight), (score,))
    (found,) = torch.autograd.grad(loss(score, returns, day_weight=weight).sum(), score)
    torch.testing.assert_close(found, expected)
    assert (expected[:4] != 0).any(1).all()
    assert (expected[4] == 0).all()


def test_shift_and_scale_of_a_days_scores_change_nothing() -> None:
    score, returns = normal(DAYS, STOCKS, 2, seed=1), market()
    size = 0.5 + torch.rand(DAYS, 1, 1, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(loss(size * score + 7 * size, returns), loss(score, returns), atol=1e-6, rtol=1e-6)


def test_the_unit_of_returns_and_costs_changes_nothing() -> None:
    score, returns = normal(DAYS, STOCKS, 2, seed=1), market()
    torch.testing.assert_close(loss(score, 3 * returns, 30), loss(score, returns, 10))


def test_unknown_stocks_and_small_days_do_not_matter() -> None:
    score, returns = normal(DAYS, STOCKS, 2, seed=1), market()
    wild = torch.where(torch.isfinite(returns), score, 1e6)
    torch.testing.assert_close(loss(wild, returns), loss(score, returns))
    thin = returns.clone()
    thin[-1, MIN_NAMES - 1 :] = torch.nan
    torch.testing.assert_close(loss(score, thin), loss(score[:-1], returns[:-1]))
    assert (loss(score, torch.full_like(returns, torch.nan)) == 0).all()


def test_a_market_without_risk_gives_a_finite_loss() -> None:
    """All stocks earn the same: net 0 earns nothing, and trading is paid in basis points."""
    score = normal(DAYS, STOCKS, 2, seed=1)
    level = torch.full((DAYS, STOCKS, 2), 0.02, dtype=torch.float64)
    _, turnover, _ = book_facts(soft_weights(score, torch.isfinite(level)), level, HORIZONS)
    expected = 1e-3 * turnover * torch.tensor(HORIZONS) / LEAST_RISK
    torch.testing.assert_close(loss(score, level), expected, atol=1e-9, rtol=1e-6)


def test_days_count_by_their_weight_relative_to_all_of_training() -> None:
    """Not to the block: half the weight for all of its days is half the loss."""
    score, returns = normal(DAYS, STOCKS, 2, seed=1), market()
    half = torch.full((DAYS, 2), 0.5, dtype=torch.float64)
    torch.testing.assert_close(loss(score, returns, day_weight=half), loss(score, returns) / 2)
    weight = torch.rand(DAYS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = soft_weights(score, torch.isfinite(returns))
    gross, turnover, risk = book_facts(weights, returns, HORIZONS, weight)
    earned = (weights * returns.nan_to_num()).sum(1) * weight
    torch.testing.assert_close(gross, earned.mean(0) / torch.tensor(HORIZONS))
    change = (weights[3:, :, 1] - weights[:-3, :, 1]).abs().sum(1) * weight[3:, 1]
    torch.testing.assert_close(turnover[1], change.mean() / 3)
    torch.testing.assert_close(risk, book_facts(weights, returns, HORIZONS)[2])


def test_descent_earns_more_and_a_dearer_book_trades_less() -> None:
    """Free scores and returns that nobody could foresee: only the cost decides how often to change one's mind."""
    returns = market()

    def trained(cost_bps: float) -> tuple[Tensor, Tensor, Tensor]:
        score = normal(DAYS, STOCKS, 2, seed=1).requires_grad_()
        before = loss(score, returns, cost_bps).detach()
        optimizer = torch.optim.Adam([score], lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            loss(score, returns, cost_bps).sum().backward()
            optimizer.step()
        assert (loss(score, returns, cost_bps) < before - 0.5).all()
        return book_facts(soft_weights(score.detach(), torch.isfinite(returns)), returns, HORIZONS)

    free, dear = trained(0), trained(200)
    assert (dear[1] < 0.8 * free[1]).all()
    assert (dear[0] < free[0]).all()


def test_memory_grows_in_proportion_to_the_stocks() -> None:
    def of(stocks: int) -> int:
        score, returns = normal(4, stocks, 1).requires_grad_(), 0.01 * normal(4, stocks, 1, seed=1)
        work: Callable[[], Tensor] = lambda: portfolio_loss(score, returns, [1], 10)  # noqa: E731
        return kept(work)

    small, large = of(100), of(400)
    assert 0 < large <= 4 * small
