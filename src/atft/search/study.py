"""A study that any number of workers share, killed or not: its trials are as many as asked, none lost, none doubled."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy as sql
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import exc

from atft.errors import InputError
from atft.search import space as spaces
from atft.search.locks import JournalLock, is_held, locked
from atft.search.objective import STRIDE, Report
from atft.search.space import Space

WORKER, ALIVE, TAKEN, REASON = "worker", "alive", "taken_over", "reason"  # what a trial says of itself
FACTS = "facts"  # what a study says of itself: all that its trials share
WARM_EPOCHS = 2  # of each fit, in which no trial is pruned: they rank trials by learning rate, not by worth
AWAY = (optuna.exceptions.StorageInternalError, exc.SQLAlchemyError)  # what a database that is away for a while raises
MOST_TAKEN = 3  # times a trial is taken over from a dead worker before it is taken for the killer


@dataclass(frozen=True)
class Place:
    """Where a study is.

    Attributes:
        name: Of the study.
        folder: Of locks and, without `url`, of the journal.
        url: Of a database, as SQLAlchemy has it, or None.
    """

    name: str
    folder: Path
    url: str | None

    def storage(self) -> BaseStorage:
        """Opened, and made if it is not there.

        Raises:
            InputError: When the database cannot be reached.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "open.lock"):  # two workers that make the same tables get in each other's way
            if self.url is None:
                journal = self.folder / f"{self.name}.journal"
                journal.touch()
                return JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
            try:
                # Connections are closed after use: a database bears more workers than open connections.
                return RDBStorage(self.url, engine_kwargs={"poolclass": sql.NullPool})
            except (exc.SQLAlchemyError, ImportError) as error:
                raise InputError(f"--storage: {str(error).splitlines()[0]}") from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The only worker of the study that takes a trial."""
        if self.url is None or self.url.startswith("sqlite"):
            with locked(self.folder / f"{self.name}.take.lock"):
                yield
            return
        engine = sql.create_engine(self.url, poolclass=sql.NullPool)
        table = sql.Table("atft_search", sql.MetaData(), sql.Column("study", sql.String(255), primary_key=True))
        with suppress(exc.DBAPIError):  # another worker made the table, or the row, a moment ago
            table.create(engine, checkfirst=True)
        with suppress(exc.IntegrityError), engine.begin() as connection:
            connection.execute(table.insert().values(study=self.name))
        with engine.begin() as connection:
            connection.execute(sql.select(table).where(table.c.study == self.name).with_for_update())
            yield


def open_study(place: Place, facts: Mapping[str, Any] | None, pruner: BasePruner) -> optuna.Study:
    """The study at `place`, begun with `facts` if it is new; with None it must be there.

    Raises:
        InputError: When it is not there, or was begun with other facts: its trials could not be compared.
    """
    storage = place.storage()
    with place.alone():
        begun = place.name in {study.study_name for study in storage.get_all_studies()}
        study = optuna.load_study(storage=storage, study_name=place.name, pruner=pruner) if begun else None
        known = study.user_attrs.get(FACTS) if study else None  # None, too, where a kill came before they were kept
        if known is None and facts is None:
            raise InputError(f"--study-name {place.name}: no such study; give --suggest-params to begin one")
        if study is None:
            study = optuna.create_study(storage=storage, study_name=place.name, direction="maximize", pruner=pruner)
        if known is None:
            study.set_user_attr(FACTS, facts)
        elif other := [name for name, value in (facts or {}).items() if known.get(name) != value]:
            raise InputError(
                f"--study-name {place.name}: was begun with other {other[0]}, so its trials could not be compared with "
                f"new ones; give another name"
            )
        return study


def pruner_of(name: str, startup: int) -> BasePruner:
    """`median`: ends a trial whose best report so far is below the median of the others' at the same step."""
    return MedianPruner(n_startup_trials=startup) if name == "median" else NopPruner()


@dataclass
class Worker:
    """Takes trials of a study, one at a time.

    Trials are taken under the study's lock: that makes the number of trials exact. A running trial whose worker is
    dead is taken over, as the same trial with the same values: a killed worker loses nothing and doubles nothing.
    Dead is whose lock is free, where it can be seen, else who has not been heard for `grace` seconds.

    Attributes:
        seed: With a trial's number it seeds the sampler: no two trials draw alike, whichever worker has them, and
            one worker's study is the same whether it was interrupted or not.
        startup: Trials drawn at random before the sampler learns.
    """

    study: optuna.Study
    place: Place
    space: Space
    seed: int
    startup: int
    grace: float
    name: str = field(default_factory=lambda: f"{socket.gethostname()}-{uuid.uuid4().hex[:12]}")
    _heard: dict[int, tuple[Any, float]] = field(default_factory=dict)

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Hold the worker's own lock, which the end of the process gives back, however it ends."""
        file = self._lock(self.name)
        with locked(file):
            yield
            file.unlink()

    def take(self, total: int) -> tuple[optuna.Trial, dict[str, Any]] | None:
        """The next trial and its values, or None where nothing is left to take for now.

        Args:
            total: Trials of the study.
        """
        with self.place.alone():
            trials = self.study.get_trials(deepcopy=False)
            for frozen in (t for t in trials if t.state == TrialState.RUNNING and self._abandoned(t)):
                if trial := self._taken_over(frozen):
                    return trial, self._claim(trial)
            if len(trials) >= total and not any(t.state == TrialState.WAITING for t in trials):
                return None
            self._seed(len(trials))
            trial = self.study.ask()
            return trial, self._claim(trial)

    def _seed(self, number: int) -> None:
        """Have the sampler draw as it does for the trial of this number."""
        draw = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=self.startup, seed=draw)

    def _claim(self, trial: optuna.Trial) -> dict[str, Any]:
        trial.set_user_attr(WORKER, self.name)
        return spaces.suggest(self.space, trial)

    def _abandoned(self, trial: FrozenTrial) -> bool:
        worker = trial.user_attrs.get(WORKER)
        if worker is None:
            return True  # it is claimed before the lock is given back, so its worker died in between
        file = self._lock(worker)
        if file.exists():
            return not is_held(file)
        sign, since = trial.user_attrs.get(ALIVE), self._heard.get(trial.number)
        if since is None or since[0] != (worker, sign):
            self._heard[trial.number] = (worker, sign), time.monotonic()
            return False
        return time.monotonic() - since[1] > self.grace

    def _taken_over(self, frozen: FrozenTrial) -> optuna.Trial | None:
        storage, times = self.study._storage, frozen.user_attrs.get(TAKEN, 0) + 1  # noqa: SLF001
        given = frozen.system_attrs.get("fixed_params", {})
        study_id = storage.get_study_id_from_name(self.study.study_name)
        number = storage.get_trial_id_from_study_id_trial_number(study_id, frozen.number)
        self._seed(frozen.number)
        trial = optuna.Trial(self.study, number)
        if times > MOST_TAKEN:
            trial.set_user_attr(REASON, f"its worker died {times} times")
            self.study.tell(frozen.number, state=TrialState.FAIL)
            return None
        trial.set_user_attr(TAKEN, times)
        for path in self.space:  # draws that the dead worker had made already: the next ones follow them
            known = frozen.distributions.get(path)
            if known and path not in given and not known.single():
                self.study.sampler.sample_independent(self.study, frozen, path, known)
        return trial

    def _lock(self, worker: str) -> Path:
        return self.place.folder / f"{worker}.worker"

    @contextmanager
    def heard(self, trial: optuna.Trial) -> Iterator[None]:
        """Give signs of life while the trial is worked at."""
        ended = threading.Event()

        def beat() -> None:
            sign = 0
            while not ended.wait(self.grace / 4):
                sign += 1
                try:
                    with suppress(*AWAY):  # the next sign may come through
                        trial.set_user_attr(ALIVE, sign)
                except optuna.exceptions.UpdateFinishedTrialError:
                    return  # it was taken over, and ended, while this machine slept

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def run(
    worker: Worker,
    total: int,
    work: Callable[[dict[str, Any], Report], tuple[float, Any]],
    keep: Callable[[int, dict[str, Any], Any], None],
    after: Callable[[], None],
    poll: float = 1.0,
) -> None:
    """Take trials until the study has `total` that have ended.

    Args:
        work: The value of the trial with these values, and what to keep of it; reports (step, value) as it goes.
        keep: Keeps that, under the trial's number, before the trial counts as complete.
        after: Called after each trial, and while this worker waits for others.

    Raises:
        InputError: When the database is away; the trial goes on when a worker is started again.
    """
    try:
        with worker.alive():
            while True:
                taken = worker.take(total)
                if taken is not None:
                    _work_at(worker, *taken, work, keep)
                after()
                if taken is None:
                    trials = worker.study.get_trials(deepcopy=False)
                    if all(trial.state.is_finished() for trial in trials):
                        return
                    time.sleep(poll)
    except AWAY as error:
        cause = str(error.__cause__ or error).splitlines()[0]
        raise InputError(f"--storage: {cause}; start this again when it is back, and its trial goes on") from error


def _work_at(
    worker: Worker,
    trial: optuna.Trial,
    values: dict[str, Any],
    work: Callable[[dict[str, Any], Report], tuple[float, Any]],
    keep: Callable[[int, dict[str, Any], Any], None],
) -> None:
    reported = set(worker.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    last = max(reported, default=0)  # after this report the trial's worker died, perhaps before it asked the pruner

    def report(step: int, value: float) -> None:
        if step not in reported:
            trial.report(value, step)
        if step >= last and step % STRIDE >= WARM_EPOCHS and trial.should_prune():
            raise optuna.TrialPruned(f"fit {step // STRIDE}, epoch {step % STRIDE}: below the median of the others")

    value, state, reason = None, TrialState.COMPLETE, ""
    with worker.heard(trial):
        try:
            spaces.check_values(worker.space, values)
            value, facts = work(values, report)
            keep(trial.number, values, facts)
        except optuna.TrialPruned as error:
            state, reason = TrialState.PRUNED, str(error)
        except (OSError, *AWAY):
            raise  # a full disk, a database that is away: no fault of the trial, which goes on with the next worker
        except InputError as error:
            value, state, reason = None, TrialState.FAIL, str(error)
        except Exception as error:  # whatever else it dies of is its result, and the search goes on
            value, state, reason = None, TrialState.FAIL, f"{type(error).__name__}: {error}"
    # Another worker may have ended it while this machine slept: then that stands.
    with suppress(optuna.exceptions.UpdateFinishedTrialError):
        if reason:
            trial.set_user_attr(REASON, " ".join(reason.split()))
    worker.study.tell(trial.number, value, state, skip_if_finished=True)
