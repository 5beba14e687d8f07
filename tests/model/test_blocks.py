"""Every block lives: it has gradient, it matters, the last day counts, and stocks are interchangeable."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import GATv2Conv

from atft.model.atft_gat_fan import AtftGatFan, Encoder, block_start, parameter_count
from atft.model.attention import GraphAttention, TemperedGATv2, with_groups
from atft.model.fan import FrequencyAdaptiveNorm, Waves
from atft.model.gating import GatedResidual
from atft.model.heads import QuantileHeads
from atft.model.selection import SELECTIONS, HingeSelection, PaperSelection
from atft.model.temporal import TemporalEncoder

L, STOCKS, FEATURES, DAYS, EDGE = 8, 12, 6, 3, 5


def network(levels: int = 0, **changes: object) -> AtftGatFan:
    torch.manual_seed(0)
    settings = {
        "features": FEATURES, "fan_channels": [0, 2], "edge_features": EDGE, "lookback": L, "hidden": 16, "heads": 4,
        "selection": "hinge", "graph": "on", "graph_layers": 2, "normalization": "fan", "fan_components": 2,
        "dropout": 0.0, "attention_dropout": 0.0, "attention_scores": "free", "stochastic_depth": 0.0,
        "precision": "fp32",
    }  # fmt: skip
    return AtftGatFan(Encoder(**settings | changes), 16, 4, levels)  # pyright: ignore


each_selection = pytest.mark.parametrize("selection", SELECTIONS)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(DAYS + L - 1, STOCKS, FEATURES, generator=generator)
    index = torch.randint(0, STOCKS, (2, 40), generator=generator)
    edge_index = torch.cat([index + day * STOCKS for day in range(DAYS)], dim=1)
    return x, edge_index, torch.rand(edge_index.shape[1], EDGE, generator=generator)


@each_selection
def test_every_parameter_has_gradient(selection: str, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network(levels=3, selection=selection)
    if selection == "hinge":
        nn.init.normal_(net.encoder.selection.gate.weight)  # starts at zero, which stops the layer before it
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(2)) < 0.1] = torch.nan
    score, quantiles = net(x, DAYS, index, attr)
    (score.square().sum() + quantiles.square().sum()).backward()
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
    assert not torch.allclose(whole(x, DAYS, index, attr).score, without(x, DAYS, index, attr).score, atol=1e-3)


@pytest.mark.parametrize(
    ("block", "selection"),
    [("selection", "hinge"), ("selection", "paper"), ("temporal", "hinge"), ("fan", "hinge"), ("graph", "hinge")],
)
def test_silencing_a_block_changes_the_scores(
    block: str, selection: str, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, index, attr = inputs
    net = network(selection=selection)
    before = net(x, DAYS, index, attr).score
    for parameter in getattr(net.encoder, block).parameters():
        nn.init.zeros_(parameter)
    assert not torch.allclose(before, net(x, DAYS, index, attr).score, atol=1e-3)


@each_selection
def test_permuting_stocks_permutes_scores(selection: str, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network(selection=selection)
    order = torch.randperm(STOCKS, generator=torch.Generator().manual_seed(2))
    place = torch.empty_like(order)
    place[order] = torch.arange(STOCKS)
    day, stock = index // STOCKS, index % STOCKS
    moved = net(x[:, order], DAYS, day * STOCKS + place[stock], attr).score
    torch.testing.assert_close(moved, net(x, DAYS, index, attr).score[:, order], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("selection", [*SELECTIONS, None])
@pytest.mark.parametrize("days_ago", [0, 1, L - 1])
def test_each_day_of_the_window_reaches_the_output(selection: str | None, days_ago: int) -> None:
    """The last day above all: a normalisation that pads or centres loses it."""
    torch.manual_seed(3)
    x = torch.randn(L, STOCKS, FEATURES, requires_grad=True)
    if selection is None:
        out = FrequencyAdaptiveNorm(2, L, 2, 16, 0.0)(x[..., :2], 1)
    else:
        out, _ = TemporalEncoder(16, 4, L, 0.0, 0.0)(SELECTIONS[selection](FEATURES, 16, 0.0)(x)[0], 1)
    (out * torch.randn(out.shape)).sum().backward()  # a plain sum is blind behind a LayerNorm
    assert x.grad is not None
    assert x.grad[-1 - days_ago].abs().sum() > 1e-4


@each_selection
def test_no_day_sees_a_later_one(selection: str, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network(selection=selection)
    before = net(x, DAYS, index, attr).score
    x = x.clone()
    x[-1] += 1
    after = net(x, DAYS, index, attr).score
    torch.testing.assert_close(before[:-1], after[:-1])
    assert not torch.allclose(before[-1], after[-1])


@each_selection
def test_stocks_meet_only_in_the_graph(selection: str, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    changed = x.clone()
    changed[:, 0] += 1
    for graph, spreads in (("off", False), ("on", True)):
        net = network(graph=graph, selection=selection)
        others = (net(x, DAYS, index, attr).score - net(changed, DAYS, index, attr).score)[:, 1:].abs().max()
        assert bool(others > 1e-4) == spreads


def test_days_of_a_batch_do_not_meet(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network().eval()
    state = net.encoder.stocks(x, DAYS)[0]
    together = net.encoder.together(state, index, attr)
    for day in range(DAYS):
        here = (index[0] // STOCKS) == day
        alone = net.encoder.together(state[day : day + 1], index[:, here] - day * STOCKS, attr[here])
        torch.testing.assert_close(alone[0], together[day], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("last", [1, 3, 2 * L])
def test_attention_by_day_equals_attention_by_copied_windows_and_so_do_its_gradients(last: int) -> None:
    torch.manual_seed(0)
    block = TemporalEncoder(16, 4, L, 0.0, 0.0).double()
    nn.init.normal_(block.lag_bias)
    rows = torch.randn(last + L + 1, STOCKS, 16, dtype=torch.float64, requires_grad=True)
    states = block.after_lstm(rows, block.lstm(rows)[0])
    windows = torch.stack([states[len(states) - last + t + 1 - L :][:L] for t in range(last)])  # [last, lag, stock, .]
    query, key = (
        linear(part).unflatten(-1, (4, 4)) for linear, part in ((block.query, states[-last:]), (block.key, windows))
    )
    weights = torch.softmax(torch.einsum("tnhd,tlnhd->tnhl", query, key) / 2 + block.lag_bias, dim=-1).mean(dim=2)
    read = torch.einsum("tnl,tlnd->tnd", weights, block.value(windows))
    plain = block.refine(block.after_attention(states[-last:], block.out(read)))
    out, lags = block(rows, last)
    torch.testing.assert_close(lags, weights)
    torch.testing.assert_close(out, plain)
    inputs = [rows, *block.parameters()]
    for ours, theirs in zip(
        torch.autograd.grad(out.sin().sum() + lags.sin().sum(), inputs),
        torch.autograd.grad(plain.sin().sum() + weights.sin().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_temporal_attention_equals_a_window_at_a_time() -> None:
    torch.manual_seed(4)
    block = TemporalEncoder(16, 4, L, 0.0, 0.0)
    rows = torch.randn(DAYS + L - 1, 5, 16)
    together, weights = block(rows, DAYS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(DAYS, 5))
    for day in range(DAYS):
        alone, lags = block(rows[: L + day], 1)
        torch.testing.assert_close(alone[0], together[day], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(lags[0], weights[day])


@each_selection
def test_unknown_is_not_the_same_as_average(selection: str) -> None:
    """NaN weighs nothing, tells that it is unknown, and poisons nothing; a stock without any row is fine."""
    torch.manual_seed(0)
    block = SELECTIONS[selection](FEATURES, 16, 0.0)
    nn.init.normal_(block.unknown.weight)
    average = torch.zeros(3, FEATURES)
    unknown = average.clone()
    unknown[0, 2], unknown[1] = torch.nan, torch.nan
    out, weights = block(unknown)
    assert torch.isfinite(out).all()
    assert weights[0, 2] == 0
    assert weights[0].sum().item() == pytest.approx(1)
    assert weights[1].sum() == 0
    other = block(average)[0]
    assert not torch.allclose(out[:2], other[:2], atol=1e-3)
    assert torch.equal(out[2], other[2])


@each_selection
def test_unknown_days_do_not_poison_a_score(selection: str, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    x[:3], x[5, 1], x[:, 2, 0] = torch.nan, torch.nan, torch.nan
    assert torch.isfinite(network(selection=selection)(x, DAYS, index, attr).score).all()


@each_selection
def test_selection_weights_sum_to_one_over_the_known(selection: str) -> None:
    x = torch.randn(7, FEATURES)
    x[2, 3] = torch.nan
    weights = SELECTIONS[selection](FEATURES, 16, 0.0)(x)[1]
    torch.testing.assert_close(weights.sum(-1), torch.ones(7))
    assert (weights >= 0).all()


def test_the_hinge_selection_starts_uniform() -> None:
    weights = HingeSelection(FEATURES, 16, 0.0)(torch.randn(7, FEATURES))[1]
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / FEATURES))


@pytest.mark.parametrize(("lags", "cycles"), [(16, 2.25), (17, 1.75), (60, 2.25), (60, 29.5)])
def test_fan_finds_the_planted_cycle_between_two_bins_on_any_slope(lags: int, cycles: float) -> None:
    ago = torch.arange(1 - lags, 1)
    phase = 0.9
    level = 5 - 0.3 * ago + 3 * torch.cos(2 * math.pi * cycles / lags * ago + phase)
    facts, rest = Waves(lags, 1)(level.expand(2, 3, -1))
    cosine, sine, size, frequency = facts[1, 2, 0].tolist()
    assert frequency == pytest.approx(4 * cycles / lags - 1)
    assert size == pytest.approx(math.log(3), abs=1e-3)
    assert math.atan2(sine, cosine) == pytest.approx(phase, abs=1e-3)
    assert rest.abs().max() < 1e-3


@pytest.mark.parametrize(("lags", "waves"), [(5, 2), (7, 3), (20, 10)])
def test_fan_survives_windows_without_a_cycle(lags: int, waves: int) -> None:
    block = FrequencyAdaptiveNorm(2, lags, waves, 8, 0.0)
    changes = torch.randn(lags + 2, 5, 2)
    changes[:, 0], changes[:, 1], changes[:, 2] = 0.0, torch.nan, 1.0
    changes.requires_grad_()
    out = block(changes, 3)
    out.square().sum().backward()
    assert torch.isfinite(out).all()
    assert changes.grad is not None
    assert torch.isfinite(changes.grad).all()


def test_fan_takes_out_the_strongest_cycle_first() -> None:
    ago = torch.arange(1 - 32, 1)
    strong, weak = (torch.cos(2 * math.pi * cycles / 32 * ago) for cycles in (3.0, 9.0))
    facts, rest = Waves(32, 2)(2 * strong + weak)
    torch.testing.assert_close(facts[:, 3], 4 * torch.tensor([3.0, 9.0]) / 32 - 1)
    assert rest.abs().max() < 0.2
    assert Waves(32, 1)(2 * strong + weak)[1].std() == pytest.approx(weak.std().item(), rel=0.05)


def test_the_papers_selection_is_a_loop_over_features() -> None:
    """Feature by feature with ordinary modules: an embedding, a gated residual network, a weight."""
    torch.manual_seed(7)
    block = PaperSelection(FEATURES, 16, 0.0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(4, 5, FEATURES)
    x[0, 1, 2], x[1, 0], x[:, 3, 4] = torch.nan, torch.nan, torch.nan
    bank = dict(block.each.named_parameters())
    embedded, values = [], []
    for j in range(FEATURES):
        embed, each = nn.Linear(1, 16), GatedResidual(16, 0.0)
        embed.load_state_dict({"weight": block.embed.weight[j].T, "bias": block.embed.bias[j]})
        each.load_state_dict({name: p[j].T if p.ndim == 3 else p[j] for name, p in bank.items()})
        known = torch.isfinite(x[..., j : j + 1])
        xi = embed(x[..., j : j + 1].nan_to_num())
        values.append(torch.where(known, each(xi), 0.0))
        embedded.append(torch.where(known, xi, 0.0))
    told = torch.cat(embedded, dim=-1)
    branch = block.outer(nn.functional.elu(block.inner(told)))
    content, gate = block.choose.gate(branch).chunk(2, dim=-1)
    logits = block.choose.norm(block.shortcut(told) + torch.sigmoid(gate) * content)
    expected = torch.nan_to_num(torch.softmax(logits.masked_fill(x.isnan(), -torch.inf), dim=-1))
    out = sum(expected[..., j : j + 1] * value for j, value in enumerate(values))
    out = out + torch.isnan(x).float() @ block.unknown.weight.T
    found, weights = block(x)
    torch.testing.assert_close(weights, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found, out, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("features", "hidden"), [(FEATURES, 16), (11, 8)])
def test_the_papers_selection_has_as_many_parameters_as_it_says(features: int, hidden: int) -> None:
    f, h = features, hidden
    said = f * (5 * h**2 + 11 * h + f * h + 5) + h**2 + 2 * h
    assert parameter_count(PaperSelection(features, hidden, 0.0)) == said


def test_gat_at_temperature_one_is_torch_geometrics() -> None:
    torch.manual_seed(5)
    mine = TemperedGATv2(16, 4, EDGE, 0.0, "free")
    theirs = GATv2Conv(16, 4, heads=4, edge_dim=EDGE - 1, add_self_loops=False)
    theirs.load_state_dict({name: value for name, value in mine.state_dict().items() if name != "rho"})
    x, index, attr = torch.randn(STOCKS, 16), torch.randint(0, STOCKS, (2, 50)), torch.rand(50, EDGE)
    attr[:, -1] = 1.0
    torch.testing.assert_close(mine(x, index, attr), theirs(x, index, attr[:, :-1]))
    nn.init.constant_(mine.rho, 100.0)
    torch.testing.assert_close(mine.temperature(), torch.full((4,), 2.0))
    nn.init.constant_(mine.rho, -100.0)
    torch.testing.assert_close(mine.temperature(), torch.full((4,), 0.5))
    assert not torch.allclose(mine(x, index, attr), theirs(x, index, attr[:, :-1]), atol=1e-4)


def test_normalized_scores_bound_what_the_temperature_divides() -> None:
    """Where free scores grow with their vector, the odds of equally heavy links stay within exp(2 sqrt(C) / tau)."""
    torch.manual_seed(10)
    x, index, attr = torch.randn(STOCKS, 16), torch.randint(0, STOCKS, (2, 80)), torch.rand(80, EDGE)
    attr[:, -1] = 1.0
    outcomes = {}
    for scores in ("free", "normalized"):
        layer = TemperedGATv2(16, 4, EDGE, 0.0, scores)
        nn.init.normal_(layer.att)
        for length in (1.0, 100.0):
            layer.att.data *= length
            alpha = layer(x, index, attr, return_attention_weights=True)[1][1]
            odds = [alpha[index[1] == i].amax(0) / alpha[index[1] == i].amin(0) for i in index[1].unique()]
            outcomes[scores, length] = torch.stack(odds)
    torch.testing.assert_close(alpha, weights_by_cosine(layer, x, index, attr))
    assert outcomes["free", 100.0].max() > math.exp(4)
    assert outcomes["normalized", 100.0].max() <= math.exp(4) * (1 + 1e-5)
    torch.testing.assert_close(outcomes["normalized", 1.0], outcomes["normalized", 100.0])


def weights_by_cosine(layer: TemperedGATv2, x: Tensor, index: Tensor, attr: Tensor) -> Tensor:
    """Attention weights by cosine, edge by edge."""
    left, right, edge = layer.lin_l(x), layer.lin_r(x), layer.lin_edge(attr[:, :-1])
    mixed = nn.functional.leaky_relu(left[index[0]] + right[index[1]] + edge, 0.2).view(-1, 4, 4)
    logits = 2 * nn.functional.cosine_similarity(mixed, layer.att, dim=-1)
    return torch.stack([logits[k].exp() / logits[index[1] == i].exp().sum(0) for k, i in enumerate(index[1])])


def test_a_weight_scales_the_odds_of_its_link() -> None:
    torch.manual_seed(6)
    layer, x = TemperedGATv2(16, 4, EDGE, 0.0, "free"), torch.randn(3, 16)
    nn.init.constant_(layer.rho, 0.7)
    index, attr = torch.tensor([[0, 1, 2], [2, 2, 2]]), torch.rand(3, EDGE)

    def odds(weight: float) -> Tensor:
        attr[:, -1] = torch.tensor([weight, 1.0, 1.0])
        alpha = layer(x, index, attr, return_attention_weights=True)[1][1]
        return alpha[0] / alpha[1:].sum(0)

    torch.testing.assert_close(odds(3.0), 3 * odds(1.0))
    assert odds(1e-12).max() < 1e-9
    heard, unheard = layer(x, index[:, 1:], attr[1:]), layer(x, index, attr)
    torch.testing.assert_close(heard, unheard)


def test_weights_alone_leave_equal_links_as_they_are(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network()
    heavy = torch.cat([attr[:, :-1], torch.full((len(attr), 1), 7.0)], dim=1)
    light = torch.cat([attr[:, :-1], torch.full((len(attr), 1), 0.1)], dim=1)
    torch.testing.assert_close(net(x, DAYS, index, heavy).score, net(x, DAYS, index, light).score, atol=1e-5, rtol=1e-4)


def hierarchy_of(days: int, weight: float, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Self-loops, stocks 0-4 and 5-9 in two industries of one sector, stock 10 in the sector alone, 11 nowhere."""
    order = torch.arange(STOCKS) if order is None else order
    industry, sector = torch.tensor([0] * 5 + [1] * 5) + STOCKS, STOCKS + 2
    below = torch.cat([order[:11], torch.tensor([STOCKS, STOCKS + 1])])
    above = torch.cat([industry, torch.full((3,), sector)])
    own = torch.arange(STOCKS)
    index = torch.stack([torch.cat([own, below, above]), torch.cat([own, above, below])])
    attr = torch.zeros(index.shape[1], EDGE)
    attr[:STOCKS, 0] = 1.0
    attr[:, -1] = weight
    attr[:STOCKS, -1] = 1.0
    index = torch.cat([torch.where(index < STOCKS, i * STOCKS + index, days * index + i) for i in range(days)], dim=1)
    return index, attr.repeat(days, 1)


def test_groups_start_as_the_mean_of_their_stocks() -> None:
    state = torch.randn(2, STOCKS, 4)
    index, _ = hierarchy_of(2, 1.0)
    nodes = with_groups(state.view(-1, 4), index, 2)
    torch.testing.assert_close(nodes[: 2 * STOCKS], state.view(-1, 4), atol=0, rtol=0)
    groups = nodes[2 * STOCKS :].view(3, 2, 4)
    for group, members in enumerate((slice(0, 5), slice(5, 10), slice(0, 11))):
        torch.testing.assert_close(groups[group], state[:, members].mean(1))
    absent = index[:, (index != 3).all(0)]  # stock 3 of the first day alone
    groups = with_groups(state.view(-1, 4), absent, 2)[2 * STOCKS :].view(3, 2, 4)
    torch.testing.assert_close(groups[0, 0], state[0, [0, 1, 2, 4]].mean(0))
    torch.testing.assert_close(groups[2, 1], state[1, :11].mean(0))


def test_stocks_meet_through_their_groups_alone(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, _ = inputs
    net = network(graph_layers=3)  # up, across, down
    index, attr = hierarchy_of(DAYS, 1.0)
    changed = x.clone()
    changed[:, 0] += 1
    moved = (net(x, DAYS, index, attr).score - net(changed, DAYS, index, attr).score).abs().amax((0, 2))
    assert (moved[:11] > 1e-6).all()
    assert moved[11] == 0


def test_a_heavier_hierarchy_says_more_and_without_weight_there_is_none(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, _ = inputs
    net = network()
    index, attr = hierarchy_of(DAYS, 1.0)
    loops = (index[0] == index[1]).nonzero()[:, 0]
    alone = net(x, DAYS, index[:, loops], attr[loops]).score
    away = [
        float((net(x, DAYS, *hierarchy_of(DAYS, weight)).score - alone).detach().abs()[:, :11].mean())
        for weight in (1e-9, 0.1, 1.0, 10.0)
    ]
    assert away[0] < 1e-6
    assert away == sorted(away)
    assert away[-1] > 3 * away[1]


def test_permuting_stocks_permutes_scores_through_groups(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, _ = inputs
    net = network()
    order = torch.randperm(STOCKS, generator=torch.Generator().manual_seed(2))
    place = torch.argsort(order)
    index, attr = hierarchy_of(DAYS, 0.5)
    moved = net(x[:, order], DAYS, *hierarchy_of(DAYS, 0.5, place)).score
    torch.testing.assert_close(moved, net(x, DAYS, index, attr).score[:, order], atol=1e-5, rtol=1e-4)


def test_days_of_a_batch_do_not_meet_in_groups(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, _ = inputs
    net = network().eval()
    state = net.encoder.stocks(x, DAYS)[0]
    together = net.encoder.together(state, *hierarchy_of(DAYS, 0.5))
    for day in range(DAYS):
        alone = net.encoder.together(state[day : day + 1], *hierarchy_of(1, 0.5))
        torch.testing.assert_close(alone[0], together[day], atol=1e-6, rtol=1e-5)


def test_stochastic_depth_skips_a_day_with_its_groups(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, _, _ = inputs
    net = network(stochastic_depth=0.5).train()
    draws = torch.stack([net(x, DAYS, *hierarchy_of(DAYS, 0.5)).score for _ in range(40)]).detach()
    for day in range(DAYS):
        assert 2 <= len({round(float(value), 4) for value in draws[:, day, 0, 0]}) <= 4


def test_edge_features_matter(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network()
    assert not torch.allclose(net(x, DAYS, index, attr).score, net(x, DAYS, index, 1 - attr).score, atol=1e-4)


def test_stochastic_depth_skips_whole_days_in_training_only(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    net = network(stochastic_depth=0.5).train()
    draws = torch.stack([net(x, DAYS, index, attr).score for _ in range(30)]).detach()
    assert draws.std(0).max() > 0
    per_day = [{round(float(value), 4) for value in draws[:, day, 0, 0]} for day in range(DAYS)]
    assert all(2 <= len(values) <= 4 for values in per_day)  # two layers, each kept or not, one draw a day
    net.eval()
    torch.testing.assert_close(net(x, DAYS, index, attr).score, net(x, DAYS, index, attr).score, atol=0, rtol=0)


def test_history_is_fixed_by_the_date() -> None:
    for day in range(40, 100):
        start = block_start(day, L)
        assert start % L == 0
        assert L <= day - start + 1 <= 2 * L - 1


def test_a_full_size_model_stays_below_ten_million_parameters() -> None:
    encoder = Encoder(395, range(4), EDGE, 60, 256, 4, "hinge", "on", 2, "fan", 4, 0.1, 0.1, "free", 0.1, "fp32")
    assert parameter_count(AtftGatFan(encoder, 256, 4, 3)) < 10_000_000


# --- attention dropout and what attention can be asked ---------------------------------------------


@pytest.mark.parametrize("graph", ["on", "off"])
def test_attention_dropout_acts_in_time_and_in_the_graph_in_training_only(
    graph: str, inputs: tuple[Tensor, Tensor, Tensor]
) -> None:
    x, index, attr = inputs
    net, plain = network(graph=graph, attention_dropout=0.5), network(graph=graph)
    torch.manual_seed(1)
    assert not torch.allclose(net(x, DAYS, index, attr).score, plain(x, DAYS, index, attr).score, atol=1e-3)
    if graph == "on":
        state = torch.randn(DAYS, STOCKS, 16)
        draws = [net.encoder.together(state, index, attr) for _ in range(2)]
        assert not torch.allclose(*draws, atol=1e-3)
    net.eval()
    assert torch.equal(net(x, DAYS, index, attr).score, plain(x, DAYS, index, attr).score)


def test_looking_on_changes_nothing_and_sees_what_passes(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    """Every layer leaves from where it came plus what was added, and its weights are those of the layer."""
    _, index, attr = inputs
    torch.manual_seed(8)
    graph, state = GraphAttention(16, 4, EDGE, 3, 0.0, 0.0, "free"), torch.randn(DAYS, STOCKS, 16)
    heard = list(graph.listen(state, index, attr, 0.0))
    assert len(heard) == 3
    assert torch.equal(heard[-1].after.view(DAYS, STOCKS, 16), graph(state, index, attr, 0.0))
    came = state.view(-1, 16)
    for layer, skip, (before, alpha, added, after) in zip(graph.layers, graph.skips, heard, strict=True):
        message, (_, weights) = layer(came, index, attr, return_attention_weights=True)
        assert torch.equal(before, came)
        assert torch.equal(alpha, weights)
        assert torch.equal(added, skip.gated(message))
        assert torch.equal(after, skip(before, message))
        came = after


# --- quantile heads -------------------------------------------------------------------------------


def test_quantiles_never_cross() -> None:
    torch.manual_seed(9)
    heads = QuantileHeads(16, 4, 5)
    for parameter in heads.parameters():
        nn.init.normal_(parameter, std=5.0)
    quantiles = heads(torch.randn(50, 30, 16))
    assert quantiles.shape == (50, 30, 4, 5)
    assert (quantiles.diff(dim=-1) >= 0).all()
    assert quantiles.diff(dim=-1).max() > 1
    assert (quantiles[..., 0] < 0).any()
    assert (quantiles[..., 0] > 0).any()


def test_quantiles_stand_beside_scores_and_leave_them_alone(inputs: tuple[Tensor, Tensor, Tensor]) -> None:
    x, index, attr = inputs
    plain, more = network(), network(levels=3)
    score, none = plain(x, DAYS, index, attr)
    assert none is None
    same, quantiles = more(x, DAYS, index, attr)
    assert torch.equal(score, same)
    assert quantiles.shape == (DAYS, STOCKS, 4, 3)
    assert parameter_count(more) - parameter_count(plain) == 17 * 4 * 3
