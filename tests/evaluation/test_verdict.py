"""The verdict's error rates on a world whose truth is known, and what it says at the edges."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from scipy.signal import lfilter

from atft.errors import InputError
from atft.evaluation.significance import diebold_mariano
from atft.evaluation.verdict import MIN_SEEDS, Trial, judge, paired_difference, spend, what_resolves

HORIZON, DAYS, SEEDS = 5, 250, 5
NOISE = 0.05  # standard deviation of a day's difference of RankIC


def world(rng: np.random.Generator, draws: int, effect: float = 0.0, seed_noise: float = 1.0) -> np.ndarray:
    """Differences of RankIC [draw, seed, day] as two models of one kind have them.

    Days overlap as labels of `HORIZON` days do, half of a day's noise is common to the seeds, and each seed
    leads or lags for good by a normal draw. `effect` and `seed_noise` are in standard errors of the mean
    that the days alone cause.
    """

    def overlapping(shape: tuple[int, ...]) -> np.ndarray:
        shocks = rng.normal(size=(*shape[:-1], shape[-1] + HORIZON))
        return lfilter(np.ones(HORIZON) / np.sqrt(HORIZON), [1.0], shocks)[..., HORIZON:]

    day, own = overlapping((draws, 1, DAYS)), overlapping((draws, SEEDS, DAYS))
    error = np.sqrt(HORIZON / DAYS * (0.5 + 0.5 / SEEDS))
    lead = rng.normal(size=(draws, SEEDS, 1)) * seed_noise + effect
    return NOISE * (np.sqrt(0.5) * day + np.sqrt(0.5) * own + error * lead)


def p_values(differences: np.ndarray) -> np.ndarray:
    found = [paired_difference(np.zeros_like(d), d, HORIZON) for d in differences]
    return np.array([f.p_higher for f in found if f is not None])


@pytest.mark.parametrize("seed_noise", [0.0, 1.0, 2.0])
def test_a_change_without_effect_is_seldom_called_better(seed_noise: float) -> None:
    """At most 5 % of nulls below .05, and no more than chance allows at the levels that many candidates leave."""
    p = p_values(world(np.random.default_rng(1), 3000, seed_noise=seed_noise))
    assert (p < 0.05).mean() < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / 3000)
    assert (p < 0.025).mean() < 0.035
    assert (p < 0.0025).mean() < 0.004
    assert (p < 0.05).mean() > 0.015  # nor does it sleep


def test_days_alone_would_be_fooled_by_training() -> None:
    """Diebold and Mariano on the seed average: seeds that differ as much as days do double its errors, or worse."""
    differences = world(np.random.default_rng(2), 1500, seed_noise=2.0)
    dm = [diebold_mariano(d.mean(0), 7, HORIZON) for d in differences]
    fooled = np.mean([found is not None and found[1] > 0 and found[2] / 2 < 0.05 for found in dm])
    assert fooled > 0.10
    assert (p_values(differences) < 0.05).mean() < 0.065


@pytest.mark.parametrize(("effect", "power"), [(2.5, 0.5), (3.5, 0.8), (5.0, 0.97)])
def test_a_planted_effect_is_found_with_the_stated_power(effect: float, power: float) -> None:
    """The first candidate of a market (level .025), effect in standard errors of the days."""
    p = p_values(world(np.random.default_rng(3), 600, effect=effect))
    assert (p < spend(0.05, 0, 1)).mean() > power


def days_of(count: int) -> list[date]:
    return [date(2015, 1, 1) + timedelta(days=i) for i in range(count)]


def trial(name: str, rank_ic: np.ndarray, net: np.ndarray | None = None, seeds: Sequence[int] | None = None) -> Trial:
    """A trial of [seed, day] series."""
    count, days = rank_ic.shape
    net = np.random.default_rng(9).normal(0, 0.01, (1, days)).repeat(count, 0) if net is None else net
    seeds = list(range(count)) if seeds is None else seeds
    daily = pl.DataFrame(
        {
            "date": days_of(days) * count,
            "fold": [0] * (days * count),
            "seed": np.repeat(seeds, days),
            "horizon": [HORIZON] * (days * count),
            "rank_ic": rank_ic.ravel(),
            "net": net.ravel(),
        }
    ).with_columns(pl.col("rank_ic", "net").fill_nan(None))
    return Trial(name, "0" * 40, "a market", HORIZON, daily, {})


@pytest.mark.parametrize("seed_noise", [0.0, 2.0])
def test_twenty_null_candidates_do_not_fool_it_together_or_one_by_one(seed_noise: float) -> None:
    """Submitted together (Holm) or one after the other (what is left of the level shrinks): 5 % at most accept any."""
    draws = 600
    p = p_values(world(np.random.default_rng(4), draws * 20, seed_noise=seed_noise)).reshape(draws, 20)
    together = p.min(1) <= spend(0.05, 0, 20) / 20
    in_turn = (p <= np.array([spend(0.05, k, 1) for k in range(20)])).any(1)
    naive = (p <= 0.05).any(1)
    assert together.mean() <= 0.05 + np.sqrt(0.05 * 0.95 / draws)
    assert in_turn.mean() <= 0.05 + np.sqrt(0.05 * 0.95 / draws)
    assert naive.mean() > 0.4  # what it would be without


def test_the_level_is_spent_once() -> None:
    assert sum(spend(0.05, k, 1) for k in range(1000)) < 0.05
    assert spend(0.05, 0, 20) == pytest.approx(sum(spend(0.05, k, 1) for k in range(20)))


def base_and(change: np.ndarray, net_change: np.ndarray | float = 0.0) -> tuple[Trial, Trial]:
    rng = np.random.default_rng(5)
    ic, net = rng.normal(0.02, 0.1, (SEEDS, DAYS)), rng.normal(0, 0.01, (SEEDS, DAYS))
    return trial("base", ic, net), trial("candidate", ic + change, net + net_change)


def test_better_is_accepted_worse_rejected_and_noise_unresolved() -> None:
    noise = world(np.random.default_rng(6), 1)[0]
    for shift, verdict in ((0.05, "accepted"), (-0.05, "rejected"), (0.0, "unresolved")):
        base, candidate = base_and(noise - noise.mean() + shift)
        (found,) = judge(base, [candidate], 0.05, 0)
        assert found.verdict == verdict, found
        assert found.primary is not None
        assert found.primary.value == pytest.approx(shift, abs=1e-12)


def test_a_loss_of_net_return_beyond_noise_is_rejected_however_good_the_ranks() -> None:
    noise = world(np.random.default_rng(6), 1)[0]
    losing = np.random.default_rng(7).normal(-0.002, 0.004, (SEEDS, DAYS))
    base, candidate = base_and(noise + 0.05, losing)
    (found,) = judge(base, [candidate], 0.05, 0)
    assert found.verdict == "rejected"
    assert "net return" in found.reason


def test_too_few_seeds_are_unresolved_and_it_says_how_many_more() -> None:
    base, candidate = base_and(np.full((SEEDS, DAYS), 0.05) + world(np.random.default_rng(6), 1)[0])
    few = [Trial(t.name, t.rev, t.market, t.horizon, t.daily.filter(pl.col("seed") < 3), {}) for t in (base, candidate)]
    (found,) = judge(few[0], [few[1]], 0.05, 0)
    assert found.verdict == "unresolved"
    assert found.needs == f"{MIN_SEEDS - 3} more seeds"
    one = [Trial(t.name, t.rev, t.market, t.horizon, t.daily.filter(pl.col("seed") < 1), {}) for t in (base, candidate)]
    assert judge(one[0], [one[1]], 0.05, 0)[0].verdict == "unresolved"


def test_a_change_that_changes_nothing_is_said_to_change_nothing() -> None:
    base, candidate = base_and(np.zeros((SEEDS, DAYS)))
    (found,) = judge(base, [candidate], 0.05, 0)
    assert found.verdict == "unresolved"
    assert "changes nothing" in found.reason


def test_what_it_asks_for_resolves_it() -> None:
    """With the days it names, a difference of that size is told apart four times in five."""
    rng = np.random.default_rng(8)
    shift = 2.0 * NOISE * np.sqrt(HORIZON / DAYS * 0.6)
    found = paired_difference(np.zeros((SEEDS, DAYS)), _exactly(world(rng, 1, seed_noise=0.0)[0], shift), HORIZON)
    assert found is not None
    text = what_resolves(found, 0.025)
    assert "more days" in text
    more = int(text.split(" more days")[0].replace(",", ""))
    # Days and seeds' parts of the variance, as measured, at that length.
    variance = found.days_variance * DAYS / (DAYS + more) + found.seeds_variance
    assert shift / np.sqrt(variance) == pytest.approx(1.96 + 0.84, abs=0.02)


def _exactly(difference: np.ndarray, mean: float) -> np.ndarray:
    return difference - difference.mean() + mean


def test_days_that_one_of_them_lacks_do_not_count() -> None:
    base, candidate = base_and(world(np.random.default_rng(6), 1)[0])
    lost = candidate.daily.with_columns(
        rank_ic=pl.when(pl.col("date") < days_of(11)[10], pl.col("seed") == 0).then(None).otherwise("rank_ic")
    )
    holed = Trial("holed", "1", "a market", HORIZON, lost, {})
    (found,) = judge(base, [holed], 0.05, 0)
    assert found.primary is not None
    assert found.primary.days == DAYS - 10


def test_other_dates_folds_or_horizons_are_refused() -> None:
    base, candidate = base_and(np.zeros((SEEDS, DAYS)))
    short = Trial("short", "1", "a market", HORIZON, candidate.daily.filter(pl.col("date") > days_of(2)[1]), {})
    with pytest.raises(InputError, match="short: was scored on other dates or folds than base"):
        judge(base, [short], 0.05, 0)
    folds = Trial("folds", "1", "a market", HORIZON, candidate.daily.with_columns(fold=pl.lit(1)), {})
    with pytest.raises(InputError, match="other dates or folds"):
        judge(base, [folds], 0.05, 0)
    with pytest.raises(InputError, match="primary horizon 10, base has 5"):
        judge(base, [Trial("ten", "1", "a market", 10, candidate.daily, {})], 0.05, 0)
    with pytest.raises(InputError, match="shares no seed"):
        judge(base, [trial("late", np.zeros((SEEDS, DAYS)), seeds=range(10, 15))], 0.05, 0)


def test_a_failed_candidate_is_failed_and_counts_among_its_company() -> None:
    noise = world(np.random.default_rng(6), 1)[0]
    base, candidate = base_and(noise - noise.mean() + 0.012)
    alone = judge(base, [candidate], 0.05, 0)[0]
    failed = Trial("crash", "none", "a market", HORIZON, base.daily.clear(), {}, failed="out of memory")
    both = judge(base, [candidate, failed], 0.05, 0)
    assert both[1].verdict == "failed"
    assert both[1].reason == "out of memory"
    assert alone.p is not None
    assert both[0].p == pytest.approx(2 * alone.p)


def test_without_its_net_return_nothing_is_accepted() -> None:
    """Leaving out what the guard guards does not pass it; where neither has a book, ranks decide and it says so."""
    noise = world(np.random.default_rng(6), 1)[0]
    base, good = base_and(noise - noise.mean() + 0.05)
    silent = replace(good, daily=good.daily.with_columns(net=pl.when(pl.col("seed") < 4).then("net")))
    (found,) = judge(base, [silent], 0.05, 0)
    assert found.verdict == "unresolved"
    assert "net return" in found.reason
    bookless = [replace(t, daily=t.daily.with_columns(net=pl.lit(None, pl.Float64))) for t in (base, good)]
    (found,) = judge(bookless[0], [bookless[1]], 0.05, 0)
    assert found.verdict == "accepted"
    assert "neither has a portfolio" in found.reason


def test_silence_on_bad_days_is_not_skill() -> None:
    base, candidate = base_and(world(np.random.default_rng(6), 1)[0])
    change = (candidate.daily["rank_ic"] - base.daily["rank_ic"]).to_numpy().reshape(SEEDS, DAYS).mean(0)
    bad = [day for day, value in zip(days_of(DAYS), change, strict=True) if value < 0.0]
    chosen = candidate.daily.with_columns(rank_ic=pl.when(~pl.col("date").is_in(bad)).then("rank_ic"))
    (found,) = judge(base, [replace(candidate, daily=chosen)], 0.05, 0)
    assert found.primary is not None
    assert found.primary.p_higher < 0.01
    assert found.verdict == "unresolved"
    assert f"no RankIC on {len(bad)} days" in found.reason


def test_another_market_or_yardstick_is_refused() -> None:
    base, candidate = base_and(np.zeros((SEEDS, DAYS)))
    with pytest.raises(InputError, match="was scored on another market"):
        judge(base, [replace(candidate, market="elsewhere")], 0.05, 0)
    knobs = {"evaluate.cost_bps": 10, "data.min_dollar_volume": 0}
    for knob in knobs:
        other = replace(candidate, params=knobs | {knob: 5})
        with pytest.raises(InputError, match=f"another yardstick: {knob} 5, base has"):
            judge(replace(base, params=knobs), [other], 0.05, 0)
        with pytest.raises(InputError, match=f"another yardstick: {knob} 5, base has"):
            judge(replace(base, kept=knobs), [other], 0.05, 0)


def test_a_difference_without_noise_is_no_measurement() -> None:
    base, candidate = base_and(np.full((SEEDS, DAYS), 0.25))
    (found,) = judge(base, [candidate], 0.05, 0)
    assert found.verdict == "unresolved"


def test_who_cannot_be_accepted_spends_nothing() -> None:
    base, candidate = base_and(world(np.random.default_rng(6), 1)[0])
    few = replace(candidate, name="few", daily=candidate.daily.filter(pl.col("seed") < 3))
    together = judge(base, [candidate, few], 0.05, 0)
    assert together[0].level == pytest.approx(0.025)
