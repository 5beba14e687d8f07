"""Stage 5: score the held-out dates and judge the scores as a portfolio manager would."""

from contextlib import ExitStack

import polars as pl
from tqdm import tqdm

from atft import paths
from atft.config import load_params
from atft.evaluation.facts import Rules
from atft.evaluation.market import Market
from atft.evaluation.report import HELD_OUT, evaluate_scores, headline, valid_plots
from atft.graph.snapshots import read_snapshots
from atft.panel.oracle import read_oracle
from atft.panel.splits import follow_in_time
from atft.panel.store import folds, read_panel
from atft.program import new_file, pin_threads, run_program, write_json
from atft.training.predictions import prediction_rows, score_fold
from atft.training.rankers import read_manifest

PLOTS = (paths.EQUITY_PLOT, paths.RANK_IC_PLOT, paths.DECAY_PLOT, paths.QUANTILES_PLOT)


def main() -> None:
    params = load_params()
    rules = Rules(**dict(params.evaluate))
    panel, snapshots = read_panel(paths.CACHE), read_snapshots(paths.GRAPH)
    manifest = read_manifest(paths.RANKER, panel)
    pin_threads(manifest.threads)
    splits = pl.read_csv(paths.CACHE / "splits.csv", try_parse_dates=True)
    fits = [(fold, seed) for fold in folds(splits) for seed in manifest.seeds]
    scores = [
        part
        for fold, seed in tqdm(fits, "score", disable=None)
        for part in score_fold(manifest, paths.RANKER, panel, snapshots, splits, fold, seed)
    ]
    oracle = read_oracle(paths.ORACLE, panel)
    market = Market.of(panel)
    tradable = [role for role in HELD_OUT if follow_in_time(splits, role)]
    report = evaluate_scores(scores, market, rules, tradable, oracle, manifest.threads)
    tables = {
        paths.DAILY: report.daily,
        paths.BREAKDOWN: report.breakdown,
        paths.DECAY: report.decay,
        paths.QUANTILES: report.quantiles,
        paths.DRIFT: report.drift,
        **dict(zip(PLOTS, valid_plots(report, market, rules.primary_horizon), strict=True)),
    }
    with ExitStack() as outputs:  # none replaces its forerunner before all are written
        file = outputs.enter_context(new_file(paths.PREDICTIONS))
        prediction_rows(scores, panel, manifest.architecture["quantiles"]).write_parquet(file)
        for path, table in tables.items():
            file = outputs.enter_context(new_file(path))
            table.with_columns(pl.col(pl.Float64).round(6)).write_csv(file)
        write_json(paths.EVALUATE_METRICS, headline(report.summary, rules.primary_horizon))


if __name__ == "__main__":
    run_program(main, memory="set train.micro_batch or lower model.lookback, and train again")
