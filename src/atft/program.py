"""What every program shares: pinned threads, one-line errors, outputs that appear whole or not at all."""

import ctypes
import errno
import glob
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from atft.errors import InputError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of stdio.h

MORE_MEMORY = "close other programs, or use a machine with more memory"
_MEND = {
    errno.ENOSPC: "free space on its disk",
    errno.EDQUOT: "free some of your quota there",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EROFS: "mount its disk writable, or work in another folder",
    errno.EACCES: "give this user the right to it",
    errno.EPERM: "give this user the right to it",
}
_SCRATCH = re.compile(r"\.(?P<target>[^/]+)-(?P<process>\d+)-(?P<start>\d+)(?P<old>\.old)?")
_RUST_ERRNO = re.compile(r"\(os error (\d+)\)")
_ALLOCATION = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|CUDA out of memory|CUDA error: out of memory"
    r"|_STATUS_ALLOC_FAILED|bad_alloc|bad allocation"
)
_AMOUNT = re.compile(r"\d+(?:\.\d*)? ?(?:bytes|[KMGTPE]iB)|(?<=of size )\d+")


def run_program(main: Callable[[], None], memory: str = MORE_MEMORY) -> None:
    """Run `main`; what the user or the machine got wrong ends in one line and status 1, a bug in its traceback.

    Args:
        main: The program.
        memory: How its user brings down the memory it takes.
    """
    try:
        main()
    except Exception as error:
        if (line := _one_line(error, memory)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        sys.exit(1)


def out_of_memory(error: BaseException) -> bool:
    """Whether memory failed, of the machine or its GPU, and not what was read or computed."""
    if isinstance(error, OSError):
        return _errno(error) == errno.ENOMEM or "Cannot allocate memory" in str(error)  # pyarrow's map has no number
    # torch and LightGBM have no class for it on every device.
    by_library = isinstance(error, RuntimeError) or type(error).__name__ == "LightGBMError"
    return isinstance(error, MemoryError) or (by_library and bool(_ALLOCATION.search(str(error))))


def _one_line(error: Exception, memory: str) -> str | None:
    """What failed, where, and how to mend it; None for a bug."""
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    outputs = " and ".join(getattr(error, "__notes__", []))
    if out_of_memory(error):
        amount = _AMOUNT.search(text)
        unit = " bytes" if amount and amount[0].isdecimal() else ""
        asked = f", {amount[0]}{unit} were asked for" if amount else ""
        return _targets(f"out of memory{asked}{f' ({outputs})' if outputs else ''}; {memory}")
    number = _errno(error)
    if number is None and not isinstance(error, OSError):
        return None
    if number not in _MEND:
        return _targets(f"{text} ({outputs})" if outputs else text)
    file = getattr(error, "filename", None) or outputs or text
    return _targets(f"{file}: {os.strerror(number)}; {_MEND[number]}")


def _errno(error: BaseException) -> int | None:
    """The operating system's number, also out of the text of Rust's errors; None where there is none."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    in_rust = isinstance(error, OSError) or type(error).__module__.split(".")[0] in ("polars", "safetensors")
    found = _RUST_ERRNO.search(str(error)) if in_rust else None
    return int(found[1]) if found else None


def _targets(text: str) -> str:
    """The text with outputs in place of their scratch."""
    return re.sub(rf"(?<![^/'\"\s])\.([^/]+?)-{os.getpid()}-{_start(os.getpid())}", r"\1", text)


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
    with _scratch(target) as scratch:
        scratch.mkdir()
        scratch.chmod(0o755)
        yield scratch
        _sync(scratch)
        if target.is_dir() and not target.is_symlink():
            _exchange(scratch, target)
        else:
            scratch.replace(target)


def _exchange(scratch: Path, target: Path) -> None:
    """Swap two folders in one step, so that whoever is killed leaves one of them as `target`.

    Where the system cannot, in two: then `_scratch` puts back what a kill left aside.
    """
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    if swap and swap(_HERE, os.fsencode(scratch), _HERE, os.fsencode(target), _EXCHANGE) == 0:
        return
    old = scratch.with_name(f"{scratch.name}.old")
    target.replace(old)
    try:
        scratch.replace(target)
    except OSError:
        old.replace(target)
        raise
    _remove(old)


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """A scratch file beside `target` that replaces it only when the block succeeds."""
    with _scratch(target) as scratch:
        yield scratch
        _sync(scratch)
        scratch.replace(target)


@contextmanager
def _scratch(target: Path) -> Iterator[Path]:
    """The free path `.TARGET-PROCESS-START` beside `target`; what ended processes left there for it is removed.

    A process is known by its number and its start, since numbers come again. One workspace belongs
    to one machine at a time: a process of another machine looks as if it had ended.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    own = (os.getpid(), _start(os.getpid()))
    for path in target.parent.glob(f".{glob.escape(target.name)}-*"):
        name = _SCRATCH.fullmatch(path.name)
        if name and name["target"] == target.name:
            maker = int(name["process"]), int(name["start"])
            if maker == own or not _lives(*maker):
                if name["old"] and not target.exists():
                    path.replace(target)
                _remove(path)
    scratch = target.with_name(f".{target.name}-{own[0]}-{own[1]}")
    try:
        yield scratch
    except Exception as error:
        error.add_note(str(target))
        raise
    finally:
        _remove(scratch)


def _start(process: int) -> int:
    """When the process started, in ticks since the machine did; 0 when it has ended or is not to be seen."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state in "XZ" else int(fields[18])


def _lives(process: int, start: int) -> bool:
    """Whether the process still runs; one that hides from this user counts as running."""
    try:
        os.kill(process, 0)
    except PermissionError:
        return _start(process) in (start, 0)
    except (ProcessLookupError, OverflowError):
        return False
    return _start(process) == start


def _remove(path: Path) -> None:
    """Remove a file or folder; what cannot be removed, say another user's, stays and does no harm."""
    shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink()


def _sync(path: Path) -> None:
    """Bring a file, or a folder and all in it, to the disk: renamed before that, a power cut would leave it empty."""
    for part in (*path.rglob("*"), path):
        number = os.open(part, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


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
