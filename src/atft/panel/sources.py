"""Raw daily bars from files, checked once at the door; everything behind it trusts them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from atft.errors import InputError
from atft.program import out_of_memory

PRICES = ("open", "high", "low", "close")
REQUIRED = ("date", "code", *PRICES, "volume")
FLAGS = ("limit_up", "limit_down", "halted")
OPTIONAL = ("sector", "industry", "terminal_return", "adjustment_factor", "traded_value", *FLAGS)
TYPES: dict[str, type[pl.DataType]] = {"date": pl.Date, "code": pl.String, "sector": pl.String, "industry": pl.String}
TYPES |= dict.fromkeys(FLAGS, pl.Boolean)


def load_bars(
    raw: Path,
    pattern: str,
    columns: Mapping[str, str | None],
    sectors: Sequence[str] | None,
    since: date | None = None,
) -> pl.DataFrame:
    """Bars of every file below `raw` that matches `pattern`, oldest file first.

    Args:
        raw: The only door for data: results would go stale unseen if they came from elsewhere.
        pattern: Glob below `raw`, for example `*.parquet`.
        columns: Our name -> the file's name, or None where the data has none.
        sectors: The sector labels to expect, or None to take any.
        since: Rows before this day are passed over, unread where the file allows it.

    Returns:
        `REQUIRED` and `OPTIONAL` columns, one row per bar, sorted by (code, date).

    Raises:
        InputError: On anything that `check_bars` refuses, or a file that cannot be read.
    """
    files = raw_files(raw, pattern, "data.file.path")
    frames = [_read(file, columns, since) for file in files]
    frames = [frame for frame in frames if not frame.is_empty()] or frames[:1]
    frames.sort(key=lambda frame: frame["date"].min())  # pyright: ignore[reportArgumentType, reportCallIssue]
    return check_bars(pl.concat(frames), named(files), sectors)


def bars_of(path: Path, pattern: str, columns: Mapping[str, str | None], sectors: Sequence[str] | None) -> pl.DataFrame:
    """As `load_bars`, of one file wherever it lies, or of a folder's files that match `pattern`."""
    if path.is_dir():
        return load_bars(path, pattern, columns, sectors)
    if path.suffix.lower() not in _SCANNERS:
        raise InputError(f"{path}: does not end in {', '.join(_SCANNERS)}")
    return check_bars(_read(path, columns), str(path), sectors)


def has_files(raw: Path, pattern: str) -> bool:
    """Whether `load_bars` would find any file."""
    return any(file.suffix.lower() in _SCANNERS for file in raw.glob(pattern))


def named(files: Sequence[Path]) -> str:
    """The files as an error message names them."""
    return str(files[0]) if len(files) == 1 else f"{files[0]} .. {files[-1]} ({len(files)} files)"


def raw_files(raw: Path, pattern: str, knob: str) -> list[Path]:
    """The files below `raw` that match `pattern`, by name.

    Raises:
        InputError: When there is none, or one that `raw` does not hold.
    """
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise InputError(f"{knob}: {pattern!r} leaves {raw}; put the file below {raw} and name it from there")
    files = sorted(f for f in raw.glob(pattern) if f.is_file() and f.suffix.lower() in _SCANNERS)
    if not files:
        kinds = ", ".join(_SCANNERS)
        raise InputError(f"{knob}: no file below {raw} matches {pattern!r} and ends in {kinds}")
    for file in files:
        inside = file.resolve().is_relative_to(raw.resolve()) or ".dvc" in file.resolve().parts
        if file.is_symlink() and not inside:
            raise InputError(f"{file}: is a link that leaves {raw}; copy the file, or its changes go unseen")
    return files


def scan(file: Path, text: Sequence[str] = ()) -> tuple[pl.LazyFrame, pl.Schema]:
    """The file, unread, and its columns.

    Args:
        file: Of a kind that its name says.
        text: Columns of codes and labels, which are text in CSV too: as a number 0005 would be 5.

    Raises:
        InputError: When it is not what its name says.
    """
    with readable(file):
        frame = _SCANNERS[file.suffix.lower()](file, dict.fromkeys(text, pl.String))
        return frame, frame.collect_schema()


def batches(file: Path, columns: Sequence[str], rows: int) -> Iterator[pl.DataFrame]:
    """The file's columns, about `rows` rows at a time, in its order.

    Parquet and Arrow are read piece by piece: a file may be larger than memory. CSV is read whole.
    """
    with readable(file):
        if file.suffix.lower() == ".parquet":
            for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(rows, columns=list(columns)):
                yield pl.DataFrame(pl.from_arrow(batch))
        elif file.suffix.lower() == ".csv":
            yield scan(file)[0].select(columns).collect()
        else:
            reader = pa.ipc.open_file(pa.memory_map(str(file)))
            for i in range(reader.num_record_batches):
                for start in range(0, reader.get_batch(i).num_rows, rows):
                    yield pl.DataFrame(pl.from_arrow(reader.get_batch(i).slice(start, rows).select(list(columns))))


@contextmanager
def readable(file: Path | str) -> Iterator[None]:
    """Turns a reader's complaint about the file into one line."""
    try:
        yield
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, ValueError) as error:
        if out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: cannot be read ({reason}); is it whole, and of the kind its name says?") from error


def complete(bars: pl.DataFrame) -> pl.DataFrame:
    """The bars with every column of `REQUIRED` and `OPTIONAL`, all null where it was absent."""
    absent = [name for name in (*REQUIRED, *OPTIONAL) if name not in bars.columns]
    bars = bars.with_columns(pl.lit(None, TYPES.get(name, pl.Float64)).alias(name) for name in absent)
    return bars.select(*REQUIRED, *OPTIONAL)


def check_bars(bars: pl.DataFrame, where: str, sectors: Sequence[str] | None = None) -> pl.DataFrame:
    """The bars sorted by (code, date), or an `InputError` that names the first offending row."""
    if bars.is_empty():
        raise InputError(f"{where}: holds no rows")
    for name in ("date", "code"):
        if bars[name].null_count():
            raise InputError(f"{where}: column {name!r} has {bars[name].null_count()} nulls; every bar needs one")
    bars = complete(bars).with_columns(pl.col(pl.Float64).fill_nan(None))
    for name in (*PRICES, "volume", "terminal_return", "traded_value"):
        _refuse(bars, pl.col(name).is_infinite(), where, name, "is infinite; remove or correct it")
    for name in PRICES:
        _refuse(bars, pl.col(name) <= 0, where, name, "is not positive; leave it empty where nothing was printed")
    _refuse(bars, pl.col("volume") < 0, where, "volume", "is negative")
    _refuse(bars, pl.col("terminal_return") < -1, where, "terminal_return", "loses more than everything")
    wrong = ~(pl.col("adjustment_factor") > 0) | pl.col("adjustment_factor").is_infinite()
    _refuse(bars, wrong, where, "adjustment_factor", "is not a positive number; 1 = nothing happened, 0.5 = 1:2 split")
    _refuse(bars, ~(pl.col("traded_value") >= 0), where, "traded_value", "is negative")
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
        when = "" if column == "date" else f" on {row['date']}"
        raise InputError(f"{where}: {column} {row[column]} of {row['code']}{when} {why}{more}")


def _read(file: Path, columns: Mapping[str, str | None], since: date | None = None) -> pl.DataFrame:
    frame, schema = scan(file, [theirs for name in ("code", "sector", "industry") if (theirs := columns[name])])
    chosen = []
    for name in (*REQUIRED, *OPTIONAL):
        theirs = columns[name]
        if theirs is None:
            continue
        if theirs not in schema:
            hint = " (null if the data has none)" if name in OPTIONAL else ""
            has = ", ".join(schema.names()[:30]) + (", ..." if len(schema) > 30 else "")
            raise InputError(
                f"{file}: no column {theirs!r} for {name}; it has {has}. Set data.file.columns.{name}{hint}"
            )
        chosen.append(pl.col(theirs).alias(name))
    day = schema[str(columns["date"])]
    if since is not None and (day == pl.Date or isinstance(day, pl.Datetime)):
        frame = frame.filter(pl.col(str(columns["date"])).dt.date() >= since)
    elif since is not None and day == pl.String:
        frame = frame.filter(pl.col(str(columns["date"])) >= since.isoformat())
    with readable(file):
        bars = frame.select(chosen).collect()
    if bars.is_empty() and since is None:
        raise InputError(f"{file}: holds no rows")
    for name in bars.columns:
        bars = bars.with_columns(typed(bars[name], TYPES.get(name, pl.Float64), file, bars["code"]))
    # An empty label says the same as an absent one.
    return complete(bars).with_columns(pl.col("sector", "industry").replace("", None))


def typed(column: pl.Series, kind: type[pl.DataType], where: object, of: pl.Series | None = None) -> pl.Series:
    """The column as dates, numbers, flags or text; NaN is null.

    A stamp with a time zone counts as the date on its own wall clock: as UTC it would move a row to
    another day.

    Args:
        column: As it was read.
        kind: pl.Date, pl.Float64, pl.Boolean or pl.String.
        where: File, for the error.
        of: Codes beside the column, for the error.

    Raises:
        InputError: At the first value that is not of this kind.
    """
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        column = column.cast(pl.String)
    elif column.dtype.is_float():
        column = column.fill_nan(None)
    text = column.dtype == pl.String
    number = text or column.dtype.is_numeric() or column.dtype == pl.Boolean
    out = pl.Series(column.name, [None] * len(column), kind)
    if kind == pl.Date and isinstance(column.dtype, pl.Date | pl.Datetime):
        out = column.dt.date()
    elif kind == pl.Date and text:
        out = column.str.to_date("%Y-%m-%d", strict=False)
    elif kind == pl.String and (text or column.dtype.is_integer()):
        out = column.cast(pl.String)
    elif kind == pl.Boolean and number:
        flag = column.cast(pl.Float64, strict=False)
        out = flag.replace_strict([0.0, 1.0], [False, True], default=None, return_dtype=pl.Boolean)
    elif kind == pl.Float64 and number:
        out = column.cast(pl.Float64, strict=False)
    lost = out.is_null() & column.is_not_null()
    if lost.any():
        row = int(lost.arg_true()[0])
        what = {pl.Date: "a date (YYYY-MM-DD)", pl.Boolean: "a flag (0 or 1)", pl.String: "text or a whole number"}
        whose = f" of {of[row]}" if of is not None else ""
        raise InputError(
            f"{where}: {column.name} in row {row + 1}{whose} is {column[row]!r}, not {what.get(kind, 'a number')}"
        )
    return out


_SCANNERS = {
    ".parquet": lambda file, _: pl.scan_parquet(file, glob=False),
    ".csv": lambda file, types: pl.scan_csv(file, schema_overrides=types, infer_schema_length=None, glob=False),
    ".arrow": lambda file, _: pl.scan_ipc(file, glob=False),
    ".feather": lambda file, _: pl.scan_ipc(file, glob=False),
}
