"""Stage 1: raw bars, or a feature table, to a point-in-time panel, the split table and the known truth."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from atft import paths
from atft.config import Data, load_params
from atft.panel.bars import Grid
from atft.panel.build import build_panel
from atft.panel.raw import RawFeatures, library_features
from atft.panel.simulate import PARTS, simulate_market
from atft.panel.sources import OPTIONAL, REQUIRED, check_bars, load_bars
from atft.panel.splits import make_splits
from atft.panel.table import bars_from_target, table_features
from atft.program import new_file, new_folder, pin_threads, run_program, write_json


def read_source(data: Data) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Bars, and of a simulated market the oracle and the hidden clusters (empty for real data)."""
    keys = {"date": pl.Date, "code": pl.String, "horizon": pl.Int32}
    oracle = pl.DataFrame(schema=keys | dict.fromkeys(PARTS, pl.Float32))
    clusters = pl.DataFrame(schema={"code": pl.String, "cluster": pl.Int64})
    file, table = data.file, data.table
    if data.source == "simulated":
        spec = data.simulated
        world = simulate_market(spec.stocks, spec.days, spec.market, spec.seed, tuple(data.horizons), data.delay)
        return check_bars(world.bars, "simulated market"), world.oracle, world.clusters
    if data.source == "table" and table.daily_target and file.columns["close"] is None:
        return (
            bars_from_target(paths.RAW, table.path, file.columns, table.daily_target, data.delay),
            oracle,
            clusters,
        )
    return load_bars(paths.RAW, file.path, file.columns, file.sectors), oracle, clusters


def feature_maker(data: Data) -> Callable[[Grid, Path], RawFeatures]:
    """What turns the bars' grid into raw features: the table's columns, or our own library."""
    if data.source != "table":
        return partial(library_features, families=data.families)
    table, columns = data.table, data.file.columns
    bar_columns = [columns[name] for name in (*REQUIRED, *OPTIONAL)]
    return partial(
        table_features,
        raw=paths.RAW,
        path=table.path,
        date=str(columns["date"]),
        code=str(columns["code"]),
        prices=[name for name in (*bar_columns, table.daily_target) if name],
        features=table.features,
        exclude=table.exclude,
        forward_names=table.forward_names,
        defects=dict(table.defects),
        canary_rank_ic=table.canary_rank_ic,
        canary_icir=table.canary_icir,
        delay=data.delay,
        horizons=data.horizons,
    )


def main() -> None:
    params = load_params()
    pin_threads(params.threads)
    data = params.data
    bars, oracle, clusters = read_source(data)
    with (
        new_folder(paths.CACHE) as folder,
        new_file(paths.ORACLE) as oracle_file,
        new_file(paths.CLUSTERS) as clusters_file,
    ):
        built = build_panel(
            folder,
            bars,
            feature_maker(data),
            horizons=data.horizons,
            delay=data.delay,
            label=data.label,
            label_scale=data.label_scale,
            beta_days=data.beta_days,
            min_history=data.min_history,
            min_dollar_volume=data.min_dollar_volume,
            max_daily_return=data.max_daily_return,
            news_volume=data.news_volume,
            method=data.standardize,
            threads=params.threads,
        )
        make_splits(built.dates.tolist(), built.first, **dict(params.split)).write_csv(folder / "splits.csv")
        built.large_returns.write_csv(folder / "large_returns.csv")
        write_json(folder / "report.json", built.report)
        oracle.write_parquet(oracle_file)
        clusters.write_parquet(clusters_file)


if __name__ == "__main__":
    run_program(main)
