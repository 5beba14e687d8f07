"""The day's scores against those of the same model's `stop` days, as `evaluate` has written them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.predict.checks import Warn, drifted, stop_scores
from atft.predict.live import History
from atft.predict.scores import DayScores, Memory, data_fingerprint, scores_of
from atft.training.rankers import Manifest

CLOSE = 0.01  # of the scores' spread on a day: what another device's arithmetic may change


def drift(
    file: Path,
    manifest: Manifest,
    folder: Path,
    cached: History,
    splits: pl.DataFrame,
    scores: DayScores,
    seeds: Sequence[int],
    bins: int,
    draws: int,
    memory: Memory | None = None,
) -> list[Warn]:
    """Whether the last day's scores of a seed have left the distribution of its model's `stop` scores.

    Nothing in the file names the model: the last stop day is scored again, and must be found there.

    Args:
        file: `prediction_rows`.
        folder: Of the model.
        cached: The cache and its graph.
        bins, draws: See `stability`.
    """
    if not file.exists():
        return [Warn("reference", f"{file} is not there, so drift was not looked at; run `dvc pull` or `dvc repro`")]
    fold = scores.folds[-1]
    stop = splits.filter((pl.col("fold") == fold) & (pl.col("role") == "stop"))["date"].sort()
    written = pl.scan_parquet(file).filter((pl.col("fold") == fold) & pl.col("date").is_in(stop.to_list()))
    written = written.select("date", "code", "horizon", "seed", "score").collect()
    rows = {seed: written.filter(pl.col("seed") == seed) for seed in seeds}
    last = cached.panel.positions(stop[-1:])
    names = [data_fingerprint(cached, int(last[0]), manifest.architecture["lookback"])] if memory else []
    found, others = [], []
    for seed, score in zip(seeds, scores.by_seed, strict=True):
        again = scores_of(manifest, folder, cached, last, [fold], seed, names, memory)[0]
        there = rows[seed].filter(pl.col("date") == stop[-1])
        if same_scores(there, again, cached.panel.codes, manifest.horizons):
            codes = rows[seed]["code"].unique().sort().to_list()
            reference = stop_scores(rows[seed], stop.to_list(), codes, manifest.horizons)
            found += drifted(reference, score[-1], manifest.horizons, seed, bins, draws)
        else:
            others.append(seed)
    if others:
        text = (
            f"{file} does not hold what this model and cache give on {stop[-1]} for fold {fold}, seed "
            f"{', '.join(map(str, others))}, so its drift was not looked at; run `dvc repro`"
        )
        found.append(Warn("reference", text))
    return found


def same_scores(rows: pl.DataFrame, score: NDArray[np.float32], codes: Sequence[str], horizons: Sequence[int]) -> bool:
    """Whether a day's rows `date, code, horizon, score` are these scores [stock, horizon], NaN where not ranked."""
    if not set(rows["horizon"]) <= set(horizons) or not set(rows["code"]) <= set(codes):
        return False
    there = stop_scores(rows, rows["date"].unique().to_list(), codes, horizons)
    if len(there) != 1 or not np.array_equal(np.isfinite(there[0]), np.isfinite(score)):
        return False
    known = np.isfinite(score)
    return bool((np.abs(there[0] - score)[known] <= CLOSE * np.std(score[known])).all())
