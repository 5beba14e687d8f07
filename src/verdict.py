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
from typing import Any

import polars as pl
import yaml
from rich.console import Console
from rich.table import Table

from atft import paths
from atft.errors import InputError
from atft.evaluation import ledger, verdict_page
from atft.evaluation.verdict import Judgement, Trial, has_series, judge
from atft.program import new_file, run_program
from atft.revisions import checked_out, read_at, resolve

FROM_LEDGER = "ledger:"


def main() -> None:
    options = arguments()
    if options.role != "valid":
        raise InputError("--role: a verdict reads `valid` alone; `test` is looked at once, when all is decided")
    base, *candidates = (read_trial(name) for name in (options.base, *options.candidates))
    candidates += [failed_trial(base, *text.partition("=")[::2]) for text in options.failed]
    if not candidates:
        raise InputError("no candidate given: python src/verdict.py BASE CANDIDATE...")
    entries = judged(base, candidates, options.level)
    if options.time:
        entries = [replace(e, time_ratio=time_ratio(base, e.judgement.candidate, options.time)) for e in entries]
    show(entries, options.format)
    if options.log:
        write_log(entries)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="Git revision, DVC experiment, `workspace` or ledger:TRIAL")
    parser.add_argument("candidates", nargs="*", help="the same; those judged together share the level (Holm)")
    parser.add_argument("--level", type=float, default=0.05, help="family-wise error over all candidates of a market")
    parser.add_argument("--format", choices=("table", "markdown", "json"), default="table")
    parser.add_argument("--log", action="store_true", help=f"append the entries to {paths.LOG}")
    parser.add_argument("--time", type=int, metavar="N", help="train each N times, in turns, and compare the seconds")
    parser.add_argument(
        "--failed", action="append", default=[], metavar="NAME=WHY", help="a candidate that never ended"
    )
    parser.add_argument("--role", default="valid", help=argparse.SUPPRESS)
    return parser.parse_args()


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
        raise InputError(
            f"{name}: holds no {paths.DAILY if daily is None else paths.PARAMS}; run `dvc repro` and commit"
        )
    # Rows of `test` end here.
    rows = pl.read_csv(io.StringIO(daily), try_parse_dates=True).filter(pl.col("role") == "valid").drop("role")
    if rows.is_empty():
        raise InputError(f"{name}: {paths.DAILY} has no `valid` rows, and a verdict reads no others")
    knobs = yaml.safe_load(params)
    numbers = json.loads(read_at(rev, paths.EVALUATE_METRICS) or "{}").get("valid", {})
    return Trial(
        name=name,
        rev=rev,
        market=market_name(knobs["data"]),
        horizon=knobs["evaluate"]["primary_horizon"],
        daily=rows,
        params=flat(knobs),
        stocks=numbers.get("stocks_per_day"),
        failed=None if has_series(rows) else "no RankIC on any valid day: its scores say nothing",
    )


def failed_trial(base: Trial, name: str, why: str) -> Trial:
    return Trial(name, "none", base.market, base.horizon, base.daily.clear(), {}, failed=why or "did not end")


def market_name(data: dict[str, Any]) -> str:
    """What was traded, whatever features were made of it."""
    if data["source"] != "simulated":
        return f"{data['source']} {data[data['source']]['path']}"
    world = data["simulated"]
    return f"simulated {world['market']} {world['seed']}, {world['stocks']} x {world['days']}"


def flat(knobs: dict[str, Any], above: str = "") -> dict[str, object]:
    """Nested sections as section.knob -> value."""
    out: dict[str, object] = {}
    for name, value in knobs.items():
        out |= flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return out


def judged(base: Trial, candidates: list[Trial], level: float) -> list[verdict_page.Entry]:
    """Judge what is new, repeat what the ledger says of the rest, and keep both in the ledger."""
    rows = ledger.read_ledger(paths.LEDGER)
    known = {(row.trial, row.base): row for row in rows if not row.is_base}
    pair = {c.name: (ledger.trial_name(c), ledger.trial_name(base)) for c in candidates}
    new = [c for c in candidates if pair[c.name] not in known]
    before = ledger.seen_before(rows, base)
    found = {j.candidate.name: j for j in judge(base, new, ledger.spend(level, before, max(len(new), 1)))}
    today = datetime.now(tz=UTC).date()
    ledger.add(paths.LEDGER, ledger.row_of(None, base, base, today, before, 0, ""), base)
    said = []
    for candidate in candidates:
        row = known.get(pair[candidate.name])
        if row is None:
            judgement = found[candidate.name]
            changes = (
                verdict_page.changed_knobs(base.params, candidate.params) if base.params and candidate.params else ""
            )
            row = ledger.row_of(judgement, candidate, base, today, before, len(new), changes)
            ledger.add(paths.LEDGER, row, candidate)
        else:
            judgement = repeated(judge(base, [candidate], row.level or 0.0)[0], row)
        said.append((judgement, row))
    rows = ledger.read_ledger(paths.LEDGER)
    return [
        verdict_page.Entry(
            base,
            judgement,
            None if row.verdict == "failed" else ledger.search_of(paths.LEDGER, rows, judgement.candidate),
            row.order,
            row.changes,
        )
        for judgement, row in said
    ]


def repeated(judgement: Judgement, row: ledger.Row) -> Judgement:
    """A second look changes nothing: what was said stands."""
    return replace(judgement, p=row.p, level=row.level or 0.0, verdict=row.verdict, reason=row.reason)


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
    log = "\n".join([old.rstrip("\n") + "\n", *(verdict_page.markdown(entry, when=today) for entry in entries)])
    for file, text in ((paths.LOG, log), (paths.FAILED_EXPERIMENTS, verdict_page.failed_experiments(log))):
        with new_file(file) as scratch:
            scratch.write_text(text)


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
