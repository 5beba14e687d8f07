"""Blocks of days, training and scoring."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from atft.errors import InputError
from atft.evaluation.cross_section import rank_ic
from atft.evaluation.significance import default_lags, newey_west_variance
from atft.graph.snapshots import Snapshots
from atft.model.atft_gat_fan import AtftGatFan, parameter_count
from atft.model.attention import TemperedGATv2
from atft.model.gating import GatedSkip
from atft.model.heads import QuantileHeads
from atft.panel.store import Panel
from atft.training.blocks import Source, consecutive
from atft.training.checkpoint import load_weights, save_weights
from atft.training.diagnostics import blocks_of, coverage, refuse_collapse, stop_facts, stop_rank_ic
from atft.training.history import loss_curve, selection_table
from atft.training.inspection import attention_facts, link_entropy, selection_weights
from atft.training.objective import Targets
from atft.training.rankers import NETWORK_SETTINGS, objective_of, plan_of
from atft.training.scratch import Checkpoint
from atft.training.supervised import forecast_days, make_encoder, stacked, train_network
from conftest import World, world_of
from panel.test_features import T, with_another_future

ARCHITECTURE = {
    "lookback": 10, "hidden": 16, "heads": 4, "selection": "hinge", "graph": "on", "graph_layers": 2,
    "normalization": "fan", "fan_channels": ["return_1", "volume_change_1"], "fan_components": 2, "dropout": 0.1,
    "attention_dropout": 0.1, "attention_scores": "free", "stochastic_depth": 0.1, "precision": "fp32",
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "epochs": 2, "keep": "best", "patience": 5, "day_share": 1.0, "days_per_step": 10, "optimizer": "adamw",
    "lr": 0.003, "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 10, "warmup_share": 0.1, "t_0": 20,
    "t_mult": 2, "lr_floor": 0.05, "gradient_clip": 1.0, "feature_clip": 0.0, "ema_decay": 0.0, "huber_weight": 0.5,
    "mse_weight": 0.0, "correlation_weight": 0.0, "rank_weight": 1.0, "rank_method": "linear", "rank_temperature": 0.2,
    "quantile_weight": 0.0, "portfolio_weight": 0.0, "portfolio_cost_bps": 10.0, "horizon_weights": None,
    "regime_weighting": 0.0, "turnover_threshold": 1.0, "accumulate": 1, "micro_batch": 0, "freeze_epochs": 0,
}  # fmt: skip
PRETEXT: dict[str, Any] = {
    "task": "masked", "hidden": 16, "epochs": 4, "target": "sector_neutral", "mask_share": 0.15, "lags": [5, 10],
    "channels": ["return_1", "volume_change_1", "close_location", "day_range"], "temperature": 0.07,
    "contrastive_weight": 1.0, "day_share": 1.0, "lr": 0.003, "days_per_step": 10, "accumulate": 1, "micro_batch": 0,
    "seed": 0, "fold": 0,
}  # fmt: skip


def network_of(world: World, seed: int = 0, **shape: Any) -> AtftGatFan:
    torch.manual_seed(seed)
    return AtftGatFan(make_encoder(world.panel, **ARCHITECTURE | shape), 16, 2, 0)  # pyright: ignore


def source_of(world: World, panel: Panel | None = None, snapshots: Snapshots | None = None) -> Source:
    return Source(panel or world.panel, snapshots or world.snapshots, ARCHITECTURE["lookback"], torch.device("cpu"))


def score_days(network: AtftGatFan, source: Source, days: Sequence[int]) -> Iterator[NDArray[np.float32]]:
    return (day.score for day in forecast_days(network, source, days))


def train(
    network: AtftGatFan,
    panel: Panel,
    world: World,
    epochs: int = 2,
    seed: int = 0,
    days: range = range(70, 130),
    stop: range = range(140, 165),
    levels: Sequence[float] = (),
    checkpoint: Checkpoint | None = None,
    **changes: Any,
) -> list[dict[str, Any]]:
    settings = SETTINGS | {"epochs": epochs} | changes
    knobs = {name: settings[name] for name in NETWORK_SETTINGS}
    how = objective_of(settings, levels), plan_of(settings)
    return train_network(
        network, panel, world.snapshots, days, stop, *how, **knobs, seed=seed, fold=0, checkpoint=checkpoint
    )


def test_runs_share_an_anchor_and_hold_every_day_once() -> None:
    days = [*range(40, 75), *range(90, 121)]
    runs = consecutive(days, 20, 10)
    assert [day for run in runs for day in run] == days
    for run in runs:
        assert run == list(range(run[0], run[-1] + 1))
        assert len(run) <= 10
        assert len({(day - 19) // 20 for day in run}) == 1


def test_a_block_holds_what_its_own_days_are_held_against(world: World) -> None:
    block = source_of(world).block([110, 111, 112])
    for name in ("label", "forward_return"):
        np.testing.assert_array_equal(getattr(block, name).numpy(), getattr(world.panel, name)[110:113], err_msg=name)


def test_rows_outside_the_panel_are_unknown(world: World) -> None:
    x = source_of(world).rows(-3, 5)
    assert torch.isnan(x[:3]).all()
    np.testing.assert_array_equal(x[3:].numpy(), world.panel.features[:5])
    tail = source_of(world).rows(195, 203)
    assert torch.isnan(tail[5:]).all()


def test_scores_of_a_day_do_not_depend_on_its_batch(world: World) -> None:
    """Bit for bit: alone, among others, or in another order of blocks."""
    network = network_of(world).eval()
    days = list(range(95, 135))
    together = dict(zip(days, score_days(network, source_of(world), days), strict=True))
    for day in (95, 104, 118, 134):
        alone = next(score_days(network, source_of(world), [day]))
        np.testing.assert_array_equal(alone, together[day])


def test_training_and_scoring_see_the_same_network(world: World) -> None:
    network = network_of(world).eval()
    days = list(range(110, 118))
    block = source_of(world).block(days)
    with torch.inference_mode():
        trained = network(block.x, len(days), block.edge_index, block.edge_attr).score.numpy()
    for i, scored in enumerate(score_days(network, source_of(world), days)):
        known = world.panel.tradable[days[i]]
        np.testing.assert_allclose(trained[i][known], scored[known], atol=1e-5)
        assert np.isnan(scored[~known]).all()


def test_the_future_cannot_change_past_scores(world: World, tmp_path: Path) -> None:
    panel, snapshots = world_of(with_another_future(world.market.bars), tmp_path)
    network = network_of(world)
    days = range(80, T + 1)
    before = score_days(network, source_of(world), days)
    after = score_days(network, source_of(world, panel, snapshots), days)
    for day, one, two in zip(days, before, after, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=str(day))


def test_training_is_repeatable(world: World) -> None:
    outcomes = []
    for _ in range(2):
        network = network_of(world)
        history = train(network, world.panel, world, seed=3)
        outcomes.append((history, {k: v.clone() for k, v in network.state_dict().items()}))
    assert outcomes[0][0] == outcomes[1][0]
    for name, value in outcomes[0][1].items():
        assert torch.equal(value, outcomes[1][1][name]), name


@pytest.mark.parametrize("keep", ["best", "latest"])
def test_the_weights_that_stay_are_those_of_the_kept_epoch(world: World, keep: str) -> None:
    network = network_of(world)
    history = train(network, world.panel, world, seed=3, epochs=4, keep=keep)
    kept = [row["stop_rank_ic"] for row in history if row["kept"]][-1]
    if keep == "best":
        assert kept == max(row["stop_rank_ic"] for row in history)
    stop = range(140, 165)
    scores = stacked(forecast_days(network, source_of(world), stop)).score
    assert np.nanmean(stop_rank_ic(world.panel, stop, scores)) == pytest.approx(kept, abs=1e-6)


def test_training_never_touches_held_out_labels(world: World) -> None:
    """With every label and return after `stop` poisoned, the weights are the same."""
    label, forward = world.panel.label.copy(), world.panel.forward_return.copy()
    label[165:], forward[165:] = 99.0, 99.0
    weights = []
    for panel in (world.panel, replace(world.panel, label=label, forward_return=forward)):
        network = network_of(world)
        train(network, panel, world, epochs=1)
        weights.append(network.heads.weight.detach().clone())
    assert torch.equal(*weights)


def test_weights_come_back_and_misfits_are_refused(world: World, tmp_path: Path) -> None:
    network, other = network_of(world), network_of(world, seed=1)
    file = tmp_path / "w.safetensors"
    save_weights(network, file, {"fold": 0})
    first = file.read_bytes()
    save_weights(network, file, {"fold": 0})
    assert file.read_bytes() == first
    load_weights(other, file, "train")
    for name, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    with pytest.raises(InputError, match="dvc repro -f train"):
        load_weights(nn.Linear(2, 2), file, "train")


def test_an_unknown_fan_channel_is_refused(world: World) -> None:
    with pytest.raises(InputError, match=r"model.fan_channels: 'retrun_1' is no feature"):
        make_encoder(world.panel, **ARCHITECTURE | {"fan_channels": ["retrun_1"]})  # pyright: ignore


def test_curves_of_rankers_without_epochs_are_empty_tables() -> None:
    table, curve = loss_curve([])
    assert table.is_empty()
    assert curve.columns == ["epoch", "train_loss", "stop_rank_ic", "fits"]


# --- knobs and diagnostics, on a network that trains in a blink -----------------------------------

SMALL = ARCHITECTURE | {"lookback": 5, "hidden": 8, "heads": 2, "graph": "off", "normalization": "none"}
BLINK: dict[str, Any] = {"epochs": 1, "days_per_step": 5, "days": range(90, 115), "stop": range(120, 126)}
# Past the 20 steps in which Shampoo is Adam, and the best epoch is not the first.
LSTM = "encoder.temporal.lstm.weight_ih_l0"
LONG: dict[str, Any] = {
    "schedule": "cosine_restarts", "t_0": 1, "epochs": 3, "days": range(65, 140), "stop": range(146, 186),
}  # fmt: skip
# The state of the market is known from day 139 on, and 20 days of it have ended by day 161.
REGIMES_KNOWN: dict[str, Any] = {"epochs": 2, "days": range(130, 180), "stop": range(186, 192)}


def small_network(world: World, levels: Sequence[float] = (), **shape: Any) -> AtftGatFan:
    torch.manual_seed(0)
    return AtftGatFan(make_encoder(world.panel, **SMALL | shape), 8, 2, len(levels))  # pyright: ignore


def trained_scores(world: World, levels: Sequence[float] = (), **changes: Any) -> np.ndarray:
    network = small_network(world, levels, **{name: value for name, value in changes.items() if name in SMALL})
    settings = {name: value for name, value in changes.items() if name not in SMALL}
    train(network, world.panel, world, levels=levels, **BLINK | settings)
    return np.stack(list(score_days(network, source_of(world), range(130, 133))))


@pytest.fixture(scope="module")
def default_scores(world: World) -> np.ndarray:
    return trained_scores(world)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adabelief"},
        {"optimizer": "shampoo", "_beside": {"optimizer": "adamw"}} | LONG,
        {"schedule": "constant"},
        {"schedule": "cosine_restarts"},
        {"warmup_share": 0.5},
        {"warmup_epochs": 0.2, "warmup_share": 0.9, "_beside": {"warmup_epochs": 0.5}},
        {"t_0": 1, "schedule": "cosine_restarts", "_beside": {"t_0": 20}},
        {"t_mult": 1, "_beside": {"t_mult": 2}} | LONG,
        {"lr_floor": 0.5},
        {"feature_clip": 1.0},
        {"ema_decay": 0.9},
        {"freeze_epochs": 1},
        {"huber_weight": 0.0},
        {"mse_weight": 1.0},
        {"correlation_weight": 1.0},
        {"rank_weight": 0.1},
        {"rank_method": "cdf"},
        {"rank_method": "sigmoid"},
        {"rank_method": "sigmoid", "rank_temperature": 1.0, "_beside": {"rank_temperature": 0.2}},
        {"portfolio_weight": 0.5},
        {"portfolio_cost_bps": 50.0, "portfolio_weight": 0.5, "_beside": {"portfolio_cost_bps": 10.0}},
        {"horizon_weights": [1.0, 3.0]},
        {"selection": "paper"},
        {"selection": "none"},
        {"attention_dropout": 0.5},
        {"attention_scores": "normalized", "graph": "on", "_beside": {"attention_scores": "free"}},
        {"quantile_weight": 1.0, "levels": (0.1, 0.9)},
        {"levels": (0.5, 0.9), "quantile_weight": 1.0, "_beside": {"levels": (0.1, 0.9)}},
        {"regime_weighting": 5.0, "_beside": {"regime_weighting": 0.0}} | REGIMES_KNOWN,
    ],
    ids=lambda changes: next(f"{name}={value}" for name, value in changes.items()),
)  # fmt: skip
def test_every_knob_changes_the_trained_scores(
    world: World, default_scores: np.ndarray, changes: dict[str, Any]
) -> None:
    given = {name: value for name, value in changes.items() if name != "_beside"}
    base = trained_scores(world, **given | changes["_beside"]) if "_beside" in changes else default_scores
    scores = trained_scores(world, **given)
    known = np.isfinite(base)
    np.testing.assert_array_equal(known, np.isfinite(scores))
    assert np.abs(scores - base)[known].max() > 1e-5 * base[known].std()


def test_a_knob_that_is_off_changes_nothing(world: World, default_scores: np.ndarray) -> None:
    """Equal weights of horizons, restarts after the end, a softness nobody asks for, costs of a book nobody holds."""
    same = trained_scores(world, horizon_weights=[2.0, 2.0], t_0=3, rank_temperature=5.0, portfolio_cost_bps=99.0)
    np.testing.assert_array_equal(same, default_scores)


def test_the_correlation_term_is_the_linear_rank_term(world: World, default_scores: np.ndarray) -> None:
    same = trained_scores(world, correlation_weight=1.0, rank_weight=0.0)
    np.testing.assert_array_equal(same, default_scores)


def test_a_frozen_encoder_is_fitted_after_its_epochs_alone(world: World) -> None:
    """Every optimiser, with weight decay: the heads move, and later the encoder as well."""

    def moved(freeze_epochs: int, optimizer: str) -> dict[str, bool]:
        network, before = small_network(world), small_network(world).state_dict()
        train(network, world.panel, world, **BLINK | {"epochs": 2, "stop": range(120, 140)}, weight_decay=0.1,
              feature_clip=3.0, optimizer=optimizer, freeze_epochs=freeze_epochs)  # fmt: skip
        after = network.state_dict()
        return {name: not torch.equal(after[name], before[name]) for name in ("heads.weight", LSTM)}

    for optimizer in ("adamw", "adabelief", "shampoo"):
        assert moved(2, optimizer) == {"heads.weight": True, LSTM: False}
        assert moved(0, optimizer) == {"heads.weight": True, LSTM: True}
    network, lstm = small_network(world), []
    hook = register_optimizer_step_post_hook(lambda *_: lstm.append(network.get_parameter(LSTM).detach().clone()))
    train(network, world.panel, world, **BLINK | {"epochs": 2}, freeze_epochs=1)
    hook.remove()
    half = len(lstm) // 2
    assert [torch.equal(value, lstm[0]) for value in lstm] == [True] * half + [False] * half


def test_kept_weights_are_the_average_over_steps(world: World) -> None:
    seen: list[torch.Tensor] = []
    plain = small_network(world)
    hook = register_optimizer_step_post_hook(lambda *_: seen.append(plain.heads.weight.detach().clone()))
    train(plain, world.panel, world, **BLINK)
    hook.remove()
    averaged = small_network(world)
    train(averaged, world.panel, world, **BLINK, ema_decay=0.7)
    share = 0.7 ** torch.arange(len(seen) - 1, -1, -1.0)
    expected = (torch.stack(seen) * (share / share.sum())[:, None, None]).sum(0)
    torch.testing.assert_close(averaged.heads.weight.detach(), expected)
    assert not torch.equal(seen[-1], expected)


def test_an_epoch_is_told_in_full(world: World) -> None:
    """One step an epoch, so that every mean is over one value."""
    panel, network = world.panel, small_network(world)
    settings = BLINK | {"epochs": 2, "days": range(94, 99), "lr_floor": 0.5, "mse_weight": 0.25}
    network.train()
    history = train(network, panel, world, **settings)
    row = history[0]
    assert row["train_loss"] == pytest.approx(
        0.5 * row["loss_huber"] + 0.25 * row["loss_mse"] + row["loss_rank"], rel=1e-5
    )
    assert {name for name in row if name.startswith("loss_")} == {"loss_huber", "loss_mse", "loss_rank"}
    assert all(row[f"pull_{term}"] > 0 for term in ("huber", "mse", "rank"))
    blocks = [row[f"gradient_{block}"] for block in ("selection", "temporal", "heads")]
    assert row["gradient"] == pytest.approx(np.linalg.norm(blocks), rel=1e-5)
    assert [row["lr"] for row in history] == pytest.approx([0.003, 0.0015])
    best = max(history, key=lambda row: row["stop_rank_ic"])
    days = BLINK["stop"]
    scores = np.stack(list(score_days(network, source_of(world, panel), days)))
    daily = np.array([rank_ic(scores[:, :, h], panel.forward_return[days, :, h]) for h in range(2)])
    assert best["stop_rank_ic"] == pytest.approx(np.nanmean(daily))
    for h, horizon in enumerate((1, 5)):
        assert best[f"stop_rank_ic_{horizon}"] == pytest.approx(np.nanmean(daily[h]))
    assert best["dispersion"] == pytest.approx(np.nanstd(scores.astype(float), axis=1).mean(), rel=1e-6)
    table, _ = loss_curve([{"fold": 0, "seed": 0, **row} for row in history])
    assert set(row) | {"fold", "seed"} == set(table.columns)
    assert table["epoch"].to_list() == [0, 1]


def test_every_block_of_the_network_is_named(world: World) -> None:
    network = network_of(world)
    blocks = blocks_of(network)
    assert list(blocks) == ["selection", "temporal", "fan", "graph", "heads"]
    assert sum(p.numel() for block in blocks.values() for p in block) == parameter_count(network)


def test_the_standard_error_knows_that_returns_overlap(world: World) -> None:
    days = range(80, 160)
    scores = np.random.default_rng(0).normal(size=(1, 48, 2)).repeat(len(days), 0).astype(np.float32)
    facts = stop_facts([1, 5], stop_rank_ic(world.panel, days, scores), scores)
    for h, horizon in enumerate((1, 5)):
        daily = rank_ic(scores[:, :, h], world.panel.forward_return[days, :, h])
        daily = daily[np.isfinite(daily)]
        variance = newey_west_variance(daily, default_lags(len(daily), horizon))
        assert variance is not None
        assert facts[f"stop_rank_ic_se_{horizon}"] == pytest.approx(variance**0.5)
    naive = daily.std() / len(daily) ** 0.5
    assert facts["stop_rank_ic_se_5"] > 1.3 * naive


@pytest.mark.parametrize(
    ("level", "spread", "flat_days", "refused"),
    [(0, 0.0, 10, True), (1, 1e-8, 10, True), (1e4, 1e-3, 10, True), (0, 1e-7, 10, True), (0, 0.0, 6, True),
     (0, 0.0, 5, False), (0, 1e-4, 10, False), (1, 1e-4, 10, False)],
)  # fmt: skip
def test_scores_that_tie_but_for_rounding_are_refused(
    world: World, level: float, spread: float, flat_days: int, *, refused: bool
) -> None:
    days = range(120, 130)
    noise = np.random.default_rng(0).normal(size=(10, 48, 2))
    scores = noise.copy()
    scores[:flat_days, :, 1] = level + spread * noise[:flat_days, :, 1]
    scores = np.where(world.panel.tradable[days][:, :, None], scores, np.nan).astype(np.float32)
    if not refused:
        refuse_collapse(world.panel, days, scores, "train")
        return
    with pytest.raises(InputError, match=rf"train: all stocks score alike on {flat_days}0% .* at horizon 5") as error:
        refuse_collapse(world.panel, days, scores, "train")
    assert "\n" not in str(error.value)


def test_a_collapsed_run_says_so_and_fails(world: World) -> None:
    network = small_network(world)
    nn.init.zeros_(network.heads.weight)
    network.heads.weight.requires_grad_(False)
    with pytest.raises(InputError, match="train fold 0 seed 4, epoch 0: all stocks score alike on 100% of the days"):
        train(network, world.panel, world, **BLINK, seed=4)


# --- what a fitted network looks at ---------------------------------------------------------------


@pytest.mark.parametrize("selection", ["hinge", "paper"])
def test_selection_weights_are_means_over_tradable_stocks(world: World, selection: str) -> None:
    tradable, days = world.panel.tradable.copy(), range(140, 150)
    tradable[days, :20] = False
    panel = replace(world.panel, tradable=tradable)
    network = small_network(world, selection=selection).train()
    nn.init.normal_(network.encoder.selection.get_submodule("gate" if selection == "hinge" else "shortcut").weight)  # pyright: ignore
    found = selection_weights(network, panel, days)
    assert list(found) == panel.feature_names
    assert sum(found.values()) == pytest.approx(1)
    known = np.concatenate([panel.features[day][panel.tradable[day]] for day in days])
    with torch.inference_mode():
        weights = network.encoder.selection(torch.from_numpy(known))[1].double().mean(0)
    np.testing.assert_allclose(list(found.values()), weights.numpy(), rtol=1e-4)
    assert max(found.values()) > 1.5 * min(found.values())


def test_a_stock_of_which_nothing_is_known_weighs_nothing(world: World) -> None:
    network, day = small_network(world), 140
    features = world.panel.features.copy()
    features[day, np.flatnonzero(world.panel.tradable[day])[:5]] = np.nan
    found = selection_weights(network, replace(world.panel, features=features), [day])
    assert sum(found.values()) == pytest.approx(1)


def test_the_table_of_weights_is_sorted_and_empty_without_a_network() -> None:
    rows = [
        {"fold": fold, "seed": seed, "feature": name, "weight": weight}
        for fold, seed in ((1, 0), (0, 1), (0, 0))
        for name, weight in (("b", 0.25), ("a", 0.25), ("c", 0.4999999), ("d", 0.0))
    ]
    table = selection_table(rows)
    assert table["feature"].to_list() == ["c", "a", "b", "d"] * 3
    assert table.select("fold", "seed").unique(maintain_order=True).rows() == [(0, 0), (0, 1), (1, 0)]
    assert table["weight"][0] == 0.5
    assert selection_table([]).columns == ["fold", "seed", "feature", "weight"]
    assert selection_table([]).is_empty()


def set_attention(network: AtftGatFan, sharpness: float) -> None:
    """Attention in the graph that is uniform at 0, and listens to one link alone where it is large."""
    for layer in network.modules():
        if isinstance(layer, TemperedGATv2):
            nn.init.constant_(layer.att, sharpness)
            nn.init.normal_(layer.lin_l.weight)


def test_uniform_attention_hears_everyone_and_a_dominating_link_alone(world: World) -> None:
    snapshots = replace(world.snapshots, edge_attr=world.snapshots.edge_attr.copy())
    snapshots.edge_attr[:, -1] = 1.0
    network, days = network_of(world), [140, 150]
    nn.init.zeros_(network.encoder.temporal.query.weight)
    nn.init.zeros_(network.encoder.temporal.query.bias)
    set_attention(network, 0.0)
    facts = attention_facts(network, source_of(world, snapshots=snapshots), days)
    links = []
    for day in days:
        index, _ = snapshots.among(day, world.panel.tradable[day])
        into = np.bincount(index[1], minlength=len(world.panel.codes))[: len(world.panel.codes)]
        links += into[into > 1].tolist()
    assert len(links) > 80
    for layer in (1, 2):
        assert facts[f"attention_entropy_{layer}"] == pytest.approx(1)
        assert facts[f"effective_neighbors_{layer}"] == pytest.approx(np.mean(links), rel=1e-5)
        assert facts[f"temperature_{layer}"] == pytest.approx(1)
        share = facts[f"message_share_{layer}"]
        assert share is not None
        assert 0.01 < share < 0.9
    assert facts["lag_entropy"] == pytest.approx(1)
    set_attention(network, 1e4)
    sharp = attention_facts(network, source_of(world, snapshots=snapshots), days)
    for layer in (1, 2):
        assert sharp[f"attention_entropy_{layer}"] == pytest.approx(0, abs=0.01)
        assert sharp[f"effective_neighbors_{layer}"] == pytest.approx(1, abs=0.02)


def test_a_closed_gate_adds_no_message_and_one_loud_lag_has_no_entropy(world: World) -> None:
    network = network_of(world).train()
    assert network.encoder.graph is not None
    for skip in network.encoder.graph.skips:
        assert isinstance(skip, GatedSkip)
        nn.init.zeros_(skip.gate.weight)  # pyright: ignore
        nn.init.zeros_(skip.gate.bias)  # pyright: ignore
    nn.init.constant_(network.encoder.temporal.lag_bias[:, 3], 1e4)
    for layer in network.modules():
        if isinstance(layer, TemperedGATv2):
            layer.rho.data = torch.tensor([0.0, 100.0, -100.0, 0.0])
    facts = attention_facts(network, source_of(world), [140])
    assert facts["message_share_1"] == facts["message_share_2"] == 0
    assert facts["lag_entropy"] == pytest.approx(0, abs=1e-6)
    assert facts["temperature_2"] == pytest.approx((1 + 2 + 0.5 + 1) / 4)


def test_a_message_counts_by_its_share_of_what_a_tradable_stock_becomes(world: World) -> None:
    panel, day = world.panel, 140
    network = network_of(world).eval()
    facts = attention_facts(network, source_of(world, panel), [day])
    block = source_of(world, panel).block([day])
    assert network.encoder.graph is not None
    with torch.inference_mode():
        state, _ = network.encoder.stocks(block.x, 1)
        heard = list(network.encoder.graph.listen(state, block.edge_index, block.edge_attr, 0.0))
    known = np.flatnonzero(panel.tradable[day])
    for layer, (before, _, added, _) in enumerate(heard, start=1):
        message, own = (np.linalg.norm(part.numpy()[known], axis=1) for part in (added, before))
        assert facts[f"message_share_{layer}"] == pytest.approx((message / (message + own)).mean(), rel=1e-5)


def test_who_hears_nobody_else_has_no_entropy(world: World) -> None:
    """Before the first snapshot every stock hears itself alone: nothing to average, and nothing that dilutes."""
    network, early = network_of(world), int(world.snapshots.as_of[0])
    assert world.panel.tradable[early].any()
    alone = attention_facts(network, source_of(world), [early])
    later = attention_facts(network, source_of(world), [140])
    both = attention_facts(network, source_of(world), [early, 140])
    for name in ("attention_entropy_1", "effective_neighbors_2"):
        assert alone[name] is None
        assert both[name] == pytest.approx(later[name])
    assert alone["message_share_1"] is not None


def test_entropy_counts_the_links_into_stocks_alone() -> None:
    alpha = torch.tensor([[0.5, 1.0], [0.5, 0.0], [1.0, 1.0], [0.25, 0.25]])
    entropy, links = link_entropy(alpha, torch.tensor([0, 0, 1, 3]), 3)
    torch.testing.assert_close(entropy, torch.tensor([[np.log(2.0), 0.0], [0.0, 0.0], [0.0, 0.0]]).float())
    assert links.tolist() == [2, 1, 0]


def test_attention_is_told_by_layer_and_without_a_graph_not_at_all(world: World) -> None:
    """As often as an epoch ends, on every tenth day of `stop`, of the weights that `stop` judged."""
    names = ("attention_entropy", "effective_neighbors", "message_share", "temperature")
    network = network_of(world)
    row = max(train(network, world.panel, world, epochs=1), key=lambda row: row["stop_rank_ic"])
    assert {f"{name}_{layer}" for name in names for layer in (1, 2)} | {"lag_entropy"} <= set(row)
    again = attention_facts(network, source_of(world), range(140, 165, 10))
    assert {name: row[name] for name in again} == again
    row = train(small_network(world), world.panel, world, **BLINK)[0]
    assert "lag_entropy" in row
    assert not any(column.startswith(names) for column in row)


# --- quantiles ------------------------------------------------------------------------------------

LEVELS = (0.1, 0.5, 0.9)


def test_scores_without_quantiles_are_what_they_are_with_them(world: World) -> None:
    """To the last bit, for the same weights; and a day's quantiles do not depend on its batch either."""
    more = small_network(world, LEVELS)
    plain = small_network(world)
    days = range(95, 110)
    both = list(forecast_days(more, source_of(world), days))
    for day, score, said in zip(days, score_days(plain, source_of(world), days), both, strict=True):
        np.testing.assert_array_equal(score, said.score)
        assert said.quantiles is not None
        assert said.quantiles.shape == (*score.shape, 3)
        np.testing.assert_array_equal(np.isnan(said.quantiles).all(-1), np.isnan(score))
        alone = next(forecast_days(more, source_of(world), [day])).quantiles
        np.testing.assert_array_equal(alone, said.quantiles)
    assert stacked(forecast_days(plain, source_of(world), days)).quantiles is None


def test_coverage_is_the_share_of_known_labels_below(world: World) -> None:
    days = range(150, 160)
    label = world.panel.label[days]
    quantiles = np.stack([np.full(label.shape, value) for value in (-9.0, 0.0, 9.0)], axis=-1).astype(np.float32)
    found = coverage(world.panel, days, quantiles, (0.025, 0.5, 0.9))
    assert list(found) == ["coverage_2.5", "coverage_50", "coverage_90"]
    known = label[np.isfinite(label)]
    assert list(found.values()) == pytest.approx([0, (known < 0).mean(), 1])


def test_pinball_heads_cover_what_they_say() -> None:
    """Level and spread of the label follow the state: the levels hold where the state is high and where it is low."""
    torch.manual_seed(0)
    state = torch.randn(30, 200, 4)
    label = (state[..., :1] + (1 + 0.5 * state[..., 1:2].clamp(-1.5, 1.5)) * torch.randn(30, 200, 1)).repeat(1, 1, 2)
    heads = QuantileHeads(4, 2, 3)
    settings = SETTINGS | {"huber_weight": 0.0, "rank_weight": 0.0, "quantile_weight": 1.0}
    objective = objective_of(settings, LEVELS)
    optimizer = torch.optim.Adam(heads.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        terms = objective.terms(torch.zeros_like(label), Targets(label, label, (1, 5)), heads(state))
        objective.total(terms).backward()
        optimizer.step()
    below = label[..., None] < heads(state)
    for part in (state[..., 0] > 0, state[..., 0] < 0, state[..., 1] > 0, state[..., 1] < 0):
        share = below[part].float().mean((0, 1))
        assert share.tolist() == pytest.approx(LEVELS, abs=0.04)


def test_quantiles_train_beside_the_score_and_are_told(world: World) -> None:
    network = small_network(world, LEVELS)
    settings = BLINK | {"epochs": 8, "days": range(65, 115), "lr": 0.02, "quantile_weight": 1.0}
    history = train(network, world.panel, world, levels=LEVELS, **settings)
    assert {"loss_quantile", "pull_quantile", "gradient_quantiles"} <= set(history[0])
    for level, name in zip(LEVELS, ("coverage_10", "coverage_50", "coverage_90"), strict=True):
        assert history[-1][name] == pytest.approx(level, abs=0.08)
