"""Temporary folders in which DVC runs experiments: whose process lives, and what a crash left behind."""

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from dvc.repo import Repo

_WAIT = 5.0  # seconds between asking a process to end and ending it
_CLOCK = 2.0  # seconds by which start times of processes and times of files may disagree


@dataclass(frozen=True)
class Run:
    """A temporary folder, what DVC noted about it, and the processes of DVC and its stage that work in it."""

    folder: Path
    name: str
    notes: tuple[Path, ...]
    processes: tuple[psutil.Process, ...]


def at_work(root: Path) -> list[psutil.Process]:
    """Living processes of DVC in the project or its temporary folders, those that nobody waits for left out."""
    return [process for process in _inside(root) if _is_dvc(process) and not _is_abandoned(process)]


def orphans(root: Path) -> list[Run]:
    """Temporary folders of experiments that no living process of DVC can own.

    DVC keeps its working directory in the folder while a stage runs. While it makes a folder, or brings home what came
    out, it is elsewhere in the project, so any process that is there and started before the folder was last
    committed to may own it.
    """
    exps = root / ".dvc/tmp/exps"
    folders = [path for place in (exps, exps / "standalone") for path in sorted(place.glob("tmp*")) if path.is_dir()]
    processes = at_work(root)
    elsewhere = [process for process in processes if not any(_cwd(process).is_relative_to(path) for path in folders)]
    return [
        _run(exps, folder)
        for folder in folders
        if not any(_cwd(process).is_relative_to(folder) for process in processes)
        and not any(process.create_time() <= _touched(folder) + _CLOCK for process in elsewhere)
    ]


def remove(run: Run) -> None:
    """End the processes in the folder, then remove it and the notes; experiments that are done are not in there."""
    for process in run.processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(run.processes, _WAIT)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(run.processes, _WAIT)
    shutil.rmtree(run.folder)
    for note in run.notes:
        shutil.rmtree(note)


def clear_queue(root: Path) -> list[str]:
    """Take entries that failed, or whose process is gone, off DVC's queue; the names of those that were there."""
    living = {note for process in at_work(root) for note in _command(process) if note.endswith(".run")}
    with Repo(str(root)) as repo:
        queue = repo.experiments.celery_queue
        for entry in list(queue.iter_active()):
            note = Path(queue.get_infofile_path(entry.stash_rev))
            if str(note) not in living:
                shutil.rmtree(note.parent, ignore_errors=True)  # DVC would signal the number noted there
                queue.kill([entry.stash_rev], force=True)
        return queue.clear(failed=True)


def _run(exps: Path, folder: Path) -> Run:
    notes, name = [], folder.name
    for file in (*exps.glob("run/*/*.run"), *exps.glob("standalone/run/*/*.run")):
        try:
            content = json.loads(file.read_text())
        except ValueError:  # cut off by the crash
            continue
        if Path(content["root_dir"]) == folder:
            notes.append(file.parent)
            name = content["name"] or name
    return Run(folder, name, tuple(notes), tuple(process for process in _inside(folder) if _is_of_experiment(process)))


def _inside(folder: Path) -> list[psutil.Process]:
    """Living processes of this user that work in the folder."""
    return [p for p in psutil.process_iter() if _cwd(p).is_relative_to(folder.resolve())]


def _cwd(process: psutil.Process) -> Path:
    """Where the process works; the root of all where that is not to be seen, as of one that has ended."""
    try:
        return Path(process.cwd() or "/") if process.status() != psutil.STATUS_ZOMBIE else Path("/")
    except psutil.Error:
        return Path("/")


def _is_dvc(process: psutil.Process) -> bool:
    return "dvc" in {Path(part).name for part in _command(process)}


def _is_abandoned(process: psutil.Process) -> bool:
    """Whether it runs an experiment of the queue whose worker, who alone would bring it home, is gone."""
    try:
        parent = process.parent()
    except psutil.Error:
        return True  # it has ended
    return "exec-run" in _command(process) and (parent is None or "queue-worker" not in _command(parent))


def _is_of_experiment(process: psutil.Process) -> bool:
    """Whether DVC started it, or it is DVC: a shell that looks around in there is left alone."""
    try:
        return _is_dvc(process) or "DVC_STAGE" in process.environ()
    except psutil.Error:
        return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _touched(folder: Path) -> float:
    """When the folder's owner surely lived: it wrote this, and nobody else does."""
    head = folder / ".git/HEAD"
    return (head if head.exists() else folder).stat().st_mtime
