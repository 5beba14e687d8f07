"""Stage 2: who informs whom as of a date, from trailing returns and the labels of the day."""

import numpy as np
import polars as pl
from tqdm import tqdm

from atft import paths
from atft.config import load_params
from atft.graph.snapshots import HierarchicalGraphBuilder, read_snapshots, write_snapshots
from atft.graph.statistics import snapshot_table, summary
from atft.panel.store import read_panel
from atft.program import new_file, new_folder, pin_threads, run_program, write_json


def main() -> None:
    params = load_params()
    pin_threads(params.threads)
    panel = read_panel(paths.CACHE)
    builder = HierarchicalGraphBuilder(**dict(params.graph))
    snapshots = builder.snapshots(panel.daily_return, panel.has_bar, panel.sector, panel.industry)
    count = len(builder.days(len(panel.dates)))
    clusters = pl.read_parquet(paths.CLUSTERS)  # empty unless the market is simulated
    known = dict(clusters.select("code", "cluster").iter_rows())
    cluster = np.array([known[code] for code in panel.codes]) if known else None
    with (
        new_folder(paths.GRAPH) as folder,
        new_file(paths.GRAPH_PLOT) as plot,
        new_file(paths.GRAPH_METRICS) as metrics,
    ):
        write_snapshots(folder, tqdm(snapshots, "graph", count, disable=None))
        written = read_snapshots(folder)
        table = snapshot_table(written, panel.dates, panel.has_bar, panel.sector, panel.industry, cluster)
        table.with_columns(pl.col(pl.Float64).round(6)).write_csv(plot)
        write_json(metrics, summary(table, written))


if __name__ == "__main__":
    run_program(main)
