"""What finds a planted cycle: FAN, a linear layer and a small network over the same windows of volume.

Learning from its true expectation shows what an encoder can express, from returns what it finds in noise.

Run: python benchmarks/fan.py [--stocks 400 --days 1500 --epochs 4]
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import atft  # noqa: F401  (forgets the shell's thread counts before numpy reads them)

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from atft.evaluation.cross_section import rank_ic
from atft.model.fan import FrequencyAdaptiveNorm
from atft.panel.simulate import simulate_market
from atft.panel.standardize import rank_gauss
from atft.program import pin_threads
from timing import best

HORIZON, BLOCK, HIDDEN, SEEDS = 5, 20, 32, 3


def market(stocks: int, days: int) -> tuple[Tensor, Tensor, Tensor]:
    """Changes of log volume, forward return, expectation of the cycle: [day, stock], ranked to normal; NaN unknown."""
    told = simulate_market(stocks, days, "standard", 7, (HORIZON,), 1)
    keys = told.bars.select("date", "code")
    grid = keys.select(pl.col("date").unique()).join(keys.select(pl.col("code").unique()), how="cross")
    bars = grid.join(told.bars, on=["date", "code"], how="left").join(told.oracle, on=["date", "code"], how="left")
    wide = bars.sort("date", "code").select(
        change=pl.col("volume").log().diff().over("code", order_by="date"),
        forward=(pl.col("close").shift(-1 - HORIZON) / pl.col("close").shift(-1)).over("code", order_by="date"),
        cycle="cyclical",
    )
    columns = (wide[name].cast(pl.Float32).to_numpy().reshape(-1, stocks) for name in wide.columns)
    ranked = (np.stack([rank_gauss(day[:, None])[:, 0] for day in column]) for column in columns)
    change, forward, cycle = (torch.from_numpy(values) for values in ranked)
    return change, forward, cycle


class Windows(nn.Module):
    """A layer over whole windows, in FAN's place."""

    def __init__(self, lookback: int, inner: nn.Module) -> None:
        super().__init__()
        self.lookback, self.inner = lookback, inner

    def forward(self, changes: Tensor, last: int) -> Tensor:
        windows = changes[-(last + self.lookback - 1) :].nan_to_num().unfold(0, self.lookback, 1)
        return self.inner(windows.flatten(-2))


def encoders(lookback: int) -> dict[str, nn.Module]:
    net = nn.Sequential(nn.Linear(lookback, 2 * HIDDEN), nn.GELU(), nn.Linear(2 * HIDDEN, HIDDEN), nn.GELU())
    fans = {f"FAN, {k} cycles": FrequencyAdaptiveNorm(1, lookback, k, HIDDEN, 0.0) for k in (1, 2)}
    return {"linear": Windows(lookback, nn.Linear(lookback, HIDDEN)), "network": Windows(lookback, net)} | fans


def finds(name: str, lookback: int, change: Tensor, target: Tensor, truth: Tensor, epochs: int) -> float:
    """Mean rank correlation with the truth on the last fifth of the days, after learning the target on the others."""
    days, first = len(change), lookback + 1
    train = range(first, int(0.8 * days) - BLOCK - HORIZON, BLOCK)
    found = []
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        encoder, head = encoders(lookback)[name], nn.Linear(HIDDEN, 1)
        descent = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], lr=3e-3, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, epochs * len(train))
        order = np.random.default_rng(seed)
        for start in (start for _ in range(epochs) for start in order.permutation(train)):
            known = torch.isfinite(target[start : start + BLOCK])
            score = head(encoder(change[start - lookback : start + BLOCK, :, None], BLOCK))[..., 0]
            loss = ((score - target[start : start + BLOCK])[known] ** 2).mean()
            descent.zero_grad()
            loss.backward()
            descent.step()
            schedule.step()
        held = int(0.8 * days)
        with torch.inference_mode():
            score = head(encoder(change[held - lookback :, :, None], days - held))[..., 0].numpy()
        found.append(np.nanmean(rank_ic(score, truth[held:].numpy())))
    return float(np.mean(found))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stocks", type=int, default=400)
    parser.add_argument("--days", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=4)
    args = parser.parse_args()
    pin_threads(2)
    change, forward, cycle = market(args.stocks, args.days)
    size = f"{args.stocks} stocks x {args.days} days, {SEEDS} seeds, {args.epochs} epochs"
    print(f"Rank correlation with the cycle, {size}; time of a block of {BLOCK} days, forward and backward\n")
    print("| days | encoder | learnt from the truth | from returns | ms |\n|---|---|---|---|---|")
    for lookback in (20, 60):
        block = change[: lookback + BLOCK, :, None]
        for name, encoder in encoders(lookback).items():
            truth, noise = (finds(name, lookback, change, target, cycle, args.epochs) for target in (cycle, forward))
            seconds, _ = best(5, lambda: encoder(block, BLOCK).sum().backward())  # noqa: B023
            print(f"| {lookback} | {name} | {truth:.3f} | {noise:.3f} | {1e3 * seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
