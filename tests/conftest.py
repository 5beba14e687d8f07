"""Small markets, built once."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
import torch

from atft.graph.snapshots import HierarchicalGraphBuilder, Snapshots, read_snapshots, write_snapshots
from atft.panel.build import Built, build_panel
from atft.panel.raw import library_features
from atft.panel.simulate import SimulatedMarket, simulate_market
from atft.panel.sources import OPTIONAL, REQUIRED, complete, load_bars
from atft.panel.store import Panel, read_panel

torch.set_num_threads(1)  # two test processes that share two cores: threads of the one would wait for the other

FAMILIES = ["momentum", "shape", "volatility", "volume", "relative", "market"]
_FOLDER = os.environ.get("ATFT_REAL_PANELS", "")
REAL_PANELS = sorted(Path(_FOLDER).glob("*.parquet")) if _FOLDER else []
needs_real_panels = pytest.mark.skipif(
    not REAL_PANELS, reason="set ATFT_REAL_PANELS to a folder of Parquet files with daily bars"
)


def real_bars(file: Path) -> pl.DataFrame:
    """The daily bars of one of `REAL_PANELS`."""
    columns = {name: name for name in (*REQUIRED, "sector", "industry")} | dict.fromkeys(OPTIONAL[2:])
    return load_bars(file.parent, file.name, columns, None)


def mean_rank_ic(rows: pl.DataFrame, min_names: int = 20) -> float:
    """Mean over dates of the rank correlation of `score` and `forward_return` in rows of (date, stock)."""
    known = rows.with_columns(pl.col("score", "forward_return").fill_nan(None)).drop_nulls(["score", "forward_return"])
    ic = pl.corr("score", "forward_return", method="spearman")
    by_date = known.group_by("date").agg(ic=ic, stocks=pl.len()).filter(pl.col("stocks") >= min_names)
    return by_date["ic"].fill_nan(None).mean()


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


KNOBS: dict[str, Any] = {
    "horizons": (1, 5), "delay": 1, "label": "raw", "label_scale": "rank_gauss", "beta_days": 60, "min_history": 60,
    "min_dollar_volume": 0.0, "max_daily_return": 0.5, "news_volume": 5.0, "method": "rank_gauss", "threads": 1,
}  # fmt: skip


def build_in(folder: Path, bars: pl.DataFrame, families: Sequence[str] = FAMILIES, **knobs: Any) -> tuple[Panel, Built]:
    """The panel of these bars, written to `folder`."""
    built = build_panel(folder, complete(bars), partial(library_features, families=families), **KNOBS | knobs)
    return read_panel(folder), built


def panel_of(bars: pl.DataFrame, families: Sequence[str] = FAMILIES, **knobs: Any) -> Panel:
    """The panel of these bars; its file is gone, its map stays."""
    with TemporaryDirectory() as folder:
        return build_in(Path(folder), bars, families, **knobs)[0]


GRAPH = HierarchicalGraphBuilder(
    every=20, window=120, min_overlap=60, neighbors=8, half_life=0, shrinkage=20.0, min_correlation=0.0,
    sector_edge_weight=0.5,
)  # fmt: skip


def world_of(bars: pl.DataFrame, folder: Path, horizons: tuple[int, ...] = (1, 5)) -> tuple[Panel, Snapshots]:
    panel, _ = build_in(folder, bars, horizons=horizons)
    write_snapshots(folder, GRAPH.snapshots(panel.daily_return, panel.has_bar, panel.sector, panel.industry))
    return panel, read_snapshots(folder)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """48 stocks x 200 days."""
    market = simulate_market(48, 200, "standard", 1, (1, 5), 1)
    return World(market, *world_of(market.bars, tmp_path_factory.mktemp("world")))
