"""From scores to the report: every number with its baseline beside it."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from atft.evaluation import metrics
from atft.evaluation.cross_section import Array, rank_ic
from atft.evaluation.drift import stability
from atft.evaluation.facts import Role, Rules, Scores, book_facts, book_of, date_facts, ensemble, stacked
from atft.evaluation.market import REGIMES, Market
from atft.evaluation.significance import default_lags, mean, newey_west_t
from atft.evaluation.summary import SEED, mean_of, means, over_seeds, summarize

HELD_OUT = ("valid", "test")
OF_ENSEMBLE = (
    "rank_ic", "rank_ic_t", "rank_ic_low", "rank_ic_high", "icir", "neutral_rank_ic", "neutral_rank_ic_t",
    "neutral_icir", "sharpe", "sharpe_net", "sharpe_net_low", "sharpe_net_high", "turnover", "break_even_bps",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """Tables and the summary by (role, horizon).

    Attributes:
        daily: `role, horizon, seed, fold, date, rank_ic, neutral_rank_ic, ic, gross, net, turnover`.
        summary: Means over seeds of each seed's number, with the baselines beside them, and under `ensemble`
            the numbers of the seeds' mean rank as one score, where there are several seeds.
        breakdown: The RankIC by year, regime and sector.
        decay: The RankIC by days after entry.
        quantiles: Mean return by quantile of the score.
        drift: Stability index per fold and seed.
        books: `role, horizon, date, turnover, beta_held, sector_exposure`, means over seeds.
    """

    daily: pl.DataFrame
    summary: dict[tuple[str, int], dict[str, Any]]
    breakdown: pl.DataFrame
    decay: pl.DataFrame
    quantiles: pl.DataFrame
    drift: pl.DataFrame
    books: pl.DataFrame


def evaluate_scores(
    scores: Sequence[Scores],
    market: Market,
    rules: Rules,
    tradable_roles: Iterable[str] = HELD_OUT,
    oracle: Mapping[str, Array] | None = None,
    threads: int = 1,
) -> Report:
    """The report of one model's scores on its held-out dates.

    Args:
        scores: Roles valid, test, and stop as the reference of the stability index alone.
        tradable_roles: Roles whose scores follow each other in time as a trader would have had them.
            The others get no portfolio: a model that was fitted on later dates has not earned.
        oracle: Expected returns by planted part, each [day of the market, stock, horizon].
    """
    drift = _drift(scores, market, rules)
    daily, breakdown, decay, quantiles, held = [], [], [], [], []
    summary: dict[tuple[str, int], dict[str, Any]] = {}
    with ThreadPoolExecutor(threads) as pool:
        for name in HELD_OUT:
            if not any(part.role == name for part in scores):
                continue
            role = stacked(name, scores)
            trades = name in tradable_roles
            facts = _facts(pool, role, market, rules, trades)
            joined = ensemble(role) if len(role.seeds) > 1 else None
            together = _facts(pool, joined, market, rules, trades) if joined else {}
            beside = _beside(pool, role, facts["rank_ic"], market, rules, oracle, trades)
            for h, horizon in enumerate(market.horizons):
                here = {key: values[:, :, h] for key, values in facts.items()}
                daily.append(_daily(role, market, horizon, here))
                breakdown.append(_breakdown(role, market, horizon, here, rules))
                decay.append(_decay(role, horizon, here))
                quantiles.append(_quantiles(role, horizon, here))
                held.append(_books(role, market, horizon, here))
                moved = drift.filter((pl.col("role") == name) & (pl.col("horizon") == horizon))
                summary[name, horizon] = {
                    **summarize(role, market, horizon, here, rules),
                    **_drift_summary(moved),
                    **beside[h],
                }
                _add_share_of_oracle(summary[name, horizon])
                if joined:
                    one = {key: values[:, :, h] for key, values in together.items()}
                    whole = summarize(joined, market, horizon, one, rules)
                    summary[name, horizon]["ensemble"] = {key: whole[key] for key in OF_ENSEMBLE}
    return Report(
        pl.concat(daily).sort("role", "horizon", "seed", "date"),
        summary,
        pl.concat(breakdown),
        pl.concat(decay),
        pl.concat(quantiles),
        drift,
        pl.concat(held),
    )


def _facts(pool: Executor, role: Role, market: Market, rules: Rules, trades: bool) -> dict[str, Array]:
    books = book_facts(pool, role, market, rules)
    if not trades:
        books = {name: np.full(values.shape, np.nan) for name, values in books.items()}
    return date_facts(pool, role, market, rules) | books


# --- baselines -----------------------------------------------------------------------------------


def _beside(
    pool: Executor,
    role: Role,
    ranked: Array,
    market: Market,
    rules: Rules,
    oracle: Mapping[str, Array] | None,
    trades: bool,
) -> list[dict[str, Any]]:
    """For each horizon: reversal, the equal-weighted market and, where known, the oracle.

    `ranked` is the RankIC of the scores, [seed, day, horizon]; reversal's is held against it day by day.
    `oracle_rank_ic` is the RankIC of the true expected return; `sees_PART` is the mean daily rank
    correlation of the score with the expectation of one planted part.
    """
    reversal = np.where(market.tradable, market.reversal(), np.float32(np.nan))[role.days]
    plain = replace(rules, smoothing=0.0, exit_quantile=rules.quantile, trade_share=1.0, neutral="none")
    returns = market.forward_return[role.days]

    def one(h: int) -> dict[str, Any]:
        horizon = market.horizons[h]
        ic = rank_ic(reversal, np.ascontiguousarray(returns[:, :, h]))
        _, known, known_t = _ic_row(ic, horizon)
        _, ahead, ahead_t = _ic_row(over_seeds(ranked[:, :, h]) - ic, horizon)
        found: dict[str, Any] = {
            "reversal_rank_ic": known,
            "reversal_rank_ic_t": known_t,
            "over_reversal_rank_ic": ahead,
            "over_reversal_rank_ic_t": ahead_t,
            "market_sharpe": metrics.sharpe(market.equal_weight[role.days], rules.periods_per_year),
        }
        if trades:
            book = book_of(market, role, reversal, horizon, plain)
            found["reversal_sharpe"] = metrics.sharpe(book.gross, rules.periods_per_year)
            found["reversal_sharpe_net"] = metrics.sharpe(book.net(rules.cost_bps), rules.periods_per_year)
        if oracle is None:
            return found
        parts = {part: values[role.days, :, h].astype(np.float32) for part, values in oracle.items()}
        total = sum(values[role.days, :, h] for values in oracle.values())
        scored = np.isfinite(role.score[0][:, :, h])
        truth = np.where(scored, total, np.nan).astype(np.float32)
        found["oracle_rank_ic"] = mean(rank_ic(truth, np.ascontiguousarray(returns[:, :, h])))
        for part, values in parts.items():
            sight = [rank_ic(np.ascontiguousarray(score[:, :, h]), values) for score in role.score]
            found[f"sees_{part}"] = mean_of([mean(ic) for ic in sight])
        if trades:
            book = book_of(market, role, truth, horizon, plain)
            found["oracle_sharpe_net"] = metrics.sharpe(book.net(rules.cost_bps), rules.periods_per_year)
        return found

    return list(pool.map(one, range(len(market.horizons))))


def _add_share_of_oracle(summary: dict[str, Any]) -> None:
    oracle, found = summary.get("oracle_rank_ic"), summary["rank_ic"]
    if oracle is not None:
        summary["captured_share"] = found / oracle if oracle > 0 and found is not None else None


# --- drift ---------------------------------------------------------------------------------------


def _drift(scores: Sequence[Scores], market: Market, rules: Rules) -> pl.DataFrame:
    """Held-out scores against the same model's `stop` scores: `role, horizon, seed, fold, psi, band, moved`."""
    rows = []
    for part in scores:
        reference = [p for p in scores if (p.role, p.fold, p.seed) == ("stop", part.fold, part.seed)]
        if part.role not in HELD_OUT or not reference:
            continue
        for h, horizon in enumerate(market.horizons):
            found = stability(reference[0].score[:, :, h], part.score[:, :, h], rules.psi_bins, rules.bootstrap, SEED)
            facts = (found.psi, found.band, found.moved) if found else (None, None, None)
            rows.append((part.role, horizon, part.seed, part.fold, *facts))
    schema = {"role": pl.String, "horizon": pl.Int64, "seed": pl.Int64, "fold": pl.Int64, "psi": pl.Float64,
              "band": pl.Float64, "moved": pl.Boolean}  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row").sort("role", "horizon", "seed", "fold")


def _drift_summary(drift: pl.DataFrame) -> dict[str, Any]:
    return {
        "psi": drift["psi"].mean(),
        "psi_worst": drift["psi"].max(),
        "psi_band": drift["band"].mean(),
        "psi_alerts": drift["moved"].sum() if drift["moved"].count() else None,
    }


# --- tables --------------------------------------------------------------------------------------


def _daily(role: Role, market: Market, horizon: int, facts: dict[str, Array]) -> pl.DataFrame:
    seeds, days = len(role.seeds), len(role.days)
    names = ("rank_ic", "neutral_rank_ic", "ic", "gross", "net", "turnover")
    return pl.DataFrame(
        {
            "role": [role.name] * (seeds * days),
            "horizon": np.full(seeds * days, horizon),
            "seed": np.repeat(role.seeds, days),
            "fold": np.tile(role.fold, seeds),
            "date": np.tile(market.dates[role.days], seeds),
            **{name: facts[name].ravel() for name in names},
        }
    ).with_columns(pl.col(names).fill_nan(None))


def _books(role: Role, market: Market, horizon: int, facts: dict[str, Array]) -> pl.DataFrame:
    """`role, horizon, date, turnover, beta_held, sector_exposure` (the largest absolute net weight of a sector)."""
    names = ("turnover", "beta_held", "sector_exposure")
    sector = np.abs(facts["sector_held"]).max(-1)
    series = (facts["turnover"], facts["beta_held"], sector)
    return pl.DataFrame(
        {
            "role": [role.name] * len(role.days),
            "horizon": np.full(len(role.days), horizon),
            "date": market.dates[role.days],
            **{name: over_seeds(values) for name, values in zip(names, series, strict=True)},
        }
    ).with_columns(pl.col(names).fill_nan(None))


def _breakdown(role: Role, market: Market, horizon: int, facts: dict[str, Array], rules: Rules) -> pl.DataFrame:
    """`role, horizon, kind, group, days, rank_ic, rank_ic_t, sharpe_net`; within-sector RankIC for sectors.

    A day's RankIC looks forward and stands under the day's own state; a day's return was earned by what was held
    since the close before, and stands under the state that was known then.
    """
    averaged = over_seeds(facts["rank_ic"])
    years = market.dates[role.days].astype("datetime64[Y]").astype(str)
    groups = [("year", year, years == year, years == year) for year in np.unique(years)]
    for kind, names in REGIMES.items():
        states = market.regimes[kind]
        now, before = states[role.days], states[np.maximum(role.days - 1, 0)]
        groups += [(kind, name, now == i, before == i) for i, name in enumerate(names)]
    year = rules.periods_per_year
    rows = [
        (kind, name, *_ic_row(averaged[now], horizon), _seed_sharpe(facts["net"][:, before], year))
        for kind, name, now, before in groups
    ]
    within = over_seeds(facts["sector"])
    for number, name in sorted(enumerate(market.sector_names), key=lambda sector: sector[1]):
        if np.isfinite(within[:, number]).any():
            rows.append(("sector", name or "unknown", *_ic_row(within[:, number], horizon), None))
    schema = {"kind": pl.String, "group": pl.String, "days": pl.Int64, "rank_ic": pl.Float64,
              "rank_ic_t": pl.Float64, "sharpe_net": pl.Float64}  # fmt: skip
    table = pl.DataFrame(rows, schema=schema, orient="row")
    return table.select(pl.lit(role.name).alias("role"), pl.lit(horizon, pl.Int64).alias("horizon"), pl.all())


def _ic_row(values: Array, horizon: int) -> tuple[int, float | None, float | None]:
    days = int(np.isfinite(values).sum())
    return days, mean(values), newey_west_t(values, default_lags(max(days, 1), horizon))


def _seed_sharpe(net: Array, periods_per_year: int) -> float | None:
    return mean_of([metrics.sharpe(values, periods_per_year) for values in net])


def _decay(role: Role, horizon: int, facts: dict[str, Array]) -> pl.DataFrame:
    """`role, horizon, lag, cumulative, marginal, days`: mean over the same dates for every lag."""
    cumulative, marginal = (over_seeds(facts[name]) for name in ("decay", "marginal"))
    lags = cumulative.shape[1]
    return pl.DataFrame(
        {
            "role": [role.name] * lags,
            "horizon": np.full(lags, horizon),
            "lag": np.arange(1, lags + 1),
            "cumulative": means(cumulative),
            "marginal": means(marginal),
            "days": np.isfinite(cumulative).sum(0),
        }
    ).with_columns(pl.col("cumulative", "marginal").fill_nan(None))


def _quantiles(role: Role, horizon: int, facts: dict[str, Array]) -> pl.DataFrame:
    """`role, horizon, quantile, mean_return, excess`: mean forward return, and less the mean of all quantiles."""
    by_day = over_seeds(facts["quantile"])
    average = means(by_day)
    count = len(average)
    return pl.DataFrame(
        {
            "role": [role.name] * count,
            "horizon": np.full(count, horizon),
            "quantile": np.arange(1, count + 1),
            "mean_return": average,
            "excess": average - average.mean(),
        }
    ).with_columns(pl.col("mean_return", "excess").fill_nan(None))


def headline(summary: Mapping[tuple[str, int], Mapping[str, Any]], primary_horizon: int) -> dict[str, Any]:
    """`metrics/evaluate.json`: the primary horizon under its role, every horizon under `horizons`."""
    out: dict[str, Any] = {
        role: summary[role, primary_horizon] for role in HELD_OUT if (role, primary_horizon) in summary
    }
    out["horizons"] = {
        f"h{horizon}": {role: summary[role, horizon] for role in HELD_OUT if (role, horizon) in summary}
        for horizon in sorted({horizon for _, horizon in summary})
    }
    return out
