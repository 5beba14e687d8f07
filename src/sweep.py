"""Search the knobs of params.yaml on `valid` alone: Optuna proposes, this process fits and judges."""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import polars as pl
from optuna.trial import FrozenTrial, TrialState
from tqdm import tqdm

from atft import paths
from atft.arguments import natural, positive
from atft.config import check_params, complaint, load_params
from atft.errors import InputError
from atft.evaluation import ledger
from atft.evaluation.verdict import Trial, flat, market_name
from atft.evaluation.verdict_page import changed_knobs
from atft.program import run_program
from atft.search import report
from atft.search.objective import METRICS, Inputs, Report, worth
from atft.search.promote import SEALED, promote
from atft.search.space import Space, as_plain, check_space, from_plain, parse_knob, read_space, values_of, with_values
from atft.search.store import Store
from atft.search.study import FACTS, REASON, Place, Worker, open_study, pruner_of, run

PROJECT = Path(__file__).parents[1]


def main() -> None:
    options = arguments()
    if not (options.n_trials or options.promote):
        raise InputError("nothing to do: give --n-trials to search, --promote to run the best trials as experiments")
    base = with_values(load_params().model_dump(mode="json"), SEALED)
    search = Sweep(options, base)
    if options.n_trials:
        if options.workers > 1:
            search.employ(options.workers)
        else:
            search.work()
        search.keep_the_others()
        if not search.quiet:
            search.show()
    if options.worker or not options.promote:
        return
    if not (best := search.best()[: options.promote]):
        raise InputError(f"--promote: {search.name} has no complete trial yet")
    for trial in best:
        name = search.trial_name(trial.number)
        assert trial.value is not None
        promote(name, search.values(trial), paths.EVALUATE_METRICS, search.metric, trial.value)
        print(f"{name}: {search.metric} {trial.value:.6f} again, as an experiment; `make show` has it")


class Sweep:
    """One study, as this command line has it."""

    def __init__(self, options: argparse.Namespace, base: dict[str, Any]) -> None:
        self.options, self.base, self.name, self.quiet = options, base, options.study_name, options.worker
        self.store = Store(options.store, PROJECT)
        self.place = Place(self.name, self.store.root / "studies", options.storage)
        pruner = pruner_of(options.pruner, options.startup)
        space, metric = space_of(options), options.metric
        if not space:
            known = open_study(self.place, None, pruner).user_attrs[FACTS]
            space, metric = from_plain(known["space"]), metric or known["metric"]
        self.metric = metric or "rank_ic"
        check_space(space, base, complaint)
        self.space: Space = space
        rest = with_values(base, dict.fromkeys(space))
        facts = {
            "space": as_plain(space),
            "metric": self.metric,
            "params.yaml": rest,
            "code or data": self.store.code(),
        }
        self.study = open_study(self.place, facts, pruner)

    def work(self) -> None:
        """Take trials until the study has as many as asked."""
        worker = Worker(self.study, self.place, self.space, self.options.seed, self.options.startup, self.options.grace)
        with self.bar() as bar:
            run(worker, self.options.n_trials, self.evaluated, self.keep, lambda: self.progress(bar))

    def employ(self, workers: int) -> None:
        """Have other processes of this program take the trials."""
        command = [sys.executable, *sys.argv, "--workers", "1", "--worker"]
        logs = [self.place.folder / f"{self.name}.{i}.log" for i in range(workers)]
        hired = []
        for i, log in enumerate(logs):
            with log.open("wb") as file, own_cores(i, workers):
                hired.append(subprocess.Popen(command, stdout=file, stderr=file))  # noqa: S603
        with self.bar() as bar:
            while any(one.poll() is None for one in hired):
                self.progress(bar)
                time.sleep(1.0)
            self.progress(bar)
        if failed := [log for one, log in zip(hired, logs, strict=True) if one.returncode]:
            raise InputError(f"a worker ended: {[*failed[0].read_text().splitlines(), 'no message'][-1]} ({failed[0]})")

    def evaluated(self, values: dict[str, Any], told: Report) -> tuple[float, pl.DataFrame]:
        """What a trial is worth, and its daily series."""
        content = check_params(with_values(self.base, values)).model_dump(mode="json")
        cache, graph = (self.store.build(stage, content) for stage in ("cache", "graph"))
        needed = content["train"]["model"] == "atft_gat_fan" and content["train"]["init"] == "pretrained"
        encoder = self.store.build("pretrain", content) / paths.ENCODER if needed else None
        fits = self.store.place("train", content)
        with self.store.alone(fits):
            found = worth(Inputs(cache / paths.CACHE, graph / paths.GRAPH, encoder, fits), content, self.metric, told)
        return found.value, found.daily

    def keep(self, number: int, values: dict[str, Any], daily: pl.DataFrame) -> None:
        """Enter a complete trial in the ledger."""
        rows = daily.filter(pl.col("role") == "valid").drop("role")
        self.enter(self.ledger_trial(number, values, rows), "tried")

    def keep_the_others(self) -> None:
        """Enter the trials without a number in the ledger: they were tries too."""
        names = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
        for trial in self.study.get_trials(deepcopy=False, states=tuple(names)):
            reason = trial.user_attrs.get(REASON, names[trial.state])
            failed = self.ledger_trial(trial.number, self.values(trial), pl.DataFrame(), reason)
            self.enter(failed, names[trial.state])

    def ledger_trial(
        self, number: int, values: dict[str, Any], daily: pl.DataFrame, reason: str | None = None
    ) -> Trial:
        knobs = with_values(self.base, values)
        horizon = knobs["evaluate"]["primary_horizon"]
        name = self.trial_name(number)
        return Trial(name, "sweep", market_name(knobs["data"]), horizon, daily, flat(knobs), failed=reason)

    def enter(self, trial: Trial, verdict: str) -> None:
        changes = changed_knobs(flat(self.base), trial.params)
        row = ledger.searched(trial, self.name, verdict, datetime.now(tz=UTC).date(), changes)
        ledger.add(paths.LEDGER, row, trial)

    def best(self) -> list[FrozenTrial]:
        return report.best_first(self.study.get_trials(deepcopy=False))

    def values(self, trial: FrozenTrial) -> dict[str, Any]:
        return values_of(self.space, trial.params)

    def trial_name(self, number: int) -> str:
        return f"{self.name}-t{number:03d}"

    def bar(self) -> tqdm:
        """Progress and the best so far; silent where nobody watches."""
        return tqdm(total=self.options.n_trials, desc=self.name, unit="trial", disable=True if self.quiet else None)

    def progress(self, bar: tqdm) -> None:
        trials = self.study.get_trials(deepcopy=False)
        bar.n = sum(trial.state.is_finished() for trial in trials)
        best = report.best_first(trials)[:1]
        bar.set_postfix_str(f"best {best[0].value:+.5f} in t{best[0].number:03d}" if best else "")

    def show(self) -> None:
        """Write the tables and pictures, and say what came out.

        Raises:
            InputError: When no trial is complete.
        """
        folder = self.options.out / self.name
        report.write_report(folder, self.study, self.space, self.metric)
        trials, best = self.study.get_trials(deepcopy=False), self.best()
        counts = [(state, sum(trial.state == state for trial in trials)) for state in TrialState]
        print(f"{self.name}: {', '.join(f'{n} {state.name.lower()}' for state, n in counts if n)}; {folder}")
        if not best:
            why = next((t.user_attrs[REASON] for t in trials if REASON in t.user_attrs), "none ended")
            raise InputError(f"{self.name}: no trial is complete; the first: {why}")
        for trial in best[:5]:
            knobs = ", ".join(f"{path}={value}" for path, value in self.values(trial).items())
            print(f"  {self.trial_name(trial.number)}  {self.metric} {trial.value:+.6f}  {knobs}")


@contextmanager
def own_cores(number: int, of: int) -> Iterator[None]:
    """Give the processes that are started meanwhile a share of this process's cores for themselves.

    Threads that wait for one another do it spinning: on shared cores each process spins in the time that the other's
    threads need. It changes no number; where the system cannot bind processes, nothing.

    Args:
        number: Which share, from 0.
        of: How many shares there are; where they are more than the cores, cores are shared.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[number % len(all_cores) :: of])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def space_of(options: argparse.Namespace) -> Space:
    """The space of the command line; empty where none is given."""
    space = read_space(options.space.read_text(), str(options.space)) if options.space else {}
    for text in options.suggest_params:
        path, knob = parse_knob(text)
        if path in space:
            raise InputError(f"--suggest-params: {path} stands twice")
        space[path] = knob
    return space


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study-name", required=True, type=plain_name)
    parser.add_argument("--n-trials", type=positive, help="of the study in all, those it has already included")
    parser.add_argument(
        "--suggest-params", action="append", default=[], metavar="KNOB:KIND:VALUES",
        help="e.g. train.optimizer:categorical:['adamw','shampoo'], graph.sector_edge_weight:float:0.2,0.8, "
        "train.lr:log_float:1e-3,1e-2, train.epochs:int:2,8",
    )  # fmt: skip
    parser.add_argument("--space", type=Path, metavar="FILE", help="the same in YAML: KNOB: {KIND: [VALUES]}")
    parser.add_argument("--metric", choices=METRICS, help="to maximise, at the primary horizon (rank_ic)")
    parser.add_argument("--workers", type=positive, default=1, help="processes; any more may join from other shells")
    parser.add_argument("--storage", metavar="URL", help="a database for many machines; else a journal in the store")
    parser.add_argument("--store", type=Path, default=Path(".scratch/sweep"), help="of stages and studies")
    parser.add_argument("--out", type=Path, default=paths.SWEEPS, help="of tables and pictures")
    parser.add_argument(
        "--pruner", choices=("none", "median"), default="none",
        help="median: end a trial whose best report on `stop` is below the median of the others' at that epoch",
    )  # fmt: skip
    parser.add_argument("--startup", type=natural, default=8, help="trials before pruning and learning begin")
    parser.add_argument("--seed", type=natural, default=0, help="of what is tried")
    parser.add_argument("--grace", type=float, default=120.0, help="seconds without a sign before a far worker is dead")
    parser.add_argument("--promote", type=positive, metavar="K", help="rerun the best K as DVC experiments")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def plain_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise argparse.ArgumentTypeError("letters, digits, - and _ alone: it names experiments")
    return text


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    run_program(main)
