"""The verdicts that Git keeps follow from the series that Git keeps, and the README's table says the same."""

import re
from pathlib import Path

import pytest
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
        assert found.primary is not None
        assert found.primary.value == pytest.approx(row.difference, abs=1e-6), row.name


@pytest.mark.parametrize(("plan", "half"), [("experiments", 0), ("confirmation", 1)])
def test_the_readme_says_what_the_ledger_says(plan: str, half: int) -> None:
    """Its tables of the roadmap: | `name` | knobs | difference (low to high) | p | ... | verdict |."""
    text = (ROOT / "README.md").read_text().split("once more on a market")[half]
    number = r"([+-]\.\d{4})"
    line = rf"^\| `(\w+)` \|.*?\| {number} \({number} to {number}\) \| (\.\d{{3}}|1\.000) \|.*\| \**(\w+)\** \|$"
    table = {name: said for name, *said in re.findall(line, text, re.MULTILINE)}
    listed = yaml.safe_load((ROOT / f"docs/{plan}.yaml").read_text())
    found = {row.name: (row, judgement) for row, judgement in judged_again(LEDGER)}
    assert table.keys() == listed["variants"].keys()
    for name, (*numbers, p, verdict) in table.items():
        row, judgement = found[f"{listed['prefix']}-{name}"]
        assert judgement.primary is not None
        values = judgement.primary.value, *judgement.primary.interval()
        assert [float(n) for n in numbers] == pytest.approx(list(values), abs=6e-5), name
        assert float(p) == pytest.approx(row.p, abs=6e-4), name
        assert verdict == judgement.verdict == row.verdict, name
