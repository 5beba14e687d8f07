"""Edges follow trailing residual correlation, know no future, and find the hidden peers."""

from pathlib import Path

import numpy as np
import pytest

from atft.errors import InputError
from atft.graph.edges import EDGE_FEATURES, correlations, nearest, residual_returns, snapshot_edges
from atft.graph.snapshots import Snapshots, shuffled, write_snapshots
from conftest import World, world_of
from panel.test_features import T, with_another_future


def test_residuals_carry_neither_market_nor_sector() -> None:
    rng = np.random.default_rng(0)
    sector = np.repeat([0, 1], 10)
    market, sectors = rng.normal(size=(200, 1)), rng.normal(size=(200, 2))
    returns = rng.uniform(0.5, 2, 20) * market + sectors[:, sector] + 0.1 * rng.normal(size=(200, 20))
    residual = residual_returns(returns, np.ones(returns.shape, bool), sector)
    assert abs(np.corrcoef(residual.mean(1), market[:, 0])[0, 1]) < 0.2
    np.testing.assert_allclose(residual[:, :10].mean(1), 0, atol=1e-12)


def test_correlations_equal_numpy_where_nothing_is_clipped() -> None:
    values = np.random.default_rng(1).uniform(-1, 1, (60, 7))
    np.testing.assert_allclose(correlations(values, np.ones(values.shape, bool)), np.corrcoef(values.T), atol=1e-12)


def test_nearest_takes_the_most_similar_and_only_positive_ones() -> None:
    similarity = np.array([[-1.0, 0.5, 0.9], [0.5, -1.0, -0.2], [0.9, -0.2, -1.0]])
    source, target = nearest(similarity, 2)
    pairs = sorted(zip(source.tolist(), target.tolist(), strict=True))
    assert pairs == [(0, 1), (0, 2), (1, 0), (2, 0)]


def test_one_crash_day_does_not_make_peers() -> None:
    rng = np.random.default_rng(2)
    returns = rng.normal(0, 0.01, (120, 60))
    returns[60, :2] = -0.45
    present, groups = np.ones(returns.shape, bool), np.zeros(60, np.int64)
    (source, target), attr = snapshot_edges(returns, present, groups, groups, 3, 0, 60)
    between = attr[(source == 0) & (target == 1), EDGE_FEATURES.index("residual_correlation")]
    assert not len(between) or between[0] < 0.35


def test_edges_are_unique_sorted_and_never_self_loops(world: World) -> None:
    snapshots = world.snapshots
    for a, b in zip(snapshots.offsets, snapshots.offsets[1:], strict=False):
        source, target = snapshots.edge_index[:, a:b]
        coded = target * 1000 + source
        assert (np.diff(coded) > 0).all()
        assert (source != target).all()
        assert np.bincount(target).max() <= 10


def test_a_snapshot_is_used_from_the_next_day_on(world: World) -> None:
    first = int(world.snapshots.as_of[0])
    assert world.snapshots.on(first)[0].shape[1] == 0
    assert world.snapshots.on(first + 1)[0].shape[1] > 0


def test_the_future_cannot_change_the_past(world: World, tmp_path: Path) -> None:
    _, other = world_of(with_another_future(world.market.bars), tmp_path)
    for day in range(T + 2):
        for one, two in zip(world.snapshots.on(day), other.on(day), strict=True):
            np.testing.assert_array_equal(one, two)
    later = [len(s.on(199)[1]) and s.on(199)[1].sum() for s in (world.snapshots, other)]
    assert later[0] != later[1]


def test_hidden_peers_are_found(world: World) -> None:
    cluster = world.market.clusters["cluster"].to_numpy()
    source, target = world.snapshots.on(199)[0]
    chance = 7 / 47
    assert np.mean(cluster[source] == cluster[target]) > 2.5 * chance


def test_shuffled_keeps_the_numbers_and_loses_the_peers(world: World) -> None:
    cluster = world.market.clusters["cluster"].to_numpy()
    placebo = shuffled(world.snapshots, len(cluster))
    np.testing.assert_array_equal(placebo.edge_index[1], world.snapshots.edge_index[1])
    source, target = placebo.edge_index
    assert (source != target).all()
    assert np.mean(cluster[source] == cluster[target]) < 0.25


def test_an_empty_graph_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no stock has a neighbour"):
        write_snapshots(tmp_path, [(59, np.empty((2, 0), np.int64), np.empty((0, len(EDGE_FEATURES)), np.float32))])
    none = Snapshots(np.array([59]), np.array([0, 0]), np.empty((2, 0), np.int64), np.empty((0, 5), np.float32))
    assert none.on(100)[0].shape == (2, 0)
