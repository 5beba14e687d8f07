"""What the models say of some days, each asked through the fold that never saw it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.evaluation.facts import mean_ranks
from atft.model.atft_gat_fan import block_start
from atft.predict.live import History
from atft.predict.policy import folds_of
from atft.training.predictions import score_fold
from atft.training.rankers import Manifest

Single = NDArray[np.float32]


@dataclass(frozen=True)
class Said:
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


def say(
    manifest: Manifest,
    folder: Path,
    history: History,
    splits: pl.DataFrame,
    seeds: Sequence[int],
    day: date,
    days: int,
    fold: int | Literal["unseen"],
) -> Said:
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
    asked = pl.DataFrame({"fold": folds, "date": panel.dates[rows], "role": "predict"})
    by_seed = []
    for seed in seeds:
        parts = [
            part
            for one in sorted(set(folds), key=folds.index)
            for part in score_fold(manifest, folder, panel, history.snapshots, asked, one, seed, ("predict",))
        ]
        assert (np.concatenate([part.days for part in parts]) == rows).all()
        by_seed.append(np.concatenate([part.score for part in parts]))
    return Said(rows, folds, by_seed)


def model_name(folder: Path) -> str:
    """Fingerprint of the files of a model."""
    found = blake2b(digest_size=12)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(json.dumps([str(file.relative_to(folder)), file.stat().st_size]).encode())
        found.update(file.read_bytes())
    return found.hexdigest()


def data_name(history: History, day: int, lookback: int) -> str:
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
