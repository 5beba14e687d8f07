"""What only the simulation knows, on the panel's axes."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.panel.store import Panel

KEYS = ("date", "code", "horizon")


def read_oracle(file: Path, panel: Panel) -> dict[str, NDArray[np.float64]] | None:
    """Expected return of each planted part, [date, stock, horizon], NaN where it has none; None for real data."""
    oracle = pl.read_parquet(file)
    if oracle.is_empty():
        return None
    day = panel.positions(oracle["date"])
    stock = np.searchsorted(np.asarray(panel.codes), oracle["code"].to_numpy().astype(str))
    horizon = {days: h for h, days in enumerate(panel.horizons)}
    at = day, stock, np.array([horizon[days] for days in oracle["horizon"].to_list()])
    out = {}
    for part in (name for name in oracle.columns if name not in KEYS):
        values = np.full((len(panel.dates), len(panel.codes), len(panel.horizons)), np.nan)
        values[at] = oracle[part].to_numpy()
        out[part] = values
    return out
