"""A day put behind a long history and ranked: its time by part, beside that of building everything again.

Run: python benchmarks/predict.py [--stocks 4000 --days 1250]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import polars as pl

from atft.config import load_params
from atft.evaluation.facts import Rules
from atft.graph.snapshots import HierarchicalGraphBuilder, read_snapshots, write_snapshots
from atft.model.atft_gat_fan import AtftGatFan
from atft.panel.build import build_panel
from atft.panel.sources import check_bars
from atft.panel.store import read_panel
from atft.predict.book import orders
from atft.predict.checks import out_of_range
from atft.predict.live import append
from atft.predict.scores import Memory, data_fingerprint, scores_up_to
from atft.program import pin_threads
from atft.training.checkpoint import save_weights
from atft.training.rankers import Manifest
from atft.training.supervised import make_encoder
from cache import feature_maker
from cache_bars import bars
from predict import stages_of

THREADS, LAST = 2, 2  # days that are put behind: one that finds nothing yet, and the one that is timed


class Clock:
    """Wall and process seconds by part."""

    def __init__(self) -> None:
        self.parts: dict[str, tuple[float, float]] = {}

    def __call__(self, name: str, run: Callable[[], Any]) -> Any:
        wall, process = time.perf_counter(), time.process_time()
        out = run()
        self.parts[name] = time.perf_counter() - wall, time.process_time() - process
        return out

    def table(self, names: list[str], whole: str, base: float) -> str:
        rows = [(name, *self.parts[name]) for name in names]
        rows.append((whole, sum(row[1] for row in rows), sum(row[2] for row in rows)))
        lines = [f"| {name} | {wall:.2f} | {cpu:.2f} | {base / cpu:.1f} |" for name, wall, cpu in rows]
        return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=4000)
    parser.add_argument("--days", type=int, default=1250)
    args = parser.parse_args()
    pin_threads(THREADS)
    params, clock = load_params(), Clock()
    data = params.data
    market = check_bars(bars(args.stocks, args.days), "benchmark")
    dates = market["date"].unique().sort()
    cut, knobs = dates[len(dates) - LAST], {name: getattr(data, name) for name in KNOBS}
    known, days = market.filter(pl.col("date") < cut), market.filter(pl.col("date") >= cut)
    builder = HierarchicalGraphBuilder(**dict(params.graph))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for part in ("cache", "whole", "models"):
            (root / part).mkdir()

        def build(folder: Path, rows: pl.DataFrame) -> None:
            build_panel(folder, rows, feature_maker(data), **knobs, method=data.standardize, threads=THREADS)

        def link(folder: Path) -> None:
            panel = read_panel(folder)
            arrays = (panel.daily_return, panel.has_bar, panel.sector, panel.industry)
            write_snapshots(folder, builder.snapshots(*arrays))

        build(root / "cache", known)
        link(root / "cache")
        cache, snapshots = read_panel(root / "cache"), read_snapshots(root / "cache")
        manifest = network(root / "models", params, cache)
        stages = stages_of(params, manifest)
        first, second = (days.filter(pl.col("date") == day) for day in dates[len(dates) - LAST :])
        live = partial(append, root / "live", "it", cache, snapshots)
        clock("the first day of a cache: all bars once", lambda: live(first, lambda: known, stages))
        history = clock("a day appended", lambda: live(second, lambda: known, stages))
        row, day = len(history.panel.dates) - 1, history.last
        splits = pl.DataFrame(
            {"fold": 0, "date": [cache.dates[i].item() for i in (-90, -60)], "role": ["stop", "test"]}
        )
        memory = Memory.of(root / "scores", manifest, "a model")
        ask = partial(scores_up_to, manifest, root / "models", history, splits, [0])
        rest = params.predict.book_days, "unseen", memory
        before = history.panel.dates[row - 1].item()
        clock("first scores of a model: the book's days", lambda: ask(before, *rest))
        scores = clock("scores, those of earlier days kept", lambda: ask(day, *rest))
        rules = Rules(**dict(params.evaluate))
        score = np.ascontiguousarray(scores.together[:, :, data.horizons.index(rules.primary_horizon)])
        clock(
            "two books", lambda: [orders(history.panel, scores.days, score, rules, long_only=x) for x in (False, True)]
        )
        learned = np.arange(len(cache.dates) // 2, len(cache.dates) - 90)
        clock("warnings and fingerprint", lambda: (out_of_range(history.panel, row, cache, learned, 0.1),
              data_fingerprint(history, row, params.model.lookback)))  # fmt: skip
        clock("panel built again", lambda: build(root / "whole", market))
        clock("graph built again", lambda: link(root / "whole"))
        whole = read_panel(root / "whole")
        same = np.array_equal(history.panel.features[row], whole.features[-1], equal_nan=True)
    base = clock.parts["panel built again"][1] + clock.parts["graph built again"][1]
    shape = "x".join(map(str, whole.features.shape))
    print(f"{shape} (days, stocks, features), {THREADS} threads on {os.cpu_count()} cores, "
          f"load {os.getloadavg()[0]:.1f}; one seed, book of {params.predict.book_days} days; "
          f"the day equals that of a whole build: {same}\n")  # fmt: skip
    print("| part | wall, s | process, s | a rebuild's process time is so many times as much |\n|---|---|---|---|")
    print(clock.table(["a day appended", "scores, those of earlier days kept", "two books", "warnings and fingerprint"],
                      "a day appended and ranked", base))  # fmt: skip
    for part in (
        "the first day of a cache: all bars once",
        "first scores of a model: the book's days",
        "panel built again",
        "graph built again",
    ):
        print(clock.table([part], part, base).splitlines()[0])
    assert same


KNOBS = ("horizons", "delay", "label", "label_scale", "beta_days", "min_history", "min_dollar_volume",
         "max_daily_return", "news_volume")  # fmt: skip


def network(folder: Path, params: Any, panel: Any) -> Manifest:
    """Weights as they are born: speed does not depend on what they have learnt."""
    shape = params.model.model_dump()
    levels = shape.pop("quantiles")
    module = AtftGatFan(make_encoder(panel, **shape), shape["hidden"], len(panel.horizons), len(levels))
    save_weights(module, folder / "fold0-seed0.safetensors", {})
    return Manifest.of(panel, [0], THREADS, params.model.model_dump(), params.train.model_dump())


if __name__ == "__main__":
    main()
