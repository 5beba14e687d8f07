"""The report of a whole backtest: where its time goes, alphalens-style pandas on the same metrics, what sorting costs.

Run: python benchmarks/evaluate.py [--stocks 4000 --days 1250 --slice 64]
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import pandas as pd
import polars as pl
from scipy import stats

from atft.config import load_params
from atft.evaluation import report
from atft.evaluation.facts import DAYS_AT_ONCE, QUANTILES, Role, Rules, Scores, date_facts, stacked
from atft.evaluation.market import Market
from atft.evaluation.portfolio import tranche_book
from atft.evaluation.weights import target_weights
from atft.panel.labels import forward_return
from atft.program import pin_threads
from memory import watched
from timing import best

Frame = Any  # of pandas, whose own types do not know what groupby and apply return

THREADS, SECTORS, FOLDS, STOP, HISTORY, HORIZONS, DELAY = 2, 33, 5, 60, 150, (1, 5, 10, 20), 1
PARTS = {"_drift": "drift", "date_facts": "facts of each date", "book_facts": "books", "_beside": "baselines",
         "summarize": "summary and bootstrap"}  # fmt: skip
METRICS = ("ic", "rank_ic", "sector", "quantile", "neutral_rank_ic", "decay", "marginal", "turnover")


def market_of(stocks: int, days: int) -> Market:
    """Returns to a basis point, so that some tie; 3 % of the bars missing, a tenth listed late or delisted."""
    rng = np.random.default_rng(0)
    dates = HISTORY + days + DELAY + max(HORIZONS)
    sector = np.tile(rng.integers(1, SECTORS + 1, stocks).astype(np.int16), (dates, 1))
    returns = rng.normal(0, 0.01, (dates, 1)) * rng.normal(1, 0.3, stocks)
    returns += rng.normal(0, 0.008, (dates, SECTORS + 1))[:, sector[0]] + rng.normal(0, 0.02, (dates, stocks))
    listed = np.where(rng.random(stocks) < 0.1, rng.integers(0, dates, stocks), 0)
    delisted = np.where(rng.random(stocks) < 0.1, rng.integers(0, dates, stocks), dates)
    day = np.arange(dates)[:, None]
    present = (day >= listed) & (day < delisted) & (rng.random((dates, stocks)) > 0.03)
    returns = np.where(present, returns.round(4), 0).astype(np.float32)
    path = np.log1p(returns.astype(float)).cumsum(0)
    forward = forward_return(path, present, present, day >= delisted, np.zeros_like(present), HORIZONS, DELAY)
    return Market(
        dates=np.datetime64("2015-01-01") + np.arange(dates),
        codes=[f"{i:04d}" for i in range(stocks)],
        horizons=HORIZONS,
        delay=DELAY,
        daily_return=returns,
        has_bar=present,
        can_trade=present,
        tradable=present,
        forward_return=forward,
        label=forward,
        money_traded=np.exp(rng.normal(18, 1, returns.shape)).astype(np.float32),
        sector=sector,
        sector_names=["", *(f"sector {i}" for i in range(1, SECTORS + 1))],
    )


def scores_of(market: Market, days: int) -> list[Scores]:
    """A weak signal on `days` held-out days in `FOLDS` blocks, each with the `STOP` days before it."""
    rng = np.random.default_rng(1)
    edges = HISTORY + np.linspace(0, days, FOLDS + 1).astype(int)
    parts = []
    for fold, (start, end) in enumerate(pairwise(edges)):
        for role, positions in (("stop", np.arange(start - STOP, start)), ("valid", np.arange(start, end))):
            truth = np.nan_to_num(market.forward_return[positions])
            noise = rng.normal(size=truth.shape) + rng.normal(size=truth.shape[1:])
            score = np.where(market.tradable[positions, :, None], truth + noise, np.nan)
            parts.append(Scores(role, fold, 0, positions, score.astype(np.float32)))
    return parts


def evaluated(scores: list[Scores], market: Market, rules: Rules) -> dict[str, float]:
    """Seconds of each part of one whole evaluation and of all, nothing derived of the market beforehand."""
    market, seconds = replace(market), {}

    def clocked(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            start = time.perf_counter()
            out = run(*args)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
            return out

        return timed

    parts: dict[str, Any] = {name: clocked(part, getattr(report, name)) for name, part in PARTS.items()}
    start = time.perf_counter()
    with patch.multiple(report, **parts):
        report.evaluate_scores(scores, market, rules, threads=THREADS)
    whole = time.perf_counter() - start
    return {**seconds, "tables": whole - sum(seconds.values()), "whole": whole}


# --- the metrics alphalens has an equivalent of, by us and by pandas -----------------------------


def by_us(role: Role, market: Market, rules: Rules, threads: int) -> dict[str, np.ndarray]:
    """`METRICS`, [day, horizon, ...]; date_facts also finds precision@N, the label's RankIC and sums of signs."""
    market = replace(market)
    with ThreadPoolExecutor(threads) as pool:
        facts = date_facts(pool, role, market, rules)
        turnover = list(pool.map(lambda h: _turnover(role, market, h, rules), range(len(market.horizons))))
    return {name: values[0] for name, values in facts.items()} | {"turnover": np.stack(turnover, axis=1)}


def _turnover(role: Role, market: Market, h: int, rules: Rules) -> np.ndarray:
    """Of the book reset to its target every day, as alphalens does: weights do not drift, all can be traded."""
    score, horizon = np.ascontiguousarray(role.score[0][:, :, h]), market.horizons[h]
    target = target_weights(score, quantile=rules.quantile, horizon=horizon)
    always, returns = np.ones(score.shape, bool), market.daily_return[role.span]
    return tranche_book(target, returns, always, ~always, horizon, market.delay, drift=False).turnover


def long_frame(role: Role, market: Market) -> Frame:
    """What alphalens calls clean factor data: a row per (date, asset), every forward return a column."""
    days, entry = role.days, role.days + market.delay
    columns = {"sector": market.sector[days], "volatility": market.volatility[days], "beta": market.beta[days]}
    for h, horizon in enumerate(market.horizons):
        columns[f"score_{horizon}"] = role.score[0][:, :, h]
        columns[f"return_{horizon}"] = market.forward_return[days, :, h]
    for lag in range(1, max(market.horizons) + 1):
        known = market.can_trade[entry] & (market.has_bar[entry + lag] | market.gone[entry + lag])
        grown = np.round(market.log_growth[entry + lag] - market.log_growth[entry], 7)
        columns[f"cumulative_{lag}"] = np.where(known, grown, np.nan).astype(np.float32)
        columns[f"marginal_{lag}"] = np.where(known, market.daily_return[entry + lag], np.nan)
    index = pd.MultiIndex.from_product([market.dates[days], market.codes], names=["date", "asset"])
    return pd.DataFrame({name: values.ravel() for name, values in columns.items()}, index)


def by_pandas(frame: Frame, market: Market, rules: Rules) -> dict[str, tuple[float, np.ndarray]]:
    """(seconds, values) of each of `METRICS`, the way of alphalens.performance: groupby the date, then apply."""
    run = {"ic": pearson, "rank_ic": spearman, "sector": spearman_by_sector, "quantile": quantile_means,
           "neutral_rank_ic": spearman_neutral, "decay": decay("cumulative"), "marginal": decay("marginal"),
           "turnover": turnover(market.delay, rules.quantile)}  # fmt: skip
    every = [f"score_{h}" for h in market.horizons]
    found = {}
    for name in METRICS:
        seconds, values = best(2, lambda: [run[name](frame, h, every) for h in market.horizons])  # noqa: B023
        found[name] = seconds, np.stack(values, axis=1)
    return found


def pearson(frame: Frame, horizon: int, _: list[str]) -> np.ndarray:
    pair = frame[[f"score_{horizon}", f"return_{horizon}"]].dropna()
    return pair.groupby("date").apply(lambda group: group.iloc[:, 0].corr(group.iloc[:, 1])).to_numpy()


def information_coefficient(group: Frame, score: str) -> Frame:
    """alphalens.performance.factor_information_coefficient, its src_ic."""
    return group.drop(columns=score).apply(lambda x: stats.spearmanr(x, group[score])[0])


def spearman(frame: Frame, horizon: int, _: list[str]) -> np.ndarray:
    score = f"score_{horizon}"
    pair = frame[[score, f"return_{horizon}"]].dropna()
    return pair.groupby("date").apply(information_coefficient, score).to_numpy()[:, 0]


def spearman_by_sector(frame: Frame, horizon: int, _: list[str]) -> np.ndarray:
    score = f"score_{horizon}"
    pair = frame[[score, f"return_{horizon}", "sector"]].dropna().set_index("sector", append=True)
    groups = pair.groupby(["date", "sector"])
    ic = groups.apply(information_coefficient, score).iloc[:, 0].where(groups.size() >= 5)
    return ic.unstack().reindex(columns=range(SECTORS + 1)).to_numpy()


def quantile_means(frame: Frame, horizon: int, _: list[str]) -> np.ndarray:
    """mean_return_by_quantile; by rank, since the edges of qcut may put a stock one quantile lower than ours."""
    pair = frame[[f"score_{horizon}", f"return_{horizon}"]].dropna()
    by_date = pair.groupby("date")[f"score_{horizon}"]
    number = ((by_date.rank() - 0.5) / by_date.transform("size") * QUANTILES).astype(int).rename("quantile")
    return pair.groupby(["date", number])[f"return_{horizon}"].mean().unstack().to_numpy()


def spearman_neutral(frame: Frame, horizon: int, _: list[str]) -> np.ndarray:
    score, returns = f"score_{horizon}", f"return_{horizon}"

    def one(group: Frame) -> float:
        ranks = group[[score, "volatility", "beta"]].rank()
        ranks -= ranks.groupby(group["sector"]).transform("mean")  # a dummy per sector in lstsq takes ten times as long
        exposures = ranks[["volatility", "beta"]]
        left = ranks[score] - exposures @ np.linalg.lstsq(exposures, ranks[score])[0]
        known = group[returns].notna()
        return float(stats.spearmanr(left[known], group.loc[known, returns])[0])  # pyright: ignore[reportArgumentType]

    known = frame[[score, returns, "volatility", "beta", "sector"]].dropna(subset=[score, "volatility", "beta"])
    return known.groupby("date").apply(one).to_numpy()


def decay(kind: str) -> Callable[..., np.ndarray]:
    def run(frame: Frame, horizon: int, every: list[str]) -> np.ndarray:
        score, lags = f"score_{horizon}", [name for name in frame if name.startswith(kind)]
        known = frame[[*every, *lags]].dropna()[[score, *lags]]
        return known.groupby("date").apply(information_coefficient, score).to_numpy()

    return run


def turnover(delay: int, quantile: float) -> Callable[..., np.ndarray]:
    def run(frame: Frame, horizon: int, _: list[str]) -> np.ndarray:
        by_date = frame[f"score_{horizon}"].groupby("date")
        rank, count = by_date.rank(method="first"), by_date.transform("count")
        side = np.floor(count * quantile + 1e-9)
        weight = ((rank > count - side).astype(float) - (rank <= side)) / (2 * side)
        book = weight.unstack().rolling(horizon, min_periods=1).sum() / horizon
        traded = (book - book.shift(1, fill_value=0.0)).abs().sum(axis=1)
        traded[: horizon - 1] = np.nan
        return traded.shift(delay + 1).to_numpy()

    return run


def sorting(stocks: int, threads: int) -> float:
    """Seconds per value of sorting alone: rows of float32, as many at once as the evaluation takes."""
    rows = np.random.default_rng(2).normal(size=(64 * DAYS_AT_ONCE, stocks)).astype(np.float32)
    parts = [rows[i : i + DAYS_AT_ONCE] for i in range(0, len(rows), DAYS_AT_ONCE)]
    with ThreadPoolExecutor(threads) as pool:
        seconds, _ = best(5, lambda: list(pool.map(lambda part: np.sort(part, axis=1), parts)))
    return seconds / rows.size


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=4000)
    parser.add_argument("--days", type=int, default=1250)
    parser.add_argument("--slice", type=int, default=64, help="days that pandas gets")
    args = parser.parse_args()
    pin_threads(THREADS)
    rules = Rules(**dict(load_params().evaluate))
    market = market_of(args.stocks, args.days)
    scores = scores_of(market, args.days)
    role = stacked("valid", scores)
    few = replace(role, days=role.days[: args.slice], fold=role.fold[: args.slice], score=[role.score[0][: args.slice]])
    scale = args.days / args.slice
    scored = np.isfinite(role.score[0][:, :, 0]).mean()
    print(f"{args.stocks} stocks ({scored:.0%} of them scored) x {args.days} days in {FOLDS} folds "
          f"x horizons {HORIZONS}, {SECTORS} sectors; {THREADS} threads on {os.cpu_count()} cores")  # fmt: skip
    print(f"numpy {np.__version__}, pandas {pd.__version__}, polars {pl.__version__}, load {os.getloadavg()[0]:.2f}; "
          f"fastest of 3, pandas (one thread) of 2 on {args.slice} days, times {scale:.3g}\n")  # fmt: skip

    with watched() as memory:
        whole = min((evaluated(scores, market, rules) for _ in range(3)), key=lambda run: run["whole"])
    same, alone = (best(3, lambda: by_us(role, market, rules, threads))[0] for threads in (THREADS, 1))  # noqa: B023
    theirs = by_pandas(long_frame(few, market), market, rules)
    pandas = scale * sum(seconds for seconds, _ in theirs.values())

    # Each column sorted once. By horizon: the score, its return and what exposures leave of it. Volatility and beta.
    # By lag: the first days' return and the last day's. The whole report adds the labels and the reversal.
    needed = 3 * len(HORIZONS) + 2 + 2 * max(HORIZONS)
    print("| what | seconds | pandas, s | times faster | limit: sorting alone, s | over the limit | peak memory, GiB "
          "|\n|---|---|---|---|---|---|---|")  # fmt: skip
    for what, seconds, sorts, threads, most in (
        ("the whole report; pandas: the metrics below alone", whole["whole"], needed + len(HORIZONS) + 1, THREADS,
         f"{memory[0]:.2f}"),
        ("the metrics below", same, needed, THREADS, ""),
        ("the metrics below, one thread", alone, needed, 1, ""),
    ):  # fmt: skip
        limit = sorts * args.days * args.stocks * sorting(args.stocks, threads)
        print(f"| {what} | {seconds:.2f} | {pandas:.0f} | {pandas / seconds:.0f} | {limit:.2f} ({sorts} sorts a day) "
              f"| {seconds / limit:.1f} | {most} |")  # fmt: skip
    print("\n| part of the whole report | seconds |\n|---|---|")
    for name, seconds in whole.items():
        print(f"| {name} | {seconds:.2f} |")
    ours = by_us(few, market, rules, THREADS)
    print("\n| metric | pandas, s | values compared | largest difference |\n|---|---|---|---|")
    for name, (seconds, values) in theirs.items():
        here = np.isfinite(values)
        assert (here == np.isfinite(ours[name])).all(), name
        print(f"| {name} | {scale * seconds:.1f} | {here.sum()} | {np.abs(ours[name] - values)[here].max():.1e} |")
    print(f"\nload at the end {os.getloadavg()[0]:.2f}")


if __name__ == "__main__":
    main()
