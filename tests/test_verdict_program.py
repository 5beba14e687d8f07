"""`python src/verdict.py` on a repository without data: what it reads, what it keeps, what it refuses."""

import json
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from atft.evaluation.ledger import read_ledger
from atft.evaluation.verdict_page import failed_experiments
from browser import MISSING, chromium
from page.readback import agrees, shown, value_at

ROOT = Path(__file__).parents[1]
SEEDS, DAYS = 5, 120


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def verdict(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "src/verdict.py", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


def judged(folder: Path, *arguments: str) -> list[dict]:
    result = verdict(folder, *arguments, "--format", "json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def daily(shift: float, seed: int = 0, test_shift: float = 0.0) -> pl.DataFrame:
    """Series of five seeds on a valid and a test block, the RankIC moved by `shift`."""
    rng = np.random.default_rng(7)
    own = np.random.default_rng(seed + 100)
    parts = []
    for role, start, moved in (("valid", 0, shift), ("test", DAYS, test_shift)):
        for one in range(SEEDS):
            ic = rng.normal(0.02, 0.1, DAYS) + own.normal(moved, 0.02, DAYS)
            net = rng.normal(0.0, 0.01, DAYS) + own.normal(0.0, 0.001, DAYS)
            columns = {"role": role, "horizon": 5, "seed": one, "fold": int(role == "test")}
            days = [date(2015, 1, 1) + timedelta(days=start + i) for i in range(DAYS)]
            parts.append(pl.DataFrame({"date": days, "rank_ic": ic, "net": net}).with_columns(
                **{key: pl.lit(value) for key, value in columns.items()}
            ))  # fmt: skip
    return pl.concat(parts).with_columns(pl.col(pl.Float64).round(6))


def write(folder: Path, table: pl.DataFrame, optimizer: str) -> None:
    (folder / "metrics").mkdir(exist_ok=True)
    table.write_csv(folder / "metrics/daily.csv")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["train"]["optimizer"] = optimizer
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "metrics/evaluate.json").write_text(json.dumps({"valid": {"stocks_per_day": 143.0}}))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """main; a branch `better`; DVC experiments `null` and `ruin`; twins of one name; a model that says nothing."""
    git(tmp_path, "init", "-qb", "main")
    git(tmp_path, "config", "user.name", "t")
    git(tmp_path, "config", "user.email", "t@t")
    write(tmp_path, daily(0.0), "adamw")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "base")
    main = git(tmp_path, "rev-parse", "HEAD")
    silent = daily(0.0).with_columns(rank_ic=pl.lit(None, pl.Float64))
    trials = {
        "better": daily(0.03, 1), "null": daily(0.0, 2), "ruin": daily(-0.03, 3), "twin": daily(0.0, 4),
        "silent": silent,
    }  # fmt: skip
    trials["netless"] = daily(0.0, 5).drop("net")
    trials["elsewhere"] = daily(0.0, 6)
    for name, table in trials.items():
        git(tmp_path, "checkout", "-q", "--detach", main)
        write(tmp_path, table, "adabelief")
        text = (tmp_path / "params.yaml").read_text()
        assert "graph: 'on'" in text
        text = text.replace("graph: 'on'", "graph: on")  # as `dvc exp run -S` writes it
        (tmp_path / "params.yaml").write_text(
            text.replace("    seed: 7", "    seed: 8") if name == "elsewhere" else text
        )
        git(tmp_path, "commit", "-qam", name)
        git(tmp_path, "update-ref", f"refs/exps/{main[:2]}/{main[2:]}/{name}", "HEAD")
        if name == "twin":
            git(tmp_path, "update-ref", f"refs/exps/ff/{'f' * 38}/{name}", "HEAD")
    git(tmp_path, "checkout", "-q", "main")
    return tmp_path


def resolved(folder: Path, experiment: str) -> str:
    return git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/**/{experiment}")


def test_experiments_are_judged_together_from_git_alone(repository: Path) -> None:
    better, null, ruin = judged(repository, "main", "better", "null", "ruin")
    assert (better["verdict"], null["verdict"], ruin["verdict"]) == ("accepted", "unresolved", "rejected")
    assert better["changes"] == "train.optimizer: adamw -> adabelief"
    assert better["rank_ic"]["difference"] == pytest.approx(0.03, abs=0.005)
    assert better["time_ratio"] is None
    assert null["needs"] or null["rank_ic"]["difference"] <= 0
    assert better["trials"] == null["trials"] == 4


def test_a_run_is_not_judged_against_itself(repository: Path) -> None:
    refused = verdict(repository, "main", "HEAD")
    assert refused.returncode == 1
    assert "HEAD: is main itself" in refused.stderr
    assert not (repository / "metrics/ledger").exists()


def test_the_comparison_is_a_page_of_the_same_numbers(repository: Path) -> None:
    one = verdict(repository, "main", "better", "null", "--failed", "lost=it never ended", "--html", "one.html")
    assert one.returncode == 0, one.stderr
    said = judged(repository, "main", "better", "null", "--failed", "lost=it never ended", "--html", "two.html")
    (repository / "verdict.json").write_text(json.dumps(said))
    text = (repository / "two.html").read_text()
    numbers = shown(text)
    assert {key.split(".")[1] for key, _ in numbers} == {"0", "1"}  # what never ended has no numbers
    files = {"verdict": repository / "verdict.json"}
    assert [(key, value) for key, value in numbers if not agrees(value, value_at(files, key))] == []
    assert "It never ended." in text
    # A second look adds nothing but that the judgement is no longer new.
    assert (repository / "one.html").read_text().replace(NEW, "") == text


NEW = "<li>a new judgement: commit metrics/ledger, it stands from now on</li>"


def test_the_comparison_is_drawn_in_a_browser(repository: Path) -> None:
    verdict(repository, "main", "better", "--html", "page.html")
    with chromium() as browser:
        if browser is None:
            pytest.skip(MISSING)
        tab = browser.new_page(viewport={"width": 400, "height": 900})
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto((repository / "page.html").as_uri())
        tab.wait_for_selector("figure[data-drawn]")
        assert tab.locator("figure[data-drawn]").count() == 3
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        assert said == []


def test_test_is_never_read(repository: Path) -> None:
    """Whatever happens on the test block, the verdict is the same to the last character; asked for it, it refuses."""
    before = verdict(repository, "main", "better", "--format", "json").stdout
    git(repository, "checkout", "-q", resolved(repository, "better"))
    write(repository, daily(0.03, 1, test_shift=5.0), "adabelief")
    git(repository, "commit", "-qam", "the same, brilliant on test")
    git(repository, "branch", "brilliant")
    git(repository, "checkout", "-q", "main")
    for file in (repository / "metrics/ledger").iterdir():
        file.unlink()
    assert verdict(repository, "main", "brilliant", "--format", "json").stdout == before.replace("better", "brilliant")
    refused = verdict(repository, "main", "better", "--role", "test")
    assert refused.returncode == 1
    assert "reads `valid` alone" in refused.stderr
    write(repository, daily(0.0).filter(pl.col("role") == "test"), "adamw")
    assert "has no `valid` rows" in verdict(repository, "main", "workspace").stderr


def test_a_second_look_changes_nothing_and_spends_nothing(repository: Path) -> None:
    first = judged(repository, "main", "null")
    kept = sorted(file.name for file in (repository / "metrics/ledger").iterdir())
    assert judged(repository, "main", "null") == first
    assert sorted(file.name for file in (repository / "metrics/ledger").iterdir()) == kept
    (later,) = judged(repository, "main", "better")
    assert later["order"] == 1
    assert later["level"] == pytest.approx(0.05 * (1 / 2 - 1 / 3))
    assert judged(repository, "main", "null", "better")[0]["level"] == first[0]["level"]


def test_the_ledger_keeps_failures_and_feeds_the_deflation(repository: Path) -> None:
    (crash,) = judged(repository, "main", "--failed", "shampoo=loss not finite")
    assert crash["verdict"] == "failed"
    (silent,) = judged(repository, "main", "silent")
    assert silent["verdict"] == "failed"
    (null,) = judged(repository, "main", "null")
    assert null["order"] == 0  # what never ended spends nothing
    assert null["trials"] == 4  # the base, both failures and itself
    (better,) = judged(repository, "main", "better")
    assert better["trials"] == 5
    assert 0 < better["deflated_sharpe"] < 1
    assert 0 <= better["overfitting"]["probability"] <= 1
    rows = read_ledger(repository / "metrics/ledger")
    assert {row.name: row.verdict for row in rows} == {
        "main": "base",
        "shampoo": "failed",
        "silent": "failed",
        "null": null["verdict"],
        "better": "accepted",
    }


def test_a_verdict_can_be_derived_again_from_the_ledger_alone(repository: Path) -> None:
    (first,) = judged(repository, "main", "better")
    (row,) = [row for row in read_ledger(repository / "metrics/ledger") if not row.is_base]
    (again,) = judged(repository, f"ledger:{row.base}", f"ledger:{row.trial}")
    for key in ("verdict", "p", "level", "rank_ic"):
        assert again[key] == first[key], key


def test_a_trial_of_the_ledger_is_measured_by_its_own_yardstick(repository: Path) -> None:
    judged(repository, "main", "better")
    (row,) = [row for row in read_ledger(repository / "metrics/ledger") if row.is_base]
    knobs = (repository / "params.yaml").read_text()
    assert "cost_bps: 10" in knobs
    (repository / "params.yaml").write_text(knobs.replace("cost_bps: 10", "cost_bps: 0"))
    refused = verdict(repository, f"ledger:{row.trial}", "workspace")
    assert refused.returncode == 1
    assert "workspace: was measured by another yardstick: evaluate.cost_bps 0" in refused.stderr


def test_two_trials_of_one_commit_are_judged_as_those_of_a_search(repository: Path) -> None:
    judged(repository, "main", "better", "null")
    for file in (repository / "metrics/ledger").glob("*.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"rev": "0" * 40}))
    name = {row.name: f"ledger:{row.trial}" for row in read_ledger(repository / "metrics/ledger")}
    (found,) = judged(repository, name["null"], name["better"])
    assert found["verdict"] == "accepted"
    assert "null: is null itself" in verdict(repository, name["null"], name["null"]).stderr


def test_git_checkout_does_not_lose_a_trial(repository: Path) -> None:
    judged(repository, "main", "null")
    git(repository, "checkout", ".")
    assert len(read_ledger(repository / "metrics/ledger")) == 2


def test_the_log_gets_the_entry_and_the_failures_their_page(repository: Path) -> None:
    (repository / "docs").mkdir()
    (repository / "docs/log.md").write_text("# Log\n\n## 2020-01-01 An older entry\n\nText.\n")
    assert verdict(repository, "main", "better", "ruin", "--log").returncode == 0
    log = (repository / "docs/log.md").read_text()
    assert log.startswith("# Log\n\n## 2020-01-01 An older entry\n\nText.\n\n## 20")
    assert re.search(r"## \d{4}-\d\d-\d\d better against main: accepted", log)
    failed = (repository / "docs/failed_experiments.md").read_text()
    assert "ruin against main: rejected" in failed
    assert "better" not in failed
    assert failed == failed_experiments(log)


def test_the_repositorys_own_failures_are_up_to_date() -> None:
    assert (ROOT / "docs/failed_experiments.md").read_text() == failed_experiments((ROOT / "docs/log.md").read_text())


def test_every_form_says_the_same(repository: Path) -> None:
    plain = verdict(repository, "main", "ruin").stdout
    marked = verdict(repository, "main", "ruin", "--format", "markdown").stdout
    for text in (plain, marked):
        assert "ruin against main: rejected" in text
        assert "rank_ic (h=5)" in text
        assert "training time: not measured" in text
    assert marked.count("| --- |") >= 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["main", "nowhere"], "nowhere: no such revision or experiment"),
        (["main", "twin"], "twin: several experiments have this name"),
        (["main"], "no candidate given"),
        (["main", "ledger:feed"], "no such trial"),
        (["main", "better", "better"], "named twice"),
        (["main", "better", "--failed", "better=boom"], "named twice"),
        (["main", "--failed", "=boom"], "give the candidate a name"),
        (["main", "netless"], "has no column net"),
        (["main", "elsewhere"], "another market"),
    ],
)
def test_a_mistake_is_one_line(repository: Path, arguments: list[str], says: str) -> None:
    result = verdict(repository, *arguments)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert not (repository / "metrics/ledger").exists()


def test_the_files_as_they_are_now_can_be_judged(repository: Path) -> None:
    write(repository, daily(0.03, 1), "shampoo")
    (found,) = judged(repository, "main", "workspace")
    assert found["verdict"] == "accepted"
    assert found["changes"] == "train.optimizer: adamw -> shampoo"


def test_one_series_under_two_names_is_one_candidate(repository: Path) -> None:
    git(repository, "branch", "again", resolved(repository, "null"))
    assert len(judged(repository, "main", "null", "again")) == 1
    (better,) = judged(repository, "main", "better")
    assert better["order"] == 1


def test_a_damaged_series_is_noticed(repository: Path) -> None:
    judged(repository, "main", "null")
    (row,) = [row for row in read_ledger(repository / "metrics/ledger") if not row.is_base]
    file = repository / f"metrics/ledger/{row.trial}.csv"
    file.write_text("\n".join(file.read_text().splitlines()[:-9]) + "\n")
    result = verdict(repository, "main", "better")
    assert result.returncode == 1
    assert "not the series that was judged" in result.stderr


@pytest.mark.parametrize("arguments", [["--level", "40"], ["--level", "nan"], ["--time", "0"]])
def test_a_senseless_option_is_refused(repository: Path, arguments: list[str]) -> None:
    result = verdict(repository, "main", "better", *arguments)
    assert result.returncode == 2
    assert not (repository / "metrics/ledger").exists()
