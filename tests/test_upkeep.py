"""The cache is verified and thinned out, and what crashed experiments left goes, on a pipeline of one line."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from atft.upkeep import runs

ROOT = Path(__file__).parents[1]
DVC = (sys.executable, "-m", "dvc")
STAGE = """
import pathlib, sys, time, yaml
params = yaml.safe_load(open("params.yaml"))
pathlib.Path("out").mkdir()
pathlib.Path("out/value.txt").write_text(f"value {params['value']}")
pathlib.Path("out/same.txt").write_text("same")
pathlib.Path("works").touch()
time.sleep(params["seconds"])
"""
PIPELINE = "stages: {make: {cmd: $PYTHON make.py, deps: [make.py], params: [value, seconds], outs: [out]}}\n"


ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("DVC_")} | {
    "PYTHON": sys.executable,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the queue looks for dvc there
}


def call(folder: Path, *command: str | Path, ok: bool = True) -> str:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert (result.returncode == 0) == ok, result.stdout + result.stderr
    return result.stdout + result.stderr


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """DVC on its own; its children keep no pipe open."""
    quiet = subprocess.DEVNULL
    return subprocess.Popen([*DVC, *arguments], cwd=folder, env=ENVIRONMENT, stdout=quiet, stderr=quiet)


def upkeep(folder: Path, *arguments: str, ok: bool = True) -> str:
    return call(folder, sys.executable, ROOT / "src/upkeep.py", *arguments, ok=ok)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with another output on a branch, on a tag, in an experiment and in the workspace."""
    folder = tmp_path_factory.mktemp("project") / "project"
    folder.mkdir()
    (folder / "make.py").write_text(STAGE)
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / ".gitignore").write_text("/out\n/works\n")
    for command in ("git init -q -b main", "git config user.name t", "git config user.email t@t"):
        call(folder, *command.split())
    call(folder, *DVC, "init", "-q")
    call(folder, *DVC, "config", "core.analytics", "false")
    call(folder, *DVC, "config", "core.check_update", "false")  # by a process that would keep our pipe open
    call(folder, *DVC, "config", "cache.type", "hardlink,copy")
    for value, keep in enumerate(("git branch other", "git tag v1", "git tag -f moved", "git tag -f moved")):
        (folder / "params.yaml").write_text(f"value: {value}\nseconds: 0\n")
        call(folder, *DVC, "repro", "-q")
        call(folder, "git", "add", "-A")
        call(folder, "git", "commit", "-qm", "x")
        call(folder, *keep.split())
    call(folder, *DVC, "exp", "run", "-q", "--temp", "-n", "variant", "-S", "value=7")
    (folder / "params.yaml").write_text("value: 8\nseconds: 0\n")
    call(folder, *DVC, "repro", "-q")
    call(folder, *DVC, "checkout", "-q", "--relink")
    call(folder, *DVC, "remote", "add", "-q", "-d", "storage", folder.parent / "storage")
    call(folder, *DVC, "push", "-q")
    return folder


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Iterator[Path]:
    """The project again, to be spoilt: its objects and workspace stay linked to each other."""
    call(tmp_path, "cp", "-a", made, tmp_path)
    yield tmp_path / "project"
    for process in working_in(tmp_path):
        process.kill()


def stored(folder: Path, text: str) -> Path:
    """The object of this content, whether it is there or not."""
    md5 = call(folder, sys.executable, "-c", f"import hashlib; print(hashlib.md5({text.encode()}).hexdigest())").strip()
    return folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


def flip(file: Path) -> None:
    """One bit of the file, as a dying disk would: neither its times nor its rights change."""
    before = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as handle:
        first = handle.read(1)[0]
        handle.seek(0)
        handle.write(bytes([first ^ 1]))
    file.chmod(0o444)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def wait_for(found: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


def working_in(folder: Path) -> list[psutil.Process]:
    return [process for process in psutil.process_iter() if runs._cwd(process).is_relative_to(folder)]


# --- verify ----------------------------------------------------------------------------------------


def test_a_whole_cache_is_whole(project: Path) -> None:
    assert "objects" in (said := upkeep(project, "verify"))
    assert said.strip().endswith(": 0 damaged")


@pytest.mark.parametrize("mending", ["pull", "repro"])
def test_one_flipped_bit_is_found_named_and_mended_as_told(project: Path, mending: str) -> None:
    call(project, *DVC, "status")  # now it knows size and time of every file
    file = stored(project, "same")
    flip(file)
    assert (project / "out/same.txt").read_text() != "same"
    assert "up to date" in call(project, *DVC, "status")  # DVC itself does not see it
    said = upkeep(project, "verify", ok=False)
    assert "1 damaged" in said
    assert str(file.relative_to(project)) in said
    line = next(line for line in said.splitlines() if "out/same.txt in" in line)
    for revision in ("workspace", "main", "other", "v1", "experiment variant"):
        assert revision in line
    told = said.split("mend: ")[1].split("&&")[0].split()
    assert told == ["rm", "-f", str(file.relative_to(project)), "out/same.txt"]
    call(project, *told)
    call(project, *DVC, mending)
    assert (project / "out/same.txt").read_text() == "same"
    upkeep(project, "verify")


def test_a_damaged_experiment_and_a_damaged_listing_are_named(project: Path) -> None:
    flip(stored(project, "value 7"))
    listing = listing_of(project)
    flip(listing)
    said = upkeep(project, "verify", ok=False)
    assert "2 damaged" in said
    assert "  out/value.txt in experiment variant\n" in said
    assert "dvc exp apply variant" in said
    assert f"{listing.relative_to(project)}\n  out in workspace\n" in said


def listing_of(project: Path) -> Path:
    """The listing of the workspace's folder."""
    lock = (project / "dvc.lock").read_text()
    md5 = next(word for word in lock.split() if word.endswith(".dir"))
    return project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]


# --- gc --------------------------------------------------------------------------------------------


def test_gc_keeps_what_anyone_uses_and_removes_the_orphan_alone(project: Path) -> None:
    kept = [stored(project, f"value {value}") for value in (0, 1, 3, 7, 8)]  # branch, tag, main, experiment, workspace
    orphan = stored(project, "value 2")
    assert "Would remove 2 objects" in upkeep(project, "gc")  # the file and the listing of its folder
    assert orphan.exists()
    assert "Removed 2 objects" in upkeep(project, "gc", "--delete")
    assert not orphan.exists()
    assert all(file.exists() for file in kept)
    call(project, *DVC, "exp", "apply", "variant")
    assert (project / "out/value.txt").read_text() == "value 7"


def test_gc_asks_whose_cache_it_is_and_waits_for_the_queue(project: Path, made: Path) -> None:
    shutil.move(project / ".dvc/cache", project.parent / "cache")
    call(project, *DVC, "cache", "dir", "--local", str(project.parent / "cache"))
    assert "other projects may use it" in upkeep(project, "gc", "--delete", ok=False)
    assert "Would remove 2 objects" in upkeep(project, "gc", "--projects", str(made))
    call(project, *DVC, "exp", "run", "-q", "--queue", "-S", "value=9")
    said = upkeep(project, "gc", "--delete", "--projects", str(made), ok=False)
    assert "1 experiments are queued" in said


def test_make_hands_its_switches_on() -> None:
    planned = call(ROOT, "make", "-n", "--no-print-directory", "gc", "DELETE=1", "PROJECTS=../other")
    assert planned.splitlines()[-1] == "python src/upkeep.py gc --delete --projects ../other"
    assert call(ROOT, "make", "-n", "--no-print-directory", "gc").splitlines()[-1].rstrip() == "python src/upkeep.py gc"


# --- crashed experiments -----------------------------------------------------------------------------


def test_a_killed_experiment_leaves_nothing_and_a_running_one_runs_on(project: Path) -> None:
    killed = start(project, "exp", "run", "-q", "--temp", "-n", "killed", "-S", "seconds=600")
    standalone = project / ".dvc/tmp/exps/standalone"
    wait_for(lambda: any(standalone.glob("tmp*/works")))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (orphan,) = standalone.glob("tmp*")
    stages = working_in(orphan)  # DVC is gone, its stage (and its shell) work on for nobody
    assert stages
    looking = subprocess.Popen(["sleep", "600"], cwd=orphan)
    running = start(project, "exp", "run", "-q", "--temp", "-n", "running", "-S", "seconds=6")
    wait_for(lambda: len(list(standalone.glob("tmp*/works"))) == 2)
    assert "DVC is at work" in upkeep(project, "gc", "--delete", ok=False)
    said = upkeep(project, "experiments")
    assert "killed: .dvc/tmp/exps/standalone/tmp" in said
    assert "processes ended" in said
    assert "running" not in said
    assert not orphan.exists()
    assert all(not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE for stage in stages)
    assert looking.poll() is None
    looking.kill()
    looking.wait()
    assert running.wait() == 0
    names = call(project, "git", "for-each-ref", "--format=%(refname:lstrip=-1)", "refs/exps").split()
    assert sorted(names) == ["running", "variant"]
    assert "killed" not in call(project, *DVC, "exp", "show", "--md")
    assert upkeep(project, "experiments") == "nothing to remove\n"


def test_a_process_that_ends_meanwhile_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = (sys.executable, "-c", "import time; time.sleep(100)", "dvc", "exec-run")
    working = subprocess.Popen(command, cwd=tmp_path)
    run = runs.Run(tmp_path / "tmp1", "x", (), (psutil.Process(working.pid),))
    real = runs._is_dvc

    def ends(process: psutil.Process) -> bool:
        found = real(process)
        if process.pid == working.pid:
            working.kill()
            working.wait()
        return found

    monkeypatch.setattr(runs, "_is_dvc", ends)
    wait_for(lambda: real(psutil.Process(working.pid)))
    assert runs.at_work(tmp_path) == []
    assert working.poll() is not None
    run.folder.mkdir()
    runs.remove(run)
    assert not run.folder.exists()


def test_the_queue_loses_what_failed_or_was_killed_and_keeps_what_waits(project: Path) -> None:
    for name, seconds in (("fails", "-1"), ("killed", "600"), ("waits", "0")):
        call(project, *DVC, "exp", "run", "-q", "--queue", "-n", name, "-S", f"seconds={seconds}")
    start(project, "queue", "start").wait()
    exps = project / ".dvc/tmp/exps"
    wait_for(lambda: "Failed" in call(project, *DVC, "queue", "status") and any(exps.glob("tmp*/works")))
    (worker,) = [process for process in runs.at_work(project) if "queue-worker" in process.cmdline()]
    assert upkeep(project, "experiments") == "fails: taken off the queue\n"  # the other one runs
    worker.kill()
    worker.wait(10)
    said = upkeep(project, "experiments")
    assert "killed: .dvc/tmp/exps/tmp" in said
    assert "killed: taken off the queue" in said
    assert working_in(exps) == []
    assert list(exps.glob("tmp*")) == []
    status = call(project, *DVC, "queue", "status")
    assert "waits" in status
    assert "killed" not in status
