"""The verdicts that Git keeps follow from the series that Git keeps; the README's tables and pictures say the same."""

import re
from pathlib import Path

import pictures
import pytest
import roadmap
import yaml

from atft.evaluation.ledger import judged_again

ROOT = Path(__file__).parents[1]

LEDGER = ROOT / "metrics/ledger"


def test_every_verdict_is_derived_again_from_its_series() -> None:
    pairs = judged_again(LEDGER)
    assert len(pairs) > 10
    for row, found in pairs:
        assert found.verdict == row.verdict, row.name
        assert found.p == pytest.approx(row.p, abs=2e-4), row.name
        assert found.level == pytest.approx(row.level, abs=1e-9), row.name
        difference = found.primary.value if found.primary else None  # one seed is not judged
        assert difference == pytest.approx(row.difference, abs=1e-6), row.name


@pytest.mark.parametrize(("plan", "rows"), [("experiments", 38), ("confirmation", 6), ("nasdaq", 4)])
def test_the_readme_says_what_the_ledger_says(plan: str, rows: int) -> None:
    """Line by line of its tables, but for the times, which a benchmark measures."""
    listed = yaml.safe_load((ROOT / f"docs/{plan}.yaml").read_text())
    lines = roadmap.table(listed["variants"], roadmap.judged(listed), {}).splitlines()[2:]
    readme = re.sub(r" \| [\d.]+x (?=\| [*\w]+ \|$)", " ", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(lines) == rows
    assert [line for line in lines if line not in readme.splitlines()] == []


def test_the_pictures_show_what_the_files_say(tmp_path: Path) -> None:
    plan = yaml.safe_load((ROOT / "docs/experiments.yaml").read_text())
    roadmap.draw(roadmap.judged(plan), tmp_path / "roadmap.svg")
    assert (tmp_path / "roadmap.svg").read_bytes() == (ROOT / "docs/images/roadmap.svg").read_bytes()
    pictures.graph_statistics(tmp_path / "graph.svg")
    assert (tmp_path / "graph.svg").read_bytes() == (ROOT / "docs/graph.svg").read_bytes()
