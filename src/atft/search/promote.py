"""Named DVC experiments: the variants of a plan, and the best trials of a search again."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from atft.errors import InputError
from atft.revisions import read_at, resolve


def experiment(name: str, values: Mapping[str, Any]) -> None:
    """Run the pipeline under these values as experiment `name`, in a temporary workspace, its test blocks sealed.

    One of that name that is there already is not run again.

    Args:
        values: By path in `params.yaml`.

    Raises:
        InputError: When the run fails, with what the failing stage said.
    """
    if _exists(name):
        return
    flags = [flag for path, value in values.items() for flag in ("-S", f"{path}={override(value)}")]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", name, *flags, "-S", "split.seal_test=true"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        words = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = [line for line in words if line.startswith(("error:", "ERROR:"))] or words[-1:] or ["no message"]
        raise InputError(f"dvc exp run -n {name}: {told[0]}")


def promote(name: str, values: Mapping[str, Any], metrics: Path, metric: str, expected: float) -> None:
    """Run a trial again as an experiment.

    Args:
        metrics: The file in which `evaluate` says what came out.
        expected: The metric on `valid` in the search.

    Raises:
        InputError: When the run fails, or another number came out than in the search.
    """
    experiment(name, values)
    found = json.loads(read_at(resolve(name), metrics) or "{}").get("valid", {}).get(metric)
    if found != round(expected, 6):
        raise InputError(
            f"{name}: its {metric} on valid is {found}, the trial's was {expected:.6f}; did code or data change since? "
            f"`dvc exp remove {name}` and search again"
        )


def override(value: Any) -> str:
    """The value in the grammar of -S."""
    return value if isinstance(value, str) else json.dumps(value, default=str)  # a date is text


def _exists(name: str) -> bool:
    try:
        resolve(name)
    except InputError:
        return False
    return True
