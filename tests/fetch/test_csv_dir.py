"""A folder of CSV files becomes one table, or one line says which cell is wrong."""

import sys
from datetime import date
from pathlib import Path

import polars as pl
import pytest

import fetch
from atft.panel.sources import OPTIONAL, REQUIRED, load_bars
from atft.program import run_program

HEADER = "Date,Open,High,Low,Close,Adj Close,Volume"
ROWS = ["2020-01-07,3,4,2,3.5,1,100", "2020-01-06,2,3,1,2.5,1,0", "2020-01-08,,,,,,"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csv").mkdir()
    for code in ("7203", "0001"):
        (tmp_path / f"csv/{code}.csv").write_text("\n".join([HEADER, *ROWS]) + "\n")
    return tmp_path / "csv"


def convert(monkeypatch: pytest.MonkeyPatch, *more: str) -> pl.DataFrame:
    monkeypatch.setattr(sys, "argv", ["fetch.py", "csv-dir", "--in", "csv", "--out", "raw/bars.parquet", *more])
    run_program(fetch.main)
    return pl.read_parquet("raw/bars.parquet")


def test_files_become_one_sorted_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    bars = convert(monkeypatch)
    assert bars.select("code", "date", "close", "volume").rows() == [
        (code, date(2020, 1, day), close, volume)
        for code in ("0001", "7203")
        for day, close, volume in ((6, 2.5, 0.0), (7, 3.5, 100.0), (8, None, None))
    ]
    out, err = capsys.readouterr()
    assert out == "raw/bars.parquet: 6 bars of 2 stocks\n"
    assert err == "note: Adj Close is left out, in 2 files, csv/0001.csv first\n"
    assert [file.name for file in Path("raw").iterdir()] == ["bars.parquet"]


def test_the_table_loads_as_raw_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = convert(monkeypatch)
    columns = {name: name if name in bars.columns else None for name in (*REQUIRED, *OPTIONAL)}
    assert load_bars(Path("raw"), "*", columns, None).select(bars.columns).equals(bars)


def test_labels_may_lie_in_the_same_folder(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "labels.csv").write_text("Code,Sector,Industry\n0001,Autos,\n9999,Banks,Banks\n")
    bars = convert(monkeypatch, "--labels", "csv/labels.csv")
    assert bars.select("code", "sector", "industry").unique(maintain_order=True).rows() == [
        ("0001", "Autos", None),
        ("7203", None, None),
    ]
    assert "labels.csv lacks 1 of 2 stocks, 7203 first" in capsys.readouterr().err


def rows(*changed: str) -> str:
    return "\n".join([HEADER, *changed]) + "\n"


BAD = {
    "no date": (rows("6 Jan,1,1,1,1,1,1"), "date in row 1 is '6 Jan'"),
    "empty date": (rows(*ROWS, ",1,1,1,1,1,1"), "date in row 4 is None"),
    "twice": (rows(*ROWS, ROWS[0]), "date in row 1 is '2020-01-07': it is there twice"),
    "text": (rows(*ROWS, "2020-01-09,1,null,1,1,1,1"), "high in row 4 is 'null': it is not a number"),
    "nan": (rows(*ROWS, "2020-01-09,1,1,NaN,1,1,1"), "low in row 4 is 'NaN': it is not a number"),
    "infinite": (rows(*ROWS, "2020-01-09,1,1,1,1,1,inf"), "volume in row 4 is 'inf': it is not a number"),
    "zero": (rows(*ROWS, "2020-01-09,0,1,1,1,1,1"), "open in row 4 is '0': it is not positive"),
    "negative volume": (rows(*ROWS, "2020-01-09,1,1,1,1,1,-1"), "volume in row 4 is '-1': it is negative"),
    "missing column": ("Date,Open,High,Low,Close\n2020-01-07,1,1,1,1\n", "no column 'volume'; it has Date, Open"),
    "two columns": ("Date,date,Open,High,Low,Close,Volume\n", "columns 'Date' and 'date' are both date"),
    "no rows": (HEADER + "\n", "holds no rows"),
    "empty": ("", "cannot be read as CSV"),
    "ragged": (rows("2020-01-07,1,1,1,1,1,1,1"), "cannot be read as CSV"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_line(
    case: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, says = BAD[case]
    (folder / "5.csv").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        convert(monkeypatch)
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert error.startswith("error: csv/5.csv: ")
    assert says in error
    assert error.count("\n") == 1
    assert not Path("raw").exists()


def test_labels_are_checked_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("labels.csv").write_text("code,sector,industry\n0001,A,B\n0001,A,C\n")
    with pytest.raises(SystemExit):
        convert(monkeypatch, "--labels", "labels.csv")
    assert "labels.csv: code in row 1 is '0001': it is there twice" in capsys.readouterr().err


def test_two_files_of_one_stock_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "7203.CSV").write_text((folder / "7203.csv").read_text())
    with pytest.raises(SystemExit):
        convert(monkeypatch)
    assert "two files are named 7203" in capsys.readouterr().err


def test_a_folder_without_csv_files_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch.py", "csv-dir", "--in", "nowhere"])
    with pytest.raises(SystemExit):
        run_program(fetch.main)
    assert "nowhere: holds no CSV file" in capsys.readouterr().err
