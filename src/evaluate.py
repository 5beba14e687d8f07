"""Stage 5: score the held-out dates and judge the scores as a portfolio manager would."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from atft import paths
from atft.config import load_params
from atft.evaluation.facts import Rules
from atft.evaluation.ledger import trials_behind
from atft.evaluation.market import Market
from atft.evaluation.report import HELD_OUT, evaluate_scores, headline
from atft.evaluation.series import attention_curve, mean_selection, valid_series
from atft.evaluation.verdict import Trial, market_name
from atft.graph.snapshots import read_snapshots
from atft.page.tear_sheet import Results, tear_sheet
from atft.panel.oracle import read_oracle
from atft.panel.splits import follow_in_time
from atft.panel.store import folds, read_panel, read_splits
from atft.program import new_file, pin_threads, rounded, run_program, write_json
from atft.training.predictions import prediction_rows, score_fold
from atft.training.rankers import read_manifest

PLOTS = {
    "equity": paths.EQUITY_PLOT, "drawdown": paths.DRAWDOWN_PLOT, "rank_ic": paths.RANK_IC_PLOT,
    "rolling_rank_ic": paths.ROLLING_RANK_IC_PLOT, "decay": paths.DECAY_PLOT, "quantiles": paths.QUANTILES_PLOT,
    "costs": paths.COSTS_PLOT, "book": paths.BOOK_PLOT, "regimes": paths.REGIMES_PLOT,
    "attention": paths.ATTENTION_PLOT, "selection": paths.SELECTION_PLOT,
}  # fmt: skip


def main() -> None:
    params = load_params()
    rules = Rules(**dict(params.evaluate))
    panel, snapshots = read_panel(paths.CACHE), read_snapshots(paths.GRAPH)
    manifest = read_manifest(paths.RANKER, panel)
    pin_threads(manifest.threads)
    splits = read_splits(paths.CACHE)
    fits = [(fold, seed) for fold in folds(splits) for seed in manifest.seeds]
    scores = [
        part
        for fold, seed in tqdm(fits, "score", disable=None)
        for part in score_fold(manifest, paths.RANKER, panel, snapshots, splits, fold, seed)
    ]
    market = Market.of(panel)
    tradable = [role for role in HELD_OUT if follow_in_time(splits, role)]
    report = evaluate_scores(scores, market, rules, tradable, read_oracle(paths.ORACLE, panel), manifest.threads)
    series = valid_series(report, market, rules.primary_horizon) | {
        "attention": attention_curve(pl.read_csv(paths.TRAIN_EPOCHS)),
        "selection": mean_selection(pl.read_csv(paths.SELECTION)),
    }
    tables = {
        paths.DAILY: report.daily,
        paths.BREAKDOWN: report.breakdown,
        paths.DECAY: report.decay,
        paths.QUANTILES: report.quantiles,
        paths.DRIFT: report.drift,
        **{PLOTS[name]: table for name, table in series.items()},
    }
    tables = {path: table.with_columns(pl.col(pl.Float64).round(6)) for path, table in tables.items()}
    numbers = rounded(headline(report.summary, rules.primary_horizon))
    page = page_of(tables, numbers, splits, market_name(params.data.model_dump()), dict(params.evaluate))
    with ExitStack() as outputs:  # none replaces its forerunner before all are written
        file = outputs.enter_context(new_file(paths.PREDICTIONS))
        prediction_rows(scores, panel, manifest.architecture["quantiles"]).write_parquet(file)
        for path, table in tables.items():
            table.write_csv(outputs.enter_context(new_file(path)))
        outputs.enter_context(new_file(paths.PAGE)).write_text(page)
        write_json(outputs.enter_context(new_file(paths.EVALUATE_METRICS)), numbers)


def page_of(
    tables: dict[Path, pl.DataFrame],
    numbers: dict[str, Any],
    splits: pl.DataFrame,
    market: str,
    settings: dict[str, Any],
) -> str:
    """The page, from what the other files hold."""
    valid = tables[paths.DAILY].filter(pl.col("role") == "valid").with_columns(pl.col("date").cast(pl.Date))
    trial = Trial("this", "workspace", market, settings["primary_horizon"], valid, {})
    return tear_sheet(
        Results(
            evaluate=numbers,
            train=json.loads(paths.TRAIN_METRICS.read_text()),
            defects=json.loads((paths.CACHE / "report.json").read_text()),
            trials=rounded(trials_behind(paths.LEDGER, trial)),
            breakdown=tables[paths.BREAKDOWN],
            drift=tables[paths.DRIFT],
            splits=splits,
            series={name: tables[path] for name, path in PLOTS.items()},
            market=market,
            settings=settings,
        )
    )


if __name__ == "__main__":
    run_program(main, memory="set train.micro_batch or lower model.lookback, and train again")
