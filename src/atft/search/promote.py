"""Named DVC experiments: the variants of a plan, and the best trials of a search again."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from atft.errors import InputError
from atft.evaluation.verdict import flat
from atft.revisions import experiments, read_at, resolve

SEALED = {"split.seal_test": True}  # nothing that a search or a list does may train for a test block or score one


def experiment(name: str, values: Mapping[str, Any]) -> None:
    """Run the pipeline under these values as experiment `name`, in a temporary workspace, its test blocks sealed.

    One of that name that is there already is not run again.

    Args:
        values: By path in `params.yaml`.

    Raises:
        InputError: When the run fails, with what the failing stage said, or one of that name had other values.
    """
    if is_there(name, values):
        return
    flags = [flag for path, value in {**values, **SEALED}.items() for flag in ("-S", f"{path}={override(value)}")]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", "-n", name, *flags]
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


def is_there(name: str, values: Mapping[str, Any]) -> bool:
    """Whether an experiment of that name was run with these values.

    Raises:
        InputError: When it was run with others, or several have the name.
    """
    try:
        revision = resolve(name)
    except InputError:
        if name in dict(experiments()).values():
            raise
        return False
    # As DVC writes it, YAML 1.2: `on` is a word, 1e-05 a number.
    before = flat(YAML(typ="safe", pure=True).load(read_at(revision, Path("params.yaml")) or "{}"))
    for path, value in {**values, **SEALED}.items():
        then, now = _plain(before.get(path, "unknown")), _plain(value)
        if then != now:
            raise InputError(
                f"{name}: was run with {path} {override(then)}, now {override(now)}; `dvc exp remove {name}`, or give "
                f"another name"
            )
    return True


def _plain(value: Any) -> Any:
    """The value as JSON has it, dates as text; text that says a number, as PyYAML reads 1e-05, as that number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return json.loads(json.dumps(value, default=str))
