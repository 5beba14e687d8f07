"""Snapshots know no future, hold every stock, and find the hidden peers."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from atft.errors import InputError
from atft.graph.edges import EDGE_FEATURES
from atft.graph.snapshots import (
    HierarchicalGraphBuilder,
    Snapshots,
    as_heard,
    between_stocks,
    read_snapshots,
    shuffled,
    write_snapshots,
)
from atft.graph.statistics import snapshot_table, summary
from conftest import World

T, DAYS, STOCKS = 149, 220, 40  # a snapshot is taken on day T
BUILDER = HierarchicalGraphBuilder(
    every=10, window=60, min_overlap=30, neighbors=5, half_life=20, shrinkage=20.0, min_correlation=0.05,
    sector_edge_weight=0.5,
)  # fmt: skip
LATE, NEVER, LONELY, GONE = 0, 1, 2, 3


def market(seed: int = 0) -> list[np.ndarray]:
    """daily_return, has_bar, sector, industry [day, stock], with a late, an absent, a lonely and a delisted stock."""
    rng = np.random.default_rng(seed)
    industry = np.tile(rng.integers(0, 7, STOCKS), (DAYS, 1)).astype(np.int16)
    sector = (industry + 1) // 2
    returns = rng.normal(size=(DAYS, 1)) + 0.8 * np.repeat(rng.normal(size=(DAYS, STOCKS // 4)), 4, axis=1)
    returns = (0.01 * (returns + rng.normal(size=(DAYS, STOCKS)))).astype(np.float32)
    has_bar = rng.random((DAYS, STOCKS)) > 0.02
    has_bar[: T - 15, LATE] = has_bar[:, NEVER] = has_bar[T - 20 :, GONE] = False
    sector[:, LATE], industry[:, LATE] = 1, 1
    returns[:, LONELY] = 0.0
    return [np.where(has_bar, returns, 0), has_bar, sector, industry]


def with_another_future(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Up to day T the same; afterwards other returns, bars and labels."""
    later = [np.where(np.arange(DAYS)[:, None] > T, new, old) for new, old in zip(market(1), arrays, strict=True)]
    later[1][T + 1 :, ::3] = False
    return later


def taken(arrays: list[np.ndarray], folder: Path, builder: HierarchicalGraphBuilder = BUILDER) -> Snapshots:
    write_snapshots(folder, builder.snapshots(*arrays))
    return read_snapshots(folder)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Snapshots:
    return taken(market(), tmp_path_factory.mktemp("graph"))


def kinds(snapshots: Snapshots) -> dict[str, np.ndarray]:
    column = {name: snapshots.edge_attr[:, i] == 1 for i, name in enumerate(EDGE_FEATURES)}
    out = {name: column[name] for name in ("self_loop", "upward", "downward")}
    return out | {"peer": ~(out["self_loop"] | out["upward"] | out["downward"])}


def test_the_future_cannot_change_the_past(snapshots: Snapshots, tmp_path: Path) -> None:
    """Every kind of edge and every feature: edges that differ before T + 1 would show in any column."""
    other = taken(with_another_future(market()), tmp_path)
    for day in range(T + 2):
        for one, two in zip(snapshots.on(day), other.on(day), strict=True):
            np.testing.assert_array_equal(one, two)
    assert T in snapshots.as_of  # so that a window one day too long shows
    later = snapshots.as_of > T
    for kind in ("peer", "upward", "downward"):
        first = np.flatnonzero(later)[0]
        edges = [s.edge_index[:, kinds(s)[kind] & in_snapshot(s, first)].tolist() for s in (snapshots, other)]
        assert edges[0] != edges[1], kind


def in_snapshot(snapshots: Snapshots, number: int) -> np.ndarray:
    place = np.arange(len(snapshots.edge_attr))
    return (place >= snapshots.offsets[number]) & (place < snapshots.offsets[number + 1])


def test_every_feature_and_kind_varies_in_the_test_above(snapshots: Snapshots) -> None:
    peers = snapshots.edge_attr[kinds(snapshots)["peer"]]
    for name in EDGE_FEATURES[:6]:
        assert len(np.unique(peers[:, EDGE_FEATURES.index(name)])) > 1, name
    assert all(found.any() for found in kinds(snapshots).values())


def test_a_snapshot_is_used_from_the_next_day_on(snapshots: Snapshots) -> None:
    first = int(snapshots.as_of[0])
    assert first == BUILDER.min_overlap - 1
    own = np.tile(np.arange(STOCKS), (2, 1))
    np.testing.assert_array_equal(snapshots.on(first)[0], own)  # nobody is known yet, but each knows itself
    assert snapshots.on(first + 1)[0].shape[1] > STOCKS
    np.testing.assert_array_equal(snapshots.on(first + 1)[1], snapshots.on(first + BUILDER.every)[1])


def test_edges_are_unique_and_sorted(snapshots: Snapshots) -> None:
    for a, b in zip(snapshots.offsets, snapshots.offsets[1:], strict=False):
        source, target = snapshots.edge_index[:, a:b]
        assert (np.diff(target * 1000 + source) > 0).all()
        peers = target[between_stocks(snapshots.edge_index[:, a:b], STOCKS)]
        assert np.bincount(peers).max() <= BUILDER.neighbors


def test_labels_are_those_of_the_day(tmp_path: Path) -> None:
    arrays = market()
    for labels in arrays[2:]:
        labels[100:, 10] = labels[100:, 20]
    assert arrays[3][0, 10] != arrays[3][0, 20]
    snapshots = taken(arrays, tmp_path)
    for day, joined in ((100, False), (130, True)):
        source, target = snapshots.on(day)[0]
        groups = [set(target[(source == stock) & (target >= STOCKS)].tolist()) for stock in (10, 20)]
        assert (groups[0] == groups[1]) == joined


def test_the_new_and_the_lonely_hear_themselves_and_their_group(snapshots: Snapshots) -> None:
    source, target = snapshots.on(T + 1)[0]
    assert not np.isin([LATE, NEVER, LONELY, GONE], snapshots.peers(T + 1)).any()
    for stock in range(STOCKS):
        heard = source[target == stock]
        assert stock in heard
    assert (source[target == LATE] >= STOCKS).sum() == 1


def test_a_day_hears_tradable_stocks_and_their_groups_alone(snapshots: Snapshots) -> None:
    tradable = np.ones(STOCKS, bool)
    everything, attr = snapshots.among(T, tradable)
    np.testing.assert_array_equal(everything, snapshots.on(T)[0])
    np.testing.assert_array_equal(attr, snapshots.on(T)[1])
    source, target = everything
    industry = int(target[(source == 10) & (target >= STOCKS)][0])
    members = source[(target == industry) & (source < STOCKS)]
    tradable[members] = False
    index, attr = snapshots.among(T, tradable)
    assert not np.isin(index, np.append(members, industry)).any()
    assert index.shape[1] == len(attr) < everything.shape[1]
    nobody, _ = snapshots.among(T, np.zeros(STOCKS, bool))
    assert nobody.shape == (2, 0)
    before, _ = snapshots.among(0, tradable)
    np.testing.assert_array_equal(before[0], np.flatnonzero(tradable))


def test_no_weight_no_virtual_links(tmp_path: Path, snapshots: Snapshots) -> None:
    without = taken(market(), tmp_path, replace(BUILDER, sector_edge_weight=0.0))
    assert without.edge_index.max() == STOCKS - 1
    for day in (60, T):
        np.testing.assert_array_equal(without.peers(day), snapshots.peers(day))


def test_two_builds_write_the_same_bytes(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        taken(market(), tmp_path / name)
        written.append((tmp_path / name / "edges.parquet").read_bytes())
    assert written[0] == written[1]


def test_strided_views_are_read_like_arrays(tmp_path: Path, snapshots: Snapshots) -> None:
    views = [np.repeat(values, 2, axis=1)[:, ::2] for values in market()]
    np.testing.assert_array_equal(taken(views, tmp_path).edge_attr, snapshots.edge_attr)


def test_shuffled_keeps_the_numbers_and_loses_the_peers(snapshots: Snapshots) -> None:
    placebo = shuffled(snapshots)
    np.testing.assert_array_equal(placebo.edge_index[1], snapshots.edge_index[1])
    np.testing.assert_array_equal(placebo.edge_attr, snapshots.edge_attr)
    peer = kinds(snapshots)["peer"]
    source, target = placebo.edge_index
    np.testing.assert_array_equal(source[~peer], snapshots.edge_index[0][~peer])
    assert (source[peer] != target[peer]).all()
    assert source[peer].max() < STOCKS
    assert np.mean(source[peer] == snapshots.edge_index[0][peer]) < 0.1
    assert not np.isin([NEVER, LONELY], source[peer]).any()


def test_plain_links_are_the_same_links_and_tell_only_their_kind(snapshots: Snapshots) -> None:
    plain = as_heard(snapshots, "plain")
    np.testing.assert_array_equal(plain.edge_index, snapshots.edge_index)
    assert (plain.edge_attr[:, :4] == 0).all()
    np.testing.assert_array_equal(plain.edge_attr[:, 4:], snapshots.edge_attr[:, 4:])
    assert as_heard(snapshots, "on") is snapshots


def test_hidden_peers_are_found(world: World) -> None:
    cluster = world.market.clusters["cluster"].to_numpy()
    panel = world.panel
    table = snapshot_table(world.snapshots, panel.dates, panel.has_bar, panel.sector, panel.industry, cluster)
    last = table.row(-1, named=True)
    assert last["true_links"] > 2.5 * last["chance"]
    source, target = shuffled(world.snapshots).peers(199)
    assert np.mean(cluster[source] == cluster[target]) < 0.25


def test_statistics_by_hand() -> None:
    """Four listed stocks and a fifth that printed nothing; links 1 -> 0, 2 -> 0, then 1 -> 0, 0 -> 3."""
    index = np.array([[1, 2, 4, 0, 5, 1, 0], [0, 0, 0, 0, 0, 0, 3]])
    attr = np.zeros((7, len(EDGE_FEATURES)), np.float32)
    attr[:, EDGE_FEATURES.index("residual_correlation")] = [0.5, 0.25, 9, 9, 9, 0.5, 0.75]
    snapshots = Snapshots(5, np.array([3, 5]), np.array([0, 5, 7]), index, attr)
    has_bar = np.ones((6, 5), bool)
    has_bar[:, 4] = False
    sector, industry = np.tile([1, 1, 0, 0, 1], (6, 1)), np.tile([1, 1, 2, 2, 1], (6, 1))
    sector[5], industry[5] = [2, 1, 3, 2, 1], [0, 0, 1, 1, 1]
    dates = np.arange("2020-01-01", "2020-01-07", dtype="datetime64[D]")
    table = snapshot_table(snapshots, dates, has_bar, sector, industry, np.array([7, 7, 7, 2, 2]))
    first, second = table.rows(named=True)
    assert first == {
        "date": dt.date(2020, 1, 4), "degree": 0.5, "isolated": 0.75, "churn": None, "within_sector": 0.5,
        "within_industry": 0.5, "mean_correlation": 0.375, "true_mates": 2 / 6, "true_links": 1.0, "chance": 2 / 3,
    }  # fmt: skip
    assert second == {
        "date": dt.date(2020, 1, 6), "degree": 0.5, "isolated": 0.5, "churn": pytest.approx(2 / 3),
        "within_sector": 0.5, "within_industry": 0.0, "mean_correlation": 0.625, "true_mates": 1 / 6,
        "true_links": 0.5, "chance": pytest.approx(1 / 3),
    }  # fmt: skip
    found = summary(table, snapshots)
    assert found["snapshots"] == 2
    assert found["stocks"] == 5
    assert found["edges_per_snapshot"] == 3.5
    assert found["churn"] == pytest.approx(2 / 3)
    assert found["true_mates"] == pytest.approx(1 / 4)


def test_what_nobody_knows_is_null() -> None:
    loops = Snapshots(2, np.array([0]), np.array([0, 2]), np.array([[0, 1], [0, 1]]), np.ones((2, len(EDGE_FEATURES))))
    dates, labels = np.arange("2020-01-01", "2020-01-02", dtype="datetime64[D]"), np.ones((1, 2), np.int16)
    table = snapshot_table(loops, dates, np.ones((1, 2), bool), labels, labels, None)
    row = table.row(0, named=True)
    assert {name for name, value in row.items() if value is None} == {
        "churn", "within_sector", "within_industry", "mean_correlation", "true_mates", "true_links", "chance",
    }  # fmt: skip
    assert row["isolated"] == 1
    assert table.schema["true_mates"] == pl.Float64
    assert summary(table, loops)["true_mates"] is None


def test_an_empty_graph_is_an_error(tmp_path: Path) -> None:
    returns, has_bar, sector, industry = market()
    for builder, bars in ((replace(BUILDER, min_correlation=0.99), has_bar), (BUILDER, np.zeros_like(has_bar))):
        with pytest.raises(InputError, match="no stock has a neighbour"):
            write_snapshots(tmp_path, builder.snapshots(returns, bars, sector, industry))
    with pytest.raises(InputError, match="bring more days"):
        write_snapshots(tmp_path, BUILDER.snapshots(returns[:20], has_bar[:20], sector[:20], industry[:20]))
    with pytest.raises(InputError, match="dvc repro -f graph"):
        read_snapshots(tmp_path)
