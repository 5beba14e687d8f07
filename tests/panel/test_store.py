"""The panel comes back as it was written, without a copy."""

from pathlib import Path

import numpy as np
import pytest

from atft.errors import InputError
from atft.panel.store import read_panel, write_panel
from conftest import World, panel_of


def test_a_window_is_a_view_of_the_map(world: World, tmp_path: Path) -> None:
    built = panel_of(world.market.bars)
    write_panel(tmp_path, built.dates, built.stocks, built.arrays, built.facts)
    panel = read_panel(tmp_path)
    for name, values in built.arrays.items():
        np.testing.assert_array_equal(getattr(panel, name), values)
    window = panel.features[100:120]
    assert window.base is not None
    assert not window.flags.writeable
    assert (
        window.__array_interface__["data"][0]
        == panel.features.__array_interface__["data"][0] + 100 * panel.features.strides[0]
    )
    bounds = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert bounds, "the file is mapped, not read"


def test_a_damaged_panel_is_one_clear_line(world: World, tmp_path: Path) -> None:
    built = panel_of(world.market.bars)
    write_panel(tmp_path, built.dates, built.stocks, built.arrays, built.facts)
    file = tmp_path / "panel.arrow"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match="dvc repro -f cache"):
        read_panel(tmp_path)
