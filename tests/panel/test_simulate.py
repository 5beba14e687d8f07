"""The simulated market keeps its promises: what is planted is there, and who can find it."""

import lightgbm
import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import Ridge

from atft.graph.snapshots import Snapshots
from atft.panel.simulate import PARTS, STRENGTH, TARGET_IC, SimulatedMarket, simulate_market
from atft.panel.store import Panel
from atft.training.baselines import design
from conftest import mean_rank_ic, panel_of, world_of

DAYS, STOCKS = 1000, 160


def joined(market: SimulatedMarket, horizon: int) -> pl.DataFrame:
    """Oracle rows of one horizon with the forward return that a position would have earned."""
    panel = panel_of(market.bars, ["momentum"], horizons=(horizon,))
    returns, codes = panel.forward_return[..., 0], np.array(panel.codes)
    day, stock = np.nonzero(np.isfinite(returns))
    truth = pl.DataFrame({"date": panel.dates[day], "code": codes[stock], "forward_return": returns[day, stock]})
    oracle = market.oracle.filter(pl.col("horizon") == horizon)
    total = pl.sum_horizontal(pl.col(PARTS).cast(pl.Float64))
    return truth.join(oracle, on=["date", "code"]).with_columns(total=total)


def rank_ic_of(frame: pl.DataFrame, score: str) -> float:
    return mean_rank_ic(frame.with_columns(score=score))


@pytest.mark.parametrize("market", ["standard", "hard"])
def test_the_oracle_is_worth_what_the_generator_claims(market: str) -> None:
    frames = [joined(simulate_market(STOCKS, 750, market, seed, (5,), 1), 5) for seed in (11, 12, 13)]
    claim = STRENGTH[market] * np.sqrt(sum(value**2 for value in TARGET_IC.values()))
    assert np.mean([rank_ic_of(frame, "total") for frame in frames]) == pytest.approx(claim, abs=0.02)
    for part in PARTS:
        measured = np.mean([rank_ic_of(frame, part) for frame in frames])
        assert measured == pytest.approx(STRENGTH[market] * TARGET_IC[part], abs=0.025), part


def test_the_oracle_knows_each_horizon() -> None:
    """Expected and realised returns have the same size, not only the same order: slope 1."""
    market = simulate_market(STOCKS, 750, "standard", 14, (1, 20), 1)
    for horizon in (1, 20):
        frame = joined(market, horizon).with_columns(
            pl.col("forward_return", "total") - pl.col("forward_return", "total").mean().over("date")
        )
        slope = frame.select((pl.col("forward_return") * pl.col("total")).sum() / (pl.col("total") ** 2).sum()).item()
        assert slope == pytest.approx(1, abs=0.25), horizon


def test_bars_carry_the_vendors_defects() -> None:
    bars = simulate_market(STOCKS, 750, "standard", 7, (5,), 1).bars
    daily = bars.with_columns(r=(pl.col("close") / pl.col("close").shift(1) - 1).over("code"))
    assert bars["open"].null_count() > 0
    assert bars["terminal_return"].count() >= 5
    assert (daily["r"] < -0.45).sum() >= 1  # a missed split
    assert bars.group_by("code").len()["len"].n_unique() > 10  # listings, delistings, halts, lost bars
    assert bars.select((pl.col("high") >= pl.col("close")).all() & (pl.col("low") <= pl.col("close")).all()).item()


def test_one_seed_is_one_market() -> None:
    one, two = (simulate_market(40, 100, "standard", 3, (5,), 1) for _ in range(2))
    assert one.bars.equals(two.bars)
    assert one.oracle.equals(two.oracle)
    assert not one.bars.equals(simulate_market(40, 100, "standard", 4, (5,), 1).bars)


@pytest.fixture(scope="module")
def long_world(tmp_path_factory: pytest.TempPathFactory) -> tuple[SimulatedMarket, Panel, Snapshots]:
    market = simulate_market(STOCKS, DAYS, "standard", 21, (5,), 1)
    return market, *world_of(market.bars, tmp_path_factory.mktemp("long"), (5,))


def fitted(panel: Panel, snapshots: Snapshots, kind: str, neighbor_means: bool, shuffle: bool = False) -> float:
    """RankIC at horizon 5 over the last 300 days of a model fitted on the days before."""
    train, held_out = range(80, DAYS - 325), range(DAYS - 300, DAYS - 6)
    x = design(panel, snapshots, train, neighbor_means)
    fill = np.nan_to_num if kind == "ridge" else np.asarray
    y = np.concatenate([panel.label[day][panel.tradable[day], 0] for day in train])
    if shuffle:
        y = np.random.default_rng(0).permutation(y)
    known = np.isfinite(y)
    if kind == "ridge":
        model = Ridge(alpha=1000).fit(fill(x[known]), y[known])
    else:
        options = {
            "verbosity": -1, "num_threads": 1, "learning_rate": 0.08, "min_data_in_leaf": 200,
            "deterministic": True, "force_row_wise": True, "feature_fraction": 0.5, "seed": 0,
        }  # fmt: skip
        model = lightgbm.train(options, lightgbm.Dataset(x[known], y[known]), 80)
    score = np.asarray(model.predict(fill(design(panel, snapshots, held_out, neighbor_means))))
    dates = np.concatenate([np.full(panel.tradable[day].sum(), day) for day in held_out])
    returns = np.concatenate([panel.forward_return[day][panel.tradable[day], 0] for day in held_out])
    frame = pl.DataFrame({"date": dates, "score": score, "forward_return": returns})
    return mean_rank_ic(frame)


def test_each_rival_catches_a_part_and_neighbours_help(
    long_world: tuple[SimulatedMarket, Panel, Snapshots],
) -> None:
    market, panel, snapshots = long_world
    last = pl.col("date") >= panel.dates[DAYS - 300].astype(object)
    oracle = rank_ic_of(joined(market, 5).filter(last), "total")
    reversal = -panel.features[..., panel.feature_names.index("return_1_in_sector")]
    day, stock = np.nonzero(panel.tradable[60:-6])
    frame = pl.DataFrame(
        {
            "date": day,
            "score": reversal[60:-6][day, stock],
            "forward_return": panel.forward_return[60:-6][day, stock, 0],
        }
    )
    found = {
        "reversal": mean_rank_ic(frame),
        "ridge": fitted(panel, snapshots, "ridge", False),
        "lightgbm": fitted(panel, snapshots, "lightgbm", False),
        "lightgbm and neighbours": fitted(panel, snapshots, "lightgbm", True),
    }
    for name, quality in found.items():
        assert 0.01 < quality < 0.9 * oracle, (name, quality, oracle)
    assert found["lightgbm and neighbours"] > found["lightgbm"] + 0.02


def test_shuffled_labels_teach_nothing(long_world: tuple[SimulatedMarket, Panel, Snapshots]) -> None:
    _, panel, snapshots = long_world
    assert abs(fitted(panel, snapshots, "ridge", True, shuffle=True)) < 0.03
