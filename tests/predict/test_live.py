"""Days appended to a cache are ranked as after a whole build, and as `evaluate` ranks them, to the last bit."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from atft.errors import InputError
from atft.evaluation.facts import mean_ranks
from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import AtftGatFan
from atft.panel.raw import library_features
from atft.panel.simulate import simulate_market
from atft.panel.sources import check_bars, complete
from atft.panel.store import Panel
from atft.panel.tail import Recipe
from atft.predict import live, reference
from atft.predict.checks import Warn
from atft.predict.live import History, Stages, append, cache_fingerprint, read_live
from atft.predict.scores import DayScores, Memory, data_fingerprint, model_fingerprint, scores_up_to
from atft.predict.seam import refuse_other_graph
from atft.training.checkpoint import save_weights
from atft.training.predictions import prediction_rows, score_fold
from atft.training.rankers import Manifest
from atft.training.supervised import make_encoder
from conftest import FAMILIES, GRAPH, KNOBS, world_of
from training.test_training import ARCHITECTURE

SHAPE = ARCHITECTURE | {"lookback": 5, "hidden": 8, "heads": 2}
DAYS, HIDDEN = 230, 25  # a snapshot of the graph is taken among the hidden days
RECIPE = Recipe(60, 0.0, 0.5, 5.0, "raw", 60, reach=120)
KITCHEN = Stages(RECIPE, partial(library_features, families=FAMILIES), GRAPH, "rank_gauss", "rank_gauss", 30, 5, 1)
SEEDS = [0, 1]


@dataclass(frozen=True)
class Place:
    """A cache without the last days, the whole, and models of two folds and seeds that nobody trained."""

    bars: pl.DataFrame
    cache: Panel
    snapshots: Snapshots
    whole: History
    manifest: Manifest
    models: Path
    splits: pl.DataFrame

    def append(
        self, folder: Path, bars: pl.DataFrame, history: pl.DataFrame | None = None, stages: Stages = KITCHEN
    ) -> History:
        raw = self.bars if history is None else history
        return append(folder, "cache", self.cache, self.snapshots, bars, lambda: raw, stages)

    def scores(self, history: History, number: int, days: int = 4) -> DayScores:
        """What the models say of the whole's day `number`."""
        day = self.whole.dates[number].item()
        return scores_up_to(self.manifest, self.models, history, self.splits, SEEDS, day, days, "unseen")

    def new(self, first: int = 0, last: int = HIDDEN) -> pl.DataFrame:
        """Bars of the hidden days first .. last - 1."""
        dates = self.whole.dates[DAYS - HIDDEN :]
        return self.bars.filter(pl.col("date").is_between(dates[first].item(), dates[last - 1].item()))


@pytest.fixture(scope="module", autouse=True)
def _near_anchors() -> Iterator[None]:
    """Rolling expressions start afresh shortly before the hidden days, so that appending leaves the first days out."""
    with pytest.MonkeyPatch.context() as near:
        for name, value in (("bars.ANCHOR", 200), ("tail.ANCHOR", 200), ("build.REACH", 120), ("tail.REACH", 120)):
            near.setattr(f"atft.panel.{name}", value)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, _near_anchors: None) -> Place:
    bars = complete(simulate_market(48, DAYS, "standard", 5, (1, 5), 1).bars)
    dates = bars["date"].unique().sort()
    newcomer = bars.filter(pl.col("date") == dates[-1])["code"][3]
    bars = check_bars(bars.filter((pl.col("code") != newcomer) | (pl.col("date") >= dates[-5])), "test")
    folders = [tmp_path_factory.mktemp(name) for name in ("cache", "whole", "models")]
    cache = world_of(bars.filter(pl.col("date") < dates[DAYS - HIDDEN]), folders[0])
    whole, graph = world_of(bars, folders[1])
    manifest = Manifest(
        "atft_gat_fan", SEEDS, 1, whole.feature_names, [1, 5], SHAPE | {"quantiles": []}, {"micro_batch": 0}
    )
    for fold in (0, 1):
        for seed in SEEDS:
            torch.manual_seed(10 * fold + seed)
            network = AtftGatFan(make_encoder(whole, **SHAPE), 8, 2, 0)  # pyright: ignore
            save_weights(network, folders[2] / f"fold{fold}-seed{seed}.safetensors", {})
    roles = [(0, "train", 80, 110), (0, "stop", 116, 124), (0, "valid", 130, 150), (1, "train", 80, 132),
             (1, "stop", 138, 146), (1, "test", 152, 180)]  # fmt: skip
    splits = pl.concat(pl.DataFrame({"fold": fold, "date": dates[a:b], "role": role}) for fold, role, a, b in roles)
    return Place(bars, *cache, History(whole, graph, 0, whole.dates), manifest, folders[2], splits)


@pytest.mark.parametrize("day", [133, 151, 155, 179])
def test_a_held_out_day_has_the_scores_that_evaluate_judges(place: Place, day: int) -> None:
    """Also across the blocks' border, and on a day between them, which the earlier fold never saw."""
    scores = place.scores(place.whole, day, days=8)
    folds = {130: 0, 149: 0, 150: 0, 151: 0, 152: 1, 155: 1, 179: 1}
    assert all(folds.get(int(row), scores.folds[i]) == scores.folds[i] for i, row in enumerate(scores.days))
    assert scores.days.tolist() == list(range(max(day - 7, 130), day + 1))
    judged = {}
    for seed in SEEDS:
        for fold in (0, 1):
            for part in score_fold(place.manifest, place.models, *_of(place.whole), place.splits, fold, seed):
                if part.role != "stop":
                    judged |= {(seed, int(row)): part.score[i] for i, row in enumerate(part.days)}
    for i, row in enumerate(scores.days):
        if (0, int(row)) in judged:
            both = [judged[seed, int(row)] for seed in SEEDS]
            for seed in SEEDS:
                np.testing.assert_array_equal(scores.by_seed[seed][i], both[seed])
            np.testing.assert_array_equal(scores.together[i], mean_ranks([score[None] for score in both])[0])
    assert sum((0, int(row)) in judged for row in scores.days) >= 4


def _of(history: History) -> tuple[Panel, Snapshots]:
    return history.panel, history.snapshots


def test_appended_days_are_ranked_as_after_a_whole_build(place: Place, tmp_path: Path) -> None:
    """Scores, links and the fingerprint of the data; a newcomer and a new snapshot among them."""
    found = place.append(tmp_path / "live", place.bars)
    assert found.panel.codes == place.whole.panel.codes != place.cache.codes
    assert json.loads((tmp_path / "live/tail.json").read_text())["start"] > 0
    assert found.start % SHAPE["lookback"] == 0 < found.start
    for day in (DAYS - HIDDEN, DAYS - 12, DAYS - 1):
        one, two = place.scores(found, day), place.scores(place.whole, day)
        assert one.folds == two.folds == [1] * 4
        for a, b in zip(one.by_seed, two.by_seed, strict=True):
            np.testing.assert_array_equal(a, b)
        assert data_fingerprint(found, day - found.start, 5) == data_fingerprint(place.whole, day, 5)
        for a, b in zip(found.snapshots.on(day - found.start), place.whole.snapshots.on(day), strict=True):
            np.testing.assert_array_equal(a, b)
    assert found.snapshots.as_of[-1] + found.start == place.whole.snapshots.as_of[-1] > DAYS - HIDDEN


def test_what_was_said_is_kept_for_the_same_rows_and_model(place: Place, tmp_path: Path) -> None:
    memory = Memory.of(tmp_path, place.manifest, "a model")
    day = place.whole.dates[179].item()
    ask = (place.manifest, place.models, place.whole, place.splits, SEEDS, day, 4, "unseen")
    first = scores_up_to(*ask, memory)
    files = sorted(memory.folder.iterdir())
    assert len(files) == 4 * len(SEEDS)
    for one, two in zip(first.by_seed, scores_up_to(*ask).by_seed, strict=True):
        np.testing.assert_array_equal(one, two)
    np.save(files[0], np.full((48, 2), 7, np.float32))
    assert (np.concatenate(scores_up_to(*ask, memory).by_seed) == 7).all(
        (1, 2)
    ).sum() == 1  # it is read, not asked again
    assert Memory.of(tmp_path, place.manifest, "another").folder != memory.folder


def test_days_come_in_pieces_and_twice(place: Place, tmp_path: Path) -> None:
    """One by one, overlapping, or all at once: the same bytes; once more: nothing is written."""
    place.append(tmp_path / "once", place.new())
    for first, last in ((0, 1), (0, 2), (2, HIDDEN)):
        place.append(tmp_path / "pieces", place.new(first, last))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("once", "pieces"))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "once").iterdir()}
    place.append(tmp_path / "once", place.new())
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "once").iterdir()} == before


def test_a_failed_append_leaves_what_was_there(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "live"
    place.append(folder, place.new(0, 1))
    before = {p: p.read_bytes() for p in folder.iterdir()}
    with monkeypatch.context() as broken:
        broken.setattr(live, "write_tail", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            place.append(folder, place.new(0, 2))
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["live"]
    assert place.append(folder, place.new(0, 2)).last == place.whole.dates[DAYS - HIDDEN + 1].item()


def test_bars_that_do_not_go_on_from_the_cache_are_refused(place: Place, tmp_path: Path) -> None:
    old = place.bars.filter(pl.col("date") < place.cache.dates[-1].item())
    with pytest.raises(InputError, match="is older than the cache's"):
        place.append(tmp_path / "live", old)
    doubled = place.bars.with_columns(close=pl.col("close") * 2)
    with pytest.raises(InputError, match=r"such\): if its history was restated"):
        place.append(tmp_path / "live", doubled)
    assert not (tmp_path / "live").exists()


@pytest.mark.parametrize("name", ["open", "high", "low", "close", "volume", None])
@pytest.mark.parametrize("ago", [0, 2])
def test_a_corrected_bar_of_a_known_day_is_refused(place: Place, tmp_path: Path, name: str | None, ago: int) -> None:
    """Of an appended or an earlier day, whether new days come with it or none; also a bar that was not there."""
    day, code = place.whole.dates[DAYS - HIDDEN + 2 - ago].item(), place.cache.codes[7]
    row = (pl.col("date") == day) & (pl.col("code") == code)
    right, wrong = place.bars, place.bars.filter(~row)
    if name:
        wrong = right.with_columns(pl.when(row).then(pl.col(name) * 1.001).otherwise(name).alias(name))
    folder = tmp_path / "live"
    place.append(folder, wrong.filter(pl.col("date").is_in(place.new(0, 3)["date"].unique().to_list())))
    before = {p: p.read_bytes() for p in folder.iterdir()}
    for bars in (place.new(0, 3), place.new(0, 4)):
        with pytest.raises(InputError, match=f"bars: {name or 'close'} .* of {code} on {day} was .*`dvc repro`"):
            place.append(folder, bars)
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


@pytest.mark.parametrize("name", ["close", "volume"])
def test_a_corrected_bar_of_the_cache_is_refused_before_anything_was_appended(
    place: Place, tmp_path: Path, name: str
) -> None:
    known = place.bars.filter(pl.col("date") <= place.cache.dates[-1].item())
    assert place.append(tmp_path / "live", known).last == place.cache.dates[-1].item()
    last = pl.col("date") == pl.col("date").max()
    wrong = known.with_columns(pl.when(last).then(pl.col(name) * 1.05).otherwise(name).alias(name))
    with pytest.raises(InputError, match=f"bars: {name} .* was "):
        place.append(tmp_path / "live", wrong.filter(last))
    assert not (tmp_path / "live").exists()


@pytest.mark.parametrize("name", ["tail.json", "stocks.parquet", "market.parquet", "tail.arrow"])
@pytest.mark.parametrize("content", [b"{", None])
def test_a_damaged_tail_is_one_line(place: Place, tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = tmp_path / "live"
    place.append(folder, place.new(0, 1))
    (folder / name).write_bytes(content) if content else (folder / name).unlink()
    with pytest.raises(InputError, match=f"{folder}: its tail cannot be read .*; delete it and append its days again"):
        place.append(folder, place.new(0, 2))


def test_an_appended_day_is_corrected_by_bringing_it_again(place: Place, tmp_path: Path) -> None:
    """What the error says to do: nothing of the day's first version is left."""
    folder, price = tmp_path / "live", pl.when(pl.col("code") == place.cache.codes[7]).then(1.1).otherwise(1)
    place.append(folder, place.new(0, 1).with_columns(pl.col("close", "high") * price))
    with pytest.raises(InputError, match=f"if only that bar was corrected, delete {folder} and bring its days again"):
        place.append(folder, place.new(0, 1))
    shutil.rmtree(folder)
    found = place.append(folder, place.new(0, 1))
    once = place.append(tmp_path / "once", place.new(0, 1))
    np.testing.assert_array_equal(found.panel.features[-1], once.panel.features[-1])


def test_the_same_prices_in_single_precision_are_no_correction(place: Place, tmp_path: Path) -> None:
    """A cache made of single-precision Parquet goes on with a CSV of the same bars, and back."""
    single = place.bars.with_columns(pl.col("open", "high", "low", "close", "volume").cast(pl.Float32).cast(pl.Float64))
    place.append(tmp_path / "live", place.new(0, 1))
    found = place.append(tmp_path / "live", single.filter(pl.col("date") <= place.new(0, 2)["date"].max()))
    assert found.last == place.new(0, 2)["date"].max()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda bars, code, last: bars.filter(pl.col("code") != code), "stock {code} is not in the bars behind the"),
        (lambda bars, code, last: bars.with_columns(code=pl.when(pl.col("code") == code).then(pl.lit("0")).otherwise(
            "code")), "stock {code} is not in the bars behind the cache"),
        (lambda bars, code, last: pl.concat([bars, bars.filter(pl.col("code") == code).with_columns(code=pl.lit("0"))]),
         "stock 0 is not in the cache"),
        (lambda bars, code, last: bars.filter(pl.col("date") != bars["date"].min()), "day .* is not in the bars"),
        (lambda bars, code, last: bars.with_columns(pl.col(name) * pl.when(_early(bars, code)).then(1.1).otherwise(1)
            for name in ("open", "high", "low", "close")), "daily_return of {code} on .* is .* in it .1 such"),
        (lambda bars, code, last: bars.with_columns(volume=pl.col("volume") * pl.when(_early(bars, code)).then(2)
            .otherwise(1)), "money of {code} on .* is "),
        (lambda bars, code, last: bars.with_columns(high=pl.col("high") * pl.when((pl.col("date") == last) & (
            pl.col("code") == code)).then(1.5).otherwise(1)), " of .* on {last} is "),
    ],
    ids=["a stock is gone", "a stock is renamed", "a stock is new", "the first day is gone", "prices", "volumes",
         "a high"],
)  # fmt: skip
@pytest.mark.parametrize("which", [10, -1])
def test_a_cache_of_other_bars_is_not_gone_on_from(
    place: Place, tmp_path: Path, change: Callable[[pl.DataFrame, str, object], pl.DataFrame], says: str, which: int
) -> None:
    """Stocks are found by their place: an unseen difference would hand each the history of its neighbour."""
    code, last = place.cache.codes[which], place.cache.dates[-1].item()
    history = check_bars(change(place.bars, code, last).sort("code", "date"), "test")
    with pytest.raises(InputError, match=says.format(code=code, last=last) + ".*run `dvc repro`") as refused:
        place.append(tmp_path / "live", place.new(), history)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "live").exists()


def _early(bars: pl.DataFrame, code: str) -> pl.Expr:
    """The first third of a stock's bars, long before any window of the last days."""
    return (pl.col("code") == code) & (pl.col("date") < bars["date"].unique().sort()[70])


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"method": "zscore"}, " of .* is .* in it"),
        ({"label_scale": "raw"}, "label of horizon 1 of .* is "),
        ({"recipe": replace(RECIPE, label="beta_neutral")}, "label of horizon 1 of .* is "),
        ({"recipe": replace(RECIPE, min_history=70)}, "tradable of .* is False by the bars"),
        ({"recipe": replace(RECIPE, max_daily_return=0.02, news_volume=1e9)}, "tradable of .* is False by the bars"),
        ({"make_features": partial(library_features, families=FAMILIES[1:])}, "data.families: are not those"),
        ({"builder": replace(GRAPH, neighbors=7)}, "graph: the links as of .* are not those of data/graph"),
        ({"builder": replace(GRAPH, every=10)}, "graph: the links as of the calendar are not those of data/graph"),
    ],
)
def test_a_cache_of_other_knobs_is_not_gone_on_from(
    place: Place, tmp_path: Path, knobs: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says + ".*run `dvc repro`"):
        place.append(tmp_path / "live", place.new(), stages=replace(KITCHEN, **knobs))
    assert not (tmp_path / "live").exists()


def test_what_was_appended_belongs_to_one_cache(place: Place, tmp_path: Path) -> None:
    place.append(tmp_path / "live", place.new(0, 1))
    assert read_live(tmp_path / "live", "cache", place.cache) is not None
    assert read_live(tmp_path / "live", "another", place.cache) is None
    name = cache_fingerprint(place.cache, place.snapshots, {"label": "raw"}, KITCHEN)
    assert name == cache_fingerprint(place.cache, place.snapshots, {"label": "raw"}, replace(KITCHEN, threads=2))
    assert name != cache_fingerprint(place.cache, place.snapshots, {"label": "beta_neutral"}, KITCHEN)
    assert name != cache_fingerprint(*_of(place.whole), {"label": "raw"}, KITCHEN)


@pytest.mark.parametrize("knobs", [{"lookback": 12}, {"need": 130}])
def test_another_lookback_or_book_begins_anew(place: Place, tmp_path: Path, knobs: dict[str, int]) -> None:
    """The panel begins on an anchor of the lookback, as many days before the cache's last one as the books need."""
    place.append(tmp_path / "live", place.bars)
    stages = replace(KITCHEN, **knobs)
    name = cache_fingerprint(place.cache, place.snapshots, {}, stages)
    assert name != cache_fingerprint(place.cache, place.snapshots, {}, KITCHEN)
    found = append(tmp_path / "live", name, place.cache, place.snapshots, place.bars, lambda: place.bars, stages)
    assert found.start % stages.lookback == 0
    assert found.start <= len(place.cache.dates) - stages.need


def test_a_graph_of_another_cache_is_refused(place: Place) -> None:
    refuse_other_graph(place.snapshots, place.cache)
    fewer, shorter = replace(place.cache, codes=place.cache.codes[:-2]), place.cache.part(0, 150)
    for other in (fewer, shorter, replace(place.cache, sector_names=["unknown"], industry_names=[])):
        with pytest.raises(InputError, match=r"data/graph: is of .* it was made of another cache; run `dvc repro`"):
            refuse_other_graph(place.snapshots, other)


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda rows: rows, ["drift"]),
        (lambda rows: rows.filter(pl.col("seed") > 1), ["reference"]),
        (lambda rows: rows.filter(pl.col("fold") != 1), ["reference"]),
        (lambda rows: rows.with_columns(horizon=pl.col("horizon").replace(5, 20)), ["reference"]),
        (lambda rows: rows.with_columns(seed=1 - pl.col("seed")), ["reference"]),
        (lambda rows: rows.with_columns(code="x" + pl.col("code")), ["reference"]),
        (lambda rows: rows.with_columns(score=-pl.col("score")), ["reference"]),
    ],
    ids=["its own", "no seeds", "no fold", "horizons", "seeds", "stocks", "another model"],
)
def test_drift_is_looked_at_against_scores_of_the_same_model(
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[pl.DataFrame], pl.DataFrame],
    kinds: list[str],
) -> None:
    """And `reference` says so where the file has none: its last stop day must be what the model says of it now."""
    whole, file = place.whole, tmp_path / "predictions.parquet"
    scores = []
    for fold, seed in ((0, 0), (0, 1), (1, 0), (1, 1)):
        scores += score_fold(place.manifest, place.models, *_of(whole), place.splits, fold, seed)
    change(prediction_rows(scores, whole.panel, [])).write_parquet(file)
    monkeypatch.setattr(reference, "drifted", lambda known, *_: [Warn("drift", str(np.isfinite(known).any((1, 2))))])
    asked = place.scores(whole, 179)
    found = reference.drift(file, place.manifest, place.models, whole, place.splits, asked, SEEDS, 10, 200)
    assert sorted({warn.kind for warn in found}) == kinds
    if kinds == ["reference"]:
        assert len(found) == 1
        assert f"{file} does not hold what this model and cache give on " in found[0].text
    else:
        assert [warn.text for warn in found] == [str(np.ones(8, bool))] * len(SEEDS)


def test_other_weights_are_another_model(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = model_fingerprint(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    assert len({first, model_fingerprint(tmp_path), model_fingerprint(place.models)}) == 3


assert KNOBS["beta_days"] == RECIPE.beta_days
