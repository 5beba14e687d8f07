"""Objects of DVC's cache that are no longer what their name says, and whose they are."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from dvc.repo import Repo
from tqdm import tqdm

from atft.revisions import WORKSPACE, experiments

_NAME = re.compile(r"[0-9a-f]{30}(\.dir)?")


@dataclass(frozen=True)
class Use:
    """A file of a revision whose content an object is; a folder where the object lists one."""

    revision: str
    path: str


def objects(cache: Path) -> list[Path]:
    """The files of the cache folder that are named by their MD5, listings of folders (`.dir`) among them."""
    return sorted(path for path in (cache / "files/md5").glob("??/*") if _NAME.fullmatch(path.name))


def damaged(files: Iterable[Path]) -> list[Path]:
    """Those whose bytes have another MD5 than their name.

    DVC itself does not look: it takes a read-only object for whole, and a workspace file whose size and time are as
    it left them for unchanged.
    """
    files = list(files)
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # hashing lets other threads run
        found = tqdm(threads.map(_md5, files), "hashing", len(files), unit="object", disable=None)
        return [file for file, md5 in zip(files, found, strict=True) if md5 != object_id(file).removesuffix(".dir")]


def object_id(file: Path) -> str:
    """The name DVC gives the object, that is its MD5, with `.dir` for the listing of a folder."""
    return file.parent.name + file.name


def uses(root: Path, files: Iterable[Path]) -> dict[Path, list[Use]]:
    """What each object is in the workspace, at the tip of every branch, in tags and in experiments.

    A file that only a damaged listing names is not found.
    """
    found: dict[Path, list[Use]] = {file: [] for file in files}
    by_id = {object_id(file): file for file in found}
    names = {commit: f"experiment {name}" for commit, name in experiments()}
    with Repo(str(root)) as repo:
        cache = Path(repo.cache.local.path)
        for revision in repo.brancher(all_branches=True, all_tags=True, all_experiments=True):
            for out in repo.index.outs:
                if not (out.use_cache and out.hash_info and out.hash_info.value):
                    continue
                path = out.fs.relpath(out.fs_path, repo.root_dir)
                for key, name in ((out.hash_info.value, path), *_listed(cache, out.hash_info.value, path)):
                    if key in by_id:
                        found[by_id[key]].append(Use(names.get(revision, revision), name))
    return found


def mend(root: Path, file: Path, used: list[Use]) -> str:
    """The commands that take the object away, with its links in the workspace, and bring it back whole."""
    here = [use.path for use in used if use.revision == WORKSPACE and _is_same(root / use.path, file)]
    remove = f"rm -f {' '.join([os.path.relpath(file, root), *here])}"
    if not used:
        return f"{remove}   # nothing that `make gc` keeps uses it"
    if used[0].revision == WORKSPACE:
        return f"{remove} && dvc pull   # or, where it was never pushed: dvc repro"
    kind, _, name = used[0].revision.rpartition(" ")
    take = f"dvc exp apply {name}" if kind else f"git checkout {name.split(',')[0]}"
    return f"{remove} && {take}; dvc pull   # or, where it was never pushed: dvc repro"


def _listed(cache: Path, key: str, path: str) -> list[tuple[str, str]]:
    """Object and path of every file in a folder; of none where its listing is not here or cannot be read."""
    listing = cache / key[:2] / key[2:]
    if not key.endswith(".dir") or not listing.exists():
        return []
    try:
        return [(entry["md5"], f"{path}/{entry['relpath']}") for entry in json.loads(listing.read_bytes())]
    except (ValueError, KeyError, TypeError):  # damaged, which is reported under its own name
        return []


def _is_same(link: Path, file: Path) -> bool:
    return link.is_file() and link.samefile(file)


def _md5(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
