"""A panel larger than the memory that the work may take builds and trains."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

ROOT = Path(__file__).parents[2]
STOCKS, DAYS, COLUMNS = 400, 500, 800  # 640 MB of float32
ALLOWED = 448  # MB of anonymous memory beyond what the imported libraries hold

LIMIT = """
import resource, sys
from functools import partial
from pathlib import Path
import numpy as np
import torch
from atft.panel.sources import load_bars
{imports}

def limit():
    torch.randn(64, 64) @ torch.randn(64, 64)
    held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
    allowed = held + {allowed} * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))

torch.set_num_threads(1)
raw, folder = Path(sys.argv[1]), Path(sys.argv[2])
"""
BUILD = """
from atft.panel.build import build_panel
from atft.panel.table import table_features
from atft.panel.sources import OPTIONAL, REQUIRED

names = {"date": "date", "code": "code", "close": "close"}
bars = load_bars(raw, "bars.parquet", dict.fromkeys((*REQUIRED, *OPTIONAL)) | names, None)
limit()
features = partial(
    table_features, raw=raw, path="table.parquet", date="date", code="code", prices=["close"], features=["*"],
    exclude=[], forward_names=[], defects={}, canary_rank_ic=0.5, canary_icir=9.0, delay=1, horizons=[1, 5],
)
build_panel(
    folder, bars, features, horizons=[1, 5], delay=1, label="raw", label_scale="rank_gauss", beta_days=60,
    min_history=20, min_dollar_volume=0.0, max_daily_return=0.5, news_volume=5.0, method="rank_gauss", threads=1,
)
"""
TRAIN = """
from atft.graph.edges import EDGE_FEATURES
from atft.graph.snapshots import Snapshots
from atft.panel.store import read_panel
from atft.training.objective import TERMS, Objective
from atft.training.schedule import Schedule
from atft.training.loop import Plan
from atft.training.supervised import make_encoder, train_network
from atft.model.atft_gat_fan import AtftGatFan

panel = read_panel(folder)
limit()
encoder = make_encoder(
    panel, lookback=5, hidden=8, heads=2, selection="hinge", graph="off", graph_layers=1, normalization="none",
    fan_channels=["x0"], fan_components=1, dropout=0.0, attention_dropout=0.0, attention_scores="free",
    stochastic_depth=0.0, precision="fp32",
)
none = Snapshots(
    len(panel.codes), np.empty(0, np.int64), np.zeros(1, np.int64), np.empty((2, 0), np.int64),
    np.empty((0, len(EDGE_FEATURES)), np.float32),
)
weights = dict.fromkeys(TERMS, 0.0) | {"huber": 1.0, "rank": 1.0}
objective = Objective(weights, "linear", 0.2, horizon_weights=None, portfolio_cost_bps=10.0)
history = train_network(
    AtftGatFan(encoder, 8, 2, 0), panel, none, range(30, 80), range(90, 95), objective,
    Plan(1, 1.0, 1, 1.0, Schedule("cosine", 10, 0.1, 20, 2, 0.1)), optimizer="adamw", lr=0.001, weight_decay=0.0,
    feature_clip=0.0, ema_decay=0.0, keep="best", patience=1, freeze_epochs=0, days_per_step=5, micro_batch=0,
    regime_weighting=0.0, turnover_threshold=1.0, seed=0, fold=0,
)
print(history)
"""
GREEDY = """
limit()
np.ones({size}, np.uint8)
"""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table sorted by code, the harder order: its rows must be laid out by date."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    days = pl.date_range(pl.date(2015, 1, 1), pl.date(2030, 1, 1), "1d", eager=True)[:DAYS]
    keys = pl.DataFrame({"code": [f"S{i:03}" for i in range(STOCKS)]}).join(pl.DataFrame({"date": days}), how="cross")
    close = np.exp(0.02 * rng.normal(size=(STOCKS, DAYS)).cumsum(1)).ravel()
    keys.with_columns(close=pl.Series(close)).write_parquet(folder / "bars.parquet")
    one = rng.normal(size=STOCKS * DAYS + COLUMNS).astype(np.float32)
    columns = {f"x{i}": one[i : i + STOCKS * DAYS] for i in range(COLUMNS)}
    keys.with_columns(pl.DataFrame(columns)).write_parquet(
        folder / "table.parquet", compression="uncompressed", row_group_size=20_000
    )
    return folder


def run(script: str, raw: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    imports, _, work = script.rpartition("\n\n")
    text = LIMIT.format(imports=imports, allowed=ALLOWED) + work
    # Arrow's own allocator reserves a gigabyte of addresses at once, used or not; libc's keeps what was freed.
    env = {
        "PYTHONPATH": str(ROOT / "src"),
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_TRIM_THRESHOLD_": "100000",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    return subprocess.run([sys.executable, "-c", text, raw, folder], env=env, capture_output=True, text=True)


def test_a_panel_larger_than_memory_builds_and_trains(raw: Path, tmp_path: Path) -> None:
    size = STOCKS * DAYS * COLUMNS * 4
    assert size > 1.3 * ALLOWED * 2**20
    refused = run("\n\n" + GREEDY.format(size=size), raw, tmp_path)
    assert "MemoryError" in refused.stderr, "the limit holds"
    built = run(BUILD, raw, tmp_path)
    assert built.returncode == 0, built.stderr[-2000:]
    assert (tmp_path / "panel.arrow").stat().st_size > size
    assert not (tmp_path / "raw.scratch").exists()
    trained = run(TRAIN, raw, tmp_path)
    assert trained.returncode == 0, trained.stderr[-2000:]
    assert "train_loss" in trained.stdout
