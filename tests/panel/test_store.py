"""The panel comes back as it was written, without a copy."""

from pathlib import Path

import numpy as np
import pytest
import torch

from atft.errors import InputError
from atft.panel.store import FILE, PanelWriter, read_panel
from conftest import World, build_in

ROOT = Path(__file__).parents[2]


def test_a_window_is_a_view_of_the_map(world: World, tmp_path: Path) -> None:
    panel, _ = build_in(tmp_path, world.market.bars)
    window = panel.window(100, 120)
    base = panel.features.__array_interface__["data"][0]
    assert window.data_ptr() == base + 100 * panel.features.strides[0]
    maps = [
        line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line
    ]
    assert any(int(low, 16) <= window.data_ptr() < int(high, 16) for low, high in maps), "it lies in the mapped file"
    np.testing.assert_array_equal(window.numpy(), panel.features[100:120])
    assert not panel.features.flags.writeable


def test_every_array_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "features": rng.normal(size=(5, 7, 3)).astype(np.float32), "tradable": rng.random((5, 7)) < 0.5,
        "label": rng.normal(size=(5, 7, 2)).astype(np.float32),
        "forward_return": rng.normal(size=(5, 7, 2)).astype(np.float32),
        "daily_return": rng.normal(size=(5, 7)).astype(np.float32), "has_bar": rng.random((5, 7)) < 0.5,
        "can_trade": rng.random((5, 7)) < 0.5, "sector": rng.integers(0, 9, (5, 7)).astype(np.int16),
        "industry": rng.integers(0, 9, (5, 7)).astype(np.int16),
        "money_traded": rng.normal(size=(5, 7)).astype(np.float32),
    }  # fmt: skip
    facts = {
        name: list("abc") for name in ("codes", "sector_names", "industry_names", "feature_names", "market_features")
    }
    dates = np.arange("2020-01-01", "2020-01-06", dtype="datetime64[D]")
    for days in (5, 1):
        with PanelWriter(tmp_path, facts | {"horizons": [1, 5], "delay": 1}) as writer:
            for day in range(days):
                writer.write_day(dates[day], {name: array[day] for name, array in arrays.items()})
        panel = read_panel(tmp_path)
        np.testing.assert_array_equal(panel.dates, dates[:days])
        assert (panel.codes, panel.horizons, panel.delay) == (list("abc"), [1, 5], 1)
        for name, array in arrays.items():
            np.testing.assert_array_equal(getattr(panel, name), array[:days])
            assert getattr(panel, name).dtype == array.dtype


def test_the_bytes_do_not_depend_on_the_thread_count(world: World, tmp_path: Path) -> None:
    build_in(tmp_path, world.market.bars)
    one = (tmp_path / FILE).read_bytes()
    build_in(tmp_path, world.market.bars, threads=3)
    assert (tmp_path / FILE).read_bytes() == one


def test_readers_on_many_threads_read_the_same_bytes(world: World) -> None:
    panel = world.panel
    before = torch.get_num_threads()
    sums = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        sums.append(panel.window(60, 160).clone().view(torch.int32))
    torch.set_num_threads(before)
    assert torch.equal(sums[0], sums[1])
    assert torch.equal(sums[0], sums[2])


def test_a_damaged_panel_is_one_clear_line(world: World, tmp_path: Path) -> None:
    build_in(tmp_path, world.market.bars)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="dvc repro -f cache"):
        read_panel(tmp_path)
