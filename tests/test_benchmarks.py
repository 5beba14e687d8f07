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
        ("train", "--stocks 24 --features 5 --hidden 8 --lookback 8 --rounds 1 --score 24 --threads 1"),
        ("window", "--stocks 50 --features 5"),
    ],
)
def test_it_runs_at_a_small_size(program: str, size: str) -> None:
    command = [sys.executable, f"{BENCHMARKS / program}.py", *size.split()]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
