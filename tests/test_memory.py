"""What training does to the memory of its process."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PROGRAM = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from atft.program import keep_freed_memory
if sys.argv[2] == "keep":
    keep_freed_memory()
bytearray(2**27)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(2**27)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages_asked_for(how: str) -> int:
    """In taking 128 MiB five times, after a first time."""
    command = [sys.executable, "-c", PROGRAM, str(SRC), how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_memory_that_is_kept_is_asked_for_once() -> None:
    assert pages_asked_for("keep") < 1000  # pages of 4 KiB; 128 MiB are 32768 of them
