"""Draws the README's pictures from the committed metrics. Run: python docs/pictures.py"""

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import polars as pl

DOCS = Path(__file__).parent
METRICS = DOCS.parent / "metrics"
# Okabe & Ito: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#888888"


def graph_statistics(target: Path) -> None:
    """What each snapshot's links are made of, and how long they last."""
    mpl.use("svg")
    plt.rcParams["svg.hashsalt"] = "atft"
    table = pl.read_csv(METRICS / "plots/graph.csv", try_parse_dates=True)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for column, label, colour in (
        ("true_mates", "true cluster mates that are linked", BLUE),
        ("true_links", "links that join true mates", GREEN),
        ("chance", "the same for random links", GREY),
    ):
        left.plot(table["date"], table[column], label=label, color=colour)
    left.set_title("Does it find the hidden peers?", loc="left", fontsize=10)
    for column, label, colour in (
        ("churn", "links that changed since the last snapshot", ORANGE),
        ("within_sector", "links within a sector", BLUE),
        ("isolated", "stocks without a neighbour", GREY),
    ):
        right.plot(table["date"], table[column], label=label, color=colour)
    right.set_title("What are its links like?", loc="left", fontsize=10)
    left.legend(fontsize=7, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.08))
    right.legend(fontsize=7, frameon=False, loc="upper right")
    for axis in (left, right):
        axis.set_ylim(0, 1)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.set_major_locator(mpl.dates.YearLocator())
        axis.tick_params(labelsize=8)
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    graph_statistics(DOCS / "graph.svg")
