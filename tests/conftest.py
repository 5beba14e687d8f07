"""Small markets, built once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from atft.graph.snapshots import Snapshots, build_snapshots, read_snapshots, write_snapshots
from atft.panel.build import BuiltPanel, build_panel
from atft.panel.simulate import SimulatedMarket, simulate_market
from atft.panel.store import Panel, read_panel, write_panel

FAMILIES = ["momentum", "shape", "volatility", "volume", "relative", "market"]


def set_knobs(params: dict[str, Any], knobs: dict[str, Any]) -> None:
    """Set `section__knob` paths in the content of params.yaml."""
    for path, value in knobs.items():
        *sections, name = path.split("__")
        node = params
        for section in sections:
            node = node[section]
        node[name] = value


@dataclass(frozen=True)
class World:
    market: SimulatedMarket
    panel: Panel
    snapshots: Snapshots


def panel_of(bars: pl.DataFrame, horizons: tuple[int, ...] = (1, 5), min_history: int = 60) -> BuiltPanel:
    return build_panel(bars, FAMILIES, horizons, 1, min_history, 0.0, 0.5, "rank_gauss")


def world_of(bars: pl.DataFrame, folder: Path, horizons: tuple[int, ...] = (1, 5)) -> tuple[Panel, Snapshots]:
    built = panel_of(bars, horizons)
    write_panel(folder, built.dates, built.stocks, built.arrays, built.facts)
    panel = read_panel(folder)
    sector, industry = (np.unique(labels, return_inverse=True)[1] for labels in (panel.sectors, panel.industries))
    snapshots = build_snapshots(panel.daily_return, panel.has_bar, sector, industry, 20, 120, 60, 8, 2)
    write_snapshots(folder, list(snapshots))
    return panel, read_snapshots(folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """48 stocks x 200 days."""
    market = simulate_market(48, 200, "standard", 1, (1, 5), 1)
    return World(market, *world_of(market.bars, tmp_path_factory.mktemp("world")))
