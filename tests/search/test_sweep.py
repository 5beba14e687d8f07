"""`python src/sweep.py` on a market of 40 stocks: what it shares, reads, keeps and reproduces."""

import importlib
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml
from polars.testing import assert_frame_equal
from tqdm import tqdm

from atft.config import load_params
from atft.errors import InputError
from atft.evaluation.facts import Rules
from atft.evaluation.ledger import read_ledger, trial_name
from atft.evaluation.market import Market
from atft.evaluation.report import evaluate_scores
from atft.evaluation.verdict import Trial
from atft.graph.snapshots import read_snapshots
from atft.panel.store import folds, read_panel
from atft.search import objective, store
from atft.search.promote import override
from atft.search.space import with_values
from atft.training import rankers
from atft.training.predictions import score_fold
from atft.training.rankers import read_manifest
from conftest import set_knobs

ROOT = Path(__file__).parents[2]
TINY = {
    "threads": 1, "data__simulated__stocks": 40, "data__simulated__days": 280, "data__horizons": [1, 5],
    "split__valid": 1, "split__test": 1, "split__block_days": 40, "split__stop_days": 20, "split__min_train_days": 40,
    "split__purge": 6, "model__lookback": 5, "model__hidden": 8, "pretrain__epochs": 1, "train__epochs": 2,
    "train__days_per_step": 5, "evaluate__bootstrap": 100, "seeds": [0, 1],
}  # fmt: skip
SPACE = ("train.lr:log_float:1e-3,1e-2", "train.optimizer:categorical:['adamw','adabelief']")
CHEAP = ("train.model:categorical:[reversal]", "train.reversal_feature:categorical:[return_1,return_5,return_20]")


def stage(name: str) -> None:
    """Run a stage's program, or another's, here and in this process."""
    importlib.import_module(name).main()


def sweep(monkeypatch: pytest.MonkeyPatch, *options: str, space: tuple[str, ...] = SPACE) -> Any:
    flags = [flag for text in space for flag in ("--suggest-params", text)]
    monkeypatch.setattr(sys, "argv", ["src/sweep.py", "--study-name", "s", *flags, *options])
    stage("sweep")


@pytest.fixture(scope="module")
def runs() -> list[str]:
    """Stages that a search ran, in order."""
    return []


def run_stages_here(patch: pytest.MonkeyPatch, runs: list[str]) -> None:
    """As `Store` runs them, but for the two seconds that a new process takes to import."""

    def run(command: list[Any], cwd: Path, **_: Any) -> Any:
        runs.append(Path(command[1]).stem)
        with pytest.MonkeyPatch.context() as there:
            there.chdir(cwd)
            there.delenv("DVC_ROOT", raising=False)
            stage(runs[-1])
        return SimpleNamespace(returncode=0)

    patch.setattr(store, "subprocess", SimpleNamespace(run=run))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    set_knobs(params, TINY)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data/raw").mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def _here(home: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    run_stages_here(monkeypatch, runs)


@pytest.fixture(scope="module")
def found(home: Path, runs: list[str]) -> pl.DataFrame:
    """The trials of a search of three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        run_stages_here(patch, runs)
        sweep(patch, "--n-trials", "3")
    return pl.read_csv(home / "metrics/sweeps/s/trials.csv")


def test_what_trials_share_is_built_once(
    home: Path, found: pl.DataFrame, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runs == ["cache", "graph", "pretrain"]
    assert found["state"].to_list() == ["complete"] * 3
    monkeypatch.setattr(rankers, "fit_ranker", lambda *arguments: pytest.fail("a fit was made twice"))
    picture = (home / "metrics/sweeps/s/history.svg").read_bytes()
    sweep(monkeypatch, "--n-trials", "3")  # all is done
    assert (home / "metrics/sweeps/s/history.svg").read_bytes() == picture
    shutil.rmtree(home / ".scratch/sweep/studies")
    sweep(monkeypatch, "--n-trials", "3")  # a new study tries the same and finds all of it in the store
    assert runs == ["cache", "graph", "pretrain"]
    assert pl.read_csv(home / "metrics/sweeps/s/trials.csv").equals(found)


def test_every_trial_is_in_the_ledger(home: Path, found: pl.DataFrame) -> None:
    rows = [row for row in read_ledger(home / "metrics/ledger") if row.name.startswith("s-t")]
    assert {row.name for row in rows} == {"s-t000", "s-t001", "s-t002"}
    assert {row.verdict for row in rows} == {"tried"}
    values = dict(found.select("trial", "value").iter_rows())
    assert {row.name: row.rank_ic for row in rows} == {
        f"s-t{number:03d}": pytest.approx(value, abs=1e-6) for number, value in values.items()
    }
    assert all("train.lr: 0.003 -> " in row.changes and row.p is None for row in rows)


def test_the_best_trial_is_what_the_pipeline_makes_of_its_knobs(
    home: Path, found: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, though the stages see the test blocks too."""
    best = found.sort("value", descending=True).row(0, named=True)
    values = {"train.lr": best["train.lr"], "train.optimizer": best["train.optimizer"]}
    content = with_values(yaml.safe_load((home / "params.yaml").read_text()), values)
    assert content["split"]["seal_test"] is False
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "data/raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("cache", "graph", "pretrain", "train"):
        stage(name)
    panel, snapshots = read_panel(Path("data/cache")), read_snapshots(Path("data/graph"))
    splits = pl.read_csv("data/cache/splits.csv", try_parse_dates=True)
    assert set(splits["role"]) >= {"valid", "test"}
    manifest = read_manifest(Path("models/ranker"), panel)
    scores = [
        part
        for fold in folds(splits)
        for seed in manifest.seeds
        for part in score_fold(manifest, Path("models/ranker"), panel, snapshots, splits, fold, seed)
    ]
    judged = evaluate_scores(scores, Market.of(panel), Rules(**content["evaluate"]))
    assert judged.summary["valid", 5]["rank_ic"] == best["value"]
    daily = judged.daily.filter(pl.col("role") == "valid").drop("role")
    rows = [row for row in read_ledger(home / "metrics/ledger") if row.name == f"s-t{best['trial']:03d}"]
    assert rows[0].trial == trial_name(Trial("x", "x", "x", 5, daily, {}))
    assert override(values["train.optimizer"]) == values["train.optimizer"]
    assert float(override(values["train.lr"])) == values["train.lr"]


def test_whatever_the_test_block_holds_no_trial_changes(
    home: Path, found: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cache,) = (home / ".scratch/sweep").glob("cache-*/data/cache")
    splits = pl.read_csv(cache / "splits.csv", try_parse_dates=True)
    assert "test" not in set(splits["role"])
    panel = read_panel(cache)
    first = int(panel.positions(splits["date"]).max()) + 1
    assert first == len(panel.dates) - TINY["split__block_days"]
    opened: list[int] = []

    def poisoned(folder: Path) -> Any:
        """The panel with nonsense in the test block, and a note of how many of its days were left."""
        content = {}
        for name in ("features", "label", "forward_return", "daily_return", "money_traded"):
            content[name] = np.array(getattr(panel, name))
            content[name][first:] = 1e6
        opened.append(first)
        return type(panel)(**{**vars(panel), **content})

    objective._opened.cache_clear()
    monkeypatch.setattr(objective, "read_panel", poisoned)
    for place in (home / ".scratch/sweep").glob("train-*"):
        shutil.rmtree(place)
    shutil.rmtree(home / ".scratch/sweep/studies")
    sweep(monkeypatch, "--n-trials", "3")
    assert opened == [first]
    (graph,) = (home / ".scratch/sweep").glob("graph-*/data/graph")
    assert len(objective._opened(cache, graph)[0].dates) == first  # what is not there cannot be read
    objective._opened.cache_clear()
    assert pl.read_csv(home / "metrics/sweeps/s/trials.csv").equals(found)


def table(home: Path, study: str) -> pl.DataFrame:
    return pl.read_csv(home / f"metrics/sweeps/{study}/trials.csv")


def test_a_study_that_is_continued_knows_its_space(
    home: Path, found: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(monkeypatch, "--study-name", "on", "--n-trials", "1", "--metric", "ic", space=CHEAP)
    before = table(home, "on")
    sweep(monkeypatch, "--study-name", "on", "--n-trials", "3", space=())
    after = table(home, "on")
    assert after.columns[4:] == ["train.model", "train.reversal_feature"]
    assert after["state"].to_list() == ["complete"] * 3
    assert after.head(1).equals(before)
    assert "ic on valid" in (home / "metrics/sweeps/on/history.svg").read_text()


def test_two_workers_make_as_many_trials_as_asked(
    home: Path, found: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very trials that one makes, as long as what is tried is drawn at random."""
    space = {path: {kind: yaml.safe_load(values)} for path, kind, values in (text.split(":", 2) for text in CHEAP)}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space | {"evaluate.smoothing": {"float": [0.0, 0.9]}}))
    options = ["--space", str(tmp_path / "space.yaml"), "--metric", "sharpe_net", "--n-trials", "4"]
    for name, workers in (("two", "2"), ("one", "1")):
        command = [str(ROOT / "src/sweep.py"), "--study-name", name, "--workers", workers, *options]
        monkeypatch.setattr(sys, "argv", command)
        stage("sweep")
    trials = table(home, "two")
    assert trials["trial"].to_list() == [0, 1, 2, 3]
    assert trials["value"].n_unique() == 4
    assert_frame_equal(trials, table(home, "one"), rel_tol=1e-12)


def opened(monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    """The search of a command line, before it does anything."""
    program = importlib.import_module("sweep")
    monkeypatch.setattr(sys, "argv", ["src/sweep.py", *options])
    return program.Sweep(program.arguments(), with_values(load_params().model_dump(mode="json"), program.SEALED))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not bind processes to cores")
def test_each_worker_has_its_own_cores(home: Path, found: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    search = opened(monkeypatch, "--study-name", "cores", "--suggest-params", *CHEAP[:1])
    now = [{0, 2, 3, 7}]
    hired: list[set[int]] = []

    def hire(command: list[str], **streams: Any) -> SimpleNamespace:
        hired.append(now[0])
        return SimpleNamespace(poll=lambda: 0, returncode=0)

    monkeypatch.setattr(os, "sched_getaffinity", lambda process: now[0])
    monkeypatch.setattr(os, "sched_setaffinity", lambda process, cores: now.__setitem__(0, set(cores)))
    monkeypatch.setattr(subprocess, "Popen", hire)
    for workers, shares in ((2, [{0, 3}, {2, 7}]), (3, [{0, 7}, {2}, {3}]), (5, [{0}, {2}, {3}, {7}, {0}])):
        hired.clear()
        search.employ(workers)
        assert hired == shares
        assert now == [{0, 2, 3, 7}]  # the one that hires keeps its own


def test_a_pruned_trial_enters_the_ledger_as_pruned(
    home: Path, found: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = ("train.lr:categorical:[0.01,1.0e-9]", "train.epochs:categorical:[3]")
    options = ("--study-name", "cut", "--n-trials", "2", "--startup", "1", "--pruner", "median")
    study = opened(monkeypatch, *options, *(flag for text in space for flag in ("--suggest-params", text))).study
    for lr in (0.01, 1e-9):
        study.enqueue_trial({"train.lr": lr, "train.epochs": 3})
    sweep(monkeypatch, *options, space=space)
    assert table(home, "cut")["state"].to_list() == ["complete", "pruned"]
    rows = {row.name: row for row in read_ledger(home / "metrics/ledger") if row.name.startswith("cut-t")}
    assert {name: row.verdict for name, row in rows.items()} == {"cut-t000": "tried", "cut-t001": "pruned"}
    assert (rows["cut-t001"].rank_ic, rows["cut-t001"].has_series) == (None, False)


def test_what_mattered_is_drawn(home: Path, found: pl.DataFrame) -> None:
    picture = (home / "metrics/sweeps/s/importance.svg").read_text()
    assert "<!-- train.lr -->" in picture
    assert "<!-- train.optimizer -->" in picture


def test_progress_says_how_many_and_the_best(home: Path, found: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    search, screen = opened(monkeypatch, "--study-name", "s", "--n-trials", "8"), io.StringIO()
    with tqdm(total=8, file=screen) as bar:
        search.progress(bar)
    best = found.sort("value", descending=True).row(0, named=True)
    last = screen.getvalue().split("\r")[-1]
    assert "3/8" in last
    assert f"best {best['value']:+.5f} in t{best['trial']:03d}" in last


def test_epochs_of_all_fits_ascend_and_count_with_the_fits_before() -> None:
    told: list[tuple[int, float]] = []
    before: list[float] = []
    for fit, epochs in enumerate(([0.1, 0.3, 0.2], [-0.1, 0.1])):
        heard = objective._Heard(lambda step, value: told.append((step, value)), fit * objective.STRIDE, before)
        history = [{"stop_rank_ic": value} for value in epochs]
        for epoch in (*range(len(epochs)), len(epochs) - 1):  # the last one again, as of a fit that was finished before
            heard(history[: epoch + 1])
        before.append(max(epochs))
    steps, values = zip(*told, strict=True)
    assert steps == (0, 1, 2, objective.STRIDE, objective.STRIDE + 1)
    assert values == pytest.approx((0.1, 0.3, 0.3, 0.1, 0.2))


def test_a_knob_of_a_stage_rebuilds_that_stage_and_those_after_it(home: Path, found: pl.DataFrame) -> None:
    kept = store.Store(home / ".scratch/sweep", ROOT)
    content = yaml.safe_load((home / "params.yaml").read_text())

    def changed(path: str, value: Any) -> set[str]:
        other = with_values(content, {path: value})
        return {
            name for name in ("cache", "graph", "pretrain", "train") if kept.key(name, content) != kept.key(name, other)
        }

    assert changed("train.lr", 0.1) == {"train"}
    assert changed("graph.sector_edge_weight", 0.7) == {"graph", "pretrain", "train"}
    assert changed("model.hidden", 16) == {"pretrain", "train"}
    assert changed("data.label", "sector_neutral") == {"cache", "graph", "pretrain", "train"}
    assert changed("evaluate.top_names", 5) == set()


def test_a_study_goes_on_after_trials_were_counted_and_not_after_code_has_changed(tmp_path: Path) -> None:
    for name in ("src", "metrics"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "data/raw").mkdir(parents=True)
    begun = store.Store(tmp_path / "store", tmp_path).code()
    (tmp_path / "metrics/ledger/one-more.json").write_text("{}")
    (tmp_path / "metrics/train.json").write_text("{}")
    assert store.Store(tmp_path / "store", tmp_path).code() == begun
    (tmp_path / "src/atft/model/fan.py").write_text("")
    assert store.Store(tmp_path / "store", tmp_path).code() != begun


def test_a_stage_that_fails_fails_the_trial(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = ("model.fan_channels:categorical:[[nothing]]", "train.lr:float:0.001,0.002")
    with pytest.raises(InputError, match=r"no trial is complete; the first: model.fan_channels: 'nothing' is no"):
        sweep(monkeypatch, "--n-trials", "1", "--study-name", "bad", space=space)
    rows = [row for row in read_ledger(home / "metrics/ledger") if row.name == "bad-t000"]
    assert [(row.verdict, row.rank_ic, row.has_series) for row in rows] == [("failed", None, False)]


def test_bad_command_lines_end_before_anything_runs(
    home: Path, found: pl.DataFrame, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(runs)
    for space, says in (
        (("train.optimiser:categorical:['adamw']",), "train.optimiser: params.yaml has no such knob"),
        ((*SPACE, SPACE[0]), "train.lr stands twice"),
        (SPACE[:1], "was begun with other space"),
    ):
        with pytest.raises(InputError, match=says):
            sweep(monkeypatch, "--n-trials", "4", space=space)
    for given in (SPACE, ()):
        with pytest.raises(InputError, match="was begun with other metric"):
            sweep(monkeypatch, "--n-trials", "4", "--metric", "sharpe_net", space=given)
    with pytest.raises(InputError, match="nothing to do: give --n-trials"):
        sweep(monkeypatch)
    with pytest.raises(InputError, match="--promote: empty has no complete trial yet"):
        sweep(monkeypatch, "--promote", "1", "--study-name", "empty")
    with pytest.raises(InputError, match="no such study"):
        sweep(monkeypatch, "--n-trials", "4", "--study-name", "none", space=())
    assert runs == before


@pytest.mark.parametrize("flag", ["--n-trials", "--promote", "--workers"])
@pytest.mark.parametrize("number", ["0", "-1"])
def test_less_than_one_is_refused(
    flag: str, number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sweep(monkeypatch, "--n-trials", "3", flag, number)
    assert f"argument {flag}: {number} is less than 1" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--startup", "--seed"])
def test_less_than_none_is_refused(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        sweep(monkeypatch, "--n-trials", "3", flag, "-1")
    assert f"argument {flag}: -1 is less than 0" in capsys.readouterr().err
