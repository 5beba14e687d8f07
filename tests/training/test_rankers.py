"""From a manifest to rows of predictions: every kind of ranker, with and without quantiles."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atft.errors import InputError
from atft.training.baselines import score_baseline
from atft.training.predictions import prediction_rows, score_fold
from atft.training.rankers import Manifest, fit_ranker, read_manifest, write_manifest
from conftest import World
from training.test_training import SETTINGS, SMALL

ROLES = {"train": range(90, 110), "stop": range(115, 122), "valid": range(128, 131)}
KEYS = ["date", "code", "horizon", "fold", "seed", "score"]


def predict(world: World, folder: Path, kind: Any, **knobs: Any) -> tuple[pl.DataFrame, dict[str, float], list[Any]]:
    """(rows, weights of the features, epochs) of a ranker that was written and read again."""
    panel = world.panel
    roles = [role for role, days in ROLES.items() for _ in days]
    splits = pl.DataFrame({"role": roles, "date": panel.dates[np.concatenate(list(ROLES.values()))]})
    splits = splits.with_columns(fold=0)
    architecture = SMALL | {"quantiles": []} | {name: value for name, value in knobs.items() if name in SMALL}
    architecture["quantiles"] = knobs.get("quantiles", [])
    rival = {"neighbor_means": False, "ridge_alphas": [100.0], "reversal_feature": "return_5"}
    settings = (
        SETTINGS | rival | {"init": "random", "epochs": 1, "quantile_weight": 1.0 if "quantiles" in knobs else 0.0}
    )
    written = Manifest(kind, [0], 1, panel.feature_names, panel.horizons, architecture, settings)
    write_manifest(folder, written)
    manifest = read_manifest(folder, panel)
    assert manifest == written
    fit = fit_ranker(manifest, folder, folder, panel, world.snapshots, splits, 0, 0)
    scores = score_fold(manifest, folder, panel, world.snapshots, splits, 0, 0)
    rows = prediction_rows(scores, panel, manifest.architecture["quantiles"])
    assert rows["date"].n_unique() == len(ROLES["stop"]) + len(ROLES["valid"])
    return rows, fit.weights, fit.epochs


def test_quantiles_reach_the_predictions(world: World, tmp_path: Path) -> None:
    rows, weights, epochs = predict(world, tmp_path, "atft_gat_fan", quantiles=[0.1, 0.5, 0.975])
    assert rows.columns == [*KEYS, "q10", "q50", "q97.5"]
    quantiles = rows.select("q10", "q50", "q97.5").to_numpy()
    assert np.isfinite(quantiles).all()
    assert (np.diff(quantiles, axis=1) >= 0).all()
    stop = rows.filter(pl.col("date") <= world.panel.dates[ROLES["stop"][-1]].item())
    label = pl.DataFrame(
        {
            "date": np.repeat(world.panel.dates, len(world.panel.codes)),
            "code": np.tile(world.panel.codes, len(world.panel.dates)),
            **{str(h): world.panel.label[:, :, i].ravel() for i, h in enumerate(world.panel.horizons)},
        }
    )
    label = label.unpivot(index=["date", "code"], variable_name="horizon", value_name="label")
    joined = stop.join(label.with_columns(pl.col("horizon").cast(pl.Int64)), on=["date", "code", "horizon"])
    known = joined.filter(pl.col("label").is_finite())
    assert len(known) > 500
    for name in ("10", "50", "97.5"):
        below = known.select((pl.col("label") < pl.col(f"q{name}")).mean()).item()
        assert epochs[0][f"coverage_{name}"] == pytest.approx(below)
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["atft_gat_fan", "ridge", "reversal"])
def test_without_quantiles_predictions_are_scores(world: World, tmp_path: Path, kind: str) -> None:
    rows, weights, epochs = predict(world, tmp_path, kind)
    assert rows.columns == KEYS
    assert bool(weights) == bool(epochs) == (kind == "atft_gat_fan")


def test_rivals_know_no_quantiles(world: World, tmp_path: Path) -> None:
    rows, _, _ = predict(world, tmp_path, "ridge", quantiles=[0.1, 0.9])
    assert rows.columns == KEYS


def test_the_papers_selection_comes_back_from_disk(world: World, tmp_path: Path) -> None:
    rows, weights, _ = predict(world, tmp_path, "atft_gat_fan", selection="paper")
    assert rows["score"].is_finite().all()
    assert list(weights) == world.panel.feature_names


@pytest.mark.parametrize("kind", ["ridge", "lightgbm"])
@pytest.mark.parametrize("left", [None, b"", b"tree\n"])
def test_a_rival_that_is_damaged_says_what_to_run(world: World, tmp_path: Path, kind: Any, left: bytes | None) -> None:
    file = tmp_path / "model"
    if left is not None:
        file.write_bytes(left)
    knobs = {"neighbor_means": False}
    with pytest.raises(InputError, match=rf"model: is no {kind} model .*; run `dvc repro -f train`"):
        next(score_baseline(kind, file, world.panel, world.snapshots, [100], knobs, 1))
