"""Feature tables: chosen by name, audited column by column, and never let in what knows the future."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

import cache
from atft.panel.simulate import simulate_market
from atft.panel.standardize import standardize
from atft.panel.store import read_panel
from atft.program import run_program
from conftest import set_knobs

ROOT = Path(__file__).parents[2]
MAPPED = {"date": "Date", "code": "Code", "open": None, "high": None, "low": None, "close": "Close", "volume": None,
          "sector": "Section", "industry": None}  # fmt: skip


@pytest.fixture(scope="module")
def table() -> pl.DataFrame:
    """60 stocks x 260 days: prices, 20 honest columns, forward returns to plant."""
    bars = simulate_market(60, 260, "standard", 3, (1, 5), 1).bars.sort("code", "date")
    rng = np.random.default_rng(0)
    close = pl.col("close")
    frame = bars.select(
        Date="date", Code="code", Section="sector", Close="close",
        momentum=(close / close.shift(20) - 1).over("code"),
        reversal=(close / close.shift(1) - 1).over("code"),
        volatility=(close / close.shift(1) - 1).rolling_std(20).over("code"),
        tomorrow=(close.shift(-1) / close - 1).over("code"),
        next_week=(close.shift(-6) / close.shift(-1) - 1).over("code"),
        moving_average=close.rolling_mean(5).over("code"),
    )  # fmt: skip
    noise = {f"noise_{i}": rng.normal(size=len(frame)).astype(np.float32) for i in range(17)}
    return frame.with_columns(**{name: pl.Series(values) for name, values in noise.items()})


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: pl.DataFrame) -> Path:
    """A working directory whose data/raw/table.parquet is good."""
    (tmp_path / "data/raw").mkdir(parents=True)
    save(tmp_path, table)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    set_knobs(
        params,
        {"data__source": "table", "data__horizons": [1, 5], "data__table__exclude": ["tomorrow", "moving_average"]}
        | {f"data__file__columns__{name}": theirs for name, theirs in MAPPED.items()},
    )
    params["split"] |= {"block_days": 30, "stop_days": 15, "purge": 6, "min_train_days": 30}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(folder: Path, frame: pl.DataFrame) -> None:
    frame.write_parquet(folder / "data/raw/table.parquet")


def change(folder: Path, **knobs: Any) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    set_knobs(params, knobs)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def built(folder: Path) -> tuple[Any, dict[str, Any]]:
    cache.main()
    return read_panel(folder / "data/cache"), json.loads((folder / "data/cache/report.json").read_text())["table"]


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        run_program(cache.main)
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert sorted(path.name for path in Path("data").iterdir()) == ["raw"]
    return error


def test_columns_become_features_standardised_within_the_date(workdir: Path, table: pl.DataFrame) -> None:
    panel, report = built(workdir)
    assert panel.feature_names == ["momentum", "reversal", "volatility", *(f"noise_{i}" for i in range(17))]
    assert report["forward_looking_names_refused"] == ["next_week"]
    day = 150
    rows = table.filter(pl.col("Date") == panel.dates[day].item()).sort("Code")
    here = np.isin(panel.codes, rows["Code"].to_numpy()) & panel.tradable[day]
    values = rows.filter(pl.col("Code").is_in(np.array(panel.codes)[here]))["momentum"].to_numpy().astype(np.float32)
    np.testing.assert_array_equal(panel.features[day, here, 0], standardize(values[:, None], "rank_gauss")[:, 0])
    assert np.isnan(panel.features[10, panel.tradable[10]]).sum() == 0


def test_the_order_of_rows_and_the_format_do_not_matter(workdir: Path, table: pl.DataFrame) -> None:
    """By code, by date, in two files, as Arrow: the same bytes. (Keys for bars must ascend; features need not.)"""
    built(workdir)
    expected = (workdir / "data/cache/panel.arrow").read_bytes()
    file = workdir / "data/raw/table.parquet"
    save(workdir, table.sort("Date", "Code"))
    built(workdir)
    assert (workdir / "data/cache/panel.arrow").read_bytes() == expected
    cut = pl.col("Date") < pl.date(2014, 7, 1)
    file.unlink()
    table.filter(~cut).write_ipc(workdir / "data/raw/a.arrow")
    table.filter(cut).write_ipc(workdir / "data/raw/b.arrow")
    change(workdir, data__table__path="*.arrow")
    built(workdir)
    assert (workdir / "data/cache/panel.arrow").read_bytes() == expected


def test_missing_values_stay_unknown(workdir: Path, table: pl.DataFrame) -> None:
    holes = pl.int_range(pl.len()) % 7 == 0
    save(workdir, table.with_columns(noise_3=pl.when(~holes).then("noise_3")))
    panel, _ = built(workdir)
    column = panel.feature_names.index("noise_3")
    assert np.isnan(panel.features[100:, :, column][panel.tradable[100:]]).mean() == pytest.approx(1 / 7, abs=0.01)
    assert not np.isnan(panel.features[100:, :, column + 1][panel.tradable[100:]]).any()


@pytest.mark.parametrize(
    "leak",
    {
        "a copy of the label": pl.col("next_week"),
        "tomorrow's return": pl.col("tomorrow"),
        "its sign": pl.col("tomorrow").sign(),
        "its opposite": -5 * pl.col("next_week") + 3,
        "a label under four times its size of noise": pl.col("next_week") + 0.2 * pl.col("noise_0"),
        "its size": pl.col("next_week").abs(),
        "a centred average": pl.col("reversal").rolling_mean(3, center=True).over("Code"),
    }.items(),
    ids=lambda leak: leak[0],
)
def test_the_canary_names_a_column_that_knows_the_future(
    leak: tuple[str, pl.Expr], workdir: Path, table: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    save(workdir, table.with_columns(noise_5=leak[1]))
    error = refused(capsys)
    assert "column 'noise_5' (" in error
    assert "knows the future" in error


def test_a_leak_that_few_stocks_have_or_all_share_is_no_hiding_place(
    workdir: Path, table: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    some = pl.when(pl.col("Code").is_in([f"S00{i}" for i in range(10, 20)])).then("tomorrow")
    for leak in (some, pl.col("tomorrow").mean().over("Date")):
        save(workdir, table.with_columns(noise_5=leak))
        assert "column 'noise_5' (" in refused(capsys)


def test_one_stocks_column_is_not_the_markets(workdir: Path, table: pl.DataFrame) -> None:
    alone = pl.when(pl.col("Code") == "S0010").then("noise_4")
    save(workdir, table.with_columns(noise_5=alone))
    panel, _ = built(workdir)
    assert panel.market_features == []
    assert np.isnan(panel.features[150, :, panel.feature_names.index("noise_5")]).sum() >= len(panel.codes) - 1


def test_a_table_may_start_later_than_its_bars(workdir: Path, table: pl.DataFrame) -> None:
    table.select("Date", "Code", "Section", "Close").write_csv(workdir / "data/raw/bars.csv")
    save(workdir, table.drop("Close").filter(pl.col("Date") > pl.date(2014, 8, 1)))
    change(workdir, data__file__path="*.csv")
    panel, _ = built(workdir)
    assert np.isnan(panel.features[:100]).all()
    assert np.isfinite(panel.features[-20:][panel.tradable[-20:]]).mean() > 0.9


def test_a_date_is_the_wall_clocks(workdir: Path, table: pl.DataFrame) -> None:
    """Midnight in Tokyo is yesterday in UTC."""
    plain, _ = built(workdir)
    stamps = pl.col("Date").cast(pl.Datetime("us")).dt.replace_time_zone("Asia/Tokyo")
    save(workdir, table.with_columns(stamps, pl.col("Code").cast(pl.Categorical)))
    panel, _ = built(workdir)
    np.testing.assert_array_equal(panel.dates, plain.dates)
    np.testing.assert_array_equal(panel.features, plain.features)


def test_the_canary_lets_honest_features_pass(workdir: Path, table: pl.DataFrame) -> None:
    panel, report = built(workdir)
    assert {"momentum", "reversal", "volatility"} <= set(panel.feature_names)
    assert report["left_out"] == []


SPOILT: dict[str, tuple[pl.Expr, str]] = {
    "all_null": (pl.lit(None, pl.Float32), "no value at all"),
    "constant": (pl.lit(4.5), "always 4.5"),
    "duplicate": (pl.col("noise_1"), "equal to noise_1"),
    "non_finite": (pl.when(pl.int_range(pl.len()) == 99).then(float("inf")).otherwise("noise_5"), "1 infinite values"),
    "price_level": (pl.col("Close").rolling_mean(5).over("Code"), "with the adjusted price"),
}


@pytest.mark.parametrize("defect", SPOILT)
def test_defects_are_dropped_or_refused_as_params_say(
    defect: str, workdir: Path, table: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    expression, detail = SPOILT[defect]
    save(workdir, table.with_columns(noise_5=expression))
    change(workdir, **{f"data__table__defects__{defect}": "refuse"})
    error = refused(capsys)
    assert f"column 'noise_5' is {defect.replace('_', ' ')}" in error
    assert detail in error
    change(workdir, **{f"data__table__defects__{defect}": "drop"})
    panel, report = built(workdir)
    assert "noise_5" not in panel.feature_names
    (finding,) = report["left_out"]
    assert (finding["column"], finding["defect"]) == ("noise_5", defect)


def test_a_market_wide_column_is_held_against_its_own_past(workdir: Path, table: pl.DataFrame) -> None:
    save(workdir, table.with_columns(fear=pl.col("reversal").std().over("Date")))
    panel, _ = built(workdir)
    assert panel.market_features == ["fear"]
    whole = panel.features[..., -1]
    save(
        workdir,
        table.with_columns(
            fear=pl.col("reversal").std().over("Date") * (1 + 5 * (pl.col("Date") > pl.date(2014, 9, 1)))
        ),
    )
    other, _ = built(workdir)
    before = panel.dates <= np.datetime64("2014-09-01")
    np.testing.assert_array_equal(whole[before], other.features[before][..., -1])
    assert not np.array_equal(whole[~before], other.features[~before][..., -1], equal_nan=True)


def test_a_table_without_prices_lives_on_its_daily_target(workdir: Path, table: pl.DataFrame) -> None:
    with_prices, _ = built(workdir)
    target = (pl.col("Close").shift(-2) / pl.col("Close").shift(-1) - 1).over("Code")
    full = table.filter(pl.len().over("Code") == 260).with_columns(target_1d=target)
    save(workdir, full.drop("Close", "tomorrow", "moving_average"))
    change(workdir, data__file__columns__close=None, data__table__daily_target="target_1d", data__table__exclude=[])
    panel, _ = built(workdir)
    stocks = [with_prices.codes.index(code) for code in panel.codes]
    for name in ("daily_return", "forward_return"):
        one, two = getattr(panel, name)[60:], getattr(with_prices, name)[60:][:, stocks]
        both = np.isfinite(one) & np.isfinite(two)
        assert both.mean() > 0.85
        np.testing.assert_allclose(one[both], two[both], atol=1e-5)


BAD: dict[str, tuple[Callable[[Path, pl.DataFrame], None], str]] = {
    "named label": (lambda d, _: change(d, data__table__features=["momentum", "next_week"]), "forward-looking by its"),
    "no such column": (lambda d, _: change(d, data__table__features=["momentun"]), "no column matches 'momentun'"),
    "text column": (lambda d, _: change(d, data__table__features=["Section"]), "'Section' is String, not numeric"),
    "a price": (lambda d, _: change(d, data__table__features=["Close"]), "'Close' is excluded or is a bar"),
    "nothing left": (lambda d, t: save(d, t.with_columns(pl.exclude(t.columns[:4]).abs() * 0)), "no feature column is"),
    "twice": (lambda d, t: save(d, pl.concat([t[:1], t])), "is there twice"),
    "exclude typo": (lambda d, _: change(d, data__table__exclude=["tomorow"]), "no column matches 'tomorow'"),
    "numeric date": (lambda d, t: save(d, t.with_columns(Date=pl.lit(20140102))), "not a date (YYYY-MM-DD)"),
    "list price": (lambda d, t: save(d, t.with_columns(Close=pl.concat_list("Close"))), "not a number"),
    "float code": (lambda d, t: save(d, t.with_columns(Code=pl.lit(1301.0))), "not text or a whole number"),
    "no such file": (lambda d, _: change(d, data__table__path="other.parquet"), "no file below data/raw"),
    "outside": (lambda d, _: change(d, data__table__path="../x.parquet"), "leaves data/raw"),
    "no returns": (lambda d, _: change(d, data__file__columns__close=None), "table.daily_target: needed"),
    "truncated": (lambda d, _: (d / "data/raw/table.parquet").write_bytes(b"PAR1" + 9000 * b"x"), "cannot be read"),
    "key missing": (lambda d, _: change(d, data__file__columns__code="Ticker"), "no column 'Ticker'"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_one_clear_line(
    case: str, workdir: Path, table: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, says = BAD[case]
    spoil(workdir, table)
    assert says in refused(capsys)


def test_rows_of_the_table_that_bars_do_not_know_are_counted(workdir: Path, table: pl.DataFrame) -> None:
    table.select("Date", "Code", "Section", "Close").filter(pl.col("Code") != "S0003").write_csv(
        workdir / "data/raw/bars.csv"
    )
    save(workdir, table.drop("Close"))
    change(workdir, data__file__path="*.csv")
    panel, report = built(workdir)
    assert "S0003" not in panel.codes
    assert report["rows_without_bar"] == (table["Code"] == "S0003").sum()


def test_a_row_of_the_table_is_there_once(
    workdir: Path, table: pl.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    table.select("Date", "Code", "Section", "Close").write_csv(workdir / "data/raw/bars.csv")
    save(workdir, pl.concat([table, table[77:78]]).drop("Close"))
    change(workdir, data__file__path="*.csv")
    told = refused(capsys)
    assert "is there 2 times" in told
    assert "cannot be read" not in told  # the file is whole
