"""Who predicts: a fold that never saw the day."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from atft.errors import InputError
from atft.predict.policy import age, fold_of, folds_of, learned_until, seeds_of

START = date(2020, 1, 1)


def day(number: int) -> date:
    return START + timedelta(days=number)


def splits(*roles: tuple[int, str, int, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [(fold, day(n), role) for fold, role, first, last in roles for n in range(first, last)],
        schema={"fold": pl.Int64, "date": pl.Date, "role": pl.String},
        orient="row",
    )


WALK = splits((0, "train", 0, 30), (0, "stop", 33, 37), (0, "valid", 40, 47), (1, "train", 0, 40), (1, "stop", 43, 47),
              (1, "test", 50, 60))  # fmt: skip
KFOLD = splits((0, "valid", 0, 20), (0, "stop", 23, 27), (0, "train", 30, 40), (1, "train", 0, 10), (1, "stop", 13, 17),
               (1, "valid", 20, 40), (2, "train", 0, 30), (2, "stop", 33, 37), (2, "test", 40, 50))  # fmt: skip


@pytest.mark.parametrize(
    ("table", "number", "fold"),
    [(WALK, 40, 0), (WALK, 46, 0), (WALK, 48, 0), (WALK, 50, 1), (WALK, 59, 1), (WALK, 90, 1), (WALK, 39, None),
     (KFOLD, 5, None), (KFOLD, 25, 1), (KFOLD, 45, 2), (KFOLD, 60, 2)],
)  # fmt: skip
def test_the_fold_that_never_saw_the_day(table: pl.DataFrame, number: int, fold: int | None) -> None:
    """In its block, between blocks the one before, after the last the newest; before the first nobody; nobody either
    where the fold that holds the day out learned from later ones."""
    assert fold_of(table, day(number), "unseen") == fold


def test_one_fold_for_every_day_but_those_it_learned_from() -> None:
    assert [fold_of(WALK, day(n), 0) for n in (30, 39, 40, 90)] == [None, None, 0, 0]
    assert fold_of(WALK, day(46), 1) is None
    assert fold_of(KFOLD, day(35), 0) is None  # it learned from days after its block
    with pytest.raises(InputError, match=r"predict.fold: 7 is no fold; there are \[0, 1\]"):
        fold_of(WALK, day(90), 7)


def test_a_book_reaches_back_as_far_as_somebody_never_saw_the_days() -> None:
    assert folds_of(WALK, [day(n) for n in range(36, 43)], "unseen") == [0, 0, 0]
    assert folds_of(WALK, [day(n) for n in range(47, 52)], "unseen") == [0, 0, 0, 1, 1]
    with pytest.raises(
        InputError, match=f"--date {day(20)}: every fold learned from that day .* never saw is {day(40)}"
    ):
        folds_of(WALK, [day(20)], "unseen")


def test_a_held_out_day_between_training_days_is_no_prediction() -> None:
    """purged_kfold: `evaluate` judges its scores and has no book of them; `learned_until` had nothing to say."""
    says = "every fold learned from that day or from later ones.* never saw is"
    with pytest.raises(InputError, match=f"--date {day(5)}: {says} {day(20)}"):
        folds_of(KFOLD, [day(5)], "unseen")
    both = splits((0, "train", 0, 10), (0, "valid", 20, 30), (0, "stop", 40, 44), (0, "train", 50, 60))
    with pytest.raises(InputError, match=f"--date {day(25)}: {says} after {day(59)}"):
        folds_of(both, [day(25)], "unseen")
    with pytest.raises(InputError, match=f"--date {day(30)}: fold 0 learned from .* never saw is after {day(39)}"):
        folds_of(KFOLD, [day(30)], 0)
    assert folds_of(KFOLD, [day(n) for n in range(18, 22)], "unseen") == [1, 1]


def test_age_counts_trading_days() -> None:
    dates = np.array([day(n) for n in range(0, 100, 2)], "datetime64[D]")
    assert learned_until(WALK, 1, day(59)) == day(46)
    assert age(dates, day(46), day(58)) == 6


def test_seeds_must_have_been_trained() -> None:
    assert seeds_of([0, 3], "all") == [0, 3]
    assert seeds_of([0, 3], [3]) == [3]
    with pytest.raises(InputError, match=r"predict.seeds: 1 was not trained; models/ranker holds seeds \[0, 3\]"):
        seeds_of([0, 3], [0, 1])
