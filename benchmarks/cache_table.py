"""The cache of a feature table against pandas and against the least it could cost.

Run: python benchmarks/cache_table.py [--stocks 4000 --days 1150 --features 395 --order date]
It writes and deletes about three times the table (22 GB at full size) below --folder.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import ndtri

from memory import watched

THREADS = 2
PANDAS_DAYS = 30  # pandas ranks this many days; its time grows with them


def generate(folder: Path, stocks: int, days: int, features: int, order: str) -> None:
    """A table of white noise in float32, one missing value in a thousand, and its bars."""
    rng = np.random.default_rng(0)
    dates = np.arange("2015-01-01", "2035-01-01", dtype="datetime64[D]")[:days]
    codes = np.array([f"S{i:04}" for i in range(stocks)])
    close = np.exp(0.02 * rng.normal(size=(days, stocks)).cumsum(0))
    names = [f"x{i}" for i in range(features)]
    pl.DataFrame({"Date": np.repeat(dates, stocks), "Code": np.tile(codes, days), "Close": close.ravel()}).sort(
        "Code", "Date"
    ).write_parquet(folder / "bars.parquet")
    schema = pa.schema([("Date", pa.date32()), ("Code", pa.string()), *((name, pa.float32()) for name in names)])
    with pq.ParquetWriter(folder / "table.parquet", schema, compression="snappy", use_dictionary=["Code"]) as writer:
        groups = np.array_split(np.arange(days if order == "date" else stocks), 115)
        for group in groups:
            shape = (len(group), stocks) if order == "date" else (len(group), days)
            day = np.repeat(dates[group], stocks) if order == "date" else np.tile(dates, len(group))
            code = np.tile(codes, len(group)) if order == "date" else np.repeat(codes[group], days)
            values = rng.standard_normal((features, shape[0] * shape[1]), np.float32)
            values[rng.random(values.shape, np.float32) < 0.001] = np.nan
            columns = [pa.array(day), pa.array(code), *(pa.array(column, from_pandas=True) for column in values)]
            writer.write_table(pa.table(columns, schema=schema))


def build(folder: Path, out: Path) -> None:
    """Our cache in this process; prints its wall time, its parts and its largest anonymous memory as JSON."""
    from atft.panel.build import build_panel
    from atft.panel.sources import OPTIONAL, REQUIRED, load_bars
    from atft.panel.table import table_features
    from atft.program import pin_threads

    pin_threads(THREADS)
    with watched() as most:
        start = time.perf_counter()
        names = {"date": "Date", "code": "Code", "close": "Close"}
        bars = load_bars(folder, "bars.parquet", dict.fromkeys((*REQUIRED, *OPTIONAL)) | names, None)
        features = partial(
            table_features, raw=folder, path="table.parquet", date="Date", code="Code", prices=["Close"],
            features=["*"], exclude=[], forward_names=["*target*"], defects={}, canary_rank_ic=0.15, canary_icir=1.0,
            delay=1, horizons=[1, 5, 10, 20],
        )  # fmt: skip
        build_panel(
            out, bars, features, horizons=[1, 5, 10, 20], delay=1, label="raw", label_scale="rank_gauss", beta_days=120,
            min_history=1, min_dollar_volume=0.0, max_daily_return=0.5, news_volume=5.0, method="rank_gauss",
            threads=THREADS,
        )  # fmt: skip
        wall = time.perf_counter() - start
    print(json.dumps({"seconds": wall, "anonymous_gib": most[0]}))


def by_pandas(folder: Path, order: str, days: int, stocks: int) -> tuple[float, pd.DataFrame]:
    """Seconds for rank-gauss by groupby-rank of the first days, reading and writing included, and the result."""
    start = time.perf_counter()
    if order == "date":
        rows = next(pq.ParquetFile(folder / "table.parquet").iter_batches(PANDAS_DAYS * stocks)).to_pandas()
    else:
        first = np.datetime64("2015-01-01") + PANDAS_DAYS
        rows = pd.read_parquet(folder / "table.parquet", filters=[("Date", "<", first.astype(object))])
    grouped = rows.groupby("Date")
    names = [name for name in rows.columns if name.startswith("x")]
    ranked = (grouped[names].rank() - 0.5) / grouped[names].transform("count")
    gauss = pd.DataFrame(ndtri(ranked.to_numpy()).astype(np.float32), columns=names)
    gauss.insert(0, "Code", rows["Code"])
    gauss.insert(0, "Date", rows["Date"])
    gauss.to_feather(folder / "pandas.arrow", compression="uncompressed")
    return (time.perf_counter() - start) * days / PANDAS_DAYS, gauss


def floors(folder: Path, stocks: int, days: int, features: int) -> tuple[float, float]:
    """Seconds to sort every value once (one thread, ten days measured), and to write the result's bytes once."""
    block = np.random.default_rng(1).standard_normal((10, features, stocks), np.float32)
    start = time.perf_counter()
    block.sort(axis=2)
    sort = (time.perf_counter() - start) * days / 10
    one = np.zeros(stocks * features, np.float32).tobytes()
    start = time.perf_counter()
    with (folder / "zeros").open("wb") as file:
        for _ in range(days):
            file.write(one)
    write = time.perf_counter() - start
    (folder / "zeros").unlink()
    return sort, write


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=4000)
    parser.add_argument("--days", type=int, default=1150)
    parser.add_argument("--features", type=int, default=395)
    parser.add_argument("--order", choices=["date", "code"], default="date")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(args.build, args.build / "out")
        return
    folder = Path(tempfile.mkdtemp(prefix="atft-benchmark-", dir=args.folder))
    try:
        (folder / "out").mkdir()
        generate(folder, args.stocks, args.days, args.features, args.order)
        size = (args.stocks, args.days, args.features)
        sort, write = floors(folder, *size)
        pandas_seconds, expected = by_pandas(folder, args.order, args.days, args.stocks)
        os.sync()
        ran = subprocess.run([sys.executable, __file__, "--build", folder], capture_output=True, text=True, check=True)
        ours = json.loads(ran.stdout)
        from atft.panel.store import read_panel

        panel = read_panel(folder / "out")
        day = PANDAS_DAYS - 1
        theirs = expected[expected["Date"] == panel.dates[day].astype(object)].sort_values("Code")
        known = panel.tradable[day]
        difference = np.nanmax(np.abs(theirs.iloc[:, 2:].to_numpy()[known] - panel.features[day][known]))
        rows, wall = args.stocks * args.days, ours["seconds"]
        print(f"{rows:,} rows x {args.features} float32 ({rows * args.features * 4 / 1e9:.2f} GB), ", end="")
        print(f"sorted by {args.order}, rank-gauss; {THREADS} threads; ", end="")
        print(f"polars {pl.__version__}, numpy {np.__version__}, pandas {pd.__version__}\n")
        print("| what | seconds | ratio |\n|---|---|---|")
        memory = f"peak {ours['anonymous_gib']:.2f} GiB anonymous"
        print(f"| cache from the table, audit included | {wall:.1f} | {memory} |")
        peer = f"pandas groupby-rank, {PANDAS_DAYS} days x {args.days / PANDAS_DAYS:.1f}"
        print(f"| {peer} | {pandas_seconds:.1f} | {pandas_seconds / wall:.1f}x slower |")
        print(f"| limit: sort every value once, one thread | {sort:.1f} | {wall / sort:.1f}x of it |")
        print(f"| limit: write the bytes once | {write:.1f} | {wall / write:.1f}x of it |")
        print(f"\nlargest difference to pandas on {panel.dates[day]}: {difference:.1e}")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
