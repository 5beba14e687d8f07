"""The panel on disk: memory-mapped Arrow, one record batch a day, so that any window of days is a view."""

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from atft.errors import InputError
from atft.program import out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

FILE = "panel.arrow"


@dataclass(frozen=True)
class Panel:
    """Point-in-time facts by date and stock; arrays are read-only views of the file.

    T dates, N stocks, F features, H horizons.

    Attributes:
        dates: [T] ascending trading days, datetime64[D].
        codes: [N] names of the stocks.
        sector_names, industry_names: What the numbers in `sector` and `industry` stand for; 0 is unknown.
        feature_names: [F]; `market_features` of them are equal for all stocks of a date.
        horizons: [H] in trading days, after `delay` days.
        features: [T, N, F] standardised within the date; NaN where unknown or not tradable.
        tradable: [T, N] could be ranked at that close.
        label: [T, N, H] what training fits; NaN is masked.
        forward_return: [T, N, H] simple; NaN is masked.
        daily_return: [T, N] simple, close to close, terminal returns included; 0 without bar.
        has_bar: [T, N] printed a price.
        can_trade: [T, N] printed a price at which one could trade: no halt, not locked at a price limit.
        money_traded: [T, N] mean money traded a day over the last 20 days; NaN where unknown.
        sector, industry: [T, N] as known that day; an industry belongs to one sector.
    """

    dates: NDArray[np.datetime64]
    codes: list[str]
    sector_names: list[str]
    industry_names: list[str]
    feature_names: list[str]
    market_features: list[str]
    horizons: list[int]
    delay: int
    features: NDArray[np.float32]
    tradable: NDArray[np.bool_]
    label: NDArray[np.float32]
    forward_return: NDArray[np.float32]
    daily_return: NDArray[np.float32]
    has_bar: NDArray[np.bool_]
    can_trade: NDArray[np.bool_]
    money_traded: NDArray[np.float32]
    sector: NDArray[np.int16]
    industry: NDArray[np.int16]

    def positions(self, days: pl.Series) -> NDArray[np.int64]:
        """Row numbers of these dates."""
        return np.searchsorted(self.dates, days.to_numpy().astype("datetime64[D]")).astype(np.int64)

    def part(self, start: int, end: int) -> "Panel":
        """Days start .. end - 1 alone: views, nothing is copied."""
        by_day = [f.name for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)]
        return replace(self, **{name: getattr(self, name)[start:end] for name in by_day})

    def window(self, start: int, end: int) -> "Tensor":
        """Features of days start .. end - 1, [day, stock, feature]: a view of the file, nothing is copied.

        Read-only: writing into it ends the process.
        """
        import torch  # the cache and graph stages need none of its two seconds

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            return torch.from_numpy(self.features[start:end])


class PanelWriter:
    """Writes `panel.arrow` in `folder`, one day after the other; `facts` are `Panel`'s fields without a date."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self._file, self._facts = folder / FILE, json.dumps(dict(facts), sort_keys=True)
        self._writer: pa.ipc.RecordBatchFileWriter | None = None
        self._schema = pa.schema([])

    def write_day(self, date: np.datetime64, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Append a day: each array of `Panel` without its first axis."""
        columns: dict[str, pa.Array] = {"date": pa.array(np.array([date], "datetime64[D]"))}
        for name, values in arrays.items():
            plain = values.view(np.uint8) if values.dtype == np.bool_ else values
            columns[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(
                np.ascontiguousarray(plain).reshape(1, *plain.shape)
            )
        if self._writer is None:
            fields = [pa.field(name, column.type) for name, column in columns.items()]
            self._schema = pa.schema(fields, metadata={"facts": self._facts})
            self._writer = pa.ipc.new_file(str(self._file), self._schema)
        self._writer.write_batch(pa.record_batch(list(columns.values()), schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()


def read_panel(folder: Path) -> Panel:
    """Map the panel; nothing is read until it is touched.

    All days have the same shape, so they stand at equal distances in the file, and each array is a
    view of the whole map that steps over the others.

    Raises:
        InputError: When the file is missing or damaged.
    """
    file = folder / FILE
    try:
        whole = pa.memory_map(str(file)).read_buffer()
        table = pa.ipc.open_file(pa.BufferReader(whole)).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        if out_of_memory(error):
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{file}: cannot be read ({reason}); `dvc checkout` brings it back, `dvc repro -f cache` makes it anew"
        ) from error
    arrays: dict[str, Any] = {name: _view(whole, table.column(name)) for name in table.schema.names if name != "date"}
    for name in ("tradable", "has_bar", "can_trade"):
        arrays[name] = arrays[name].view(np.bool_)
    facts = json.loads(table.schema.metadata[b"facts"])
    return Panel(dates=table.column("date").to_numpy().astype("datetime64[D]"), **facts, **arrays)


def _view(whole: pa.Buffer, column: pa.ChunkedArray) -> NDArray[Any]:
    """The column, one tensor a chunk, as one strided array on the map."""
    kind = column.type
    dtype = np.dtype(kind.value_type.to_pandas_dtype())
    address = np.array([chunk.storage.buffers()[-1].address for chunk in column.chunks])
    (step,) = set(np.diff(address).tolist()) or {0}
    inner = np.empty(kind.shape, dtype).strides
    return np.ndarray((len(address), *kind.shape), dtype, whole, int(address[0] - whole.address), (step, *inner))


def scratch_array(file: Path, shape: Sequence[int]) -> NDArray[np.float32]:
    """A writable map of a new file, all zeros.

    Its room on the disk is taken at once: a map of a file with holes ends the process, without a
    word, at the first write that finds the disk full.
    """
    size = max(4 * math.prod(shape), 1)
    with file.open("wb") as new:
        os.posix_fallocate(new.fileno(), 0, size)
    return np.memmap(file, np.float32, "r+", shape=tuple(shape))


def read_splits(folder: Path) -> pl.DataFrame:
    """The table `fold, date, role` of a cache: who trains, stops and judges whom (see `splits.py`)."""
    return pl.read_csv(folder / "splits.csv", try_parse_dates=True)


def role_days(panel: Panel, splits: pl.DataFrame, fold: int, role: str) -> list[int]:
    """Days of the panel that have this role in this fold, by position."""
    return panel.positions(splits.filter((pl.col("fold") == fold) & (pl.col("role") == role))["date"]).tolist()


def folds(splits: pl.DataFrame) -> Sequence[int]:
    """Fold numbers in order."""
    return splits["fold"].unique().sort().to_list()
