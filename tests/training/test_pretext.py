"""Pretext tasks: what they hide, that they cannot be solved by cheating, and what their encoders are worth."""

import datetime as dt
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor, nn

from atft.config import ONE_DAY
from atft.errors import InputError
from atft.model.atft_gat_fan import Encoder
from atft.panel.store import Panel
from atft.training.blocks import Source
from atft.training.history import pretraining_summary
from atft.training.pretext.contrastive import Contrastive, Views, geometry, states, view, views
from atft.training.pretext.fitting import pretrain
from atft.training.pretext.masked import Masked, guesses
from atft.training.pretext.probe import probe
from atft.training.pretext.targets import beta_before, residual_target
from atft.training.supervised import make_encoder
from conftest import World, panel_of
from training.test_training import ARCHITECTURE, PRETEXT, network_of, source_of

TASKS = ("masked", "contrastive", "both")
TRAIN = range(70, 130)
LAGS = (5, 10, 20)


def encoder_of(panel: Panel, **shape: Any) -> Encoder:
    torch.manual_seed(0)
    return make_encoder(panel, **ARCHITECTURE | shape)  # pyright: ignore


def columns_of(panel: Panel) -> list[int]:
    return [panel.feature_names.index(name) for name in PRETEXT["channels"]]


def weights_after(world: World, panel: Panel | None = None, **changes: Any) -> tuple[Tensor, list[dict[str, float]]]:
    encoder = network_of(world).encoder
    history = pretrain(encoder, panel or world.panel, world.snapshots, TRAIN, **PRETEXT | {"epochs": 1} | changes)
    return torch.cat([p.detach().flatten() for p in encoder.parameters()]), history


# --- the fold's training dates, and nothing else ---------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("target", ["sector_neutral", "sector_beta_neutral"])
def test_held_out_dates_never_reach_an_encoder(world: World, task: str, target: str) -> None:
    features, returns = world.panel.features.copy(), world.panel.daily_return.copy()
    features[130:], returns[130:] = np.nan, np.nan
    poisoned = replace(world.panel, features=features, daily_return=returns, label=world.panel.label * np.nan,
                       forward_return=world.panel.forward_return * np.nan)  # fmt: skip
    clean, told = weights_after(world, task=task, target=target)
    weights, same = weights_after(world, poisoned, task=task, target=target)
    assert torch.isfinite(weights).all()
    assert torch.equal(weights, clean)
    assert json.dumps(same) == json.dumps(told)


def test_masked_pretraining_learns(world: World) -> None:
    _, history = weights_after(world, epochs=4)
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[0]["loss"] == pytest.approx(history[0]["masked_loss"], rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "contrastive"},
        {"task": "both"},
        {"task": "none"},
        {"target": "beta_neutral"},
        {"target": "sector_beta_neutral"},
        {"mask_share": 0.3},
        {"lags": [5], "task": "contrastive"},
        {"lags": [9, 10], "task": "contrastive"},
        {"channels": ["return_1", "volume_change_1", "close_location"], "task": "contrastive"},
        {"temperature": 0.5, "task": "contrastive"},
        {"contrastive_weight": 0.1, "task": "both"},
        {"epochs": 2},
        {"day_share": 0.5},
        {"lr": 0.001},
        {"days_per_step": 5},
        {"accumulate": 2},
    ],
    ids=lambda changes: ",".join(f"{name}={value}" for name, value in changes.items()),
)
def test_every_knob_changes_the_encoder(world: World, changes: dict[str, Any]) -> None:
    base = {"task": changes["task"]} if len(changes) > 1 else {}
    before, after = (weights_after(world, **knobs)[0] for knobs in (base, changes))
    assert torch.isfinite(after).all()
    assert (after - before).abs().max() > 1e-5


def test_stocks_in_parts_change_no_loss(world: World) -> None:
    still = {"dropout": 0.0, "attention_dropout": 0.0, "stochastic_depth": 0.0}
    for task in TASKS:
        losses = []
        for size in (0, 7):
            encoder, knobs = network_of(world, **still).encoder, {"task": task, "epochs": 1, "micro_batch": size}
            losses.append(pretrain(encoder, world.panel, world.snapshots, TRAIN, **PRETEXT | knobs)[0]["loss"])
        assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_an_encoder_without_a_task_stays_as_it_is(world: World) -> None:
    initial = torch.cat([p.detach().flatten() for p in network_of(world).encoder.parameters()])
    for changes in ({"task": "none", "epochs": 3}, {"task": "both", "epochs": 0}):
        weights, history = weights_after(world, **changes)
        assert torch.equal(weights, initial)
        assert history == []


def test_contrast_leaves_the_graph_as_it_came(world: World) -> None:
    encoder, before = network_of(world).encoder, network_of(world).encoder.state_dict()
    pretrain(encoder, world.panel, world.snapshots, TRAIN, **PRETEXT | {"task": "contrastive", "epochs": 1})
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("graph."), name


# --- masked ----------------------------------------------------------------------------------------


def test_the_pretext_target_has_no_market_and_no_sector(world: World) -> None:
    target = residual_target(world.panel, 120, "sector_neutral")
    known = np.isfinite(target)
    assert np.array_equal(known, world.panel.tradable[120])
    assert target[known].std() == pytest.approx(1, abs=0.15)
    for sector in np.unique(world.panel.sector[120][known]):
        mates = known & (world.panel.sector[120] == sector)
        assert abs(target[mates].mean()) < 0.1 or mates.sum() == 1


def test_the_beta_neutral_target_has_no_beta(world: World) -> None:
    """Where returns are beta times the market and a little noise, what is left does not order stocks by beta."""
    rng, shape = np.random.default_rng(0), world.panel.daily_return.shape
    beta = rng.uniform(0.2, 2.0, shape[1])
    returns = 0.02 * rng.normal(size=(shape[0], 1)) * beta + 0.002 * rng.normal(size=shape)
    panel = replace(world.panel, daily_return=np.where(world.panel.has_bar, returns, 0.0).astype(np.float32))
    here = panel.tradable[150]
    before = beta_before(panel, 150)
    np.testing.assert_allclose(before[here], beta[here] / beta[panel.tradable[120]].mean(), atol=0.1)

    def pull(kind: str) -> float:
        days = range(130, 160)
        targets = [(beta[panel.tradable[day]], residual_target(panel, day, kind)[panel.tradable[day]]) for day in days]  # pyright: ignore
        return float(np.mean([abs(np.corrcoef(b, t)[0, 1]) for b, t in targets]))

    assert pull("sector_neutral") > 0.7
    assert max(pull("beta_neutral"), pull("sector_beta_neutral")) < 0.4


def test_a_beta_is_of_the_days_before(world: World) -> None:
    returns = world.panel.daily_return.copy()
    returns[120:], returns[:60] = np.nan, np.nan
    panel = replace(world.panel, daily_return=returns)
    np.testing.assert_array_equal(beta_before(panel, 120), beta_before(world.panel, 120))
    assert np.isfinite(beta_before(panel, 120)[panel.tradable[119]]).all()


def test_a_hidden_stock_shows_nothing_of_its_day(world: World) -> None:
    """With the day's features of all hidden stocks changed, and every feature relative to groups, the loss stays."""
    panel, days, seen = world.panel, [110, 111, 112], []
    torch.manual_seed(3)
    draws = torch.rand(3, 48).numpy() < 0.15
    features = panel.features.copy()
    relative = [i for i, name in enumerate(panel.feature_names) if name.endswith(("_in_sector", "_in_industry"))]
    assert relative
    features[:, :, relative] = 9.0
    features[days[0] : days[-1] + 1][draws] = 7.0
    for one in (panel, replace(panel, features=features)):
        source = source_of(world, one)
        torch.manual_seed(1)
        head = nn.Linear(16, 1)
        part = Masked(network_of(world).encoder.eval(), head, source, "sector_neutral", 0.15)
        torch.manual_seed(3)
        seen.append(part.loss(source.block(days)).item())
    assert seen[0] == seen[1]


def test_simple_guesses_by_hand(world: World) -> None:
    """Two days of four stocks in sectors 1 1 1 0, the first stock hidden; it hears the second and the third."""
    links = torch.tensor([[1, 2, 0, 5, 9], [0, 0, 0, 4, 0]])  # its own loop, day 2's link, a virtual node
    block = replace(source_of(world).block([110, 111]), edge_index=links)
    target = torch.tensor([[9.0, 1.0, 3.0, -5.0], [9.0, 2.0, torch.nan, 4.0]])
    hidden = torch.tensor([[True, False, False, False], [True, False, False, False]])
    found = guesses(block, target, hidden, torch.tensor([[1, 1, 1, 0], [1, 1, 1, 0]]))
    assert found["sector"].tolist() == [[2, 2, 2, 0], [2, 2, 2, 0]]
    assert found["neighbor"].tolist() == [[2, 0, 0, 0], [2, 0, 0, 0]]


def test_baselines_stand_beside_the_loss(world: World) -> None:
    """Neighbours of the simulated market move together beyond their sector: their mean, scaled, beats zero."""
    _, (row,) = weights_after(world, mask_share=0.5, target="beta_neutral")
    assert 0.7 < row["zero_loss"] < 1.2
    for name in ("sector", "neighbor"):
        assert row[f"{name}_scaled_loss"] <= min(row[f"{name}_loss"], row["zero_loss"]) + 1e-9
        assert row[f"{name}_scaled_loss"] < row["zero_loss"]
    assert row["masked_loss"] > 0


# --- contrastive: it cannot be solved by copying ---------------------------------------------------


def white_noise(stocks: int = 100, days: int = 150) -> pl.DataFrame:
    """Bars whose returns, ranges and volumes are independent from day to day; stocks differ in their usual size."""
    rng, shape = np.random.default_rng(0), (days, stocks)
    sigma = rng.uniform(0.005, 0.04, stocks)
    close = 100 * np.exp((rng.normal(size=shape) * sigma).cumsum(0))
    first = close * np.exp(rng.normal(size=shape) * sigma / 2)
    reach = np.exp(np.abs(rng.normal(size=(2, *shape))) * sigma / 2)
    volume = np.exp(10 + 2 * rng.normal(size=stocks) + 0.5 * rng.normal(size=shape))
    prices = {"open": first, "high": np.maximum(close, first) * reach[0], "low": np.minimum(close, first) / reach[1]}
    date = pl.date_range(dt.date(2015, 1, 1), dt.date(2015, 1, 1) + dt.timedelta(days - 1), eager=True)
    return pl.DataFrame(
        {
            "date": date.to_numpy().repeat(stocks),
            "code": [f"S{i:03d}" for i in range(stocks)] * days,
            "sector": [f"sector {i % 5}" for i in range(stocks)] * days,
            **{name: values.ravel() for name, values in (prices | {"close": close, "volume": volume}).items()},
        }
    ).with_columns(pl.col("date").cast(pl.Date))


@pytest.fixture(scope="module")
def noise() -> Panel:
    return panel_of(white_noise(), families=["momentum", "shape", "volatility", "volume"])


def pooled(encoder: Encoder, found: Views) -> Sequence[Tensor]:
    """Mean of an untrained LSTM's states over the window: a copyist sees more in it than in the last day's."""
    rows = torch.cat([found.later, found.earlier], 1)
    return encoder.temporal.lstm(encoder.selection(rows)[0])[0].mean(0).chunk(2)


def retrieval(panel: Panel, look: Callable[[Source, int], Views], readout: Callable[..., Any] = states) -> float:
    """How many times chance an untrained encoder finds the same stock, over 45 days."""
    encoder = encoder_of(panel, lookback=20).eval()
    source = Source(panel, None, 20, torch.device("cpu"))  # pyright: ignore
    with torch.inference_mode():
        rows = [
            geometry(*readout(encoder, found), found.others) for found in (look(source, d) for d in range(104, 149))
        ]
    return float(np.mean([row["retrieval"] for row in rows]) / np.mean([row["chance"] for row in rows]))


@pytest.mark.parametrize("readout", [states, pooled])
@pytest.mark.parametrize("lag", LAGS)
def test_white_noise_prices_are_not_recognised(noise: Panel, lag: int, readout: Callable[..., Any]) -> None:
    """Prices through the real feature code: what is not there cannot be found, so nothing but copying would."""
    assert retrieval(noise, lambda source, day: views(source, day, lag, columns_of(noise)), readout) < 2


def everything(source: Source, day: int, lag: int) -> Views:
    """The windows of all features, as the network sees them."""
    later, earlier = (source.rows(last - 19, last + 1) for last in (day, day - lag))
    return Views(later, earlier, views(source, day, 5, [0]).others)


def overlapping(source: Source, day: int, lag: int) -> Views:
    """Windows of the right channels that share 20 - lag days."""
    columns = columns_of(source.panel)
    parts = [source.rows(last - 19, last + 1)[..., columns] for last in (day, day - lag)]
    later, earlier = (view(part, columns, len(source.panel.feature_names), 20) for part in parts)
    return Views(later, earlier, views(source, day, 5, [0]).others)


def undemeaned(source: Source, day: int, lag: int) -> Views:
    """The right views with their usual level and size left in."""
    columns, rows = columns_of(source.panel), source.rows(day - 2 * lag + 2, day + 1)
    shown = []
    for part in (rows[lag:], rows[: lag - 1]):
        out = torch.full((20, *part.shape[1:]), torch.nan)
        out[1 - lag :, :, columns] = part[..., columns]
        shown.append(out)
    return Views(*shown, views(source, day, 5, [0]).others)


def test_that_test_can_see_red(noise: Panel) -> None:
    """The same readouts on the same noise, where views share days, or show what a stock is like."""
    assert retrieval(noise, lambda source, day: everything(source, day, 5)) > 10
    assert retrieval(noise, lambda source, day: everything(source, day, 5), pooled) > 10
    assert retrieval(noise, lambda source, day: overlapping(source, day, 1), pooled) > 10
    assert retrieval(noise, lambda source, day: undemeaned(source, day, 20), pooled) > 2.5


def test_two_views_share_no_raw_day(world: World) -> None:
    """Other prices and volumes of the later days leave the earlier view alone, and the other way round."""
    day, lag = 150, 5
    bars, split = world.market.bars, world.panel.dates[day - lag].item()
    rng = np.random.default_rng(0)
    other = pl.Series(np.exp(rng.normal(0, 0.01, len(bars))))

    def shown(changed: pl.Expr | None) -> Views:
        prices = ("open", "high", "low", "close", "volume")
        moved = [] if changed is None else [pl.when(changed).then(pl.col(n) * other).otherwise(pl.col(n)).alias(n) for n in prices]  # noqa: E501  # fmt: skip
        panel = panel_of(bars.with_columns(moved))
        return views(source_of(world, panel), day, lag, columns_of(panel))

    plain, late, early = shown(None), shown(pl.col("date") > split), shown(pl.col("date") <= split)
    assert plain.later.shape[1] > 20
    torch.testing.assert_close(late.earlier, plain.earlier, rtol=0, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(early.later, plain.later, rtol=0, atol=1e-6, equal_nan=True)
    assert (late.later - plain.later).nan_to_num().abs().max() > 0.1
    assert (early.earlier - plain.earlier).nan_to_num().abs().max() > 0.1


def test_channels_look_at_two_days_alone(world: World) -> None:
    """Other prices and volumes up to the day before yesterday leave every one of them as it is, but for rounding."""
    day, bars = 150, world.market.bars
    families = ["momentum", "shape", "volatility", "volume", "alpha158"]
    noise = pl.Series(np.exp(np.random.default_rng(0).normal(0, 0.01, len(bars))))
    past = pl.col("date") <= world.panel.dates[day - 2].item()
    prices = ("open", "high", "low", "close", "volume")
    moved = bars.with_columns(pl.when(past).then(pl.col(n) * noise).otherwise(pl.col(n)).alias(n) for n in prices)
    one, two = (panel_of(some, families) for some in (bars, moved))
    known = one.has_bar[day - 1] & one.tradable[day]
    off = np.abs(np.nan_to_num(one.features[day][known]) - np.nan_to_num(two.features[day][known])).max(0)
    moves = dict(zip(one.feature_names, off, strict=True))
    assert set(moves) >= ONE_DAY
    assert max(moves[name] for name in ONE_DAY) < 1e-6
    assert min(moves[name] for name in ("return_2", "return_5", "distance_to_high_20")) > 0.01


def test_a_view_shows_its_channels_without_level_and_size() -> None:
    rows = torch.randn(4, 6, 2, generator=torch.Generator().manual_seed(0)) * 3 + 5
    rows[:, 0, 1] = 0.7  # a constant: nothing to show
    found = view(rows, [1, 3], 5, 10)
    assert found.shape == (10, 6, 5)
    assert torch.isnan(found[:6]).all()
    assert torch.isnan(found[:, :, [0, 2, 4]]).all()
    shown = found[6:][:, :, [1, 3]]
    assert (shown[:, 0, 1] == 0).all()
    torch.testing.assert_close(shown.mean(0), torch.zeros(6, 2), rtol=0, atol=1e-5)
    torch.testing.assert_close(shown[:, 1:].square().mean(0), torch.ones(5, 2))


def test_whom_a_stock_is_told_from(world: World) -> None:
    """Itself, and those of other sectors; a stock that misses a bar or a channel takes no part."""
    day, columns = 120, columns_of(world.panel)
    sector, bars, features = (getattr(world.panel, n).copy() for n in ("sector", "has_bar", "features"))
    first = views(source_of(world), day, 5, columns)
    known = np.flatnonzero(np.isfinite(features[day - 8 : day + 1][:, :, columns]).all((0, 2)))
    sector[day], bars[day - 9, known[0]], features[day - 8, known[1], columns[2]] = 1, False, np.nan
    sector[day, known[2:4]] = 0, 2
    panel = replace(world.panel, sector=sector, has_bar=bars, features=features)
    found = views(source_of(world, panel), day, 5, columns)
    assert len(found.others) == len(first.others) - 2
    assert found.others.diagonal().all()
    assert found.others[0].all()
    assert found.others[1].all()
    assert found.others[2].sum() == 3


def test_nobody_to_ask_is_an_error_and_a_name_that_is_no_feature_too(world: World) -> None:
    features = world.panel.features.copy()
    features[:, :, columns_of(world.panel)[1]] = np.nan
    with pytest.raises(InputError, match=r"pretrain.channels: no two stocks know all of them"):
        weights_after(world, replace(world.panel, features=features), task="both")
    with pytest.raises(InputError, match=r"pretrain.channels: 'return_9' is no feature"):
        weights_after(world, task="contrastive", channels=["return_9"])


def test_geometry_of_known_clouds() -> None:
    generator, everyone = torch.Generator().manual_seed(0), torch.ones(40, 40, dtype=torch.bool)
    cloud, other = torch.randn(2, 40, 8, generator=generator)
    same, unrelated = geometry(cloud, cloud, everyone), geometry(cloud, other, everyone)
    assert same["retrieval"] == 1
    assert same["alignment"] == pytest.approx(0, abs=1e-9)
    assert same["chance"] == pytest.approx(1 / 40)
    assert unrelated["retrieval"] < 0.15
    assert unrelated["alignment"] == pytest.approx(2, abs=0.4)
    assert same["effective_rank"] > 6
    line = torch.outer(torch.randn(40, generator=generator), torch.randn(8, generator=generator))
    assert geometry(line, line, everyone)["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert geometry(line, line, everyone)["uniformity"] > same["uniformity"]


def test_an_epoch_tells_its_contrast(world: World) -> None:
    """Beside log N; what the untrained encoder was worth stays what it was."""
    _, history = weights_after(world, task="both", epochs=3, lr=0.01)
    first, last = history[0], history[-1]
    assert 3 < first["log_candidates"] < np.log(48)
    assert first["contrastive_loss"] > 0.8 * first["log_candidates"]
    assert last["contrastive_loss"] < first["contrastive_loss"]
    assert first["untrained_retrieval"] == last["untrained_retrieval"] < 4 * first["chance"]
    assert last["loss"] == pytest.approx(last["masked_loss"] + last["contrastive_loss"], rel=0.05)
    assert 1 < last["effective_rank"] <= 16
    assert {"alignment", "uniformity", "untrained_effective_rank", "zero_loss", "neighbor_loss"} <= set(last)


def test_a_bad_contrast_is_named(world: World) -> None:
    source = source_of(world)
    encoder, head = network_of(world).encoder, nn.Linear(16, 16)
    part = Contrastive(encoder, head, source, TRAIN, [5, 10], PRETEXT["channels"], 0.07)
    block = source.block([110, 111])
    assert part.blame(block) is None
    nn.init.constant_(head.weight, torch.nan)
    assert part.blame(block) == "the contrast at a lag of 5 days"


# --- what an encoder is worth ----------------------------------------------------------------------


class Shown(nn.Module):
    """An encoder that hands on its first feature and nothing else."""

    lookback, micro_batch = 10, 0

    def remembered(self, x: Tensor, last: int) -> tuple[Tensor, Tensor]:
        return x[-last:, :, :2].nan_to_num(), x

    def with_cycles(self, state: Tensor, x: Tensor) -> Tensor:
        return state

    def together(self, state: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        return state


def test_the_probe_finds_what_the_states_hold_and_learns_from_training_labels_alone(world: World) -> None:
    train, stop = list(range(70, 130)), list(range(140, 165))
    features, label = world.panel.features.copy(), world.panel.label.copy()
    features[:, :, 0] = -label[:, :, 1]
    panel = replace(world.panel, features=features)
    found = probe(Shown(), panel, world.snapshots, train, stop)  # pyright: ignore
    assert found["rank_ic_5"] == pytest.approx(1, abs=0.02)
    assert found["rank_ic_1"] is not None
    assert found["rank_ic_1"] < 0.9
    label[130:] = np.nan
    assert probe(Shown(), replace(panel, label=label), world.snapshots, train, stop) == found  # pyright: ignore
    nothing = replace(panel, forward_return=np.full_like(panel.forward_return, np.nan))
    assert probe(Shown(), nothing, world.snapshots, train, stop)["rank_ic_5"] is None  # pyright: ignore


def test_the_probe_leaves_the_encoder_as_it_is(world: World) -> None:
    encoder, before = network_of(world).encoder, network_of(world).encoder.state_dict()
    one, two = (probe(encoder, world.panel, world.snapshots, TRAIN, range(140, 165)) for _ in range(2))
    assert one == two
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_the_summary_is_of_the_last_epoch() -> None:
    epochs = [{"fold": 0, "seed": s, "epoch": e, "loss": 1.0 + s - e, "retrieval": 0.5} for s in (0, 1) for e in (0, 1)]
    probes = [{"fold": 0, "seed": s, "pretrained": {"rank_ic_5": 0.1 * s}, "random": {"rank_ic_5": None}} for s in (0, 1)]  # noqa: E501  # fmt: skip
    found = pretraining_summary(epochs, probes)
    assert found["loss"] == 0.5
    assert found["retrieval"] == 0.5
    assert found["probe"] == {"pretrained": {"rank_ic_5": 0.05}, "random": {"rank_ic_5": None}}
    assert pretraining_summary([], probes)["loss"] is None
