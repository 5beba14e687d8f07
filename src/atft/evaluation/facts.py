"""What each date and each day's book say of a model's scores; nothing is averaged here.

Arrays of one role are [seed, day, horizon, ...]; seeds share their days. NaN is undefined.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from atft.evaluation.cross_section import (
    Array,
    Single,
    all_equal,
    centred_ranks,
    group_rank_ic,
    pearson_ic,
    precision,
    quantile_returns,
    rank_ic,
    residual_scores,
)
from atft.evaluation.decay import decay_rank_ic
from atft.evaluation.market import Market
from atft.evaluation.portfolio import Book, tranche_book
from atft.evaluation.weights import target_weights

QUANTILES = 10
DAYS_AT_ONCE = 32  # of one pass over the stocks: what fits into the processor's cache


@dataclass(frozen=True)
class Scores:
    """What one model said on the dates of one role.

    Attributes:
        days: [D] positions on the market's calendar, ascending.
        score: [D, stock, horizon], NaN where not ranked.
        quantiles: [D, stock, horizon, level] of the label, where the model has them; judged nowhere.
    """

    role: str
    fold: int
    seed: int
    days: NDArray[np.int64]
    score: Single
    quantiles: Single | None = None


@dataclass(frozen=True)
class Rules:
    """How scores are judged: `params.yaml`, section evaluate."""

    primary_horizon: int
    cost_bps: float
    cost_grid_bps: Sequence[float]
    quantile: float
    periods_per_year: int
    top_names: int
    smoothing: float
    exit_quantile: float
    trade_share: float
    neutral: str
    psi_bins: int
    bootstrap: int

    def weights(
        self, score: Single, horizon: int, beta: Single, sector: NDArray[np.int16], *, long_only: bool
    ) -> Array:
        """Weights that the scores of consecutive days ask for. All arguments and the result are [day, stock]."""
        return target_weights(
            score,
            quantile=self.quantile,
            horizon=horizon,
            long_only=long_only,
            smoothing=self.smoothing,
            exit_quantile=self.exit_quantile,
            neutral=self.neutral,
            beta=beta,
            sector=sector,
        )


@dataclass(frozen=True)
class Role:
    """All scores of one role: [S] seeds that share D days."""

    name: str
    seeds: list[int]
    days: NDArray[np.int64]
    fold: NDArray[np.int64]
    score: list[Single]  # of each seed [D, stock, horizon]

    @property
    def span(self) -> slice:
        """Days from the first to the last: what a book runs through."""
        return slice(int(self.days[0]), int(self.days[-1]) + 1)


def stacked(name: str, scores: Sequence[Scores]) -> Role:
    """All scores of the role `name`, its blocks one after the other."""
    seeds = sorted({part.seed for part in scores})
    by_seed = {
        seed: sorted((p for p in scores if p.role == name and p.seed == seed), key=lambda p: p.days[0])
        for seed in seeds
    }
    first = by_seed[seeds[0]]
    days = np.concatenate([part.days for part in first])
    assert (np.diff(days) > 0).all(), "a date is held out once"
    fold = np.concatenate([np.full(len(part.days), part.fold) for part in first])
    return Role(name, seeds, days, fold, [np.concatenate([p.score for p in by_seed[seed]]) for seed in seeds])


def ensemble(role: Role) -> Role:
    """The seeds as one score: their mean rank, each date and horizon for itself."""
    return replace(role, seeds=role.seeds[:1], score=[mean_ranks(role.score)])


def mean_ranks(scores: Sequence[Single]) -> Single:
    """Several scores of the same stocks as one: the mean of their centred ranks. [day, stock, horizon]

    Ranks, because scores of models that were fitted apart share no unit. NaN where any score is unknown.
    """
    known = np.all([np.isfinite(score) for score in scores], axis=0)
    total = np.zeros(scores[0].shape)
    for score in scores:
        for h in range(score.shape[2]):
            total[:, :, h] += centred_ranks(score[:, :, h], known[:, :, h])
    return np.where(known, total / len(scores), np.nan).astype(np.float32)


# --- what each date says -------------------------------------------------------------------------


def date_facts(pool: Executor, role: Role, market: Market, rules: Rules) -> dict[str, Array]:
    """Numbers of each date, computed some dates at a time: name -> [seed, day, horizon, ...]."""
    _ = market.log_growth, market.gone, market.volatility, market.beta  # once, before threads ask for them
    parts = [slice(i, i + DAYS_AT_ONCE) for i in range(0, len(role.days), DAYS_AT_ONCE)]
    by_seed = []
    for score in role.score:
        found = list(pool.map(lambda part: _date_facts(market, role.days[part], score[part], rules), parts))  # noqa: B023
        by_seed.append({name: np.concatenate([one[name] for one in found]) for name in found[0]})
    return {name: np.stack([one[name] for one in by_seed]) for name in by_seed[0]}


def _date_facts(market: Market, days: NDArray[np.int64], scores: Single, rules: Rules) -> dict[str, Array]:
    """[day, horizon, ...] of a few dates; each looks at its own stocks alone."""
    by_horizon = []
    sector = market.sector[days]
    exposures = [market.volatility[days], market.beta[days]]
    for h in range(len(market.horizons)):
        score = np.ascontiguousarray(scores[:, :, h])
        returns = np.ascontiguousarray(market.forward_return[days, :, h])
        known = np.isfinite(score) & np.isfinite(returns)
        hit, base, above = precision(score, returns, rules.top_names)
        counted = known & ~all_equal(score, known)[:, None]
        outcome = np.where(counted, np.sign(score) * returns, 0.0).astype(np.float64)
        stocks = known.sum(1)
        by_horizon.append(
            {
                "ic": pearson_ic(score, returns),
                "rank_ic": rank_ic(score, returns),
                "label_rank_ic": rank_ic(score, np.ascontiguousarray(market.label[days, :, h])),
                "neutral_rank_ic": rank_ic(residual_scores(score, exposures, sector), returns),
                "stocks": np.where(stocks > 0, stocks, np.nan),
                "precision": hit,
                "precision_median": above,
                "precision_base": base,
                "sign": np.stack([counted.sum(1), outcome.sum(1), (outcome**2).sum(1)], axis=1).astype(np.float64),
                "quantile": quantile_returns(score, returns, QUANTILES),
                "sector": group_rank_ic(score, returns, sector, len(market.sector_names)),
            }
        )
    facts = {name: np.stack([one[name] for one in by_horizon], axis=1) for name in by_horizon[0]}
    cumulative, marginal = decay_rank_ic(market, days.tolist(), scores, max(market.horizons))
    return facts | {"decay": cumulative, "marginal": marginal}


# --- what a book would have earned ---------------------------------------------------------------


def book_facts(pool: Executor, role: Role, market: Market, rules: Rules) -> dict[str, Array]:
    """Daily series of the long-short and the long-only book: name -> [seed, day, horizon, ...]."""
    tasks = [(score[:, :, h], horizon) for score in role.score for h, horizon in enumerate(market.horizons)]
    found = list(pool.map(lambda task: _one_book(market, role, task[0], task[1], rules), tasks))
    shape = (len(role.seeds), len(market.horizons))
    out = {}
    for name in found[0]:
        stacked = np.stack([one[name] for one in found])
        out[name] = np.moveaxis(stacked.reshape(*shape, *stacked.shape[1:]), 1, 2)
    return out


def _one_book(market: Market, role: Role, score: Single, horizon: int, rules: Rules) -> dict[str, Array]:
    target = _wanted(market, role, score, horizon, rules)
    long_short = _held(market, role, target, horizon, rules)
    long_only = book_of(market, role, score, horizon, rules, long_only=True)
    # Weights were set at the close of the day before: they are held against what was known then.
    before = np.maximum(np.arange(role.span.start, role.span.stop) - 1, 0)
    held = np.nan_to_num(long_short.held) != 0
    series = {
        "gross": long_short.gross,
        "net": long_short.net(rules.cost_bps),
        "turnover": long_short.turnover,
        "turnover_sleeves": _held(market, role, target, horizon, rules, netted=False).turnover,
        "beta_held": (long_short.held * np.nan_to_num(market.beta[before], nan=1.0)).sum(1, dtype=np.float64),
        "sector_held": long_short.sector_exposure(market.sector[before], len(market.sector_names)),
        "held_names": np.where(np.isfinite(long_short.gross), held.sum(1), np.nan),
        "held_money": _median(market.money_traded[before], held),
        "held_volatility": _median(market.volatility[before], held),
        "long_gross": long_only.gross,
        "long_net": long_only.net(rules.cost_bps),
        "long_turnover": long_only.turnover,
    }
    return {name: values[role.days - role.days[0]] for name, values in series.items()}


def _median(values: Single, where: NDArray[np.bool_]) -> Array:
    """Median of the known values of each row's chosen places; NaN where there is none. [row]"""
    known = where & np.isfinite(values)
    return np.array([np.median(row[here]) if here.any() else np.nan for row, here in zip(values, known, strict=True)])


def book_of(market: Market, role: Role, score: Single, horizon: int, rules: Rules, *, long_only: bool = False) -> Book:
    """The book of one score through the role's blocks, which follow each other; [day of the span]."""
    return _held(market, role, _wanted(market, role, score, horizon, rules, long_only=long_only), horizon, rules)


def _wanted(market: Market, role: Role, score: Single, horizon: int, rules: Rules, *, long_only: bool = False) -> Array:
    """Weights the score of each day asks for. [day of the span, stock]"""
    span = role.span
    whole = np.full((span.stop - span.start, len(market.codes)), np.nan, np.float32)
    whole[role.days - span.start] = score
    return rules.weights(whole, horizon, market.beta[span], market.sector[span], long_only=long_only)


def _held(market: Market, role: Role, target: Array, horizon: int, rules: Rules, *, netted: bool = True) -> Book:
    span = role.span
    return tranche_book(
        target,
        market.daily_return[span],
        market.can_trade[span],
        market.gone[span],
        horizon,
        market.delay,
        trade_share=rules.trade_share,
        netted=netted,
    )
