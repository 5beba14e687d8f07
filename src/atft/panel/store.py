"""The panel on disk: memory-mapped Arrow, one row a day, so that any window of days is a view."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from atft.errors import InputError


@dataclass(frozen=True)
class Panel:
    """Point-in-time facts by date and stock; arrays are read-only views of the file.

    T dates, N stocks, F features, H horizons.

    Attributes:
        dates: [T] ascending trading days, datetime64[D].
        codes, sectors, industries: [N] names and labels, "unknown" where none.
        feature_names: [F]; `market_features` of them are equal for all stocks of a date.
        horizons: [H] in trading days, after `delay` days.
        features: [T, N, F] standardised within the date; 0 where unknown or not tradable.
        tradable: [T, N] could be ranked at that close.
        label: [T, N, H] rank-gauss of forward_return over the tradable stocks; NaN is masked.
        forward_return: [T, N, H] simple; NaN is masked.
        daily_return: [T, N] simple, close to close, terminal returns included; 0 without bar.
        has_bar: [T, N] printed a price.
    """

    dates: NDArray[np.datetime64]
    codes: list[str]
    sectors: list[str]
    industries: list[str]
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

    def positions(self, days: pl.Series) -> NDArray[np.int64]:
        """Row numbers of these dates."""
        return np.searchsorted(self.dates, days.to_numpy().astype("datetime64[D]")).astype(np.int64)


def write_panel(
    folder: Path,
    dates: NDArray[np.datetime64],
    stocks: pl.DataFrame,
    arrays: Mapping[str, NDArray[Any]],
    facts: Mapping[str, Any],
) -> None:
    """Write `panel.arrow` (one fixed-shape tensor a day and array) and `stocks.parquet`."""
    columns = {"date": pa.array(dates.astype("datetime64[D]"), pa.date32())}
    for name, values in arrays.items():
        values = np.ascontiguousarray(values.view(np.uint8) if values.dtype == np.bool_ else values)
        columns[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(values)
    schema = pa.schema(
        [pa.field(name, column.type) for name, column in columns.items()],
        metadata={"facts": json.dumps(dict(facts), sort_keys=True)},
    )
    batch = pa.record_batch(list(columns.values()), schema=schema)
    with pa.OSFile(str(folder / "panel.arrow"), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    stocks.write_parquet(folder / "stocks.parquet")


def read_panel(folder: Path) -> Panel:
    """Map the panel; nothing is read until it is touched.

    Raises:
        InputError: When a file is missing or damaged.
    """
    try:
        batch = pa.ipc.open_file(pa.memory_map(str(folder / "panel.arrow"))).get_batch(0)
        stocks = pl.read_parquet(folder / "stocks.parquet")
    except (pa.ArrowInvalid, OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder}: cannot be read ({reason}); rebuild it with `dvc repro -f cache`") from error
    facts = json.loads(batch.schema.metadata[b"facts"])
    arrays = {name: batch.column(name).to_numpy_ndarray() for name in batch.schema.names if name != "date"}
    return Panel(
        dates=batch.column("date").to_numpy(zero_copy_only=False).astype("datetime64[D]"),
        codes=stocks["code"].to_list(),
        sectors=stocks["sector"].to_list(),
        industries=stocks["industry"].to_list(),
        feature_names=facts["feature_names"],
        market_features=facts["market_features"],
        horizons=facts["horizons"],
        delay=facts["delay"],
        features=arrays["features"],
        tradable=arrays["tradable"].view(np.bool_),
        label=arrays["label"],
        forward_return=arrays["forward_return"],
        daily_return=arrays["daily_return"],
        has_bar=arrays["has_bar"].view(np.bool_),
    )


def scatter(values: NDArray[Any], where: NDArray[np.bool_], fill: float) -> NDArray[Any]:
    """Rows of `values` laid out on the [date, stock] grid at the True places of `where`."""
    out = np.full((*where.shape, *values.shape[1:]), fill, values.dtype)
    out[where] = values
    return out


def folds(splits: pl.DataFrame) -> Sequence[int]:
    """Fold numbers in order."""
    return splits["fold"].unique().sort().to_list()
