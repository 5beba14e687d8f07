"""What every program shares: pinned threads, one-line errors, outputs that appear whole or not at all."""

import ctypes
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from atft.errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def run_program(main: Callable[[], None]) -> None:
    """Run `main`; the user's mistakes and a full or read-only disk end in one line and status 1."""
    try:
        main()
    except (InputError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def pin_threads(threads: int) -> None:
    """Use `threads` threads in BLAS and OpenMP, and in torch where it is loaded.

    Sums split over another number of threads round differently, so the count is a parameter of
    the result and never taken from the machine.
    """
    threadpool_limits(threads)
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(threads)


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next large array, and not hand it back to the system; elsewhere nothing.

    A training step takes and frees the same gigabyte in the same pieces, step after step. Handed back, each page
    must be asked for and cleared again, which took a third of a step's processor time. It changes no number; the
    process stays as large as it has ever been.
    """
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1)):
            mallopt(option, value)


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A scratch folder beside `target` that replaces it only when the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        scratch.chmod(0o755)
        yield scratch
        shutil.rmtree(target, ignore_errors=True)
        scratch.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A scratch file beside `target` that replaces it only when the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}-{os.getpid()}")
    try:
        yield scratch
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)


def write_json(target: Path, content: Any) -> None:
    """Write sorted JSON with floats rounded to 6 decimals; undefined values are null, never NaN."""
    with new_file(target) as scratch:
        scratch.write_text(json.dumps(rounded(content), indent=2, sort_keys=True, allow_nan=False) + "\n")


def rounded(value: Any) -> Any:
    """Nested values as `write_json` writes them."""
    if isinstance(value, dict):
        return {str(key): rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) + 0.0 if value == value and abs(value) != float("inf") else None
    return value
