"""A folder with one CSV file per stock to one table of bars."""

import sys
from pathlib import Path

import polars as pl

from atft.errors import InputError

PRICES = ("open", "high", "low", "close")
NUMBERS = (*PRICES, "volume")
LABELS = ("sector", "industry")


def read_csv_dir(folder: Path, labels: Path | None) -> pl.DataFrame:
    """Bars of every `CODE.csv` in `folder`, sorted by (code, date), with `sector` and `industry`.

    Args:
        folder: Files with the columns date (YYYY-MM-DD), open, high, low, close and volume, in any
            order and case; an empty cell where nothing was printed. Other columns are left out,
            an adjusted close among them: it knows the splits and dividends to come.
        labels: CSV file with the columns code, sector and industry. Stocks that it lacks, or all
            where it is None, have null labels.

    Raises:
        InputError: Names the file, the column and the row, counted from 1 below the header.
    """
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() == ".csv" and file.is_file())
    if labels is not None:
        files = [file for file in files if not (labels.exists() and file.samefile(labels))]
    if not files:
        raise InputError(f"{folder}: holds no CSV file; one per stock is expected, named CODE.csv")
    bars = pl.concat([_read_bars(file) for file in files])
    codes = pl.Series("code", [file.stem for file in files])
    if codes.is_duplicated().any():
        raise InputError(f"{folder}: two files are named {codes.filter(codes.is_duplicated())[0]}; keep one")
    if adjusted := [file for file in files if _has_adjusted_close(file)]:
        print(f"note: Adj Close is left out, in {len(adjusted)} files, {adjusted[0]} first", file=sys.stderr)
    named = _read_labels(labels) if labels else pl.DataFrame(schema=dict.fromkeys(("code", *LABELS), pl.String))
    if labels and (unlabelled := codes.filter(~codes.is_in(named["code"].to_list()))).len():
        print(f"note: {labels} lacks {len(unlabelled)} of {len(codes)} stocks, {unlabelled[0]} first", file=sys.stderr)
    return bars.join(named, "code", how="left").sort("code", "date")


def _read_bars(file: Path) -> pl.DataFrame:
    text = _read_text(file, ("date", *NUMBERS))
    dates = text["date"].str.to_date("%Y-%m-%d", strict=False)
    _refuse(file, text["date"], dates.is_null(), "is not a date (YYYY-MM-DD)")
    _refuse(file, text["date"], dates.is_duplicated(), "is there twice; keep one")
    numbers = {name: text[name].cast(pl.Float64, strict=False) for name in NUMBERS}
    for name, number in numbers.items():
        unread = (number.is_null() & text[name].is_not_null()) | ~number.is_finite().fill_null(value=True)
        _refuse(file, text[name], unread, "is not a number; leave it empty where nothing was printed")
    for name in PRICES:
        _refuse(file, text[name], numbers[name] <= 0, "is not positive; leave it empty where nothing was printed")
    _refuse(file, text["volume"], numbers["volume"] < 0, "is negative")
    return pl.DataFrame({"date": dates, "code": pl.Series([file.stem] * len(dates), dtype=pl.String), **numbers})


def _has_adjusted_close(file: Path) -> bool:
    with file.open(encoding="utf-8") as lines:
        return "adj close" in lines.readline().lower()


def _read_labels(file: Path) -> pl.DataFrame:
    labels = _read_text(file, ("code", *LABELS))
    _refuse(file, labels["code"], labels["code"].is_null(), "is empty")
    _refuse(file, labels["code"], labels["code"].is_duplicated(), "is there twice; keep one")
    return labels


def _read_text(file: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    """The columns as text, trimmed, null where empty."""
    try:
        frame = pl.read_csv(file, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{file}: cannot be read as CSV ({reason})") from error
    theirs: dict[str, str] = {}
    for name in frame.columns:
        ours = name.strip().lower()
        if ours in columns and ours in theirs:
            raise InputError(f"{file}: columns {theirs[ours]!r} and {name!r} are both {ours}; keep one")
        theirs[ours] = name
    if missing := [name for name in columns if name not in theirs]:
        raise InputError(f"{file}: no column {missing[0]!r}; it has {', '.join(frame.columns)}")
    if frame.is_empty():
        raise InputError(f"{file}: holds no rows")
    trimmed = frame.select(pl.col(theirs[name]).str.strip_chars().alias(name) for name in columns)
    return trimmed.with_columns(pl.all().replace("", None))


def _refuse(file: Path, text: pl.Series, wrong: pl.Series, why: str) -> None:
    rows = wrong.fill_null(value=False).arg_true()
    if len(rows):
        more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
        raise InputError(f"{file}: {text.name} in row {rows[0] + 1} is {text[rows[0]]!r}: it {why}{more}")
