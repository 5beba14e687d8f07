"""One graph snapshot against pandas and against the least it could cost.

Run: python benchmarks/graph.py [--stocks 4000]
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import pandas as pd

from atft.graph.edges import correlations, day_weights, market_residuals, nearest, sector_residuals, tamed
from atft.graph.snapshots import HierarchicalGraphBuilder
from atft.program import pin_threads
from timing import best

WINDOW, NEIGHBORS, SECTORS, THREADS = 120, 20, 33, 2
BUILDER = HierarchicalGraphBuilder(
    every=20, window=WINDOW, min_overlap=60, neighbors=NEIGHBORS, half_life=0, shrinkage=0.0, min_correlation=0.0,
    sector_edge_weight=0.5,
)  # fmt: skip


def market(stocks: int, gaps: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns [day, stock] with a market, sectors and clusters of 8; `gaps` of the stocks miss some days."""
    rng = np.random.default_rng(0)
    sector = rng.integers(1, SECTORS + 1, stocks)
    industry = sector * 4 + rng.integers(0, 4, stocks)
    returns = rng.normal(size=(WINDOW, 1)) + 0.7 * rng.normal(size=(WINDOW, SECTORS + 1))[:, sector]
    returns += 0.8 * rng.normal(size=(WINDOW, -(-stocks // 8)))[:, rng.permutation(stocks) // 8]
    returns += rng.normal(size=(WINDOW, stocks))
    present = np.ones(returns.shape, bool)
    some = rng.random(stocks) < gaps
    present[:, some] = rng.random((WINDOW, int(some.sum()))) > 0.05
    return np.where(present, 0.01 * returns, 0).astype(np.float32), present, sector, industry


def by_pandas(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(correlations, [stock, NEIGHBORS] nearest) the plain way: corr, then sort."""
    similar = frame.corr(min_periods=60).to_numpy(copy=True)
    np.fill_diagonal(similar, -1.0)
    return similar, np.argsort(-similar, axis=1, kind="stable")[:, :NEIGHBORS]


def floor(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One product and its top-k: what no snapshot can do without."""
    similar = np.ascontiguousarray(unit.T) @ unit
    np.fill_diagonal(similar, 0.0)
    return nearest(similar, NEIGHBORS, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=4000)
    stocks = parser.parse_args().stocks
    pin_threads(THREADS)
    print(f"{stocks} stocks x {WINDOW} days, {NEIGHBORS} neighbours, {THREADS} threads on {os.cpu_count()} cores")
    print(
        f"numpy {np.__version__}, pandas {pd.__version__}, load {os.getloadavg()[0]:.2f}; fastest of 7, pandas of 2\n"
    )
    print("| stocks with gaps | snapshot, s | pandas corr + sort, s | times faster | floor, s | over the floor "
          "| largest difference | stocks with pandas' neighbours |\n|---|---|---|---|---|---|---|---|")  # fmt: skip
    for gaps in (0.0, 0.1, 1.0):
        returns, present, sector, industry = market(stocks, gaps)
        weights = day_weights(WINDOW, 0)
        calm = tamed(returns.astype(np.float64), present)
        own = sector_residuals(market_residuals(calm, present, weights), present, sector)
        ours, (index, _) = best(7, lambda: BUILDER.edges(returns, present, sector, industry))  # noqa: B023
        least, _ = best(7, lambda: floor(own.astype(np.float32)))  # noqa: B023
        theirs, (similar, rank) = best(2, lambda: by_pandas(pd.DataFrame(own).where(present)))  # noqa: B023
        mine = correlations(own, present, weights, 0.0, 60)
        np.fill_diagonal(mine, -1.0)
        source, target = index[:, (index < stocks).all(0) & (index[0] != index[1])]
        same = np.mean([set(source[target == i].tolist()) == set(rank[i].tolist()) for i in range(stocks)])
        print(f"| {gaps:.0%} | {ours:.3f} | {theirs:.2f} | {theirs / ours:.1f} | {least:.3f} | {ours / least:.1f} "
              f"| {np.nanmax(np.abs(mine - similar)):.1e} | {same:.2%} |")  # fmt: skip


if __name__ == "__main__":
    main()
