"""Training curves as tables."""

from collections.abc import Sequence
from typing import Any

import polars as pl

COLUMNS = {
    "fold": pl.Int64,
    "seed": pl.Int64,
    "epoch": pl.Int64,
    "train_loss": pl.Float64,
    "stop_rank_ic": pl.Float64,
    "turnover": pl.Float64,
    "depth_drop": pl.Float64,
}


def loss_curve(epochs: Sequence[dict[str, Any]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(one row per fold, seed and epoch; one row per epoch, mean over the fits still running).

    Both are empty for rankers without epochs.
    """
    table = pl.DataFrame(list(epochs), schema=COLUMNS).with_columns(pl.col(pl.Float64).round(6))
    means = pl.col("train_loss", "stop_rank_ic").mean().round(6)
    return table, table.group_by("epoch").agg(means, fits=pl.len()).sort("epoch")
