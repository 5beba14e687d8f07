"""Which knobs a search may turn, and how far."""

import copy
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
import yaml

from atft.errors import InputError
from atft.evaluation.verdict import YARDSTICK, flat

KINDS = ("int", "log_int", "float", "log_float", "categorical")
FIXED = (  # knobs that change what is measured: trials that differ in them could not be compared
    *YARDSTICK, "seeds", "split", "data.source", "data.simulated", "data.file", "data.horizons",
    "data.table.path", "data.table.daily_target", "evaluate.primary_horizon", "predict",
)  # fmt: skip


@dataclass(frozen=True)
class Knob:
    """A knob's range.

    Attributes:
        kind: One of `KINDS`.
        values: Lowest and highest value, both possible; categorical: all choices, of any type that YAML has.
    """

    kind: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> dict[str | int | float | bool | None, Any]:
        """Choices by what stands for them in a study, which knows no lists."""
        return {json.dumps(v) if isinstance(v, list | dict) else v: v for v in self.values}

    def suggest(self, trial: optuna.Trial, path: str) -> Any:
        """The trial's value; the one it was given before, if it was."""
        if self.kind == "categorical":
            return self.labels[trial.suggest_categorical(path, list(self.labels))]
        low, high = self.values
        ask = trial.suggest_int if self.kind.endswith("int") else trial.suggest_float
        return ask(path, low, high, log=self.kind.startswith("log_"))

    def value(self, label: Any) -> Any:
        """What a study's value of this knob stands for."""
        return self.labels[label] if self.kind == "categorical" else label

    def holds(self, value: Any) -> bool:
        """Whether the value lies in the range."""
        return value in self.values if self.kind == "categorical" else self.values[0] <= value <= self.values[1]


Space = dict[str, Knob]


def parse_knob(text: str) -> tuple[str, Knob]:
    """`section.knob:kind:values` as (path, range).

    Raises:
        InputError: When it is not of that form.
    """
    path, kind, values = [*text.split(":", 2), "", ""][:3]
    try:
        found = yaml.safe_load(values if kind == "categorical" else f"[{values}]")
    except yaml.YAMLError as error:
        raise InputError(f"--suggest-params {text!r}: {values!r} cannot be read") from error
    return path, _knob(f"--suggest-params {text!r}", kind, found)


def read_space(text: str, name: str) -> Space:
    """A space in YAML: `section.knob: {kind: [low, high]}` or `{categorical: [choices]}`.

    Raises:
        InputError: When it is not of that form.
    """
    try:
        content = yaml.safe_load(text)
        entries = {path: next(iter(entry.items())) for path, entry in content.items() if len(entry) == 1}
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise InputError(f"{name}: each line must be section.knob: {{kind: [values]}}") from error
    if wrong := set(content) - set(entries):
        raise InputError(f"{name}: {min(wrong)}: give one kind with its values, such as {{float: [0.2, 0.8]}}")
    return {path: _knob(f"{name}: {path}", kind, values) for path, (kind, values) in entries.items()}


def _knob(where: str, kind: str, values: Any) -> Knob:
    if kind not in KINDS:
        raise InputError(f"{where}: the kind must be one of {', '.join(KINDS)}, as in train.lr:log_float:1e-4,1e-2")
    if not isinstance(values, list) or not values:
        raise InputError(f"{where}: no values; give {'[choices]' if kind == 'categorical' else 'low,high'}")
    if kind == "categorical":
        knob = Knob(kind, tuple(values))
        if len(knob.labels) < len(values):
            raise InputError(f"{where}: a choice stands twice")
        return knob
    number = _whole if kind.endswith("int") else float
    try:
        low, high = (number(value) for value in values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: needs low,high, two numbers of type {kind.removeprefix('log_')}") from error
    if low > high or (kind.startswith("log_") and low <= 0):
        rule = "low must be at most high" if low > high else "a logarithm needs a low above 0"
        raise InputError(f"{where}: {rule}")
    return Knob(kind, (low, high))


def _whole(value: Any) -> int:
    """The value as int, which would silently cut 2.9 to 2."""
    if not float(value).is_integer():
        raise ValueError
    return int(value)


def check_space(space: Space, content: dict[str, Any], complaint: Callable[[dict[str, Any], str], str | None]) -> None:
    """Refuse what no trial could use, before any runs.

    Args:
        content: Of `params.yaml`.
        complaint: What is wrong with the very value at a path of such content, or None.

    Raises:
        InputError: When a knob does not exist, changes what is measured, or could take a value that it never may.
    """
    known = list(flat(content))
    for path, knob in space.items():
        if path not in known:
            near = difflib.get_close_matches(path, known, 1, 0.5)
            raise InputError(f"{path}: params.yaml has no such knob{f'; did you mean {near[0]}?' if near else ''}")
        if any(path == fixed or path.startswith(f"{fixed}.") for fixed in FIXED):
            raise InputError(f"{path}: changes what is measured, so trials could not be compared")
        for value in knob.values:
            if wrong := complaint(with_values(content, {path: value}), path):
                raise InputError(f"{path}: {value!r} cannot be tried: {wrong}")


def with_values(content: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The content with other values at some paths."""
    out = copy.deepcopy(content)
    for path, value in values.items():
        *sections, name = path.split(".")
        node = out
        for section in sections:
            node = node[section]
        node[name] = value
    return out


def suggest(space: Space, trial: optuna.Trial) -> dict[str, Any]:
    """The trial's value of every knob."""
    return {path: knob.suggest(trial, path) for path, knob in space.items()}


def check_values(space: Space, values: Mapping[str, Any]) -> None:
    """Refuse what lies outside the space: someone may have given a trial its values.

    Raises:
        InputError: With the knob and its value.
    """
    for path, value in values.items():
        if not space[path].holds(value):
            raise InputError(f"{path}: {value!r} lies outside the space")


def values_of(space: Space, params: Mapping[str, Any]) -> dict[str, Any]:
    """What a study's parameters stand for."""
    return {path: space[path].value(label) for path, label in params.items()}


def as_plain(space: Space) -> dict[str, Sequence[Any]]:
    """The space in JSON's types, for a study to keep."""
    return {path: [knob.kind, list(knob.values)] for path, knob in space.items()}


def from_plain(plain: Mapping[str, Sequence[Any]]) -> Space:
    """The space that a study kept."""
    return {path: Knob(kind, tuple(values)) for path, (kind, values) in plain.items()}
