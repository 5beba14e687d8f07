"""The benchmarks still run, and those that check themselves against a peer agree with it; no time is judged here."""

import subprocess
import sys
from pathlib import Path

import pytest

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
        ("predict", "--stocks 60 --days 320"),
        ("window", "--stocks 50 --features 5"),
    ],
)
def test_it_runs_at_a_small_size(program: str, size: str) -> None:
    command = [sys.executable, f"{BENCHMARKS / program}.py", *size.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
