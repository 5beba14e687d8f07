"""Which fold predicts a date, and how old its model is."""

from collections.abc import Sequence
from datetime import date
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError

HELD, LEARNED = ("valid", "test"), ("train", "stop")


def fold_of(splits: pl.DataFrame, day: date, fold: int | Literal["unseen"]) -> int | None:
    """The fold whose models predict `day`, and never saw it; None where all that may be asked learned from it or later.

    unseen: the fold that holds the day out; between two blocks the one before; after the last block the newest. So
    scores of held-out days are those that `evaluate` judges. A valid block of purged_kfold has later training days:
    nobody could have traded its scores, and `evaluate` has no book of them.

    Args:
        splits: `fold, date, role`.
        fold: "unseen", or one fold for every day.

    Raises:
        InputError: When there is no such fold.
    """
    if fold != "unseen" and fold not in splits["fold"]:
        raise InputError(f"predict.fold: {fold} is no fold; there are {splits['fold'].unique().sort().to_list()}")
    here = splits.filter((pl.col("date") == day) & pl.col("role").is_in(HELD))["fold"].to_list()
    earlier = _held_and_learned(splits).filter((pl.col("first") <= day) & (pl.col("last") < day)).sort("first")
    able = earlier["fold"].to_list()  # the last one is the newest
    able += [one for one in here if one in able]  # or the one that holds the day out
    if fold == "unseen":
        return able[-1] if able else None
    return fold if fold in able else None


def _held_and_learned(splits: pl.DataFrame) -> pl.DataFrame:
    """`fold`, its `first` day held out and the `last` day that it learned from."""
    held = splits.filter(pl.col("role").is_in(HELD)).group_by("fold").agg(first=pl.col("date").min())
    learned = splits.filter(pl.col("role").is_in(LEARNED)).group_by("fold").agg(last=pl.col("date").max())
    return held.join(learned, on="fold")


def folds_of(splits: pl.DataFrame, days: Sequence[date], fold: int | Literal["unseen"]) -> list[int]:
    """`fold_of` of the last day, and of the days before it as far as an unbroken run of them has one.

    Raises:
        InputError: When the last day has none.
    """
    folds: list[int] = []
    for day in reversed(days):
        if (found := fold_of(splits, day, fold)) is None:
            break
        folds.insert(0, found)
    if not folds:
        asked = splits if fold == "unseen" else splits.filter(pl.col("fold") == fold)
        able = _held_and_learned(asked)
        held = asked.filter(pl.col("role").is_in(HELD)).join(able, on="fold").filter(pl.col("date") > pl.col("last"))
        first = held["date"].min() or f"after {able['last'].min()}"
        who = "every fold" if fold == "unseen" else f"fold {fold}"
        raise InputError(
            f"--date {days[-1]}: {who} learned from that day or from later ones, so this would be no prediction; the "
            f"first day that some fold never saw is {first}"
        )
    return folds


def learned_until(splits: pl.DataFrame, fold: int, day: date) -> date:
    """The last day up to `day` that the fold's models learned from: `train` or `stop`."""
    rows = splits.filter((pl.col("fold") == fold) & pl.col("role").is_in(LEARNED) & (pl.col("date") <= day))
    found = rows["date"].max()
    assert isinstance(found, date), "a fold that is asked has learned before"
    return found


def age(dates: NDArray[np.datetime64], learned: date, day: date) -> int:
    """Trading days from the last one a model learned from to `day`."""
    places = np.searchsorted(dates, np.array([learned, day], "datetime64[D]"))
    return int(places[1] - places[0])


def seeds_of(trained: Sequence[int], seeds: Sequence[int] | Literal["all"]) -> list[int]:
    """The seeds that predict together.

    Raises:
        InputError: When one of them was not trained.
    """
    if seeds == "all":
        return list(trained)
    if missing := [seed for seed in seeds if seed not in trained]:
        raise InputError(f"predict.seeds: {missing[0]} was not trained; models/ranker holds seeds {list(trained)}")
    return list(seeds)
