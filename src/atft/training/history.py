"""Training curves as tables, and what the fits come to."""

from collections.abc import Sequence
from typing import Any

import polars as pl

COLUMNS = {
    "fold": pl.Int64,
    "seed": pl.Int64,
    "epoch": pl.Int64,
    "kept": pl.Int64,
    "train_loss": pl.Float64,
    "stop_rank_ic": pl.Float64,
    "turnover": pl.Float64,
    "dispersion": pl.Float64,
    "depth_drop": pl.Float64,
    "lr": pl.Float64,
}


def loss_curve(epochs: Sequence[dict[str, Any]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(one row per fold, seed and epoch; one row per epoch, mean over the fits still running).

    The first table has a column for each fact any epoch knows, beyond `COLUMNS` in order of appearance. Both
    are empty for rankers without epochs.
    """
    schema = COLUMNS | {name: pl.Float64 for row in epochs for name in row if name not in COLUMNS}
    table = pl.DataFrame(list(epochs), schema=schema).with_columns(pl.col(pl.Float64).round(6))
    means = pl.col("train_loss", "stop_rank_ic").mean().round(6)
    return table, table.group_by("epoch").agg(means, fits=pl.len()).sort("epoch")


def selection_table(rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """`metrics/selection.csv`: one row per fold, seed and feature, the heaviest first; empty for rankers without."""
    schema = {"fold": pl.Int64, "seed": pl.Int64, "feature": pl.String, "weight": pl.Float64}
    table = pl.DataFrame(list(rows), schema=schema).with_columns(pl.col("weight").round(6))
    return table.sort("fold", "seed", "weight", "feature", descending=[False, False, True, False])


def training_summary(model: str, fits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`metrics/train.json`: every fit, and the mean RankIC on `stop` of those that train in epochs."""
    quality = [fit["stop_rank_ic"] for fit in fits if "stop_rank_ic" in fit]
    return {"model": model, "stop_rank_ic": sum(quality) / len(quality) if quality else None, "fits": list(fits)}


def pretraining_summary(epochs: Sequence[dict[str, Any]], probes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`metrics/pretrain.json`: all epochs and probes, and the means over fits of the last epoch and of the probes.

    A mean is None where a fit has no value.
    """
    last = [row for row in epochs if row["epoch"] == max(row["epoch"] for row in epochs)]
    who = ("fold", "seed", "epoch")
    probed = {kind: _mean_row([row[kind] for row in probes]) for kind in ("pretrained", "random")}
    means = {"loss": None} | {name: value for name, value in _mean_row(last).items() if name not in who}
    return means | {"probe": probed, "probes": list(probes), "epochs": list(epochs)}


def _mean_row(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Mean of each column over `rows` of the same columns."""
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    return {name: None if None in values else sum(values) / len(values) for name, values in columns.items()}
