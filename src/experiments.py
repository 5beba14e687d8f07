"""Run a list of variants as DVC experiments against their base, and have verdict.py judge them together."""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from tqdm import tqdm

from atft.config import Section, check_params, load_params, read_checked
from atft.errors import InputError
from atft.evaluation.verdict import flat
from atft.program import run_program
from atft.search.promote import experiment, is_there
from atft.search.space import with_values


class Plan(Section):
    """What stands in the list: values by path in `params.yaml`, of all runs and of each variant."""

    prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
    common: dict[str, Any]
    variants: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]

    @field_validator("variants")
    @classmethod
    def _base_is_taken(cls, variants: dict[str, Any]) -> dict[str, Any]:
        if "base" in variants:
            raise ValueError("base is what has the common values alone; give the variant another name")
        return variants

    def runs(self) -> dict[str, dict[str, Any]]:
        """What the base and each variant set, by name."""
        return {"base": self.common} | {name: self.common | values for name, values in self.variants.items()}


def main() -> None:
    options = arguments()
    plan = read_checked(options.plan, Plan)
    names = options.only or list(plan.variants)
    if unknown := [name for name in names if name not in plan.variants]:
        raise InputError(f"--only: {options.plan} has no variant {unknown[0]}")
    runs = plan.runs()
    check_runs(runs, options.plan)
    for name in ("base", *names):
        is_there(f"{plan.prefix}-{name}", runs[name])  # one that was run with other values has not lost: refuse now
    experiment(f"{plan.prefix}-base", runs["base"])
    failed: dict[str, str] = {}
    for name in tqdm(names, plan.prefix, disable=None):
        try:
            experiment(f"{plan.prefix}-{name}", runs[name])
        except InputError as error:  # a variant that cannot be trained has lost, and the others run on
            failed[name] = str(error)
    ended = [f"{plan.prefix}-{name}" for name in names if name not in failed]
    lost = [flag for name, why in failed.items() for flag in ("--failed", f"{plan.prefix}-{name}={why}")]
    command = [sys.executable, Path(__file__).with_name("verdict.py"), f"{plan.prefix}-base", *ended, *lost]
    sys.exit(subprocess.run([*command, *(["--log"] if options.log else [])], check=False).returncode)  # noqa: S603


def check_runs(runs: dict[str, dict[str, Any]], file: Path) -> None:
    """Refuse a list with a knob or a value that params.yaml does not know, before anything runs."""
    content = load_params().model_dump(mode="json")
    known = flat(content)
    for name, values in runs.items():
        if strange := [path for path in values if path not in known]:
            raise InputError(f"{file}: {name}: params.yaml has no knob {strange[0]}")
        try:
            check_params(with_values(content, values))
        except InputError as error:
            raise InputError(f"{file}: {name}: {error}") from error


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path, help="see docs/experiments.yaml")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these variants alone")
    parser.add_argument("--log", action="store_true", help="append the verdicts to docs/log.md")
    return parser.parse_args()


if __name__ == "__main__":
    run_program(main)
