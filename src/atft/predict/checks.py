"""What should make one doubt a day's scores, each as one line with the limit that it passed."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.evaluation.drift import stability
from atft.evaluation.summary import SEED
from atft.panel.store import Panel

MEMORY = 20  # every so many training days are looked at for how often a feature is unknown
NAMES = 5  # features that a line names


@dataclass(frozen=True)
class Warn:
    """A doubt.

    Attributes:
        kind: stale, gap, old_model, drift, universe, unknown, range or reference.
        text: One line.
    """

    kind: str
    text: str


def stale(last: date, today: date, limit: int) -> list[Warn]:
    """Whether more than `limit` weekdays have passed since the last bar, today included; holidays count as such."""
    passed = int(_weekdays(last, today))
    if passed <= limit:
        return []
    return [Warn("stale", f"the last bar is of {last}, {passed} weekdays before {today} (limit {limit})")]


def _weekdays(after: Any, until: Any) -> Any:
    """Weekdays after a day, up to and with another."""
    day = np.timedelta64(1, "D")
    return np.busday_count(np.asarray(after, "datetime64[D]") + day, np.asarray(until, "datetime64[D]") + day)


def gap(dates: NDArray[np.datetime64], known: int, limit: int) -> list[Warn]:
    """Whether more than `limit` weekdays lie between two days from the last of the first `known` ones on."""
    seam = dates[max(known - 1, 0) :]
    jumps = _weekdays(seam[:-1], seam[1:])
    return [
        Warn("gap", f"no bars between {seam[i]} and {seam[i + 1]}, {jumps[i]} weekdays apart (limit {limit})")
        for i in np.flatnonzero(jumps > limit)
    ]


def old_model(age: int, learned: date, fold: int, limit: int) -> list[Warn]:
    """Whether the model learned its last day more than `limit` trading days ago."""
    if age <= limit:
        return []
    return [
        Warn("old_model", f"fold {fold} learned until {learned}, {age} trading days before (limit {limit}); retrain")
    ]


def drifted(
    reference: NDArray[np.float32],
    today: NDArray[np.float32],
    horizons: Sequence[int],
    seed: int,
    bins: int,
    draws: int,
) -> list[Warn]:
    """Whether the day's scores of one seed have left the distribution of the same model's `stop` scores.

    Args:
        reference: [day, stock, horizon].
        today: [stock, horizon].
    """
    found = []
    for h, horizon in enumerate(horizons):
        drift = stability(reference[:, :, h], today[None, :, h], bins, draws, SEED)
        if drift and drift.moved:
            found.append(
                Warn("drift", f"scores of horizon {horizon}, seed {seed}: stability index {drift.psi:.2f} against the "
                              f"model's stop days, by chance up to {drift.band:.2f} (alarm above .25)")
            )  # fmt: skip
    return found


def universe_changed(before: Sequence[str], now: Sequence[str], learned: date, limit: float) -> list[Warn]:
    """Whether more than the share `limit` of the ranked stocks came or left since the model's last day of learning."""
    old, new = set(before), set(now)
    entered, left = len(new - old) / max(len(new), 1), len(old - new) / max(len(old), 1)
    if max(entered, left) <= limit:
        return []
    return [Warn("universe", f"since {learned} {entered:.0%} of the ranked stocks came in and {left:.0%} left "
                             f"(limit {limit:.0%})")]  # fmt: skip


def out_of_range(panel: Panel, day: int, memory: Panel, learned: NDArray[np.int64], limit: float) -> list[Warn]:
    """Whether features are unknown more often, or state of the market outside what was seen, than when it was learned.

    Features of a stock are standardised within their date and have the same range on every date: only
    whether they are known can change. Features of the market are not.

    Args:
        panel, day: With the day of the scores, a row number of it.
        memory: The cache's panel.
        learned: Its days that the model learned from.
        limit: Share by which a feature may be unknown more often than on the worst training day that was looked at.
    """
    own = [i for i, name in enumerate(panel.feature_names) if name not in panel.market_features]
    names = np.asarray(panel.feature_names)
    worst = np.max([_unknown(memory, int(t))[own] for t in learned[::MEMORY]], axis=0)
    now = _unknown(panel, day)[own]
    lost = [f"{names[own][i]} {now[i]:.0%} ({worst[i]:.0%})" for i in np.flatnonzero(now > worst + limit)]
    found = [Warn("unknown", f"unknown more often than in training: {_some(lost)}")] if lost else []
    state = np.array([_state(memory, int(t)) for t in learned])
    today = _state(panel, day)
    if len(today):
        low, high = np.nanmin(state, axis=0), np.nanmax(state, axis=0)
        out = [f"{panel.market_features[i]} {today[i]:.2f} ({low[i]:.2f} to {high[i]:.2f})"
               for i in np.flatnonzero((today < low - 1e-6) | (today > high + 1e-6))]  # fmt: skip
        found += [Warn("range", f"outside what training saw: {_some(out)}")] if out else []
    return found


def _unknown(panel: Panel, day: int) -> NDArray[np.float64]:
    """Share of the day's tradable stocks of which each feature is unknown. [feature]"""
    rows = panel.features[day][panel.tradable[day]]
    return np.isnan(rows).mean(0) if len(rows) else np.zeros(len(panel.feature_names))


def _state(panel: Panel, day: int) -> NDArray[np.float32]:
    """Features of the market on the day; [market feature]"""
    columns = [panel.feature_names.index(name) for name in panel.market_features]
    return panel.features[day, int(np.argmax(panel.tradable[day]))][columns]


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - NAMES} more" if len(texts) > NAMES else ""
    return ", ".join(texts[:NAMES]) + more


def stop_scores(
    predictions: pl.DataFrame, days: Sequence[date], codes: Sequence[str], horizons: Sequence[int]
) -> NDArray[np.float32]:
    """Rows `date, code, horizon, score` as [day, stock, horizon], NaN where there is none."""
    axes: dict[str, Sequence[Any]] = {"date": days, "code": codes, "horizon": horizons}
    places = {name: {value: i for i, value in enumerate(axis)} for name, axis in axes.items()}
    out = np.full([len(axis) for axis in axes.values()], np.nan, np.float32)
    at = tuple(np.array([places[name][value] for value in predictions[name].to_list()], int) for name in axes)
    out[at] = predictions["score"].to_numpy()
    return out
