"""Which date plays which role in which fold, decided once."""

from collections.abc import Sequence
from datetime import date
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError


def train_positions(
    dates: int, blocks: Sequence[tuple[int, int]], span: int, embargo: int, lookback: int
) -> NDArray[np.int64]:
    """Positions among 0 .. dates - 1 that may train while `blocks` are held out.

    A label at t reaches from t to t + span, a row's features from t - lookback + 1 to t. Around a
    block of days s0 .. s1 a day t is dropped when

        [t, t + span] meets [s0, s1 + span]       labels share a price; one is enough (closed intervals)
        s1 + span < t <= s1 + span + embargo      too near the block's last label
        s1 < t < s1 + lookback                    its features saw the block

    Source: Lopez de Prado, Advances in Financial Machine Learning, snippet 7.1 and section 7.4.2;
    the last line is ours.
    """
    t = np.arange(dates)
    keep = np.ones(len(t), bool)
    for s0, s1 in blocks:
        keep &= (t < s0 - span) | (t > s1 + max(span + embargo, lookback - 1))
    return t[keep]


def make_splits(
    dates: Sequence[date],
    first: int,
    scheme: Literal["expanding", "rolling", "purged_kfold"],
    valid: int | Sequence[date],
    test: int | Sequence[date],
    block_days: int,
    stop_days: int,
    purge: int,
    min_train_days: int,
    train_days: int,
    embargo: int,
    lookback: int,
    seal_test: bool = False,
) -> pl.DataFrame:
    """Folds as rows `fold, date, role`, one fold per held-out block, from its first used date on.

        expanding      train ............ | purged | stop | purged | block
        rolling                 train ... | purged | stop | purged | block
        purged_kfold   train . | purged | stop | purged | block | purged, embargo | train ...

    Test blocks come after every valid block and learn from the past alone, in every scheme. The
    last `purge` dates before the first of them are never judged by `valid`, nor trained on for it:
    tuning sees no return of the test period. purged_kfold cuts all dates up to there into `valid`
    folds of (nearly) equal length, each held out once.

    Args:
        dates: All trading days, ascending.
        first: Index of the first date with a cross-section worth ranking.
        scheme: Which days train for a block: all earlier ones, the last `train_days` of them, or for
            valid blocks those on both sides.
        valid, test: Number of blocks of `block_days` counted back from the last date, or the
            first day of each block; a block ends where the next starts. purged_kfold: `valid` is
            the number of folds.
        stop_days: Length of the tail of the training data on which training stops early.
        purge: Trading days that a label reaches ahead: at least delay + longest horizon.
        train_days: Longest training side (rolling).
        embargo, lookback: See `train_positions`; they matter to days after a block alone
            (purged_kfold).
        seal_test: Give the test blocks no fold: their dates stay reserved, nobody trains for them or looks.

    Raises:
        InputError: When the dates do not suffice.
    """
    tests = test if isinstance(test, int) else len(test)
    starts = _block_starts(dates, test if scheme == "purged_kfold" else _joined(valid, test), block_days)
    ends = [*starts[1:], len(dates)]
    first_test = len(starts) - tests
    open_end = starts[first_test] - purge
    # A block, the date before which its training days lie, and the end of its fold.
    blocks = [
        (np.arange(start, end if fold >= first_test else min(end, open_end)), start, end)
        for fold, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]
    if scheme == "purged_kfold":
        assert isinstance(valid, int)
        parts = np.array_split(np.arange(first, open_end), valid)
        blocks = [(part, open_end, starts[0]) for part in parts] + blocks

    rows = []
    for fold, (block, limit, end) in enumerate(blocks[: len(blocks) - tests] if seal_test else blocks):
        if len(block) == 0:
            raise InputError(
                f"split: too few dates: valid block {fold} has none left before the split.purge of {purge} days that "
                f"ends at the first test block, {dates[starts[first_test]]}; bring more history, or longer blocks"
            )
        train, stop = _learning_days(first, limit, block, stop_days, purge, min_train_days, embargo, lookback)
        if scheme == "rolling":
            train = train[-train_days:]
        if len(train) < min_train_days:
            raise InputError(
                f"split: too few dates: the block from {dates[block[0]]} leaves {len(train)} days to train on, "
                f"split.min_train_days asks for {min_train_days}; bring more history, or fewer or shorter blocks"
            )
        roles = np.full(end, "purged", dtype=object)
        roles[train], roles[stop] = "train", "stop"
        roles[block] = "test" if fold >= len(blocks) - tests else "valid"
        begin = min(train[0], stop[0], block[0])
        rows += [(fold, day, role) for day, role in zip(dates[begin:end], roles[begin:], strict=True)]
    return pl.DataFrame(rows, schema={"fold": pl.Int32, "date": pl.Date, "role": pl.String}, orient="row")


def _learning_days(
    first: int,
    limit: int,
    block: NDArray[np.int64],
    stop_days: int,
    purge: int,
    min_train_days: int,
    embargo: int,
    lookback: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Train and stop positions in first .. limit - 1 around the block; no train where `stop` finds no room.

    `stop` is the tail of the days before the block where `min_train_days` remain before it, as in
    walk-forward, else the tail of those after it, unless these are too few.
    """

    def kept(*held: NDArray[np.int64]) -> NDArray[np.int64]:
        t = train_positions(limit, [(days[0], days[-1]) for days in held], purge, embargo, lookback)
        return t[t >= first]

    days = kept(block)
    before, after = days[days < block[0]], days[days > block[0]]
    room = len(before) >= min_train_days + purge + stop_days
    stop = (before if room or len(after) < stop_days else after)[-stop_days:]
    return (kept(block, stop) if len(stop) == stop_days else days[:0]), stop


def _joined(valid: int | Sequence[date], test: int | Sequence[date]) -> int | Sequence[date]:
    if isinstance(valid, int) and isinstance(test, int):
        return valid + test
    if isinstance(valid, int) or isinstance(test, int):
        raise InputError("split: give valid and test both as numbers of blocks, or both as lists of first days")
    return [*valid, *test]


def _block_starts(dates: Sequence[date], blocks: int | Sequence[date], block_days: int) -> list[int]:
    if isinstance(blocks, int):
        return [max(len(dates) - block_days * k, 0) for k in range(blocks, 0, -1)]
    if list(blocks) != sorted(set(blocks)):
        raise InputError("split: the first days of the valid and test blocks must ascend, test after valid")
    for day in blocks:
        if not dates[0] < day <= dates[-1]:
            raise InputError(f"split: block start {day} lies outside the data ({dates[0]} to {dates[-1]})")
    return [int(np.searchsorted(np.array(dates, "datetime64[D]"), np.datetime64(day))) for day in blocks]


def follow_in_time(splits: pl.DataFrame, role: str) -> bool:
    """Whether every fold of this role learned from earlier dates alone, so that its scores could have been traded."""
    learned = splits.filter(pl.col("role").is_in(["train", "stop"])).group_by("fold").agg(last=pl.col("date").max())
    held = splits.filter(pl.col("role") == role).group_by("fold").agg(first=pl.col("date").min())
    return bool((held.join(learned, on="fold").select(pl.col("first") > pl.col("last")).to_series()).all())
