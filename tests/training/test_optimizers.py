"""Optimisers: trajectories against references, bounds on steps, exact resumption, who decays."""

import copy
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from atft.model.gating import BankNorm
from atft.model.selection import SELECTIONS, HingeSelection, PaperSelection
from atft.training.optimizers.adabelief import CappedAdaBelief
from atft.training.optimizers.averaging import WeightAverage
from atft.training.optimizers.factory import decay_groups, make_optimizer
from atft.training.optimizers.row_clip import MEMORY, STATE, clip_rows, feature_layout
from atft.training.optimizers.shampoo import Shampoo, inverse_fourth_root
from atft.training.schedule import Schedule
from conftest import World
from training.test_training import network_of

NAMES = ["adamw", "adabelief", "shampoo"]
Array = NDArray[np.float64]


def gradients(steps: int, *shape: int) -> Array:
    """Noise around a direction, with a scale for each entry."""
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=shape))
    return scale * (rng.normal(size=shape) + rng.normal(size=(steps, *shape)))


def follow(optimizer: torch.optim.Optimizer, parameter: Tensor, steps: Array) -> Array:
    """The parameter after each step with these gradients."""
    path = []
    for gradient in steps:
        parameter.grad = torch.as_tensor(gradient, dtype=parameter.dtype).clone()
        optimizer.step()
        path.append(parameter.detach().numpy().copy())
    return np.array(path)


def start(*shape: int, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype))


def adam_step(m: Array, v: Array, t: int) -> Array:
    return m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)


def test_adamw_is_torchs_reference() -> None:
    ours, theirs = nn.Linear(7, 5), nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    one = make_optimizer("adamw", ours, 0.01, 0.1, 0.0)
    groups = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    two = torch.optim.AdamW(groups, lr=0.01, foreach=False, fused=False)
    for gradient in gradients(50, 5, 7):
        for module, optimizer in ((ours, one), (theirs, two)):
            module.weight.grad = torch.as_tensor(gradient, dtype=torch.float32)
            module.bias.grad = module.weight.grad.sum(1)
            optimizer.step()
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), atol=1e-6, rtol=1e-5)


def test_adabelief_is_the_papers_with_a_cap() -> None:
    w = start(5, 7)
    steps = gradients(60, 5, 7)
    steps[30:] = steps[30]  # constant: belief grows past the cap
    lr, decay = 0.01, 0.1
    expected, m, s, path, capped = w.detach().numpy().copy(), np.zeros((5, 7)), np.zeros((5, 7)), [], 0
    for t, g in enumerate(steps, start=1):
        m = 0.9 * m + 0.1 * g
        s = 0.999 * s + 0.001 * (g - m) ** 2 + 1e-16
        u = m / (1 - 0.9**t) / (np.sqrt(s / (1 - 0.999**t)) + 1e-16)
        size = np.sqrt(np.mean(u**2))
        capped += size > 1
        expected = (1 - lr * decay) * expected - lr * u / max(size, 1)
        path.append(expected)
    assert 0 < capped < 60
    optimizer = CappedAdaBelief([{"params": [w], "weight_decay": decay}], lr)
    np.testing.assert_allclose(follow(optimizer, w, steps), path, rtol=1e-9, atol=1e-12)


def test_a_constant_gradient_cannot_make_adabelief_run_away() -> None:
    """Without the cap its steps are 20 learning rates long by then."""
    w = start(4, 4)
    path = follow(CappedAdaBelief([w], 0.01), w, np.tile(gradients(1, 4, 4), (1000, 1, 1)))
    steps = np.sqrt((np.diff(path, axis=0) ** 2).mean((1, 2))) / 0.01
    assert steps.max() <= 1 + 1e-6
    assert steps[-1] > 0.99


def root(matrix: Array, ridge: float = 1e-6) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag((np.maximum(values, 0) + ridge * values[-1]) ** -0.25) @ vectors.T


def dense_shampoo(w: Array, steps: Array, lr: float, decay: float, begin: int, every: int) -> Array:
    """One block, written as in the paper."""
    rows, columns = w.shape
    m, v, left, right = np.zeros(w.shape), np.zeros(w.shape), np.zeros((rows, rows)), np.zeros((columns, columns))
    roots, path = (np.eye(rows), np.eye(columns)), []
    for t, g in enumerate(steps, start=1):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        left, right = 0.95 * left + 0.05 * g @ g.T, 0.95 * right + 0.05 * g.T @ g
        step = adam_step(m, v, t)
        if t >= begin:
            if (t - begin) % every == 0:
                roots = root(left), root(right)
            white = roots[0] @ m @ roots[1]
            step = white * np.linalg.norm(step) / np.linalg.norm(white)
        w = (1 - lr * decay) * w - lr * step
        path.append(w)
    return np.array(path)


@pytest.mark.parametrize(("begin", "every"), [(20, 20), (25, 7), (1, 1)])
def test_shampoo_is_the_dense_one_on_a_small_matrix(begin: int, every: int) -> None:
    w, steps = start(5, 7), gradients(80, 5, 7)
    expected = dense_shampoo(w.detach().numpy().copy(), steps, 0.01, 0.1, begin, every)
    optimizer = Shampoo([{"params": [w], "weight_decay": 0.1}], 0.01, start=begin, every=every)
    np.testing.assert_allclose(follow(optimizer, w, steps), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("rows", [24, 23, 17])
def test_blocks_are_matrices_of_their_own(rows: int) -> None:
    """[rows, 3] in blocks of at most 8 moves as its equal parts would; what pads the last one is not felt."""
    w, steps = start(rows, 3), gradients(60, rows, 3)
    parts = [nn.Parameter(part.detach().clone()) for part in w.split(8 if rows > 17 else 6)]
    cuts = np.cumsum([len(part) for part in parts])[:-1]
    together = follow(Shampoo([w], 0.01, block=8), w, steps)
    alone = [
        follow(Shampoo([part], 0.01), part, piece)
        for part, piece in zip(parts, np.split(steps, cuts, axis=1), strict=True)
    ]
    np.testing.assert_allclose(together, np.concatenate(alone, axis=1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (6, 1), ()])
def test_shampoo_moves_vectors_as_adam_does(shape: tuple[int, ...]) -> None:
    w, steps = start(*shape), gradients(50, *shape)
    twin = nn.Parameter(w.detach().clone())
    path = follow(Shampoo([w], 0.01), w, steps)
    np.testing.assert_allclose(path, follow(torch.optim.AdamW([twin], lr=0.01, weight_decay=0.0), twin, steps))


def test_shampoo_takes_dimensions_beyond_the_first_as_one() -> None:
    w, steps = start(4, 3, 2), gradients(40, 4, 3, 2)
    flat = nn.Parameter(w.detach().clone().view(4, 6))
    path = follow(Shampoo([w], 0.01), w, steps)
    np.testing.assert_array_equal(path.reshape(40, 4, 6), follow(Shampoo([flat], 0.01), flat, steps.reshape(40, 4, 6)))


def test_shampoo_survives_gradients_of_nothing() -> None:
    w = start(5, 5, dtype=torch.float32)
    begin = w.detach().clone().numpy()
    path = follow(Shampoo([w], 0.01), w, np.zeros((45, 5, 5)))
    np.testing.assert_array_equal(path[-1], begin)
    assert np.isfinite(follow(Shampoo([w], 0.01), w, np.concatenate([np.zeros((45, 5, 5)), gradients(30, 5, 5)]))).all()


def test_the_inverse_root_of_a_matrix_of_low_rank_is_bounded() -> None:
    thin = torch.randn(3, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = inverse_fourth_root(thin @ thin.mT, 1e-6)
    largest = torch.linalg.eigvalsh(thin @ thin.mT)[:, -1]
    # eigenvalue 0 counts as a millionth of the largest
    torch.testing.assert_close(torch.linalg.eigvalsh(found)[:, -1], (1e-6 * largest) ** -0.25, rtol=1e-3, atol=0)


# --- bounds on the gradient of a row --------------------------------------------------------------


class Recorder(torch.optim.SGD):
    """Remembers what the hooks left of the gradients."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__(parameters, lr=0.0)
        self.seen: list[Tensor] = []

    def step(self, closure: Any = None) -> Any:  # pyright: ignore
        self.seen.append(self.param_groups[0]["params"][0].grad.clone())
        return super().step(closure)


def clipped(steps: Array, limit: float, layout: tuple[tuple[int, ...], int] | None = None) -> tuple[Tensor, Tensor]:
    """(gradients after clipping, the mean size of each row at the end)."""
    w = start(*steps.shape[1:])
    optimizer = Recorder([w])
    clip_rows(optimizer, limit, {w: layout} if layout else {})
    follow(optimizer, w, steps)
    return torch.stack(optimizer.seen), optimizer.state[w][STATE]


def test_a_spike_is_cut_to_a_multiple_of_the_rows_own_past() -> None:
    steps = np.tile(np.array([[1.0, -1, 1], [10, 10, -10]]), (30, 1, 1))
    steps[20, 0] *= 1000
    found, mean = clipped(steps, 3.0)
    expected = torch.as_tensor(steps)
    expected[20, 0] /= 1000 / 3
    torch.testing.assert_close(found, expected)
    past = MEMORY + (1 - MEMORY) * 3
    torch.testing.assert_close(mean[:, 0], torch.tensor([1 + (past - 1) * MEMORY**9, 10], dtype=torch.float64))


def test_a_row_without_gradient_is_not_held_to_its_zeros() -> None:
    """A feature that is rarely unknown keeps the size it had; one that is new starts with its own."""
    steps = np.zeros((50, 2, 3))
    steps[0, 0], steps[49] = 2.0, 2.0
    found, mean = clipped(steps, 3.0)
    torch.testing.assert_close(found, torch.as_tensor(steps))
    torch.testing.assert_close(mean, torch.full((2, 1), 2.0, dtype=torch.float64))


def test_the_selections_weights_are_clipped_feature_by_feature() -> None:
    """A spike in one feature touches exactly that feature's weights, wherever they are stored."""
    torch.manual_seed(0)
    selection = HingeSelection(6, 8, 0.0)
    nn.init.normal_(selection.gate.weight)
    optimizer = torch.optim.SGD(selection.parameters(), lr=0.0)
    layouts = feature_layout(selection)
    names = {name for name, p in selection.named_parameters() if p in layouts}
    assert names == {"embed.weight", "squeeze.weight", "gate.weight", "unknown.weight"}
    clip_rows(optimizer, 3.0, layouts)
    for spike in (1.0, 1.0, 1000.0):
        before = {}
        for name, parameter in selection.named_parameters():
            parameter.grad = torch.ones_like(parameter)
            if name in ("embed.weight", "squeeze.weight", "unknown.weight"):
                parameter.grad[:, 4::6] = spike  # column k F + 4 is feature 4 on basis function k
            elif name == "gate.weight":
                parameter.grad[4] = spike
            before[name] = parameter.grad.clone()
        optimizer.step()
    for name, parameter in selection.named_parameters():
        assert parameter.grad is not None
        expected = before[name].clamp(max=3.0)
        torch.testing.assert_close(parameter.grad, expected)
        assert (name in names) == bool((before[name] > 3).any())


@pytest.mark.parametrize(
    ("selection", "read"),
    [
        ("hinge", ("embed.weight", "squeeze.weight", "unknown.weight")),
        ("paper", ("inner.weight", "shortcut.weight", "unknown.weight")),
    ],
)
def test_the_layout_is_where_the_forward_pass_reads_a_feature(selection: str, read: tuple[str, ...]) -> None:
    """Only the slices of feature 2 have a gradient when only feature 2 is not 0."""
    torch.manual_seed(0)
    layer = SELECTIONS[selection](5, 8, 0.0).double()
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter) if name != "embed.bias" or selection == "hinge" else nn.init.zeros_(parameter)
    x = torch.zeros(40, 5, dtype=torch.float64)
    x[:, 2] = torch.linspace(-3, 3, 40)
    x[0, 2] = float("nan")
    layer(x)[0].square().sum().backward()
    layouts = feature_layout(layer)
    for name in read:
        shape, axis = layouts[layer.get_parameter(name)]
        gradient = layer.get_parameter(name).grad
        assert gradient is not None
        size = gradient.view(shape).abs().sum([i for i in range(len(shape)) if i != axis])
        assert (size > 0).tolist() == [False, False, True, False, False], name


def test_each_feature_of_the_papers_selection_has_slices_of_its_own() -> None:
    """Banks are stored feature by feature; whoever weighs on another's choice is known by what it reads."""
    selection = PaperSelection(5, 8, 0.0)
    layouts = feature_layout(selection)
    shared = {name for name, p in selection.named_parameters() if p not in layouts}
    assert shared == {"inner.bias", "outer.weight", "outer.bias", "shortcut.bias", "choose.gate.bias",
                      "choose.norm.weight", "choose.norm.bias"}  # fmt: skip
    for parameter, (shape, axis) in layouts.items():
        assert parameter.numel() == np.prod(shape)
        assert shape[axis] == 5
    clip_rows(optimizer := torch.optim.SGD(selection.parameters(), lr=0.0), 3.0, layouts)
    for spike in (1.0, 1000.0):
        for parameter in selection.parameters():
            parameter.grad = torch.ones_like(parameter)
            if parameter in layouts:
                shape, axis = layouts[parameter]
                parameter.grad.view(shape).select(axis, 3).fill_(spike)
        optimizer.step()
    for parameter, (shape, axis) in layouts.items():
        assert parameter.grad is not None
        sizes = [parameter.grad.view(shape).select(axis, j).unique().tolist() for j in range(5)]
        assert sizes == [[1.0], [1.0], [1.0], [3.0], [1.0]]


# --- every optimiser ------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.norm, self.outer = nn.Linear(6, 9), nn.LayerNorm(9), nn.Linear(9, 2)
        self.x = torch.randn(60, 6)
        self.y = torch.stack([self.x[:, 0] * self.x[:, 1], self.x.sum(1)], 1)

    def loss(self, step: int) -> Tensor:
        rows = slice(step % 3 * 20, step % 3 * 20 + 20)
        return (self.outer(torch.tanh(self.norm(self.inner(self.x[rows])))) - self.y[rows]).square().mean()


def advance(
    module: Tiny, optimizer: torch.optim.Optimizer, average: WeightAverage, steps: range, schedule: Schedule, total: int
) -> None:
    peak = 0.02
    for step in steps:
        for group in optimizer.param_groups:
            group["lr"] = peak * schedule.scale(step, total, 1)
        optimizer.zero_grad()
        module.loss(step).backward()
        optimizer.step()
        average.update()


RESTARTS = Schedule("cosine_restarts", 10, 0.1, 20, 2, 0.05)


@pytest.mark.parametrize("kind", ["constant", "cosine", "cosine_restarts"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_falls_with_every_optimiser_and_schedule(name: str, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    module = Tiny()
    optimizer = make_optimizer(name, module, 0.02, 0.01, 3.0)  # pyright: ignore
    before = sum(module.loss(step).item() for step in range(3))
    average = WeightAverage(module, 0.9)
    advance(module, optimizer, average, range(200), Schedule(kind, 10, 0.1, 20, 2, 0.05), 200)  # pyright: ignore
    assert sum(module.loss(step).item() for step in range(3)) < 0.1 * before
    with average.applied():
        assert sum(module.loss(step).item() for step in range(3)) < 0.1 * before
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("feature_clip", [0.0, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_goes_on_bit_for_bit(name: str, feature_clip: float) -> None:
    """Stopped at step 30, between two refreshes of Shampoo's roots, saved, and loaded into new objects."""

    def parts(module: Tiny) -> tuple[torch.optim.Optimizer, WeightAverage]:
        return make_optimizer(name, module, 0.02, 0.1, feature_clip), WeightAverage(module, 0.95)  # pyright: ignore

    whole = Tiny()
    optimizer, average = parts(whole)
    advance(whole, optimizer, average, range(30), RESTARTS, 70)
    saved = io.BytesIO()
    torch.save([whole.state_dict(), optimizer.state_dict(), average.state_dict()], saved)
    advance(whole, optimizer, average, range(30, 70), RESTARTS, 70)

    saved.seek(0)
    weights, state, mean = torch.load(saved, weights_only=True)
    resumed = Tiny()
    second, second_average = parts(resumed)
    resumed.load_state_dict(weights)
    second.load_state_dict(state)
    second_average.load_state_dict(mean)
    advance(resumed, second, second_average, range(30, 70), RESTARTS, 70)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    for one, two in zip(average.average, second_average.average, strict=True):
        assert torch.equal(one, two)
    held = [any(STATE in s for s in o.state.values()) for o in (optimizer, second)]
    assert held == [feature_clip > 0] * 2


def test_a_shampoo_state_holds_tensors_alone() -> None:
    module = Tiny()
    optimizer = make_optimizer("shampoo", module, 0.02, 0.1, 0.0)
    advance(module, optimizer, WeightAverage(module, 0.9), range(25), RESTARTS, 70)
    for state in optimizer.state_dict()["state"].values():
        assert all(isinstance(value, Tensor) for value in state.values())
    assert {"left", "right", "left_root", "right_root"} <= set(optimizer.state[module.inner.weight])


def test_the_average_is_over_the_weights_it_has_seen() -> None:
    """sum d^(t-i) w_i / sum d^(t-i): the weights before the first step do not count."""
    module = nn.Linear(3, 2)
    average = WeightAverage(module, 0.8)
    seen = []
    for step in range(12):
        with torch.no_grad():
            module.weight.normal_(generator=torch.Generator().manual_seed(step))
        average.update()
        seen.append(module.weight.detach().clone())
        share = 0.8 ** torch.arange(step, -1, -1.0)
        expected = (torch.stack(seen) * (share / share.sum())[:, None, None]).sum(0)
        with average.applied():
            torch.testing.assert_close(module.weight.detach(), expected)
        assert torch.equal(module.weight, seen[-1])


@pytest.mark.parametrize("selection", ["hinge", "paper"])
def test_only_matrices_decay(world: World, selection: str) -> None:
    network = network_of(world, selection=selection)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decaying, still = ({names[id(p)] for p in group["params"]} for group in decay_groups(network, 0.1))  # pyright: ignore
    assert decaying | still == set(names.values())
    assert not decaying & still
    for name in still:
        assert network.get_parameter(name).ndim < 2 or "bias" in name or ".each.skip.norm." in name, name
    for name in decaying:
        assert network.get_parameter(name).ndim >= 2, name
    must_not = ("norm.weight", "norm.bias", "lag_bias", "rho", "bias_ih_l0", "gate.bias")
    for ending in must_not:
        assert any(name.endswith(ending) for name in still), ending
        assert not any(name.endswith(ending) for name in decaying), ending


@pytest.mark.parametrize("name", NAMES)
def test_decay_pulls_matrices_alone_whatever_the_gradient(name: str) -> None:
    """Decoupled: without a gradient a matrix shrinks by lr x decay a step, the rest stays."""
    module = Tiny()
    before = copy.deepcopy(module.state_dict())
    optimizer = make_optimizer(name, module, 0.1, 0.5, 0.0)  # pyright: ignore
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for key, value in module.state_dict().items():
        share = 0.95 if key in ("inner.weight", "outer.weight") else 1.0
        torch.testing.assert_close(value, share * before[key])


def test_a_wide_norm_of_features_does_not_decay() -> None:
    """A norm with a row per feature is a norm, however many dimensions its weights have."""
    module = nn.Module()
    module.norm = nn.LayerNorm([4, 5])
    module.norms = nn.ModuleList([nn.LayerNorm([4, 5])])
    module.bank = BankNorm(4, 5)
    module.mix = nn.Linear(5, 4)
    (decaying,) = decay_groups(module, 0.1)[0]["params"]  # pyright: ignore
    assert decaying is module.mix.weight
