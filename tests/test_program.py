"""Failures of the machine end in one line, and outputs appear whole or not at all."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from atft import program
from atft.errors import InputError
from atft.program import new_file, new_folder, run_program, write_json
from test_pipeline import ROOT, TINY, merge

LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from atft.program import new_file, new_folder, run_program
values = np.random.default_rng(0).normal(size=100_000)

def main():
    with new_folder(Path("out/folder")) as folder, new_file(Path("out/file")) as file:
        file.write_text("new")
        {prepare}
        {limit}
        {act}

run_program(main, memory="lower the knob")
"""
SMALL_FILES = "resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))"
# What is mapped now and 256 MiB more.
SPACE = (
    "now = int(Path('/proc/self/statm').read_text().split()[0]) * 4096; "
    "resource.setrlimit(resource.RLIMIT_AS, (now + 2**28, now + 2**28))"
)
FILE_WRITERS = {
    "text": ("pass", "(folder / 'x').write_text('x' * 2**20)"),
    "parquet": ("import polars as pl", "pl.DataFrame({'a': values}).write_parquet(folder / 'x')"),
    "csv": ("import polars as pl", "pl.DataFrame({'a': values}).write_csv(folder / 'x')"),
    "safetensors": ("from safetensors.numpy import save_file", "save_file({'a': values}, folder / 'x')"),
    "panel": (
        "from atft.panel.store import PanelWriter",
        "with PanelWriter(folder, {}) as w: w.write_day(np.datetime64('2020-01-01'), {'features': values})",
    ),
    "scratch array": ("from atft.panel.store import scratch_array", "scratch_array(folder / 'x', (100_000,))"),
}
MEMORY_TAKERS = {
    "numpy": ("pass", "np.ones(2**30)", "8.00 GiB"),
    "python": ("pass", "[0] * 2**30", None),
    "arrow": ("import pyarrow as pa", "pa.allocate_buffer(2**32)", "4294967296 bytes"),
    "torch": ("import torch", "torch.ones(2**30)", "4294967296 bytes"),
    "map": (
        "from atft.panel.store import FILE, read_panel; (folder / FILE).touch(); import os; "
        "os.truncate(folder / FILE, 2**32)",
        "read_panel(folder)",
        None,
    ),
}


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-c", text], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )


def earlier(folder: Path) -> dict[str, str]:
    """Outputs of an earlier run, below `folder`."""
    for name in ("out/folder/old", "out/file"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old")
    return contents(folder)


def contents(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("writer", FILE_WRITERS)
def test_a_file_too_large_is_one_line_and_earlier_outputs_stay(tmp_path: Path, writer: str) -> None:
    before = earlier(tmp_path)
    prepare, act = FILE_WRITERS[writer]
    result = run_script(tmp_path, LIMITED.format(prepare=prepare, limit=SMALL_FILES, act=act))
    assert result.returncode == 1, result.stderr
    assert result.stderr == (
        "error: out/file and out/folder: File too large; raise the limit on the size of a file (ulimit -f)\n"
    )
    assert contents(tmp_path) == before


@pytest.mark.parametrize("taker", MEMORY_TAKERS)
def test_memory_that_runs_out_is_one_line_with_the_knob(tmp_path: Path, taker: str) -> None:
    before = earlier(tmp_path)
    prepare, act, amount = MEMORY_TAKERS[taker]
    result = run_script(tmp_path, LIMITED.format(prepare=prepare, limit=SPACE, act=act))
    asked = f", {amount} were asked for" if amount else ""
    assert result.returncode == 1, result.stderr
    assert result.stderr == f"error: out of memory{asked} (out/file and out/folder); lower the knob\n"
    assert contents(tmp_path) == before


def test_the_cache_stage_on_a_full_disk(tmp_path: Path) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    merge(params, TINY)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    for name in ("data/cache/old", "data/oracle.parquet", "data/clusters.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("old")
    before = contents(tmp_path)
    limited = (
        f"import resource, runpy; {SMALL_FILES}; runpy.run_path({str(ROOT / 'src/cache.py')!r}, run_name='__main__')"
    )
    result = run_script(tmp_path, limited)
    assert result.returncode == 1
    assert re.fullmatch(r"error: .*data/cache: File too large; raise .*\n", result.stderr), result.stderr
    assert contents(tmp_path) == before


def failing(error: Exception) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


class LightGBMError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("a:\n b"), "a: b"),
        (OSError(errno.ENOSPC, "", "x.csv"), "x.csv: No space left on device; free space on its disk"),
        (OSError(errno.EDQUOT, "", "x.csv"), "x.csv: Disk quota exceeded; free some of your quota there"),
        (OSError(errno.EROFS, "", "x"), "x: Read-only file system; mount its disk writable, or work in another folder"),
        (FileNotFoundError(errno.ENOENT, "Not there", "x"), "[Errno 2] Not there: 'x'"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.1 GiB"),
            "out of memory, 20.00 MiB were asked for; use less",
        ),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), "out of memory; use less"),
        (LightGBMError("std::bad_alloc"), "out of memory; use less"),
    ],
)
def test_what_each_failure_says(capsys: pytest.CaptureFixture[str], error: Exception, says: str) -> None:
    with pytest.raises(SystemExit, match="1"):
        run_program(failing(error), memory="use less")
    assert capsys.readouterr().err == f"error: {says}\n"


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("(os error 28)"), KeyError("x")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_program(failing(error))


def test_a_file_in_the_way_of_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError), new_folder(tmp_path / "out"):
        pass
    assert contents(tmp_path) == {"out": "mine"}


HOLDING = """
import sys, time
from pathlib import Path
from atft.program import new_file, new_folder
with new_folder(Path("out")) as folder, new_file(Path("x.csv")) as file:
    (folder / "half").write_text("x")
    file.write_text("x")
    print("ready", flush=True)
    time.sleep(100)
"""


def test_the_scratch_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", HOLDING]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "ready\n"
        replace_both(tmp_path)
        assert len(list(tmp_path.glob(f".*-{other.pid}-*"))) == 2
        other.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, but its parent has not asked yet
        replace_both(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.csv"]


def replace_both(folder: Path) -> None:
    with new_folder(folder / "out") as out:
        (out / "whole").write_text("x")
    write_json(folder / "x.csv", {})


def test_a_folder_takes_the_place_of_another_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No kill can come between two renames where there are none."""
    replace_both(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *paths: pytest.fail("renamed"))
    with new_folder(tmp_path / "out") as out:
        (out / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.glob(".out*")] == []


def test_where_there_is_no_such_step_a_kill_between_two_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_both(tmp_path)
    monkeypatch.setattr(program.ctypes, "CDLL", lambda *arguments, **options: object())
    with new_folder(tmp_path / "out") as out:
        (out / "new").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    (tmp_path / "out").replace(tmp_path / f".out-1{'0' * 30}-1.old")
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "out"):
        raise ZeroDivisionError
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.glob(".out*")] == []


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        (".x-PARENT-1", False),  # a number that came again
        (".x-OWN-1.old", False),
        (f".x-1{'0' * 30}-1", False),
        (".x-y-PARENT-1", True),  # of the target x-y
        (".x-1", True),
        (".x-notes-1", True),
    ],
)
def test_only_scratch_of_the_same_target_goes(tmp_path: Path, name: str, stays: bool) -> None:
    write_json(tmp_path / "x", {})
    folder = tmp_path / name.replace("PARENT", str(os.getppid())).replace("OWN", str(os.getpid()))
    folder.mkdir()
    write_json(tmp_path / "x", {})
    assert folder.exists() == stays


def test_a_process_that_hides_counts_as_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: int, number: int) -> None:
        raise PermissionError

    hidden = 2**22 + 1  # above every process number
    (tmp_path / f".x-{hidden}-5").touch()
    monkeypatch.setattr(os, "kill", refuse)
    write_json(tmp_path / "x", {})
    assert (tmp_path / f".x-{hidden}-5").exists()


def test_outputs_are_on_the_disk_before_they_take_their_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    real = os.fsync

    def fsync(number: int) -> None:
        assert not (tmp_path / "out").exists()
        synced.add(os.fstat(number).st_ino)
        real(number)

    monkeypatch.setattr(program.os, "fsync", fsync)
    with new_folder(tmp_path / "out") as folder:
        (folder / "deep").mkdir()
        (folder / "deep/x").write_text("x")
    parts: list[Any] = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {part.stat().st_ino for part in parts} <= synced
    with new_file(tmp_path / "y") as file:
        file.write_text("x")
        monkeypatch.setattr(program.os, "fsync", lambda number: synced.add(os.fstat(number).st_ino))
    assert (tmp_path / "y").stat().st_ino in synced
