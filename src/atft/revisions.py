"""What stood in the repository at a revision: commits, branches, DVC experiments, or the files as they are now."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atft.errors import InputError

WORKSPACE = "workspace"  # DVC's word for the files as they are now


def resolve(name: str) -> str:
    """Commit hash of a Git revision or a DVC experiment; `workspace` stays as it is.

    Raises:
        InputError: When there is no such thing, or several experiments have the name.
    """
    if name == WORKSPACE:
        return name
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}", check=False).strip()
    if found:
        return found
    named = [commit for commit, known in experiments() if known == name]
    if len(named) > 1:
        hashes = ", ".join(commit[:10] for commit in named)
        raise InputError(f"{name}: several experiments have this name; give one of their hashes: {hashes}")
    if not named:
        raise InputError(
            f"{name}: no such revision or experiment; `git branch`, `dvc exp list -A` and `dvc exp pull` know them"
        )
    return named[0]


def experiments() -> list[tuple[str, str]]:
    """Commit and name of every DVC experiment; a name may come twice, of two commits they started from."""
    refs = _git("for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    return [(ref.split()[0], ref.split("/")[-1]) for ref in refs]


def read_at(revision: str, file: Path) -> str | None:
    """Text of a file that Git keeps, as of a resolved revision; None where it does not exist there."""
    if revision == WORKSPACE:
        return file.read_text() if file.exists() else None
    if not _git("ls-tree", revision, "--", str(file)):
        return None
    return _git("show", f"{revision}:./{file}")


def untracked(folder: Path) -> list[str]:
    """Files below a folder that Git neither tracks nor ignores."""
    return _git("ls-files", "--others", "--exclude-standard", "--", str(folder)).splitlines()


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """A temporary work tree of a resolved revision that shares this one's environment and DVC cache."""
    top = Path(_git("rev-parse", "--show-toplevel").strip())
    folder = Path(tempfile.mkdtemp(prefix="atft-")) / "tree"
    commit = _git("stash", "create").strip() or "HEAD" if revision == WORKSPACE else revision
    _git("worktree", "add", "--detach", str(folder), commit)
    try:
        if (top / ".venv").exists():
            (folder / ".venv").symlink_to((top / ".venv").resolve())
        # Read as DVC reads it: a cache may lie elsewhere, and the setting is nobody's but this clone's.
        cache = _told(sys.executable, "-m", "dvc", "cache", "dir", cwd=top).strip()
        (folder / ".dvc/config.local").write_text(f"[cache]\n    dir = {cache}\n")
        yield folder
    finally:
        _git("worktree", "remove", "--force", str(folder))
        shutil.rmtree(folder.parent, ignore_errors=True)


def _git(*arguments: str, check: bool = True) -> str:
    return _told("git", *arguments, check=check)


def _told(*command: str, check: bool = True, cwd: Path | None = None) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
    if check and result.returncode:
        raise InputError(f"{' '.join(command)}: {result.stderr.strip() or 'failed'}")
    return result.stdout
