"""Scores of every fold and seed: arrays for the judge, rows (date, code, horizon, fold, seed, score) for people."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.evaluation.facts import Scores
from atft.graph.snapshots import Snapshots
from atft.panel.store import Panel
from atft.training.diagnostics import percent
from atft.training.rankers import Manifest, score_ranker
from atft.training.supervised import stacked

SCORED = ("stop", "valid", "test")


def score_fold(
    manifest: Manifest,
    folder: Path,
    panel: Panel,
    snapshots: Snapshots,
    splits: pl.DataFrame,
    fold: int,
    seed: int,
    scored: Sequence[str] = SCORED,
) -> list[Scores]:
    """Scores of one (fold, seed) on its dates of the roles `scored`, all tradable stocks and horizons."""
    roles = splits.filter((pl.col("fold") == fold) & pl.col("role").is_in(scored)).sort("date")
    days = panel.positions(roles["date"])
    scores, quantiles = stacked(score_ranker(manifest, folder, panel, snapshots, fold, seed, days.tolist()))
    out = []
    for role in scored:
        here = (roles["role"] == role).to_numpy()
        if here.any():
            parts = scores[here], None if quantiles is None else quantiles[here]
            out.append(Scores(role, fold, seed, days[here], *parts))
    return out


def prediction_rows(scores: Sequence[Scores], panel: Panel, levels: Sequence[float]) -> pl.DataFrame:
    """One row per (fold, seed, horizon, date, code) that was ranked; quantiles at `levels` as q10, q90, ..."""
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
                    **_quantile_columns(part, day, stock, h, levels),
                }
            )
            for h, horizon in enumerate(panel.horizons)
        ]
    return pl.concat(rows)


def _quantile_columns(
    part: Scores, day: NDArray[np.int64], stock: NDArray[np.int64], horizon: int, levels: Sequence[float]
) -> dict[str, NDArray[np.float32]]:
    if part.quantiles is None:
        return {}
    return {f"q{percent(level)}": part.quantiles[day, stock, horizon, q] for q, level in enumerate(levels)}
