"""Is a change better, or was it luck? Two models on the same dates, folds and seeds.

The difference of their daily RankIC has two sources of noise: the days (a model that is equally
good wins some years) and the training (the same model with another seed wins some). Both count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from atft.errors import InputError
from atft.evaluation.metrics import finite
from atft.evaluation.significance import holm, newey_west_variance

Array = NDArray[np.float64]

MIN_SEEDS = 5
MIN_DAYS = 60
POWER = 0.8  # that "so many more days would resolve it" promises
GUARD_LEVEL = 0.05
LOWER_IS_BETTER = {"turnover"}


@dataclass(frozen=True)
class Trial:
    """The daily `valid` series of one revision, and where they come from.

    Attributes:
        name: What the user calls it; rev: the commit, or workspace.
        market: What was traded: trials of one market share their luck.
        horizon: The primary one.
        daily: `date, fold, seed, horizon` and numbers; rows of the valid blocks alone.
        params: Flat, section.knob -> value.
        stocks: Ranked a day.
        failed: Why it has no series, or None.
    """

    name: str
    rev: str
    market: str
    horizon: int
    daily: pl.DataFrame
    params: dict[str, object]
    stocks: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Difference:
    """Candidate less base, mean over days and seeds.

    Attributes:
        value: The mean; base: the base's own.
        days_variance, seeds_variance: Of the mean, by source.
        freedom: Degrees of freedom of the t distribution that `value / se` is held against.
        days, seeds: Behind it.
    """

    value: float
    base: float
    days_variance: float
    seeds_variance: float
    freedom: float
    days: int
    seeds: int

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

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the true difference lies with this confidence."""
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
    1.5 T / (lags + 1), those of Bartlett's weights, for the days. See tests/evaluation/test_verdict.py
    for the error rates.

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
    freedom = (by_days + by_seeds) ** 2 / spread if spread > 0 else float("inf")
    return Difference(float(difference.mean()), float(base[:, known].mean()), by_days, by_seeds, freedom, days, seeds)


def judge(base: Trial, candidates: Sequence[Trial], level: float) -> list[Judgement]:
    """One judgement per candidate; `level` is what all of them together may spend (see `ledger.spend`).

    Accepted: the RankIC is higher (Holm over the candidates) and the net return not lower beyond noise.
    Rejected: the RankIC or the net return is lower beyond noise. Unresolved: all else.

    Raises:
        InputError: When a candidate was not scored on the dates and folds of the base.
    """
    found = [_compared(base, candidate) for candidate in candidates]
    p_values = [primary.p_higher if primary and primary.seeds >= MIN_SEEDS else None for primary, _ in found]
    return [
        _judged(candidate, primary, guards, p, level, level / len(candidates))
        for candidate, (primary, guards), p in zip(candidates, found, holm(p_values), strict=True)
    ]


def _judged(
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
        return said("unresolved", f"fewer than two common seeds or {MIN_DAYS} common days", f"{MIN_SEEDS} seeds")
    if primary.se == 0:
        return said("unresolved", "the two never differ: the change changes nothing")
    net = guards.get("net")
    if net is not None and net.p_lower < GUARD_LEVEL:
        return said("rejected", "the net return is lower beyond noise")
    if primary.p_lower < GUARD_LEVEL:
        return said("rejected", "the RankIC is lower beyond noise")
    if p is None:
        return said("unresolved", f"{primary.seeds} seeds", f"{MIN_SEEDS - primary.seeds} more seeds")
    if p <= level:
        return said("accepted", "the RankIC is higher beyond noise, the net return not lower")
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
    return " or ".join(way for way in ways if way) or f"{both:.1f} times the days and the seeds"


def _compared(base: Trial, candidate: Trial) -> tuple[Difference | None, dict[str, Difference]]:
    if base.failed:
        raise InputError(f"{base.name}: {base.failed}: nothing to compare with")
    if candidate.failed:
        return None, {}
    if candidate.horizon != base.horizon:
        raise InputError(
            f"{candidate.name}: primary horizon {candidate.horizon}, {base.name} has {base.horizon}; "
            "set evaluate.primary_horizon alike"
        )
    seeds = sorted(set(base.daily["seed"]) & set(candidate.daily["seed"]))
    if not seeds:
        raise InputError(f"{candidate.name}: shares no seed with {base.name}; run both with the same `seeds`")
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


def has_series(daily: pl.DataFrame) -> bool:
    """Whether any RankIC is there to be judged."""
    return len(finite(daily["rank_ic"].cast(pl.Float64).to_numpy())) > 0
