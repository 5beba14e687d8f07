"""What only the simulation knows comes back on the panel's axes."""

from pathlib import Path

import numpy as np
import polars as pl

from atft.panel.oracle import read_oracle
from atft.panel.simulate import PARTS
from conftest import World


def test_every_expectation_stands_at_its_date_stock_and_horizon(world: World, tmp_path: Path) -> None:
    file, truth = tmp_path / "oracle.parquet", world.market.oracle
    truth.sample(fraction=1, shuffle=True, seed=0).write_parquet(file)
    oracle, panel = read_oracle(file, world.panel), world.panel
    assert set(oracle) == set(PARTS)
    shape = (len(panel.dates), len(panel.codes), len(panel.horizons))
    for part, values in oracle.items():
        assert values.shape == shape
        assert np.isfinite(values).sum() == len(truth), "where nothing is expected it is NaN"
        day, stock, horizon = np.nonzero(np.isfinite(values))
        back = pl.DataFrame(
            {
                "date": panel.dates[day],
                "code": np.array(panel.codes)[stock],
                "horizon": np.array(panel.horizons, np.int32)[horizon],
                "back": values[day, stock, horizon].astype(np.float32),
            }
        )
        both = truth.join(back, on=["date", "code", "horizon"], how="full")
        assert (both[part] == both["back"]).all(ignore_nulls=False)


def test_real_data_has_no_oracle(world: World, tmp_path: Path) -> None:
    world.market.oracle.clear().write_parquet(tmp_path / "oracle.parquet")
    assert read_oracle(tmp_path / "oracle.parquet", world.panel) is None
