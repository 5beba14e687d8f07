"""What the graph looks like: how many neighbours, how lasting, how much of them labels could have told."""

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.graph.edges import EDGE_FEATURES, Mask
from atft.graph.snapshots import Snapshots, between_stocks


def snapshot_table(
    snapshots: Snapshots,
    dates: NDArray[np.datetime64],
    has_bar: Mask,
    sector: NDArray[np.integer],
    industry: NDArray[np.integer],
    cluster: NDArray[np.integer] | None,
) -> pl.DataFrame:
    """One row per snapshot about the links between stocks that printed on its day.

    Args:
        dates: [day]
        has_bar, sector, industry: [day, stock]; labels of 0 are unknown and equal nothing.
        cluster: [stock] hidden peers, where somebody knows them.

    Returns:
        `date`; `degree` neighbours per stock; `isolated` share of stocks without any; `churn` 1 - Jaccard
        of this and the last snapshot's links (null in the first); `within_sector` and
        `within_industry` shares of links; `mean_correlation` of residuals over links; `true_mates`
        share of all pairs of cluster mates that are linked, `true_links` share of links that join
        mates, `chance` the share that random links would. Null where undefined.
    """
    correlation = snapshots.edge_attr[:, EDGE_FEATURES.index("residual_correlation")]
    rows, before = [], np.empty(0, np.int64)
    for s, (a, b) in enumerate(zip(snapshots.offsets, snapshots.offsets[1:], strict=False)):
        day, index = int(snapshots.as_of[s]), snapshots.edge_index[:, a:b]
        listed = has_bar[day]
        known = np.flatnonzero(between_stocks(index, snapshots.stocks))
        known = known[listed[index[:, known]].all(axis=0)]
        source, target = index[:, known]
        links = target * snapshots.stocks + source
        both = len(np.intersect1d(links, before, assume_unique=True))
        stocks = int(listed.sum())
        row: dict[str, Any] = {
            "date": dates[day].astype(object),
            "degree": _share(len(links), stocks),
            "isolated": _share(stocks - len(np.unique(target)), stocks),
            "churn": 1 - both / (len(links) + len(before) - both) if s and len(links) + len(before) else None,
            "within_sector": _same(sector[day], source, target),
            "within_industry": _same(industry[day], source, target),
            "mean_correlation": _share(float(correlation[a:b][known].astype(np.float64).sum()), len(links)),
        }
        rows.append(row | _mates(cluster, listed, source, target))
        before = links
    return pl.DataFrame(rows, schema={"date": pl.Date} | dict.fromkeys(list(rows[0])[1:], pl.Float64))


def summary(table: pl.DataFrame, snapshots: Snapshots) -> dict[str, float | None]:
    """Counts, and the mean over snapshots of each column of the table; None where it is never defined."""
    means = table.select(pl.exclude("date").mean()).row(0, named=True)
    edges = len(snapshots.edge_attr) / len(snapshots.as_of)
    return {"snapshots": len(snapshots.as_of), "stocks": snapshots.stocks, "edges_per_snapshot": edges, **means}


def _mates(
    cluster: NDArray[np.integer] | None,
    listed: Mask,
    source: NDArray[np.int64],
    target: NDArray[np.int64],
) -> dict[str, float | None]:
    if cluster is None:
        return {"true_mates": None, "true_links": None, "chance": None}
    mates = np.bincount(cluster[listed], minlength=cluster.max() + 1)[cluster] - 1
    found = int((cluster[source] == cluster[target]).sum())
    others = int(listed.sum()) - 1
    return {
        "true_mates": _share(found, int(mates[listed].sum())),
        "true_links": _share(found, len(source)),
        "chance": _share(float(mates[target].sum()), len(source) * others),
    }


def _same(label: NDArray[np.integer], source: NDArray[np.int64], target: NDArray[np.int64]) -> float | None:
    return _share(int(((label[source] == label[target]) & (label[source] > 0)).sum()), len(source))


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
