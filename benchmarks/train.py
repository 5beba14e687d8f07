"""Training and scoring: stock-days a second beside two peers, arithmetic, overhead, growth, parts.

The market is made of random numbers, with a graph as `atft.graph.snapshots` builds it. Rivals run in turn, once a
round; medians over rounds count.

Run: python benchmarks/train.py [--threads 2 --plot docs/images/train_scaling.svg --big 4000]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from atft.graph.edges import EDGE_FEATURES
from atft.graph.snapshots import HierarchicalGraphBuilder, Snapshots
from atft.model.atft_gat_fan import AtftGatFan, Encoder
from atft.panel.store import Panel
from atft.program import keep_freed_memory, pin_threads
from atft.training import supervised
from atft.training.blocks import Block, Source
from atft.training.loop import Plan, seed_everything
from atft.training.objective import TERMS, LossWatch, Objective, Targets
from atft.training.optimizers.factory import make_optimizer
from atft.training.schedule import Schedule
from timing import best

HORIZONS, NEIGHBORS, INDUSTRIES, SECTORS, HEADS, CPU = [1, 5, 10, 20], 8, 24, 8, 4, torch.device("cpu")
BASE = {
    "fan_channels": [0, 1], "edge_features": len(EDGE_FEATURES), "heads": HEADS, "selection": "hinge", "graph": "on",
    "graph_layers": 2, "normalization": "fan", "fan_components": 1, "dropout": 0.2, "attention_dropout": 0.2,
    "attention_scores": "free", "stochastic_depth": 0.1, "precision": "fp32",
}  # fmt: skip
TFT = {"selection": "paper", "graph": "off", "normalization": "none"}
# Rows of the first table: name, settings that differ from BASE. The first is what the others are held against.
OURS: list[tuple[str, dict[str, Any]]] = [("ours, fp32", {}), ("ours, bf16", {"precision": "bf16"})]
BIG = {"features": 395, "hidden": 256, "lookback": 60, "micro_batch": 250}
OBJECTIVE = Objective(
    weights=dict.fromkeys(TERMS, 0.0) | {"huber": 0.5, "rank": 1.0}, rank_method="linear", rank_temperature=0.2,
    horizon_weights=None, portfolio_cost_bps=10.0,
)  # fmt: skip


@dataclass(frozen=True)
class Size:
    """Of the market and the network; `lookback` days are trained in a step."""

    stocks: int
    features: int
    hidden: int
    lookback: int


def market(size: Size, blocks: int) -> tuple[Panel, Snapshots]:
    """Noise that fills `blocks` blocks of lookback days, the first of which starts at day lookback - 1."""
    rng, stocks = np.random.default_rng(0), size.stocks
    days = (blocks + 1) * size.lookback - 1
    names = [f"feature {i}" for i in range(size.features)]
    returns = (0.02 * rng.normal(size=(days, stocks))).astype(np.float32)
    label = rng.normal(size=(days, stocks, len(HORIZONS))).astype(np.float32)
    industry = np.tile(rng.permutation(stocks) % INDUSTRIES + 1, (days, 1)).astype(np.int16)
    one = np.ones((days, stocks), bool)
    panel = Panel(
        dates=np.datetime64("2020-01-01") + np.arange(days),
        codes=[str(i) for i in range(stocks)],
        sector_names=[],
        industry_names=[],
        feature_names=names,
        market_features=[],
        horizons=HORIZONS,
        delay=1,
        features=rng.standard_normal((days, stocks, size.features), np.float32),
        tradable=one,
        label=label,
        forward_return=0.02 * label,
        daily_return=returns,
        has_bar=one,
        can_trade=one,
        money_traded=one.astype(np.float32),
        sector=(industry + SECTORS - 1) % SECTORS + 1,
        industry=industry,
    )
    builder = HierarchicalGraphBuilder(
        every=20, window=120, min_overlap=10, neighbors=NEIGHBORS, half_life=0, shrinkage=20.0, min_correlation=0.0,
        sector_edge_weight=0.5,
    )  # fmt: skip
    past = (0.02 * rng.normal(size=(120, stocks))).astype(np.float32)
    index, attr = builder.edges(past, np.ones(past.shape, bool), panel.sector[0], industry[0])
    return panel, Snapshots(stocks, np.array([-1]), np.array([0, len(attr)]), index, attr)


def network_of(size: Size, settings: Mapping[str, Any]) -> AtftGatFan:
    """The same seed for all: networks of equal settings have equal weights."""
    torch.manual_seed(0)
    given = {"features": size.features, "hidden": size.hidden, "lookback": size.lookback}
    return AtftGatFan(Encoder(**{**BASE, **given, **settings}), size.hidden, len(HORIZONS), levels=0)


def block_of(size: Size, days: int) -> Block:
    """The first `days` days of a block of lookback days."""
    panel, snapshots = market(size, 1)
    return Source(panel, snapshots, size.lookback, CPU).block(range(size.lookback - 1, size.lookback - 1 + days))


# --- steps ---------------------------------------------------------------------------------------


def ours(network: AtftGatFan, block: Block) -> Tensor:
    """Scores, rows embedded once per block."""
    return network(block.x, len(block.days), block.edge_index, block.edge_attr).score


def windowed(network: AtftGatFan, block: Block) -> Tensor:
    """Scores as a loader of samples has them: each stock-day's window of lookback rows, copied, by itself."""
    days, lookback = len(block.days), network.encoder.lookback
    windows = block.x[-(days + lookback - 1) :].unfold(0, lookback, 1)  # [day, stock, feature, lag]
    return of_windows(network, windows.permute(3, 0, 1, 2).flatten(1, 2), block)


def of_windows(network: AtftGatFan, x: Tensor, block: Block) -> Tensor:
    """Scores of windows [lag, day x stock, feature], which see each other in the graph alone."""
    encoder, stocks = network.encoder, block.x.shape[1]
    state = encoder.stocks(x, 1)[0].view(-1, stocks, network.heads.in_features)
    return network.judge(encoder.together(state, block.edge_index, block.edge_attr)).score


def step_of(network: AtftGatFan, block: Block, scores: Callable[[AtftGatFan, Block], Tensor]) -> Callable[[], None]:
    """Forward, loss, backward and optimiser."""
    descent = make_optimizer("adamw", network, lr=1e-3, weight_decay=0.1, feature_clip=0)
    targets = Targets(block.label, block.forward_return, HORIZONS)

    def step() -> None:
        descent.zero_grad(set_to_none=True)
        OBJECTIVE.total(OBJECTIVE.terms(scores(network, block), targets)).backward()
        descent.step()

    return step


def in_turns(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each, all once a round, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def differences(size: Size, block: Block) -> dict[str, float]:
    """Largest difference between our scores and those of windows by themselves, without dropout.

    Our recurrent pass starts at the block's anchor, so day i of it (from 0) has seen lookback + i rows. A window
    that begins there gives the same score; one of lookback rows does on the first day, and begins later on the others.
    """
    network = network_of(size, {}).eval()
    days = len(block.days)
    with torch.inference_mode():
        states = [network.encoder.stocks(block.x[: size.lookback + i], 1)[0] for i in range(days)]
        together = network.encoder.together(torch.cat(states), block.edge_index, block.edge_attr)
        mine, theirs = ours(network, block), windowed(network, block)
        anchored = network.judge(together).score
    assert mine.shape == theirs.shape == anchored.shape
    return {
        f"windows from the anchor on, all {days} days": float((mine - anchored).abs().max()),
        "windows of lookback rows, the block's first day": float((mine[0] - theirs[0]).abs().max()),
        "the same, other days: the recurrent pass starts later": float((mine[1:] - theirs[1:]).abs().max()),
        "(standard deviation of the scores)": float(mine.std()),
    }


def flops(step: Callable[[], object]) -> int:
    """Of the matrix products in `step`; by torch's plain LSTM, as the counter does not know oneDNN's."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "TF32 acceleration")  # said of other hardware whenever a flag is set
        with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
            step()
    return counter.get_total_flops()


def peak_flops() -> float:
    """A second, of one large product in single precision."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / best(7, lambda: a @ b)[0]


# --- what a real training run spends beside the network ------------------------------------------


class Clock:
    """Seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def around(self, name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.on(name):
                return run(*args, **kwargs)

        return timed


def training_seconds(size: Size, blocks: int) -> dict[str, float]:
    """Seconds of the steps of an epoch of `train_network` by part; `whole` is all, the look at `stop` left out."""
    panel, snapshots = market(size, blocks)
    network, clock = network_of(size, {}), Clock()
    original, fetch = supervised.fit, Source.blocks

    def fit(task: supervised.Ranking, source: Source, runs: Any, optimizer: torch.optim.Optimizer, *how: Any) -> None:
        task.after_epoch = clock.around("stop", task.after_epoch)
        optimizer.step = clock.around("optimiser", optimizer.step)
        task.module.forward = clock.around("forward", task.module.forward)
        with clock.on("whole"):
            original(task, source, runs, optimizer, *how)

    def blocks(source: Source, runs: Iterable[Any]) -> Iterator[Block]:
        """What the loop waits for: the next block is made while it works at one."""
        coming = fetch(source, runs)
        for _ in range(len(days) // size.lookback):
            with clock.on("data"):
                block = next(coming)
            yield block

    days = range(size.lookback - 1, len(panel.dates))
    with (
        patch.object(supervised, "fit", fit),
        patch.object(Source, "blocks", blocks),
        patch.object(LossWatch, "loss", clock.around("loss, forward", LossWatch.loss)),
        patch.object(Tensor, "backward", clock.around("backward, network and loss", Tensor.backward)),
    ):
        supervised.train_network(
            network, panel, snapshots, train=days, stop=days[-20:], objective=OBJECTIVE,
            plan=Plan(1, 1.0, 1, 1.0, Schedule("cosine", 1, 0.1, 1, 1, 0.05)), optimizer="adamw", lr=1e-3,
            weight_decay=0.1, feature_clip=0.0, ema_decay=0.0, keep="best", patience=1, freeze_epochs=0,
            days_per_step=size.lookback, micro_batch=0, regime_weighting=0.0, turnover_threshold=1.0, seed=0, fold=0,
        )  # fmt: skip
    seconds = clock.seconds
    # The look at `stop` happens inside fit, and passes through network parts that are clocked nowhere else.
    seconds["whole"] -= seconds.pop("stop")
    seconds["clipping, logging, the rest"] = 2 * seconds["whole"] - sum(seconds.values())
    return seconds


# --- parts of the network ------------------------------------------------------------------------


def part_runs(network: AtftGatFan, block: Block) -> dict[str, Callable[[], tuple[float, float]]]:
    """For each part a run that gives seconds forward and backward, on the inputs it has in a step."""
    encoder = network.encoder
    modules = {
        "selection": encoder.selection,
        "LSTM": encoder.temporal.lstm,
        "temporal": encoder.temporal,
        "FAN": encoder.fan,
        "fusing both": encoder.fuse,
        "graph": encoder.graph,
        "heads": network.heads,
    }
    return {name: part_run(network, module, block) for name, module in modules.items() if module is not None}


def part_run(network: AtftGatFan, module: nn.Module, block: Block) -> Callable[[], tuple[float, float]]:
    """See `part_runs`."""
    seen: list[Any] = []
    hook = module.register_forward_pre_hook(lambda _, args: seen.extend(args))
    ours(network, block)
    hook.remove()
    inputs = [
        value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value for value in seen
    ]

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        out = module(*inputs)
        middle = time.perf_counter()
        out = out if isinstance(out, Tensor) else out[0]
        out.backward(torch.ones_like(out))
        return middle - start, time.perf_counter() - middle

    return run


def part_seconds(network: AtftGatFan, block: Block, rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds forward and backward of each part; the LSTM taken out of the temporal encoder."""
    runs = part_runs(network, block)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            seconds = run()
            if turn:
                found[name].append(seconds)
    medians = {name: tuple(median(side) for side in zip(*rows, strict=True)) for name, rows in found.items()}
    forward, backward = (both - alone for both, alone in zip(medians.pop("temporal"), medians["LSTM"], strict=True))
    return {**medians, "attention over days, gates": (forward, backward)}


# --- growth, scoring, memory ---------------------------------------------------------------------


def growth(size: Size, rounds: int) -> dict[str, tuple[list[int], list[float]]]:
    """Sizes and seconds of a step along each axis, the others as in `size` (lookback: days of its smallest)."""
    few = max(size.lookback // 4, 1)
    axes = {
        "stocks": [(Size(n, size.features, size.hidden, size.lookback), size.lookback, n) for n in times(size.stocks)],
        "days": [(size, days, days) for days in times(size.lookback, (8, 4, 2, 1))],
        "features": [(Size(size.stocks, f, size.hidden, size.lookback), few, f) for f in times(size.features)],
        "lookback": [(Size(size.stocks, size.features, size.hidden, n), few, n) for n in times(size.lookback)],
    }
    found = {}
    for axis, rows in axes.items():
        runs = {str(at): step_of(network_of(one, {}), block_of(one, days), ours) for one, days, at in rows}
        seconds = in_turns(runs, rounds)
        found[axis] = [at for *_, at in rows], [median(seconds[str(at)]) for *_, at in rows]
    return found


def times(size: int, parts: tuple[int, ...] = ()) -> list[int]:
    """A quarter, half, once, twice and four times `size`, or its given parts; at least 5, the shortest lookback."""
    sizes = [size // part for part in parts] or [size // 4, size // 2, size, 2 * size, 4 * size]
    return sorted({max(one, 5) for one in sizes})


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """k of seconds ~ size^k, by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def scoring_seconds(size: Size) -> float:
    """Seconds to score the last day of a panel, encoder and graph of its whole anchor group included."""
    panel, snapshots = market(size, 1)
    network = network_of(size, {})
    source = Source(panel, snapshots, size.lookback, CPU)
    return best(3, lambda: list(supervised.forecast_days(network, source, [len(panel.dates) - 1])))[0]


def report_memory(stocks: int) -> None:
    """One step of the big network in this process; prints its largest resident memory in bytes as JSON."""
    size = Size(stocks, BIG["features"], BIG["hidden"], BIG["lookback"])
    network = network_of(size, {})
    network.encoder.micro_batch = BIG["micro_batch"]
    step = step_of(network, block_of(size, size.lookback), ours)
    before = resident("VmRSS")
    start = time.perf_counter()
    step()
    print(json.dumps({"before": before, "after": resident("VmHWM"), "seconds": time.perf_counter() - start}))


def resident(field: str) -> int:
    """Bytes of this process now (VmRSS) or at most (VmHWM); getrusage's maximum counts the parent's in."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def draw(grown: Mapping[str, tuple[list[int], list[float]]], target: Path) -> None:
    """A panel per axis, both scales logarithmic."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("svg")
    plt.rcParams["svg.hashsalt"] = "atft"
    figure, axes = plt.subplots(1, len(grown), figsize=(11, 2.8), layout="constrained", sharey=True)
    for axis, (name, (sizes, seconds)) in zip(axes, grown.items(), strict=True):
        power, level = np.polyfit(np.log(sizes), np.log(seconds), 1)
        axis.plot(sizes, np.exp(level) * np.array(sizes) ** power, color="#888888", linewidth=1)
        axis.plot(sizes, seconds, "o", color="#0072B2")
        axis.set(xscale="log", yscale="log", xlabel=name)
        axis.set_title(f"seconds ~ {name}^{power:.2f}", loc="left", fontsize=10)
        axis.set_xticks(sizes, [str(one) for one in sizes], fontsize=8)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds a step")
    target.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


# --- the tables ----------------------------------------------------------------------------------


def rates(size: Size, peer_days: int, rounds: int) -> tuple[list[str], float]:
    """Rows of stock-days trained a second, and ours."""
    block, few = block_of(size, size.lookback), block_of(size, peer_days)
    narrow = Size(max(size.stocks // 5, 20), size.features, size.hidden, size.lookback)
    day = block_of(narrow, 1)
    rivals = {name: (network_of(size, settings), block, ours) for name, settings in OURS}
    rivals["the same, a window at a time"] = network_of(size, {}), few, windowed
    rivals["TFT (Lim et al. 2021), a window at a time"] = network_of(narrow, TFT), day, windowed
    seconds = in_turns({name: step_of(*rival) for name, rival in rivals.items()}, rounds)
    work = {name: block.label.shape[0] * block.label.shape[1] for name, (_, block, _) in rivals.items()}
    first = OURS[0][0]
    rows = []
    for name, found in seconds.items():
        ratio = median(
            (work[first] / mine) / (work[name] / theirs) for mine, theirs in zip(seconds[first], found, strict=True)
        )
        beside = "" if name == first else f"{ratio:.2f}x slower" if ratio >= 1 else f"{1 / ratio:.2f}x faster"
        rows.append(f"| {name} | {work[name] / median(found):,.0f} stock-days/s | {work[name]} a step; {beside} |")
    rows += [
        f"| largest difference of scores | {found:.1e} | {what} |" for what, found in differences(size, few).items()
    ]
    return rows, work[first] / median(seconds[first])


def arithmetic(size: Size, rate: float) -> list[str]:
    """Rows on floating point operations."""
    block = block_of(size, size.lookback)
    each = flops(step_of(network_of(size, {}), block, ours)) / block.label.shape[0] / block.label.shape[1]
    peak = peak_flops()
    return [
        f"| matrix products a stock-day, forward and backward | {each / 1e6:.2f} MFLOP | LSTM included |",
        f"| achieved | {rate * each / 1e9:.1f} GFLOP/s | {rate * each / peak:.0%} of the peak |",
        f"| limit: peak of a product of 2048 x 2048, fp32 | {peak / 1e9:.0f} GFLOP/s "
        f"| {peak / each:,.0f} stock-days/s |",
    ]


def memory(stocks: int) -> str:
    """Row on the big network's memory, measured in a process of its own."""
    command = [sys.executable, __file__, "--report-memory", str(stocks), "--threads", str(torch.get_num_threads())]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    each = (found["after"] - found["before"]) / stocks / BIG["lookback"]
    return (
        f"| largest memory of a step, {stocks} stocks, {BIG} | {found['after'] / 2**30:.2f} GiB "
        f"| {each / 1e3:.1f} kB a stock-day beyond the data; {found['seconds']:.0f} s |"
    )


def parts(size: Size, blocks: int, rounds: int) -> tuple[list[str], float]:
    """Rows on where a step's time goes, and the share of it outside the network."""
    training = training_seconds(size, blocks)
    whole = training.pop("whole")
    outside = 1 - (training["forward"] + training["backward, network and loss"]) / whole
    rows = [f"| a training step: {name} | | | {seconds / blocks:.4f} | {seconds / whole:.1%} |"
            for name, seconds in training.items()]  # fmt: skip
    network, block = network_of(size, {}), block_of(size, size.lookback)
    found = part_seconds(network, block, rounds)
    total = sum(sum(both) for both in found.values())
    rows += [f"| {name} | {a:.4f} | {b:.4f} | {a + b:.4f} | {(a + b) / total:.1%} of the parts |"
             for name, (a, b) in sorted(found.items(), key=lambda item: -sum(item[1]))]  # fmt: skip
    return rows, outside


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stocks", type=int, default=300)
    parser.add_argument("--features", type=int, default=64)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--lookback", type=int, default=60)
    parser.add_argument("--peer-days", type=int, default=4, help="days a step of the windowed peer trains")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--score", type=int, default=4000, help="stocks of the day to score")
    parser.add_argument("--plot", type=Path, help="where to draw how time grows")
    parser.add_argument("--big", type=int, help="stocks of the memory test; 4000 takes minutes and many GiB")
    parser.add_argument("--report-memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    pin_threads(args.threads)
    keep_freed_memory()
    seed_everything(0, 0)
    if args.report_memory:
        report_memory(args.report_memory)
        return
    size = Size(args.stocks, args.features, args.hidden, args.lookback)
    print(f"{size}, {args.threads} threads of {os.cpu_count()}, {platform.machine()}, torch {torch.__version__}, "
          f"load {os.getloadavg()[0]:.2f}; medians of {args.rounds} rounds\n")  # fmt: skip
    print("| what | figure | beside |\n|---|---|---|")
    rows, rate = rates(size, args.peer_days, args.rounds)
    print("\n".join(rows + arithmetic(size, rate)), flush=True)
    divided, outside = parts(size, args.rounds, args.rounds)
    print(f"| of a real training step outside the network | {outside:.1%} | target 10 % |")
    grown = growth(size, args.rounds)
    for axis, (sizes, seconds) in grown.items():
        told = ", ".join(f"{at}: {1e3 * took:.0f} ms" for at, took in zip(sizes, seconds, strict=True))
        print(f"| a step's time grows with {axis} to the power of | {exponent(sizes, seconds):.2f} | {told} |")
    scored = scoring_seconds(Size(args.score, args.features, args.hidden, args.lookback))
    print(f"| scoring one day of {args.score} stocks | {scored:.2f} s | its anchor's {args.lookback} days encoded |")
    if args.big:
        print(memory(args.big))
    print("\n| part | forward, s | backward, s | both, s | share |\n|---|---|---|---|---|")
    print("\n".join(divided))
    print(f"\nload at the end {os.getloadavg()[0]:.2f}")
    if args.plot:
        draw(grown, args.plot)


if __name__ == "__main__":
    main()
