"""What leaked scores look like in the report, and what labels that mean nothing look like on real prices.

A vendor divides all earlier prices by the splits to come, and whoever divides by a maximum over the
whole sample has seen where it lies. Both scores pass for skill. How a reader recognises one:

    It does not fade.    A position entered today earns in week four what it earns in week one: `marginal` of
                         the decay table is about as large at lag 20 as at lag 1, `cumulative` rises to the
                         end, `half_life` is null. What is known today is worth less tomorrow.
    It is free.          A Sharpe ratio of several at a turnover of a few percent, so that `break_even_bps` is
                         in the hundreds and the longest horizon's net Sharpe is about that of the shortest.

Neither alone is proof: a slow honest factor does not fade either, but then it is weak; an honest
strong score is not free. What gives nothing away: the neutral RankIC (the leak is about the stock,
not its sector, beta or volatility), the years and regimes (it works in all), the long-only book, the
capacity (it looks immense). The stability index may or may not rise. And a bare price leaks no more
than its splits: of six simulated markets it was brilliant in four, where the maximum was in all.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atft.evaluation.market import Market
from atft.evaluation.report import Report, evaluate_scores
from atft.graph.edges import EDGE_FEATURES
from atft.graph.snapshots import Snapshots
from atft.panel.simulate import simulate_market
from atft.panel.splits import follow_in_time, make_splits
from atft.panel.store import Panel
from atft.training.predictions import score_fold
from atft.training.rankers import Manifest, fit_ranker
from conftest import REAL_PANELS, build_in, needs_real_panels, panel_of, real_bars
from evaluation.judged import RULES, parts_of

HORIZONS = (1, 5, 20)
WARM_UP = 140  # days before the first that is judged
REAL_DAYS, BEFORE = 400, date(2013, 1, 1)


def early_bars(file: Path, days: int) -> pl.DataFrame:
    """The first `days` dates, all before 2013; skips the test where there are not so many."""
    bars = real_bars(file).filter(pl.col("date") < BEFORE)
    dates = bars["date"].unique().sort()
    if len(dates) < days:
        pytest.skip(f"{file.stem} has {len(dates)} dates before {BEFORE:%Y}, {days} are needed")
    return bars.filter(pl.col("date") < dates[days - 1])


def simulated() -> pl.DataFrame:
    return simulate_market(160, 500, "standard", 1, HORIZONS, 1).bars


SOURCES: list[Any] = [pytest.param(simulated, id="simulated")] + [
    pytest.param(lambda file=file: early_bars(file, 700), id=file.stem) for file in REAL_PANELS
]


@pytest.fixture(scope="module", params=SOURCES)
def judged(request: pytest.FixtureRequest) -> Callable[[str], Report]:
    """Reports of scores by name, on one market."""
    bars = request.param()
    panel = panel_of(bars, ["momentum"], horizons=HORIZONS)
    market = Market.of(panel)
    close = np.full(panel.tradable.shape, np.nan)
    stock = np.searchsorted(np.array(panel.codes), bars["code"].to_numpy().astype(str))
    close[panel.positions(bars["date"]), stock] = bars["close"].to_numpy()
    scores = {
        "low adjusted price": -close,
        "far below its maximum": -close / np.nanmax(close, axis=0),
        "reversal": market.reversal(),
        "low volatility": -market.volatility,
    }
    roles = {"valid": (WARM_UP, len(panel.dates))}
    return cache(lambda name: evaluate_scores(parts_of(market, scores[name], roles), market, RULES))


def fading(report: Report) -> tuple[float, float]:
    """Share of the first day's RankIC that the last week still has, and of the first week's that four have."""
    decay = report.decay.filter(pl.col("horizon") == 5).sort("lag")
    marginal, cumulative = decay["marginal"], decay["cumulative"]
    return marginal[-5:].mean() / marginal[0], cumulative[19] / cumulative[4]


LEAKS = ("low adjusted price", "far below its maximum")


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_looks_brilliant(judged: Callable[[str], Report], leak: str) -> None:
    found = judged(leak).summary["valid", 5]
    assert found["rank_ic_t"] > 3
    assert found["sharpe_net"] > 2
    assert found["probabilistic_sharpe"] > 0.99


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_does_not_fade(judged: Callable[[str], Report], leak: str) -> None:
    report = judged(leak)
    lasting, growing = fading(report)
    assert lasting > 0.5
    assert growing > 1.7
    assert report.summary["valid", 5]["half_life"] is None


@pytest.mark.parametrize("leak", LEAKS)
def test_a_leak_costs_nothing_to_trade(judged: Callable[[str], Report], leak: str) -> None:
    summary = judged(leak).summary
    assert summary["valid", 5]["break_even_bps"] > 150
    assert summary["valid", 20]["turnover"] < 0.05
    assert summary["valid", 20]["sharpe_net"] > 0.8 * summary["valid", 1]["sharpe_net"]


def test_an_honest_score_fades_and_costs(judged: Callable[[str], Report]) -> None:
    report = judged("reversal")
    lasting, growing = fading(report)
    assert report.summary["valid", 5]["rank_ic_t"] > 2
    assert lasting < 0.4
    assert growing < 1.3
    assert 0 < report.summary["valid", 5]["break_even_bps"] < 60
    assert report.summary["valid", 5]["turnover"] > 0.3


def test_a_slow_honest_score_is_weak(judged: Callable[[str], Report]) -> None:
    """It does not fade either, and nothing about it is brilliant."""
    found = judged("low volatility").summary["valid", 5]
    assert found["half_life"] is None
    assert abs(found["rank_ic_t"]) < 2
    assert found["sharpe_net"] < 1


def test_neither_neutrality_nor_years_nor_the_long_book_give_a_leak_away(judged: Callable[[str], Report]) -> None:
    report = judged("far below its maximum")
    found = report.summary["valid", 5]
    assert found["neutral_rank_ic"] > 0.8 * found["rank_ic"]
    assert found["neutral_rank_ic_t"] > 5
    assert found["long_only"]["excess_sharpe_net"] > 2
    assert found["capacity_half"] > 1e9
    years = report.breakdown.filter((pl.col("horizon") == 5) & (pl.col("kind") == "year"))
    assert (years["rank_ic"] > 0).all()


# --- labels that mean nothing, on real prices -----------------------------------------------------


@pytest.fixture(params=REAL_PANELS, ids=lambda file: file.stem)
def shuffled(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Panel, Panel, pl.DataFrame]:
    """A real panel, the same with the labels of each date dealt out anew among its stocks, and walk-forward splits."""
    families = ["momentum", "shape", "volatility", "volume", "relative", "market"]
    panel, built = build_in(tmp_path, early_bars(request.param, REAL_DAYS), families)
    label, forward = panel.label.copy(), panel.forward_return.copy()
    rng = np.random.default_rng(0)
    for day in range(len(panel.dates)):
        known = np.flatnonzero(np.isfinite(forward[day]).all(1))
        dealt = rng.permutation(known)
        label[day, known], forward[day, known] = panel.label[day, dealt], panel.forward_return[day, dealt]
    dates = panel.dates.astype(object).tolist()
    splits = make_splits(dates, built.first, "expanding", 2, 1, 60, 30, 6, 60, 250, 0, 1)
    return panel, replace(panel, label=label, forward_return=forward), splits


@needs_real_panels
def test_shuffled_labels_of_real_stocks_teach_nothing_and_earn_nothing(
    shuffled: tuple[Panel, Panel, pl.DataFrame], tmp_path: Path
) -> None:
    """Ridge, walk-forward, from the panel to the report: no RankIC beyond its band, no net Sharpe above 0."""
    true, dealt, splits = shuffled
    nobody = Snapshots(
        len(true.codes), np.empty(0, np.int64), np.zeros(1, np.int64), np.empty((2, 0), np.int64),
        np.empty((0, len(EDGE_FEATURES)), np.float32),
    )  # fmt: skip
    settings = {"neighbor_means": False, "ridge_alphas": [100.0, 10_000.0]}
    manifest = Manifest("ridge", [0], 1, true.feature_names, true.horizons, {}, settings)
    scores = []
    for fold in range(3):
        fit_ranker(manifest, tmp_path, tmp_path, dealt, nobody, splits, fold, 0)
        scores += score_fold(manifest, tmp_path, dealt, nobody, splits, fold, 0)
    assert all(follow_in_time(splits, role) for role in ("valid", "test"))
    report = evaluate_scores(scores, Market.of(dealt), RULES)
    for (role, horizon), found in report.summary.items():
        assert found["rank_ic_low"] < 0 < found["rank_ic_high"], (role, horizon)
        assert abs(found["rank_ic_t"]) < 3, (role, horizon)
        assert found["sharpe_net_low"] < 0, (role, horizon)
        assert found["probabilistic_sharpe"] < 0.99, (role, horizon)
