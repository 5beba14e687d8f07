"""Stage 5: score the held-out dates and judge the scores as a portfolio manager would."""

import numpy as np
import polars as pl
from tqdm import tqdm

from atft import paths
from atft.config import load_params
from atft.evaluation.report import Market, beside, cumulative_rank_ic, equity, evaluate_scores, headline
from atft.graph.snapshots import read_snapshots
from atft.panel.store import folds, read_panel
from atft.program import new_file, pin_threads, run_program, write_json
from atft.training.predictions import predict_fold, with_returns
from atft.training.rankers import read_manifest


def main() -> None:
    params = load_params()
    knobs = params.evaluate
    panel, snapshots = read_panel(paths.CACHE), read_snapshots(paths.GRAPH)
    manifest = read_manifest(paths.RANKER, panel)
    pin_threads(manifest.threads)
    splits = pl.read_csv(paths.CACHE / "splits.csv", try_parse_dates=True)
    fits = [(fold, seed) for fold in folds(splits) for seed in manifest.seeds]
    predictions = pl.concat(
        predict_fold(manifest, paths.RANKER, panel, snapshots, splits, fold, seed)
        for fold, seed in tqdm(fits, "score", disable=None)
    )
    scored = with_returns(predictions, panel, splits)
    market = Market(
        panel.dates,
        panel.codes,
        panel.daily_return.astype(np.float64),
        panel.has_bar,
        panel.can_trade,
        panel.tradable,
        panel.delay,
    )
    settings = (knobs.quantile, knobs.cost_bps, knobs.periods_per_year)
    daily, summary = evaluate_scores(scored, market, *settings, knobs.psi_bins)
    baselines = beside(scored, market, pl.read_parquet(paths.ORACLE), *settings)
    with new_file(paths.PREDICTIONS) as file:
        predictions.write_parquet(file)
    with new_file(paths.DAILY) as file:
        columns = ("date", "fold", "seed", "horizon", "role", "rank_ic", "gross", "net", "turnover")
        daily.select(columns).with_columns(pl.col(pl.Float64).round(6)).write_csv(file)
    with new_file(paths.EQUITY_PLOT) as file:
        equity(daily, market, knobs.primary_horizon, "valid").write_csv(file)
    with new_file(paths.RANK_IC_PLOT) as file:
        cumulative_rank_ic(daily, knobs.primary_horizon, "valid").write_csv(file)
    write_json(paths.EVALUATE_METRICS, headline(summary, baselines, knobs.primary_horizon))


if __name__ == "__main__":
    run_program(main)
