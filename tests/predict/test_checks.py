"""Each doubt is raised beyond its limit, and not before."""

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest

from atft.predict import checks
from conftest import World


def kinds(found: list[checks.Warn]) -> list[str]:
    return [warn.kind for warn in found]


def test_stale_counts_weekdays() -> None:
    friday = date(2024, 1, 5)
    assert checks.stale(friday, date(2024, 1, 8), 1) == []
    assert kinds(checks.stale(friday, date(2024, 1, 9), 1)) == ["stale"]
    assert checks.stale(friday, date(2024, 1, 7), 0) == []
    assert checks.stale(date(2024, 1, 2), date(2024, 1, 6), 3) == []  # a Saturday


def test_a_hole_in_the_calendar_since_the_cache() -> None:
    dates = np.array(["2024-01-02", "2024-01-03", "2024-01-10", "2024-01-11"], "datetime64[D]")
    assert "2024-01-03 and 2024-01-10, 5 weekdays" in checks.gap(dates, 2, 3)[0].text
    assert checks.gap(dates, 2, 5) == checks.gap(dates, 3, 3) == []


def test_a_model_grows_old() -> None:
    assert checks.old_model(100, date(2024, 1, 2), 2, 100) == []
    assert kinds(checks.old_model(101, date(2024, 1, 2), 2, 100)) == ["old_model"]


def test_scores_that_left_the_distribution_of_the_model_s_stop_days() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(size=(60, 100, 2)).astype(np.float32)
    same = rng.normal(size=(100, 2)).astype(np.float32)
    assert checks.drifted(reference, same, [1, 5], 0, 10, 200) == []
    moved = same + np.array([0, 3], np.float32)
    found = checks.drifted(reference, moved, [1, 5], 7, 10, 200)
    assert kinds(found) == ["drift"]
    assert "horizon 5, seed 7" in found[0].text


def test_others_are_ranked() -> None:
    before, now = [f"{i}" for i in range(100)], [f"{i}" for i in range(30, 110)]
    assert checks.universe_changed(before, now, date(2024, 1, 2), 0.3) == []
    assert (
        "12% of the ranked stocks came in and 30% left"
        in checks.universe_changed(before, now, date(2024, 1, 2), 0.2)[0].text
    )


def test_features_unknown_or_outside_what_training_saw(world: World) -> None:
    panel, learned = world.panel, np.arange(90, 150)
    assert checks.out_of_range(panel, 149, panel, learned, 0.1) == []
    features = np.array(panel.features[:160])
    features[155, :, 0] = np.nan
    features[155, :, -1] = 9.0
    changed = replace(panel.part(0, 160), features=features)
    found = checks.out_of_range(changed, 155, panel, learned, 0.1)
    assert kinds(found) == ["unknown", "range"]
    assert panel.feature_names[0] + " 100%" in found[0].text
    assert panel.feature_names[-1] + " 9.00" in found[1].text


def test_stop_scores_take_their_places() -> None:
    days, codes = [date(2024, 1, 2), date(2024, 1, 3)], ["A", "B"]
    rows = pl.DataFrame({"date": [days[1]], "code": ["B"], "horizon": [5], "score": [0.5]})
    found = checks.stop_scores(rows, days, codes, [1, 5])
    assert found[1, 1, 1] == pytest.approx(0.5)
    assert np.isfinite(found).sum() == 1
