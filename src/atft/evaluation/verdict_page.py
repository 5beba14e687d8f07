"""A verdict to read: rows for the terminal, Markdown for a pull request and the log, JSON for programs."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from atft.evaluation.ledger import Search
from atft.evaluation.verdict import Difference, Judgement, Trial, worse

COLUMNS = ("number", "base", "candidate", "difference", "90 % interval", "beyond noise")


@dataclass(frozen=True)
class Entry:
    """One candidate's verdict with all that is printed beside it.

    Attributes:
        order: How many candidates had spent of its market's level before.
        changes: Knobs that differ from the base's.
        time_ratio: Training time, candidate over base; None where it was not measured.
        is_new: Whether the ledger did not know it before.
    """

    base: Trial
    judgement: Judgement
    search: Search | None
    order: int
    changes: str
    time_ratio: float | None = None
    is_new: bool = False


def title(entry: Entry) -> str:
    found = entry.judgement
    return f"{found.candidate.name} against {entry.base.name}: {found.verdict}"


def summary(entry: Entry) -> str:
    """Why, and what would resolve it."""
    found = entry.judgement
    return f"{found.reason[:1].upper()}{found.reason[1:]}." + (f" It would take {found.needs}." if found.needs else "")


def rows(entry: Entry) -> list[tuple[str, ...]]:
    """`COLUMNS` of the RankIC and of every guard."""
    return [_row(name, difference) for name, difference in numbers(entry)]


def numbers(entry: Entry) -> list[tuple[str, Difference]]:
    """The RankIC's and every guard's difference by name, where there is one."""
    found = entry.judgement
    primary = [] if found.primary is None else [(f"rank_ic (h={entry.base.horizon})", found.primary)]
    return [*primary, *found.guards.items()]


def _row(name: str, difference: Difference) -> tuple[str, ...]:
    low, high = difference.interval()
    mark = {None: "", True: "worse", False: "better"}[worse(name, difference)]
    values = (difference.base, difference.base + difference.value)
    return name, *(f"{v:.5f}" for v in values), f"{difference.value:+.5f}", f"{low:+.5f} to {high:+.5f}", mark


def facts(entry: Entry) -> list[str]:
    """What the verdict rests on."""
    found, base = entry.judgement, entry.base
    lines = []
    if found.primary:
        stocks = f", {base.stocks:.0f} stocks a day" if base.stocks else ""
        days = f"{base.daily['date'].min()} to {base.daily['date'].max()}"
        dropped = f" ({found.primary.dropped} more without the candidate's RankIC)" if found.primary.dropped else ""
        used = f"{found.primary.days} days{dropped}"
        lines.append(f"{base.market}, valid {days}: {used}{stocks}, {found.primary.seeds} seeds")
    if found.p is not None:
        lines.append(
            f"p {found.p:.4f} (Holm over those judged together) against {found.level:.4f}: "
            f"the level left after {entry.order} candidates on this market"
        )
    if entry.search:
        search = entry.search
        luck = "" if search.deflated_sharpe is None else f"deflated Sharpe {search.deflated_sharpe:.2f}"
        pbo = "" if search.overfitting is None else f"probability of overfitting {search.overfitting.probability:.2f}"
        lines.append(f"over {search.trials} trials: " + (", ".join(filter(None, (luck, pbo))) or "too few to deflate"))
    ratio = entry.time_ratio
    lines.append("training time: " + ("not measured" if ratio is None else f"{ratio:.2f} of the base's (limit 1.10)"))
    if entry.changes:
        lines.append(f"knobs: {entry.changes}")
    if entry.is_new:
        lines.append("a new judgement: commit metrics/ledger, it stands from now on")
    return lines


def markdown(entry: Entry, heading: str = "##", when: date | None = None) -> str:
    """The verdict as a section."""
    table = [f"| {' | '.join(line)} |" for line in (COLUMNS, ["---"] * len(COLUMNS), *rows(entry))]
    body = [f"{heading} {f'{when} ' if when else ''}{title(entry)}", "", summary(entry), ""]
    if len(table) > 2:
        body += [*table, ""]
    return "\n".join([*body, *(f"- {line}" for line in facts(entry))]) + "\n"


def as_json(entry: Entry) -> dict[str, Any]:
    """The verdict as plain values."""
    found = entry.judgement

    def plain(difference: Difference | None) -> dict[str, Any] | None:
        if difference is None:
            return None
        low, high = difference.interval()
        return {
            "base": difference.base,
            "candidate": difference.base + difference.value,
            "difference": difference.value,
            "se": difference.se,
            "low": low,
            "high": high,
            "days": difference.days,
            "dropped": difference.dropped,
            "seeds": difference.seeds,
            "days_variance": difference.days_variance,
            "seeds_variance": difference.seeds_variance,
        }

    overfitting = entry.search.overfitting if entry.search else None
    return {
        "base": entry.base.name,
        "candidate": found.candidate.name,
        "verdict": found.verdict,
        "reason": found.reason,
        "needs": found.needs or None,
        "p": found.p,
        "level": found.level,
        "order": entry.order,
        "rank_ic": plain(found.primary),
        "guards": {name: plain(difference) for name, difference in found.guards.items()},
        "trials": entry.search.trials if entry.search else None,
        "deflated_sharpe": entry.search.deflated_sharpe if entry.search else None,
        "overfitting": asdict(overfitting) if overfitting else None,
        "time_ratio": entry.time_ratio,
        "changes": entry.changes,
    }


def failed_experiments(log: str) -> str:
    """`docs/failed_experiments.md`: the entries of the log whose heading ends in a verdict other than accepted."""
    sections = re.split(r"(?m)^(?=## )", log)[1:]
    lost = [s.strip() for s in sections if re.search(r": (rejected|unresolved|failed)$", s.splitlines()[0])]
    head = "# Failed experiments\n\nMade from `docs/log.md` by `python src/verdict.py --log`; do not edit.\n"
    return head + "".join(f"\n{section}\n" for section in lost)


def changed_knobs(base: dict[str, object], candidate: dict[str, object]) -> str:
    """`section.knob: old -> new` of all that differ."""
    names: Sequence[str] = sorted(set(base) | set(candidate))
    different = [name for name in names if base.get(name) != candidate.get(name)]
    return ", ".join(f"{name}: {base.get(name, 'absent')} -> {candidate.get(name, 'absent')}" for name in different)
