"""Is a candidate better than the base? Reads the daily series that Git keeps; no data, `valid` blocks alone."""

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.table import Table
from ruamel.yaml import YAML, YAMLError

from atft import paths
from atft.arguments import positive
from atft.errors import InputError
from atft.evaluation import ledger, verdict_page
from atft.evaluation.verdict import Judgement, Trial, flat, has_number, judge, market_name
from atft.page.comparison import comparison
from atft.program import new_file, run_program
from atft.revisions import WORKSPACE, checked_out, read_at, resolve, untracked

FROM_LEDGER = "ledger:"


def main() -> None:
    options = arguments()
    if options.role != "valid":
        raise InputError("--role: a verdict reads `valid` alone; `test` is looked at once, when all is decided")
    base, *candidates = (read_trial(name) for name in (options.base, *options.candidates))
    candidates += [failed_trial(base, *text.partition("=")[::2]) for text in options.failed]
    if not candidates:
        raise InputError("no candidate given: python src/verdict.py BASE CANDIDATE...")
    own = (base.rev, ledger.trial_name(base))
    if same := [one for one in candidates if (one.rev, ledger.trial_name(one)) == own]:
        raise InputError(f"{same[0].name}: is {base.name} itself; there is nothing to judge")
    if len({candidate.name for candidate in candidates}) < len(candidates):
        raise InputError("a candidate is named twice")
    if options.time:
        for trial in (base, *candidates):
            check_timed(trial)
    entries = judged(base, candidates, options.level)
    if options.time:
        entries = [replace(e, time_ratio=time_ratio(base, e.judgement.candidate, options.time)) for e in entries]
    show(entries, options.format)
    if options.html:
        with new_file(options.html) as file:
            file.write_text(comparison(entries))
    if options.log:
        write_log(entries)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="Git revision, DVC experiment, `workspace` or ledger:TRIAL")
    parser.add_argument("candidates", nargs="*", help="the same; those judged together share the level (Holm)")
    parser.add_argument("--level", type=share, default=0.05, help="family-wise error over all candidates of a market")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the comparison as a page, too")
    parser.add_argument("--log", action="store_true", help=f"append the entries to {paths.LOG}")
    parser.add_argument(
        "--time", type=positive, metavar="N", help="train each N times, in turns, and compare the seconds"
    )
    parser.add_argument(
        "--failed", action="append", default=[], metavar="NAME=WHY", help="a candidate that never ended"
    )
    parser.add_argument("--role", default="valid", help=argparse.SUPPRESS)
    return parser.parse_args()


def share(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} does not lie between 0 and 1")
    return value


def read_trial(name: str) -> Trial:
    """The valid series of a revision, or one that the ledger keeps."""
    if name.startswith(FROM_LEDGER):
        known = [row for row in ledger.read_ledger(paths.LEDGER) if row.trial == name.removeprefix(FROM_LEDGER)]
        if not known:
            raise InputError(f"{name}: no such trial in {paths.LEDGER}")
        return ledger.kept_trial(paths.LEDGER, known[0])
    rev = resolve(name)
    daily, params = read_at(rev, paths.DAILY), read_at(rev, paths.PARAMS)
    if daily is None or params is None:
        missing = paths.DAILY if daily is None else paths.PARAMS
        raise InputError(f"{name}: holds no {missing}; at the project's root run `dvc repro` and commit")
    rows = valid_rows(name, daily)
    try:
        knobs = YAML(typ="safe", pure=True).load(params)  # YAML 1.2 as DVC writes it: `on` is a word, 1e-05 a number
        market, horizon = market_name(knobs["data"]), knobs["evaluate"]["primary_horizon"]
        numbers = json.loads(read_at(rev, paths.EVALUATE_METRICS) or "{}").get("valid", {})
    except (KeyError, TypeError, ValueError, YAMLError) as error:
        raise InputError(f"{name}: its {paths.PARAMS} or {paths.EVALUATE_METRICS} cannot be read: {error!r}") from error
    trial = Trial(name, rev, market, horizon, rows, flat(knobs), numbers.get("stocks_per_day"))
    if not has_number(trial, "rank_ic"):
        return replace(trial, failed="no RankIC on any valid day: its scores say nothing")
    return trial


def valid_rows(name: str, daily: str) -> pl.DataFrame:
    """The rows of the valid blocks; those of `test` end here."""
    types = dict.fromkeys(("seed", "fold", "horizon"), pl.Int64) | {"date": pl.Date, "role": pl.String}
    numbers = dict.fromkeys(("rank_ic", "neutral_rank_ic", "ic", "gross", "net", "turnover"), pl.Float64)
    try:
        table = pl.read_csv(io.StringIO(daily), schema_overrides=types | numbers)
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{name}: {paths.DAILY} cannot be read ({str(error).splitlines()[0]})") from error
    if missing := [column for column in (*types, "rank_ic", "net") if column not in table.columns]:
        raise InputError(f"{name}: {paths.DAILY} has no column {missing[0]}; run `dvc repro` and commit")
    rows = table.filter(pl.col("role") == "valid").drop("role")
    if rows.is_empty():
        raise InputError(f"{name}: {paths.DAILY} has no `valid` rows, and a verdict reads no others")
    return rows


def failed_trial(base: Trial, name: str, why: str) -> Trial:
    if not name:
        raise InputError("--failed: give the candidate a name: --failed NAME=WHY")
    return Trial(name, "none", base.market, base.horizon, base.daily.clear(), {}, failed=why or "did not end")


def judged(base: Trial, candidates: list[Trial], level: float) -> list[verdict_page.Entry]:
    """Judge what is new, repeat what the ledger says of the rest, and keep both in the ledger."""
    rows = ledger.read_ledger(paths.LEDGER)
    known = {(row.trial, row.base): row for row in rows if not row.is_base}
    own = ledger.trial_name(base)
    # One series is one candidate, however often it is named.
    named = {(ledger.trial_name(candidate), own): candidate for candidate in candidates}
    new = {pair: candidate for pair, candidate in named.items() if pair not in known}
    before = ledger.seen_before(rows, base)
    found = dict(zip(new, judge(base, list(new.values()), level, before), strict=True))
    today = datetime.now(tz=UTC).date()
    ledger.add(paths.LEDGER, ledger.row_of(None, base, base, today, before, ""), base)
    said = []
    for pair, candidate in named.items():
        if pair in found:
            changes = (
                verdict_page.changed_knobs(base.params, candidate.params) if base.params and candidate.params else ""
            )
            row = ledger.row_of(found[pair], candidate, base, today, before, changes)
            ledger.add(paths.LEDGER, row, candidate)
            said.append((found[pair], row))
        else:
            row = known[pair]
            said.append((repeated(judge(base, [candidate], level, row.order)[0], row), row))
    rows = ledger.read_ledger(paths.LEDGER)
    return [
        verdict_page.Entry(
            base,
            judgement,
            None if row.verdict == "failed" else ledger.search_of(paths.LEDGER, rows, judgement.candidate),
            row.order,
            row.changes,
            is_new=(row.trial, row.base) in found,
        )
        for judgement, row in said
    ]


def repeated(judgement: Judgement, row: ledger.Row) -> Judgement:
    """A second look changes nothing: what was said stands."""
    return replace(judgement, p=row.p, level=row.level or 0.0, verdict=row.verdict, reason=row.reason, needs=row.needs)


def show(entries: list[verdict_page.Entry], form: str) -> None:
    if form == "json":
        print(json.dumps([verdict_page.as_json(entry) for entry in entries], indent=2))
        return
    if form == "markdown":
        print("\n".join(verdict_page.markdown(entry, "###") for entry in entries))
        return
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    for entry in entries:
        table = Table(*verdict_page.COLUMNS, title=verdict_page.title(entry), title_justify="left")
        for row in verdict_page.rows(entry):
            table.add_row(*row)
        if table.rows:
            console.print(table)
        else:
            console.print(verdict_page.title(entry))
        console.print(verdict_page.summary(entry), highlight=False)
        console.print("\n".join(verdict_page.facts(entry)) + "\n", highlight=False)


def write_log(entries: list[verdict_page.Entry]) -> None:
    """Append the entries to the log, and make the list of failed experiments from it again."""
    today = datetime.now(tz=UTC).date()
    old = paths.LOG.read_text() if paths.LOG.exists() else "# Log of experiments\n"
    texts = [verdict_page.markdown(replace(entry, is_new=False), when=today) for entry in entries]
    log = "\n".join([old.rstrip("\n") + "\n", *(text for text in texts if text not in old)])
    for file, text in ((paths.LOG, log), (paths.FAILED_EXPERIMENTS, verdict_page.failed_experiments(log))):
        with new_file(file) as scratch:
            scratch.write_text(text)


def check_timed(trial: Trial) -> None:
    """Refuse to time what a temporary work tree would not hold."""
    if trial.name.startswith(FROM_LEDGER):
        raise InputError(f"--time: {trial.name} is a series; give the revision it came from")
    if trial.rev == WORKSPACE and (files := untracked(Path("src"))):
        raise InputError(f"--time: {files[0]} is not tracked by Git and would be missing; `git add` it first")


def time_ratio(base: Trial, candidate: Trial, repeats: int) -> float | None:
    """Median training seconds, candidate over base, both in temporary work trees, one after the other in turns."""
    if candidate.failed:
        return None
    with checked_out(base.rev) as one, checked_out(candidate.rev) as other:
        for tree in (one, other):
            run_in(tree, "-m", "dvc", "repro", "-q", "pretrain")
        seconds: dict[Path, list[float]] = {one: [], other: []}
        for turn in range(repeats):
            for tree in (one, other) if turn % 2 == 0 else (other, one):
                start = time.perf_counter()
                run_in(tree, "src/train.py")
                seconds[tree].append(time.perf_counter() - start)
    return statistics.median(seconds[other]) / statistics.median(seconds[one])


def run_in(folder: Path, *command: str) -> None:
    result = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if result.returncode:
        last = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise InputError(f"--time: {' '.join(command)} failed: {last}")


if __name__ == "__main__":
    run_program(main)
