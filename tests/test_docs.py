"""What README and docs tell one to type exists: programs, their options, knobs, make targets, files."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from atft.evaluation.verdict import flat

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DVC = {"add", "artifacts", "checkout", "commit", "exp", "get", "metrics", "params", "plots", "pull", "push", "queue",
       "remote", "repro", "status"}  # fmt: skip


def commands(text: str) -> Iterator[list[str]]:
    """Words of each command in the fenced blocks, variables put in; output and comments left out."""
    variables: dict[str, str] = {}
    for block in re.split(r"^```.*\n", text, flags=re.MULTILINE)[1::2]:
        shown = block.startswith("$ ")  # with what it prints
        for line in re.sub(r"\\\n\s*|\n\s+(?=-S )", " ", block).splitlines():
            if shown and not line.startswith("$ "):
                continue
            for name, value in variables.items():
                line = re.sub(rf"\${name}\b", lambda _, value=value: value, line)
            try:
                words = shlex.split(line.removeprefix("$ "), comments=True)
            except ValueError:  # no command
                continue
            if words and (found := re.fullmatch(r"([A-Z])=(.*)", words[0])):
                variables[found[1]] = found[2]
            yield from split(words)


def split(words: list[str]) -> Iterator[list[str]]:
    """The commands of one line."""
    part: list[str] = []
    for word in words:
        if word in ("&&", "|", ";"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


@cache
def told(program: str) -> str:
    """What a program says of itself."""
    return subprocess.run(
        [sys.executable, program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


KNOBS = flat(yaml.safe_load((ROOT / "params.yaml").read_text()))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


# What proves that a command does what the page says: a test, or why a person has to. First match counts.
PROOFS = {
    r"git clone|cd atft|source \.venv|cp |export |git (commit|push|tag)|dvc (queue )?status$": "no program of ours",
    r"git fetch|dvc cache dir|dvc add$": "DVC's and Git's own; the four best on NASDAQ were run so",
    r"dvc exp run( -S \S+)* -n \w+.* -S data\.source=file": "test_pipeline.py::own_bars",
    r"dvc exp run -S data\.source=file": "test_pipeline.py::own_bars",
    r"dvc exp run -S data\.source=table": "panel/test_table.py::columns_become_features",
    r"dvc exp run --queue": "test_pipeline.py::variants_stand_beside",
    r"(CUDA_VISIBLE_DEVICES=\d )?dvc queue start": "test_upkeep.py::the_queue_loses",
    r"dvc exp run -S (train\.optimizer=adabelif|split\.purge=20)": "test_config.py::a_wrong_knob_is_refused",
    r"dvc exp run": "test_pipeline.py::variants_stand_beside",
    r"dvc exp apply|git commit -a": "test_pipeline.py::an_experiment_travels_too",
    r"dvc (exp (push|pull)|push|pull|remote)": "test_pipeline.py::a_fresh_clone_pulls_everything",
    r"dvc (artifacts get|get)|git tag": "test_pipeline.py::a_tagged_ranker",
    r"dvc (metrics|plots)": "test_pipeline.py::variants_stand_beside",
    r"dvc (repro|add data)|make repro": "test_pipeline.py::outputs_are_ignored",
    r"dvc commit -f|torchrun": "training/test_loop.py::the_program_runs_under_torchrun",
    r"dvc gc -w": "the page says not to",
    r"make (test|check|setup)": ".ci/run does it",
    r"make reset": "test_pipeline.py::reset_takes_back",
    r"make show": "test_pipeline.py::variants_stand_beside",
    r"make review": "test_pipeline.py::a_pull_request_is_reviewed",
    r"make experiments|python src/experiments\.py": "test_pipeline.py::a_list_of_variants",
    r"make verify": "test_upkeep.py::a_whole_cache_is_whole",
    r"make gc": "test_upkeep.py::gc_keeps_what_anyone_uses",
    r"make clean-exps": "test_upkeep.py::a_killed_experiment_leaves_nothing",
    r"python src/verdict\.py ledger:\S+ ledger:": "test_verdict_program.py::a_verdict_can_be_derived_again",
    r"python src/verdict\.py .*--html": "test_verdict_program.py::the_comparison_is_a_page",
    r"python src/verdict\.py .*--log": "test_verdict_program.py::the_log_gets_the_entry",
    r"python src/verdict\.py .*--time": "test_pipeline.py::training_time_is_measured",
    r"python src/verdict\.py .*--failed": "test_verdict_program.py::the_ledger_keeps_failures",
    r"python src/verdict\.py": "test_verdict_program.py::experiments_are_judged",
    r"python src/sweep\.py .*--promote": "test_pipeline.py::the_best_of_a_search",
    r"python src/sweep\.py": "search/test_sweep.py::every_trial_is_in_the_ledger",
    r"python src/predict\.py --card": "predict/test_card.py::the_committed_card",
    r"python src/predict\.py --data": "test_pipeline.py::new_bars_are_ranked",
    r"python src/predict\.py": "test_pipeline.py::predict_says_of_a_held_out_day",
    r"python src/fetch\.py jquants": "fetch/test_jquants.py::bars_come_as_printed",
    r"python src/fetch\.py csv-dir": "fetch/test_csv_dir.py::files_become_one",
    r"python benchmarks/": "test_benchmarks.py::it_runs_at_a_small_size",
    r"python docs/(roadmap|pictures)\.py": "test_committed_verdicts.py::the_pictures_show",
    r"python docs/screenshot\.py": "a person looks at the picture",
}  # fmt: skip


def typed(text: str) -> Iterator[str]:
    """What a page tells one to type, in blocks and within the lines, with its variables put in."""
    for words in commands(text):
        if words and re.fullmatch(r"[A-Z]=.*", words[0]) is None:
            yield " ".join(words)
    yield from re.findall(r"(?<!`)`((?:make|dvc|python|git|torchrun) [^`]+)`(?!`)", text)


def wrong(words: list[str]) -> str | None:
    """Why the command cannot be typed here; None where nothing speaks against it."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    match words:
        case ["dvc", command, *_] if command not in DVC:
            return f"dvc has no {command}"
        case ["dvc", "exp", "run", *rest]:
            paths = [word.split("=")[0] for flag, word in zip(rest, rest[1:], strict=False) if flag == "-S"]
            strange = [path for path in paths if path not in KNOBS and not any(k.startswith(f"{path}.") for k in KNOBS)]
            return f"no knob {strange[0]}" if strange else None
        case ["make", *rest]:
            strange = [word for word in rest if "=" not in word and word not in TARGETS]
            return f"make has no {strange[0]}" if strange else None
        case ["python", file, *rest] if file.endswith(".py"):
            if not (ROOT / file).exists():
                return f"{file} is not there"
            options = [word.split("=")[0] for word in rest if re.match(r"--?[a-z]", word)]
            strange = [word for word in options if word not in told(file)]
            return f"{file} has no {strange[0]}" if strange else None
        case _:
            return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_says_to_type_is_there(page: Path) -> None:
    found = [f"{' '.join(words)}: {why}" for words in commands(page.read_text()) if (why := wrong(words))]
    assert found == []


@pytest.mark.parametrize(
    "command",
    ["make relax", "dvc exp run -S train.optimiser=adamw", "python src/gone.py", "python src/verdict.py a --htlm b"],
)
def test_what_is_not_there_is_found(command: str) -> None:
    assert [why for words in commands(f"```\n{command}\n```\n") if (why := wrong(words))]


@pytest.mark.parametrize("page", [page for page in PAGES if "experiments" not in page.name and page.name != "log.md"])
def test_every_command_is_proven(page: Path) -> None:
    """The log's are what was typed once, on the commit and with the data of its day."""
    text = re.sub(r"```mermaid.*?```", "", page.read_text(), flags=re.DOTALL)
    assert [line for line in typed(text) if not any(re.match(pattern, line) for pattern in PROOFS)] == []


@pytest.mark.parametrize("proof", [proof for proof in PROOFS.values() if "::" in proof])
def test_what_proves_a_command_is_a_test(proof: str) -> None:
    file, name = proof.split("::")
    assert f"def test_{name}" in (ROOT / "tests" / file).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_that_the_readme_names_exist() -> None:
    names = re.findall(r"`((?:src|docs|tests|benchmarks)/[\w./-]+)`", (ROOT / "README.md").read_text())
    assert [name for name in names if not (ROOT / name).exists()] == []
