"""The page that `evaluate` writes: is it any good, where does it earn, what does it cost, can it be believed?"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import polars as pl

from atft.evaluation.drift import ALARM
from atft.evaluation.market import REGIMES
from atft.page.render import chart, render

NAMES = {
    "atft_gat_fan": "ATFT-GAT-FAN",
    "ridge": "Ridge",
    "lightgbm": "LightGBM",
    "reversal": "Reversal (as a model)",
}
MOST_FEATURES = 15
CONVINCING_T = 1.96  # asked beside the interval, which on a short sample covers less than it says
ENOUGH = 0.95  # probability that a Deflated Sharpe ratio must reach to count as more than luck


@dataclass(frozen=True)
class Results:
    """All that stands on the page; numbers as the files hold them, rounded.

    Attributes:
        evaluate, train, defects: Contents of `metrics/evaluate.json`, `metrics/train.json`, `data/cache/report.json`.
        trials: `trials, deflated_sharpe, overfitting` of the ledger for this market.
        breakdown, drift, splits: The tables of the same names.
        series: `atft.evaluation.series.valid_series`, and `attention`, `selection`.
        market: What was traded; settings: section evaluate of `params.yaml`.
    """

    evaluate: Mapping[str, Any]
    train: Mapping[str, Any]
    defects: Mapping[str, Any]
    trials: Mapping[str, Any]
    breakdown: pl.DataFrame
    drift: pl.DataFrame
    splits: pl.DataFrame
    series: Mapping[str, pl.DataFrame]
    market: str
    settings: Mapping[str, Any]


def tear_sheet(results: Results) -> str:
    """The page as HTML, a function of the results alone.

    `valid` is what the page is about. The test blocks, where they are open, stand folded away at its end, in
    the same small table, without a chart: they are for when all is decided.
    """
    horizon = results.settings["primary_horizon"]
    breakdown, drift = (table.to_dicts() for table in (results.breakdown, results.drift))
    sources = {
        "evaluate": results.evaluate,
        "train": results.train,
        "defects": results.defects,
        "trials": results.trials,
        "breakdown": breakdown,
        "drift": drift,
        "selection": results.series["selection"].to_dicts(),
    }
    valid = results.evaluate["valid"]
    return render(
        "tear_sheet.html",
        sources,
        charts_of(results.series, valid, results.settings),
        ranker=NAMES[results.train["model"]],
        market=results.market,
        horizon=horizon,
        horizons=sorted(int(name[1:]) for name in results.evaluate["horizons"]),
        settings=results.settings,
        tests="test" in results.evaluate,
        checks=checks(valid, results.trials),
        groups=[
            (kind, [(i, row["group"]) for i, row in enumerate(breakdown) if _is(row, "valid", horizon, kind)])
            for kind in ("year", "volatility", "correlation", "sector")
        ],
        parts=sorted(name.removeprefix("sees_") for name in valid if name.startswith("sees_")),
        heat=heat_map(drift),
        calendar=calendar(results.splits),
        span=(str(results.splits["date"].min()), str(results.splits["date"].max())),
        features=min(MOST_FEATURES, len(results.series["selection"])),
        all_features=len(results.series["selection"]),
        defects=[(key, name) for key, name in DEFECTS.items() if key in results.defects],
        absent=sorted(results.defects.get("absent_prints", {})),
    )


DEFECTS = {
    "rows": "rows read",
    "stocks": "stocks",
    "tradable_stock_days": "stock-days ranked",
    "missing_bars_while_listed": "bars missing while listed",
    "large_returns_dropped": "impossible price changes dropped",
    "large_returns_believed": "large price changes believed",
    "zero_volumes": "bars with a volume of 0",
    "halted_or_locked": "halted, or locked at a price limit",
    "adjustment_factors_applied": "splits applied",
}


def _is(row: Mapping[str, Any], role: str, horizon: int, kind: str) -> bool:
    return (row["role"], row["horizon"], row["kind"]) == (role, horizon, kind)


# --- whether to believe it -----------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """A question with its answer (None: cannot be told) and the numbers behind it as a sentence with {keys}."""

    question: str
    answer: bool | None
    because: str


def checks(valid: Mapping[str, Any], trials: Mapping[str, Any]) -> list[Check]:
    """What a sceptic asks of the valid blocks, answered by interval and t, never by the point."""
    e = "evaluate.valid."
    return [
        Check(
            "Does it rank better than chance?",
            _both(_above(valid["rank_ic_low"], 0.0), _above(valid["rank_ic_t"], CONVINCING_T)),
            f"RankIC's 95 % interval is {{{e}rank_ic_low}} to {{{e}rank_ic_high}}, its t {{{e}rank_ic_t}}.",
        ),
        Check(
            "Better than reversal, which needs no model?",
            _above(valid["over_reversal_rank_ic_t"], CONVINCING_T),
            f"On the same days its RankIC differs from reversal's by {{{e}over_reversal_rank_ic}}, "
            f"with a t of {{{e}over_reversal_rank_ic_t}}.",
        ),
        Check(
            "Does it know more than volatility, beta and sector?",
            _both(_above(valid["neutral_rank_ic_low"], 0.0), _above(valid["neutral_rank_ic_t"], CONVINCING_T)),
            f"The neutral RankIC's interval is {{{e}neutral_rank_ic_low}} to {{{e}neutral_rank_ic_high}}, "
            f"its t {{{e}neutral_rank_ic_t}}.",
        ),
        Check(
            "Does it earn after costs?",
            _above(valid["sharpe_net_low"], 0.0),
            f"The net Sharpe's 95 % interval is {{{e}sharpe_net_low}} to {{{e}sharpe_net_high}}.",
        ),
        Check(
            "Is the record long enough?",
            None if valid["sharpe_net"] is None else _above(valid["days"], valid["minimum_track_record"], absent=False),
            f"It has {{{e}days}} days; a Sharpe of this size needs {{{e}minimum_track_record}}.",
        ),
        Check(
            "More than the luck of many tries?",
            _above(trials["deflated_sharpe"], ENOUGH),
            "Deflated Sharpe {trials.deflated_sharpe} after {trials.trials} trials on this market "
            "(95 % would convince); probability of overfitting {trials.overfitting}.",
        ),
        Check(
            "Do its scores look as they did in training?",
            None if valid["psi_alerts"] is None else valid["psi_alerts"] == 0,
            f"Fits whose scores have moved: {{{e}psi_alerts}}; the largest PSI is {{{e}psi_worst}}.",
        ),
    ]


def _both(one: bool | None, other: bool | None) -> bool | None:
    return None if one is None or other is None else one and other


def _above(value: float | None, bar: float | None, *, absent: bool | None = None) -> bool | None:
    """Whether value > bar; `absent` where there is no bar, None where there is no value."""
    if value is None:
        return None
    return absent if bar is None else value > bar


# --- drawn in HTML -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """A run of days of one role; `start` and `width` in percent of the calendar."""

    role: str
    start: float
    width: float
    first: str
    last: str
    days: int


def calendar(splits: pl.DataFrame) -> list[tuple[int, list[Span]]]:
    """For each fold the runs of days that trained, were purged, stopped training, or were held out."""
    dates = splits["date"].unique().sort().to_list()
    place = {date: i for i, date in enumerate(dates)}
    folds = []
    for fold in splits["fold"].unique().sort():
        rows = splits.filter(pl.col("fold") == fold).sort("date").select("date", "role").rows()
        spans = []
        # A run ends where the role changes or a day of the calendar is not this fold's.
        numbered = [(date, role, place[date] - i) for i, (date, role) in enumerate(rows)]
        for (role, _), run in groupby(numbered, key=lambda row: row[1:]):
            days = [date for date, *_ in run]
            start = round(100 * place[days[0]] / len(dates), 3)
            width = round(100 * len(days) / len(dates), 3)
            spans.append(Span(role, start, width, str(days[0]), str(days[-1]), len(days)))
        folds.append((fold, spans))
    return folds


def heat_map(drift: list[dict[str, Any]]) -> dict[str, list[tuple[str, list[dict[str, Any]]]]]:
    """Role -> rows (fold, seed) of cells by horizon: index into the table, shade 0 to 1, whether it moved."""
    out: dict[str, list[tuple[str, list[dict[str, Any]]]]] = {}
    numbered = sorted(enumerate(drift), key=lambda item: [item[1][key] for key in ("role", "fold", "seed", "horizon")])
    for (role, fold, seed), cells in groupby(
        numbered, key=lambda item: tuple(item[1][k] for k in ("role", "fold", "seed"))
    ):
        row = [
            {
                "at": i,
                "horizon": cell["horizon"],
                "moved": cell["moved"],
                "shade": round(min((cell["psi"] or 0) / ALARM, 1), 3),
            }
            for i, cell in cells
        ]
        out.setdefault(role, []).append((f"fold {fold}, seed {seed}", row))
    return out


# --- drawn by the script -------------------------------------------------------------------------


def charts_of(
    series: Mapping[str, pl.DataFrame], valid: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Every chart by name; None where its table says nothing."""
    market = {"column": "market", "label": "market", "color": 0, "dash": True}
    net, gross = {"column": "net", "label": "net", "color": 1}, {"column": "gross", "label": "gross", "color": 2}
    pace = series["rank_ic"].with_columns(
        reversal=pl.lit(valid["reversal_rank_ic"], pl.Float64) * pl.int_range(1, pl.len() + 1)
    )
    return {
        "equity": chart(series["equity"], "date", [net, gross, market], "ratio", zero=False),
        "drawdown": chart(series["drawdown"], "date", [net, gross, market], "percent"),
        "regimes": chart(
            series["regimes"],
            "date",
            [
                {"column": kind, "label": kind, "color": color, "kind": "state", "states": REGIMES[kind]}
                for kind, color in (("volatility", 2), ("correlation", 1))
            ],
            "count",
        ),
        "rank_ic": chart(
            pace.with_columns(pl.col("reversal").round(6)),
            "date",
            [
                {"column": "cumulative", "label": "cumulative RankIC", "color": 1},
                {"column": "reversal", "label": "reversal's mean pace", "color": 0, "dash": True},
            ],
            "ratio",
        ),
        "rolling_rank_ic": chart(
            series["rolling_rank_ic"],
            "date",
            [
                {"column": "mean", "label": "mean of 60 days", "color": 1},
                {"column": "low", "label": "95 % from", "color": 1, "kind": "band"},
                {"column": "high", "label": "to", "color": 1, "kind": "edge"},
            ],
            "ic",
        ),
        "quantiles": chart(
            series["quantiles"],
            "quantile",
            [{"column": "excess", "label": "mean forward return less all stocks'", "color": 1, "kind": "bars"}],
            "percent2",
        ),
        "decay": chart(
            series["decay"],
            "lag",
            [
                {"column": "marginal", "label": "the k-th day alone", "color": 3, "kind": "bars"},
                {"column": "cumulative", "label": "the first k days", "color": 1},
            ],
            "ic",
        ),
        "costs": chart(
            series["costs"].with_columns(
                reversal=pl.when(pl.col("bps") == 0)
                .then(pl.lit(valid.get("reversal_sharpe"), pl.Float64))
                .when(pl.col("bps") == settings["cost_bps"])
                .then(pl.lit(valid.get("reversal_sharpe_net"), pl.Float64))
            ),
            "bps",
            [
                {"column": "sharpe_net", "label": "net Sharpe", "color": 1, "kind": "points"},
                {"column": "reversal", "label": "reversal's", "color": 0, "dash": True, "kind": "points"},
            ],
            "ratio",
            idle=int((series["costs"]["bps"] <= settings["cost_bps"]).sum()) - 1,
        ),
        "turnover": chart(
            series["book"], "date", [{"column": "turnover", "label": "turnover a day", "color": 2}], "share"
        ),
        "exposures": chart(
            series["book"],
            "date",
            [
                {"column": "beta_held", "label": "beta", "color": 1},
                {"column": "sector_exposure", "label": "largest sector", "color": 4},
            ],
            "ratio",
        ),
        "attention": chart(
            series["attention"],
            "epoch",
            [
                {"column": "lag_entropy", "label": "over the window's days", "color": 1, "kind": "points"},
                {"column": "attention_entropy", "label": "over neighbours", "color": 3, "kind": "points"},
            ],
            "ic",
            zero=False,
        ),
        "neighbors": chart(
            series["attention"],
            "epoch",
            [{"column": "effective_neighbors", "label": "effective neighbours", "color": 3, "kind": "points"}],
            "ratio",
        ),
    }  # fmt: skip
