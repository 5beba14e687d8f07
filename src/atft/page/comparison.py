"""A verdict as a page: what changed, by how much, and whether it was more than luck."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from atft.evaluation.verdict import Difference, Trial, over_seeds, worse
from atft.evaluation.verdict_page import Entry, as_json, facts, numbers, summary
from atft.page.render import chart, render


@dataclass(frozen=True)
class Row:
    """One number's difference; `number` is what defines it.

    `low`, `value` and `high` are places on an axis from 0 to 100 with no change at 50.
    """

    name: str
    number: str
    key: str
    mark: str
    low: float
    value: float
    high: float


def comparison(entries: Sequence[Entry]) -> str:
    """The verdicts on one base as HTML, a function of the entries alone."""
    charts: dict[str, Any] = {}
    sections = []
    for place, entry in enumerate(entries):
        candidate = entry.judgement.candidate
        if candidate.failed is None:
            charts |= {f"{name}_{place}": one for name, one in _charts(entry.base, candidate).items()}
        sections.append(
            {
                "entry": entry,
                "place": place,
                "summary": summary(entry),
                "facts": facts(entry),
                "rows": [_row(place, entry.base.horizon, *item) for item in numbers(entry)],
            }
        )
    sources = {"verdict": [as_json(entry) for entry in entries]}
    return render("comparison.html", sources, charts, base=entries[0].base, sections=sections)


def _row(place: int, horizon: int, name: str, difference: Difference) -> Row:
    low, high = difference.interval()
    scale = 50 / max(abs(low), abs(high), 1e-12)
    primary = name.startswith("rank_ic (")
    key = f"verdict.{place}.rank_ic" if primary else f"verdict.{place}.guards.{name}"
    mark = {None: "", True: "worse", False: "better"}[worse(name, difference)]
    places = (round(50 + scale * x, 2) for x in (low, difference.value, high))
    return Row(f"RankIC, {horizon} days" if primary else name, "rank_ic" if primary else name, key, mark, *places)


def _charts(base: Trial, candidate: Trial) -> dict[str, Any]:
    """Both, where both have a value: RankIC summed, net growth, and the RankIC's difference summed."""
    ic, net = _paired(base, candidate, "rank_ic"), _paired(base, candidate, "net")
    both = [
        {"column": "base", "label": base.name, "color": 0, "dash": True},
        {"column": "candidate", "label": candidate.name, "color": 1},
    ]
    summed = ic.with_columns(pl.col("base", "candidate").cum_sum())
    ahead = summed.select("date", ahead=pl.col("candidate") - pl.col("base"))
    grown = net.with_columns((pl.col("base", "candidate") + 1).cum_prod())
    return {
        "rank_ic": chart(_six(summed), "date", both, "ratio"),
        "ahead": chart(_six(ahead), "date", [{"column": "ahead", "label": "candidate less base", "color": 3}], "ratio"),
        "net": chart(_six(grown), "date", both, "ic", zero=False),
    }


def _paired(base: Trial, candidate: Trial, name: str) -> pl.DataFrame:
    """`date, base, candidate`, means over seeds, on the days on which both have the number."""
    one, other = (
        over_seeds(trial, name).select("date", pl.col(name).alias(column))
        for trial, column in ((base, "base"), (candidate, "candidate"))
    )
    return one.join(other, on="date", how="inner").drop_nulls().sort("date")


def _six(table: pl.DataFrame) -> pl.DataFrame:
    return table.with_columns(pl.col(pl.Float64).round(6))
