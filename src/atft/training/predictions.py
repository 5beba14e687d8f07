"""Predictions as rows: (date, code, horizon, fold, seed, score)."""

from pathlib import Path

import numpy as np
import polars as pl

from atft.graph.snapshots import Snapshots
from atft.panel.store import Panel
from atft.training.rankers import Manifest, score_ranker

SCORED = ("stop", "valid", "test")


def predict_fold(
    manifest: Manifest, folder: Path, panel: Panel, snapshots: Snapshots, splits: pl.DataFrame, fold: int, seed: int
) -> pl.DataFrame:
    """Scores of one (fold, seed) on its `stop` and held-out dates, all tradable stocks and horizons."""
    dates = splits.filter((pl.col("fold") == fold) & pl.col("role").is_in(SCORED))["date"]
    days = panel.positions(dates)
    scores = np.stack(list(score_ranker(manifest, folder, panel, snapshots, fold, seed, days.tolist())))
    day, stock = np.nonzero(panel.tradable[days])
    codes = np.asarray(panel.codes)
    return pl.concat(
        pl.DataFrame(
            {
                "date": panel.dates[days][day],
                "code": codes[stock],
                "horizon": np.full(len(day), horizon),
                "fold": np.full(len(day), fold),
                "seed": np.full(len(day), seed),
                "score": scores[day, stock, h],
            }
        )
        for h, horizon in enumerate(panel.horizons)
    )


def with_returns(predictions: pl.DataFrame, panel: Panel, splits: pl.DataFrame) -> pl.DataFrame:
    """The predictions with their date's role, the `forward_return` they are judged by and the `label` fitted."""
    day = panel.positions(predictions["date"])
    stock = np.searchsorted(np.asarray(panel.codes), predictions["code"].to_numpy().astype(str))
    horizon = np.searchsorted(np.asarray(sorted(panel.horizons)), predictions["horizon"].to_numpy())
    horizon = np.argsort(panel.horizons)[horizon]
    return predictions.with_columns(
        forward_return=pl.Series(panel.forward_return[day, stock, horizon]),
        label=pl.Series(panel.label[day, stock, horizon]),
    ).join(splits, on=["fold", "date"], how="left", maintain_order="left")
