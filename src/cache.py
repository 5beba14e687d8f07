"""Stage 1: raw bars to a point-in-time panel, the split table, and the oracle where one is known."""

import polars as pl

from atft import paths
from atft.config import load_params
from atft.panel.build import build_panel
from atft.panel.simulate import PARTS, simulate_market
from atft.panel.sources import check_bars, load_bars
from atft.panel.splits import walk_forward
from atft.panel.store import write_panel
from atft.program import new_file, new_folder, pin_threads, run_program, write_json


def main() -> None:
    params = load_params()
    pin_threads(params.threads)
    data, split = params.data, params.split
    oracle = pl.DataFrame(
        schema={"date": pl.Date, "code": pl.String, "horizon": pl.Int32} | dict.fromkeys(PARTS, pl.Float32)
    )
    if data.source == "simulated":
        spec = data.simulated
        world = simulate_market(spec.stocks, spec.days, spec.market, spec.seed, tuple(data.horizons), data.delay)
        bars, oracle = check_bars(world.bars, "simulated market"), world.oracle
    else:
        bars = load_bars(paths.RAW, data.file.path, data.file.columns, data.file.sectors)
    panel = build_panel(
        bars,
        data.families,
        data.horizons,
        data.delay,
        data.min_history,
        data.min_dollar_volume,
        data.max_daily_return,
        data.standardize,
    )
    splits = walk_forward(
        panel.dates.tolist(),
        panel.first,
        split.valid,
        split.test,
        split.block_days,
        split.stop_days,
        split.purge,
        split.min_train_days,
    )
    with new_folder(paths.CACHE) as folder, new_file(paths.ORACLE) as oracle_file:
        write_panel(folder, panel.dates, panel.stocks, panel.arrays, panel.facts)
        splits.write_csv(folder / "splits.csv")
        write_json(folder / "report.json", panel.report)
        oracle.write_parquet(oracle_file)


if __name__ == "__main__":
    run_program(main)
