"""Raw daily bars from files, checked once at the door; everything behind it trusts them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from atft.errors import InputError

PRICES = ("open", "high", "low", "close")
REQUIRED = ("date", "code", *PRICES, "volume")
OPTIONAL = ("sector", "industry", "terminal_return")
TYPES = {"date": pl.Date, "code": pl.String, "sector": pl.String, "industry": pl.String}


def load_bars(
    raw: Path, pattern: str, columns: Mapping[str, str | None], sectors: Sequence[str] | None
) -> pl.DataFrame:
    """Bars of every file below `raw` that matches `pattern`, oldest file first.

    Args:
        raw: The only door for data: results would go stale unseen if they came from elsewhere.
        pattern: Glob below `raw`, for example `*.parquet`.
        columns: Our name -> the file's name. Optional columns (sector, industry,
            terminal_return) may map to None.
        sectors: The sector labels to expect, or None to take any.

    Returns:
        `REQUIRED` and `OPTIONAL` columns, one row per bar, sorted by (code, date).

    Raises:
        InputError: On anything that `check_bars` refuses, or a file that cannot be read.
    """
    parts = Path(pattern).parts
    if Path(pattern).is_absolute() or ".." in parts:
        raise InputError(f"data.file.path: {pattern!r} leaves {raw}; put the file below {raw} and name it from there")
    files = sorted(f for f in raw.glob(pattern) if f.is_file() and f.suffix.lower() in _READERS)
    if not files:
        kinds = ", ".join(_READERS)
        raise InputError(f"data.file.path: no file below {raw} matches {pattern!r} and ends in {kinds}")
    for file in files:
        if (
            not file.resolve().is_relative_to(raw.resolve())
            and file.is_symlink()
            and ".dvc" not in file.resolve().parts
        ):
            raise InputError(f"{file}: is a link that leaves {raw}; copy the file, or its changes go unseen")
    frames = [_read(file, columns) for file in files]
    frames.sort(key=lambda frame: frame["date"].min())  # pyright: ignore[reportArgumentType, reportCallIssue]
    names = ", ".join(str(file) for file in files)
    return check_bars(pl.concat(frames), names, sectors)


def check_bars(bars: pl.DataFrame, where: str, sectors: Sequence[str] | None = None) -> pl.DataFrame:
    """The bars sorted by (code, date), or an `InputError` that names the first offending row."""
    if bars.is_empty():
        raise InputError(f"{where}: holds no rows")
    for name in ("date", "code"):
        if bars[name].null_count():
            raise InputError(f"{where}: column {name!r} has {bars[name].null_count()} nulls; every bar needs one")
    bars = bars.with_columns(pl.col(pl.Float64).fill_nan(None))
    for name in (*PRICES, "volume"):
        _refuse(bars, pl.col(name).is_infinite(), where, name, "is infinite; remove or correct it")
    for name in PRICES:
        _refuse(bars, pl.col(name) <= 0, where, name, "is not positive; leave it empty where nothing was printed")
    _refuse(bars, pl.col("volume") < 0, where, "volume", "is negative")
    _refuse(bars, pl.col("terminal_return") < -1, where, "terminal_return", "loses more than everything")
    before = pl.col("date").shift(1).over("code")
    _refuse(bars, pl.col("date") < before, where, "date", "comes after a later one; sort the rows by code and date")
    _refuse(bars, pl.struct("date", "code").is_duplicated(), where, "date", "is there twice for this stock; keep one")
    goes_on = pl.col("terminal_return").is_not_null() & (pl.col("date") < pl.col("date").max().over("code"))
    _refuse(bars, goes_on, where, "terminal_return", "is not on the stock's last bar; move it there")
    if bars["code"].n_unique() < 2:
        raise InputError(f"{where}: only stock {bars['code'][0]!r} is there; a ranking needs at least two")
    if sectors is not None:
        unknown = pl.col("sector").is_not_null() & ~pl.col("sector").is_in(list(sectors))
        _refuse(bars, unknown, where, "sector", "is not in data.file.sectors; add it there or correct it")
    return bars.sort("code", "date")


def _refuse(bars: pl.DataFrame, wrong: pl.Expr, where: str, column: str, why: str) -> None:
    bad = bars.filter(wrong)
    if not bad.is_empty():
        row = bad.row(0, named=True)
        more = f" ({len(bad)} such rows)" if len(bad) > 1 else ""
        raise InputError(f"{where}: {column} {row[column]} of {row['code']} on {row['date']} {why}{more}")


def _read(file: Path, columns: Mapping[str, str | None]) -> pl.DataFrame:
    try:
        frame = _READERS[file.suffix.lower()](file)
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: cannot be read ({reason}); is it whole, and of the kind its name says?") from error
    if frame.is_empty():
        raise InputError(f"{file}: holds no rows")
    chosen = []
    for name in (*REQUIRED, *OPTIONAL):
        theirs = columns[name]
        if theirs is None and name in OPTIONAL:
            chosen.append(pl.lit(None, TYPES.get(name, pl.Float64)).alias(name))
        elif theirs is None or theirs not in frame.columns:
            hint = " (null if the data has none)" if name in OPTIONAL else ""
            has = ", ".join(frame.columns)
            raise InputError(
                f"{file}: no column {theirs!r} for {name}; it has {has}. Set data.file.columns.{name}{hint}"
            )
        else:
            chosen.append(pl.col(theirs).alias(name))
    frame = frame.select(chosen)
    for name in frame.columns:
        kind = TYPES.get(name, pl.Float64)
        text_date = kind == pl.Date and frame[name].dtype == pl.String
        cast = frame[name].str.to_date("%Y-%m-%d", strict=False) if text_date else frame[name].cast(kind, strict=False)
        lost = cast.is_null() & frame[name].is_not_null()
        if lost.any():
            row = int(lost.arg_true()[0])
            what = "a date (YYYY-MM-DD)" if kind == pl.Date else "a number"
            raise InputError(
                f"{file}: {name} in row {row + 1} of {frame['code'][row]} is {frame[name][row]!r}, not {what}"
            )
        frame = frame.with_columns(cast)
    # An empty label says the same as an absent one.
    return frame.with_columns(pl.col("sector", "industry").replace("", None))


_READERS = {
    ".parquet": lambda file: pl.read_parquet(file, glob=False),
    ".csv": lambda file: pl.read_csv(file, infer_schema_length=None, glob=False),
    ".arrow": lambda file: pl.read_ipc(file),
    ".feather": lambda file: pl.read_ipc(file),
}
