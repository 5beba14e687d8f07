"""Scores of every fold and seed: arrays for the judge, rows (date, code, horizon, fold, seed, score) for people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from atft.evaluation.facts import Scores
from atft.graph.snapshots import Snapshots
from atft.panel.store import Panel
from atft.training.rankers import Manifest, score_ranker

SCORED = ("stop", "valid", "test")


def score_fold(
    manifest: Manifest, folder: Path, panel: Panel, snapshots: Snapshots, splits: pl.DataFrame, fold: int, seed: int
) -> list[Scores]:
    """Scores of one (fold, seed) on its `stop` and held-out dates, all tradable stocks and horizons."""
    roles = splits.filter((pl.col("fold") == fold) & pl.col("role").is_in(SCORED)).sort("date")
    days = panel.positions(roles["date"])
    scores = np.stack(list(score_ranker(manifest, folder, panel, snapshots, fold, seed, days.tolist())))
    out = []
    for role in SCORED:
        here = (roles["role"] == role).to_numpy()
        if here.any():
            out.append(Scores(role, fold, seed, days[here], scores[here]))
    return out


def prediction_rows(scores: Sequence[Scores], panel: Panel) -> pl.DataFrame:
    """One row per (fold, seed, horizon, date, code) that was ranked."""
    codes = np.asarray(panel.codes)
    rows = []
    for part in scores:
        day, stock = np.nonzero(np.isfinite(part.score).any(2))
        rows += [
            pl.DataFrame(
                {
                    "date": panel.dates[part.days][day],
                    "code": codes[stock],
                    "horizon": np.full(len(day), horizon),
                    "fold": np.full(len(day), part.fold),
                    "seed": np.full(len(day), part.seed),
                    "score": part.score[day, stock, h],
                }
            )
            for h, horizon in enumerate(panel.horizons)
        ]
    return pl.concat(rows)
