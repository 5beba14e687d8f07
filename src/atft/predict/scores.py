"""What the models say of some days, each asked through the fold that never saw it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.evaluation.facts import mean_ranks
from atft.model.atft_gat_fan import block_start
from atft.predict.live import History
from atft.predict.policy import folds_of
from atft.program import new_file
from atft.training.predictions import score_fold
from atft.training.rankers import Manifest
from atft.training.scratch import loaded_code, machine

Single = NDArray[np.float32]


@dataclass(frozen=True)
class Memory:
    """Scores said before, of the same rows by the same model, code, libraries and device: each day is asked once.

    Attributes:
        folder: Holds a file per day, fold and seed.
    """

    folder: Path

    @classmethod
    def of(cls, folder: Path, manifest: Manifest, model: str) -> Self:
        """That of the model of this name (see `model_fingerprint`), below `folder`."""
        found = blake2b(json.dumps([asdict(manifest), model, machine()], sort_keys=True).encode(), digest_size=12)
        for name, file in loaded_code():
            found.update(name.encode() + file.read_bytes())
        return cls(folder / found.hexdigest())

    def recall(self, key: str) -> Single | None:
        """The score of this name, [stock, horizon]; None where it was never kept."""
        file = self.folder / f"{key}.npy"
        return np.load(file) if file.exists() else None

    def keep(self, key: str, score: Single) -> None:
        with new_file(self.folder / f"{key}.npy") as scratch, scratch.open("wb") as content:
            np.save(content, score)


@dataclass(frozen=True)
class DayScores:
    """Scores of consecutive days.

    Attributes:
        days: [D] row numbers of the panel.
        folds: [D] that predicted.
        by_seed: [D, stock, horizon] of each seed; NaN where not ranked.
    """

    days: NDArray[np.int64]
    folds: list[int]
    by_seed: list[Single]

    @property
    def together(self) -> Single:
        """The seeds as one score, as `evaluate` has it: their mean rank, or the only one as it is."""
        return self.by_seed[0] if len(self.by_seed) == 1 else mean_ranks(self.by_seed)

    @property
    def mean(self) -> Single:
        """Mean over seeds of the scores themselves, [stock, horizon] of the last day; of one seed its very score."""
        last = np.stack([score[-1] for score in self.by_seed])
        return last[0] if len(last) == 1 else last.astype(np.float64).mean(0).astype(np.float32)


def scores_up_to(
    manifest: Manifest,
    folder: Path,
    history: History,
    splits: pl.DataFrame,
    seeds: Sequence[int],
    day: date,
    days: int,
    fold: int | Literal["unseen"],
    memory: Memory | None = None,
) -> DayScores:
    """Scores of `day` and of up to `days` - 1 before it, as far back as some fold never saw them.

    They come through `score_fold`, as `evaluate`'s do: a day's score depends on the day alone, not on which others are
    asked for, nor on what comes after it.

    Raises:
        InputError: When `day` itself was seen by every fold.
    """
    panel = history.panel
    last = int(np.searchsorted(panel.dates, np.datetime64(day)))
    folds = folds_of(splits, panel.dates[max(last - days + 1, 0) : last + 1].tolist(), fold)
    rows = np.arange(last - len(folds) + 1, last + 1)
    names = [data_fingerprint(history, int(row), manifest.architecture["lookback"]) for row in rows] if memory else []
    by_seed = [scores_of(manifest, folder, history, rows, folds, seed, names, memory) for seed in seeds]
    return DayScores(rows, folds, by_seed)


def scores_of(
    manifest: Manifest,
    folder: Path,
    history: History,
    rows: NDArray[np.int64],
    folds: Sequence[int],
    seed: int,
    names: Sequence[str] = (),
    memory: Memory | None = None,
) -> Single:
    """Scores of days by the folds given, seen or not. [day, stock, horizon]

    Args:
        rows: Their row numbers of the panel, ascending.
        names: `data_fingerprint` of each, where there is a memory.
    """
    panel, place = history.panel, {int(row): i for i, row in enumerate(rows)}
    keys = [f"{name}-fold{one}-seed{seed}" for name, one in zip(names, folds, strict=bool(memory))]
    found = {i: score for i, key in enumerate(keys) if memory and (score := memory.recall(key)) is not None}
    new = [i for i in range(len(rows)) if i not in found]
    asked = pl.DataFrame({"fold": np.array(folds)[new], "date": panel.dates[rows[new]], "role": "predict"})
    for one in sorted({folds[i] for i in new}):
        for part in score_fold(manifest, folder, panel, history.snapshots, asked, one, seed, ("predict",)):
            found |= {place[int(row)]: part.score[i] for i, row in enumerate(part.days)}
    if memory is not None:
        for i in new:
            memory.keep(keys[i], found[i])
    return np.stack([found[i] for i in range(len(rows))])


def model_fingerprint(folder: Path) -> str:
    """Fingerprint of the files of a model."""
    found = blake2b(digest_size=12)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(json.dumps([str(file.relative_to(folder)), file.stat().st_size]).encode())
        found.update(file.read_bytes())
    return found.hexdigest()


def data_fingerprint(history: History, day: int, lookback: int) -> str:
    """Fingerprint of what a day's scores are made of: the rows its windows see, who is ranked, and the links.

    The same whether the days were appended or came with a whole build.

    Args:
        day: Row number of the panel.
    """
    panel, rows = history.panel, slice(max(block_start(day, lookback), 0), day + 1)
    found = blake2b(json.dumps(panel.codes).encode(), digest_size=12)
    for array in (
        panel.dates[rows],
        panel.features[rows],
        panel.tradable[day],
        *history.snapshots.among(day, panel.tradable[day]),
    ):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
