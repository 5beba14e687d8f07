"""Which date plays which role in which fold, decided once."""

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from atft.errors import InputError

ROLES = ("train", "stop", "valid", "test", "purged")


def walk_forward(
    dates: Sequence[date],
    first: int,
    valid: int | Sequence[date],
    test: int | Sequence[date],
    block_days: int,
    stop_days: int,
    purge: int,
    min_train_days: int,
) -> pl.DataFrame:
    """Expanding walk-forward folds: `fold, date, role`, one fold per held-out block.

        train ........ | purged | stop | purged | valid or test block

    Test blocks come after every valid block. The last `purge` dates before the first test block
    are held out of the valid block, so that tuning never sees a return of the test period.

    Args:
        dates: All trading days, ascending.
        first: Index of the first date with a cross-section worth ranking.
        valid, test: Number of blocks of `block_days` counted back from the last date, or the
            first day of each block; a block ends where the next starts.
        stop_days: Length of the tail of the training data on which training stops early.
        purge: Trading days left out on both sides of `stop`: at least delay + longest horizon.

    Raises:
        InputError: When the dates do not suffice.
    """
    starts, tests = _block_starts(dates, valid, test, block_days)
    rows = []
    for fold, start in enumerate(starts):
        end = starts[fold + 1] if fold + 1 < len(starts) else len(dates)
        is_test = fold >= len(starts) - tests
        stop = start - purge - stop_days
        train_end = stop - purge
        if train_end - first < min_train_days:
            raise InputError(
                f"split: too few dates: the block from {dates[start]} leaves {max(train_end - first, 0)} days to train "
                f"on, split.min_train_days asks for {min_train_days}; bring more history, or fewer or shorter blocks"
            )
        held_end = end - purge if fold == len(starts) - tests - 1 else end
        if held_end <= start:
            raise InputError(
                f"split: block {fold} from {dates[start]} is shorter than the purge of {purge} days; lengthen it"
            )
        roles = np.full(end - first, "purged", dtype=object)
        roles[: train_end - first] = "train"
        roles[stop - first : stop + stop_days - first] = "stop"
        roles[start - first : held_end - first] = "test" if is_test else "valid"
        rows += [(fold, day, role) for day, role in zip(dates[first:end], roles, strict=True)]
    return pl.DataFrame(rows, schema={"fold": pl.Int32, "date": pl.Date, "role": pl.String}, orient="row")


def _block_starts(
    dates: Sequence[date], valid: int | Sequence[date], test: int | Sequence[date], block_days: int
) -> tuple[list[int], int]:
    if isinstance(valid, int) or isinstance(test, int):
        if not (isinstance(valid, int) and isinstance(test, int)):
            raise InputError("split: give valid and test both as numbers of blocks, or both as lists of first days")
        starts = [max(len(dates) - block_days * k, 0) for k in range(valid + test, 0, -1)]
        return starts, test
    days = [*valid, *test]
    if days != sorted(set(days)):
        raise InputError("split: the first days of the valid and test blocks must ascend, test after valid")
    for day in days:
        if not dates[0] < day <= dates[-1]:
            raise InputError(f"split: block start {day} lies outside the data ({dates[0]} to {dates[-1]})")
    return [int(np.searchsorted(np.array(dates, "datetime64[D]"), np.datetime64(day))) for day in days], len(test)
