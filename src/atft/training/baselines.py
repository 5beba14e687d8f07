"""The rivals: reversal, ridge and LightGBM on the same rows, labels and folds as the network."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightgbm
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.linear_model import Ridge

from atft.errors import InputError
from atft.evaluation.cross_section import rank_ic
from atft.graph.snapshots import Snapshots
from atft.panel.store import Panel
from atft.program import out_of_memory
from atft.training.diagnostics import mean_rank_ic

Kind = Literal["ridge", "lightgbm", "reversal"]


def design(panel: Panel, snapshots: Snapshots, days: Sequence[int], neighbor_means: bool) -> NDArray[np.float32]:
    """Features of all tradable stocks of `days`, stacked day by day; [row, feature], NaN where unknown.

    With `neighbor_means` each stock feature's mean over the stock's graph neighbours is added:
    what a graph network sees, handed to a model without a graph.
    """
    blocks = [panel.features[day][panel.tradable[day]] for day in days]
    if neighbor_means:
        own = [i for i, name in enumerate(panel.feature_names) if name not in panel.market_features]
        means = [_neighbor_mean(panel, snapshots, day)[panel.tradable[day]][:, own] for day in days]
        blocks = [np.hstack(pair) for pair in zip(blocks, means, strict=True)]
    return np.concatenate(blocks)


def _neighbor_mean(panel: Panel, snapshots: Snapshots, day: int) -> NDArray[np.float32]:
    """Mean feature row of each stock's tradable neighbours; NaN where none of them knows it. [stock, feature]

    The stock itself and its industry are no neighbours.
    """
    source, target = snapshots.peers(day)
    keep = panel.tradable[day][source]
    source, target = source[keep], target[keep]
    rows = panel.features[day]
    out = np.full(rows.shape, np.nan, np.float32)
    # Edges are sorted by target, so each stock's neighbours are one run.
    listeners, first = np.unique(target, return_index=True)
    if len(listeners):
        heard = rows[source].astype(np.float64)
        known = np.add.reduceat(np.isfinite(heard), first, dtype=np.float64)
        total = np.add.reduceat(np.nan_to_num(heard), first)
        out[listeners] = np.where(known > 0, total / np.maximum(known, 1), np.nan)
    return out


def fit_ridge(
    panel: Panel,
    snapshots: Snapshots,
    train: Sequence[int],
    stop: Sequence[int],
    neighbor_means: bool,
    alphas: Sequence[float],
    file: Path,
) -> dict[str, Any]:
    """Ridge per horizon on the label; the penalty with the best RankIC on `stop` is kept.

    Unknown features count as the date's mean, which standardising has made 0.
    """
    x, y = np.nan_to_num(design(panel, snapshots, train, neighbor_means), copy=False), _labels(panel, train)
    x_stop = np.nan_to_num(design(panel, snapshots, stop, neighbor_means), copy=False)
    chosen, weights = [], []
    for h in range(len(panel.horizons)):
        known = np.isfinite(y[:, h])
        fits = [Ridge(alpha=alpha, solver="cholesky").fit(x[known], y[known, h]) for alpha in alphas]
        quality = [_stop_rank_ic(panel, stop, x_stop @ fit.coef_, h) for fit in fits]
        best = int(np.argmax(quality))
        chosen.append({"horizon": panel.horizons[h], "alpha": alphas[best], "stop_rank_ic": quality[best]})
        weights.append(fits[best].coef_)
    save_file({"weight": np.stack(weights).astype(np.float32)}, file)
    return {"ridge": chosen}


def fit_lightgbm(
    panel: Panel,
    snapshots: Snapshots,
    train: Sequence[int],
    stop: Sequence[int],
    neighbor_means: bool,
    settings: Mapping[str, Any],
    seed: int,
    threads: int,
    file: Path,
) -> dict[str, Any]:
    """LightGBM regression per horizon on the label, stopped early on `stop`; it knows unknown features as such."""
    x, y = design(panel, snapshots, train, neighbor_means), _labels(panel, train)
    x_stop, y_stop = design(panel, snapshots, stop, neighbor_means), _labels(panel, stop)
    options = {
        "objective": "regression",
        "learning_rate": settings["learning_rate"],
        "num_leaves": settings["leaves"],
        "min_data_in_leaf": settings["min_leaf"],
        "feature_fraction": settings["feature_share"],
        "seed": seed,
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    texts, facts = [], []
    for h, horizon in enumerate(panel.horizons):
        known, known_stop = np.isfinite(y[:, h]), np.isfinite(y_stop[:, h])
        data = lightgbm.Dataset(x[known], y[known, h])
        watch = data.create_valid(x_stop[known_stop], y_stop[known_stop, h])
        rounds = settings["early_stopping"]
        callbacks = [lightgbm.early_stopping(rounds, verbose=False)] if rounds else []
        booster = lightgbm.train(options, data, settings["trees"], valid_sets=[watch], callbacks=callbacks)
        trees = booster.best_iteration if rounds else settings["trees"]
        texts.append(booster.model_to_string(num_iteration=trees))
        facts.append(
            {
                "horizon": horizon,
                "trees": trees,
                "stop_rank_ic": _stop_rank_ic(panel, stop, _predict(texts[-1], x_stop, threads), h),
            }
        )
    file.write_text(_SEPARATOR.join(texts))
    return {"lightgbm": facts}


def score_baseline(
    kind: Kind,
    file: Path,
    panel: Panel,
    snapshots: Snapshots,
    days: Sequence[int],
    settings: Mapping[str, Any],
    threads: int,
) -> Iterator[NDArray[np.float32]]:
    """Scores [stock, horizon] of each day in turn; NaN where the stock is not tradable.

    Raises:
        InputError: When the file is missing or damaged.
    """
    horizons = len(panel.horizons)
    try:
        weight = load_file(file)["weight"] if kind == "ridge" else None
        boosters = file.read_text().split(_SEPARATOR) if kind == "lightgbm" else []
        models = [lightgbm.Booster(model_str=text) for text in boosters]
    except (OSError, ValueError, KeyError, SafetensorError, lightgbm.basic.LightGBMError) as error:
        if out_of_memory(error):
            raise
        raise InputError(f"{file}: is no {kind} model ({error}); run `dvc repro -f train`") from error
    for day in days:
        out = np.full((len(panel.codes), horizons), np.nan, np.float32)
        tradable = panel.tradable[day]
        if kind == "reversal":
            past = panel.features[day][tradable, panel.feature_names.index(settings["reversal_feature"])]
            out[tradable] = -past[:, None]
        else:
            x = design(panel, snapshots, [day], settings["neighbor_means"])
            if weight is not None:
                out[tradable] = np.nan_to_num(x) @ weight.T
            else:
                out[tradable] = np.stack(
                    [np.asarray(model.predict(x, num_threads=threads)) for model in models], axis=1
                )
        yield out


_SEPARATOR = "\n=== next horizon ===\n"


def _predict(text: str, x: NDArray[np.float32], threads: int) -> NDArray[np.float64]:
    return np.asarray(lightgbm.Booster(model_str=text).predict(x, num_threads=threads))


def _labels(panel: Panel, days: Sequence[int]) -> NDArray[np.float32]:
    return np.concatenate([panel.label[day][panel.tradable[day]] for day in days])


def _stop_rank_ic(panel: Panel, days: Sequence[int], score: NDArray[Any], h: int) -> float:
    """`mean_rank_ic` of stacked scores on `days`."""
    by_day = np.full((len(days), len(panel.codes)), np.nan, np.float32)
    by_day[panel.tradable[days]] = score
    return mean_rank_ic(rank_ic(by_day, panel.forward_return[days, :, h]))
