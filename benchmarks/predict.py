"""`src/predict.py` on a long history, timed from its start to its end, beside the stages that build everything again.

Run: python benchmarks/predict.py [--stocks 4000 --days 1250]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import polars as pl
import yaml

from atft import paths
from atft.config import Params, check_params
from atft.graph.snapshots import read_snapshots
from atft.model.atft_gat_fan import AtftGatFan
from atft.panel.sources import check_bars
from atft.panel.store import folds, read_panel, read_splits
from atft.program import pin_threads
from atft.training.checkpoint import save_weights
from atft.training.predictions import prediction_rows, score_fold
from atft.training.rankers import Manifest, write_manifest
from atft.training.supervised import make_encoder
from cache_bars import bars

THREADS = 2
LIMIT = 10.0  # seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=4000)
    parser.add_argument("--days", type=int, default=1250)
    args = parser.parse_args()
    pin_threads(THREADS)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content |= {"threads": THREADS, "seeds": [0]}
    content["data"] |= {"source": "file"}
    content["split"] |= {"valid": 1, "test": 1, "block_days": 60}
    market = check_bars(bars(args.stocks, args.days), "benchmark")
    days = market["date"].unique().sort()[-2:]
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        for folder in (paths.RAW, paths.METRICS, paths.RANKER):
            folder.mkdir(parents=True)
        paths.PARAMS.write_text(yaml.safe_dump(content))
        market.filter(pl.col("date") < days[0]).write_parquet(paths.RAW / "bars.parquet")
        for i, day in enumerate(days):
            market.filter(pl.col("date") == day).write_parquet(f"day{i}.parquet")
        run("cache")
        run("graph")
        a_model(check_params(content))
        found = {
            "first scores of a model": run("predict"),
            "first day put behind a cache": run("predict", "--data", "day0.parquet"),
            "**a new day appended and ranked**": run("predict", "--data", "day1.parquet", "--output", "live.csv"),
            "**the same day, from what is kept**": run("predict", "--output", "again.csv"),
        }
        for i in range(len(days)):
            Path(f"day{i}.parquet").rename(paths.RAW / f"day{i}.parquet")
        built = {f"`{stage}` anew": run(stage) for stage in ("cache", "graph")}
        run("predict", "--output", "whole.csv")
        live = Path("live.csv").read_bytes()
        assert live == Path("whole.csv").read_bytes() == Path("again.csv").read_bytes(), "another day than built anew"
    print(
        f"{args.stocks:,} stocks x {args.days:,} days, default features, {THREADS} threads on {os.cpu_count()} cores,"
    )
    print(
        f"load {os.getloadavg()[0]:.1f}; one seed, {content['predict']['book_days']} days of scores behind the books;"
    )
    print("every line is a program from start to end; the ranks equal those of a cache built anew\n")
    print(f"| program | wall, s | process, s | of the limit of {LIMIT:g} s |\n|---|---|---|---|")
    for part, (wall, process) in {**found, **built}.items():
        print(f"| {part} | {wall:.1f} | {process:.1f} | {f'{wall / LIMIT:.0%}' if '**' in part else ''} |")


def run(program: str, *options: str) -> tuple[float, float]:
    """Wall and processor seconds of one of the project's programs."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, str(ROOT / f"src/{program}.py"), *options], check=True, stdout=subprocess.DEVNULL)
    used, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return used, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def a_model(params: Params) -> None:
    """Weights as they are born, and their scores on `stop`: speed does not depend on what they have learnt."""
    panel, snapshots, splits = read_panel(paths.CACHE), read_snapshots(paths.GRAPH), read_splits(paths.CACHE)
    shape: dict[str, Any] = params.model.model_dump()
    manifest = Manifest.of(panel, [0], THREADS, shape, params.train.model_dump())
    levels = shape.pop("quantiles")
    newest = folds(splits)[-1]
    network = AtftGatFan(make_encoder(panel, **shape), shape["hidden"], len(panel.horizons), len(levels))
    save_weights(network, paths.RANKER / f"fold{newest}-seed0.safetensors", {})
    write_manifest(paths.RANKER, manifest)
    scores = score_fold(manifest, paths.RANKER, panel, snapshots, splits, newest, 0, ["stop"])
    prediction_rows(scores, panel, levels).write_parquet(paths.PREDICTIONS)


if __name__ == "__main__":
    main()
