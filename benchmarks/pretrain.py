"""Whether pretraining gets there sooner: epochs and seconds to the best RankIC on `stop` of a random start.

On the panel and graph of this repository, or with --stocks and --days on a simulated market of that size. Each
pretext task fits an encoder, training goes on from it, and is held against training from a random start of the same
fold and seed: the mark is the best RankIC on `stop` (mean over horizons) that the random start reaches in as many
epochs. Pretraining counts, in epochs and in seconds: of the processor, which other work on the machine does not
lengthen, and on a GPU of the clock. `valid` and `test` are not read.

Run: python benchmarks/pretrain.py [--folds 0 --seeds 0 1 2 --epochs 16 --set pretrain.epochs=5 --set train.lr=0.001]
"""

import argparse
import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import polars as pl
import torch
import yaml

from atft.config import Params
from atft.evaluation.verdict import flat
from atft.graph.snapshots import Snapshots, as_heard, read_snapshots
from atft.panel.store import Panel, read_panel, read_splits, role_days
from atft.program import pin_threads
from atft.search.space import with_values
from atft.training.checkpoint import save_weights
from atft.training.loop import pick_device, seed_everything
from atft.training.pretext.fitting import pretrain
from atft.training.pretext.probe import probe
from atft.training.rankers import Manifest, fit_ranker
from atft.training.supervised import make_encoder
from fitting import seconds, simulated

TASKS = ("none", "masked", "contrastive", "both")


@dataclass(frozen=True)
class Outcome:
    """One task, fold and seed: what pretraining cost and was worth, and RankIC on `stop` by epoch of training."""

    task: str
    fold: int
    seed: int
    pretrain_epochs: float
    pretrain_seconds: float
    train_seconds: float
    stop_rank_ic: list[float]
    probe: float | None

    def reached(self, mark: float) -> int | None:
        """Epochs of training until RankIC on `stop` is at least `mark`; None where it never is."""
        return next((epoch for epoch, value in enumerate(self.stop_rank_ic, start=1) if value >= mark), None)

    def cost(self, epochs: int) -> tuple[float, float]:
        """(epochs, seconds) of `epochs` of training and of the pretraining before."""
        share = self.train_seconds / len(self.stop_rank_ic)
        return self.pretrain_epochs + epochs, self.pretrain_seconds + share * epochs


def outcome(
    params: Params, panel: Panel, snapshots: Snapshots, splits: pl.DataFrame, task: str, fold: int, seed: int
) -> Outcome:
    """Pretrain, probe, train without stopping early. Task none is the random start, of which nothing is frozen."""
    train, stop = (role_days(panel, splits, fold, role) for role in ("train", "stop"))
    shape, knobs = params.model.model_dump(exclude={"quantiles"}), params.pretrain.model_dump() | {"task": task}
    graph = as_heard(snapshots, params.model.graph)
    seed_everything(seed, fold)
    encoder = make_encoder(panel, **shape)
    start = seconds()
    rows = pretrain(encoder, panel, graph, train, shape["hidden"], **knobs, seed=seed, fold=fold)
    pretrain_seconds = seconds() - start
    worth = probe(copy.deepcopy(encoder), panel, graph, train, stop)
    settings = params.train.model_dump() | {"init": "pretrained", "patience": params.train.epochs}
    settings |= {"freeze_epochs": 0} if task == "none" else {}
    manifest = Manifest.of(panel, [seed], params.threads, dict(params.model), settings)
    with TemporaryDirectory() as place:
        save_weights(encoder, Path(place) / f"fold{fold}-seed{seed}.safetensors", {})
        start = seconds()
        fit = fit_ranker(manifest, Path(place), Path(place), panel, snapshots, splits, fold, seed)
    return Outcome(
        task, fold, seed, len(rows) * params.pretrain.day_share, pretrain_seconds, seconds() - start,
        [row["stop_rank_ic"] for row in fit.epochs], worth[f"rank_ic_{params.evaluate.primary_horizon}"],
    )  # fmt: skip


def line(task: str, found: Mapping[tuple[str, int, int], Outcome]) -> str:
    """A row of the table: means over pairs, differences as mean +- standard error over pairs."""
    pairs = [(mine, found["none", mine.fold, mine.seed]) for mine in found.values() if mine.task == task]
    marks = [max(base.stop_rank_ic) for _, base in pairs]
    epochs = [mine.reached(mark) for (mine, _), mark in zip(pairs, marks, strict=True)]
    both = [
        (mine.cost(needed), base.cost(base.reached(mark) or 0))
        for (mine, base), mark, needed in zip(pairs, marks, epochs, strict=True)
        if needed is not None
    ]
    gain = spread([max(mine.stop_rank_ic) - mark for (mine, _), mark in zip(pairs, marks, strict=True)])
    before, took = (np.mean([getattr(mine, name) for mine, _ in pairs]) for name in ("pretrain_epochs", "pretrain_seconds"))  # noqa: E501  # fmt: skip
    training = np.mean([needed for needed in epochs if needed is not None]) if both else np.nan
    cells = [
        task,
        f"{before:.1f}, {took:.1f} s",
        f"{len(both)} of {len(pairs)}",
        f"{training:.1f}",
        spread([mine[0] - base[0] for mine, base in both], digits=1),
        spread([mine[1] - base[1] for mine, base in both], digits=1),
        f"{np.mean([mine.probe if mine.probe is not None else np.nan for mine, _ in pairs]):.4f}",
        f"{np.mean([max(mine.stop_rank_ic) for mine, _ in pairs]):.4f}",
        gain,
    ]
    return f"| {' | '.join(cells)} |"


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Mean +- standard error; the error is - for a single value, all of it for none."""
    if not values:
        return "-"
    error = f"{np.std(values, ddof=1) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else "-"
    return f"{np.mean(values):+.{digits}f} +- {error}"


def changed(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The content of params.yaml with `section.knob=value` set, as `dvc exp run -S` would."""
    values = {path: yaml.safe_load(value) for path, _, value in (change.partition("=") for change in changes)}
    if strange := values.keys() - flat(content).keys():
        raise SystemExit(f"--set {min(strange)}: no such knob")
    return with_values(content, values)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", choices=TASKS[1:], default=TASKS[1:])
    parser.add_argument("--folds", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of training; train.epochs where not given")
    parser.add_argument("--stocks", type=int, help="of a simulated market; with --days")
    parser.add_argument("--days", type=int)
    parser.add_argument("--set", action="append", default=[], help="a knob of params.yaml: section.knob=value")
    args = parser.parse_args()
    changes = list(args.set) + ([f"train.epochs={args.epochs}"] if args.epochs else [])
    if args.stocks or args.days:
        changes += ["data.source=simulated", f"data.simulated.stocks={args.stocks}", f"data.simulated.days={args.days}"]
    content = changed(yaml.safe_load((ROOT / "params.yaml").read_text()), changes)
    strictest = "masked" if set(args.tasks) <= {"masked"} else "both"
    params = Params.model_validate(content | {"pretrain": content["pretrain"] | {"task": strictest}})
    pin_threads(params.threads)
    with TemporaryDirectory() as folder:
        data = simulated(content, Path(folder)) if args.stocks else ROOT / "data"
        panel, snapshots = read_panel(data / "cache"), read_snapshots(data / "graph")
        splits = read_splits(data / "cache")
        found: dict[tuple[str, int, int], Outcome] = {}
        for fold, seed in ((fold, seed) for fold in args.folds for seed in args.seeds):
            for task in ("none", *args.tasks):
                found[task, fold, seed] = one = outcome(params, panel, snapshots, splits, task, fold, seed)
                curve = " ".join(f"{value:.4f}" for value in one.stop_rank_ic)
                print(f"fold {fold} seed {seed} {task}: {one.train_seconds:.1f} s, stop {curve}", flush=True)
        print(
            f"\n{len(panel.codes)} stocks, folds {args.folds}, seeds {args.seeds}, {params.train.epochs} epochs, "
            f"{params.threads} threads, {pick_device()}, torch {torch.__version__}; {' '.join(changes)}\n\n"
            "| pretraining | its epochs, time | reach the mark | epochs of training until then | more epochs than "
            "random, all counted | more seconds | probe RankIC | best RankIC on stop | less random's |\n"
            "|---|---|---|---|---|---|---|---|---|"
        )
        for task in ("none", *args.tasks):
            print(line(task, found), flush=True)


if __name__ == "__main__":
    main()
