"""Ready-made feature tables: columns chosen, audited and refused where they know the future."""

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.panel.audit import Rows, audit
from atft.panel.bars import Grid
from atft.panel.raw import DAYS_AT_ONCE, RawFeatures, in_blocks
from atft.panel.sources import batches, check_bars, named, raw_files, readable, scan, typed
from atft.panel.store import scratch_array

BATCH_BYTES = 8 * 2**20  # of rows that are laid out together


def table_features(
    grid: Grid,
    folder: Path,
    *,
    raw: Path,
    path: str,
    date: str,
    code: str,
    prices: Sequence[str],
    features: Sequence[str],
    exclude: Sequence[str],
    forward_names: Sequence[str],
    defects: Mapping[str, str],
    canary_rank_ic: float,
    canary_icir: float,
    delay: int,
    horizons: Sequence[int],
) -> RawFeatures:
    """The table's chosen columns as features of the grid's stocks and dates.

    Args:
        raw, path: Door and glob below it; several files are stacked.
        date, code: Names of the key columns.
        prices: Columns that are bars, never features.
        features, exclude: Names or globs; "*" is every numeric column.
        forward_names: Globs, without regard to case, of names that say they know the future.
        defects: What to do with each of `audit.DEFECTS`: "drop" (and report) or "refuse".
        canary_rank_ic, canary_icir: See `audit.canary`.

    Raises:
        InputError: On a column that is asked for and not there, not numeric, knows the future, or has
            a defect that is refused; on rows that are there twice; when nothing is left.
    """
    files = raw_files(raw, path, "data.table.path")
    where = named(files)
    scans = [scan(file, [code]) for file in files]
    schema = scans[0][1]
    for file, (_, other) in zip(files, scans, strict=True):
        if missing := [name for name in schema.names() if name not in other]:
            raise InputError(f"{file}: no column {missing[0]!r}, which {files[0]} has; give them the same columns")
        if missing := [name for name in (date, code) if name not in other]:
            raise InputError(f"{file}: no column {missing[0]!r}; set data.file.columns.date and .code to the table's")
    chosen, forward = choose(schema, [date, code, *prices], features, exclude, forward_names, where)
    table = pl.concat([frame.select(date, code, *chosen) for frame, _ in scans])
    with readable(where):
        keys = table.select(date, code).collect()
    rows = place(keys, grid, where)
    findings, market_wide, thin = audit(table, chosen, rows, grid, canary_rank_ic, canary_icir, delay, horizons, where)
    for finding in findings:
        if defects[finding.defect] == "refuse":
            raise InputError(
                f"{where}: column {finding.column!r} is {finding.defect.replace('_', ' ')} ({finding.detail}); "
                f"add it to data.table.exclude, or set data.table.defects.{finding.defect} to drop"
            )
    spoilt = {finding.column for finding in findings}
    names = [name for name in chosen if name not in spoilt and name not in market_wide]
    if not names:
        raise InputError(f"{where}: no feature column is left; see data.table.features and data.table.exclude")
    return RawFeatures(
        names=names,
        kept=len(names),
        relative=[],
        market_names=list(market_wide),
        market=_against_own_past(market_wide, len(grid.dates)),
        blocks=partial(laid_out, files, names, rows, len(grid.dates), len(grid.codes), folder / "raw.scratch"),
        report={
            "table": {
                "rows": len(rows.day),
                "rows_without_bar": int((~rows.known).sum()),
                "features": len(names),
                "market_wide": list(market_wide),
                "forward_looking_names_refused": forward,
                "too_rarely_known_to_examine": thin,
                "left_out": [vars(finding) for finding in findings],
            }
        },
        close=partial((folder / "raw.scratch").unlink, missing_ok=True),
    )


def choose(
    schema: Mapping[str, pl.DataType],
    taken: Sequence[str],
    features: Sequence[str],
    exclude: Sequence[str],
    forward_names: Sequence[str],
    where: str,
) -> tuple[list[str], list[str]]:
    """The chosen columns in the table's order, and those left out because their names say the future.

    A glob passes over such names; one that is asked for by its full name is an error.
    """
    numeric = [name for name, kind in schema.items() if kind.is_numeric() or kind == pl.Boolean]
    for pattern in exclude:
        if not any(_matches(name, [pattern]) for name in schema):
            raise InputError(f"{where}: data.table.exclude: no column matches {pattern!r}")
    free = [name for name in numeric if name not in taken and not _matches(name, exclude)]
    wanted: set[str] = set()
    for pattern in features:
        fitting = [name for name in free if _matches(name, [pattern])]
        if not fitting and pattern in schema:
            reason = "is excluded or is a bar" if pattern in numeric else f"is {schema[pattern]}, not numeric"
            raise InputError(f"{where}: data.table.features: column {pattern!r} {reason}")
        if not fitting:
            raise InputError(f"{where}: data.table.features: no column matches {pattern!r}")
        if pattern in schema and _looks_ahead(pattern, forward_names):
            raise InputError(
                f"{where}: column {pattern!r} is forward-looking by its name; take it out of data.table.features, or "
                f"correct data.table.forward_names if the name misleads"
            )
        wanted |= set(fitting)
    forward = [name for name in free if name in wanted and _looks_ahead(name, forward_names)]
    return [name for name in free if name in wanted and name not in forward], forward


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a pattern is the name itself, or a glob that fits it."""
    return any(name == pattern or fnmatchcase(name, pattern) for pattern in patterns)


def _looks_ahead(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name.lower(), pattern.lower()) for pattern in patterns)


def place(keys: pl.DataFrame, grid: Grid, where: str) -> Rows:
    """Day and stock number of each row.

    Raises:
        InputError: When a key is missing or there twice, or no row has a bar.
    """
    date, code = keys.columns
    for name in keys.columns:
        if keys[name].null_count():
            raise InputError(f"{where}: column {name!r} has {keys[name].null_count()} nulls; every row needs one")
    day = typed(keys[date], pl.Date, where)
    days = pl.Series(grid.dates.astype("datetime64[D]"))
    stocks = pl.Series(grid.codes)
    number = {
        "day": day.replace_strict(days, pl.arange(len(days), eager=True, dtype=pl.Int32), default=-1),
        "stock": typed(keys[code], pl.String, where).replace_strict(
            stocks, pl.arange(len(stocks), eager=True, dtype=pl.Int32), default=-1
        ),
    }  # fmt: skip
    rows = Rows(number["day"].to_numpy(), number["stock"].to_numpy())
    if not rows.known.any():
        raise InputError(f"{where}: no row has a bar of its date and code; are the codes written the same way?")
    place = rows.day.astype(np.int64) * len(stocks) + rows.stock
    counts = np.bincount(place[rows.known], minlength=1)
    if (counts > 1).any():
        twice = int(np.nonzero(counts > 1)[0][0])
        row = f"{grid.codes[twice % len(stocks)]} on {grid.dates[twice // len(stocks)]}"
        raise InputError(f"{where}: {row} is there {counts[twice]} times; keep one row per stock and date")
    return rows


def _against_own_past(columns: Mapping[str, NDArray[np.float64]], dates: int) -> NDArray[np.float32]:
    """Market-wide columns held against their own past alone: expanding z-score, clipped at 3. [T, M]"""
    out = np.zeros((dates, len(columns)), np.float32)
    for i, values in enumerate(columns.values()):
        x = pl.DataFrame({"x": values}).select(pl.col("x").fill_nan(None))
        count, total = pl.col("x").is_not_null().cum_sum(), pl.col("x").cum_sum()
        mean = total / count
        spread = ((pl.col("x") ** 2).cum_sum() / count - mean**2).clip(lower_bound=0).sqrt()
        scaled = x.select(pl.when(spread > 0).then((pl.col("x") - mean) / spread).clip(-3, 3)).to_series()
        out[:, i] = scaled.to_numpy()  # unknown stays NaN
    return out


def laid_out(
    files: Sequence[Path], columns: Sequence[str], rows: Rows, dates: int, stocks: int, scratch: Path
) -> Iterator[NDArray[np.float32]]:
    """The table's rows as [day, stock, column] blocks in date order, NaN where there is no row.

    A table sorted by date streams through; any other order is first laid out in a scratch file.
    """
    shape = (dates, stocks, len(columns))
    if (np.diff(rows.day[rows.known]) >= 0).all():
        yield from _streamed(files, columns, rows, shape)
        return
    raw = scratch_array(scratch, shape)
    there = np.zeros((dates, stocks), bool)
    there[rows.day[rows.known], rows.stock[rows.known]] = True
    for day, stock, values in _batches(files, columns, rows):
        # Row by row along the file: neighbours in it are written together.
        order = np.argsort(day.astype(np.int64) * stocks + stock)
        raw[day[order], stock[order]] = values[order]
    for block, present in zip(in_blocks(raw), in_blocks(there), strict=True):
        yield np.where(present[..., None], block, np.float32(np.nan))


def _streamed(
    files: Sequence[Path], columns: Sequence[str], rows: Rows, shape: tuple[int, int, int]
) -> Iterator[NDArray[np.float32]]:
    """Blocks of `DAYS_AT_ONCE` days of rows that come in date order."""
    numbers = -(-shape[0] // DAYS_AT_ONCE)
    full = np.bincount(rows.day[rows.known] // DAYS_AT_ONCE, minlength=numbers) == DAYS_AT_ONCE * shape[1]

    def blank(number: int) -> NDArray[np.float32]:
        block = np.empty((min(DAYS_AT_ONCE, shape[0] - number * DAYS_AT_ONCE), *shape[1:]), np.float32)
        if not full[number]:
            block.fill(np.nan)
        return block

    block, done = blank(0), 0
    for day, stock, values in _batches(files, columns, rows):
        for number in np.unique(day // DAYS_AT_ONCE):
            while done < number:
                yield block
                done += 1
                block = blank(done)
            here = slice(*np.searchsorted(day, [number * DAYS_AT_ONCE, (number + 1) * DAYS_AT_ONCE]))
            block[day[here] % DAYS_AT_ONCE, stock[here]] = values[here]
    yield block
    for number in range(done + 1, numbers):
        yield blank(number)


def _batches(
    files: Sequence[Path], columns: Sequence[str], rows: Rows
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]]:
    """(day, stock, values) of the rows that have a bar, in the table's order."""
    start = 0
    for file in files:
        for frame in batches(file, columns, max(BATCH_BYTES // (4 * len(columns)), 1)):
            part = slice(start, start + len(frame))
            values = frame.cast(pl.Float32).to_numpy()
            keep = slice(None) if rows.known[part].all() else rows.known[part]
            yield rows.day[part][keep], rows.stock[part][keep], values[keep]
            start += len(frame)


def bars_from_target(raw: Path, path: str, columns: Mapping[str, str | None], target: str, delay: int) -> pl.DataFrame:
    """Bars with a close alone, rebuilt from a table's one-day target, for tables without prices.

    The target of day t is the simple return from the close of t + delay to that of t + delay + 1. Where
    it is missing the stock counts as not printed, and its return over the gap as nothing.
    """
    files = raw_files(raw, path, "data.table.path")
    rename = {name: theirs for name in ("date", "code", "sector", "industry") if (theirs := columns[name]) is not None}
    frames = []
    for file in files:
        frame, schema = scan(file, [theirs for name, theirs in rename.items() if name != "date"])
        if missing := [name for name in (*rename.values(), target) if name not in schema]:
            raise InputError(f"{file}: no column {missing[0]!r}; see data.table.daily_target and data.file.columns")
        with readable(file):
            wanted = [pl.col(theirs).alias(name) for name, theirs in rename.items()]
            rows = frame.select(*wanted, target=pl.col(target)).collect()
        kinds = dict.fromkeys(rename, pl.String) | {"date": pl.Date, "target": pl.Float64}
        frames.append(rows.with_columns(typed(rows[name], kind, file) for name, kind in kinds.items()))
    rows = pl.concat(frames)
    rows = rows.sort("code", "date").with_columns(day=pl.col("date").rank("dense").cast(pl.Int64))
    known = rows.select("code", day=pl.col("day") + delay + 1, r=pl.col("target").fill_nan(None))
    rows = rows.join(known, on=["code", "day"], how="left", maintain_order="left")
    # Before the first target's return nothing is known, and nothing is ranked yet.
    young = pl.col("day") <= pl.col("day").first().over("code") + delay
    r = pl.when(young).then(0.0).otherwise("r")
    growth = (1 + r.fill_null(0.0)).cum_prod().over("code")
    bars = rows.select(
        *rename,
        close=pl.when(r.is_not_null() & (growth > 0)).then(growth),
    )
    return check_bars(bars, named(files))
