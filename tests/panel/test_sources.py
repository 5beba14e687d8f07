"""Bad input: one clear line, status 1, nothing half-written."""

from pathlib import Path

import polars as pl
import pytest
import yaml

import cache
from atft.panel.store import read_panel
from atft.program import run_program
from conftest import set_knobs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world) -> Path:
    """A working directory whose data/raw/bars.parquet is good."""
    (tmp_path / "data/raw").mkdir(parents=True)
    world.market.bars.write_parquet(tmp_path / "data/raw/bars.parquet")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["data"]["source"] = "file"
    params["data"]["file"]["columns"]["terminal_return"] = "terminal_return"
    params["data"]["horizons"] = [1, 5]
    params["split"] |= {"block_days": 20, "stop_days": 10, "purge": 6, "min_train_days": 20}
    save(tmp_path, params)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save(folder: Path, params: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def change(folder: Path, **knobs: object) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    set_knobs(params, knobs)
    save(folder, params)


def rewrite(folder: Path, **columns: pl.Expr) -> None:
    file = folder / "data/raw/bars.parquet"
    pl.read_parquet(file).with_columns(**columns).write_parquet(file)


def at(row: int, column: str, value: object) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) == row).then(pl.lit(value)).otherwise(pl.col(column))


def first_rows(folder: Path, query: object) -> None:
    file = folder / "data/raw/bars.parquet"
    query(pl.read_parquet(file)).write_parquet(file)  # pyright: ignore


BAD = {
    "missing column": (lambda d: first_rows(d, lambda f: f.drop("volume")), "no column 'volume'"),
    "missing sector": (lambda d: first_rows(d, lambda f: f.drop("sector")), "null if the data has none"),
    "duplicate": (lambda d: first_rows(d, lambda f: pl.concat([f[:1], f])), "is there twice"),
    "unsorted": (lambda d: first_rows(d, lambda f: f.reverse()), "sort the rows"),
    "text in a price": (lambda d: rewrite(d, close=at(5, "close", "n/a").cast(pl.String)), "'n/a', not a number"),
    "text in a date": (lambda d: rewrite(d, date=at(5, "date", "soon").cast(pl.String)), "not a date"),
    "negative price": (lambda d: rewrite(d, low=at(5, "low", -1.0)), "low -1.0 of S0000"),
    "zero price": (lambda d: rewrite(d, close=at(5, "close", 0.0)), "is not positive"),
    "negative volume": (lambda d: rewrite(d, volume=at(5, "volume", -1.0)), "volume -1.0 of S0000"),
    "infinite value": (lambda d: rewrite(d, high=at(5, "high", float("inf"))), "is infinite"),
    "null code": (lambda d: rewrite(d, code=at(5, "code", None)), "'code' has 1 nulls"),
    "lost more than everything": (lambda d: rewrite(d, terminal_return=pl.lit(-1.5)), "loses more than everything"),
    "terminal before the end": (
        lambda d: rewrite(d, terminal_return=at(5, "terminal_return", -0.5)),
        "is not on the stock's last bar",
    ),
    "no rows": (lambda d: first_rows(d, lambda f: f.clear()), "holds no rows"),
    "empty file": (lambda d: (d / "data/raw/bars.parquet").write_bytes(b""), "cannot be read"),
    "corrupted": (lambda d: (d / "data/raw/bars.parquet").write_bytes(b"PAR1 but then nothing"), "cannot be read"),
    "one stock": (lambda d: first_rows(d, lambda f: f.filter(code="S0001")), "only stock 'S0001'"),
    "few dates": (lambda d: first_rows(d, lambda f: f.filter(pl.col("date") < pl.date(2014, 6, 1))), "too few dates"),
    "no universe": (lambda d: change(d, data__min_history=500), "no date has 20 tradable stocks"),
    "unknown sector": (lambda d: change(d, data__file__sectors=["sector 0"]), "not in data.file.sectors"),
    "missing file": (lambda d: (d / "data/raw/bars.parquet").unlink(), "no file below data/raw"),
    "outside": (lambda d: change(d, data__file__path="../secret/*.parquet"), "leaves data/raw"),
    "absolute": (lambda d: change(d, data__file__path="/etc/*.parquet"), "leaves data/raw"),
    "block outside": (
        lambda d: change(d, split__valid=["2001-01-01"], split__test=["2014-09-01"]),
        "2001-01-01 lies outside the data",
    ),
    "numbers and dates": (lambda d: change(d, split__valid=["2014-08-01"]), "both as numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(case: str, workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, says = BAD[case]
    spoil(workdir)
    with pytest.raises(SystemExit) as stopped:
        run_program(cache.main)
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert says in error
    assert sorted(path.name for path in (workdir / "data").iterdir()) == ["raw"]


def test_a_corrupted_arrow_file_is_one_clear_line(workdir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = workdir / "data/raw/bars.parquet"
    bars = pl.read_parquet(file)
    file.unlink()
    arrow = workdir / "data/raw/bars.arrow"
    bars.write_ipc(arrow)
    arrow.write_bytes(arrow.read_bytes()[:5000])
    with pytest.raises(SystemExit):
        run_program(cache.main)
    assert "bars.arrow: cannot be read" in capsys.readouterr().err


def test_a_link_that_leaves_raw_is_refused(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "bars.parquet"
    (workdir / "data/raw/bars.parquet").rename(elsewhere)
    (workdir / "data/raw/bars.parquet").symlink_to(elsewhere)
    with pytest.raises(SystemExit):
        run_program(cache.main)
    assert "is a link that leaves" in capsys.readouterr().err


def built(folder: Path) -> bytes:
    cache.main()
    return (folder / "data/cache/panel.arrow").read_bytes()


def test_formats_order_and_names_do_not_matter(workdir: Path) -> None:
    """Two files that follow each other, in CSV and Arrow under other column names, build the same panel."""
    expected = built(workdir)
    file = workdir / "data/raw/bars.parquet"
    bars = pl.read_parquet(file).rename({"close": "Close", "code": "Ticker"})
    file.unlink()
    cut = pl.col("date") < pl.date(2014, 6, 1)
    bars.filter(~cut).write_csv(workdir / "data/raw/a_later.csv")
    bars.filter(cut).sort("date", "Ticker").write_ipc(workdir / "data/raw/b_earlier.arrow")
    change(workdir, data__file__columns__close="Close", data__file__columns__code="Ticker")
    assert built(workdir) == expected


def test_a_file_without_sectors_is_fine_when_said(workdir: Path) -> None:
    first_rows(workdir, lambda f: f.drop("sector", "industry"))
    change(workdir, data__file__columns__sector=None, data__file__columns__industry=None)
    built(workdir)
    assert read_panel(workdir / "data/cache").sector_names == ["unknown"]


def test_a_code_is_text_in_csv_too(workdir: Path) -> None:
    """As numbers 0001 and 1 would be one stock."""
    file = workdir / "data/raw/bars.parquet"
    numbers = pl.col("code").rank("dense").cast(pl.Int64).cast(pl.String).str.zfill(4)
    pl.read_parquet(file).with_columns(code=numbers).write_csv(workdir / "data/raw/bars.csv")
    file.unlink()
    built(workdir)
    assert read_panel(workdir / "data/cache").codes[0] == "0001"
