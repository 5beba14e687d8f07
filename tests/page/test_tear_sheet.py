"""What stands on the page is what the files hold."""

import json
import re
from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import pytest

from atft.page.numbers import written as form_of
from atft.page.render import Notes, Numbers, chart
from atft.page.tear_sheet import Results, calendar, checks, tear_sheet
from conftest import World
from page.pages import Written, results_of, write_all
from page.readback import agrees, shown, value_at

DRAWN = {"equity", "drawdown", "regimes", "rank_ic", "rolling_rank_ic", "quantiles", "decay", "costs", "turnover",
         "exposures", "attention", "neighbors"}  # fmt: skip


@pytest.fixture(scope="module")
def results(world: World, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_of(world, tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_all(results, tmp_path_factory.mktemp("page"))


def without_numbers(html: str) -> str:
    """The cells of all tables, less the numbers that name their key."""
    cells = "".join(re.findall(r"<td.*?</td>", html, re.DOTALL))
    cells = re.sub(r'<span class="num.*?</span>', "", cells, flags=re.DOTALL)
    return re.sub(r"<[^>]*>", "", cells)


def test_every_number_equals_the_file_it_names(written: Written) -> None:
    numbers = shown(written.page.read_text())
    assert len(numbers) > 150
    assert [(key, text) for key, text in numbers if not agrees(text, value_at(written.files, key))] == []


def test_no_cell_holds_a_number_that_names_no_file(written: Written) -> None:
    assert re.findall(r"\d+", without_numbers(written.page.read_text())) == []


def test_every_chart_draws_the_series_of_its_table(written: Written) -> None:
    text = written.page.read_text()
    found = json.loads(text.split('id="series">')[1].split("</script>")[0])
    assert set(found) == DRAWN
    for name, table in (("equity", "equity"), ("drawdown", "drawdown"), ("costs", "costs"), ("exposures", "book")):
        rows = pl.read_csv(written.files[table])
        for one in found[name]["series"]:
            if one["column"] in rows.columns:
                assert one["values"] == rows[one["column"]].to_list(), (name, one["column"])


def test_the_same_results_give_the_same_bytes(results: Results) -> None:
    assert tear_sheet(results) == tear_sheet(results)


def test_the_page_is_small_and_asks_for_nothing_from_elsewhere(written: Written) -> None:
    text = written.page.read_text()
    assert len(text.encode()) < 300_000
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', text) == []
    assert "default-src 'none'" in text


def test_undefined_is_said_with_its_reason_and_nan_never(written: Written) -> None:
    text = written.page.read_text()
    script_free = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(nan|NaN|None|null|inf)\b", script_free)
    note = re.search(r'data-key="trials.overfitting">n/a<sup><a href="#note-(\d+)"', text)
    assert note
    assert f'<li id="note-{note[1]}">It takes two trials on the same days.' in text


def test_test_blocks_stand_folded_at_the_end_and_in_no_chart(results: Results, written: Written) -> None:
    text = written.page.read_text()
    assert text.index("<details>") > max(text.index(f'data-chart="{name}"') for name in DRAWN)
    before = text[: text.index("<details>")]
    assert not [key for key, _ in shown(before) if ".test." in key]
    last = str(results.evaluate["valid"]["to"])
    series = json.loads(text.split('id="series">')[1].split("</script>")[0])
    days = [day for one in series.values() if one["time"] for day in one["x"]]
    assert str(date(1970, 1, 1) + timedelta(seconds=max(days))) == last


def test_a_sealed_test_block_leaves_no_trace(results: Results) -> None:
    horizons = {h: {"valid": roles["valid"]} for h, roles in results.evaluate["horizons"].items()}
    sealed = replace(
        results,
        evaluate={"valid": results.evaluate["valid"], "horizons": horizons},
        drift=results.drift.filter(pl.col("role") == "valid"),
    )
    text = tear_sheet(sealed)
    assert "<details>" not in text
    assert "evaluate.test" not in text


def test_a_ranker_that_neither_selects_nor_attends_nor_trades_says_so(results: Results) -> None:
    empty = {name: results.series[name].clear() for name in ("attention", "selection", "equity", "drawdown", "book")}
    text = tear_sheet(replace(results, train={"model": "ridge", "fits": []}, series={**results.series, **empty}))
    assert "This ranker selects no features." in text
    assert "This ranker does not attend." in text
    assert "No book of these scores could have been traded." in text


def test_the_calendar_has_every_day_of_every_fold_once() -> None:
    days = [date(2020, 1, 1) + timedelta(days=i) for i in range(10)]
    roles = ["train"] * 4 + ["purged"] + ["valid"] * 3 + ["purged", "train"]
    folds = pl.DataFrame({"fold": [0] * 10 + [1] * 5, "date": days + days[:5], "role": roles + ["train"] * 5})
    (_, first), (_, second) = calendar(folds)
    assert [(s.role, s.days) for s in first] == [("train", 4), ("purged", 1), ("valid", 3), ("purged", 1), ("train", 1)]
    assert [(s.start, s.width) for s in first][:3] == [(0, 40), (40, 10), (50, 30)]
    assert [(s.role, s.width) for s in second] == [("train", 50)]


VALID = {"rank_ic_low": 0.01, "rank_ic_t": 2.0, "over_reversal_rank_ic_t": 1.9, "neutral_rank_ic_low": -0.01,
         "neutral_rank_ic_t": 3.0, "sharpe_net_low": None,
         "sharpe_net": 1.0, "days": 100, "minimum_track_record": 99.5, "psi_alerts": 1}  # fmt: skip


def test_a_sceptic_is_answered_by_intervals() -> None:
    answers = [check.answer for check in checks(VALID, {"deflated_sharpe": 0.96})]
    assert answers == [True, False, False, None, True, True, False]
    assert checks(VALID | {"rank_ic_t": 1.9}, {"deflated_sharpe": 0.96})[0].answer is False
    losing = VALID | {"sharpe_net": -1.0, "minimum_track_record": None}
    assert checks(losing, {"deflated_sharpe": None})[4].answer is False


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (-0.0185, "ic", "\N{MINUS SIGN}0.018"), (-0.0001, "ic", "0.000"), (0.2775, "share", "28\xa0%"),
        (20_630_853.9, "money", "20.6\xa0m"), (107_925, "count", "107,925"), (2.6883, "ratio", "2.69"),
    ],
)  # fmt: skip
def test_numbers_are_written_as_people_read_them(value: float, form: str, text: str) -> None:
    assert form_of(value, form) == text  # pyright: ignore


def test_a_key_that_does_not_exist_is_an_error_not_a_gap() -> None:
    numbers = Numbers({"evaluate": {"valid": {"rank_ic": 0.1}}}, Notes())
    assert not numbers.known("evaluate.valid.rank_id")
    with pytest.raises(KeyError):
        numbers.number("evaluate.valid.rank_id")


def test_text_cannot_become_markup(results: Results) -> None:
    text = tear_sheet(replace(results, market="<script>alert(1)</script>"))
    assert "<script>alert" not in text


def test_nothing_to_draw_is_no_chart() -> None:
    table = pl.DataFrame({"x": [1], "y": [None]}, schema={"x": pl.Int64, "y": pl.Float64})
    assert chart(table, "x", [{"column": "y", "label": "y"}], "ic") is None
