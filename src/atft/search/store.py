"""What stages made, kept by content, so that trials that agree on a stage's inputs share its outputs."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from atft.errors import InputError
from atft.program import new_folder
from atft.search.locks import locked
from atft.training.scratch import files_below, machine

CODE, RAW, COMPILED = "src/", "data/raw", "__pycache__"


class Store:
    """Folders `<stage>-<key>`, each a work tree of the project in which that stage ran.

    The key is of the values of the params sections that `dvc.yaml` declares for the stage, the bytes of its code and
    raw data, the libraries, and the keys of the stages it reads from: what would make DVC run it again. Stages run the
    code as it was when the search began, from a copy: it may be edited meanwhile.
    """

    def __init__(self, root: Path, project: Path) -> None:
        """
        Args:
            root: Where the folders are.
            project: Where `dvc.yaml`, `src` and `data/raw` are.
        """
        self.root, self._project = root.resolve(), project.resolve()
        self._stages = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
        self._maker = {out: name for name, stage in self._stages.items() for out in _names(stage["outs"])}
        self._digest = cache(_digest)
        self._code = self._copied(self._project / CODE)

    def key(self, stage: str, content: Mapping[str, Any]) -> str:
        """Of a stage under these parameters (the content of `params.yaml`)."""
        spec = self._stages[stage]
        parts: list[Any] = [stage, machine(), {name: content[name] for name in spec["params"]}]
        for name in _names(spec["deps"]):
            maker = self._maker.get(name)
            parts.append(self.key(maker, content) if maker else [name, self._digest(self._source(name))])
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    def code(self) -> str:
        """Of the code of all stages and the raw data: what trials of one study must share."""
        names = {name for stage in self._stages.values() for name in _names(stage["deps"])}
        parts = [[name, self._digest(self._source(name))] for name in sorted(names) if name.startswith((CODE, RAW))]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]

    def place(self, stage: str, content: Mapping[str, Any]) -> Path:
        """The stage's folder, built or not."""
        return self.root / f"{stage}-{self.key(stage, content)}"

    @contextmanager
    def alone(self, place: Path):
        """The only process that works in a folder."""
        with locked(self.root / "locks" / place.name) as lock:
            yield lock

    def build(self, stage: str, content: Mapping[str, Any]) -> Path:
        """The folder in which the stage's outputs lie; the stage runs if it never did, after those it reads from.

        Raises:
            InputError: When the stage fails, with its last words.
        """
        place = self.place(stage, content)
        if place.exists():
            return place
        inputs = {name: self._maker[name] for name in _names(self._stages[stage]["deps"]) if name in self._maker}
        built = {name: self.build(maker, content) / name for name, maker in inputs.items()}
        with self.alone(place) as lock:
            part = place.with_name(f"{place.name}.part")
            if not place.exists():
                # A worker may have been killed while its stage ran on to the end.
                if not all((part / out).exists() for out in _names(self._stages[stage]["outs"])):
                    self._lay_out(part, content, built)
                    self._run(stage, part, lock.fileno())
                    self._refuse_changed(stage, part)
                part.replace(place)
        return place

    def _lay_out(self, part: Path, content: Mapping[str, Any], built: Mapping[str, Path]) -> None:
        """A work tree with what the stage reads; of an earlier try only the state it would resume from stays."""
        part.mkdir(parents=True, exist_ok=True)
        for entry in part.iterdir():
            if entry.name != ".scratch":
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        (part / "params.yaml").write_text(yaml.safe_dump(dict(content), sort_keys=False))
        for name, target in {"data/raw": self._project / "data/raw", **built}.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            (part / name).symlink_to(target)

    def _copied(self, code: Path) -> Path:
        """A copy of the code, which the workers of a search share."""
        copy = self.root / f"code-{_digest(code)[:24]}"
        with self.alone(copy):
            if not copy.exists():
                with new_folder(copy) as part:
                    shutil.copytree(code, part, ignore=shutil.ignore_patterns(COMPILED), dirs_exist_ok=True)
        return copy

    def _source(self, name: str) -> Path:
        """Where what `dvc.yaml` calls so is read."""
        return self._code / name.removeprefix(CODE) if name.startswith(CODE) else self._project / name

    def _refuse_changed(self, stage: str, part: Path) -> None:
        for name in _names(self._stages[stage]["deps"]):
            if name.startswith(RAW) and _digest(self._project / name) != self._digest(self._project / name):
                shutil.rmtree(part)
                raise InputError(f"{name}: changed while the search ran; start it again under another name")

    def _run(self, stage: str, part: Path, lock: int) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
        result = subprocess.run(  # noqa: S603
            [sys.executable, self._code / f"{stage}.py"],
            cwd=part,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            pass_fds=(lock,),  # held by the stage too, should this process be killed before it ends
        )
        if result.returncode:
            last = (result.stderr.strip() or "no message").splitlines()[-1]
            raise InputError(f"{stage}: {last.removeprefix('error: ')}")


def _names(entries: list[Any]) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    for file in (file for file in files_below(path) if COMPILED not in file.parts):
        with file.open("rb") as content:
            total.update(str(file.relative_to(path)).encode() + hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
