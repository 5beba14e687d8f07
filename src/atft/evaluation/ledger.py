"""Every trial that was ever judged, failed ones too, and what so many trials do to the best of them.

One small JSON file per judgement and one CSV per series, named by content: written once, never changed, so
that branches merge and `git checkout .` cannot lose one.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import groupby
from pathlib import Path

import polars as pl

from atft.errors import InputError
from atft.evaluation.metrics import information_ratio
from atft.evaluation.sharpe import Overfitting, deflated_sharpe, probability_of_overfitting
from atft.evaluation.verdict import Judgement, Trial, has_number, judge, over_seeds
from atft.program import new_file

MOST_COMMON = 0.9  # of a trial's days that another must share to stand beside it in the overfitting test
VERDICTS = ("accepted", "rejected", "unresolved")  # of what ended and was judged
SERIES = ("rank_ic", "net")  # what is kept of a trial, each seed in a column of its own


@dataclass(frozen=True)
class Row:
    """One judgement.

    Attributes:
        trial: Name of the candidate's series; base: of the one it was held against (its own for a base), or the study
            that tried it.
        judged: ISO date; order: how many candidates had spent of the market's level before.
        name, rev, market, horizon, first, last, seeds: Of the trial; first and last valid date.
        rank_ic, sharpe_net: Its own, the latter per day and not annualised; null where it failed.
        difference, se, p, level, verdict, reason, needs: Of the judgement; null for a base.
        changes: Knobs that differ from the base's.
        yardstick: Knobs by which it was measured; null where nobody says, as of one given by `--failed`.
    """

    trial: str
    base: str
    judged: str
    order: int
    name: str
    rev: str
    market: str
    horizon: int
    first: str | None
    last: str | None
    seeds: int
    rank_ic: float | None
    sharpe_net: float | None
    difference: float | None
    se: float | None
    p: float | None
    level: float | None
    verdict: str
    reason: str
    needs: str
    changes: str
    yardstick: dict[str, object] | None = None

    @property
    def is_base(self) -> bool:
        return self.verdict == "base"

    @property
    def has_series(self) -> bool:
        return self.first is not None


def read_ledger(folder: Path) -> list[Row]:
    """All rows, in the order in which they spent; those that tie, by name.

    Raises:
        InputError: When a row cannot be read.
    """
    rows = []
    for file in sorted(folder.glob("*.json")):
        try:
            rows.append(Row(**json.loads(file.read_text())))
        except (ValueError, TypeError) as error:
            raise InputError(f"{file}: not a row of the ledger ({error}); restore it from Git") from error
    return sorted(rows, key=lambda row: (row.judged, row.order, row.trial))


def seen_before(rows: Sequence[Row], trial: Trial) -> int:
    """Candidates that have spent of this market's level, at dates that overlap the trial's."""
    first, last = _dates(trial)
    return sum(
        row.p is not None
        and (row.market, row.horizon) == (trial.market, trial.horizon)
        and (row.first is None or last is None or (row.first <= last and str(first) <= str(row.last)))
        for row in rows
    )


def trial_name(trial: Trial) -> str:
    """Twelve digits of the content of its series; of name and revision where it has none."""
    content = f"{trial.name} {trial.rev} {trial.failed}" if trial.failed else _wide(trial)
    return _name(content)


def row_of(judgement: Judgement | None, trial: Trial, base: Trial, judged: date, order: int, changes: str) -> Row:
    """The row of a candidate's judgement, or of a base (None)."""
    first, last = _dates(trial)
    primary = judgement.primary if judgement else None
    net, ic = ([] if trial.failed else over_seeds(trial, name)[name].to_list() for name in ("net", "rank_ic"))
    return Row(
        trial=trial_name(trial),
        base=trial_name(base),
        judged=judged.isoformat(),
        order=order,
        name=trial.name,
        rev=trial.rev,
        market=trial.market,
        horizon=trial.horizon,
        first=first,
        last=last,
        seeds=0 if trial.failed else trial.daily["seed"].n_unique(),
        rank_ic=_rounded(sum(ic) / len(ic) if ic else None),
        sharpe_net=_rounded(information_ratio(net)),
        difference=_rounded(primary.value) if primary else None,
        se=_rounded(primary.se) if primary else None,
        p=judgement.p if judgement else None,
        level=judgement.level if judgement else None,
        verdict=judgement.verdict if judgement else "base",
        reason=judgement.reason if judgement else "",
        needs=judgement.needs if judgement else "",
        changes=changes,
        yardstick=trial.yardstick,
    )


def searched(trial: Trial, study: str, verdict: str, judged: date, changes: str) -> Row:
    """The row of a search's trial, which nobody judged: it spends no level, but the best of so many was chosen.

    Args:
        verdict: `tried`, or for trials without a series `pruned` or `failed`.
    """
    row = row_of(None, trial, trial, judged, 0, changes)
    return replace(row, base=f"sweep-{study}", verdict=verdict, reason=trial.failed or "")


def add(folder: Path, row: Row, trial: Trial) -> None:
    """Write the row and the series it refers to; what is there already stays as it is."""
    if not trial.failed:
        _write_once(folder / f"{row.trial}.csv", _wide(trial))
    name = row.trial if row.is_base else f"{row.trial}-{row.base}"
    _write_once(folder / f"{name}.json", json.dumps(asdict(row), indent=1, sort_keys=True) + "\n")


def kept_trial(folder: Path, row: Row) -> Trial:
    """A trial as the ledger keeps it: RankIC and net return at its primary horizon.

    Raises:
        InputError: When the series is not the one that was judged.
    """
    file = folder / f"{row.trial}.csv"
    text = file.read_text()
    if _name(text) != row.trial:
        raise InputError(f"{file}: not the series that was judged; restore it from Git")
    wide = pl.read_csv(io.StringIO(text), try_parse_dates=True, infer_schema_length=None)
    seeds = [int(name.split("@")[1]) for name in wide.columns if name.startswith("rank_ic@")]
    parts = [
        wide.select(
            "date",
            pl.col("fold").cast(pl.Int64),
            pl.lit(seed).alias("seed").cast(pl.Int64),
            pl.lit(row.horizon).alias("horizon").cast(pl.Int64),
            *(pl.col(f"{name}@{seed}").cast(pl.Float64).alias(name) for name in SERIES),
        )
        for seed in seeds
    ]
    return Trial(row.name, row.rev, row.market, row.horizon, pl.concat(parts), {}, kept=row.yardstick)


def judged_again(folder: Path, level: float = 0.05) -> list[tuple[Row, Judgement]]:
    """Each judgement that the ledger keeps, and what its series give with the company it was judged in."""
    rows = read_ledger(folder)
    bases = {row.trial: row for row in rows if row.is_base}
    judged = sorted((row for row in rows if row.verdict in VERDICTS), key=_company)
    again = []
    for (base, order, _), group in groupby(judged, _company):
        together = list(group)
        trials = [kept_trial(folder, row) for row in together]
        again += zip(together, judge(kept_trial(folder, bases[base]), trials, level, order), strict=True)
    return again


def _company(row: Row) -> tuple[str, int, str]:
    """What candidates that were judged together have in common."""
    return row.base, row.order, row.judged


@dataclass(frozen=True)
class Search:
    """What the number of trials leaves of a candidate.

    Attributes:
        trials: Judged on its market, itself and failed ones included.
        deflated_sharpe: Probability that its true Sharpe ratio exceeds the best of so many trials by luck.
        overfitting: Probability that the best of all in one half of the days is below their median
            in the other (PBO), and its kin.
    """

    trials: int
    deflated_sharpe: float | None
    overfitting: Overfitting | None


def search_of(folder: Path, rows: Sequence[Row], trial: Trial) -> Search:
    """Deflated Sharpe ratio and probability of overfitting over all trials of the trial's market."""
    same = {row.trial: row for row in rows if (row.market, row.horizon) == (trial.market, trial.horizon)}
    own = over_seeds(trial, "net")
    ended = {name: over_seeds(kept_trial(folder, row), "net") for name, row in same.items() if row.has_series}
    ended[trial_name(trial)] = own
    failed: list[float | None] = [None for name in same if name not in ended]
    sharpes = [information_ratio(net["net"]) for net in ended.values()] + failed
    table = own.select("date")
    for name, net in ended.items():
        wider = table.join(net.rename({"net": name}), on="date", how="inner")
        # A trial on other dates would cost the others theirs.
        table = wider if len(wider) >= MOST_COMMON * len(own) else table
    returns = table.drop("date").to_numpy()
    blocks = min(16, len(returns) // 10 // 2 * 2)
    overfitting = probability_of_overfitting(returns, blocks) if blocks >= 2 and returns.shape[1] > 1 else None
    return Search(len(sharpes), deflated_sharpe(own["net"], sharpes), overfitting)


def trials_behind(folder: Path, trial: Trial) -> dict[str, float | None]:
    """`trials, deflated_sharpe, overfitting` as plain numbers; null where the trial has no net returns."""
    if not has_number(trial, "net"):
        same = {row.trial for row in read_ledger(folder) if (row.market, row.horizon) == (trial.market, trial.horizon)}
        return {"trials": len(same | {trial_name(trial)}), "deflated_sharpe": None, "overfitting": None}
    search = search_of(folder, read_ledger(folder), trial)
    overfitting = search.overfitting.probability if search.overfitting else None
    return {"trials": search.trials, "deflated_sharpe": search.deflated_sharpe, "overfitting": overfitting}


def _wide(trial: Trial) -> str:
    """The series as CSV: date, fold, then NAME@SEED for each number and seed."""
    rows = trial.daily.filter(pl.col("horizon") == trial.horizon).sort("date", "fold", "seed")
    wide = rows.select("date", "fold").unique(maintain_order=True)
    for seed in sorted(set(rows["seed"])):
        one = rows.filter(pl.col("seed") == seed)
        named = one.select(
            "date", "fold", *(pl.col(name).cast(pl.Float64).round(6).alias(f"{name}@{seed}") for name in SERIES)
        )
        wide = wide.join(named, on=["date", "fold"], how="left")
    buffer = io.BytesIO()
    wide.write_csv(buffer)
    return buffer.getvalue().decode()


def _name(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _dates(trial: Trial) -> tuple[str | None, str | None]:
    if trial.failed:
        return None, None
    return str(trial.daily["date"].min()), str(trial.daily["date"].max())


def _write_once(file: Path, content: str) -> None:
    if not file.exists():
        with new_file(file) as scratch:
            scratch.write_text(content)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 9)
