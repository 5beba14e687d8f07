"""What benchmarks of fits share: a simulated market, made by the stages themselves, and their clock."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from atft.training.loop import pick_device

ROOT = Path(__file__).parents[1]


def simulated(content: dict[str, Any], folder: Path) -> Path:
    """The data folder of the market that `content` describes, made by the stages themselves."""
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    (folder / "data/raw").mkdir(parents=True)
    for stage in ("cache", "graph"):
        subprocess.run([sys.executable, str(ROOT / "src" / f"{stage}.py")], cwd=folder, check=True)
    return folder / "data"


def seconds() -> float:
    """Of the processor, all threads together; where a GPU works, of the clock."""
    return time.perf_counter() if pick_device().type == "cuda" else time.process_time()
