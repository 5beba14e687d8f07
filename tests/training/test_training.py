"""Blocks of days, training and scoring."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from atft.errors import InputError
from atft.evaluation.cross_section import rank_ic
from atft.evaluation.significance import default_lags, newey_west_variance
from atft.model.atft_gat_fan import AtftGatFan, parameter_count
from atft.panel.store import Panel
from atft.training.blocks import consecutive, load_block, rows
from atft.training.checkpoint import load_weights, save_weights
from atft.training.diagnostics import blocks_of, refuse_collapse, stop_facts
from atft.training.history import loss_curve
from atft.training.loop import fit
from atft.training.optimizers.factory import make_optimizer
from atft.training.pretext import pretrain, residual_target
from atft.training.rankers import NETWORK_SETTINGS, objective_of, schedule_of
from atft.training.supervised import make_encoder, score_days, train_network
from conftest import World, world_of
from panel.test_features import T, with_another_future

ARCHITECTURE = {
    "lookback": 10, "hidden": 16, "heads": 4, "graph": "on", "graph_layers": 2, "normalization": "fan",
    "fan_channels": ["return_1", "volume_change_1"], "fan_components": 2, "dropout": 0.1, "stochastic_depth": 0.1,
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "epochs": 2, "patience": 5, "day_share": 1.0, "days_per_step": 10, "optimizer": "adamw", "lr": 0.003,
    "weight_decay": 0.01, "schedule": "cosine", "warmup_epochs": 10, "warmup_share": 0.1, "t_0": 20, "t_mult": 2,
    "lr_floor": 0.05, "gradient_clip": 1.0, "feature_clip": 0.0, "ema_decay": 0.0, "huber_weight": 0.5,
    "mse_weight": 0.0, "correlation_weight": 0.0, "rank_weight": 1.0, "rank_method": "linear", "rank_temperature": 0.2,
    "quantile_weight": 0.0, "portfolio_weight": 0.0, "portfolio_cost_bps": 10.0, "horizon_weights": None,
    "regime_weighting": 0.0, "turnover_threshold": 1.0,
}  # fmt: skip


def network_of(world: World, seed: int = 0) -> AtftGatFan:
    torch.manual_seed(seed)
    return AtftGatFan(make_encoder(world.panel, **ARCHITECTURE), 16, 2)  # pyright: ignore


def train(
    network: AtftGatFan,
    panel: Panel,
    world: World,
    epochs: int = 2,
    seed: int = 0,
    days: range = range(70, 130),
    stop: range = range(140, 165),
    **changes: Any,
) -> list[dict[str, Any]]:
    settings = SETTINGS | {"epochs": epochs} | changes
    knobs = {name: settings[name] for name in NETWORK_SETTINGS}
    how = objective_of(settings), schedule_of(settings)
    return train_network(network, panel, world.snapshots, days, stop, *how, **knobs, seed=seed, fold=0)


def test_a_loss_that_is_not_finite_stops_with_its_days() -> None:
    module = nn.Linear(1, 1)
    optimizer = make_optimizer("adamw", module, 0.1, 0.0, 0.0)
    order = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"loss nan in epoch 0 on days 7\.\.9"):
        fit(
            module,
            [[7, 8, 9]],
            lambda _: torch.tensor(float("nan")),
            optimizer,
            schedule_of(SETTINGS),
            1,
            1.0,
            1.0,
            order,
            lambda *_: False,
            "train",
            {},
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
    block = load_block(world.panel, world.snapshots, [110, 111, 112], 10, torch.device("cpu"))
    for name in ("tradable", "label", "forward_return"):
        np.testing.assert_array_equal(getattr(block, name).numpy(), getattr(world.panel, name)[110:113], err_msg=name)


def test_rows_outside_the_panel_are_unknown(world: World) -> None:
    x = rows(world.panel, -3, 5)
    assert torch.isnan(x[:3]).all()
    np.testing.assert_array_equal(x[3:].numpy(), world.panel.features[:5])
    tail = rows(world.panel, 195, 203)
    assert torch.isnan(tail[5:]).all()


def test_scores_of_a_day_do_not_depend_on_its_batch(world: World) -> None:
    """Bit for bit: alone, among others, or in another order of blocks."""
    network = network_of(world).eval()
    days = list(range(95, 135))
    together = dict(zip(days, score_days(network, world.panel, world.snapshots, days), strict=True))
    for day in (95, 104, 118, 134):
        alone = next(score_days(network, world.panel, world.snapshots, [day]))
        np.testing.assert_array_equal(alone, together[day])


def test_training_and_scoring_see_the_same_network(world: World) -> None:
    network = network_of(world).eval()
    days = list(range(110, 118))
    block = load_block(world.panel, world.snapshots, days, 10, torch.device("cpu"))
    with torch.inference_mode():
        trained = network(block.x, len(days), block.edge_index, block.edge_attr).numpy()
    for i, scored in enumerate(score_days(network, world.panel, world.snapshots, days)):
        known = world.panel.tradable[days[i]]
        np.testing.assert_allclose(trained[i][known], scored[known], atol=1e-5)
        assert np.isnan(scored[~known]).all()


def test_the_future_cannot_change_past_scores(world: World, tmp_path: Path) -> None:
    panel, snapshots = world_of(with_another_future(world.market.bars), tmp_path)
    network = network_of(world)
    days = range(80, T + 1)
    before = score_days(network, world.panel, world.snapshots, days)
    after = score_days(network, panel, snapshots, days)
    for day, one, two in zip(days, before, after, strict=True):
        np.testing.assert_array_equal(one, two, err_msg=str(day))


def test_training_is_repeatable_and_keeps_the_best_epoch(world: World) -> None:
    outcomes = []
    for _ in range(2):
        network = network_of(world)
        history = train(network, world.panel, world, seed=3)
        outcomes.append((history, {k: v.clone() for k, v in network.state_dict().items()}))
    assert outcomes[0][0] == outcomes[1][0]
    for name, value in outcomes[0][1].items():
        assert torch.equal(value, outcomes[1][1][name]), name


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


def test_pretraining_learns_from_training_dates_alone(world: World) -> None:
    features, returns = world.panel.features.copy(), world.panel.daily_return.copy()
    features[130:], returns[130:] = np.nan, np.nan
    weights, losses = [], []
    for panel in (world.panel, replace(world.panel, features=features, daily_return=returns)):
        encoder = network_of(world).encoder
        history = pretrain(encoder, panel, world.snapshots, range(70, 130), 16, 4, 0.15, 1.0, 0.003, 10, 0, 0)
        weights.append(torch.cat([p.detach().flatten() for p in encoder.parameters()]))
        losses.append(history)
    assert torch.isfinite(weights[1]).all()
    assert torch.equal(*weights)
    assert losses[0][-1]["loss"] < losses[0][0]["loss"]


def test_the_pretext_target_has_no_market_and_no_sector(world: World) -> None:
    target = residual_target(world.panel, 120)
    known = np.isfinite(target)
    assert np.array_equal(known, world.panel.tradable[120])
    assert abs(target[known].mean()) < 0.1
    assert target[known].std() == pytest.approx(1, abs=0.15)


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
LONG: dict[str, Any] = {
    "schedule": "cosine_restarts", "t_0": 1, "epochs": 3, "days": range(65, 140), "stop": range(146, 186),
}  # fmt: skip
# The state of the market is known from day 139 on, and 20 days of it have ended by day 161.
REGIMES_KNOWN: dict[str, Any] = {"epochs": 2, "days": range(130, 180), "stop": range(186, 192)}


def small_network(world: World) -> AtftGatFan:
    torch.manual_seed(0)
    return AtftGatFan(make_encoder(world.panel, **SMALL), 8, 2)  # pyright: ignore


def trained_scores(world: World, **changes: Any) -> np.ndarray:
    network = small_network(world)
    train(network, world.panel, world, **BLINK | changes)
    return np.stack(list(score_days(network, world.panel, world.snapshots, range(130, 133))))


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
    same = trained_scores(
        world, horizon_weights=[2.0, 2.0], t_0=3, rank_temperature=5.0, portfolio_cost_bps=99.0, regime_weighting=1.0
    )
    np.testing.assert_array_equal(same, default_scores)


def test_the_correlation_term_is_the_linear_rank_term(world: World, default_scores: np.ndarray) -> None:
    same = trained_scores(world, correlation_weight=1.0, rank_weight=0.0)
    np.testing.assert_array_equal(same, default_scores)


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
    scores = np.stack(list(score_days(network, panel, world.snapshots, days)))
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
    facts = stop_facts(world.panel, days, scores)
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
