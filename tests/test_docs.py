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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_files_that_the_readme_names_exist() -> None:
    names = re.findall(r"`((?:src|docs|tests|benchmarks)/[\w./-]+)`", (ROOT / "README.md").read_text())
    assert [name for name in names if not (ROOT / name).exists()] == []
