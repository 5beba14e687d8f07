"""Which epoch is kept: the luckiest on `stop`, or the latest that is not seen to be worse."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from atft.training.choice import Choice, Keep

DAYS = 60


def epochs(*levels: float, noise: float = 0.0) -> list[NDArray[np.float64]]:
    """RankIC [horizon, day] of epochs with these means, whose differences vary by `noise` from day to day."""
    rng = np.random.default_rng(0)
    common = rng.normal(0, 0.1, (2, DAYS))
    common -= common.mean()
    found = []
    for level in levels:
        own = rng.normal(0, noise, (2, DAYS)) if noise else np.tile([1e-6, -1e-6], (2, DAYS // 2))
        found.append(common + level + own - own.mean())
    return found


def chosen(keep: Keep, found: list[NDArray[np.float64]], patience: int = 9) -> int:
    choice = Choice(keep, 5, patience)
    return [epoch for epoch, rank_ics in enumerate(found) if choice.keeps(rank_ics)][-1]


@pytest.mark.parametrize(
    ("levels", "noise", "best", "latest"),
    [
        ((0.05, 0.10, 0.11), 0.05, 2, 2),  # the last is the best
        ((0.11, 0.10, 0.109), 0.05, 0, 2),  # an early one was lucky
        ((0.11, 0.02, 0.01), 0.05, 0, 0),  # the later ones are seen to be worse
        ((0.11, 0.108, 0.02), 0.05, 0, 1),
        ((0.11, 0.109, 0.108), 0.0, 0, 0),  # hardly any noise: a thousandth is seen
    ],
)
def test_an_early_epoch_stays_only_when_it_is_seen_to_be_better(
    levels: tuple[float, ...], noise: float, best: int, latest: int
) -> None:
    found = epochs(*levels, noise=noise)
    assert (chosen("best", found), chosen("latest", found)) == (best, latest)


def test_patience_counts_from_the_best() -> None:
    choice, over = Choice("latest", 5, patience=2), []
    for rank_ics in epochs(0.10, 0.11, 0.109, 0.108, noise=0.05):
        choice.keeps(rank_ics)
        over.append(choice.is_over)
    assert over == [False, False, False, True]


def test_days_and_epochs_without_a_rank_ic_are_passed_over() -> None:
    first, second = epochs(0.10, 0.099, noise=0.05)
    first[:, :10] = np.nan
    second[0, 5:20] = np.nan
    assert chosen("latest", [first, second]) == 1
    nothing = np.full((2, DAYS), np.nan)
    assert chosen("latest", [nothing, nothing]) == 0
    assert chosen("latest", [nothing, first]) == 1


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_it_goes_on_where_it_was(cut: int) -> None:
    found = epochs(0.10, 0.11, 0.109, 0.02, noise=0.05)
    whole, before, after = (Choice("latest", 5, 9) for _ in range(3))
    said = [whole.keeps(rank_ics) for rank_ics in found]
    again = [before.keeps(rank_ics) for rank_ics in found[:cut]]
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert again + [after.keeps(rank_ics) for rank_ics in found[cut:]] == said
