"""Weights on disk: safetensors, strictly loaded."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from atft.errors import InputError
from atft.program import out_of_memory


def save_weights(module: nn.Module, file: Path, facts: dict[str, Any]) -> None:
    """Write the weights and one metadata key: more than one would not be written in a fixed order."""
    weights = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    save_file(weights, file, metadata={"facts": json.dumps(facts, sort_keys=True)})


def load_weights(module: nn.Module, file: Path, stage: str) -> None:
    """Load weights; a missing, unexpected or misshapen one is an error.

    Raises:
        InputError: With the stage to rerun.
    """
    try:
        with safe_open(file, framework="pt") as stored:
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        module.load_state_dict(weights, strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        if out_of_memory(error):
            raise
        raise InputError(f"{file}: does not fit this network ({error}); run `dvc repro -f {stage}`") from error
