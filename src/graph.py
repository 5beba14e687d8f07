"""Stage 2: who informs whom as of a date, from trailing returns and industry labels."""

import numpy as np
from tqdm import tqdm

from atft import paths
from atft.config import load_params
from atft.graph.snapshots import build_snapshots, read_snapshots, snapshot_days, summary, write_snapshots
from atft.panel.store import read_panel
from atft.program import new_folder, pin_threads, run_program, write_json


def main() -> None:
    params = load_params()
    pin_threads(params.threads)
    graph, panel = params.graph, read_panel(paths.CACHE)
    sector = np.unique(panel.sectors, return_inverse=True)[1]
    industry = np.unique(panel.industries, return_inverse=True)[1]
    snapshots = build_snapshots(
        panel.daily_return,
        panel.has_bar,
        sector,
        industry,
        graph.every,
        graph.window,
        graph.min_overlap,
        graph.neighbors,
        graph.industry_neighbors,
    )
    count = len(snapshot_days(len(panel.dates), graph.every, graph.min_overlap))
    with new_folder(paths.GRAPH) as folder:
        write_snapshots(folder, list(tqdm(snapshots, "graph", count, disable=None)))
        write_json(folder / "summary.json", summary(read_snapshots(folder), sector, len(panel.codes)))


if __name__ == "__main__":
    run_program(main)
