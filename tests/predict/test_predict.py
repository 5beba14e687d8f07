"""`python src/predict.py` end to end: rivals of two seeds, new bars from a folder, and every warning."""

import importlib
import json
import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from atft.errors import InputError
from atft.panel.simulate import simulate_market
from conftest import set_knobs

ROOT = Path(__file__).parents[2]
TINY = {
    "threads": 1, "seeds": [0, 1], "data__source": "file", "data__file__columns__terminal_return": "terminal_return",
    "data__horizons": [1, 5], "data__min_history": 40, "split__valid": 1, "split__test": 1, "split__block_days": 40,
    "split__stop_days": 60, "split__min_train_days": 40, "split__purge": 6, "graph__min_overlap": 40,
    "model__lookback": 5, "train__model": "ridge", "train__lightgbm__trees": 10, "train__lightgbm__early_stopping": 0,
    "train__lightgbm__min_leaf": 50, "evaluate__bootstrap": 100,
}  # fmt: skip
DAYS, KNOWN = 260, 250


@dataclass(frozen=True)
class Project:
    """A folder in which the stages ran on the market's first `KNOWN` days."""

    folder: Path
    bars: pl.DataFrame

    @property
    def dates(self) -> list[Any]:
        return self.bars["date"].unique().sort().to_list()

    def run(self, program: str, *options: str, **knobs: Any) -> None:
        """A program with these knobs of params.yaml, here and in this process."""
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        set_knobs(params, TINY | knobs)
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))
        with pytest.MonkeyPatch.context() as here:
            here.chdir(self.folder)
            here.delenv("DVC_ROOT", raising=False)
            here.setattr(sys, "argv", [program, *options])
            importlib.import_module(program).main()

    def predict(self, *options: str, **knobs: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
        """The ranks, and what they rest on."""
        self.run("predict", *options, "--output", "ranks.parquet", **knobs)
        return pl.read_parquet(self.folder / "ranks.parquet"), json.loads((self.folder / "ranks.json").read_text())

    def copy(self, folder: Path) -> "Project":
        return Project(shutil.copytree(self.folder, folder), self.bars)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    bars = simulate_market(40, DAYS, "standard", 7, (1, 5), 1).bars
    project = Project(tmp_path_factory.mktemp("project"), bars)
    for name in ("data/raw", "models/encoder"):  # of which rivals need nothing
        (project.folder / name).mkdir(parents=True)
    bars.filter(pl.col("date") < project.dates[KNOWN]).write_parquet(project.folder / "data/raw/bars.parquet")
    for stage in ("cache", "graph", "train", "evaluate"):
        project.run(stage)
    return project


@pytest.mark.parametrize("model", ["ridge", "lightgbm"])
def test_two_seeds_of_a_rival_say_of_a_held_out_day_what_evaluate_said(
    project: Project, tmp_path: Path, model: str
) -> None:
    """Their mean, to the last bit, and the order of their mean rank."""
    place = project.copy(tmp_path / "place")
    if model == "lightgbm":  # whose seeds differ
        place.run("train", train__model=model)
        place.run("evaluate", train__model=model)
    day = place.dates[KNOWN - 15]
    ranks, facts = place.predict("--date", str(day), train__model=model)
    assert facts["seeds"] == [0, 1]
    assert "reference" not in [warn["kind"] for warn in facts["warnings"]]
    written = pl.read_parquet(place.folder / "data/predictions.parquet").filter(pl.col("date") == day)
    assert written["fold"].unique().to_list() == [facts["fold"]]
    seeds = written.pivot(on="seed", index=["code", "horizon"], values="score").sort("code")
    ranks = ranks.filter(pl.col("rank").is_not_null())
    for horizon in (1, 5):
        rows = seeds.filter(pl.col("horizon") == horizon)
        found = ranks.sort("stock")
        assert found["stock"].to_list() == rows["code"].to_list()
        mean = rows.select(pl.mean_horizontal(pl.col("0", "1").cast(pl.Float64)).cast(pl.Float32)).to_series()
        assert found[f"score_{horizon}"].to_list() == mean.to_list()
        assert rows["0"].equals(rows["1"]) == (model == "ridge")
    together = rows.select("code", place=pl.col("0").rank() + pl.col("1").rank())
    assert ranks.join(together, left_on="stock", right_on="code").sort("rank")["place"].is_sorted(descending=True)


def test_a_horizon_that_the_model_was_not_trained_for_is_refused(project: Project, tmp_path: Path) -> None:
    place = project.copy(tmp_path / "place")
    with pytest.raises(InputError, match=r"evaluate.primary_horizon 3 is none of the model's horizons \(1, 5\)"):
        place.predict(data__horizons=[1, 3], evaluate__primary_horizon=3)


def test_the_card_of_real_bars_tells_of_which_days_they_are(project: Project) -> None:
    """And it is about the very folds that `evaluate` judged."""
    project.run("predict", "--card")
    card = (project.folder / "docs/model_card.md").read_text()
    known, found = project.dates[:KNOWN], json.loads((project.folder / "metrics/evaluate.json").read_text())
    stocks = project.bars.filter(pl.col("date") <= known[-1])["code"].n_unique()
    assert "- Source: daily bars in `data/raw/*`.\n" in card
    assert f"- Period: {known[0]} to {known[-1]}, {KNOWN} days with bars, {stocks} stocks.\n" in card
    assert f"| 1 | {known[39]} | {known[LEARNED]} |" in card  # from the first day with data.min_history bars on
    for role in ("valid", "test"):
        assert f"| {role} | {found[role]['from']} | {found[role]['to']} |" in card


# --- new bars --------------------------------------------------------------------------------------


def test_a_folder_of_bars_is_as_good_as_one_file(project: Project, tmp_path: Path) -> None:
    new = project.bars.filter(pl.col("date") >= project.dates[KNOWN])
    new.write_parquet(tmp_path / "new.parquet")
    folder = tmp_path / "new"
    folder.mkdir()
    new.filter(pl.col("date") < project.dates[-3]).write_csv(folder / "b.csv")
    new.filter(pl.col("date") >= project.dates[-3]).write_parquet(folder / "a.parquet")
    (folder / "notes.txt").write_text("no bars")
    found = [project.copy(tmp_path / f"after-{path.name}").predict("--data", str(path))
             for path in (tmp_path / "new.parquet", folder)]  # fmt: skip
    assert found[0][1] == found[1][1]
    assert found[0][0].equals(found[1][0])
    assert found[0][1]["date"] == str(project.dates[-1])


def test_rows_of_a_feature_table_are_not_appended(project: Project, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("date,code\n")
    says = r"^--data: features of a table cannot be appended; put its rows into data/raw, run `dvc repro`$"
    with pytest.raises(InputError, match=says):
        project.predict("--data", str(tmp_path / "new.csv"), data__source="table")
    assert not (project.folder / "data/live").exists()


# --- warnings --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strange(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Everything that predict warns of, at once.

    After seven weekdays without a bar every other stock opens 30 % higher, the others as much lower. On the fourth day
    8 of the 32 stocks that were ranked when the model last learned have no bar, and 10 of the 26 ranked ones no
    high. Of the model's `stop` scores seed 1 has none, and those of seed 0 are far above today's, but on the last day,
    by which the model is known.
    """
    place = project.copy(tmp_path_factory.mktemp("strange") / "place")
    new = place.bars.filter(pl.col("date") >= place.dates[-4])
    codes = new["code"].unique().sort().to_list()
    last = pl.col("date") == place.dates[-1]
    new = new.filter(~(last & pl.col("code").is_in(codes[:8])))
    factor = pl.when(pl.col("code").is_in(codes[::2])).then(1.3).otherwise(0.7)
    new = new.with_columns(pl.col("open", "high", "low", "close") * factor)
    new = new.with_columns(high=pl.when(~(last & pl.col("code").is_in(codes[8:18]))).then("high"))
    new.write_parquet(place.folder / "new.parquet")
    file = place.folder / "data/predictions.parquet"
    scores = pl.read_parquet(file).filter(pl.col("seed") == 0)
    known = pl.col("date") == place.dates[LEARNED]
    scores.with_columns(score=pl.col("score") + pl.when(known).then(0).otherwise(100)).write_parquet(file)
    place.predict("--data", "new.parquet")
    return place


LEARNED = KNOWN - 40 - 6 - 1  # the newest fold's last day: before the block and the purged days


def test_every_warning_is_given_beyond_its_limit(strange: Project) -> None:
    _, facts = strange.predict(
        predict__stale_after=6, predict__retrain_after=49, predict__universe_change=0.24, predict__unknown_share=0.34
    )
    dates, today = [str(day) for day in strange.dates], datetime.now(tz=UTC).date()
    passed = np.busday_count(strange.dates[-1] + timedelta(1), today + timedelta(1))
    says = [
        ("stale", f"the last bar is of {dates[-1]}, {passed} weekdays before {today} (limit 6)"),
        ("gap", f"no bars between {dates[KNOWN - 1]} and {dates[-4]}, 7 weekdays apart (limit 6)"),
        ("old_model", f"fold 1 learned until {dates[LEARNED]}, 50 trading days before (limit 49); retrain"),
        ("universe", f"since {dates[LEARNED]} 8% of the ranked stocks came in and 25% left (limit 24%)"),
        ("unknown", "unknown more often than in training: close_location 38% (3%), day_range 38% (3%)"),
        ("range", "outside what training saw: market_dispersion "),
        ("drift", "scores of horizon 1, seed 0: stability index 8.28 against "),  # all of them in the lowest of 10 bins
        ("drift", "scores of horizon 5, seed 0: stability index 8.28 against "),
        ("reference", f"data/predictions.parquet does not hold what this model and cache give on {dates[LEARNED]} for "
                      "fold 1, seed 1, so"),
    ]  # fmt: skip
    found = [(warn["kind"], warn["text"]) for warn in facts["warnings"]]
    assert [(kind, text[: len(start)]) for (kind, text), (_, start) in zip(found, says, strict=True)] == says


def test_none_is_given_within_its_limit(strange: Project) -> None:
    """Those without a limit remain; a day that was asked for is not stale."""
    _, facts = strange.predict(
        "--date", str(strange.dates[-1]), predict__stale_after=7, predict__retrain_after=50,
        predict__universe_change=0.25, predict__unknown_share=0.36,
    )  # fmt: skip
    assert [warn["kind"] for warn in facts["warnings"]] == ["range", "drift", "drift", "reference"]
