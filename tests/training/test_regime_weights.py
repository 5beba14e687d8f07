"""Weights of days by regime: bounds, what may decide about them, and which days they favour."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from atft.evaluation.market import REGIMES, Market
from atft.training.losses import correlation_loss, daily_correlation
from atft.training.regimes import MIN_DAYS, SHRINK_DAYS, STATES, RegimeWeights, log_weights, market_states, normalized
from conftest import World
from training.test_losses import labels, scores
from training.test_training import BLINK, REGIMES_KNOWN, small_network, train

T, HORIZONS, DELAY = 400, (1, 5), 1
BAD = 2


def some_states(seed: int = 0) -> np.ndarray:
    """Unknown for 30 days, then states that last 10 days."""
    state = np.random.default_rng(seed).integers(0, len(STATES), T // 10).repeat(10)
    state[:30] = -1
    return state.astype(np.int8)


def some_quality(seed: int = 0, known: float = 0.9) -> np.ndarray:
    """Daily correlations, some days of which were never seen; worse in one state."""
    rng = np.random.default_rng(seed)
    quality = rng.normal(0.05, 0.1, (T, 2)) - 0.1 * (some_states(seed) == BAD)[:, None]
    quality[rng.random(T) > known] = np.nan
    return quality


# --- states ---------------------------------------------------------------------------------------


def test_states_are_named_by_volatility_then_correlation(world: World) -> None:
    assert STATES == ("calm_dispersed", "calm_together", "stormy_dispersed", "stormy_together")
    market = Market.of(world.panel)
    volatility = np.array([-1, 0, 0, 1, 1, 1], np.int8)
    together = np.array([0, 0, 1, 0, 1, -1], np.int8)
    market.__dict__["regimes"] = dict(zip(REGIMES, (volatility, together), strict=True))
    assert market_states(market).tolist() == [-1, 0, 1, 2, 3, -1]


def test_returns_after_a_day_change_no_state_up_to_it(world: World) -> None:
    """A calm market of stocks on their own; all fall by a third the day after: it shows on that very day."""
    today = 170
    calm = world.panel.daily_return.copy()
    calm[110:] = 0.001 * np.random.default_rng(0).normal(size=calm[110:].shape)
    fall = calm.copy()
    fall[today + 1 :] = -0.3
    one, two = (market_states(Market.of(replace(world.panel, daily_return=returns))) for returns in (calm, fall))
    np.testing.assert_array_equal(one[: today + 1], two[: today + 1])
    assert one[today] == one[today + 1] == STATES.index("calm_dispersed")
    assert two[today + 1] == STATES.index("stormy_together")


# --- weights --------------------------------------------------------------------------------------


@settings(deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 60), st.integers(1, 3)), elements=st.floats(-2000, 2000)))
def test_normalized_weights_have_mean_one_within_bounds_and_keep_their_order(wanted: np.ndarray) -> None:
    weight = normalized(wanted)
    assert weight.min() >= 0.5 - 1e-12
    assert weight.max() <= 2 + 1e-12
    np.testing.assert_allclose(weight.mean(0), 1, atol=1e-9)
    for column, found in zip(wanted.T, weight.T, strict=True):
        assert (np.diff(found[column.argsort()]) >= 0).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_weights_of_training_days_have_mean_one_within_bounds(seed: int, strength: float) -> None:
    days = np.flatnonzero(np.random.default_rng(seed).random(T) < 0.8)
    weights = RegimeWeights(some_states(seed), days.tolist(), HORIZONS, DELAY, strength)
    weights.saw(range(T), some_quality(seed))
    weights.next_epoch()
    found = weights.weight[days]
    assert found.min() >= 0.5 - 1e-12
    assert found.max() <= 2 + 1e-12
    np.testing.assert_allclose(found.mean(0), 1, atol=1e-9)
    assert (weights.weight[some_states(seed) < 0] == 1).all()


def test_weights_follow_their_definition() -> None:
    """Day by day in plain words."""
    state, quality = some_states(), some_quality()
    found = log_weights(quality, state, HORIZONS, DELAY, strength=2.0)

    def sharpe(days: list[int], column: int) -> float:
        return float(np.mean(quality[days, column]) / np.std(quality[days, column], ddof=1))

    for column, horizon in enumerate(HORIZONS):
        for day in range(T):
            before = [s for s in range(day - horizon - DELAY + 1) if np.isfinite(quality[s, column])]
            alike = [s for s in before if state[s] == state[day]]
            expected = 0.0
            if state[day] >= 0 and len(alike) >= MIN_DAYS:
                trust = len(alike) / (len(alike) + SHRINK_DAYS)
                expected = 2.0 * trust * (sharpe(before, column) - sharpe(alike, column))
            assert found[day, column] == pytest.approx(expected, abs=1e-9)
    assert (found != 0).mean() > 0.5


@pytest.mark.parametrize("today", [150, 333])
def test_labels_that_had_not_ended_change_no_weight(today: int) -> None:
    """But the one factor for all: a day's own weight knows what ended by its close, to the last day of it."""
    state = some_states()
    label = torch.randn(T, 30, 2, generator=torch.Generator().manual_seed(0))
    score = label + 2 * torch.randn(T, 30, 2, generator=torch.Generator().manual_seed(1))

    def weighed(first_wrong: int) -> np.ndarray:
        wrong = label.clone()
        wrong[first_wrong:] = -label[first_wrong:]
        return log_weights(daily_correlation(score, wrong).double().numpy(), state, HORIZONS, DELAY, 2.0)

    whole = weighed(T)
    for column, horizon in enumerate(HORIZONS):
        last = today - (horizon + DELAY)
        later, now = weighed(last + 1)[:, column], weighed(last)[:, column]
        np.testing.assert_array_equal(later[: today + 1], whole[: today + 1, column])
        assert now[today] != whole[today, column]
        assert not np.array_equal(later, whole[:, column])


def test_a_state_that_is_ranked_badly_weighs_more() -> None:
    weights = RegimeWeights(some_states(), range(T), HORIZONS, DELAY, strength=1.0)
    weights.saw(range(T), some_quality())
    first, second = weights.next_epoch(), weights.next_epoch()
    assert set(first.values()) == {1.0}
    name = f"regime_weight_{STATES[BAD]}"
    assert second[name] == max(second.values())  # pyright: ignore
    late = np.arange(T) >= 200
    bad = some_states() == BAD
    assert weights.weight[late & bad].min() > 1.2
    assert weights.weight[late & ~bad & (some_states() >= 0)].max() < 1


def test_a_stronger_weighting_spreads_the_weights_more() -> None:
    def spread(strength: float) -> float:
        weights = RegimeWeights(some_states(), range(T), HORIZONS, DELAY, strength)
        weights.saw(range(T), some_quality())
        weights.next_epoch()
        return float(weights.weight.std())

    assert spread(0.2) == pytest.approx(4 * spread(0.05), rel=0.1)
    assert spread(0.2) < spread(1.0) < spread(5.0)


def test_days_not_seen_keep_what_they_had_and_days_never_seen_are_left_out() -> None:
    quality = some_quality(known=1.0)
    seen, never = np.arange(T) % 3 == 0, np.arange(T) % 3 == 1
    weights = RegimeWeights(some_states(), range(T), HORIZONS, DELAY, 1.0)
    weights.saw(np.flatnonzero(~never).tolist(), quality[~never])
    weights.next_epoch()
    weights.saw(np.flatnonzero(seen).tolist(), 2 * quality[seen])
    weights.saw([1, 2], np.full((2, 2), np.nan))
    expected = np.where(seen[:, None], 2 * quality, quality)
    expected[never] = np.nan
    weights.next_epoch()
    np.testing.assert_array_equal(weights.quality, expected)
    known = some_states() >= 0
    np.testing.assert_array_equal(
        weights.weight[known], normalized(log_weights(expected, some_states(), HORIZONS, DELAY, 1.0)[known])
    )


def test_the_quality_of_a_day_is_what_the_correlation_loss_takes_from_one() -> None:
    label = labels()
    label[1, 12:, 0] = torch.nan
    score = scores(label)
    found = daily_correlation(score.bfloat16(), label)
    assert torch.isnan(found[1, 0])
    assert torch.isfinite(found).sum() == 5
    each = torch.stack([1 - correlation_loss(score[d : d + 1].bfloat16(), label[d : d + 1]) for d in range(3)])
    torch.testing.assert_close(found.nan_to_num(1), each)


# --- in training ----------------------------------------------------------------------------------


def test_an_epoch_tells_its_weights_where_they_are_asked_for_and_the_first_is_as_without(world: World) -> None:
    plain, *weighted = (
        train(small_network(world), world.panel, world, **BLINK | REGIMES_KNOWN, regime_weighting=strength)
        for strength in (0.0, 5.0, 5.0)
    )
    assert weighted[0] == weighted[1]
    first, second = weighted[0]
    state = market_states(Market.of(world.panel))[REGIMES_KNOWN["days"]]
    told = {f"regime_weight_{name}": 1.0 if n in state else None for n, name in enumerate(STATES)}
    assert first == plain[0] | told
    assert 1.0 in told.values()
    for name, value in told.items():
        assert second[name] == (None if value is None else pytest.approx(1))
    assert second["train_loss"] != plain[1]["train_loss"]
