"""What a study came to: a table, and pictures of its history and of what mattered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import optuna
import polars as pl
from matplotlib.figure import Figure
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from atft.program import new_file
from atft.search.space import Space, values_of
from atft.search.study import REASON

# Okabe & Ito: told apart by colour-blind readers.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#888888"


def best_first(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Complete trials, the best first; of those with the same parameters the first alone."""
    found: dict[str, FrozenTrial] = {}
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state == TrialState.COMPLETE:
            found.setdefault(repr(sorted(trial.params.items())), trial)
    return sorted(found.values(), key=lambda trial: -(trial.value or 0.0))


def trial_table(trials: Sequence[FrozenTrial], space: Space) -> pl.DataFrame:
    """`trial, state, value, reason` and a column for each knob, as text where it has choices."""
    rows: list[dict[str, Any]] = []
    for trial in trials:
        values = values_of(space, trial.params)
        row = {"trial": trial.number, "state": trial.state.name.lower(), "value": trial.value}
        if trial.state != TrialState.COMPLETE:
            row["value"] = None
        knobs = {
            path: str(values.get(path)) if space[path].kind == "categorical" else values.get(path) for path in space
        }
        rows.append(row | {"reason": trial.user_attrs.get(REASON)} | knobs)
    types = {"trial": pl.Int64, "state": pl.String, "value": pl.Float64, "reason": pl.String}
    return pl.DataFrame(rows, schema_overrides=types, infer_schema_length=None)


def importances(study: optuna.Study) -> dict[str, float]:
    """How much of the variance among the better trials each knob explains (PED-ANOVA, Watanabe et al. 2023).

    Empty where fewer than three trials are complete or none differs from the others.
    """
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(done) < 3 or len({trial.value for trial in done}) < 2:
        return {}
    return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def write_report(folder: Path, study: optuna.Study, space: Space, metric: str) -> None:
    """Write `trials.csv`, `history.svg` and, where it can be told, `importance.svg`; the same study, the same bytes."""
    trials = study.get_trials(deepcopy=False)
    with new_file(folder / "trials.csv") as file:
        trial_table(trials, space).write_csv(file)
    with mpl.rc_context({"svg.hashsalt": "atft", "font.size": 8, "axes.spines.top": False, "axes.spines.right": False}):
        _save(_history(trials, metric), folder / "history.svg")
        if found := importances(study):
            _save(_importance(found), folder / "importance.svg")


def _history(trials: Sequence[FrozenTrial], metric: str) -> Figure:
    figure = Figure(figsize=(6, 2.8), layout="constrained")
    axis = figure.subplots()
    done = [(t.number, t.value) for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    best = [max(value for _, value in done[: i + 1]) for i in range(len(done))]
    axis.plot([n for n, _ in done], [v for _, v in done], "o", ms=3, color=BLUE, label="trial")
    axis.step([n for n, _ in done], best, where="post", color=ORANGE, label="best so far")
    floor = min((value for _, value in done), default=0.0)
    for state, mark in ((TrialState.PRUNED, "|"), (TrialState.FAIL, "x")):
        numbers = [t.number for t in trials if t.state == state]
        if numbers:
            label = "pruned" if state == TrialState.PRUNED else "failed"
            axis.plot(numbers, [floor] * len(numbers), mark, color=GREY, label=label)
    axis.set_xlabel("trial")
    axis.set_ylabel(f"{metric} on valid")
    axis.legend(fontsize=7, frameon=False)
    return figure


def _importance(found: dict[str, float]) -> Figure:
    figure = Figure(figsize=(6, 0.6 + 0.3 * len(found)), layout="constrained")
    axis = figure.subplots()
    names = list(found)[::-1]
    axis.barh(names, [found[name] for name in names], color=BLUE)
    axis.set_xlabel("share of the variance among the better trials")
    return figure


def _save(figure: Figure, target: Path) -> None:
    with new_file(target) as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
