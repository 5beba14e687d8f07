"""Is a change better, or was it luck? Two models on the same dates, folds and seeds.

The difference of their daily RankIC has two sources of noise: the days (a model that is equally
good wins some years) and the training (the same model with another seed wins some). Both count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from atft.errors import InputError
from atft.evaluation.significance import finite, holm, newey_west_variance

Array = NDArray[np.float64]

MIN_SEEDS = 5
MIN_DAYS = 60
POWER = 0.8  # that "so many more days would resolve it" promises
GUARD_LEVEL = 0.05
LOWER_IS_BETTER = {"turnover"}
MOST_DROPPED = 0.02  # of the base's days on which a candidate may say nothing
YARDSTICK = (  # knobs that change what is measured, not what is judged
    "data.delay", "data.min_history", "data.min_dollar_volume", "data.max_daily_return", "data.news_volume",
    "evaluate.cost_bps", "evaluate.periods_per_year",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """The daily `valid` series of one revision, and where they come from.

    Attributes:
        name: What the user calls it; rev: the commit, or workspace.
        market: What was traded: trials of one market share their luck.
        horizon: The primary one.
        daily: `date, fold, seed, horizon` and numbers; rows of the valid blocks alone.
        params: Flat, section.knob -> value; empty where only the ledger keeps the trial.
        stocks: Ranked a day.
        failed: Why it has no series, or None.
        kept: The yardstick of a trial of the ledger.
    """

    name: str
    rev: str
    market: str
    horizon: int
    daily: pl.DataFrame
    params: dict[str, object]
    stocks: float | None = None
    failed: str | None = None
    kept: dict[str, object] | None = None

    @property
    def yardstick(self) -> dict[str, object] | None:
        """By what it was measured; None where nobody says."""
        return {knob: self.params.get(knob) for knob in YARDSTICK} if self.params else self.kept


def market_name(data: dict[str, Any]) -> str:
    """What was traded, whatever features were made of it."""
    if data["source"] != "simulated":
        return f"{data['source']} {data[data['source']]['path']}"
    world = data["simulated"]
    return f"simulated {world['market']} {world['seed']}, {world['stocks']} x {world['days']}"


def flat(knobs: dict[str, Any], above: str = "") -> dict[str, object]:
    """Nested sections as section.knob -> value."""
    out: dict[str, object] = {}
    for name, value in knobs.items():
        out |= flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return out


@dataclass(frozen=True)
class Difference:
    """Candidate less base, mean over days and seeds.

    Attributes:
        value: The mean; base: the base's own.
        days_variance, seeds_variance: Of the mean, by source.
        freedom: Degrees of freedom of the t distribution that `value / se` is held against.
        days, seeds: Behind it; dropped: days on which the base has the number and the candidate has not.
    """

    value: float
    base: float
    days_variance: float
    seeds_variance: float
    freedom: float
    days: int
    seeds: int
    dropped: int

    @property
    def se(self) -> float:
        return float(np.sqrt(self.days_variance + self.seeds_variance))

    @property
    def p_higher(self) -> float:
        """Chance of a difference this high or higher if there were none."""
        return float(stats.t.sf(self.value / self.se, self.freedom)) if self.se > 0 else 1.0

    @property
    def p_lower(self) -> float:
        return float(stats.t.cdf(self.value / self.se, self.freedom)) if self.se > 0 else 1.0

    def interval(self, level: float = 1 - 2 * GUARD_LEVEL) -> tuple[float, float]:
        """Where the true difference lies with this confidence; the default agrees with `worse`: 5 % on each side."""
        reach = self.se * float(stats.t.ppf((1 + level) / 2, self.freedom)) if self.se > 0 else 0.0
        return self.value - reach, self.value + reach


@dataclass(frozen=True)
class Judgement:
    """What is said of one candidate.

    Attributes:
        primary: Difference of the daily RankIC at the primary horizon; None where there is none.
        guards: Of every other number, by name.
        p: Adjusted for the candidates judged with it (Holm).
        level: What `p` must not exceed.
        verdict: accepted | rejected | unresolved | failed.
        reason: Why, in a sentence; needs: what would resolve it, or empty.
    """

    candidate: Trial
    primary: Difference | None
    guards: dict[str, Difference]
    p: float | None
    level: float
    verdict: str
    reason: str
    needs: str = ""


def paired_difference(base: Array, candidate: Array, horizon: int) -> Difference | None:
    """Mean of candidate - base, both [seed, day], with the variance of days and of seeds.

    Variance = Newey-West variance of the seed-averaged daily difference + variance between the seeds'
    mean differences / S. The first alone forgets that training is a draw too: with five seeds that differ as
    much as the days do, it calls a true null significant twice as often as it says.

    Lags are max(2 h, ceil(T^(1/3))): labels of h days overlap, and weights that vanish at h would miss
    half of it. Degrees of freedom are Welch and Satterthwaite's of the two parts, S - 1 for the seeds and
    1.5 T / (lags + 1), those of Bartlett's weights, for the days; but at most 2 (S - 1), because the formula
    errs upwards just where the seeds' part happens to come out small, and far in the tail, where the
    twentieth candidate is judged, that shows. See tests/evaluation/test_verdict.py for the error rates.

    Returns:
        None with one seed, or fewer than `MIN_DAYS` days on which all seeds of both are known.

    Source: Newey & West 1987; Satterthwaite 1946; Priestley 1981, table 6.1, for Bartlett's freedom.
    """
    known = np.isfinite(base).all(0) & np.isfinite(candidate).all(0)
    seeds, days = len(base), int(known.sum())
    if seeds < 2 or days < MIN_DAYS:
        return None
    difference = candidate[:, known] - base[:, known]
    lags = max(2 * horizon, ceil(days ** (1 / 3)))
    if days <= lags + 1:
        return None
    # None is a difference that does not vary; small samples lose one part in T / (lags + 1) of the variance.
    by_days = (newey_west_variance(difference.mean(0), lags) or 0.0) / (1 - (lags + 1) / days)
    by_seeds = float(difference.mean(1).var(ddof=1)) / seeds
    spread = by_days**2 * (lags + 1) / (1.5 * days) + by_seeds**2 / (seeds - 1)
    freedom = min((by_days + by_seeds) ** 2 / spread, 2.0 * (seeds - 1)) if spread > 0 else 1.0
    dropped = int((np.isfinite(base).all(0) & ~known).sum())
    return Difference(
        float(difference.mean()), float(base[:, known].mean()), by_days, by_seeds, freedom, days, seeds, dropped
    )


def spend(level: float, before: int, company: int) -> float:
    """What `company` candidates may spend of the family-wise `level` after `before` others.

    level (1 / (before + 1) - 1 / (before + company + 1)): over all candidates that will ever be judged on one
    market these sum to `level`, so that trying until something passes does not work. Early
    candidates and those judged together get most.
    """
    return level * (1 / (before + 1) - 1 / (before + company + 1))


def judge(base: Trial, candidates: Sequence[Trial], level: float, before: int) -> list[Judgement]:
    """One judgement per candidate, each a different one.

    Accepted: the RankIC is higher (Holm over the candidates) and the net return not lower beyond noise.
    Rejected: the RankIC or the net return is lower beyond noise. Unresolved: all else.

    Args:
        level: Family-wise error over all candidates that the market will ever see.
        before: How many have spent of it already; see `spend`. Only candidates with enough seeds and
            days to be accepted spend any.

    Raises:
        InputError: When a candidate was scored on another market, other dates or folds, or by another yardstick.
    """
    found = [_compared(base, candidate) for candidate in candidates]
    p_values = [primary.p_higher if primary and primary.seeds >= MIN_SEEDS else None for primary, _ in found]
    company = sum(p is not None for p in p_values)
    share = spend(level, before, company)
    return [
        _judged(base, candidate, primary, guards, p, share, share / max(company, 1))
        for candidate, (primary, guards), p in zip(candidates, found, holm(p_values), strict=True)
    ]


def _judged(
    base: Trial,
    candidate: Trial,
    primary: Difference | None,
    guards: dict[str, Difference],
    p: float | None,
    level: float,
    own_level: float,
) -> Judgement:
    def said(verdict: str, reason: str, needs: str = "") -> Judgement:
        return Judgement(candidate, primary, guards, p, level, verdict, reason, needs)

    if candidate.failed:
        return said("failed", candidate.failed)
    if primary is None:
        seeds = len(_common_seeds(base, candidate))
        if seeds < 2:
            return said("unresolved", "one seed says nothing of training's noise", f"{MIN_SEEDS - 1} more seeds")
        return said("unresolved", f"fewer than {MIN_DAYS} days on which both have a RankIC", "a longer valid period")
    if primary.se == 0:
        same = primary.value == 0
        reason = (
            "the two never differ: the change changes nothing"
            if same
            else "a difference without any noise is no measurement"
        )
        return said("unresolved", reason)
    net = guards.get("net")
    if net is not None and net.p_lower < GUARD_LEVEL:
        return said("rejected", "the net return is lower beyond noise")
    if primary.p_lower < GUARD_LEVEL:
        return said("rejected", "the RankIC is lower beyond noise")
    if p is None:
        return said("unresolved", f"{primary.seeds} seeds", f"{MIN_SEEDS - primary.seeds} more seeds")
    for name, difference in (("RankIC", primary), ("net return", net)):
        if difference is not None and difference.dropped > MOST_DROPPED * (difference.days + difference.dropped):
            return said(
                "unresolved", f"the candidate has no {name} on {difference.dropped} days on which the base has one"
            )
    if net is None and has_number(base, "net"):
        return said("unresolved", "the candidate's net return is not known on all seeds, and it guards the verdict")
    if p <= level:
        guarded = "the net return not lower" if net is not None else "neither has a portfolio to compare"
        return said("accepted", f"the RankIC is higher beyond noise, {guarded}")
    if primary.value <= 0:
        return said("unresolved", "within noise, and nothing speaks for it so far")
    return said("unresolved", "within noise", what_resolves(primary, own_level))


def what_resolves(primary: Difference, level: float) -> str:
    """Days or seeds that are missing to tell a difference above 0 of this size apart four times in five."""
    z = stats.norm.isf(level) + stats.norm.ppf(POWER)
    allowed = (primary.value / z) ** 2
    days = primary.days_variance * primary.days / (allowed - primary.seeds_variance)
    seeds = primary.seeds_variance * primary.seeds / (allowed - primary.days_variance)
    ways = [
        f"{ceil(days - primary.days):,} more days" if 0 < days < 1e6 else "",
        f"{max(ceil(seeds - primary.seeds), 1):,} more seeds" if 0 < seeds < 1e4 else "",
    ]
    both = (primary.days_variance + primary.seeds_variance) / allowed
    return " or ".join(way for way in ways if way) or f"{both:,.0f} times the days and the seeds"


def _compared(base: Trial, candidate: Trial) -> tuple[Difference | None, dict[str, Difference]]:
    if base.failed:
        raise InputError(f"{base.name}: {base.failed}: nothing to compare with")
    if candidate.failed:
        return None, {}
    _check_alike(base, candidate)
    seeds = _common_seeds(base, candidate)
    both = [(number, horizon) for number, horizon in _numbers(base) if (number, horizon) in _numbers(candidate)]
    found = {}
    for number, horizon in both:
        one, other = (series(trial, number, horizon, seeds) for trial in (base, candidate))
        if not one[0].equals(other[0]):
            raise InputError(
                f"{candidate.name}: was scored on other dates or folds than {base.name}; "
                "run both with the same `split` on the same data"
            )
        difference = paired_difference(one[1], other[1], horizon)
        if difference is not None:
            found[number if horizon == base.horizon else f"{number}_h{horizon}"] = difference
    primary = found.pop("rank_ic", None)
    return primary, found


def _check_alike(base: Trial, candidate: Trial) -> None:
    """Refuse to compare what was not measured alike."""
    if candidate.market != base.market:
        raise InputError(
            f"{candidate.name}: was scored on another market ({candidate.market}) than {base.name} ({base.market})"
        )
    if candidate.horizon != base.horizon:
        raise InputError(
            f"{candidate.name}: primary horizon {candidate.horizon}, {base.name} has {base.horizon}; "
            "set evaluate.primary_horizon alike"
        )
    one, other = base.yardstick or {}, candidate.yardstick or {}
    if differ := [knob for knob in YARDSTICK if one and other and one.get(knob) != other.get(knob)]:
        raise InputError(
            f"{candidate.name}: was measured by another yardstick: {differ[0]} {other.get(differ[0])}, {base.name} has "
            f"{one.get(differ[0])}"
        )
    if not _common_seeds(base, candidate):
        raise InputError(f"{candidate.name}: shares no seed with {base.name}; run both with the same `seeds`")


def _common_seeds(base: Trial, candidate: Trial) -> list[int]:
    return sorted(set(base.daily["seed"]) & set(candidate.daily["seed"]))


def _numbers(trial: Trial) -> list[tuple[str, int]]:
    """What is compared: everything at the primary horizon, the RankIC at the others."""
    keys = ("date", "fold", "seed", "horizon")
    primary = [(name, trial.horizon) for name in trial.daily.columns if name not in keys]
    others = sorted(set(trial.daily["horizon"]) - {trial.horizon})
    return primary + [("rank_ic", horizon) for horizon in others]


def series(trial: Trial, number: str, horizon: int, seeds: Sequence[int]) -> tuple[pl.DataFrame, Array]:
    """`date, fold` of the days and the number [seed, day], NaN where undefined."""
    rows = trial.daily.filter(pl.col("horizon") == horizon)
    tables = [rows.filter(pl.col("seed") == seed).sort("date") for seed in seeds]
    days = tables[0].select("date", "fold")
    if not all(table.select("date", "fold").equals(days) for table in tables):
        raise InputError(f"{trial.name}: its seeds were scored on different dates")
    values = [table[number].cast(pl.Float64).fill_null(np.nan).to_numpy() for table in tables]
    return days, np.stack(values)


def over_seeds(trial: Trial, number: str) -> pl.DataFrame:
    """`date` and the number at the primary horizon, mean over seeds; days on which it is undefined are left out."""
    rows = trial.daily.filter(pl.col("horizon") == trial.horizon)
    mean = rows.group_by("date").agg(pl.col(number).mean(), lost=pl.col(number).null_count()).sort("date")
    return mean.filter(pl.col("lost") == 0).select("date", number).drop_nulls()


def worse(name: str, difference: Difference) -> bool | None:
    """Whether a guard number moved for the worse (True), the better (False), or within its noise (None)."""
    up, down = difference.p_higher < GUARD_LEVEL, difference.p_lower < GUARD_LEVEL
    if not up and not down:
        return None
    return up == (name.split("_h")[0] in LOWER_IS_BETTER)


def has_number(trial: Trial, number: str) -> bool:
    """Whether the trial has it on any day, at the primary horizon."""
    rows = trial.daily.filter(pl.col("horizon") == trial.horizon)
    return len(finite(rows[number].cast(pl.Float64).to_numpy())) > 0
