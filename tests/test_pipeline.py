"""dvc.yaml tells the truth: its code, parameters and files are those that each stage uses."""

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import experiments
from atft.errors import InputError
from atft.panel.simulate import simulate_market
from atft.search.promote import promote
from page.readback import agrees, value_at
from page.readback import shown as shown_numbers
from s3 import s3_server

ROOT = Path(__file__).parents[1]
ACTIVATED = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
DECLARATIONS = {"src/atft/config.py", "src/atft/paths.py"}


def imported(file: Path, src: Path) -> set[Path]:
    """Files below `src` that importing the modules named in `file` runs."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    found = set()
    for name in names:
        parts = name.split(".")
        packages = [src.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
        found |= {path for path in (*packages, src.joinpath(*parts).with_suffix(".py")) if path.exists()}
    return found


def closure(stage: Path, src: Path) -> set[str]:
    """All code a stage runs, but for the modules that only declare; what a package keeps in `assets` runs with it."""
    seen, todo = set(), [stage]
    while todo:
        file = todo.pop()
        name = str(file.relative_to(src.parent))
        if name not in seen and name not in DECLARATIONS:
            seen.add(name)
            if (file.parent / "assets").is_dir():
                seen.add(str((file.parent / "assets").relative_to(src.parent)))
            todo += imported(file, src)
    return seen


def attributes(stage: Path, of: str) -> set[str]:
    """Names x of every `of.x` in the file."""
    nodes = ast.walk(ast.parse(stage.read_text()))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == of
    }


def names(entries: list[Any]) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def lies(root: Path) -> list[str]:
    """Every disagreement between dvc.yaml and the code below `root`."""
    pipeline = yaml.safe_load((root / "dvc.yaml").read_text())
    src = root / "src"
    constants = {
        node.targets[0].id: node.value.args[0].value
        for node in ast.parse((src / "atft/paths.py").read_text()).body
        if isinstance(node, ast.Assign)
    }  # pyright: ignore
    found = []
    for name, stage in pipeline["stages"].items():
        file = src / f"{name}.py"
        deps = names(stage["deps"])
        code = {dep for dep in deps if dep.startswith("src/")}
        files = (deps - code) | names(stage["outs"]) | names(stage.get("metrics", []))
        used = {constants[attribute] for attribute in attributes(file, "paths")}
        params = set(stage["params"])
        for kind, declared, real in (
            ("code", code, closure(file, src)),
            ("file", files, used),
            ("param", params, attributes(file, "params")),
        ):
            found += [f"{name}: {kind} {item} is used, not declared" for item in sorted(real - declared)]
            found += [f"{name}: {kind} {item} is declared, not used" for item in sorted(declared - real)]
        for out in (*stage["outs"], *stage.get("metrics", [])):
            path = next(iter(out)) if isinstance(out, dict) else out
            in_git = isinstance(out, dict) and out[path].get("cache") is False
            if path.startswith("metrics/") != in_git:
                found.append(f"{name}: {path}: metrics live in Git, all else in the DVC cache")
    return found


def test_dvc_yaml_tells_the_truth() -> None:
    assert lies(ROOT) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("dvc.yaml", "      - src/atft/model/fan.py\n", "", "pretrain: code src/atft/model/fan.py is used"),
        ("dvc.yaml", "      - pretrain\n", "      - train\n", "pretrain: param pretrain is used, not declared"),
        ("dvc.yaml", "      - data/graph\n    params", "      - data/grph\n    params", "file data/graph is used"),
        ("src/evaluate.py", "params.evaluate", "params.train", "evaluate: param train is used, not declared"),
        ("src/graph.py", "new_folder(paths.GRAPH)", "new_folder(paths.ENCODER)", "models/encoder is used"),
        ("src/atft/graph/edges.py", "import numpy", "import atft.panel.labels\nimport numpy", "panel/labels.py"),
    ],
)  # fmt: skip
def test_a_planted_lie_is_found(tmp_path: Path, file: str, old: str, new: str, says: str) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    assert any(says in lie for lie in lies(tmp_path)), lies(tmp_path)


def test_plots_over_dates_know_that_they_are_dates() -> None:
    """DVC's own templates take x for a number: of dates they draw an empty chart."""
    plots = [next(iter(plot.values())) for plot in yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]]
    over_dates = {plot.get("template") for plot in plots if plot["x"] == "date"}
    assert over_dates == {"by_date"}
    spec = json.loads((ROOT / ".dvc/plots/by_date.json").read_text())
    assert spec["encoding"]["x"]["type"] == "temporal"


def test_evaluate_knobs_are_declared_by_evaluate_alone() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert [name for name, stage in stages.items() if "evaluate" in stage["params"]] == ["evaluate"]
    assert "train" not in stages["pretrain"]["params"]


# --- the same, with DVC itself on a market of 40 stocks ------------------------------------------

TINY = {
    "threads": 1,
    "data": {"horizons": [1, 5], "min_history": 40, "simulated": {"stocks": 40, "days": 260}},
    "split": {"valid": 1, "test": 1, "block_days": 40, "stop_days": 20, "purge": 6, "min_train_days": 40},
    "graph": {"min_overlap": 40},
    "model": {"lookback": 10, "hidden": 16},
    "pretrain": {"epochs": 1, "lags": [5, 10]},
    "train": {"epochs": 2, "lightgbm": {"trees": 10, "early_stopping": 0, "min_leaf": 50}},
}  # fmt: skip


def merge(base: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(base[key], value)
        else:
            base[key] = value


def run(folder: Path, *command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The environment of a user who has not activated .venv."""
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "POLARS_", "DVC_"))
    }
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env=clean | (environment or {}), check=False, timeout=400
    )


def dvc(folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> str:
    result = run(folder, str(Path(sys.executable).parent / "dvc"), *arguments, environment=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed copy of the working tree with tiny parameters, reproduced once."""
    folder = tmp_path_factory.mktemp("clone") / "atft"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    merge(params, TINY)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "dvc.lock").unlink(missing_ok=True)
    for command in (
        ["init", "-q"],
        ["config", "user.name", "t"],
        ["config", "user.email", "t@t"],
        ["add", "-A"],
        ["commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
    dvc(folder, "repro")
    for command in (["add", "-A"], ["commit", "-qm", "reproduced"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def test_outputs_are_ignored_by_git_and_the_tree_stays_clean(clone: Path) -> None:
    assert run(clone, "git", "status", "--porcelain").stdout == ""
    for stage in yaml.safe_load((clone / "dvc.yaml").read_text())["stages"].values():
        for out in (out for out in stage["outs"] if isinstance(out, str)):
            assert run(clone, "git", "check-ignore", out).returncode == 0, out
    assert "up to date" in dvc(clone, "repro")


def test_two_forced_runs_are_byte_identical_whatever_the_environment(clone: Path) -> None:
    wild = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "7", "OPENBLAS_NUM_THREADS": "5", "POLARS_MAX_THREADS": "1",
            "OMP_DYNAMIC": "true", "PYTHONHASHSEED": "3"}  # fmt: skip
    dvc(clone, "repro", "-f", "--no-run-cache", environment=wild)
    assert run(clone, "git", "status", "--porcelain").stdout == ""


def test_the_page_equals_the_files_beside_it(clone: Path) -> None:
    text = (clone / "metrics/report.html").read_text()
    files = {name: clone / f"metrics/{name}.json" for name in ("evaluate", "train")}
    files |= {name: clone / f"metrics/{name}.csv" for name in ("breakdown", "drift")}
    files |= {"defects": clone / "data/cache/report.json", "selection": clone / "metrics/plots/selection.csv"}
    numbers = [(key, shown) for key, shown in shown_numbers(text) if not key.startswith("trials.")]
    assert len(numbers) > 100
    assert [(key, shown) for key, shown in numbers if not agrees(shown, value_at(files, key))] == []
    assert ("trials.trials", "1") in shown_numbers(text)  # the ledger knows other markets alone


def test_polars_may_use_any_number_of_threads(clone: Path) -> None:
    """The package forgets the variable; here polars is loaded before it, with one thread."""
    before = {file: file.read_bytes() for file in sorted((clone / "data/cache").iterdir())}
    copy = clone.parent / "one-thread"
    copy.mkdir()
    (copy / "data/raw").mkdir(parents=True)
    shutil.copy(clone / "params.yaml", copy)
    script = (
        "import sys, polars; assert polars.thread_pool_size() == 1; "
        f"sys.path.insert(0, {str(clone / 'src')!r}); import cache; cache.main()"
    )
    result = run(copy, sys.executable, "-c", script, environment={"POLARS_MAX_THREADS": "1"})
    assert result.returncode == 0, result.stderr
    for file, content in before.items():
        assert (copy / "data/cache" / file.name).read_bytes() == content, file.name


def test_an_evaluate_knob_reruns_evaluate_alone(clone: Path) -> None:
    text = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(text.replace("\n  cost_bps: 10", "\n  cost_bps: 20"))
    planned = dvc(clone, "repro", "--dry")
    (clone / "params.yaml").write_text(text)
    assert [line.split("'")[1] for line in planned.splitlines() if line.startswith("Running stage")] == ["evaluate"]


@pytest.mark.parametrize(
    ("task", "losses"),
    [
        ("masked", {"masked_loss"}), ("contrastive", {"contrastive_loss"}),
        ("both", {"masked_loss", "contrastive_loss"}), ("none", set()),
    ],
)  # fmt: skip
def test_every_pretext_task_is_an_experiment(clone: Path, task: str, losses: set[str]) -> None:
    dvc(clone, "exp", "run", "-n", task, "-S", f"pretrain.task={task}", "pretrain")
    found = json.loads((clone / "metrics/pretrain.json").read_text())
    run(clone, "git", "checkout", "-q", ".")
    dvc(clone, "checkout")
    assert {"masked_loss", "contrastive_loss"} & set(found) == losses


def test_a_train_knob_never_reruns_pretrain(clone: Path) -> None:
    text = (clone / "params.yaml").read_text()
    changed = text.replace("freeze_epochs: 0", "freeze_epochs: 1").replace("init: pretrained", "init: random")
    assert changed.count("freeze_epochs: 1") == changed.count("init: random") == 1
    (clone / "params.yaml").write_text(changed)
    planned = dvc(clone, "repro", "--dry")
    (clone / "params.yaml").write_text(text)
    # A dry run does not know that `evaluate` follows from what `train` will write.
    assert [line.split("'")[1] for line in planned.splitlines() if line.startswith("Running stage")] == ["train"]


def test_a_bad_knob_stops_the_stage_in_one_line_and_spoils_nothing(clone: Path) -> None:
    text = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(text.replace("optimizer: adamw", "optimizer: adabelif"))
    result = run(clone, sys.executable, "src/train.py")
    (clone / "params.yaml").write_text(text)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "train.optimizer: Input should be 'adamw', 'adabelief' or 'shampoo' (given: 'adabelif')" in result.stderr
    assert "up to date" in dvc(clone, "repro")


def test_reset_takes_back_what_a_failed_experiment_left(clone: Path) -> None:
    committed = (clone / "params.yaml").read_text()
    mine = "# code of mine that no commit has\n"
    (clone / "src/mine.py").write_text("")
    run(clone, "git", "add", "src/mine.py")
    (clone / "src/mine.py").write_text(mine)
    with pytest.raises(AssertionError, match=r"split\.purge: 1 days let labels overlap"):
        dvc(clone, "exp", "run", "-S", "split.purge=1")
    assert "purge: 1" in (clone / "params.yaml").read_text()
    # As long as before and written within the second: the case that Git overlooks.
    (clone / "params.yaml").write_text(committed.replace("purge: 6", "purge: 1"))
    (clone / "dvc.lock").write_text((clone / "dvc.lock").read_text() + "# of the experiment\n")
    run(clone, "git", "add", "dvc.lock")  # as DVC leaves it
    assert run(clone, "make", "--old-file", ".venv/.locked", "reset").returncode == 0
    assert run(clone, "git", "status", "--porcelain", "dvc.lock", "metrics").stdout == ""
    assert (clone / "params.yaml").read_text() == committed
    assert (clone / "src/mine.py").read_text() == mine
    run(clone, "git", "rm", "-qf", "src/mine.py")


def test_own_bars_are_a_variant_that_dvc_keeps_and_git_does_not(clone: Path) -> None:
    """A .dvc file that only a negated ignore pattern saves is overlooked by DVC: experiments would lose the data."""
    before = run(clone, "git", "rev-parse", "HEAD").stdout.strip()
    bars = simulate_market(40, 260, "standard", 3, (1, 5), 1).bars
    bars.write_parquet(clone / "data/raw/mine.parquet")
    dvc(clone, "add", "data/raw/mine.parquet")
    assert run(clone, "git", "check-ignore", "data/raw/mine.parquet").returncode == 0
    assert run(clone, "git", "check-ignore", "data/raw/mine.parquet.dvc").returncode == 1
    run(clone, "git", "add", "data/raw/mine.parquet.dvc")
    run(clone, "git", "commit", "-qm", "My bars")
    try:
        dvc(clone, "exp", "run", "--temp", "-n", "mine", "-S", "data.source=file", "-S", "train.model=reversal")
        moved = json.loads(dvc(clone, "metrics", "diff", "--json", "HEAD", "mine"))["metrics/evaluate.json"]
        assert moved["valid.rank_ic"]["new"] is not None
        assert moved["valid.oracle_rank_ic"]["new"] is None  # which only a simulated market has
    finally:
        run(clone, "git", "reset", "-q", "--hard", before)
        (clone / "data/raw/mine.parquet").unlink()
        dvc(clone, "checkout")


def test_variants_stand_beside_the_baseline_with_other_metrics(clone: Path) -> None:
    dvc(clone, "exp", "run", "-n", "rival", "-S", "train.model=ridge")
    run(clone, "git", "checkout", "-q", ".")
    dvc(clone, "exp", "run", "-n", "belief", "--queue", "-S", "train.optimizer=adabelief", "-S", "train.lr=1e-5")
    dvc(clone, "exp", "run", "--run-all", environment=ACTIVATED)  # its workers look for dvc on the path
    shown = json.loads(dvc(clone, "exp", "show", "--json"))
    found: dict[str, float] = {}

    def visit(node: Any) -> None:
        if isinstance(node, list):
            for item in node:
                visit(item)
        elif isinstance(node, dict):
            data = node.get("data") or {}
            metrics = (data.get("metrics") or {}).get("metrics/evaluate.json") if isinstance(data, dict) else None
            if metrics and metrics.get("data"):
                found[node.get("name") or node["rev"][:7]] = metrics["data"]["valid"]["rank_ic"]
            for value in node.values():
                visit(value)

    visit(shown)
    assert {"rival", "belief"} <= set(found), found
    assert len({found["rival"], found["belief"], *found.values()}) >= 3, found
    make = ("make", "--no-print-directory", "--old-file", ".venv/.locked")  # without installing anything
    short = run(clone, *make, "show").stdout
    assert "rival" in short
    assert "valid.rank_ic" in short
    assert "test" not in short
    assert "valid.rank_ic" in dvc(clone, "metrics", "diff", "--md", "HEAD", "rival")
    assert "train.model" in dvc(clone, "params", "diff", "--md", "HEAD", "rival")
    assert "rank_ic" in Path(dvc(clone, "plots", "diff", "HEAD", "rival").strip().removeprefix("file://")).read_text()


def test_the_best_of_a_search_comes_out_again_as_an_experiment(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = (
        "train.model:categorical:[reversal]", "train.reversal_feature:categorical:[return_1,return_20]",
        "train.lr:log_float:1e-6,1e-2", "evaluate.bootstrap:categorical:[100]",
    )  # fmt: skip
    flags = [flag for text in space for flag in ("--suggest-params", text)]
    result = run(
        clone, sys.executable, "src/sweep.py", "--study-name", "found", "--n-trials", "2", "--promote", "1", *flags
    )
    assert result.returncode == 0, result.stdout + result.stderr
    trials = pl.read_csv(clone / "metrics/sweeps/found/trials.csv")
    run(clone, "git", "clean", "-fdq", "metrics")
    best = trials.sort("value", descending=True, maintain_order=True).row(0, named=True)
    name = f"found-t{best['trial']:03d}"
    assert f"{name}: rank_ic {best['value']:.6f} again, as an experiment" in result.stdout
    metrics = run(clone, "git", "show", f"{experiment(clone, name)}:metrics/evaluate.json").stdout
    assert json.loads(metrics)["valid"]["rank_ic"] == round(best["value"], 6)
    shown = {row["Experiment"]: row for row in csv.DictReader(dvc(clone, "exp", "show", "--csv").splitlines())}
    assert float(shown[name]["valid.rank_ic"]) == round(best["value"], 6)
    assert shown[name]["train.reversal_feature"] == best["train.reversal_feature"]
    monkeypatch.chdir(clone)
    asked = (name, {knob: best[knob] for knob in trials.columns[4:]}, Path("metrics/evaluate.json"), "rank_ic")
    promote(*asked, best["value"])
    with pytest.raises(InputError, match=f"{name}: its rank_ic on valid is .*; did code or data change since"):
        promote(*asked, best["value"] + 1e-5)


def test_a_list_of_variants_is_run_and_judged(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {
        "prefix": "list",
        "common": {"train.model": "reversal"},
        "variants": {"month": {"train.reversal_feature": "return_20"}, "nothing": {"train.reversal_feature": "none"}},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    result = run(clone, sys.executable, "src/experiments.py", str(tmp_path / "plan.yaml"), environment=ACTIVATED)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "list-month against list-base: unresolved" in result.stdout  # one seed
    assert "list-nothing" in result.stdout
    assert "'none' is no feature of the panel" in result.stdout
    run(clone, "git", "checkout", "-q", ".")
    plan["variants"]["month"] = {"train.reversal_feature": "return_60"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    monkeypatch.chdir(clone)
    monkeypatch.setattr(sys, "argv", ["src/experiments.py", str(tmp_path / "plan.yaml")])
    with pytest.raises(InputError, match=r"list-month: was run with train.*, now return_60"):
        experiments.main()  # not lost: not judged at all
    (tmp_path / "plan.yaml").write_text("prefix: [")
    refused = run(clone, sys.executable, "src/experiments.py", str(tmp_path / "plan.yaml"))
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "not valid YAML" in refused.stderr


def experiment(folder: Path, name: str) -> str:
    """The commit of an experiment."""
    refs = run(folder, "git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").stdout.splitlines()
    return next(ref.split()[0] for ref in refs if ref.endswith(f"/{name}"))


def test_a_pull_request_is_reviewed_on_a_clone_without_data(clone: Path, tmp_path: Path) -> None:
    """The steps of the workflow file, run as they stand there, but for the installation."""
    dvc(clone, "exp", "run", "-n", "reviewed", "-S", "train.model=ridge")
    run(clone, "git", "checkout", "-q", ".")
    run(clone, "git", "branch", "-f", "proposal", experiment(clone, "reviewed"))
    bare = tmp_path / "pull-request"
    subprocess.run(["git", "clone", "-q", str(clone), str(bare)], check=True)
    base = run(bare, "git", "branch", "--show-current").stdout.strip()
    run(bare, "git", "checkout", "-q", "proposal")
    assert not (bare / "data/cache").exists()
    steps = yaml.safe_load((ROOT / ".github/workflows/review.yml").read_text())["jobs"]["review"]["steps"]
    commands = [step["run"] for step in steps if "run" in step]
    environment = {
        **ACTIVATED,
        "GITHUB_BASE_REF": base,
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    assert [command.startswith("pip install") for command in commands] == [True, False, False]
    for command in commands[1:]:
        result = run(bare, "bash", "-ec", command, environment=environment)
        assert result.returncode == 0, result.stdout + result.stderr
    summary = (tmp_path / "summary.md").read_text()
    assert "valid.rank_ic" in summary
    assert "test.rank_ic" not in summary
    assert "train.model" in summary
    assert "unresolved" in summary


def test_training_time_is_measured_in_two_work_trees(clone: Path) -> None:
    dvc(clone, "exp", "run", "-n", "timed", "-S", "train.model=ridge")
    run(clone, "git", "checkout", "-q", ".")
    before = run(clone, "git", "worktree", "list").stdout
    command = ("src/verdict.py", "HEAD", "timed", "--time", "1", "--format", "json")
    result = run(clone, sys.executable, *command)
    assert result.returncode == 0, result.stderr
    assert 0 < json.loads(result.stdout)[0]["time_ratio"] < 1.5
    assert run(clone, "git", "worktree", "list").stdout == before


def test_a_role_that_learned_from_later_days_gets_no_portfolio(clone: Path) -> None:
    """Purged k-fold end to end: ranks are judged, a book is not."""
    knobs = ("split.scheme=purged_kfold", "split.valid=2", "split.lookback=20", "split.embargo=5", "train.model=ridge")
    dvc(clone, "exp", "run", "-n", "kfold", *(part for knob in knobs for part in ("-S", knob)))
    found = json.loads((clone / "metrics/evaluate.json").read_text())
    run(clone, "git", "checkout", "-q", ".")
    run(clone, sys.executable, "-m", "dvc", "checkout")
    assert found["valid"]["rank_ic"] is not None
    assert found["valid"]["sharpe"] is None
    assert found["valid"]["max_drawdown"] is None
    assert found["test"]["sharpe"] is not None


# --- tomorrow's ranks ----------------------------------------------------------------------------


def predict(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "src/predict.py", *options)


def test_predict_says_of_a_held_out_day_what_evaluate_said(clone: Path, tmp_path: Path) -> None:
    """To the last bit, in both kinds of file; what it rests on stands beside, and the tree stays clean."""
    before = run(clone, "git", "status", "--porcelain").stdout
    written = pl.read_parquet(clone / "data/predictions.parquet")
    roles = pl.read_csv(clone / "data/cache/splits.csv", try_parse_dates=True)
    for role, name in (("valid", "ranks.parquet"), ("test", "ranks.csv")):
        fold, day = roles.filter(pl.col("role") == role).sort("date").select("fold", "date").row(25)
        result = predict(clone, "--date", str(day), "--output", str(tmp_path / name))
        assert result.returncode == 0, result.stderr
        scores = {"score_1": pl.Float32, "score_5": pl.Float32}
        file = tmp_path / name
        ranks = pl.read_parquet(file) if role == "valid" else pl.read_csv(file, schema_overrides=scores)
        for horizon in (1, 5):
            here = (pl.col("date") == day) & (pl.col("fold") == fold) & (pl.col("horizon") == horizon)
            rows = written.filter(here).sort("code")
            ranked = ranks.filter(pl.col("rank").is_not_null()).sort("stock")
            assert ranked["stock"].to_list() == rows["code"].to_list()
            assert ranked[f"score_{horizon}"].to_list() == rows["score"].to_list()
        best = ranks.sort("rank")["score_5"].drop_nulls()
        assert best.to_list() == sorted(best, reverse=True)
        assert ranks["long_only_target"].sum() == pytest.approx(1)
        facts = json.loads((tmp_path / "ranks.json").read_text())
        assert facts["long_short"]["cost_bps"] == pytest.approx(10 * facts["long_short"]["turnover"], abs=1e-5)
        assert facts["date"] == str(day)
        assert "reference" not in [warn["kind"] for warn in facts["warnings"]]
        assert facts["model"] in result.stdout
    assert run(clone, "git", "status", "--porcelain").stdout == before


def test_new_bars_are_ranked_as_after_building_all_again(clone: Path, tmp_path: Path) -> None:
    """Bars from files: the last ten days put behind the cache, then the same day of a cache that has them."""
    folder = tmp_path / "file"
    shutil.copytree(clone, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", "tmp"))
    params = yaml.safe_load((folder / "params.yaml").read_text())
    merge(params, {"data": {"source": "file", "file": {"columns": {"terminal_return": "terminal_return"}}}})
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    bars = simulate_market(40, 260, "standard", 7, (1, 5), 1).bars
    dates = bars["date"].unique().sort()
    bars.filter(pl.col("date") < dates[-10]).write_csv(folder / "data/raw/a.csv")
    bars.filter(pl.col("date") >= dates[-11]).write_parquet(tmp_path / "new.parquet")

    def build() -> None:
        for stage in ("cache", "graph"):
            result = run(folder, sys.executable, f"src/{stage}.py")
            assert result.returncode == 0, result.stderr

    build()
    found = predict(folder, "--data", str(tmp_path / "new.parquet"), "--output", str(tmp_path / "new.csv"))
    assert found.returncode == 0, found.stderr
    before = sorted((folder / "data/live").iterdir())
    assert predict(folder, "--date", str(dates[-3]), "--output", str(tmp_path / "early.csv")).returncode == 0
    assert sorted((folder / "data/live").iterdir()) == before
    bars.filter(pl.col("date") >= dates[-10]).write_csv(folder / "data/raw/b.csv")
    assert predict(folder, "--output", str(tmp_path / "raw.csv")).returncode == 0
    build()
    assert predict(folder, "--output", str(tmp_path / "whole.csv")).returncode == 0
    for name in ("raw", "whole"):
        assert (tmp_path / f"{name}.csv").read_bytes() == (tmp_path / "new.csv").read_bytes(), name
    facts = [json.loads((tmp_path / f"{name}.json").read_text()) for name in ("new", "whole")]
    assert facts[0]["data"] == facts[1]["data"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--date", "2014-01-05"], "--date 2014-01-05: no bars of that day; the last one with bars is "),
        (["--date", "2099-01-05"], "--date 2099-01-05: no bars of that day"),
        (["--date", "2014-06-02"], "--date 2014-06-02: every fold learned from that day or from later ones"),
        (["--data", "nowhere.csv"], "--data: nowhere.csv is not there"),
        (["--data", "README.md"], "README.md: does not end in .parquet, .csv"),
        (["--data", "metrics/daily.csv"], "metrics/daily.csv: no column 'code' for code"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_one_line(
    clone: Path, tmp_path: Path, options: list[str], says: str
) -> None:
    result = predict(clone, *options, "--output", str(tmp_path / "ranks.csv"))
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_model_predict_says_what_to_run(clone: Path) -> None:
    (clone / "models/ranker").rename(clone / "models/away")
    result = predict(clone)
    (clone / "models/away").rename(clone / "models/ranker")
    assert result.returncode == 1
    assert "run `dvc repro` or `dvc pull`" in result.stderr


# --- data and models on the way to a colleague, through an S3 server --------------------------------


@dataclass(frozen=True)
class Shared:
    """A Git repository whose data and models lie in a bucket, the clone they came from, and how to reach the bucket."""

    origin: Path
    work: Path
    environment: dict[str, str]


@pytest.fixture(scope="module")
def shared(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """The commands of the README; the keys are in the environment alone."""
    folder = tmp_path_factory.mktemp("shared")
    origin, work = folder / "origin.git", folder / "work"
    subprocess.run(["git", "clone", "-q", "--bare", str(clone), str(origin)], check=True)
    subprocess.run(["git", "clone", "-q", str(origin), str(work)], check=True)
    shutil.copytree(clone / ".dvc/cache", work / ".dvc/cache", copy_function=os.link)
    (work / ".venv").symlink_to(sys.prefix)
    with s3_server("my-bucket", folder / "server.log") as environment:
        dvc(work, "remote", "modify", "storage", "url", "s3://my-bucket/atft")
        for command in (
            ["config", "user.name", "t"],
            ["config", "user.email", "t@t"],
            ["commit", "-qam", "Data and models in the bucket"],
            ["tag", "-a", "ranker@v1.0.0", "-m", "The first ranker"],
            ["push", "-q", "origin", "HEAD", "--tags"],
        ):
            subprocess.run(["git", *command], cwd=work, check=True)
        dvc(work, "checkout")
        dvc(work, "push", environment=environment)
        yield Shared(origin, work, environment)


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def cached_outputs(folder: Path) -> dict[str, bytes]:
    """All files that DVC keeps, by path."""
    stages = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"].values()
    outs = [out for stage in stages for out in stage["outs"] if isinstance(out, str)]
    single = {out: (folder / out).read_bytes() for out in outs if (folder / out).is_file()}
    return single | {f"{out}/{name}": text for out in outs for name, text in files_below(folder / out).items()}


def test_a_fresh_clone_pulls_everything_from_the_bucket(shared: Shared, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    subprocess.run(["git", "clone", "-q", str(shared.origin), str(fresh)], check=True)
    (fresh / ".venv").symlink_to(sys.prefix)
    assert cached_outputs(fresh) == {}
    dvc(fresh, "pull", environment=shared.environment)
    found = cached_outputs(fresh)
    assert found == cached_outputs(shared.work)
    assert {"data/predictions.parquet", "data/oracle.parquet"} < set(found)
    assert any(name.startswith("models/ranker/") for name in found)
    assert "up to date" in dvc(fresh, "status")
    assert run(fresh, "git", "status", "--porcelain").stdout == ""
    assert "no changes" in dvc(fresh, "data", "status", "--not-in-remote", environment=shared.environment).lower()
    assert predict(fresh, "--output", str(tmp_path / "pulled.csv")).returncode == 0
    assert predict(shared.work, "--output", str(tmp_path / "trained.csv")).returncode == 0
    assert (tmp_path / "pulled.csv").read_bytes() == (tmp_path / "trained.csv").read_bytes()
    assert "up to date" in dvc(fresh, "status")


def test_an_experiment_travels_too(shared: Shared, tmp_path: Path) -> None:
    dvc(shared.work, "exp", "run", "-n", "reversal", "-S", "train.model=reversal")
    expected = cached_outputs(shared.work)
    run(shared.work, "git", "checkout", "-q", ".")
    dvc(shared.work, "checkout")
    assert cached_outputs(shared.work) != expected
    dvc(shared.work, "exp", "push", "origin", "reversal", environment=shared.environment)
    fresh = tmp_path / "fresh"
    subprocess.run(["git", "clone", "-q", str(shared.origin), str(fresh)], check=True)
    dvc(fresh, "exp", "pull", "origin", "reversal", environment=shared.environment)
    dvc(fresh, "exp", "apply", "reversal")
    assert cached_outputs(fresh) == expected
    assert "up to date" in dvc(fresh, "status")


def test_a_tagged_ranker_is_fetched_without_a_clone(shared: Shared, tmp_path: Path) -> None:
    url, environment = str(shared.origin), shared.environment
    dvc(tmp_path, "artifacts", "get", url, "ranker", "--rev", "v1.0.0", environment=environment)
    dvc(tmp_path, "artifacts", "get", url, "ranker", "-o", "latest", environment=environment)
    dvc(tmp_path, "get", url, "models/ranker", "--rev", "ranker@v1.0.0", "-o", "any", environment=environment)
    kept = files_below(shared.work / "models/ranker")
    assert kept
    for name in ("ranker", "latest", "any"):
        assert files_below(tmp_path / name) == kept
    unknown = ("artifacts", "get", url, "ranker", "--rev", "v2.0.0")
    result = run(tmp_path, str(Path(sys.executable).parent / "dvc"), *unknown, environment=environment)
    assert result.returncode != 0
    assert "Unable to find artifact 'ranker @ v2.0.0'" in result.stderr


def leaves(node: dict[str, Any]) -> set[str]:
    """Names of all numbers below a node, whatever stands above them."""
    return {
        name for key, value in node.items() for name in (leaves(value) | {key} if isinstance(value, dict) else {key})
    }


def test_every_number_is_defined_on_the_page_of_numbers() -> None:
    page = (ROOT / "docs/numbers.md").read_text()
    used = leaves(json.loads((ROOT / "metrics/evaluate.json").read_text())["valid"])
    stems = {name.removesuffix("_t").removesuffix("_low").removesuffix("_high") for name in used}
    missing = {name for name in stems if f"`{name}`" not in page and not name.startswith(("sees_", "bps"))}
    assert missing == set()
