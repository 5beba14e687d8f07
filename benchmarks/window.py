"""Reading a window of days of all stocks from the panel, against memcpy and against a DataLoader.

Run: python benchmarks/window.py [--stocks 4000 --features 395 --lookback 60]
"""

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import DataLoader, Dataset

from atft.panel.store import PanelWriter, read_panel
from timing import best

DAYS, SAMPLES, BATCH = 130, 2048, 512


def write(folder: Path, stocks: int, features: int) -> None:
    """A panel of white noise, and the same rows as Arrow files sorted by (stock, date).

    `columns.arrow` has a column per feature, as a data frame is written; `rows.arrow` one column of rows.
    """
    rng = np.random.default_rng(0)
    values = rng.standard_normal((DAYS, stocks, features), np.float32)
    one, none = np.ones(stocks, bool), np.zeros((stocks, 4), np.float32)
    facts = {"codes": [""] * stocks, "sector_names": [], "industry_names": [], "feature_names": [""] * features}
    with PanelWriter(folder, facts | {"market_features": [], "horizons": [1, 5, 10, 20], "delay": 1}) as writer:
        for day in range(DAYS):
            small = dict.fromkeys(("tradable", "has_bar", "can_trade"), one) | dict.fromkeys(
                ("sector", "industry"), one.astype(np.int16)
            )
            large = {
                "features": values[day],
                "label": none,
                "forward_return": none,
                "daily_return": none[:, 0].copy(),
                "money_traded": none[:, 0].copy(),
            }
            writer.write_day(np.datetime64("2020-01-01") + day, large | small)
    flat = values.swapaxes(0, 1).reshape(-1, features)
    rows = pa.record_batch([pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), features)], names=["features"])
    columns = pa.record_batch(
        [pa.array(np.ascontiguousarray(x)) for x in flat.T], names=list(map(str, range(features)))
    )
    for name, batch in (("rows", rows), ("columns", columns)):
        with pa.ipc.new_file(str(folder / f"{name}.arrow"), batch.schema) as writer:
            writer.write_batch(batch)


class Slices(Dataset[torch.Tensor]):
    """What a user writes first: one sample is an Arrow slice of one stock's last days."""

    def __init__(self, file: Path, stocks: int, lookback: int) -> None:
        self.batch = pa.ipc.open_file(pa.memory_map(str(file))).get_batch(0)
        self.stocks, self.lookback = stocks, lookback

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> torch.Tensor:
        start = (i % self.stocks) * DAYS + i % (DAYS - self.lookback)
        part = self.batch.slice(start, self.lookback)
        if part.num_columns > 1:
            return torch.from_numpy(np.stack([column.to_numpy() for column in part.columns], axis=1))
        return torch.from_numpy(part.column(0).flatten().to_numpy().reshape(self.lookback, -1).copy())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=4000)
    parser.add_argument("--features", type=int, default=395)
    parser.add_argument("--lookback", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory(prefix="atft-benchmark-") as name:
        folder = Path(name)
        write(folder, args.stocks, args.features)
        panel = read_panel(folder)
        span = args.lookback
        starts = np.random.default_rng(1).integers(0, DAYS - span, 8)
        for start in starts:  # page cache warm, as during training
            panel.window(start, start + span).sum()
        window = panel.window(3, 3 + span)
        base = panel.features.__array_interface__["data"][0]
        viewed = window.data_ptr() == base + 3 * panel.features.strides[0]

        out = torch.empty(span, args.stocks, args.features)
        plain = torch.randn(out.shape)
        size = out.nbytes
        copies = best(3, lambda: [out.copy_(panel.window(s, s + span)) for s in starts])[0] / len(starts)
        memcpy = best(3, lambda: [out.copy_(plain) for _ in starts])[0] / len(starts)
        views = best(3, lambda: [panel.window(s, s + span) for s in starts])[0] / len(starts)
        peers = {}
        for kind in ("columns", "rows"):
            dataset = Slices(folder / f"{kind}.arrow", args.stocks, span)
            loader = DataLoader(dataset, batch_size=BATCH)
            peers[kind] = best(2, lambda: list(loader))[0] / SAMPLES  # noqa: B023
            for i in range(0, SAMPLES, 97):
                start = i % (DAYS - span)
                assert torch.equal(dataset[i], panel.window(start, start + span)[:, i % args.stocks])
    per_window = copies / args.stocks
    print(f"{args.stocks} stocks x {span} days x {args.features} features: {size / 1e6:.0f} MB a window; 2 threads; ")
    print(f"torch {torch.__version__}, pyarrow {pa.__version__}; page cache warm\n")
    print("| what | seconds per window of all stocks | GB/s | ratio |\n|---|---|---|---|")
    print(f"| view (address inside the map: {viewed}) | {views:.6f} | nothing is copied | |")
    print(f"| copied | {copies:.4f} | {size / copies / 1e9:.1f} | {memcpy / copies:.0%} of memcpy |")
    print(f"| limit: memcpy | {memcpy:.4f} | {size / memcpy / 1e9:.1f} | |")
    for kind, seconds in peers.items():
        whole = seconds * args.stocks
        print(f"| DataLoader, batches of {BATCH}, a sample is a slice of an Arrow file of {kind} ", end="")
        print(f"| {whole:.2f} | {size / whole / 1e9:.2f} | {seconds / per_window:.0f}x slower |")
    print("\nall give the same rows")


if __name__ == "__main__":
    main()
