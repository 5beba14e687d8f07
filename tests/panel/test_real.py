"""Real panels survive with their defects, and hide no look-ahead. They are not in the repository."""

from functools import partial

import numpy as np
import polars as pl
import pytest

from atft.panel import features
from conftest import REAL_PANELS, needs_real_panels, panel_of, real_bars
from panel.test_features import changes_of_the_past

EVERYTHING = [*features.FAMILIES, "relative", "market"]

pytestmark = needs_real_panels


@pytest.fixture(params=REAL_PANELS, ids=lambda file: file.stem)
def bars(request: pytest.FixtureRequest) -> pl.DataFrame:
    frame = real_bars(request.param)
    return frame.filter(pl.col("date") < frame["date"].unique().sort()[220])


def test_a_real_panel_is_built_and_no_input_dominates_a_day(bars: pl.DataFrame) -> None:
    panel = panel_of(bars, families=EVERYTHING)
    assert panel.tradable[60:].sum(1).min() > 0
    assert np.isfinite(panel.features[60:][panel.tradable[60:]]).mean() > 0.8
    assert np.nanmax(np.abs(panel.features)) < 4.5
    assert np.abs(panel.daily_return).max() <= 2.0


def test_the_future_of_a_real_panel_cannot_change_its_past(bars: pl.DataFrame) -> None:
    assert changes_of_the_past(partial(panel_of, families=EVERYTHING), bars) == []
