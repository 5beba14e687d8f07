"""What the report says of scores that cannot be good, and of scores that must be."""

import numpy as np
import polars as pl
import pytest

from atft.evaluation.report import Market, beside, evaluate_scores, headline
from conftest import World

SETTINGS = (0.1, 10.0, 252)


def market_of(world: World) -> Market:
    panel = world.panel
    return Market(
        panel.dates,
        panel.codes,
        panel.daily_return.astype(float),
        panel.has_bar,
        panel.can_trade,
        panel.tradable,
        panel.delay,
    )


def scored(world: World, score: np.ndarray, first: int = 100, last: int = 180) -> pl.DataFrame:
    """Rows of horizon 5 as a fold with `stop` before 100 and `valid` after."""
    panel = world.panel
    day, stock = np.nonzero(panel.tradable[first - 30 : last])
    day += first - 30
    return pl.DataFrame(
        {
            "role": np.where(day < first, "stop", "valid"),
            "horizon": np.full(len(day), 5),
            "seed": np.zeros(len(day), np.int64),
            "fold": np.zeros(len(day), np.int64),
            "date": panel.dates[day],
            "code": np.asarray(panel.codes)[stock],
            "score": score[day, stock],
            "forward_return": panel.forward_return[day, stock, 1],
        }
    )


def summary_of(world: World, score: np.ndarray) -> dict:
    return evaluate_scores(scored(world, score), market_of(world), *SETTINGS, 10)[1]["valid", 5]


def test_perfect_foresight_is_perfect(world: World) -> None:
    result = summary_of(world, np.nan_to_num(world.panel.forward_return[..., 1]))
    assert result["rank_ic"] == pytest.approx(1)
    assert result["sharpe"] > 5


def test_the_book_earns_until_the_last_scored_day(world: World) -> None:
    """Labels end early, returns do not: days whose label is not known yet are in the P&L."""
    score = np.random.default_rng(2).normal(size=world.panel.tradable.shape)
    frame = scored(world, score, last=200)
    daily, _ = evaluate_scores(frame, market_of(world), *SETTINGS, 10)
    assert daily["date"].max() == frame["date"].max()
    assert daily["rank_ic"].tail(6).null_count() == 6
    assert daily["net"].tail(6).null_count() == 0


def test_constant_scores_are_null_everywhere(world: World) -> None:
    result = summary_of(world, np.zeros(world.panel.tradable.shape))
    assert result["rank_ic"] is None
    assert result["sharpe"] is None
    assert result["psi"] is None


def test_noise_has_no_skill_and_pays_its_costs(world: World) -> None:
    noise = np.random.default_rng(0).normal(size=(20, *world.panel.tradable.shape))
    results = [summary_of(world, one) for one in noise]
    ics = [result["rank_ic"] for result in results]
    assert abs(np.mean(ics)) < 3 * np.std(ics) / np.sqrt(len(ics))
    assert all(result["sharpe_net"] < result["sharpe"] for result in results)


def test_sign_flip_negates(world: World) -> None:
    score = np.random.default_rng(1).normal(size=world.panel.tradable.shape)
    up, down = summary_of(world, score), summary_of(world, -score)
    assert up["rank_ic"] == pytest.approx(-down["rank_ic"])


def test_the_oracle_is_captured_whole_by_itself(world: World) -> None:
    oracle = world.market.oracle.with_columns(total=pl.sum_horizontal(pl.col(pl.Float32).cast(pl.Float64)))
    frame = scored(world, np.zeros(world.panel.tradable.shape)).drop("score").with_columns(pl.col("horizon"))
    truth = oracle.select("date", "code", pl.col("horizon").cast(pl.Int64), score="total")
    frame = frame.join(truth, on=["date", "code", "horizon"], how="left")
    market = market_of(world)
    _, summary = evaluate_scores(frame, market, *SETTINGS, 10)
    known = world.market.oracle.with_columns(pl.col("horizon").cast(pl.Int64))
    numbers = headline(summary, beside(frame, market, known, *SETTINGS), 5)["valid"]
    assert numbers["captured_share"] == pytest.approx(1)
    assert numbers["sees_peer"] > 0.4
    assert {"reversal_rank_ic", "reversal_sharpe_net", "market_sharpe"} <= set(numbers)
