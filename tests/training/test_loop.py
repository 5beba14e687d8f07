"""The loop: work survives a kill to the last bit, is shared by processes, and says what went wrong."""

import json
import multiprocessing
import os
import random
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import spearmanr

from atft.errors import InputError
from atft.model.atft_gat_fan import AtftGatFan
from atft.training import rankers, scratch
from atft.training.loop import Plan, fit
from atft.training.pretext.fitting import pretrain
from atft.training.rankers import Manifest, fit_ranker
from atft.training.schedule import Schedule
from atft.training.scratch import Checkpoint, Scratch
from conftest import World, set_knobs
from training.test_training import ARCHITECTURE, PRETEXT, network_of, score_days, source_of, train

ROOT = Path(__file__).parents[2]
ALL_STATE = {
    "adamw, everything on": {"ema_decay": 0.9, "feature_clip": 3.0, "regime_weighting": 1.0, "accumulate": 2},
    "adabelief": {"optimizer": "adabelief", "schedule": "cosine_restarts", "day_share": 0.7, "freeze_epochs": 1},
    "shampoo": {"optimizer": "shampoo", "turnover_threshold": 0.1},
}


class DeathError(Exception):
    pass


class Deadly(Checkpoint):
    """Keeps the state after every step, and dies after the `last` of them."""

    last = 4

    def due(self) -> bool:
        return True

    def save(self, state: Mapping[str, Any]) -> None:
        super().save(state)
        self.last -= 1
        if not self.last:
            raise DeathError


def bits(network: torch.nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in network.state_dict().values())


@pytest.mark.parametrize("changes", ALL_STATE.values(), ids=ALL_STATE)
def test_what_was_interrupted_ends_as_if_it_had_not_been(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    whole, file = network_of(world), tmp_path / "x.pt"
    expected = train(whole, world.panel, world, **changes)
    for kill in range(2):
        with pytest.raises(DeathError):  # its weights stand in the checkpoint, but for the first time
            train(network_of(world, seed=kill), world.panel, world, checkpoint=Deadly(file), **changes)
    parts = network_of(world, seed=2)
    found = train(parts, world.panel, world, checkpoint=Checkpoint(file), **changes)
    assert json.dumps(found) == json.dumps(expected)
    assert bits(parts) == bits(whole)


@pytest.mark.parametrize("task", ["masked", "contrastive", "both"])
def test_pretraining_goes_on_where_it_was(world: World, tmp_path: Path, task: str) -> None:
    """Also where the weights it starts from are lost: what the untrained encoder was worth is kept too."""
    whole, parts, other = (network_of(world, seed).encoder for seed in (0, 0, 1))
    knobs, days, file = PRETEXT | {"task": task, "epochs": 2}, range(70, 130), tmp_path / "x.pt"
    expected = pretrain(whole, world.panel, world.snapshots, days, **knobs)
    with pytest.raises(DeathError):
        pretrain(parts, world.panel, world.snapshots, days, **knobs, checkpoint=Deadly(file))
    resumed = other if task == "both" else parts  # contrastive alone leaves the graph as it came
    assert pretrain(resumed, world.panel, world.snapshots, days, **knobs, checkpoint=Checkpoint(file)) == expected
    assert bits(resumed) == bits(whole)


# --- the programs, killed -------------------------------------------------------------------------

TINY = {
    "threads": 1, "data__simulated__stocks": 40, "data__simulated__days": 300, "data__horizons": [1, 5],
    "split__valid": 1, "split__test": 1, "split__block_days": 40, "split__stop_days": 20, "split__min_train_days": 40,
    "split__seal_test": True, "model__lookback": 5, "model__hidden": 8, "pretrain__task": "masked", "train__epochs": 3,
}  # fmt: skip
OUTPUTS = ("models", "metrics/pretrain.json", "metrics/train.json", "metrics/epochs.csv", "metrics/selection.csv")


def stages(folder: Path, began: Any, *names: str) -> None:
    """Run stage programs in `folder`, but for those that an earlier process brought to their end."""
    os.chdir(folder)
    os.environ.pop("DVC_ROOT", None)
    os.environ["ATFT_CHECKPOINT_SECONDS"] = "0"
    os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    sys.path.insert(0, str(ROOT / "src"))
    mains = {name: runpy.run_path(str(ROOT / "src" / f"{name}.py"), run_name="stage")["main"] for name in names}
    began.set()  # all is imported
    for name, main in mains.items():
        if not Path(f"{name}.ended").exists():
            main()
            Path(f"{name}.ended").touch()


def outputs(folder: Path) -> dict[str, bytes]:
    files = [file for name in OUTPUTS for file in ((folder / name).rglob("*") if name == "models" else [folder / name])]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder with a panel and a graph, and how to start processes that have everything imported."""
    folder = tmp_path_factory.mktemp("market")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    set_knobs(params, TINY)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    (folder / "data/raw").mkdir(parents=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.test_loop"])
    with pytest.MonkeyPatch.context() as patch:  # the server knows no other path
        patch.setenv("PYTHONPATH", f"{ROOT / 'tests'}:{ROOT / 'src'}")
        process = begun(context, folder, "cache", "graph")
    process.join()
    assert process.exitcode == 0
    return folder, context


def begun(context: Any, folder: Path, *names: str) -> Any:
    """A process at the start of its work."""
    began = context.Event()
    process = context.Process(target=stages, args=(folder, began, *names))
    process.start()
    assert began.wait(60)
    return process


def test_twenty_kills_change_no_byte(market: tuple[Path, Any], tmp_path: Path) -> None:
    """kill -9 at any moment of pretraining and training; run again; the result is that of an undisturbed run."""
    folder, context = market
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for place in (calm, rough):
        shutil.copytree(folder, place)
    started = time.monotonic()
    process = begun(context, calm, "pretrain", "train")
    process.join()
    seconds, expected = time.monotonic() - started, outputs(calm)
    assert len(expected) >= 6
    draw, kills = random.Random(0), 0
    while kills < 20 or outputs(rough).keys() != expected.keys():
        process = begun(context, rough, "pretrain", "train")
        process.join(draw.uniform(0.0, 0.5) * seconds if kills < 20 else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills += 1
        else:
            assert process.exitcode == 0
            assert outputs(rough) == expected
            for name in OUTPUTS if kills < 20 else ():
                shutil.rmtree(rough / name) if name == "models" else (rough / name).unlink()
            for ended in rough.glob("*.ended") if kills < 20 else ():
                ended.unlink()
    assert outputs(rough) == expected
    assert not list((rough / ".scratch").iterdir())
    said = (rough / "stderr").read_text()
    for stage in ("pretrain", "train"):
        assert f" {stage} fold 0 seed 0: resumed in epoch" in f" {said}".replace("\n", " "), (
            f"{stage} always began anew"
        )
    assert "resumed" not in (calm / "stderr").read_text()


@pytest.mark.parametrize("task", ["contrastive", "both", "none"])
def test_every_pretext_task_gives_train_an_encoder(market: tuple[Path, Any], tmp_path: Path, task: str) -> None:
    """Loaded strictly, on the programs' own path; task none is the random start, to the last bit."""
    folder, context = market
    places = [tmp_path / "a", tmp_path / "b"] if task == "none" else [tmp_path / "a"]
    for place, init in zip(places, ("pretrained", "random"), strict=False):
        shutil.copytree(folder, place)
        params = yaml.safe_load((place / "params.yaml").read_text())
        set_knobs(params, {"pretrain__task": task, "pretrain__lags": [4, 5], "train__epochs": 1, "train__init": init})
        (place / "params.yaml").write_text(yaml.safe_dump(params))
        process = begun(context, place, "pretrain", "train")
        process.join()
        assert process.exitcode == 0
    found = json.loads((tmp_path / "a/metrics/pretrain.json").read_text())
    assert bool(found["epochs"]) == (task != "none")
    probes = found["probes"][0]
    assert probes["pretrained"].keys() == probes["random"].keys() == {"rank_ic_1", "rank_ic_5"}
    assert (probes["pretrained"] == probes["random"]) == (task == "none")
    if task == "none":
        weights = [sorted((place / "models/ranker").glob("*.safetensors")) for place in places]
        assert [file.read_bytes() for file in weights[0]] == [file.read_bytes() for file in weights[1]]
        assert weights[0]


def test_a_checkpoint_is_found_by_the_same_work_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "data"
    file.write_text("one")
    base = Scratch.of("train", {"lr": 0.1}, [file])
    assert base == Scratch.of("train", {"lr": 0.1}, [file])
    others = [Scratch.of("pretrain", {"lr": 0.1}, [file]), Scratch.of("train", {"lr": 0.2}, [file])]
    file.write_text("two")
    others.append(Scratch.of("train", {"lr": 0.1}, [file]))
    file.write_text("one")
    code = [(name, path) for name, path in scratch.loaded_code() if not name.endswith("losses")]
    monkeypatch.setattr(scratch, "loaded_code", lambda: code)
    others.append(Scratch.of("train", {"lr": 0.1}, [file]))
    assert len({base, *others}) == 5


def test_finished_work_is_not_done_twice(tmp_path: Path) -> None:
    place, calls = Scratch(tmp_path / "x"), []
    place.out.mkdir(parents=True, exist_ok=True)

    def work(checkpoint: Checkpoint) -> dict[str, Any]:
        calls.append(checkpoint)
        return {"value": 0.1 + 0.2, "none": None}

    assert place.once("a", work) == place.once("a", work) == {"value": 0.1 + 0.2, "none": None}
    assert len(calls) == 1
    place.remove()
    assert not place.folder.exists()


# --- steps ----------------------------------------------------------------------------------------


class Slope:
    """A task whose gradient is the mean of its days."""

    title, blocks = "slope", {}

    def __init__(self) -> None:
        self.module = torch.nn.Linear(1, 1, bias=False)
        self.facts: dict[str, float] = {}

    def loss(self, block: Any) -> torch.Tensor:
        return self.module.weight.sum() * float(np.mean(block.days))

    def after_epoch(self, epoch: int, facts: dict[str, float]) -> bool:
        self.facts = facts
        return False


def test_a_step_is_the_mean_over_the_days_of_its_runs() -> None:
    """Not over its runs, which may be of different length."""
    task, runs = Slope(), [[1, 2, 3], [10]]
    source = SimpleNamespace(blocks=lambda runs: (SimpleNamespace(days=days) for days in runs), device="cpu")
    start = task.module.weight.item()
    optimizer = torch.optim.SGD(task.module.parameters(), lr=1.0)
    plan = Plan(1, 1.0, 2, gradient_clip=1e9, schedule=Schedule("constant", 0, 0, 1, 1, 1))
    fit(task, source, runs, optimizer, plan, 0, 0)  # pyright: ignore
    assert task.module.weight.item() == pytest.approx(start - (1 + 2 + 3 + 10) / 4)
    assert task.facts["gradient"] == pytest.approx(4)
    assert task.facts["train_loss"] == pytest.approx(4 * start)


# --- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3e38, 1e9], ids=["not finite", "exploding"])
def test_a_bad_loss_names_step_term_and_day(world: World, size: float) -> None:
    label = world.panel.label.copy()
    stock = int(np.flatnonzero(np.isfinite(label[113, :, 1]))[0])
    label[113, stock, 1] = size
    network = network_of(world)
    date = world.panel.dates[113]
    with pytest.raises(InputError, match=rf"in step \d+: term huber of {date}; the last good step was \d+; lower"):
        train(network, replace(world.panel, label=label), world, days=range(70, 130))
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_scores_that_are_not_finite_are_blamed_first(world: World) -> None:
    network = network_of(world)
    with torch.no_grad():
        network.heads.weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=r"in step 0: scores of \d{4}-\d\d-\d\d; no step was good"):
        train(network, world.panel, world)


# --- memory and precision -------------------------------------------------------------------------


def gradient(network: AtftGatFan, world: World) -> torch.Tensor:
    block = source_of(world).block([110, 111, 112])
    assert len(block.edge_attr) > 0
    network.zero_grad()
    network(block.x, 3, block.edge_index, block.edge_attr).score.square().sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("size", [7, 40], ids=["a day at a time in the graph", "two days, then one"])
def test_stocks_in_parts_give_the_same_scores_and_gradients(world: World, size: int) -> None:
    network = network_of(world, dropout=0.0, attention_dropout=0.0, stochastic_depth=0.0)
    whole, scores = gradient(network, world), list(score_days(network, source_of(world), [110]))
    network.train().encoder.micro_batch = size
    torch.testing.assert_close(gradient(network, world), whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(next(score_days(network, source_of(world), [110])), scores[0], atol=1e-5)


def test_parts_bound_what_the_encoder_keeps(world: World) -> None:
    """Activations kept for the way back, counted by autograd itself."""

    def kept(micro_batch: int) -> int:
        network, size = network_of(world), 0
        network.train().encoder.micro_batch = micro_batch
        own = {p.data_ptr() for p in network.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel() if tensor.data_ptr() not in own else 0
            return tensor

        block = source_of(world).block([110, 111, 112])
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.encoder.stocks(block.x, 3)
        return size

    assert kept(8) < kept(0) / 5


def test_half_precision_orders_stocks_alike_and_ties_none(world: World) -> None:
    days = [110, 120]
    full, half = (
        np.stack(list(score_days(network_of(world, precision=precision), source_of(world), days)))
        for precision in ("fp32", "bf16")
    )
    assert half.dtype == np.float32
    known = world.panel.tradable[days]
    assert not np.array_equal(full[known], half[known])
    for i, there in enumerate(known):
        assert spearmanr(full[i, there, 0], half[i, there, 0]).statistic > 0.99
        assert len(np.unique(half[i, there, 0])) == there.sum()


# --- several processes ----------------------------------------------------------------------------

WORKER = """
import sys
sys.path[:0] = [{src!r}, {tests!r}]
import pickle
from pathlib import Path
import torch
from atft.training import supervised
from atft.training.processes import processes, rank
supervised.make_optimizer = lambda name, network, lr, *_: torch.optim.SGD(network.parameters(), lr)
from conftest import World
from training.test_loop import bits
from training.test_training import network_of, train
from atft.panel.store import read_panel
from atft.graph.snapshots import read_snapshots
folder = Path({folder!r})
world = World(None, read_panel(folder), read_snapshots(folder))
torch.set_num_threads(1)
with processes():
    network = network_of(world)
    history = train(network, world.panel, world, epochs=2, **{knobs!r})
    torch.save({{"weights": network.state_dict(), "rows": [
        {{name: row[name] for name in ("train_loss", "gradient", "loss_rank", "stop_rank_ic")}} for row in history
    ]}}, folder / f"{name}-{{rank()}}.pt")
"""
SHARED = {"accumulate": 2, "days_per_step": 5, "lr": 0.05, "regime_weighting": 1.0}


def test_two_processes_fit_what_one_does(world: World, tmp_path: Path) -> None:
    """Runs of days shared by two processes over gloo, with dropout and weighted regimes; then all weights agree."""
    from conftest import world_of  # the session's panel has no file

    world_of(world.market.bars, tmp_path)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    for name, number in (("one", "1"), ("two", "2")):
        script = tmp_path / f"{name}.py"
        places = {"src": str(ROOT / "src"), "tests": str(ROOT / "tests"), "folder": str(tmp_path)}
        script.write_text(WORKER.format(**places, knobs=SHARED, name=name))
        done = subprocess.run([*launch, number, str(script)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    one, first, second = (torch.load(tmp_path / f"{name}.pt") for name in ("one-0", "two-0", "two-1"))
    for name, weight in one["weights"].items():
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-5, atol=1e-5)
        assert torch.equal(first["weights"][name], second["weights"][name])
    for row, other in zip(one["rows"], first["rows"], strict=True):
        assert other == pytest.approx(row, rel=1e-4)
    assert not torch.equal(one["weights"]["heads.weight"], network_of(world).heads.weight)


def test_the_program_runs_under_torchrun(market: tuple[Path, Any], tmp_path: Path) -> None:
    """Two processes leave one set of files, about what one leaves."""
    folder, context = market
    both, alone = tmp_path / "both", tmp_path / "alone"
    shutil.copytree(folder, both)
    params = yaml.safe_load((both / "params.yaml").read_text())
    set_knobs(params, {"train__init": "random", "train__accumulate": 2})
    (both / "params.yaml").write_text(yaml.safe_dump(params))
    (both / "models/encoder").mkdir(parents=True)
    shutil.copytree(both, alone)
    process = begun(context, alone, "train")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, str(ROOT / "src/train.py")], cwd=both, capture_output=True, text=True, check=False, env=os.environ
    )
    process.join()
    assert done.returncode == 0, done.stderr[-2000:]
    two, one = (json.loads((place / "metrics/train.json").read_text()) for place in (both, alone))
    assert two.keys() == one.keys()
    assert [fit["kept_epoch"] for fit in two["fits"]] == [fit["kept_epoch"] for fit in one["fits"]]
    assert not list((both / ".scratch").iterdir())


def test_what_processes_cannot_share_is_refused(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atft.training.loop.count", lambda: 2)
    with pytest.raises(InputError, match="3 runs of days a step cannot be shared evenly by 2 processes"):
        train(network_of(world), world.panel, world, accumulate=3)
    monkeypatch.setattr(rankers, "count", lambda: 2)
    manifest = Manifest("ridge", [0], 1, [], [], ARCHITECTURE, {})
    with pytest.raises(InputError, match="ridge is fitted by one process"):
        fit_ranker(manifest, tmp_path, tmp_path, world.panel, world.snapshots, None, 0, 0)  # pyright: ignore
