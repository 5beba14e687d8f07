"""What a killed stage had done, for the next run of the very same configuration to go on from."""

import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from atft.program import new_file
from atft.training.processes import count, gathered, rank

SECONDS = 30.0  # between checkpoints; ATFT_CHECKPOINT_SECONDS has another number. When they are taken changes no result
LIBRARIES = ("torch", "torch-geometric", "numpy", "adabelief-pytorch", "lightgbm", "scikit-learn", "scipy", "polars",
             "pyarrow")  # fmt: skip


@dataclass(frozen=True)
class Scratch:
    """A folder for one stage in one configuration. Only the first of several processes writes.

    Not an output that DVC persists: a persisted checkpoint of one configuration is resumed under the next.

    Attributes:
        folder: `.scratch/<stage>-<fingerprint>` below the repository's root, which temporary workspaces share.
    """

    folder: Path

    @classmethod
    def of(cls, stage: str, settings: Mapping[str, Any], inputs: Sequence[Path]) -> "Scratch":
        """That of `stage` with these settings, these bytes below `inputs`, and the code and libraries now loaded."""
        fingerprint = hashlib.sha256(json.dumps([stage, settings, count(), machine()], sort_keys=True).encode())
        for name, file in loaded_code() + [(str(file), file) for path in inputs for file in files_below(path)]:
            with file.open("rb") as content:
                fingerprint.update(name.encode() + hashlib.file_digest(content, "sha256").digest())
        root = Path(os.environ.get("DVC_ROOT", "."))
        return cls(root / ".scratch" / f"{stage}-{fingerprint.hexdigest()[:32]}")

    @property
    def out(self) -> Path:
        """The folder of finished files."""
        path = self.folder / "out"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def once(self, name: str, work: Callable[["Checkpoint"], dict[str, Any]]) -> dict[str, Any]:
        """What `work` returns (JSON), from an earlier run if one got that far; its files belong into `out`."""
        done, checkpoint = self.folder / f"{name}.json", Checkpoint(self.folder / f"{name}.pt")
        if gathered(done.exists())[0]:
            return json.loads(done.read_text())
        result = work(checkpoint)
        if rank() == 0:
            with new_file(done) as file:
                file.write_text(json.dumps(result))
            checkpoint.file.unlink(missing_ok=True)
        return result

    def remove(self) -> None:
        """Forget all: the stage has its outputs."""
        if rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Checkpoint:
    """The state of a fit in progress, replaced whole or not at all."""

    file: Path
    _taken: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether it is time for another."""
        return time.monotonic() - self._taken >= float(os.environ.get("ATFT_CHECKPOINT_SECONDS", SECONDS))

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep `state`: tensors, and containers of them and of plain values."""
        content = io.BytesIO()  # torch's own writer has no name for a full disk
        torch.save(state, content)
        with new_file(self.file) as file:
            file.write_bytes(content.getbuffer())
        self._taken = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """What was kept last; None where nothing was."""
        if not self.file.exists():
            return None
        return torch.load(self.file, map_location="cpu", weights_only=True)


def machine() -> list[str]:
    """What bits depend on beside code and inputs: the device, Python and the libraries."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return [device, sys.version, *(version(name) for name in LIBRARIES)]


def loaded_code() -> list[tuple[str, Path]]:
    """The project's modules that are loaded, by name."""
    root = Path(__file__).parents[2]
    loaded = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return sorted((name, Path(file)) for name, file in loaded.items() if file and Path(file).is_relative_to(root))


def files_below(path: Path) -> list[Path]:
    """All files below a folder, or the file itself."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
