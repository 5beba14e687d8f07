"""What each variant of a list of experiments costs: its time of pretraining and training, as a multiple of the base's.

On the market of the list, a run of the newest training days of its first fold; two epochs of each, in turns with the
base, once a round, times the epochs it asks for. Epochs of training are counted as if none stopped early. Seconds are
of the processor, which other work on the machine hardly lengthens. Medians over rounds count.

Run: python benchmarks/experiments.py [docs/experiments.yaml --only both ema --days 100 --rounds 3]
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import polars as pl
import yaml

from atft.config import Params
from atft.graph.snapshots import as_heard, read_snapshots
from atft.panel.store import read_panel, read_splits, role_days
from atft.program import pin_threads
from atft.search.space import with_values
from atft.training.checkpoint import save_weights
from atft.training.loop import seed_everything
from atft.training.pretext.fitting import pretrain
from atft.training.rankers import Manifest, fit_ranker
from atft.training.supervised import make_encoder
from fitting import seconds, simulated

EPOCHS = 2  # measured: days are weighted from the second on


def cost(content: dict[str, Any], data: Path, days: int) -> float:
    """Seconds of the variant's pretraining and training on `days` days, all its epochs counted."""
    params = Params.model_validate(content)
    panel, snapshots = read_panel(data / "cache"), read_snapshots(data / "graph")
    splits = newest(read_splits(data / "cache").filter(pl.col("fold") == 0), {"train": days, "stop": days // 5})
    shape, task = params.model.model_dump(exclude={"quantiles"}), params.pretrain.model_dump()
    train = role_days(panel, splits, 0, "train")
    seed_everything(0, 0)
    encoder = make_encoder(panel, **shape)
    spent = 0.0
    if task["task"] != "none":
        graph = as_heard(snapshots, params.model.graph)
        start = seconds()
        pretrain(encoder, panel, graph, train, shape["hidden"], **task | {"epochs": EPOCHS}, seed=0, fold=0)
        spent += (seconds() - start) / EPOCHS * task["epochs"]
    settings = params.train.model_dump() | {"epochs": EPOCHS, "freeze_epochs": 0}
    manifest = Manifest.of(panel, [0], params.threads, dict(params.model), settings)
    with TemporaryDirectory() as place:
        save_weights(encoder, Path(place) / "fold0-seed0.safetensors", {})
        start = seconds()
        fit_ranker(manifest, Path(place), Path(place), panel, snapshots, splits, 0, 0)
    return spent + (seconds() - start) / EPOCHS * params.train.epochs


def newest(splits: pl.DataFrame, days: dict[str, int]) -> pl.DataFrame:
    """Of each role its last so many days."""
    roles = [splits.filter(pl.col("role") == role).sort("date").tail(count) for role, count in days.items()]
    return pl.concat(roles)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("plan", nargs="?", type=Path, default=ROOT / "docs/experiments.yaml")
    parser.add_argument("--only", nargs="+", metavar="VARIANT")
    parser.add_argument("--days", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    plan = yaml.safe_load(args.plan.read_text())
    names: Sequence[str] = args.only or list(plan["variants"])
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    runs = {name: with_values(content, plan["common"] | plan["variants"].get(name, {})) for name in ("base", *names)}
    pin_threads(plan["common"]["threads"])
    with TemporaryDirectory() as folder:
        data: dict[str, Path] = {}
        print("| variant | times the base's seconds | rounds |\n|---|---|---|")
        for name in names:
            ratios = []
            for _ in range(args.rounds):
                spent = {}
                for who in ("base", name):
                    inputs = json.dumps([runs[who][section] for section in ("data", "split", "graph")])
                    if inputs not in data:
                        place = Path(folder) / str(len(data))
                        place.mkdir()
                        data[inputs] = simulated(runs[who], place)
                    spent[who] = cost(runs[who], data[inputs], args.days)
                ratios.append(spent[name] / spent["base"])
            print(f"| {name} | {median(ratios):.2f} | {' '.join(f'{r:.2f}' for r in sorted(ratios))} |", flush=True)


if __name__ == "__main__":
    main()
