"""The day's ranks as a table, a file and a few lines."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from atft.evaluation.facts import QUANTILES, Rules
from atft.panel.store import Panel
from atft.predict.book import Orders
from atft.predict.scores import DayScores
from atft.program import new_file, write_json


def ranks(
    panel: Panel, row: int, scores: DayScores, score: NDArray[np.float32], books: dict[str, Orders]
) -> pl.DataFrame:
    """One row per stock that is ranked or held, the best first.

    `rank` counts from 1, the best; of ties the higher stock number counts as better, as in the books. `quantile` is the
    tenth, 10 the best. Those of stocks that are held and no longer ranked are null.
    """
    known = np.isfinite(score)
    order = np.argsort(np.where(known, score, np.inf), kind="stable")[: known.sum()][::-1]
    place = np.zeros(len(score), int)
    place[order] = np.arange(1, len(order) + 1)
    tenth = np.floor((len(order) - place + 0.5) / max(len(order), 1) * QUANTILES).astype(int) + 1
    columns: dict[str, Any] = {
        "date": pl.Series([panel.dates[row].astype(object)] * len(score), dtype=pl.Date),
        "stock": panel.codes,
        "sector": np.asarray(panel.sector_names)[panel.sector[row]],
        **{f"score_{horizon}": scores.mean[:, h] for h, horizon in enumerate(panel.horizons)},
        "rank": place,
        "quantile": tenth,
    }
    for name, book in books.items():
        columns |= {f"{name}_target": book.target, f"{name}_held": book.held, f"{name}_trade": book.trade}
    table = pl.DataFrame(columns).with_columns(pl.col(pl.Float32, pl.Float64).fill_nan(None))
    table = table.with_columns(
        pl.when(pl.Series(known)).then(pl.col(name)).alias(name) for name in ("rank", "quantile")
    )
    moves = pl.any_horizontal(
        (pl.col(f"{name}_{what}") != 0).fill_null(value=False) for name in books for what in ("held", "trade")
    )
    return table.filter(pl.col("rank").is_not_null() | moves).sort("rank", "stock", nulls_last=True)


def cost_of(book: Orders, cost_bps: float) -> dict[str, float | None]:
    """`turnover`, two-way as a share of the book's capital, and `cost_bps`, what it takes of the capital."""
    turnover = book.turnover
    return {"turnover": turnover, "cost_bps": None if turnover is None else turnover * cost_bps}


def write(file: Path, table: pl.DataFrame, facts: dict[str, Any]) -> None:
    """Put the table into FILE.parquet or FILE.csv and what it rests on into FILE.json."""
    beside = file.with_suffix(".json")
    with new_file(file) as scratch, new_file(beside) as other:
        if file.suffix == ".csv":
            table.write_csv(scratch)
        else:
            table.write_parquet(scratch)
        write_json(other, facts)


def show(table: pl.DataFrame, facts: dict[str, Any], rules: Rules) -> None:
    """The day in short: a table of the best and the worst where somebody looks, lines where a program reads."""
    for warn in facts["warnings"]:
        print(f"warning: {warn['kind']}: {warn['text']}", file=sys.stderr)
    lines = [f"date {facts['date']}, fold {facts['fold']}, seeds {', '.join(map(str, facts['seeds']))}"]
    lines += [f"model {facts['model']}, data {facts['data']}"]
    for name in ("long_short", "long_only"):
        turnover, cost = facts[name]["turnover"], facts[name]["cost_bps"]
        said = "not complete yet" if turnover is None else (
            f"trades {turnover:.4f} of its capital, which costs {cost:.2f} bps of it at {rules.cost_bps:g} bps a side"
        )  # fmt: skip
        lines.append(f"{name.replace('_', '-')} book: {said}")
    if sys.stdout.isatty():
        console = Console()
        ranked = table.filter(pl.col("rank").is_not_null())
        picture = Table("rank", "stock", "sector", f"score_{rules.primary_horizon}", "long-short trade")
        ends = (pl.col("rank") <= 5) | (pl.col("rank") > len(ranked) - 5)
        for line in ranked.filter(ends).iter_rows(named=True):
            trade = line["long_short_trade"]
            score = f"{line[f'score_{rules.primary_horizon}']:.4f}"
            order = "" if trade is None else f"{trade:+.4f}"
            picture.add_row(str(line["rank"]), line["stock"], line["sector"], score, order)
        console.print(picture)
    print("\n".join(lines))
