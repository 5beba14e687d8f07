"""The cache from bars with the full feature library, and its rolling kernels against pandas.

Run: python benchmarks/cache_bars.py [--stocks 4000 --days 1250]. It writes and deletes about 10 GB at full size.
"""

import argparse
import json
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

from memory import watched

from atft.panel.bars import numbered_labels, on_grid
from atft.panel.features import FAMILIES, prepared
from atft.panel.sources import complete

THREADS = 2
PEER_STOCKS = 50
WINDOWS = (5, 10, 20, 30, 60)


def bars(stocks: int, days: int) -> pl.DataFrame:
    """Random walks with volume, 33 sectors of 4 industries, one bar in a thousand missing."""
    rng = np.random.default_rng(0)
    shape = (stocks, days)
    close = np.exp(0.02 * rng.normal(size=shape).cumsum(1))
    high, low = close * np.exp(0.01 * rng.random(shape)), close * np.exp(-0.01 * rng.random(shape))
    sector = rng.integers(0, 33, stocks)
    frame = pl.DataFrame(
        {
            "date": np.tile(np.arange("2015-01-01", "2035-01-01", dtype="datetime64[D]")[:days], stocks),
            "code": np.repeat([f"S{i:04}" for i in range(stocks)], days),
            "open": (low + (high - low) * rng.random(shape)).ravel(),
            "high": high.ravel(),
            "low": low.ravel(),
            "close": close.ravel(),
            "volume": np.exp(12 + rng.normal(size=shape)).ravel().round(),
            "sector": np.repeat([f"sector {i}" for i in sector], days),
            "industry": np.repeat([f"industry {i}" for i in sector * 4 + rng.integers(0, 4, stocks)], days),
        }
    )
    return complete(frame.filter(pl.Series(rng.random(len(frame)) >= 0.001)))


def build(out: Path, stocks: int, days: int) -> None:
    """Our cache in this process; prints its wall time and its largest anonymous memory as JSON."""
    from atft.panel.build import build_panel
    from atft.panel.raw import library_features
    from atft.panel.store import read_panel
    from atft.program import pin_threads

    pin_threads(THREADS)
    source = bars(stocks, days)
    with watched() as most:
        start = time.perf_counter()
        build_panel(
            out, source, partial(library_features, families=[*FAMILIES, "relative", "market"]), horizons=[1, 5, 10, 20],
            delay=1, label="sector_beta_neutral", label_scale="rank_gauss", beta_days=120, min_history=60,
            min_dollar_volume=0.0, max_daily_return=0.5, news_volume=5.0, method="rank_gauss", threads=THREADS,
        )  # fmt: skip
        wall = time.perf_counter() - start
    shape = read_panel(out).features.shape
    print(json.dumps({"seconds": wall, "anonymous_gib": most[0], "shape": shape}))


def rolling_by_pandas(frame: pd.DataFrame) -> pd.DataFrame:
    """The Alpha158 factors for which pandas has a rolling method of its own."""
    out = {}
    by = frame.groupby("code", sort=False)
    close, high, low, volume = (by[name] for name in ("close", "high", "low", "volume"))

    def flat(series: pd.Series) -> np.ndarray:
        return series.to_numpy()

    last = frame["close"].to_numpy()
    for d in WINDOWS:
        out[f"MA{d}"] = flat(close.rolling(d, min_periods=1).mean()) / last
        out[f"STD{d}"] = flat(close.rolling(d, min_periods=1).std()) / last
        out[f"MAX{d}"] = flat(high.rolling(d, min_periods=1).max()) / last
        out[f"MIN{d}"] = flat(low.rolling(d, min_periods=1).min()) / last
        out[f"QTLU{d}"] = flat(close.rolling(d, min_periods=1).quantile(0.8)) / last
        out[f"QTLD{d}"] = flat(close.rolling(d, min_periods=1).quantile(0.2)) / last
        out[f"RANK{d}"] = flat(close.rolling(d, min_periods=1).rank(pct=True))
        out[f"VMA{d}"] = flat(volume.rolling(d, min_periods=1).mean()) / frame["volume"].to_numpy()
        out[f"VSTD{d}"] = flat(volume.rolling(d, min_periods=1).std()) / frame["volume"].to_numpy()
    return pd.DataFrame(out)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=4000)
    parser.add_argument("--days", type=int, default=1250)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--build", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        build(args.build, args.stocks, args.days)
        return
    numbered = numbered_labels(bars(PEER_STOCKS, args.days))[0]
    rows = prepared(on_grid(numbered, 0.5, 5.0).frame)
    plain = rows.select("code", "high", "low", "close", "volume").to_pandas()
    start = time.perf_counter()
    theirs = rolling_by_pandas(plain)
    pandas_seconds = time.perf_counter() - start
    start = time.perf_counter()
    chosen = {name: FAMILIES["alpha158"][name] for name in theirs.columns}
    ours = rows.select(expr.over("code").alias(name) for name, expr in chosen.items())
    polars_seconds = time.perf_counter() - start
    difference = max(float(np.nanmax(np.abs(ours[name].to_numpy() - theirs[name]))) for name in theirs.columns)

    folder = Path(tempfile.mkdtemp(prefix="atft-benchmark-", dir=args.folder))
    try:
        command = [sys.executable, __file__, "--build", folder, "--stocks", args.stocks, "--days", args.days]
        ran = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        full = json.loads(ran.stdout)
        size = (folder / "panel.arrow").stat().st_size
        block = b"\0" * 2**24
        start = time.perf_counter()
        with (folder / "zeros").open("wb") as file:
            for _ in range(size // len(block)):
                file.write(block)
        write = time.perf_counter() - start
    finally:
        shutil.rmtree(folder)
    dates, stocks, features = full["shape"]
    scale = stocks * dates / len(rows)
    print(f"{stocks} stocks x {dates} days x {features} features ({size / 1e9:.1f} GB), {THREADS} threads; ")
    print(f"polars {pl.__version__}, pandas {pd.__version__}\n")
    print("| what | seconds | ratio |\n|---|---|---|")
    print(f"| cache from bars, full library | {full['seconds']:.1f} | peak {full['anonymous_gib']:.2f} GiB anonymous |")
    print(f"| limit: write the bytes once | {write:.1f} | {full['seconds'] / write:.1f}x of it |")
    names = f"{len(chosen)} rolling factors, {PEER_STOCKS} stocks x {scale:.0f}"
    print(f"| {names}: polars | {polars_seconds * scale:.1f} | |")
    print(f"| the same: pandas | {pandas_seconds * scale:.1f} | {pandas_seconds / polars_seconds:.1f}x slower |")
    print(f"\nlargest difference to pandas: {difference:.1e}")


if __name__ == "__main__":
    main()
