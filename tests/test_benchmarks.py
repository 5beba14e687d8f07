"""The benchmarks still run, and those that check themselves against a peer agree with it; no time is judged here."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("program", "size"),
    [
        ("cache_bars", "--stocks 40 --days 300"),
        ("cache_table", "--stocks 40 --days 300 --features 5"),
        ("evaluate", "--stocks 120 --days 300 --slice 16"),
        ("fan", "--stocks 40 --days 200 --epochs 1"),
        ("graph", "--stocks 80"),
        ("train", "--stocks 24 --features 5 --hidden 8 --lookback 8 --rounds 1 --score 24 --threads 1"),
        (
            "pretrain",
            "--stocks 40 --days 300 --seeds 0 --epochs 2 --set threads=1 --set data.horizons=[1,5] --set split.valid=1 "
            "--set split.test=1 --set split.block_days=40 --set split.stop_days=20 --set split.min_train_days=40 "
            "--set split.seal_test=true --set model.lookback=5 --set model.hidden=8 --set pretrain.lags=[4,5]",
        ),
        ("predict", "--stocks 60 --days 420"),
        ("window", "--stocks 50 --features 5"),
    ],
)
def test_it_runs_at_a_small_size(program: str, size: str) -> None:
    command = [sys.executable, f"{BENCHMARKS / program}.py", *size.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_cost_of_experiments_is_measured_at_a_small_size(tmp_path: Path) -> None:
    small = {
        "data.simulated.stocks": 40, "data.simulated.days": 300, "data.horizons": [1, 5], "split.valid": 1,
        "split.test": 1, "split.block_days": 40, "split.stop_days": 20, "split.min_train_days": 40, "threads": 1,
        "model.lookback": 5, "model.hidden": 8, "pretrain.lags": [4, 5],
    }  # fmt: skip
    variants = {"masked": {"pretrain.task": "masked"}, "plain": {"graph.sector_edge_weight": 0}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"common": small, "variants": variants}))
    command = [sys.executable, BENCHMARKS / "experiments.py", tmp_path / "plan.yaml", "--rounds", "1", "--days", "20"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert [line.split(" | ")[0] for line in result.stdout.splitlines()[2:]] == ["| masked", "| plain"]
