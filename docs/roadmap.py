"""The README's table and picture of a list of experiments, from the ledger; what a variant costs, from its benchmark.

Run: python benchmarks/experiments.py > costs.txt
     python docs/roadmap.py --costs costs.txt --picture docs/images/roadmap.svg
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from atft.evaluation.ledger import judged_again  # noqa: E402
from atft.evaluation.verdict import Difference, Judgement  # noqa: E402

COLOURS = {"accepted": "#0072B2", "unresolved": "#888888", "rejected": "#D55E00"}  # Okabe & Ito
SHOWN = -0.02, 0.01  # of RankIC; what lies left of it is named


def short(value: float, digits: int = 4, sign: str = "+") -> str:
    return re.sub(r"^([+-]?)0\.", r"\1.", f"{value:{sign}.{digits}f}")


def judged(plan: dict[str, Any]) -> dict[str, Judgement]:
    """Of each variant of a list that has been judged, from the series in the ledger."""
    known = {row.name: said for row, said in judged_again(ROOT / "metrics/ledger")}
    names = {name: f"{plan['prefix']}-{name}" for name in plan["variants"]}
    return {name: known[whole] for name, whole in names.items() if whole in known}


def table(knobs: dict[str, Any], found: dict[str, Judgement], costs: dict[str, str]) -> str:
    columns = ["variant", "knobs", "RankIC h=5 (90 % interval)", "p", "net return, bps a day", "time", "verdict"]
    columns = columns if costs else [name for name in columns if name != "time"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, said in found.items():
        rank, net = differences(said)
        cells = [
            f"`{name}`",
            ", ".join(f"`{knob}={yaml_word(value)}`" for knob, value in knobs[name].items()),
            f"{short(rank.value)} ({' to '.join(map(short, rank.interval()))})",
            short(said.p or 0, 3, ""),
            " to ".join(short(1e4 * end, 1) for end in net.interval()),
            *([f"{costs[name]}x"] if costs else []),
            said.verdict if said.verdict == "unresolved" else f"**{said.verdict}**",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(said: Judgement) -> tuple[Difference, Difference]:
    """Of RankIC and of net return."""
    assert said.primary is not None
    return said.primary, said.guards["net"]


def yaml_word(value: object) -> str:
    return yaml.safe_dump(value, default_flow_style=True).replace("...", "").strip()


def draw(found: dict[str, Judgement], target: Path) -> None:
    """Differences with their 90 % intervals, best above."""
    mpl.use("svg")
    plt.rcParams["svg.hashsalt"] = "atft"
    ranked = sorted(found, key=lambda name: differences(found[name])[0].value)
    figure, axis = plt.subplots(figsize=(8, 0.17 * len(ranked) + 0.8), layout="constrained")
    for height, said in enumerate(found[name] for name in ranked):
        rank, colour = differences(said)[0], COLOURS[said.verdict]
        low, high = rank.interval()
        if high < SHOWN[0]:
            told = f"  \N{LEFTWARDS ARROW} {short(rank.value, 3)}"
            axis.annotate(told, (SHOWN[0], height), fontsize=7, color=colour, va="center")
        axis.plot([low, high], [height, height], color=colour, linewidth=1.5)
        axis.plot(rank.value, height, "o", color=colour, markersize=3.5)
    axis.axvline(0, color="black", linewidth=0.6)
    axis.set(xlim=SHOWN, ylim=(-0.7, len(ranked) - 0.3), yticks=range(len(ranked)))
    axis.set_yticklabels(ranked, fontsize=7)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_title("RankIC at h=5 on valid, less the base's, with 90 % intervals", loc="left", fontsize=9)
    for verdict, colour in COLOURS.items():
        axis.plot([], [], "o-", color=colour, label=verdict, markersize=3.5)
    axis.legend(fontsize=7, frameon=False, loc="lower right")
    figure.savefig(target, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", nargs="?", type=Path, default=ROOT / "docs/experiments.yaml")
    parser.add_argument("--costs", type=Path, help="what benchmarks/experiments.py printed")
    parser.add_argument("--picture", type=Path, metavar="SVG")
    args = parser.parse_args()
    plan = yaml.safe_load(args.plan.read_text())
    found = judged(plan)
    costs = args.costs.read_text() if args.costs else ""
    print(table(plan["variants"], found, dict(re.findall(r"^\| (\w+) \| ([\d.]+) \|", costs, re.MULTILINE))))
    if args.picture:
        draw(found, args.picture)


if __name__ == "__main__":
    main()
