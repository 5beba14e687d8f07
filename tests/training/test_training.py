"""Blocks of days, training and scoring."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from atft.errors import InputError
from atft.model.atft_gat_fan import AtftGatFan
from atft.panel.store import Panel
from atft.training.blocks import consecutive, load_block, rows
from atft.training.checkpoint import load_weights, save_weights
from atft.training.history import loss_curve
from atft.training.loop import fit
from atft.training.optimizers import lr_scale, make_optimizer
from atft.training.pretext import pretrain, residual_target
from atft.training.supervised import make_encoder, score_days, train_network
from conftest import World, world_of
from panel.test_features import T, with_another_future

ARCHITECTURE = {
    "lookback": 10, "hidden": 16, "heads": 4, "graph": "on", "graph_layers": 2, "normalization": "fan",
    "fan_channels": ["return_1", "volume_change_1"], "fan_components": 2, "dropout": 0.1, "stochastic_depth": 0.1,
}  # fmt: skip
SETTINGS = {
    "epochs": 2, "patience": 5, "day_share": 1.0, "days_per_step": 10, "optimizer": "adamw", "lr": 0.003,
    "weight_decay": 0.01, "warmup_share": 0.1, "lr_floor": 0.05, "gradient_clip": 1.0, "huber_weight": 0.5,
    "rank_weight": 1.0, "turnover_threshold": 1.0,
}  # fmt: skip


def network_of(world: World, seed: int = 0) -> AtftGatFan:
    torch.manual_seed(seed)
    return AtftGatFan(make_encoder(world.panel, **ARCHITECTURE), 16, 2)  # pyright: ignore


def train(network: AtftGatFan, panel: Panel, world: World, epochs: int = 2, seed: int = 0) -> list[dict[str, float]]:
    """Fit on days 70 to 129, stop on 140 to 164."""
    knobs: dict[str, Any] = SETTINGS | {"epochs": epochs}
    return train_network(network, panel, world.snapshots, range(70, 130), range(140, 165), **knobs, seed=seed, fold=0)


def test_schedule_against_its_closed_form() -> None:
    scales = [lr_scale(step, 100, 0.1, 0.05) for step in range(100)]
    np.testing.assert_allclose(scales[:10], [(s + 1) / 11 for s in range(10)])
    assert scales[10] == 1
    assert scales[-1] == pytest.approx(0.05)
    assert scales[10 + 89 // 2 + 1] == pytest.approx(0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * 45 / 89)))
    assert all(a > b for a, b in zip(scales[10:], scales[11:], strict=False))


@pytest.mark.parametrize("name", ["adamw", "adabelief"])
def test_optimisers_learn_quietly(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(200, 5)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5], [0.0], [3.0]])
    module = nn.Linear(5, 1)
    optimizer = make_optimizer(name, module, 0.05, 0.01)  # pyright: ignore
    for _ in range(200):
        loss = (module(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.0, 0.01}
    assert capfd.readouterr().out == ""


def test_a_loss_that_is_not_finite_stops_with_its_days() -> None:
    module = nn.Linear(1, 1)
    optimizer = make_optimizer("adamw", module, 0.1, 0.0)
    order = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"loss nan in epoch 0 on days 7\.\.9"):
        fit(
            module,
            [[7, 8, 9]],
            lambda _: torch.tensor(float("nan")),
            optimizer,
            1,
            1.0,
            0,
            0,
            1.0,
            order,
            lambda *_: False,
            "train",
        )


def test_runs_share_an_anchor_and_hold_every_day_once() -> None:
    days = [*range(40, 75), *range(90, 121)]
    runs = consecutive(days, 20, 10)
    assert [day for run in runs for day in run] == days
    for run in runs:
        assert run == list(range(run[0], run[-1] + 1))
        assert len(run) <= 10
        assert len({(day - 19) // 20 for day in run}) == 1


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
