"""Values made comparable within their date; nothing is learned from other dates."""

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri


def standardize(values: pl.DataFrame, method: str) -> NDArray[np.float32]:
    """Each column standardised across the rows of its date; [row, column], 0 where null.

    `rank_gauss` maps average ranks to normal quantiles: no input, however wrong, moves a day's
    others by more than one rank. `zscore` keeps distances and clips at 3 standard deviations.

    Args:
        values: A `date` column and numeric columns. One row per stock of the universe.
        method: "rank_gauss" or "zscore".
    """
    columns = [name for name in values.columns if name != "date"]
    out = np.empty((len(values), len(columns)), np.float32)
    for i, name in enumerate(columns):
        column = values.select("date", x=pl.col(name).cast(pl.Float64).fill_nan(None))
        if method == "rank_gauss":
            ranked = column.select(
                (pl.col("x").rank("average").over("date") - 0.5) / pl.col("x").count().over("date")
            ).to_series()
            out[:, i] = np.nan_to_num(ndtri(ranked.to_numpy()), nan=0.0)
        else:
            mean, std = pl.col("x").mean().over("date"), pl.col("x").std().over("date")
            scaled = column.select(pl.when(std > 0).then((pl.col("x") - mean) / std).clip(-3, 3)).to_series()
            out[:, i] = np.nan_to_num(scaled.to_numpy(), nan=0.0)
    return out
