"""Every block lives: it has gradient, it matters, the last day counts, and stocks are interchangeable."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from atft.model.atft_gat_fan import AtftGatFan, Encoder, block_start, parameter_count
from atft.model.attention import TemperedGATv2
from atft.model.fan import FrequencyAdaptiveNorm, dominant_components
from atft.model.selection import HingeSelection
from atft.model.temporal import TemporalEncoder

L, STOCKS, FEATURES, DAYS, EDGE = 8, 12, 6, 3, 5


def network(**changes: object) -> AtftGatFan:
    torch.manual_seed(0)
    settings = {
        "features": FEATURES, "fan_channels": [0, 2], "edge_features": EDGE, "lookback": L, "hidden": 16, "heads": 4,
        "graph": "on", "graph_layers": 2, "normalization": "fan", "fan_components": 2, "dropout": 0.0,
        "stochastic_depth": 0.0,
    }  # fmt: skip
    return AtftGatFan(Encoder(**settings | changes), 16, 4)  # pyright: ignore


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(DAYS + L - 1, STOCKS, FEATURES, generator=generator)
    index = torch.randint(0, STOCKS, (2, 40), generator=generator)
    edge_index = torch.cat([index + day * STOCKS for day in range(DAYS)], dim=1)
    return x, edge_index, torch.rand(edge_index.shape[1], EDGE, generator=generator)


def test_every_parameter_has_gradient(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network()
    nn.init.normal_(net.encoder.selection.gate.weight)  # starts at zero, which stops the layer before it
    net(x, DAYS, index, attr).square().sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


@pytest.mark.parametrize("switch", [{"graph": "off"}, {"normalization": "none"}])
def test_a_switch_that_removes_a_block_changes_the_scores(
    switch: dict[str, str], inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, index, attr = inputs
    whole, without = network(), network(**switch)
    without.load_state_dict({k: v for k, v in whole.state_dict().items() if k in without.state_dict()})
    assert parameter_count(without) < parameter_count(whole)
    assert not torch.allclose(whole(x, DAYS, index, attr), without(x, DAYS, index, attr), atol=1e-3)


@pytest.mark.parametrize("block", ["selection", "temporal", "fan", "graph"])
def test_silencing_a_block_changes_the_scores(block: str, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network()
    before = net(x, DAYS, index, attr)
    for parameter in getattr(net.encoder, block).parameters():
        nn.init.zeros_(parameter)
    assert not torch.allclose(before, net(x, DAYS, index, attr), atol=1e-3)


def test_permuting_stocks_permutes_scores(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network()
    order = torch.randperm(STOCKS, generator=torch.Generator().manual_seed(2))
    place = torch.empty_like(order)
    place[order] = torch.arange(STOCKS)
    day, stock = index // STOCKS, index % STOCKS
    moved = net(x[:, order], DAYS, day * STOCKS + place[stock], attr)
    torch.testing.assert_close(moved, net(x, DAYS, index, attr)[:, order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("block", ["selection and temporal", "fan"])
@pytest.mark.parametrize("days_ago", [0, 1, L - 1])
def test_each_day_of_the_window_reaches_the_output(block: str, days_ago: int) -> None:
    """The last day above all: a normalisation that pads or centres loses it."""
    torch.manual_seed(3)
    x = torch.randn(L, STOCKS, FEATURES, requires_grad=True)
    if block == "fan":
        out = FrequencyAdaptiveNorm(2, L, 2, 16, 0.0)(x[..., :2], 1)
    else:
        out = TemporalEncoder(16, 4, L, 0.0)(HingeSelection(FEATURES, 16, 0.0)(x)[0], 1)
    (out * torch.randn(out.shape)).sum().backward()  # a plain sum is blind behind a LayerNorm
    assert x.grad is not None
    assert x.grad[-1 - days_ago].abs().sum() > 1e-4


def test_no_day_sees_a_later_one(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network()
    before = net(x, DAYS, index, attr)
    x = x.clone()
    x[-1] += 1
    after = net(x, DAYS, index, attr)
    torch.testing.assert_close(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


def test_stocks_meet_only_in_the_graph(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    changed = x.clone()
    changed[:, 0] += 1
    for graph, spreads in (("off", False), ("on", True)):
        net = network(graph=graph)
        others = (net(x, DAYS, index, attr) - net(changed, DAYS, index, attr))[:, 1:].abs().max()
        assert bool(others > 1e-4) == spreads


def test_days_of_a_batch_do_not_meet(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network().eval()
    state = net.encoder.stocks(x, DAYS)
    together = net.encoder.together(state, index, attr)
    for day in range(DAYS):
        here = (index[0] // STOCKS) == day
        alone = net.encoder.together(state[day : day + 1], index[:, here] - day * STOCKS, attr[here])
        torch.testing.assert_close(alone[0], together[day], atol=1e-6, rtol=1e-5)


def test_temporal_attention_equals_a_window_at_a_time() -> None:
    torch.manual_seed(4)
    block = TemporalEncoder(16, 4, L, 0.0)
    rows = torch.randn(DAYS + L - 1, 5, 16)
    together = block(rows, DAYS)
    for day in range(DAYS):
        torch.testing.assert_close(block(rows[: L + day], 1)[0], together[day], atol=1e-6, rtol=1e-5)


def test_selection_starts_uniform_and_its_weights_sum_to_one() -> None:
    weights = HingeSelection(FEATURES, 16, 0.0)(torch.randn(7, FEATURES))[1]
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / FEATURES))


@pytest.mark.parametrize("lags", [8, 9])
def test_fan_takes_out_the_planted_cycle(lags: int) -> None:
    time = torch.arange(lags) / lags
    cycle = torch.sin(2 * math.pi * 2 * time + 0.3)
    small = 0.1 * torch.cos(2 * math.pi * 3 * time)
    dominant, residual = dominant_components((cycle + small + 5).expand(2, 3, -1), 1)
    torch.testing.assert_close(dominant[0, 0], cycle + 5, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(residual[1, 2], small, atol=1e-4, rtol=1e-4)


def test_gat_at_temperature_one_is_torch_geometrics() -> None:
    torch.manual_seed(5)
    mine = TemperedGATv2(16, 4, EDGE, 0.0)
    theirs = GATv2Conv(16, 4, heads=4, edge_dim=EDGE, add_self_loops=False)
    theirs.load_state_dict({name: value for name, value in mine.state_dict().items() if name != "rho"})
    x, index, attr = torch.randn(STOCKS, 16), torch.randint(0, STOCKS, (2, 50)), torch.rand(50, EDGE)
    torch.testing.assert_close(mine(x, index, attr), theirs(x, index, attr))
    nn.init.constant_(mine.rho, 100.0)
    torch.testing.assert_close(mine.temperature(), torch.full((4,), 2.0))
    nn.init.constant_(mine.rho, -100.0)
    torch.testing.assert_close(mine.temperature(), torch.full((4,), 0.5))
    assert not torch.allclose(mine(x, index, attr), theirs(x, index, attr), atol=1e-4)


def test_edge_features_matter(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network()
    assert not torch.allclose(net(x, DAYS, index, attr), net(x, DAYS, index, 1 - attr), atol=1e-4)


def test_stochastic_depth_skips_whole_days_in_training_only(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network(stochastic_depth=0.5).train()
    draws = torch.stack([net(x, DAYS, index, attr) for _ in range(30)]).detach()
    assert draws.std(0).max() > 0
    per_day = [{round(float(value), 4) for value in draws[:, day, 0, 0]} for day in range(DAYS)]
    assert all(2 <= len(values) <= 4 for values in per_day)  # two layers, each kept or not, one draw a day
    net.eval()
    torch.testing.assert_close(net(x, DAYS, index, attr), net(x, DAYS, index, attr), atol=0, rtol=0)


def test_history_is_fixed_by_the_date() -> None:
    for day in range(40, 100):
        start = block_start(day, L)
        assert start % L == 0
        assert L <= day - start + 1 <= 2 * L - 1


def test_a_full_size_model_stays_below_ten_million_parameters() -> None:
    encoder = Encoder(395, range(4), EDGE, 60, 256, 4, "on", 2, "fan", 4, 0.1, 0.1)
    assert parameter_count(AtftGatFan(encoder, 256, 4)) < 10_000_000
