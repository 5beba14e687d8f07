"""From predictions to the headline: every number with its baseline beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.evaluation.metrics import (
    daily_ic,
    default_lags,
    information_ratio,
    max_drawdown,
    newey_west_t,
    population_stability,
    sharpe,
)
from atft.evaluation.portfolio import Book, long_short_weights, tranche_book

KEYS = ("role", "horizon", "seed", "fold", "date")
HELD_OUT = ("valid", "test")


@dataclass(frozen=True)
class Market:
    """The returns a portfolio could have had: [day, stock] arrays of the panel, and its calendar."""

    dates: NDArray[np.datetime64]
    codes: Sequence[str]
    daily_return: NDArray[np.float64]
    has_bar: NDArray[np.bool_]
    can_trade: NDArray[np.bool_]
    tradable: NDArray[np.bool_]
    delay: int

    def equal_weight(self) -> NDArray[np.float64]:
        """Daily return of all stocks tradable the day before, equally weighted; no costs. [day]"""
        held = np.vstack([np.zeros_like(self.tradable[:1]), self.tradable[:-1]])
        count = held.sum(1)
        total = np.where(held, self.daily_return, 0.0).sum(1)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    def gone(self) -> NDArray[np.bool_]:
        """[day, stock] the last bar was printed before the day."""
        days = np.arange(len(self.dates))[:, None]
        return days > np.where(self.has_bar, days, -1).max(0)

    def reversal(self, days: int = 5) -> NDArray[np.float64]:
        """Minus the trailing `days`-day log return: the baseline that needs no model. [day, stock]"""
        path = np.log1p(np.maximum(self.daily_return, -0.9999)).cumsum(0)
        return -(path - np.vstack([np.zeros((days, path.shape[1])), path[:-days]]))


def evaluate_scores(
    scored: pl.DataFrame, market: Market, quantile: float, cost_bps: float, periods_per_year: int, psi_bins: int
) -> tuple[pl.DataFrame, dict[tuple[str, int], dict[str, Any]]]:
    """Daily series and summary of one model's scores.

    Args:
        scored: `role, horizon, seed, fold, date, code, score, forward_return`; roles valid, test
            and stop, the last as the reference of the stability index alone. Where a `label` is
            there as well, the RankIC with it is reported beside the one with the raw return.

    Returns:
        Daily `role, horizon, seed, fold, date, rank_ic, ic, gross, net, turnover`, and the summary
        by (role, horizon): means over seeds of each seed's number.
    """
    held_out = scored.filter(pl.col("role").is_in(HELD_OUT))
    # Every scored date stays, also the last ones, whose labels are not known yet: the book earns on them.
    dates = held_out.select(KEYS).unique().join(daily_ic(held_out, KEYS), on=KEYS, how="left")
    if "label" in held_out.columns:
        fitted = daily_ic(held_out.with_columns(forward_return="label"), KEYS)
        dates = dates.join(fitted.select(*KEYS, label_rank_ic="rank_ic"), on=KEYS, how="left")
    books = [
        _daily_book(group, market, quantile, cost_bps, int(group["horizon"][0]))
        for _, group in held_out.group_by("role", "horizon", "seed", maintain_order=True)
    ]
    daily = dates.join(pl.concat(books), on=["role", "horizon", "seed", "date"], how="left").sort(KEYS)
    drift = _stability(scored, psi_bins)
    summary = {}
    for (role, horizon), group in daily.group_by("role", "horizon", maintain_order=True):
        psi = drift.filter((pl.col("role") == role) & (pl.col("horizon") == horizon))["psi"]
        facts = _summary(group, int(str(horizon)), periods_per_year)
        summary[str(role), int(str(horizon))] = facts | {"psi": psi.mean(), "psi_worst": psi.max()}
    return daily, summary


def _daily_book(group: pl.DataFrame, market: Market, quantile: float, cost_bps: float, horizon: int) -> pl.DataFrame:
    """The portfolio of one (role, horizon, seed): its blocks follow each other, so the book runs through."""
    days = np.searchsorted(market.dates, group["date"].to_numpy().astype("datetime64[D]"))
    first, last = int(days.min()), int(days.max())
    score = np.full((last - first + 1, len(market.codes)), np.nan)
    stock = np.searchsorted(np.asarray(market.codes), group["code"].to_numpy().astype(str))
    score[days - first, stock] = group["score"].to_numpy()
    span = slice(first, last + 1)
    target = np.array([long_short_weights(row, quantile) for row in score])
    returns, gone = market.daily_return[span], market.gone()[span]
    book: Book = tranche_book(target, returns, market.can_trade[span], gone, horizon, market.delay)
    return pl.DataFrame(
        {
            "date": market.dates[span],
            "gross": book.gross,
            "net": book.net(cost_bps),
            "turnover": book.turnover,
        }
    ).with_columns(
        pl.col("gross", "net", "turnover").fill_nan(None),
        role=pl.lit(group["role"][0]),
        horizon=pl.lit(group["horizon"][0], group["horizon"].dtype),
        seed=pl.lit(group["seed"][0], group["seed"].dtype),
    )


def _summary(daily: pl.DataFrame, horizon: int, periods_per_year: int) -> dict[str, Any]:
    by_seed = [group for _, group in daily.group_by("seed", maintain_order=True)]
    averaged = daily.group_by("date", maintain_order=True).agg(pl.col("rank_ic").mean()).sort("date")["rank_ic"]
    per_seed = [
        {
            "rank_ic": seed["rank_ic"].mean(),
            **({"label_rank_ic": seed["label_rank_ic"].mean()} if "label_rank_ic" in seed.columns else {}),
            "ic": seed["ic"].mean(),
            "icir": information_ratio(_array(seed["rank_ic"])),
            "sharpe": sharpe(_array(seed["gross"]), periods_per_year),
            "sharpe_net": sharpe(_array(seed["net"]), periods_per_year),
            "turnover": seed["turnover"].mean(),
            "max_drawdown": max_drawdown(_array(seed["net"])),
        }
        for seed in by_seed
    ]
    mean = {name: _mean([numbers[name] for numbers in per_seed]) for name in per_seed[0]}
    lags = default_lags(int(averaged.count()), horizon)
    return mean | {
        "rank_ic_t": newey_west_t(_array(averaged), lags),
        "rank_ic_seed_std": float(np.std([s["rank_ic"] for s in per_seed], ddof=1)) if len(per_seed) > 1 else None,
        "seeds": len(per_seed),
        "days": int(averaged.count()),
        "from": str(daily["date"].min()),
        "to": str(daily["date"].max()),
        "stocks_per_day": daily["stocks"].mean(),
    }


def _stability(scored: pl.DataFrame, bins: int) -> pl.DataFrame:
    """`psi` of held-out scores against the same model's `stop` scores, per role, horizon, seed and fold."""
    rows = []
    for (horizon, seed, fold), group in scored.group_by("horizon", "seed", "fold", maintain_order=True):
        reference = group.filter(pl.col("role") == "stop")["score"]
        for role in HELD_OUT:
            current = group.filter(pl.col("role") == role)["score"]
            if len(current):
                rows.append((role, horizon, seed, fold, population_stability(reference, current, bins)))
    schema = {"role": pl.String, "horizon": pl.Int64, "seed": pl.Int64, "fold": pl.Int64, "psi": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def beside(
    scored: pl.DataFrame, market: Market, oracle: pl.DataFrame, quantile: float, cost_bps: float, periods_per_year: int
) -> dict[tuple[str, int], dict[str, Any]]:
    """Baselines for each (role, horizon): reversal, the equal-weight market and, where known, the oracle.

    `oracle_rank_ic` is the RankIC of the true expected return; `sees_PART` is the mean daily rank
    correlation of the score with the expectation of one planted part.
    """
    frame = scored.filter(pl.col("role").is_in(HELD_OUT))
    once = frame.filter(pl.col("seed") == pl.col("seed").min())
    score = market.reversal()
    day = np.searchsorted(market.dates, once["date"].to_numpy().astype("datetime64[D]"))
    stock = np.searchsorted(np.asarray(market.codes), once["code"].to_numpy().astype(str))
    reversal = once.drop("label", strict=False).with_columns(score=pl.Series(score[day, stock]))
    daily, _ = evaluate_scores(reversal, market, quantile, cost_bps, periods_per_year, 10)
    whole = market.equal_weight()
    out: dict[tuple[str, int], dict[str, Any]] = {}
    for (role, horizon), group in daily.group_by("role", "horizon", maintain_order=True):
        days = np.isin(market.dates, group["date"].to_numpy().astype("datetime64[D]"))
        out[str(role), int(str(horizon))] = {
            "reversal_rank_ic": group["rank_ic"].mean(),
            "reversal_sharpe_net": sharpe(_array(group["net"]), periods_per_year),
            "market_sharpe": sharpe(whole[days], periods_per_year),
        }
    if oracle.is_empty():
        return out
    parts = [name for name in oracle.columns if name not in ("date", "code", "horizon")]
    known = oracle.with_columns(total=pl.sum_horizontal(pl.col(parts).cast(pl.Float64)))
    joined = frame.join(known, on=["date", "code", "horizon"], how="left")
    foresight = daily_ic(joined.with_columns(score="total"), KEYS)
    sight = {part: daily_ic(joined.with_columns(forward_return=part), KEYS) for part in parts}
    for role, horizon in out:
        here = (pl.col("role") == role) & (pl.col("horizon") == horizon)
        out[role, horizon]["oracle_rank_ic"] = foresight.filter(here)["rank_ic"].mean()
        out[role, horizon] |= {f"sees_{part}": sight[part].filter(here)["rank_ic"].mean() for part in parts}
    return out


def headline(
    summary: Mapping[tuple[str, int], Mapping[str, Any]],
    baselines: Mapping[tuple[str, int], Mapping[str, Any]],
    primary_horizon: int,
) -> dict[str, Any]:
    """`metrics/evaluate.json`: the primary horizon under its role, every horizon under `horizons`."""
    merged: dict[tuple[str, int], dict[str, Any]] = {}
    for key, numbers in summary.items():
        merged[key] = {**numbers, **baselines[key]}
        oracle = merged[key].get("oracle_rank_ic")
        if oracle is not None:
            merged[key]["captured_share"] = merged[key]["rank_ic"] / oracle if oracle > 0 else None
    out: dict[str, Any] = {
        role: merged[role, primary_horizon] for role in HELD_OUT if (role, primary_horizon) in merged
    }
    out["horizons"] = {
        f"h{horizon}": {role: merged[role, horizon] for role in HELD_OUT if (role, horizon) in merged}
        for horizon in sorted({horizon for _, horizon in merged})
    }
    return out


def equity(daily: pl.DataFrame, market: Market, primary_horizon: int, role: str) -> pl.DataFrame:
    """`date, gross, net, market`: growth of 1 over the role's days, mean over seeds."""
    rows = daily.filter((pl.col("role") == role) & (pl.col("horizon") == primary_horizon))
    mean = rows.group_by("date", maintain_order=True).agg(pl.col("gross", "net").mean()).sort("date").drop_nulls()
    at = np.searchsorted(market.dates, mean["date"].to_numpy().astype("datetime64[D]"))
    mean = mean.with_columns(market=pl.Series(market.equal_weight()[at]))
    return mean.select("date", (pl.col("gross", "net", "market") + 1).cum_prod().round(6))


def cumulative_rank_ic(daily: pl.DataFrame, primary_horizon: int, role: str) -> pl.DataFrame:
    """`date, rank_ic, cumulative`: the role's daily RankIC, mean over seeds, and its running sum."""
    rows = daily.filter((pl.col("role") == role) & (pl.col("horizon") == primary_horizon))
    mean = rows.group_by("date", maintain_order=True).agg(pl.col("rank_ic").mean()).sort("date").drop_nulls()
    return mean.select("date", pl.col("rank_ic").round(6), cumulative=pl.col("rank_ic").cum_sum().round(6))


def _array(series: pl.Series) -> NDArray[np.float64]:
    return series.cast(pl.Float64).fill_null(np.nan).to_numpy()


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
