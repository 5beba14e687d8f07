"""What the report says of scores that cannot be good, of scores that must be, and of days nobody knew."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.stats import rankdata

from atft.evaluation.facts import Rules, Scores, book_facts, date_facts, stacked
from atft.evaluation.market import Market
from atft.evaluation.report import Report, evaluate_scores, headline
from atft.evaluation.series import valid_series
from atft.panel.oracle import read_oracle
from atft.panel.simulate import PARTS
from conftest import World
from evaluation.judged import RULES, market_of, parts_of

ROLES = {"stop": (70, 95), "valid": (100, 150), "test": (150, 200)}
BOOK = (
    "sharpe", "sharpe_net", "sharpe_lo", "probabilistic_sharpe", "probabilistic_sharpe_null", "sortino", "calmar",
    "max_drawdown", "hit_rate", "annual_return", "annual_return_net", "turnover", "turnover_sleeves", "break_even_bps",
    "capacity", "capacity_half", "market_beta", "market_beta_t", "beta_held", "sector_exposure",
    "sector_exposure_squared", "sharpe_net_low", "sharpe_net_high", "icir_per_turnover", "sharpe_by_cost", "long_only",
)  # fmt: skip
# What is true of the dates and the market, whatever is ranked.
WHATEVER = {
    "seeds", "days", "from", "to", "stocks_per_day", "reversal_rank_ic", "reversal_rank_ic_t", "reversal_sharpe",
    "reversal_sharpe_net", "market_sharpe", "oracle_rank_ic", "oracle_sharpe_net",
}  # fmt: skip


@pytest.fixture(scope="module")
def market(world: World) -> Market:
    return Market.of(world.panel)


@pytest.fixture(scope="module")
def oracle(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    file = tmp_path_factory.mktemp("oracle") / "oracle.parquet"
    world.market.oracle.write_parquet(file)
    found = read_oracle(file, world.panel)
    assert found is not None
    return found


def noise(market: Market, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=market.tradable.shape)


def report_of(market: Market, score: np.ndarray, rules: Rules = RULES, **knobs: Any) -> Report:
    return evaluate_scores(parts_of(market, score, ROLES), market, rules, **knobs)


def summary_of(market: Market, score: np.ndarray, **knobs: Any) -> dict[str, Any]:
    return report_of(market, score, **knobs).summary["valid", 5]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every number of a summary, with the names that lead to it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}.{key}" if name else key)
    else:
        yield name, value


def tables(report: Report) -> dict[str, pl.DataFrame]:
    return {name: getattr(report, name) for name in ("daily", "breakdown", "decay", "quantiles", "drift")}


def assert_nothing_is_nan(report: Report) -> None:
    for name, table in tables(report).items():
        for column in table.select(pl.col(pl.Float64)).columns:
            assert table[column].is_finite().all(), f"{name}.{column}"
    json.dumps(headline(report.summary, 5), allow_nan=False)


def assert_same(one: Report, two: Report, role: str | None = None) -> None:
    """Byte for byte; of one role alone where asked."""
    for key in one.summary:
        if role in (None, key[0]):
            assert one.summary[key] == two.summary[key], key
    for name, table in tables(one).items():
        other = tables(two)[name]
        both = (table, other) if role is None else (t.filter(pl.col("role") == role) for t in (table, other))
        assert pl.DataFrame.equals(*both), name


# --- scores that must be good ---------------------------------------------------------------------


def test_perfect_foresight_is_perfect(market: Market, oracle: dict[str, np.ndarray]) -> None:
    report = report_of(market, np.nan_to_num(market.forward_return), oracle=oracle)
    for horizon in (1, 5):
        result = report.summary["valid", horizon]
        assert result["rank_ic"] == pytest.approx(1)
        assert result["monotonicity"] == pytest.approx(1)
        assert result["captured_share"] == pytest.approx(1 / result["oracle_rank_ic"])
        assert result["sharpe_net"] > 10
        assert result["precision_median"] > 0.99
        assert result["icir"] is None, "it never varies"
    assert_nothing_is_nan(report)


def test_foresight_of_five_days_is_worth_nothing_from_the_sixth_on(market: Market) -> None:
    later = replace(market, horizons=(5, 10), forward_return=np.nan_to_num(market.forward_return[..., [1, 1]]))
    score = np.nan_to_num(market.forward_return[..., 1])
    decay = evaluate_scores(parts_of(later, score, ROLES), later, RULES).decay
    decay = decay.filter((pl.col("role") == "valid") & (pl.col("horizon") == 5))
    assert decay["cumulative"].arg_max() == 4
    assert decay["marginal"][:5].min() > 0.2
    assert decay["marginal"][5:].abs().max() < 0.1


def test_the_oracle_is_captured_whole_by_itself(market: Market, oracle: dict[str, np.ndarray]) -> None:
    report = report_of(market, np.sum(list(oracle.values()), axis=0), oracle=oracle)
    for horizon in (1, 5):
        result = report.summary["valid", horizon]
        assert result["captured_share"] == pytest.approx(1)
        assert result["sharpe_net"] == pytest.approx(result["oracle_sharpe_net"])
        assert result["sees_peer"] > 0.4
        assert {f"sees_{part}" for part in PARTS} <= set(result)


def test_what_sees_one_part_of_the_oracle_sees_no_other(market: Market, oracle: dict[str, np.ndarray]) -> None:
    result = summary_of(market, oracle["volume"], oracle=oracle)
    assert result["sees_volume"] == pytest.approx(1)
    assert all(abs(result[f"sees_{part}"]) < 0.3 for part in PARTS if part != "volume")


def test_reversal_beside_the_model_is_reversal_as_a_model(market: Market) -> None:
    """Judged by the plain rules: what is tuned on the model's book does not help the baseline."""
    result = summary_of(market, market.reversal())
    for name in ("rank_ic", "rank_ic_t", "sharpe", "sharpe_net"):
        assert result[name] == pytest.approx(result[f"reversal_{name}"]), name
    assert (result["over_reversal_rank_ic"], result["over_reversal_rank_ic_t"]) == (0, None)
    luck = summary_of(market, noise(market))
    assert luck["over_reversal_rank_ic"] == pytest.approx(luck["rank_ic"] - luck["reversal_rank_ic"])
    tuned = replace(RULES, smoothing=0.8, exit_quantile=0.3, trade_share=0.5, neutral="beta_sector")
    other = summary_of(market, market.reversal(), rules=tuned)
    assert other["reversal_sharpe_net"] == result["reversal_sharpe_net"]
    assert other["sharpe_net"] != result["sharpe_net"]


# --- scores that cannot be good -------------------------------------------------------------------


def test_noise_has_no_skill_within_its_band_and_pays_its_costs(market: Market) -> None:
    results = [summary_of(market, noise(market, seed)) for seed in range(20)]
    ics = np.array([result["rank_ic"] for result in results])
    assert abs(ics.mean()) < 3 * ics.std() / np.sqrt(20)
    # 95 % bands of 50 days are a little narrow: two to three of twenty miss.
    assert sum(result["rank_ic_low"] < 0 < result["rank_ic_high"] for result in results) >= 16
    assert sum(abs(result["rank_ic_t"]) < 2.5 for result in results) >= 17
    assert sum(result["sharpe_net_low"] < 0 for result in results) >= 19
    assert all(result["sharpe_net"] < result["sharpe"] for result in results)


def test_against_shuffled_labels_even_foresight_has_no_skill(market: Market) -> None:
    foresight, ics, inside = market.forward_return, [], 0
    rng = np.random.default_rng(3)
    for _ in range(20):
        shuffled = foresight.copy()
        for day in range(100, 150):
            known = np.flatnonzero(np.isfinite(foresight[day, :, 1]))
            shuffled[day, known] = foresight[day, rng.permutation(known)]
        result = summary_of(replace(market, forward_return=shuffled), np.nan_to_num(foresight))
        ics.append(result["rank_ic"])
        inside += result["rank_ic_low"] < 0 < result["rank_ic_high"]
    assert abs(np.mean(ics)) < 3 * np.std(ics) / np.sqrt(20)
    assert inside >= 16


@pytest.mark.parametrize("value", [0.0, 0.3, -2.0])
@pytest.mark.parametrize("rules", [RULES, replace(RULES, smoothing=0.5, exit_quantile=0.3, neutral="beta_sector")])
def test_constant_scores_are_null_everywhere(
    market: Market, oracle: dict[str, np.ndarray], value: float, rules: Rules
) -> None:
    """No opinion is neither a RankIC of 0 nor a book that turns over nothing and loses to the market."""
    report = report_of(market, np.full(market.tradable.shape, value), rules, oracle=oracle)
    for summary in report.summary.values():
        named = {name: found for name, found in leaves(summary) if name.split(".")[0] not in WHATEVER}
        assert {name: found for name, found in named.items() if found is not None} == {}
        assert {name for name in WHATEVER if summary[name] is None} == set()
    axes = {"role", "horizon", "seed", "fold", "date", "lag", "quantile", "kind", "group", "days"}
    for name, table in tables(report).items():
        said = table.drop(axes, strict=False)
        assert said.null_count().sum_horizontal().item() == said.height * said.width, name
    assert report.breakdown["days"].sum() == 0


def test_nothing_is_nan_whatever_is_missing(market: Market, oracle: dict[str, np.ndarray]) -> None:
    score = noise(market)
    score[110:130] = 0.0  # no opinion for a month
    score[140, 3:] = np.nan  # hardly anybody is ranked
    assert_nothing_is_nan(report_of(market, score, oracle=oracle))
    assert_nothing_is_nan(report_of(market, score, tradable_roles=()))


# --- symmetries -----------------------------------------------------------------------------------


def test_sign_flip_negates(market: Market) -> None:
    up, down = (report_of(market, sign * noise(market, 1)).summary for sign in (1, -1))
    for horizon in (1, 5):
        one, two = up["valid", horizon], down["valid", horizon]
        for name in ("rank_ic", "ic", "neutral_rank_ic", "label_rank_ic", "rank_ic_t", "icir", "sharpe_roadmap"):
            assert one[name] == pytest.approx(-two[name]), name
        assert one["rank_ic_low"] == pytest.approx(-two["rank_ic_high"], abs=0.003)
        assert one["stocks_per_day"] == two["stocks_per_day"]
    # Sleeves of a day carry nothing over; longer ones drift by their own capital's growth, a trifle.
    assert up["valid", 1]["annual_return"] == pytest.approx(-down["valid", 1]["annual_return"])
    assert up["valid", 5]["annual_return"] == pytest.approx(-down["valid", 5]["annual_return"], rel=0.1)


def test_permuting_stocks_permutes_nothing_in_the_summary(market: Market, oracle: dict[str, np.ndarray]) -> None:
    order = np.random.default_rng(2).permutation(len(market.codes))
    arrays = ("daily_return", "has_bar", "can_trade", "tradable", "forward_return", "label", "money_traded", "sector")
    moved = replace(
        market,
        codes=[market.codes[i] for i in order],
        **{name: np.ascontiguousarray(getattr(market, name)[:, order]) for name in arrays},
    )
    rules = replace(RULES, smoothing=0.3, exit_quantile=0.2, neutral="beta_sector")
    one = report_of(market, noise(market), rules, oracle=oracle)
    two = report_of(
        moved, noise(market)[:, order], rules, oracle={part: values[:, order] for part, values in oracle.items()}
    )
    for key, summary in one.summary.items():
        for (name, a), (other, b) in zip(leaves(summary), leaves(two.summary[key]), strict=True):
            assert name == other
            assert a == (pytest.approx(b, rel=1e-4, abs=1e-6) if isinstance(a, float) else b), (key, name)


def test_a_monotone_transform_changes_neither_ranks_nor_book(market: Market) -> None:
    score = noise(market)
    one, two = (summary_of(market, x) for x in (score, np.exp(score)))
    bent = {"ic", "sharpe_roadmap", "psi", "psi_worst", "psi_band", "psi_alerts"}  # about size, by their definition
    for (name, a), (_, b) in zip(leaves(one), leaves(two), strict=True):
        assert a == b or name in bent, name
    assert one["ic"] != two["ic"]


# --- seeds ----------------------------------------------------------------------------------------


def test_two_seeds_are_averaged(market: Market) -> None:
    each = [report_of(market, noise(market, seed)).summary["valid", 5] for seed in (0, 1)]
    parts = [part for seed in (0, 1) for part in parts_of(market, noise(market, seed), ROLES, seed)]
    report = evaluate_scores(parts, market, RULES)
    both = report.summary["valid", 5]
    for name in ("rank_ic", "ic", "icir", "sharpe", "sharpe_net", "turnover", "max_drawdown", "precision", "psi"):
        assert both[name] == pytest.approx(np.mean([one[name] for one in each])), name
    assert both["long_only"]["sharpe_net"] == pytest.approx(np.mean([one["long_only"]["sharpe_net"] for one in each]))
    for name in ("rank_ic", "sharpe_net"):
        assert both[f"{name}_seed_std"] == pytest.approx(np.std([one[name] for one in each], ddof=1))
        assert each[0][f"{name}_seed_std"] is None
    assert both["seeds"] == 2
    assert report.daily.filter(pl.col("role") == "valid").group_by("horizon", "seed").len()["len"].to_list() == [50] * 4
    averaged = report.daily.filter((pl.col("role") == "valid") & (pl.col("horizon") == 5)).group_by("date").agg(
        pl.col("rank_ic").mean()
    )  # fmt: skip
    assert both["rank_ic"] == pytest.approx(averaged["rank_ic"].mean())


def test_the_same_seed_twice_changes_no_number_but_the_seeds(market: Market) -> None:
    """Averaged per date first: a copy adds no certainty."""
    one = summary_of(market, noise(market))
    parts = [part for seed in (0, 1) for part in parts_of(market, noise(market), ROLES, seed)]
    two = evaluate_scores(parts, market, RULES).summary["valid", 5]
    together = two.pop("ensemble")
    assert together == {name: pytest.approx(one[name]) for name in together}
    differ = {"seeds", "rank_ic_seed_std", "sharpe_net_seed_std", "psi_alerts"}
    for (name, a), (_, b) in zip(leaves(one), leaves(two), strict=True):
        assert name in differ or a == (pytest.approx(b) if isinstance(a, float) else b), name


def test_the_seeds_as_one_are_their_mean_rank(market: Market) -> None:
    scores = [noise(market, seed) for seed in (0, 1, 2)]
    parts = [part for seed, score in enumerate(scores) for part in parts_of(market, score, ROLES, seed)]
    together = evaluate_scores(parts, market, RULES).summary["valid", 5]["ensemble"]
    ranked = np.where(market.tradable, np.stack(scores), np.nan)
    ranks = np.mean([rankdata(score, axis=1, nan_policy="omit") for score in ranked], axis=0)
    alone = summary_of(market, ranks)
    assert together == {name: pytest.approx(alone[name]) for name in together}
    assert "ensemble" not in alone


def test_seeds_that_contradict_each_other_are_no_opinion_together(market: Market) -> None:
    parts = [part for seed in (0, 1) for part in parts_of(market, (1 - 2 * seed) * noise(market), ROLES, seed)]
    together = evaluate_scores(parts, market, RULES).summary["valid", 5]["ensemble"]
    assert set(together.values()) == {None}


def test_where_one_seed_is_undefined_so_is_the_mean(market: Market) -> None:
    constant = np.zeros(market.tradable.shape)
    parts = [*parts_of(market, noise(market), ROLES, 0), *parts_of(market, constant, ROLES, 1)]
    result = evaluate_scores(parts, market, RULES).summary["valid", 5]
    assert all(result[name] is None for name in ("rank_ic", "rank_ic_t", "sharpe", "turnover", "rank_ic_seed_std"))


# --- who could have traded when -------------------------------------------------------------------


def test_a_role_that_does_not_follow_in_time_has_skill_but_no_book(market: Market, oracle: dict) -> None:
    """Purged folds learned from later dates: nobody could have traded their scores."""
    whole = report_of(market, noise(market), oracle=oracle)
    report = report_of(market, noise(market), tradable_roles=("test",), oracle=oracle)
    found = report.summary["valid", 5]
    assert {name for name, value in leaves({key: found[key] for key in BOOK}) if value is not None} == set()
    assert not {"reversal_sharpe", "reversal_sharpe_net", "oracle_sharpe_net"} & set(found)
    kept = set(found) - set(BOOK)
    assert {name: found[name] for name in kept} == {name: whole.summary["valid", 5][name] for name in kept}
    assert found["rank_ic"] is not None
    valid = report.daily.filter(pl.col("role") == "valid")
    assert valid.select("gross", "net", "turnover").null_count().row(0) == (len(valid),) * 3
    assert report.breakdown.filter(pl.col("role") == "valid")["sharpe_net"].count() == 0
    assert_same(report, whole, "test")


def test_days_whose_label_is_unknown_still_earn(market: Market) -> None:
    """Labels end six days early, returns do not; the dates without one are no dates without stocks."""
    report = report_of(market, noise(market))
    daily = report.daily.filter((pl.col("role") == "test") & (pl.col("horizon") == 5))
    assert daily["date"].max() == market.dates[-1].astype(object)
    assert daily["rank_ic"].tail(6).null_count() == 6
    assert daily["net"].tail(6).null_count() == 0
    found = report.summary["test", 5]
    assert found["days"] == 44
    known = np.isfinite(market.forward_return[150:194, :, 1]).sum(1)
    assert found["stocks_per_day"] == pytest.approx(known.mean())


def test_the_test_role_changes_no_number_of_the_valid_role(market: Market, oracle: dict[str, np.ndarray]) -> None:
    other = noise(market)
    other[150:] = noise(market, 9)[150:]
    one, two = (report_of(market, score, oracle=oracle) for score in (noise(market), other))
    assert_same(one, two, "valid")
    assert one.summary["test", 5]["rank_ic"] != two.summary["test", 5]["rank_ic"]


def test_what_happens_after_the_last_label_changes_no_number(market: Market) -> None:
    """Labels of day 149 end on day 155; prices, volumes and sectors after it are another market's."""
    later, rng = slice(156, None), np.random.default_rng(4)
    changed = {name: getattr(market, name).copy() for name in ("daily_return", "forward_return", "label", "sector",
                                                             "money_traded", "tradable")}  # fmt: skip
    changed["daily_return"][later] = rng.normal(0, 0.1, changed["daily_return"][later].shape)
    for name in ("forward_return", "label", "money_traded", "tradable"):
        changed[name][later] = np.zeros_like(changed[name][later])
    changed["sector"][later] = 0
    score = noise(market)
    valid = {"stop": ROLES["stop"], "valid": ROLES["valid"]}
    one = evaluate_scores(parts_of(market, score, valid), market, RULES)
    two = evaluate_scores(parts_of(market, score, valid), replace(market, **changed), RULES)
    assert_same(one, two)


def test_the_book_of_a_day_rests_on_scores_from_before_its_delay(market: Market) -> None:
    """Scores from day 140 on: nothing is earned on them before day 142, the day after entry."""
    other = noise(market)
    other[140:] = -other[140:]
    one, two = (
        report_of(market, score).daily.filter((pl.col("role") == "valid") & (pl.col("horizon") == 1))
        for score in (noise(market), other)
    )
    differ = one["gross"].fill_null(0).to_numpy() != two["gross"].fill_null(0).to_numpy()
    assert np.flatnonzero(differ).min() == 42
    assert differ[42:].all()


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_report_does_not_depend_on_the_number_of_threads(market: Market, oracle: dict, seeds: int) -> None:
    parts = [part for seed in range(seeds) for part in parts_of(market, noise(market, seed), ROLES, seed)]
    assert_same(*(evaluate_scores(parts, market, RULES, oracle=oracle, threads=threads) for threads in (1, 2)))


# --- tables and figures agree ---------------------------------------------------------------------


def test_tables_and_summary_say_the_same(market: Market) -> None:
    report = report_of(market, noise(market))
    for (role, horizon), found in report.summary.items():
        here = (pl.col("role") == role) & (pl.col("horizon") == horizon)
        daily, breakdown, decay, quantiles = (
            table.filter(here) for table in (report.daily, report.breakdown, report.decay, report.quantiles)
        )
        assert found["rank_ic"] == pytest.approx(daily["rank_ic"].mean())
        assert found["annual_return"] == pytest.approx(252 * daily["gross"].mean())
        assert found["days"] == daily["rank_ic"].count()
        cost = (daily["gross"] - daily["net"]) / daily["turnover"]
        assert cost.drop_nulls().drop_nans().to_numpy() == pytest.approx(0.001)
        years = breakdown.filter(pl.col("kind") == "year")
        assert years["days"].sum() == found["days"]
        assert (years["rank_ic"] * years["days"]).sum() / found["days"] == pytest.approx(found["rank_ic"])
        assert decay["days"].n_unique() == 1
        assert decay["lag"].to_list() == [1, 2, 3, 4, 5]
        assert quantiles["excess"].mean() == pytest.approx(0, abs=1e-12)
        assert found["sharpe_by_cost"] == {"bps0": found["sharpe"], "bps10": found["sharpe_net"]}
        assert found["psi"] == report.drift.filter(here)["psi"].item()


def test_regimes_divide_the_days(market: Market) -> None:
    report = report_of(market, noise(market))
    days = report.breakdown.filter((pl.col("role") == "test") & (pl.col("horizon") == 1)).group_by("kind").agg(
        pl.col("days").sum()
    )  # fmt: skip
    by_kind = dict(days.iter_rows())
    assert by_kind["volatility"] == (market.regimes["volatility"][150:198] >= 0).sum() > 0
    assert by_kind["correlation"] == (market.regimes["correlation"][150:198] >= 0).sum() > 0


def test_the_headline_is_the_primary_horizon_and_json(market: Market) -> None:
    report = report_of(market, noise(market))
    found = headline(report.summary, 5)
    assert found["valid"] == report.summary["valid", 5] == found["horizons"]["h5"]["valid"]
    assert list(found["horizons"]) == ["h1", "h5"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_plots_show_valid_dates_alone(market: Market) -> None:
    report = report_of(market, noise(market))
    series = valid_series(report, market, 5)
    growth, ic, decay, quantiles = (series[name] for name in ("equity", "rank_ic", "decay", "quantiles"))
    first, last = market.dates[[100, 149]].astype(object)
    for table in (growth, ic, series["drawdown"], series["book"], series["regimes"]):
        assert first <= table["date"].min()
        assert table["date"].max() == last
    daily = report.daily.filter((pl.col("role") == "valid") & (pl.col("horizon") == 5))
    assert growth["net"][-1] == pytest.approx((daily["net"].drop_nulls() + 1).product())
    assert growth["market"][-1] == pytest.approx(np.prod(1 + market.equal_weight[106:150]))
    assert ic["cumulative"][-1] == pytest.approx(daily["rank_ic"].sum())
    assert (len(decay), len(quantiles)) == (5, 10)
    summary = report.summary["valid", 5]
    assert series["drawdown"]["net"].min() == pytest.approx(summary["max_drawdown"])
    for name in ("turnover", "beta_held", "sector_exposure"):
        assert series["book"][name].mean() == pytest.approx(summary[name]), name
    assert dict(series["costs"].rows()) == {0.0: summary["sharpe"], 10.0: summary["sharpe_net"]}
    states = [None if state < 0 else int(state) for state in market.regimes["volatility"][100:150]]
    assert series["regimes"]["volatility"].to_list() == states


def test_drift_is_measured_against_stop_scores_of_the_same_fold_and_seed(market: Market) -> None:
    score = noise(market)
    score[100:] += 2
    shifted = report_of(market, score)
    assert shifted.summary["valid", 5]["psi"] > 1
    assert shifted.summary["valid", 5]["psi_alerts"] == 1
    parts = parts_of(market, score, ROLES)
    elsewhere = [replace(part, fold=1) if part.role == "stop" else part for part in parts]
    without = evaluate_scores(elsewhere, market, RULES)
    assert without.drift.is_empty()
    for name in ("psi", "psi_worst", "psi_band", "psi_alerts"):
        assert without.summary["valid", 5][name] is None
    assert without.summary["valid", 5]["rank_ic"] == shifted.summary["valid", 5]["rank_ic"]


# --- what the book carries ------------------------------------------------------------------------


def test_a_score_that_is_beta_carries_the_market_and_a_neutral_book_of_it_does_not() -> None:
    rng = np.random.default_rng(8)
    true = np.linspace(0.5, 1.5, 40)
    toy = market_of(true * rng.normal(0, 0.01, (200, 1)) + rng.normal(0, 0.01, (200, 40)))
    score = np.nan_to_num(toy.beta) + 0.2 * rng.normal(size=(200, 40))
    plain, neutral = (
        evaluate_scores(
            parts_of(toy, score, {"valid": (70, 200)}), toy, replace(RULES, neutral=kind, quantile=0.3)
        ).summary["valid", 1]
        for kind in ("none", "beta")
    )
    assert plain["beta_held"] == pytest.approx(0.35, abs=0.1)
    assert plain["market_beta"] == pytest.approx(plain["beta_held"], abs=0.1)
    assert plain["market_beta_t"] > 5
    assert abs(neutral["beta_held"]) < 1e-6
    assert abs(neutral["market_beta"]) < 0.1
    assert plain["long_only"]["market_beta"] > 1.2


def test_skill_that_is_beta_alone_is_gone_from_the_neutral_rank_ic() -> None:
    """In a market that always rises whoever ranks by beta has a RankIC; among equal betas hardly any is left."""
    rng = np.random.default_rng(9)
    true = np.linspace(0.5, 1.5, 40)
    rising = np.abs(rng.normal(0.01, 0.005, (200, 1)))
    toy = market_of(true * rising + rng.normal(0, 0.005, (200, 40)))
    score = np.nan_to_num(toy.beta) + 0.1 * rng.normal(size=(200, 40))
    found = evaluate_scores(parts_of(toy, score, {"valid": (70, 200)}), toy, RULES).summary["valid", 1]
    assert found["rank_ic"] > 0.3
    assert found["rank_ic_t"] > 5
    assert abs(found["neutral_rank_ic"]) < 0.2 * found["rank_ic"]
    assert abs(found["neutral_icir"]) < 0.2 * found["icir"]


def test_a_score_that_is_its_sector_is_seen_in_the_exposure_and_gone_when_neutral(market: Market) -> None:
    score = market.sector + 3 * noise(market)
    plain, neutral = (summary_of(market, score, rules=replace(RULES, neutral=neutral, quantile=0.3))
                      for neutral in ("none", "sector"))  # fmt: skip
    assert plain["sector_exposure"] > 0.1
    assert neutral["sector_exposure"] < 0.03
    assert plain["sector_exposure_squared"] > 10 * neutral["sector_exposure_squared"]


def test_what_the_book_holds_is_known_only_where_it_holds(market: Market) -> None:
    """While sleeves fill, no medians over stocks nobody holds slip into the capacity."""
    role = stacked("valid", parts_of(market, noise(market), ROLES))
    with ThreadPoolExecutor(1) as pool:
        facts = book_facts(pool, role, market, RULES)
    for name in ("held_names", "held_money", "held_volatility", "beta_held"):
        np.testing.assert_array_equal(np.isfinite(facts[name]), np.isfinite(facts["gross"]), err_msg=name)
    tens = noise(market)
    tens[:, :24] += 100  # the upper half is bought, and it trades a tenth
    money = np.where(np.arange(48) < 24, 1e6, 1e7) * np.ones(market.tradable.shape)
    poor = stacked("valid", parts_of(market, tens, ROLES))
    thin = replace(market, money_traded=money.astype(np.float32))
    with ThreadPoolExecutor(1) as pool:
        held = book_facts(pool, poor, thin, replace(RULES, quantile=0.05))["held_money"][0, :, 0]
    assert (held[np.isfinite(held)] == 5.5e6).all()


def test_weights_are_held_against_what_was_known_when_they_were_set() -> None:
    """The money traded on the day of the return is not yet known at the close before."""
    rng = np.random.default_rng(5)
    money = np.tile(np.arange(40, dtype=np.float32)[:, None], (1, 30))
    toy = market_of(rng.normal(0, 0.02, (40, 30)), money_traded=money)
    role = stacked("valid", [Scores("valid", 0, 0, np.arange(10, 30), rng.normal(size=(20, 30, 1)).astype(np.float32))])
    with ThreadPoolExecutor(1) as pool:
        held = book_facts(pool, role, toy, RULES)["held_money"][0, :, 0]
    np.testing.assert_array_equal(held[1:], np.arange(10, 29))


def test_a_larger_pass_over_the_dates_gives_the_same_facts(market: Market) -> None:
    role = stacked("valid", parts_of(market, noise(market), ROLES))
    with ThreadPoolExecutor(1) as pool:
        whole = date_facts(pool, role, market, RULES)
        half = stacked("valid", [replace(part, days=part.days[:25], score=part.score[:25])
                                 for part in parts_of(market, noise(market), ROLES)])  # fmt: skip
        first = date_facts(pool, half, market, RULES)
    for name, values in first.items():
        np.testing.assert_array_equal(values, whole[name][:, :25], err_msg=name)


def test_blocks_of_several_folds_follow_each_other_in_one_book(market: Market) -> None:
    score = noise(market)
    whole = evaluate_scores(parts_of(market, score, {"valid": (100, 150)}), market, RULES)
    cut = parts_of(market, score, {"valid": (100, 130)}) + [
        replace(part, fold=1) for part in parts_of(market, score, {"valid": (130, 150)})
    ]
    parts = evaluate_scores(cut[::-1], market, RULES)
    assert parts.summary == whole.summary
    assert parts.daily["fold"].to_list() != whole.daily["fold"].to_list()
    assert parts.daily.drop("fold").equals(whole.daily.drop("fold"))


def test_a_date_held_out_twice_is_our_mistake(market: Market) -> None:
    twice = parts_of(market, noise(market), {"valid": (100, 130)}) * 2
    with pytest.raises(AssertionError, match="held out once"):
        evaluate_scores(twice, market, RULES)
