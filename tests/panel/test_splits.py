"""Sides of a split that never overlap, against published tables, skfolio and the definitions themselves."""

import json
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from skfolio.model_selection import CombinatorialPurgedCV, WalkForward

from atft.errors import InputError
from atft.panel.splits import follow_in_time, make_splits, train_positions

VECTORS = json.loads((Path(__file__).parents[1] / "evaluation" / "vectors.json").read_text())
Block = tuple[int, int]


def positions(text: str) -> list[int]:
    """ "0-1,15" -> [0, 1, 15]"""
    ends = [[int(end) for end in part.split("-")] for part in text.split(",")]
    return [t for end in ends for t in range(end[0], end[-1] + 1)]


# --- one block held out -------------------------------------------------------------------------


def snippet_7_3(dates: int, block: Block, span: int, embargo: int) -> list[int]:
    """AFML snippet 7.3, `PurgedKFold.split`.

    Leaks: the row whose label ends at the block's first price stays, and with embargo 0 so does
    the row on which the block's last label ends. The embargo counts that row, so it is a day short.
    """
    (s0, s1), end = block, block[1] + span
    return [t for t in range(dates) if t + span <= s0 or (t > s1 and t >= min(end, dates) + embargo)]


def purgedcv_time(dates: int, block: Block, span: int, embargo: int) -> list[int]:
    """purgedcv on times.

    Leaks before the block only: labels are half-open, so one may end at the block's first price.
    """
    return [t for t in range(dates) if t + span <= block[0] or t > block[1] + span + embargo]


def ours(dates: int, block: Block, span: int, embargo: int) -> list[int]:
    return train_positions(dates, [block], span, embargo, lookback=1).tolist()


@pytest.mark.parametrize(
    ("table", "splitter"),
    [("afml_7.1_closed", ours), ("afml_7.3_snippet", snippet_7_3), ("purgedcv_time", purgedcv_time)],
)
def test_published_tables_of_purging_and_embargo(table: str, splitter: Callable[..., list[int]]) -> None:
    for block, kept in VECTORS["purge_n20_K4_h3_e2"][table].items():
        days = positions(block)
        assert splitter(20, (days[0], days[-1]), 3, 2) == positions(kept), block


def shares_a_price(t: int, block: Block, span: int) -> bool:
    """Whether the label of t touches a day that the label of any day of the block touches."""
    return any(set(range(t, t + span + 1)) & set(range(s, s + span + 1)) for s in range(block[0], block[1] + 1))


@pytest.mark.parametrize("rival", [snippet_7_3, purgedcv_time])
def test_the_rivals_keep_a_label_that_shares_a_price_and_ours_keeps_none(rival: Callable[..., list[int]]) -> None:
    block = (8, 11)
    assert any(shares_a_price(t, block, 3) for t in rival(20, block, 3, 0))
    assert not any(shares_a_price(t, block, 3) for t in ours(20, block, 3, 0))


def reasons(t: int, block: Block, span: int, embargo: int, lookback: int) -> set[str]:
    """Why t may not train beside the block, day by day from the definitions."""
    days, last_label = range(block[0], block[1] + 1), block[1] + span
    found = {"purge"} if shares_a_price(t, block, span) else set()
    found |= {"embargo"} if t in range(last_label + 1, last_label + 1 + embargo) else set()
    return found | ({"lookback"} if t > block[1] and set(range(t - lookback + 1, t + 1)) & set(days) else set())


@settings(max_examples=150, deadline=None)
@given(
    dates=st.integers(1, 60),
    blocks=st.lists(st.tuples(st.integers(0, 55), st.integers(0, 8)), min_size=1, max_size=3),
    span=st.integers(0, 9),
    embargo=st.integers(0, 9),
    lookback=st.integers(1, 25),
)
def test_a_day_trains_unless_there_is_a_reason(
    dates: int, blocks: list[tuple[int, int]], span: int, embargo: int, lookback: int
) -> None:
    held = [(start, start + more) for start, more in blocks]
    kept = train_positions(dates, held, span, embargo, lookback).tolist()
    assert kept == [t for t in range(dates) if not any(reasons(t, b, span, embargo, lookback) for b in held)]


# --- combinations of blocks held out ------------------------------------------------------------


def combinatorial(
    dates: int, folds: int, held: int, span: int, embargo: int
) -> tuple[list[tuple[list[int], list[int]]], list[list[int]]]:
    """CPCV: train and test positions per combination of test folds, and the path each test fold goes to."""
    size = dates // folds
    bounds = [(fold * size, (fold + 1) * size - 1 if fold < folds - 1 else dates - 1) for fold in range(folds)]
    splits, paths, used = [], [], Counter()
    for combination in combinations(range(folds), held):
        blocks = [bounds[fold] for fold in combination]
        test = [t for s0, s1 in blocks for t in range(s0, s1 + 1)]
        splits.append((train_positions(dates, blocks, span, embargo, lookback=1).tolist(), test))
        paths.append([used[fold] for fold in combination])
        used.update(combination)
    return splits, paths


def test_the_published_table_of_combinatorial_splits() -> None:
    table = VECTORS["cpcv_n40_K4_p2_purge3_emb2_skfolio"]
    splits, paths = combinatorial(40, 4, 2, 3, 2)
    assert paths == table["path_ids"]
    assert max(path for row in paths for path in row) + 1 == table["n_paths"] == comb(3, 1)
    expected = {tuple(positions(key.replace("|", ","))): positions(kept) for key, kept in table.items() if "|" in key}
    assert {tuple(test): train for train, test in splits} == expected


@settings(max_examples=40, deadline=None)
@given(
    folds=st.integers(3, 7), size=st.integers(4, 20), rest=st.integers(0, 5), span=st.integers(0, 8),
    embargo=st.integers(0, 8), data=st.data(),
)  # fmt: skip
def test_combinatorial_splits_are_skfolios(
    folds: int, size: int, rest: int, span: int, embargo: int, data: st.DataObject
) -> None:
    held = data.draw(st.integers(2, folds - 1))
    dates = folds * size + min(rest, folds - 1)
    assume(span + embargo < size - 1)  # skfolio refuses the rest
    peer = CombinatorialPurgedCV(folds, held, purged_size=span, embargo_size=embargo)
    splits, paths = combinatorial(dates, folds, held, span, embargo)
    assert splits == [(train.tolist(), np.concatenate(test).tolist()) for train, test in peer.split(np.zeros(dates))]
    assert paths == peer.get_path_ids().tolist()


# --- folds ----------------------------------------------------------------------------------------

# One character a day: the role's first letter, - purged, blank not in the fold.
DRAWN = {
    "expanding": """
        ttttttttttt--ss--vvvvvvvv
        ttttttttttttttttttt--ss--vvvvvv--
        ttttttttttttttttttttttttttt--ss--TTTTTTTT
    """,
    "rolling": """
             tttttt--ss--vvvvvvvv
                     tttttt--ss--vvvvvv--
                             tttttt--ss--TTTTTTTT
    """,
    "purged_kfold": """
        vvvvvvvvvvvvvvvv-----tttttt--ss--
        tttttttttt--ss--vvvvvvvvvvvvvvv--
        ttttttttttttttttttttttttttt--ss--TTTTTTTT
    """,
}
SMALL = {"block_days": 8, "stop_days": 2, "purge": 2, "min_train_days": 6, "train_days": 6, "embargo": 3, "lookback": 4}


def weekdays(days: int) -> list[date]:
    every = (date(2020, 1, 1) + timedelta(days=day) for day in range(2 * days))
    return [day for day in every if day.weekday() < 5][:days]


def drawn(splits: pl.DataFrame, dates: list[date]) -> list[str]:
    letter = {"train": "t", "stop": "s", "valid": "v", "test": "T", "purged": "-"}
    rows = []
    for _, fold in splits.group_by("fold", maintain_order=True):
        role = dict(fold.select("date", "role").iter_rows())
        rows.append("".join(letter.get(role.get(day, ""), " ") for day in dates).rstrip())
    return rows


@pytest.mark.parametrize("scheme", DRAWN)
def test_folds_as_drawn(scheme: Any) -> None:
    dates = weekdays(41)
    splits = make_splits(dates, 0, scheme, 2, 1, **SMALL)
    assert drawn(splits, dates) == [line[8:] for line in DRAWN[scheme].splitlines()[1:-1]]


@pytest.mark.parametrize("scheme", DRAWN)
def test_valid_blocks_follow_what_was_learned_in_walk_forward_alone_and_test_blocks_always(scheme: Any) -> None:
    """A purged fold learned from dates after it: nobody could have traded its scores."""
    splits = make_splits(weekdays(41), 0, scheme, 2, 1, **SMALL)
    assert follow_in_time(splits, "valid") == (scheme != "purged_kfold")
    assert follow_in_time(splits, "test")


@pytest.mark.parametrize("scheme", DRAWN)
def test_a_sealed_test_block_has_no_fold_and_changes_no_other(scheme: Any) -> None:
    splits = make_splits(weekdays(41), 0, scheme, 2, 1, **SMALL)
    tested = splits.filter(pl.col("role") == "test")["fold"].unique().item()
    sealed = make_splits(weekdays(41), 0, scheme, 2, 1, **SMALL, seal_test=True)
    assert sealed.equals(splits.filter(pl.col("fold") != tested))


@pytest.mark.parametrize("role", ["train", "stop"])
def test_one_later_day_learned_from_is_enough_not_to_follow(role: str) -> None:
    splits = make_splits(weekdays(41), 0, "expanding", 2, 1, **SMALL)
    last = splits.filter(pl.col("role") == "valid")["date"].max()
    later = pl.DataFrame({"fold": [1], "date": [last + timedelta(days=1)], "role": [role]}, schema=splits.schema)
    assert not follow_in_time(pl.concat([splits, later]), "valid")
    assert follow_in_time(pl.concat([splits, later]), "test")


def test_stop_goes_behind_the_block_where_too_little_training_would_remain_before_it() -> None:
    dates = weekdays(90)
    for least, behind in ((10, False), (11, True)):
        knobs = SMALL | {"lookback": 9, "min_train_days": least}
        rows = drawn(make_splits(dates, 0, "purged_kfold", 5, 1, **knobs), dates)[:5]
        assert [row.index("s") > row.index("v") for row in rows] == [True, behind, False, False, False]
    assert rows[1] == "t" * 14 + "--" + "v" * 16 + "-" * 8 + "t" * 36 + "--ss--"


def test_stop_stays_before_the_block_where_it_finds_no_room_behind() -> None:
    dates = weekdays(62)
    knobs = SMALL | {"stop_days": 15, "lookback": 12}
    rows = drawn(make_splits(dates, 0, "purged_kfold", 3, 1, **knobs), dates)
    assert rows[1] == " " + "s" * 15 + "--" + "v" * 17 + "-" * 11 + "t" * 6 + "--"


@settings(max_examples=60, deadline=None)
@given(
    block=st.integers(2, 30), blocks=st.integers(1, 5), purge=st.integers(0, 6), stop=st.integers(1, 9),
    train=st.integers(1, 40),
)  # fmt: skip
@pytest.mark.parametrize("scheme", ["expanding", "rolling"])
def test_walk_forward_is_skfolios(scheme: Any, block: int, blocks: int, purge: int, stop: int, train: int) -> None:
    """Its purge is all that lies between training and block: ours, `stop`, and ours again."""
    gap = 2 * purge + stop
    dates = weekdays(train + gap + blocks * block)
    peer = WalkForward(block, train, expand_train=scheme == "expanding", purged_size=gap)
    splits = make_splits(dates, 0, scheme, 0, blocks, block, stop, purge, 1, train, 0, 1)
    at = [places(fold, dates) for fold in per_fold(splits)]
    expected = [(side.tolist(), test.tolist()) for side, test in peer.split(np.zeros(len(dates)))]
    assert [(roles["train"], roles["test"]) for roles in at] == expected


def test_the_published_walk_forward() -> None:
    splits = make_splits(weekdays(33), 0, "expanding", 0, 2, 10, 1, 1, 1, 1, 0, 1)
    at = [places(fold, weekdays(33)) for fold in per_fold(splits)]
    assert [(roles["test"], roles["train"]) for roles in at] == [
        (positions("13-22"), positions("0-9")),
        (positions("23-32"), positions("0-19")),
    ]


def per_fold(splits: pl.DataFrame) -> list[pl.DataFrame]:
    return [fold for _, fold in splits.group_by("fold", maintain_order=True)]


def places(fold: pl.DataFrame, dates: list[date]) -> dict[str, list[int]]:
    """Positions of each role's days."""
    number = {day: t for t, day in enumerate(dates)}
    roles = ("train", "stop", "valid", "test", "purged")
    return {role: [number[day] for day in fold.filter(pl.col("role") == role)["date"]] for role in roles}


KNOBS = st.fixed_dictionaries(
    {
        "first": st.integers(0, 20),
        "valid": st.integers(2, 5),
        "test": st.integers(1, 3),
        "block_days": st.integers(22, 60),
        "stop_days": st.integers(1, 30),
        "purge": st.integers(1, 21),
        "min_train_days": st.integers(1, 30),
        "train_days": st.integers(30, 150),
        "embargo": st.integers(0, 30),
        "lookback": st.integers(1, 90),
    }
)


@settings(max_examples=100, deadline=None)
@given(days=st.integers(350, 700), knobs=KNOBS)
@pytest.mark.parametrize("scheme", DRAWN)
def test_roles_share_no_label_and_later_training_saw_nothing_held_out(
    scheme: Any, days: int, knobs: dict[str, int]
) -> None:
    dates = weekdays(days)
    try:
        splits = make_splits(dates, scheme=scheme, **knobs)
    except InputError:
        assume(False)
    purge, embargo, lookback = knobs["purge"], knobs["embargo"], knobs["lookback"]
    at = [places(fold, dates) for fold in per_fold(splits)]
    first_test = min(t for roles in at for t in roles["test"])
    for roles in at:
        # Two labels [a, a + purge] and [b, b + purge] have a price in common unless a and b are further apart.
        for one, other in combinations([roles["train"], roles["stop"], roles["valid"] + roles["test"]], 2):
            assert np.abs(np.subtract.outer(one, other)).min() > purge
        held = roles["valid"] + roles["test"]
        for learns, saw in ((roles["train"], held), (roles["train"], roles["stop"]), (roles["stop"], held)):
            later = [t for t in learns if t > max(saw)]
            assert all(t - lookback + 1 > max(saw) for t in later)
            assert all(t > max(saw) + purge + embargo for t in later)
        assert len(roles["stop"]) == knobs["stop_days"] == roles["stop"][-1] - roles["stop"][0] + 1
        assert len(roles["train"]) >= knobs["min_train_days"]
        if roles["valid"]:
            # Nothing that is judged, trained or stopped on touches a return of the test period.
            assert not roles["test"]
            assert max(roles["valid"] + roles["train"] + roles["stop"]) + purge < first_test
        else:
            assert max(roles["train"] + roles["stop"]) < min(roles["test"])
    once = Counter(t for roles in at for t in roles["valid"] + roles["test"])
    assert set(once.values()) == {1}


@settings(max_examples=100, deadline=None)
@given(days=st.integers(350, 700), knobs=KNOBS)
@pytest.mark.parametrize("scheme", DRAWN)
def test_no_day_is_left_out_without_a_reason(scheme: Any, days: int, knobs: dict[str, int]) -> None:
    dates = weekdays(days)
    try:
        splits = make_splits(dates, scheme=scheme, **knobs)
    except InputError:
        assume(False)
    around = (knobs["purge"], knobs["embargo"], knobs["lookback"])
    at = [places(fold, dates) for fold in per_fold(splits)]
    first_test = min(t for roles in at for t in roles["test"])
    for roles in at:
        held = [(days[0], days[-1]) for days in (roles["stop"], roles["valid"] or roles["test"])]
        open_end = first_test - knobs["purge"] if roles["valid"] and scheme == "purged_kfold" else held[1][0]
        free = [t for t in train_positions(open_end, held, *around).tolist() if t >= knobs["first"]]
        assert roles["train"] == (free[-knobs["train_days"] :] if scheme == "rolling" else free)
    valid = [roles["valid"] for roles in at if roles["valid"]]
    last = first_test - knobs["purge"]
    if scheme == "purged_kfold":
        assert sorted(t for fold in valid for t in fold) == list(range(knobs["first"], last))
        assert max(map(len, valid)) - min(map(len, valid)) <= 1
    else:
        start = days - (knobs["valid"] + knobs["test"]) * knobs["block_days"]
        assert [t for fold in valid for t in fold] == list(range(start, last))
    assert [t for roles in at for t in roles["test"]] == list(range(first_test, days))
    assert len(valid) == knobs["valid"]


@settings(max_examples=30, deadline=None)
@given(knobs=KNOBS, gaps=st.lists(st.integers(1, 12), min_size=420, max_size=420))
@pytest.mark.parametrize("scheme", DRAWN)
def test_days_are_trading_days(scheme: Any, knobs: dict[str, int], gaps: list[int]) -> None:
    """However long the market was closed: the calendar changes no role."""
    plain = [date(2000, 1, 1) + timedelta(days=t) for t in range(420)]
    gapped = [date(2000, 1, 1) + timedelta(days=int(t)) for t in np.cumsum(gaps)]
    try:
        expected = drawn(make_splits(plain, scheme=scheme, **knobs), plain)
    except InputError:
        assume(False)
    assert drawn(make_splits(gapped, scheme=scheme, **knobs), gapped) == expected


@pytest.mark.parametrize("scheme", ["expanding", "rolling"])
def test_blocks_by_first_day(scheme: Any) -> None:
    dates = [date(2020, 1, 1) + timedelta(days=d) for d in range(400)]
    days = ([date(2020, 9, 1)], [date(2020, 11, 1), date(2021, 1, 1)])
    splits = make_splits(dates, 0, scheme, *days, 1, 30, 21, 50, 60, 0, 1)
    assert held_out(splits) == [
        ("valid", "2020-09-01", "2020-10-10"),
        ("test", "2020-11-01", "2020-12-31"),
        ("test", "2021-01-01", "2021-02-03"),
    ]


def test_purged_folds_before_test_blocks_by_first_day() -> None:
    dates = [date(2020, 1, 1) + timedelta(days=d) for d in range(400)]
    splits = make_splits(dates, 10, "purged_kfold", 2, [date(2020, 11, 1), date(2021, 1, 1)], 1, 30, 21, 50, 60, 0, 1)
    assert held_out(splits) == [
        ("valid", "2020-01-11", "2020-05-26"),
        ("valid", "2020-05-27", "2020-10-10"),
        ("test", "2020-11-01", "2020-12-31"),
        ("test", "2021-01-01", "2021-02-03"),
    ]


def held_out(splits: pl.DataFrame) -> list[tuple[str, str, str]]:
    held = [fold.filter(pl.col("role").is_in(["valid", "test"])) for fold in per_fold(splits)]
    return [(fold["role"][0], str(fold["date"].min()), str(fold["date"].max())) for fold in held]


@pytest.mark.parametrize(
    ("scheme", "changes", "says"),
    [
        ("expanding", {"min_train_days": 12}, "from 2020-01-24 leaves 11 days to train on, .* asks for 12"),
        ("expanding", {"stop_days": 30}, "leaves 0 days to train on"),
        ("expanding", {"purge": 8, "valid": 1}, "valid block 0 has none left before the split.purge of 8 days"),
        ("rolling", {"min_train_days": 7, "train_days": 6}, "leaves 6 days to train on, .* asks for 7"),
        ("purged_kfold", {"min_train_days": 7}, "from 2020-01-01 leaves 6 days to train on"),
        ("purged_kfold", {"stop_days": 14}, "leaves 0 days to train on"),
        ("purged_kfold", {"test": 5}, "valid block 0 has none left before the split.purge of 2 days"),
        ("expanding", {"test": [date(2020, 2, 3)]}, "both as numbers of blocks, or both as lists"),
        ("purged_kfold", {"test": [date(2020, 2, 3), date(2020, 2, 3)]}, "must ascend"),
        ("purged_kfold", {"test": [date(2019, 2, 3)]}, "lies outside the data"),
    ],
)
def test_dates_that_do_not_suffice_are_refused_in_one_line(scheme: Any, changes: dict[str, Any], says: str) -> None:
    knobs: dict[str, Any] = {"valid": 2, "test": 1} | SMALL | changes
    with pytest.raises(InputError, match=says) as error:
        make_splits(weekdays(41), 0, scheme, **knobs)
    assert "\n" not in str(error.value)
