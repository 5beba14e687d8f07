"""The day's ranks as a table, a file and lines on a terminal: twenty stocks, all by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from test_book import STOCKS, panel_of

from atft.predict.book import Orders
from atft.predict.output import cost_of, ranks, show, write
from atft.predict.scores import DayScores
from evaluation.judged import RULES

ROW, UNKNOWN = 85, [17, 18, 19]
HORIZON2 = replace(RULES, primary_horizon=2)
BOOKS = ("long_short", "long_only")
FACTS: dict[str, Any] = {
    "date": "2020-03-26", "fold": 2, "seeds": [0, 1], "model": "m0", "data": "d0",
    "warnings": [{"kind": "stale", "text": "old"}], "long_short": {"turnover": 0.25, "cost_bps": 2.5},
    "long_only": {"turnover": None, "cost_bps": None},
}  # fmt: skip


def orders_of(**weights: dict[int, float]) -> Orders:
    """A book with the weights of these stocks, and 0 of all others."""
    arrays = {name: np.zeros(STOCKS) for name in ("target", "held", "trade")}
    for name, values in weights.items():
        arrays[name][list(values)] = list(values.values())
    return Orders(**arrays)


LONG_SHORT = orders_of(target={16: 0.5, 0: -0.5}, held={3: 0.1, 19: 0.25}, trade={16: 0.0625, 19: -0.125})
LONG_ONLY = orders_of(target={16: 0.75, 15: 0.25}, held={4: 0.5}, trade={15: 0.375, 17: -0.1})


def day_scores(unknown: list[int]) -> DayScores:
    """The higher the number the better, but that 5 and 6 tie; a day before it was the other way round.

    The second seed says a hundred times as much of horizon 1, and nine times of horizon 2.
    """
    score = np.arange(STOCKS, dtype=np.float32)
    score[5] = score[6]
    score[unknown] = np.nan
    one = np.stack([-score, score])[..., None].repeat(2, 2)
    return DayScores(np.array([ROW - 1, ROW]), [2, 2], [one, one * np.array([99, 9], np.float32)])


def table_of(unknown: list[int], long_short: Orders = LONG_SHORT) -> pl.DataFrame:
    sector = np.zeros_like(panel_of().sector)
    sector[ROW, ::2] = 1
    panel = panel_of(horizons=[1, 2], sector=sector)
    scores = day_scores(unknown)
    books = {"long_short": long_short, "long_only": LONG_ONLY}
    return ranks(panel, ROW, scores, scores.together[-1, :, 1], books)


def test_the_best_comes_first_and_a_tie_goes_to_the_higher_number() -> None:
    table = table_of(UNKNOWN)
    assert table["stock"].to_list() == [f"{i:02d}" for i in (*range(16, -1, -1), 17, 19)]
    assert table["rank"].to_list() == [*range(1, 18), None, None]
    assert set(table["date"]) == {panel_of().dates[ROW].item()}
    assert table["sector"].to_list() == ["unknown" if int(code) % 2 else "one" for code in table["stock"]]
    assert table.row(0, named=True)["score_1"] == 50 * 16  # the seeds' mean, not the ranks that they agree on
    assert table.row(0, named=True)["score_2"] == 5 * 16


def test_tenths_of_twenty_are_pairs() -> None:
    table = table_of([])
    assert table["quantile"].to_list() == [tenth for tenth in range(10, 0, -1) for _ in range(2)]
    assert table_of(list(range(1, 20)))["quantile"].to_list()[0] == 6  # a stock alone stands in the middle


def test_each_column_of_a_book_holds_its_own() -> None:
    table = table_of(UNKNOWN)
    for name, book in zip(BOOKS, (LONG_SHORT, LONG_ONLY), strict=True):
        for what in ("target", "held", "trade"):
            found = dict(zip(table["stock"], table[f"{name}_{what}"], strict=True))
            assert found == {code: getattr(book, what)[int(code)] for code in table["stock"]}


def test_who_is_held_and_no_longer_ranked_stands_below() -> None:
    """Of either book; who is neither ranked nor held does not stand there."""
    table = table_of(UNKNOWN).filter(pl.col("rank").is_null())
    assert table["stock"].to_list() == ["17", "19"]
    for name in ("quantile", "score_1", "score_2"):
        assert table[name].to_list() == [None, None]
    assert table["long_short_held"].to_list() == [0, 0.25]
    assert table["long_only_trade"].to_list() == [-0.1, 0]


def test_a_book_that_is_not_complete_is_null() -> None:
    open_book = replace(LONG_SHORT, held=np.full(STOCKS, np.nan), trade=np.full(STOCKS, np.nan))
    table = table_of(UNKNOWN, open_book)
    assert table["long_short_held"].null_count() == table["long_short_trade"].null_count() == len(table)
    assert table["stock"].to_list()[-1] == "17"  # 19 is held by the other book alone
    assert cost_of(open_book, 10) == {"turnover": None, "cost_bps": None}
    assert cost_of(LONG_SHORT, 10) == {"turnover": 0.1875, "cost_bps": 1.875}


def shown(table: pl.DataFrame, monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    show(table, FACTS, HORIZON2)


def test_a_terminal_shows_the_five_best_and_the_five_worst(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(table_of(UNKNOWN), monkeypatch, terminal=True)
    found = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in found.out.splitlines() if line[0] == "│"]
    assert [row[:2] for row in rows] == [[str(17 - i), f"{i:02d}"] for i in (*range(16, 11, -1), *range(4, -1, -1))]
    assert rows[0][2:] == ["one", "80.0000", "+0.0625"]
    assert rows[-1][2:] == ["one", "0.0000", "+0.0000"]
    assert found.err == "warning: stale: old\n"
    assert found.out.splitlines()[-4:] == [
        "date 2020-03-26, fold 2, seeds 0, 1",
        "model m0, data d0",
        "long-short book: trades 0.2500 of its capital, which costs 2.50 bps of it at 10 bps a side",
        "long-only book: not complete yet",
    ]


def test_of_a_small_day_no_stock_stands_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown(table_of(list(range(7, 20))), monkeypatch, terminal=True)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[0] == "│"]
    assert [line.split("│")[2].strip() for line in lines] == [f"{i:02d}" for i in range(6, -1, -1)]


def test_a_program_reads_lines_alone(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    shown(table_of(UNKNOWN), monkeypatch, terminal=False)
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_holds_the_table_and_the_one_beside_it_the_facts(tmp_path: Path, kind: str) -> None:
    file, table = tmp_path / f"ranks.{kind}", table_of(UNKNOWN)
    write(file, table, FACTS)
    read = pl.read_csv(file, schema=table.schema) if kind == "csv" else pl.read_parquet(file)
    assert read.equals(table)
    assert json.loads((tmp_path / "ranks.json").read_text()) == FACTS
