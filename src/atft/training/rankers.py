"""One way to fit and to ask every kind of ranker, so that rivals go through the very same evaluation."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import polars as pl

from atft.errors import InputError
from atft.graph.snapshots import Snapshots, as_heard
from atft.model.atft_gat_fan import AtftGatFan, parameter_count
from atft.panel.store import Panel, role_days
from atft.training.baselines import fit_lightgbm, fit_ridge, score_baseline
from atft.training.blocks import Source
from atft.training.checkpoint import load_weights, save_weights
from atft.training.inspection import selection_weights
from atft.training.loop import Plan, pick_device, seed_everything
from atft.training.objective import TERMS, Objective
from atft.training.processes import count, rank
from atft.training.schedule import Schedule
from atft.training.scratch import Checkpoint, Scratch
from atft.training.supervised import Listener, Scored, forecast_days, make_encoder, train_network


@dataclass(frozen=True)
class Manifest:
    """What stands in `models/ranker`: enough to load and ask it without the parameters of the day.

    Attributes:
        kind: atft_gat_fan, ridge, lightgbm or reversal.
        seeds: One ranker per (fold, seed).
        threads: CPU threads it was fitted with.
        feature_names, horizons: What the panel must have.
        architecture, settings: `params.yaml`, sections model and train.
    """

    kind: Literal["atft_gat_fan", "ridge", "lightgbm", "reversal"]
    seeds: list[int]
    threads: int
    feature_names: list[str]
    horizons: list[int]
    architecture: dict[str, Any]
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, panel: Panel, seeds: list[int], threads: int, model: Mapping[str, Any], train: Mapping[str, Any]
    ) -> Self:
        """For a panel and the sections `model` and `train` of `params.yaml`."""
        settings = {name: value for name, value in train.items() if name != "model"}
        return cls(train["model"], seeds, threads, panel.feature_names, panel.horizons, dict(model), settings)


@dataclass(frozen=True)
class Fit:
    """What fitting one ranker came to.

    Attributes:
        found: Facts of the fit, by name.
        epochs: One row per epoch; none from rankers without.
        weights: Of each feature, all together 1; none from rankers without a selection network.
    """

    found: dict[str, Any]
    epochs: list[dict[str, Any]] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    (folder / "manifest.json").write_text(json.dumps(asdict(manifest), indent=2, sort_keys=True) + "\n")


def read_manifest(folder: Path, panel: Panel) -> Manifest:
    """The manifest, once it fits the panel.

    Raises:
        InputError: When it is missing or was fitted on other features or horizons.
    """
    try:
        manifest = Manifest(**json.loads((folder / "manifest.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{folder}: no readable manifest.json ({error}); run `dvc repro` or `dvc pull`") from error
    if (manifest.feature_names, manifest.horizons) != (panel.feature_names, panel.horizons):
        raise InputError(f"{folder}: was fitted on other features or horizons than the panel's; run `dvc repro train`")
    return manifest


def fit_once(
    scratch: Scratch,
    manifest: Manifest,
    encoders: Path | None,
    panel: Panel,
    snapshots: Snapshots,
    splits: pl.DataFrame,
    fold: int,
    seed: int,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """`fit_ranker` into the scratch folder, as a dictionary; from there where an earlier run got that far."""

    def fit(checkpoint: Checkpoint) -> dict[str, Any]:
        rows = (panel, snapshots, splits)
        return asdict(fit_ranker(manifest, scratch.out, encoders, *rows, fold, seed, checkpoint, listener))

    return scratch.once(f"fold{fold}-seed{seed}", fit)


def fit_ranker(
    manifest: Manifest,
    folder: Path,
    encoders: Path | None,
    panel: Panel,
    snapshots: Snapshots,
    splits: pl.DataFrame,
    fold: int,
    seed: int,
    checkpoint: Checkpoint | None = None,
    listener: Listener | None = None,
) -> Fit:
    """Fit the ranker of one (fold, seed) into `folder`; a network from `checkpoint` on if it holds anything.

    `listener` hears of a network's epochs; rivals have none.

    Raises:
        InputError: When `torchrun` started several processes for a rival, which one fits.
    """
    if manifest.kind != "atft_gat_fan" and count() > 1:
        raise InputError(f"train.model: {manifest.kind} is fitted by one process; start it without torchrun")
    settings, file = manifest.settings, _file(manifest, folder, fold, seed)
    train, stop = (role_days(panel, splits, fold, role) for role in ("train", "stop"))
    rows = (panel, snapshots, train, stop)
    if manifest.kind == "reversal":
        if settings["reversal_feature"] not in panel.feature_names:
            raise InputError(f"train.reversal_feature: {settings['reversal_feature']!r} is no feature of the panel")
        return Fit({})
    if manifest.kind == "ridge":
        return Fit(fit_ridge(*rows, settings["neighbor_means"], settings["ridge_alphas"], file))
    if manifest.kind == "lightgbm":
        options = (settings["neighbor_means"], settings["lightgbm"], seed, manifest.threads)
        return Fit(fit_lightgbm(*rows, *options, file))
    seed_everything(seed, fold)
    network = _network(manifest, panel)
    if settings["init"] == "pretrained":
        assert encoders is not None
        load_weights(network.encoder, encoders / f"fold{fold}-seed{seed}.safetensors", "pretrain")
    knobs = {name: settings[name] for name in NETWORK_SETTINGS}
    history = train_network(
        network,
        panel,
        _graph(manifest, snapshots),
        train,
        stop,
        objective_of(settings, manifest.architecture["quantiles"]),
        plan_of(settings),
        **knobs,
        seed=seed,
        fold=fold,
        checkpoint=checkpoint,
        listener=listener,
    )
    if rank() == 0:
        save_weights(network, file, {"fold": fold, "seed": seed})
    kept = [row for row in history if row["kept"]][-1]
    found = {
        "parameters": parameter_count(network),
        "kept_epoch": kept["epoch"],
        "stop_rank_ic": kept["stop_rank_ic"],
    }
    chosen = manifest.architecture["selection"] != "none"
    return Fit(found, history, selection_weights(network, panel, stop) if chosen else {})


def score_ranker(
    manifest: Manifest, folder: Path, panel: Panel, snapshots: Snapshots, fold: int, seed: int, days: Sequence[int]
) -> Iterator[Scored]:
    """What the ranker says of each day in turn."""
    file = _file(manifest, folder, fold, seed)
    if manifest.kind != "atft_gat_fan":
        rival = score_baseline(manifest.kind, file, panel, snapshots, days, manifest.settings, manifest.threads)
        return (Scored(score, None) for score in rival)
    network = _network(manifest, panel)
    load_weights(network, file, "train")
    source = Source(panel, _graph(manifest, snapshots), network.encoder.lookback, pick_device())
    network.to(source.device).encoder.micro_batch = manifest.settings["micro_batch"]
    return forecast_days(network, source, days)


NETWORK_SETTINGS = (
    "keep", "patience", "freeze_epochs", "days_per_step", "micro_batch", "optimizer", "lr", "weight_decay",
    "feature_clip", "ema_decay", "regime_weighting", "turnover_threshold",
)  # fmt: skip


def objective_of(settings: Mapping[str, Any], quantile_levels: Sequence[float]) -> Objective:
    """The objective that `params.yaml`, section train, asks for, with the levels of section model."""
    return Objective(
        weights={name: settings[f"{name}_weight"] for name in TERMS},
        rank_method=settings["rank_method"],
        rank_temperature=settings["rank_temperature"],
        horizon_weights=settings["horizon_weights"],
        portfolio_cost_bps=settings["portfolio_cost_bps"],
        quantile_levels=quantile_levels,
    )


def schedule_of(settings: Mapping[str, Any]) -> Schedule:
    """The learning-rate schedule that `params.yaml`, section train, asks for."""
    return Schedule(
        kind=settings["schedule"],
        warmup_epochs=settings["warmup_epochs"],
        warmup_share=settings["warmup_share"],
        t_0=settings["t_0"],
        t_mult=settings["t_mult"],
        floor=settings["lr_floor"],
    )


def plan_of(settings: Mapping[str, Any]) -> Plan:
    """The length and the steps of the fit that `params.yaml`, section train, asks for."""
    names = ("epochs", "day_share", "accumulate", "gradient_clip")
    return Plan(**{name: settings[name] for name in names}, schedule=schedule_of(settings))


def _network(manifest: Manifest, panel: Panel) -> AtftGatFan:
    shape = dict(manifest.architecture)
    levels = shape.pop("quantiles")
    return AtftGatFan(make_encoder(panel, **shape), shape["hidden"], len(panel.horizons), len(levels))


def _graph(manifest: Manifest, snapshots: Snapshots) -> Snapshots:
    return as_heard(snapshots, manifest.architecture["graph"])


def _file(manifest: Manifest, folder: Path, fold: int, seed: int) -> Path:
    suffix = "txt" if manifest.kind == "lightgbm" else "safetensors"
    return folder / f"fold{fold}-seed{seed}.{suffix}"
