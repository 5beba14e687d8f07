"""What a search may turn: said in the roadmap's syntax or in YAML, and refused before anything runs."""

from typing import Any

import optuna
import pytest
import yaml
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from atft import paths
from atft.config import complaint, load_params
from atft.errors import InputError
from atft.search.space import (
    Knob,
    as_plain,
    check_space,
    check_values,
    from_plain,
    parse_knob,
    read_space,
    suggest,
    values_of,
    with_values,
)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    assert paths.PARAMS.exists(), "run from the repository's root"
    return load_params().model_dump(mode="json")


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("train.optimizer:categorical:['adamw','adabelief','shampoo']",
         CategoricalDistribution(["adamw", "adabelief", "shampoo"])),
        ("graph.sector_edge_weight:float:0.2,0.8", FloatDistribution(0.2, 0.8)),
        ("train.lr:log_float:1e-4,1e-2", FloatDistribution(1e-4, 1e-2, log=True)),
        ("train.epochs:int:2,8", IntDistribution(2, 8)),
        ("model.graph_layers:log_int:1,4", IntDistribution(1, 4, log=True)),
        ("train.horizon_weights:categorical:[null, [1, 0.5, 0.5, 0.5]]",
         CategoricalDistribution([None, "[1, 0.5, 0.5, 0.5]"])),
    ],
)  # fmt: skip
def test_a_knob_is_tried_in_the_range_that_was_said(content: dict[str, Any], text: str, distribution: Any) -> None:
    path, knob = parse_knob(text)
    check_space({path: knob}, content, complaint)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(10):
        trial = study.ask()
        values = suggest({path: knob}, trial)
        check_values({path: knob}, values)
        assert trial.distributions == {path: distribution}
        assert values_of({path: knob}, trial.params) == values
        assert complaint(with_values(content, values), path) is None
    line = f"{path}: {{{knob.kind}: {text.split(':', 2)[2]}}}"
    if knob.kind == "categorical":
        assert read_space(line, "space.yaml") == {path: knob}
    assert from_plain(yaml.safe_load(yaml.safe_dump(as_plain({path: knob})))) == {path: knob}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train.lr:gaussian:0,1", "the kind must be one of int, log_int, float, log_float, categorical"),
        ("train.lr", "the kind must be one of"),
        ("train.lr:float:", "no values; give low,high"),
        ("train.lr:float:0.1", "needs low,high, two numbers of type float"),
        ("train.epochs:int:two,8", "needs low,high, two numbers of type int"),
        ("train.epochs:int:2.9,8", "needs low,high, two numbers of type int"),
        ("model.graph_layers:log_int:1,4.5", "needs low,high, two numbers of type int"),
        ("train.epochs:int:2,.inf", "needs low,high, two numbers of type int"),
        ("train.lr:float:0.2,0.1", "low must be at most high"),
        ("train.lr:log_float:0,0.1", "a logarithm needs a low above 0"),
        ("train.optimizer:categorical:['adamw','adamw']", "a choice stands twice"),
        ("train.optimizer:categorical:['adamw'", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_knob(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("train.optimiser:categorical:['adamw']", "train.optimiser: params.yaml has no such knob; did you mean"),
        ("optimizer:categorical:['adamw']", "optimizer: params.yaml has no such knob"),
        ("train:categorical:['adamw']", "train: params.yaml has no such knob"),
        ("train.optimizer:categorical:['adamw','adam']", "train.optimizer: 'adam' cannot be tried: Input should be"),
        ("model.dropout:float:0.1,1.0", "model.dropout: 1.0 cannot be tried: Input should be less than 1"),
        ("train.epochs:float:1,8", "train.epochs: 1.0 cannot be tried"),
        ("split.block_days:int:30,90", "split.block_days: changes what is measured"),
        ("seeds:categorical:[[0],[1]]", "seeds: changes what is measured"),
        ("evaluate.primary_horizon:int:1,5", "changes what is measured"),
    ],
)  # fmt: skip
def test_what_no_trial_could_use_is_refused(content: dict[str, Any], text: str, says: str) -> None:
    path, knob = parse_knob(text)
    with pytest.raises(InputError, match=says):
        check_space({path: knob}, content, complaint)


def test_a_space_in_yaml_must_say_one_kind_a_knob() -> None:
    assert read_space("train.lr: {log_float: [1.0e-4, 1.0e-2]}", "s") == {"train.lr": Knob("log_float", (1e-4, 1e-2))}
    for text in ("train.lr: 3", "train.lr: {float: [0, 1], int: [0, 1]}", "- a", "train.lr: {float: {low: 1}}"):
        with pytest.raises(InputError, match=r"^s: "):
            read_space(text, "s")


def test_values_outside_the_space_are_refused() -> None:
    space = {"a": Knob("float", (0.0, 1.0)), "b": Knob("categorical", ("x", "y"))}
    for values in ({"a": 1.5, "b": "x"}, {"a": 0.5, "b": "z"}):
        with pytest.raises(InputError, match="lies outside the space"):
            check_values(space, values)
