"""Real panels survive with their defects, and hide no look-ahead. They are not in the repository."""

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.panel.sources import OPTIONAL, REQUIRED, load_bars
from conftest import panel_of
from panel.test_features import changes_of_the_past

FOLDER = os.environ.get("ATFT_REAL_PANELS", "")
FILES = sorted(Path(FOLDER).glob("*.parquet")) if FOLDER else []

pytestmark = pytest.mark.skipif(not FILES, reason="set ATFT_REAL_PANELS to a folder of Parquet files with daily bars")


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def bars(request: pytest.FixtureRequest) -> pl.DataFrame:
    columns = {name: name for name in (*REQUIRED, *OPTIONAL)} | {"terminal_return": None}
    frame = load_bars(request.param.parent, request.param.name, columns, None)
    return frame.filter(pl.col("date") < frame["date"].unique().sort()[220])


def test_a_real_panel_is_built_and_no_input_dominates_a_day(bars: pl.DataFrame) -> None:
    arrays = panel_of(bars).arrays
    assert arrays["tradable"][60:].sum(1).min() > 0
    assert np.isfinite(arrays["features"]).all()
    assert np.abs(arrays["features"]).max() < 4.5
    assert np.nanmax(np.abs(arrays["daily_return"])) <= 0.5


def test_the_future_of_a_real_panel_cannot_change_its_past(bars: pl.DataFrame) -> None:
    assert changes_of_the_past(panel_of, bars) == []
