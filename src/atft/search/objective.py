"""What a trial is worth: rankers fitted and judged in this process, on the days before the first test block alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from atft.errors import InputError
from atft.evaluation.facts import Rules
from atft.evaluation.market import Market
from atft.evaluation.report import evaluate_scores
from atft.graph.snapshots import Snapshots, read_snapshots
from atft.panel.splits import follow_in_time
from atft.panel.store import Panel, folds, read_panel, read_splits
from atft.program import pin_threads
from atft.training.predictions import score_fold
from atft.training.rankers import Manifest, fit_once
from atft.training.scratch import Scratch

METRICS = ("rank_ic", "neutral_rank_ic", "ic", "icir", "neutral_icir", "sharpe", "sharpe_net")  # more is better
STRIDE = 10_000  # steps of a study that belong to one fit; no fit has more epochs

# Told (step, value) after each epoch; what it raises ends the trial.
Report = Callable[[int, float], None]


@dataclass(frozen=True)
class Inputs:
    """Folders that stages made, and the one in which the trial's fits are kept; `encoder` is None if none is needed."""

    cache: Path
    graph: Path
    encoder: Path | None
    fits: Path


@dataclass(frozen=True)
class Worth:
    """What a trial came to: the number to maximise, and the daily series behind it (see `Report.daily`)."""

    value: float
    daily: pl.DataFrame


def worth(inputs: Inputs, content: Mapping[str, Any], metric: str, report: Report) -> Worth:
    """Fit every fold and seed, score the `valid` days, judge.

    What `report` hears is the mean, over the fits so far, of each one's best RankIC on `stop`: of trials that share
    folds and seeds it compares at each step what they know by then.

    Args:
        content: Of `params.yaml`, checked.
        metric: One of `METRICS`, at the primary horizon: mean over seeds, as `evaluate` has it.

    Raises:
        InputError: When a fit fails, or the metric is undefined.
    """
    pin_threads(content["threads"])
    panel, snapshots, splits = _opened(inputs.cache, inputs.graph)
    manifest = Manifest.of(panel, content["seeds"], content["threads"], content["model"], content["train"])
    scratch, best, scores = Scratch(inputs.fits), [], []
    for fold in folds(splits):
        for seed in manifest.seeds:
            heard = _Heard(report, len(best) * STRIDE, best)
            found = fit_once(scratch, manifest, inputs.encoder, panel, snapshots, splits, fold, seed, heard)
            for epoch in range(len(found["epochs"])):  # of a fit that an earlier try had finished
                heard(found["epochs"][: epoch + 1])
            if found["epochs"]:
                best.append(max(row["stop_rank_ic"] for row in found["epochs"]))
            scores += score_fold(manifest, scratch.out, panel, snapshots, splits, fold, seed, ["valid"])
    rules = Rules(**content["evaluate"])
    tradable = ["valid"] if follow_in_time(splits, "valid") else []
    judged = evaluate_scores(scores, Market.of(panel), rules, tradable, None, manifest.threads)
    value = judged.summary["valid", rules.primary_horizon][metric]
    if value is None:
        raise InputError(f"{metric} is undefined on the valid days: the scores say nothing")
    return Worth(value, judged.daily)


class _Heard:
    """Passes a fit's epochs on, each once."""

    def __init__(self, report: Report, first: int, best: Sequence[float]) -> None:
        self._report, self._first, self._before, self._epochs = report, first, list(best), 0

    def __call__(self, history: Sequence[Mapping[str, Any]]) -> None:
        if len(history) > self._epochs:
            self._epochs = len(history)
            best = [*self._before, max(row["stop_rank_ic"] for row in history)]
            self._report(self._first + len(history) - 1, float(np.mean(best)))


@lru_cache(maxsize=4)
def _opened(cache: Path, graph: Path) -> tuple[Panel, Snapshots, pl.DataFrame]:
    """The panel's map, cut before the first test block: what is not in it nobody reads."""
    splits = read_splits(cache)
    assert not (splits["role"] == "test").any(), "the test blocks are sealed"
    panel = read_panel(cache)
    end = int(panel.positions(splits["date"]).max()) + 1
    return panel.part(0, end), read_snapshots(graph), splits
