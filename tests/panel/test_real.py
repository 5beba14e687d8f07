"""Real panels survive with their defects, and hide no look-ahead. They are not in the repository."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.panel import features
from atft.panel.sources import OPTIONAL, REQUIRED, load_bars
from conftest import panel_of
from panel.test_features import changes_of_the_past

EVERYTHING = [*features.FAMILIES, "relative", "market"]
FOLDER = os.environ.get("ATFT_REAL_PANELS", "")
FILES = sorted(Path(FOLDER).glob("*.parquet")) if FOLDER else []

pytestmark = pytest.mark.skipif(not FILES, reason="set ATFT_REAL_PANELS to a folder of Parquet files with daily bars")


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def bars(request: pytest.FixtureRequest) -> pl.DataFrame:
    columns = {name: name for name in (*REQUIRED, "sector", "industry")} | dict.fromkeys(OPTIONAL[2:])
    frame = load_bars(request.param.parent, request.param.name, columns, None)
    return frame.filter(pl.col("date") < frame["date"].unique().sort()[220])


def test_a_real_panel_is_built_and_no_input_dominates_a_day(bars: pl.DataFrame) -> None:
    panel = panel_of(bars, families=EVERYTHING)
    assert panel.tradable[60:].sum(1).min() > 0
    assert np.isfinite(panel.features[60:][panel.tradable[60:]]).mean() > 0.8
    assert np.nanmax(np.abs(panel.features)) < 4.5
    assert np.abs(panel.daily_return).max() <= 2.0


def test_the_future_of_a_real_panel_cannot_change_its_past(bars: pl.DataFrame) -> None:
    assert changes_of_the_past(partial(panel_of, families=EVERYTHING), bars) == []
