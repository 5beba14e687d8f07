"""What a model without a graph is told about the neighbours."""

import numpy as np

from atft.training.baselines import design
from conftest import World


def test_neighbour_means_are_over_tradable_peers_that_know(world: World) -> None:
    """Neither the stock itself nor its industry counts, and an unknown value is left out."""
    panel, day = world.panel, 150
    own = [i for i, name in enumerate(panel.feature_names) if name not in panel.market_features]
    tradable = panel.tradable[day]
    rows = design(panel, world.snapshots, [day], neighbor_means=True)
    features, means = rows[:, : len(panel.feature_names)], rows[:, len(panel.feature_names) :]
    np.testing.assert_array_equal(features, panel.features[day][tradable])
    source, target = world.snapshots.peers(day)
    for row, stock in enumerate(np.flatnonzero(tradable)):
        heard = panel.features[day][source[(target == stock) & tradable[source]]][:, own].astype(float)
        assert len(heard)
        known = np.isfinite(heard)
        with np.errstate(invalid="ignore"):
            expected = np.where(known, heard, 0.0).sum(0) / known.sum(0)
        np.testing.assert_allclose(means[row], expected, atol=1e-6)


def test_without_a_snapshot_nobody_has_neighbours(world: World) -> None:
    day = int(world.snapshots.as_of[0])
    panel = world.panel
    rows = design(panel, world.snapshots, [day], neighbor_means=True)
    assert len(rows)
    assert np.isnan(rows[:, len(panel.feature_names) :]).all()
