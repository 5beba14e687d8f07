"""A model judged on a small market, its files as `evaluate` writes them, and its page. Not a test."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from atft.evaluation.market import Market
from atft.evaluation.report import evaluate_scores, headline
from atft.evaluation.series import attention_curve, mean_selection, valid_series
from atft.page.tear_sheet import Results, tear_sheet
from atft.panel.oracle import read_oracle
from atft.program import rounded, write_json
from conftest import World
from evaluation.judged import RULES, parts_of

ROLES = {"stop": (70, 85), "valid": (90, 165), "test": (165, 200)}
EPOCHS = pl.DataFrame({"epoch": [0, 1, 2], "lag_entropy": [0.99, 0.9, 0.8], "attention_entropy_1": [0.97, 0.96, 0.95],
                       "effective_neighbors_1": [8.0, 7.5, 7.0]})  # fmt: skip
SELECTION = pl.DataFrame(
    {"feature": [f"feature_{i}" for i in range(20)], "weight": [(40 - i) / 610 for i in range(20)]}
)


@dataclass(frozen=True)
class Written:
    """The page, and the files that its numbers must equal, by the first part of a key."""

    results: Results
    page: Path
    files: dict[str, Path]


def results_of(world: World, folder: Path) -> Results:
    """A model of random scores and two seeds, judged."""
    file = folder / "oracle.parquet"
    world.market.oracle.write_parquet(file)
    market, rules = Market.of(world.panel), replace(RULES, cost_grid_bps=(0, 5, 10, 20))
    scores = np.random.default_rng(0).normal(size=(2, *market.tradable.shape))
    parts = [part for seed in (0, 1) for part in parts_of(market, scores[seed], ROLES, seed)]
    report = evaluate_scores(parts, market, rules, oracle=read_oracle(file, world.panel))
    series = valid_series(report, market, 5) | {
        "attention": attention_curve(EPOCHS), "selection": mean_selection(SELECTION),
    }  # fmt: skip
    roles = np.full(200, "train", dtype=object)
    roles[50:70] = roles[85:90] = "purged"
    for role, days in ROLES.items():
        roles[slice(*days)] = role
    return Results(
        evaluate=rounded(headline(report.summary, 5)),
        train={
            "model": "atft_gat_fan",
            "fits": [{"fold": 0, "seed": seed, "kept_epoch": 2, "stop_rank_ic": 0.0612} for seed in (0, 1)],
        },
        defects={"rows": 9_551, "stocks": 48, "large_returns_dropped": 3, "absent_prints": {"close": 0, "open": 12}},
        trials={"trials": 3, "deflated_sharpe": 0.412345, "overfitting": None},
        breakdown=six(report.breakdown),
        drift=six(report.drift),
        splits=pl.DataFrame({"fold": [0] * 200, "date": market.dates, "role": roles.astype(str)}),
        series={name: six(table) for name, table in series.items()},
        market="simulated standard 1, 48 x 200",
        settings=dict(vars(rules)),
    )


def six(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col(pl.Float64).round(6))


def write_all(results: Results, folder: Path) -> Written:
    """The files and the page in `folder`."""
    files = {}
    for name in ("evaluate", "train", "defects", "trials"):
        files[name] = folder / f"{name}.json"
        write_json(files[name], getattr(results, name))
    tables = {"breakdown": results.breakdown, "drift": results.drift} | results.series
    for name, table in tables.items():
        files[name] = folder / f"{name}.csv"
        table.write_csv(files[name])
    page = folder / "report.html"
    page.write_text(tear_sheet(results))
    return Written(results, page, files)
