"""Tomorrow's ranks: scores of the latest or another day from the trained or pulled model, and what to trade on them."""

import argparse
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl

from atft import paths
from atft.config import Params, load_params
from atft.errors import InputError
from atft.evaluation.facts import Rules
from atft.graph.snapshots import HierarchicalGraphBuilder, read_snapshots
from atft.panel.sources import bars_of, has_files, load_bars
from atft.panel.store import read_panel, read_splits
from atft.panel.tail import Recipe
from atft.predict import checks
from atft.predict.book import EXPOSURE, orders
from atft.predict.card import model_card
from atft.predict.live import History, Stages, append, cache_fingerprint, read_live
from atft.predict.output import cost_of, ranks, show, write
from atft.predict.policy import LEARNED, age, learned_until, seeds_of
from atft.predict.reference import drift
from atft.predict.scores import DayScores, Memory, data_fingerprint, model_fingerprint, scores_up_to
from atft.predict.seam import refuse_other_graph
from atft.program import new_file, pin_threads, run_program
from atft.training.rankers import Manifest, read_manifest
from cache import feature_maker, read_source


def main() -> None:
    options = arguments()
    params = load_params()
    if options.card:
        cache, splits = read_panel(paths.CACHE), read_splits(paths.CACHE)
        knobs = params.model_dump(mode="json")
        with new_file(paths.MODEL_CARD) as file:
            file.write_text(model_card(knobs, paths.METRICS, len(cache.codes), cache.dates, splits))
        return
    cache, snapshots = read_panel(paths.CACHE), read_snapshots(paths.GRAPH)
    refuse_other_graph(snapshots, cache)
    manifest = read_manifest(paths.RANKER, cache)
    if params.evaluate.primary_horizon not in manifest.horizons:
        raise InputError(
            f"params.yaml: evaluate.primary_horizon {params.evaluate.primary_horizon} is none of the model's horizons "
            f"({', '.join(map(str, manifest.horizons))}); run `dvc repro`"
        )
    pin_threads(manifest.threads)
    cached = History(cache, snapshots, 0, cache.dates)
    history = history_of(params, manifest, cached, options.data, options.date)
    day = options.date or history.last
    row = int(np.searchsorted(history.panel.dates, np.datetime64(day)))
    if row == len(history.panel.dates) or history.panel.dates[row] != np.datetime64(day):
        raise InputError(f"--date {day}: no bars of that day; the last one with bars is {history.last}")
    splits = read_splits(paths.CACHE)
    seeds = seeds_of(manifest.seeds, params.predict.seeds)
    model = model_fingerprint(paths.RANKER)
    memory = Memory.of(paths.SCORE_MEMORY, manifest, model)
    policy = params.predict
    scores = scores_up_to(manifest, paths.RANKER, history, splits, seeds, day, policy.book_days, policy.fold, memory)
    rules = Rules(**dict(params.evaluate))
    h = manifest.horizons.index(rules.primary_horizon)
    score = np.ascontiguousarray(scores.together[:, :, h])
    books = {
        name: orders(history.panel, scores.days, score, rules, long_only=name == "long_only")
        for name in ("long_short", "long_only")
    }
    found = warnings_about(params, manifest, history, cached, splits, scores, seeds, day, options.date is None, memory)
    facts = {
        "date": str(day),
        "fold": scores.folds[-1],
        "seeds": seeds,
        "model": model,
        "data": data_fingerprint(history, row, manifest.architecture["lookback"]),
        "warnings": [{"kind": warn.kind, "text": warn.text} for warn in found],
        **{name: cost_of(book, rules.cost_bps) for name, book in books.items()},
    }
    table = ranks(history.panel, row, scores, score[-1], books)
    if options.output:
        write(options.output, table, facts)
    show(table, facts, rules)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--date", type=day_of, help="YYYY-MM-DD, a day with bars; the last one if left out")
    parser.add_argument("--data", type=Path, metavar="PATH", help="new bars: a file, or a folder, as data.file of "
                        "params.yaml describes them; data/raw if left out")  # fmt: skip
    parser.add_argument("--output", type=output, metavar="FILE", help="write the ranks to FILE.parquet or FILE.csv, "
                        "and what they rest on to FILE.json beside it")  # fmt: skip
    parser.add_argument("--card", action="store_true", help=f"write {paths.MODEL_CARD} anew, and nothing else")
    return parser.parse_args()


def day_of(text: str) -> date:
    return date.fromisoformat(text)


def output(text: str) -> Path:
    if Path(text).suffix not in (".parquet", ".csv"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .parquet or .csv")
    return Path(text)


# --- what is known -------------------------------------------------------------------------------


def history_of(params: Params, manifest: Manifest, cached: History, data: Path | None, day: date | None) -> History:
    """Panel and graph up to the last day with bars, or the cache's where the day lies in it."""
    cache, snapshots = cached.panel, cached.snapshots
    knobs = params.data.model_dump(mode="json") | {"graph": params.graph.model_dump(mode="json")}
    stages = stages_of(params, manifest)
    name = cache_fingerprint(cache, snapshots, knobs, stages)
    bars = new_bars(params, data, cached.last, day)
    if bars is not None:
        found = append(paths.LIVE, name, cache, snapshots, bars, lambda: read_source(params.data)[0], stages)
    else:
        found = read_live(paths.LIVE, name, cache) or cached
    return found if day is None or day > cached.last else cached


def new_bars(params: Params, data: Path | None, last: date, day: date | None) -> pl.DataFrame | None:
    """Bars that may hold days after the cache's last one; None where there is nowhere to look for any."""
    file = params.data.file
    if data is not None:
        if params.data.source == "table":
            raise InputError(
                "--data: features of a table cannot be appended; put its rows into data/raw, run `dvc repro`"
            )
        if not data.exists():
            raise InputError(f"--data: {data} is not there; name a file, or a folder, of bars")
        return bars_of(data, file.path, file.columns, file.sectors)
    there = params.data.source == "file" and has_files(paths.RAW, file.path)
    if not there or (day is not None and day <= last):
        return None
    bars = load_bars(paths.RAW, file.path, file.columns, file.sectors, since=last)
    return None if bars.filter(pl.col("date") > last).is_empty() else bars


def stages_of(params: Params, manifest: Manifest) -> Stages:
    data, lookback = params.data, manifest.architecture["lookback"]
    span = data.delay + max(data.horizons)
    recipe = Recipe(
        min_history=data.min_history,
        min_dollar_volume=data.min_dollar_volume,
        max_daily_return=data.max_daily_return,
        news_volume=data.news_volume,
        label=data.label,
        beta_days=data.beta_days,
        reach=max(params.graph.window, span),
    )
    return Stages(
        recipe,
        feature_maker(data),
        HierarchicalGraphBuilder(**dict(params.graph)),
        data.label_scale,
        data.standardize,
        need=params.predict.book_days + max(2 * lookback, EXPOSURE),
        lookback=lookback,
        threads=params.threads,
    )


def warnings_about(
    params: Params,
    manifest: Manifest,
    history: History,
    cached: History,
    splits: pl.DataFrame,
    scores: DayScores,
    seeds: Sequence[int],
    day: date,
    is_latest: bool,
    memory: Memory,
) -> list[checks.Warn]:
    """Every warning about the day's scores."""
    policy, fold, panel, row = params.predict, scores.folds[-1], history.panel, int(scores.days[-1])
    cache = cached.panel
    learned = learned_until(splits, fold, day)
    rows = splits.filter((pl.col("fold") == fold) & pl.col("role").is_in(LEARNED) & (pl.col("date") <= day))
    then = int(np.searchsorted(cache.dates, np.datetime64(learned)))
    codes = np.asarray(cache.codes)[cache.tradable[then]], np.asarray(panel.codes)[panel.tradable[row]]
    found = checks.stale(history.last, datetime.now(tz=UTC).date(), policy.stale_after) if is_latest else []
    found += checks.gap(history.dates, len(cache.dates), policy.stale_after)
    found += checks.old_model(age(history.dates, learned, day), learned, fold, policy.retrain_after)
    found += checks.universe_changed(codes[0].tolist(), codes[1].tolist(), learned, policy.universe_change)
    found += checks.out_of_range(panel, row, cache, cache.positions(rows["date"]), policy.unknown_share)
    bins, draws = params.evaluate.psi_bins, params.evaluate.bootstrap
    return found + drift(paths.PREDICTIONS, manifest, paths.RANKER, cached, splits, scores, seeds, bins, draws, memory)


if __name__ == "__main__":
    run_program(main, memory="set train.micro_batch or lower model.lookback, and train again")
