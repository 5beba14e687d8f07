"""The numbers of one role and horizon: means over seeds of each seed's number. Undefined is None."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from atft.evaluation import metrics
from atft.evaluation.bootstrap import bootstrap_interval
from atft.evaluation.capacity import capacity
from atft.evaluation.cross_section import Array
from atft.evaluation.facts import Role, Rules
from atft.evaluation.market import Market
from atft.evaluation.sharpe import minimum_track_record, probabilistic_sharpe, probabilistic_sharpe_null, sharpe_lo
from atft.evaluation.significance import default_lags, iid_t, mean, newey_west_t

SEED = 0  # of the bootstrap


def summarize(role: Role, market: Market, horizon: int, facts: dict[str, Array], rules: Rules) -> dict[str, Any]:
    """Means over seeds of each seed's number, for one (role, horizon); facts are [seed, day, ...]."""
    year = rules.periods_per_year
    averaged = over_seeds(facts["rank_ic"])
    neutral = over_seeds(facts["neutral_rank_ic"])
    days = int(np.isfinite(averaged).sum())
    lags = default_lags(days, horizon)
    whole_market = market.equal_weight[role.days]
    per_seed = [
        _seed_summary({name: values[s] for name, values in facts.items()}, whole_market, horizon, lags, rules)
        for s in range(len(role.seeds))
    ]
    draws = rules.bootstrap
    return {
        **_mean_of_dicts(per_seed),
        "rank_ic_t": newey_west_t(averaged, lags),
        "rank_ic_t_iid": iid_t(averaged),
        **_interval("rank_ic", averaged, _drawn_mean, draws),
        "rank_ic_seed_std": _spread([mean(values) for values in facts["rank_ic"]]),
        "neutral_rank_ic_t": newey_west_t(neutral, lags),
        **_interval("neutral_rank_ic", neutral, _drawn_mean, draws),
        **_interval("sharpe_net", facts["net"].T, lambda drawn: np.sqrt(year) * _drawn_sharpe(drawn), draws),
        "sharpe_net_seed_std": _spread([metrics.sharpe(values, year) for values in facts["net"]]),
        "half_life": metrics.half_life(means(over_seeds(facts["marginal"]))),
        "seeds": len(role.seeds),
        "days": days,
        "from": str(market.dates[role.days[0]]),
        "to": str(market.dates[role.days[-1]]),
        "stocks_per_day": mean(facts["stocks"][0]),
    }


def _seed_summary(facts: dict[str, Array], market: Array, horizon: int, lags: int, rules: Rules) -> dict[str, Any]:
    """Numbers of one seed; facts are [day, ...]."""
    year = rules.periods_per_year
    gross, net, turnover = facts["gross"], facts["net"], facts["turnover"]
    icir, traded = metrics.information_ratio(facts["rank_ic"]), mean(turnover)
    beta, beta_t = metrics.market_slope(gross, market, lags)
    sector = np.abs(facts["sector_held"])
    earned, kept = mean(gross), mean(net)
    return {
        "rank_ic": mean(facts["rank_ic"]),
        "label_rank_ic": mean(facts["label_rank_ic"]),
        "ic": mean(facts["ic"]),
        "icir": icir,
        "icir_per_turnover": metrics.ratio(icir, traded) if icir is not None and traded else None,
        "neutral_rank_ic": mean(facts["neutral_rank_ic"]),
        "neutral_icir": metrics.information_ratio(facts["neutral_rank_ic"]),
        "monotonicity": metrics.monotonicity(means(facts["quantile"])),
        "precision": mean(facts["precision"]),
        "precision_base": mean(facts["precision_base"]),
        "precision_median": mean(facts["precision_median"]),
        "sharpe": metrics.sharpe(gross, year),
        "sharpe_net": metrics.sharpe(net, year),
        "sharpe_by_cost": {
            f"bps{bps:g}": metrics.sharpe(gross - bps / 1e4 * turnover, year) for bps in rules.cost_grid_bps
        },
        "sharpe_lo": sharpe_lo(net, year, max(horizon, 10)),
        "sharpe_roadmap": _sign_sharpe(facts["sign"]),
        "probabilistic_sharpe": probabilistic_sharpe(net),
        "probabilistic_sharpe_null": probabilistic_sharpe_null(net),
        "minimum_track_record": minimum_track_record(net),
        "sortino": metrics.sortino(net, year),
        "calmar": metrics.calmar(net, year),
        "max_drawdown": metrics.max_drawdown(net),
        "hit_rate": metrics.hit_rate(net),
        "annual_return": None if earned is None else earned * year,
        "annual_return_net": None if kept is None else kept * year,
        "turnover": traded,
        "turnover_sleeves": mean(facts["turnover_sleeves"]),
        "break_even_bps": metrics.break_even_bps(gross, turnover),
        **_capacity(facts, rules),
        "market_beta": beta,
        "market_beta_t": beta_t,
        "beta_held": mean(facts["beta_held"]),
        "sector_exposure": mean(sector.max(1)),
        "sector_exposure_squared": mean((sector**2).sum(1)),
        "long_only": {
            "sharpe": metrics.sharpe(facts["long_gross"], year),
            "sharpe_net": metrics.sharpe(facts["long_net"], year),
            "max_drawdown": metrics.max_drawdown(facts["long_net"]),
            "turnover": mean(facts["long_turnover"]),
            "excess_sharpe_net": metrics.sharpe(facts["long_net"] - market, year),
            "market_beta": metrics.market_slope(facts["long_gross"], market, lags)[0],
        },
    }


def _capacity(facts: dict[str, Array], rules: Rules) -> dict[str, float | None]:
    """Capital at which costs eat all of the gross return, and half of it; None where no volume is known."""
    names = ("gross", "turnover", "held_names", "held_money", "held_volatility")
    gross, turnover, held, money, volatility = (mean(facts[name]) for name in names)
    if gross is None or turnover is None or held is None or money is None or volatility is None:
        return {"capacity": None, "capacity_half": None}
    year = rules.periods_per_year
    found = capacity(
        gross * year, turnover, round(held), money, rules.cost_bps / 1e4, volatility, periods_per_year=year
    )
    return dict(zip(("capacity", "capacity_half"), found or (None, None), strict=True))


def _sign_sharpe(sums: Array) -> float | None:
    """Mean over standard deviation of sign(score) x forward return, pooled over stock-days.

    The roadmap's unit, kept for comparison with it alone: it knows neither dates nor costs, and a
    rising market is skill to it.
    """
    count, total, squares = sums.sum(0)
    if count < 2:
        return None
    mean = total / count
    return metrics.ratio(mean, np.sqrt(max(squares - count * mean**2, 0.0) / (count - 1)))


def _interval(name: str, series: Array, statistic: Callable[[Array], Array], draws: int) -> dict[str, float | None]:
    """95 % interval by the stationary bootstrap of dates, under NAME_low and NAME_high."""
    low, high = bootstrap_interval(series, statistic, draws=draws, seed=SEED) or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _drawn_mean(drawn: Array) -> Array:
    return drawn.mean(1)


def _drawn_sharpe(drawn: Array) -> Array:
    """[draw, day, seed] -> mean over seeds of mean / standard deviation."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (drawn.mean(1) / drawn.std(1, ddof=1)).mean(1)


def means(values: Array) -> Array:
    """Mean of each column's finite values, NaN where there is none. [day, k] -> [k]"""
    known = np.isfinite(values)
    count = known.sum(0)
    return np.divide(np.where(known, values, 0.0).sum(0), count, out=np.full(count.shape, np.nan), where=count > 0)


def over_seeds(values: Array) -> Array:
    """Mean over the first axis; NaN where any seed is undefined."""
    return values.mean(0)


def mean_of(values: Sequence[float | None]) -> float | None:
    """Mean over seeds; None where any is undefined."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None


def _mean_of_dicts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: _mean_of_dicts([row[name] for row in rows]) if isinstance(rows[0][name], dict) else
        mean_of([row[name] for row in rows])
        for name in rows[0]
    }  # fmt: skip


def _spread(values: Sequence[float | None]) -> float | None:
    """Standard deviation over seeds (ddof 1); None for one seed or where one is undefined."""
    known = [value for value in values if value is not None]
    return float(np.std(known, ddof=1)) if len(known) == len(values) > 1 else None
