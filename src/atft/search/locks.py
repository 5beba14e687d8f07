"""Locks that a killed process gives back."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from optuna.storages.journal import JournalFileOpenLock


@contextmanager
def locked(file: Path) -> Iterator[IO[bytes]]:
    """Alone on this file, waiting for whoever is; what is yielded can be handed to a child, which then holds it too."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle


def is_held(file: Path) -> bool:
    """Whether some process, this one included, holds the lock."""
    with file.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


class JournalLock(JournalFileOpenLock):
    """Optuna's own locks outlive a killed holder by half a minute. This one ends with it, and the next holder
    takes away the line that a kill cut in two, which nobody could read past.
    """

    def __init__(self, journal: Path) -> None:
        super().__init__(str(journal))
        self._journal, self._file = journal, journal.with_suffix(".journal-lock")
        self._handle: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._handle = self._file.open("ab")
        fcntl.flock(self._handle, fcntl.LOCK_EX)
        with self._journal.open("r+b") as journal:
            size = journal.seek(0, os.SEEK_END)
            journal.seek(max(size - 1, 0))
            if size and journal.read(1) != b"\n":
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        assert self._handle is not None
        self._handle.close()
