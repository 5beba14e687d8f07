"""DVC's cache checked and thinned out, and what crashed experiments left removed."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from dvc.repo import Repo

from atft.errors import InputError
from atft.program import run_program
from atft.upkeep.objects import damaged, mend, objects, uses
from atft.upkeep.runs import at_work, clear_queue, orphans, remove


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("verify", help="hash every object of the cache; status 1 when one is not what its name says")
    gc = commands.add_parser("gc", help="count the objects that no branch, tag, experiment or workspace uses")
    gc.add_argument("--delete", action="store_true", help="and remove them")
    gc.add_argument(
        "--projects", nargs="+", default=[], metavar="DIR", help="the other projects that use the same cache"
    )
    commands.add_parser("experiments", help="remove folders, processes and queue entries of crashed experiments")
    options = parser.parse_args()
    root = Path.cwd()
    if not (root / ".dvc").is_dir():
        raise InputError(f"{root}: no .dvc here; run this at the project's root")
    if options.command == "verify":
        verify(root)
    elif options.command == "gc":
        collect(root, options.projects, delete=options.delete)
    else:
        clean(root)


def verify(root: Path) -> None:
    """Print what is damaged, whose it is and how to mend it; status 1 if anything is."""
    files = objects(cache_folder(root))
    bad = damaged(files)
    print(f"{len(files)} objects, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB: {len(bad)} damaged")
    for file, used in uses(root, bad).items() if bad else ():
        print(f"\n{os.path.relpath(file, root)}")
        for path in dict.fromkeys(use.path for use in used):
            print(f"  {path} in {', '.join(use.revision for use in used if use.path == path)}")
        print(f"  mend: {mend(root, file, used)}")
    sys.exit(1 if bad else 0)


def collect(root: Path, projects: list[str], *, delete: bool) -> None:
    """Have DVC remove, or count, what neither workspace nor branches, tags or experiments use."""
    cache = cache_folder(root)
    if not cache.is_relative_to(root) and not projects:
        raise InputError(f'{cache}: other projects may use it too; name them: make gc PROJECTS="DIR..."')
    if busy := at_work(root):
        raise InputError(
            f"DVC is at work (process {busy[0].pid}), and what it makes belongs to no experiment yet; wait for it"
        )
    with Repo(str(root)) as repo:
        if queued := len(list(repo.experiments.celery_queue.iter_queued())):
            raise InputError(
                f"{queued} experiments are queued, and DVC does not keep their data; run them, or "
                "`dvc queue remove --queued`"
            )
    command = ["gc", "--all-branches", "--all-tags", "--all-experiments", "--force"]
    command += ([] if delete else ["--dry"]) + (["--projects", *projects] if projects else [])
    command = [sys.executable, "-m", "dvc", *command]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise InputError(f"dvc gc: {(done.stderr.strip() or 'failed').splitlines()[-1]}")
    said = [line for line in done.stdout.splitlines() if not line.startswith("Removing ")]  # in a dry run too
    print("\n".join(said if delete else [line.replace("Removed", "Would remove") for line in said]))


def clean(root: Path) -> None:
    """Remove what crashed experiments left; running ones and results stay."""
    crashed = orphans(root)
    for run in crashed:
        remove(run)
        ended = f", {len(run.processes)} processes ended" if run.processes else ""
        print(f"{run.name}: {os.path.relpath(run.folder, root)} removed{ended}")
    queued = clear_queue(root)
    for name in queued:
        print(f"{name}: taken off the queue")
    if not crashed and not queued:
        print("nothing to remove")


def cache_folder(root: Path) -> Path:
    """Where DVC keeps its objects: `.dvc/cache`, or what its configuration says."""
    with Repo(str(root)) as repo:
        return Path(repo.cache.local_cache_dir).resolve()


if __name__ == "__main__":
    run_program(main)
