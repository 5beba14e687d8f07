"""The learning rate as a function of the step."""

import math
from dataclasses import dataclass
from typing import Literal

NEAR_PEAK = 0.95


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then one cosine, cosines with restarts, or nothing; all as shares of the peak learning rate.

    Attributes:
        kind: constant | cosine (down to the floor at the last step) | cosine_restarts (down to the floor in
            `t_0` epochs, then up again at once, each cycle `t_mult` times as long as the one before).
        warmup_epochs: Length of the linear rise, but ...
        warmup_share: ... at most this share of the run, so that a short trial leaves it too.
        t_0, t_mult: Epochs, factor; cosine_restarts only.
        floor: Lowest learning rate as a share of the peak. An absolute one would *raise* a
            smaller peak.

    Source: Loshchilov & Hutter, SGDR, 2017.
    """

    kind: Literal["constant", "cosine", "cosine_restarts"]
    warmup_epochs: float
    warmup_share: float
    t_0: int
    t_mult: int
    floor: float

    def scale(self, step: int, epochs: int, per_epoch: int) -> float:
        """Share of the peak at `step` = 0, 1, ... of a run of `epochs` of `per_epoch` steps."""
        steps = epochs * per_epoch
        warmup = round(min(self.warmup_epochs * per_epoch, self.warmup_share * steps))
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.kind == "constant":
            return 1.0
        if self.kind == "cosine":
            return self._cosine(min((step - warmup) / max(steps - warmup - 1, 1), 1.0))
        return self._cosine(self._cycle_progress(step - warmup, per_epoch))

    def cycle_ends(self, cycles: int = 3) -> list[int]:
        """Epochs of the runs that end with one of the first `cycles`: 30, 70, 150 with warm-up 10, t_0 20, t_mult 2.

        Others where `warmup_share` shortens the warm-up. In whole epochs, rounded down: one more begins a new cycle.
        """
        ends, total, length = [], 0, self.t_0
        for _ in range(cycles):
            total, length = total + length, length * self.t_mult
            full, capped = self.warmup_epochs + total, total / (1 - self.warmup_share)
            ends.append(int(min(full, capped)))
        return ends

    def warning(self, epochs: int) -> str | None:
        """One line where restarts leave a run of `epochs` near the peak: its last weights are its noisiest."""
        last = self.scale(epochs * 1000 - 1, epochs, 1000)
        if self.kind != "cosine_restarts" or last < NEAR_PEAK:
            return None
        *first, third = self.cycle_ends()
        return (
            f"warning: train.schedule: cosine_restarts leaves a run of {epochs} epochs at {last:.0%} of its peak "
            f"learning rate; runs of {', '.join(map(str, first))} or {third} epochs end with a cycle"
        )

    def _cosine(self, progress: float) -> float:
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))

    def _cycle_progress(self, step: int, per_epoch: int) -> float:
        length = self.t_0 * per_epoch
        while step >= length:
            step, length = step - length, length * self.t_mult
        return step / length
