"""Frequency Adaptive Normalization: the dominant cycles of level-like channels, and what is left."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FINER = 4  # trial frequencies per Fourier bin: a cycle between two bins leaks into both, and its phase is lost
MEMORIES = (1.0, 3.0, 9.0)  # days after which a past residual counts 1/e in the sums that describe it
WAVE_FACTS = 4
SMALLEST = 1e-2  # amplitude, of changes of about unit size, below which a wave fades into none


class Waves(nn.Module):
    """The strongest waves of windows, one after another, and what they leave.

    A straight line is taken out first. A wave is then fitted by least squares, together with such a line, at
    each frequency of a grid `FINER` times as fine as the window's own; the one that explains most is taken out,
    and the next is sought in the rest. The choice of frequency has no gradient, what follows from it has.

    Shapes: input [..., lag], oldest first; output facts [..., wave, 4] and residual [..., lag]. Facts of a
    wave: cosine and sine of its phase at the last lag, logarithm of its amplitude, and frequency from -1 (none) to
    1 (a cycle in two lags).

    Source: Mallat & Zhang, Matching Pursuits with Time-Frequency Dictionaries, 1993.
    """

    def __init__(self, lags: int, waves: int) -> None:
        super().__init__()
        self.waves = waves
        # From one cycle a window on. At a cycle in two lags the sine vanishes: the grid ends one step before.
        grid = torch.arange(FINER, FINER * lags // 2, dtype=torch.float64)
        ago = torch.arange(1 - lags, 1, dtype=torch.float64)
        turn = 2 * math.pi / (FINER * lags) * grid * ago[:, None]
        line = torch.linalg.qr(torch.stack([torch.ones_like(ago), ago], dim=1)).Q
        # Cycles of a few lags are not orthogonal to a line: what it would explain of them is taken out as well.
        cosine, sine = (wave - line @ (line.T @ wave) for wave in (torch.cos(turn), torch.sin(turn)))
        cc, cs, ss = (cosine**2).sum(0), (cosine * sine).sum(0), (sine**2).sum(0)
        determinant = cc * ss - cs**2
        self.line: Tensor
        self.cosine: Tensor
        self.sine: Tensor
        self.fit_cosine: Tensor
        self.fit_sine: Tensor
        self.frequency: Tensor
        tables = {
            "line": line,
            "cosine": cosine.T,
            "sine": sine.T,
            "fit_cosine": (cosine * ss - sine * cs) / determinant,
            "fit_sine": (sine * cc - cosine * cs) / determinant,
            "frequency": 4 / (FINER * lags) * grid - 1,
        }
        for name, table in tables.items():
            self.register_buffer(name, table.float().contiguous(), persistent=False)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        rest = level.float()
        rest = rest - rest @ self.line @ self.line.T
        facts = []
        for _ in range(self.waves):
            a, b = rest @ self.fit_cosine, rest @ self.fit_sine
            explained = a * (rest @ self.cosine.T) + b * (rest @ self.sine.T)
            best = explained.detach().argmax(-1, keepdim=True)
            a, b, chosen = a.gather(-1, best), b.gather(-1, best), best[..., 0]
            rest = rest - a * self.cosine[chosen] - b * self.sine[chosen]
            amplitude = (a * a + b * b + SMALLEST**2).sqrt()
            frequency = self.frequency[chosen][..., None]
            facts.append(torch.cat([a / amplitude, -b / amplitude, amplitude.log(), frequency], dim=-1))
        return torch.stack(facts, dim=-2), rest


class FrequencyAdaptiveNorm(nn.Module):
    r"""Encodes windows of summed changes with their dominant cycles taken out, and the cycles beside.

    Per stock, day and channel: the changes of the last `lookback` days are summed to a level, and its
    `components` strongest waves around a straight line are split off (see `Waves`). The residual, scaled to unit
    size, is encoded by its exponentially fading sums; the waves' phases, amplitudes and frequencies go
    through a small network and a gate (there is nothing to denormalise in a ranking, so they are fused
    instead); scale and slope, which the normalisation removed, are handed on as features.

    A handful of facts a wave, not its values a lag: with as little signal as returns have, a layer that
    reads whole windows learns their noise (`docs/log.md`).

    Shapes: input [day, stock, channel] of daily changes, consecutive days, oldest first, NaN where
    unknown (no change: one NaN would poison every frequency); output
    [last, stock, hidden].

    Source: Ye et al., Frequency Adaptive Normalization, 2024, adapted from forecasting to encoding.
    """

    def __init__(self, channels: int, lookback: int, components: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.lookback = lookback
        self.waves = Waves(lookback, components)
        self.residual = nn.Linear(channels * (len(MEMORIES) + 2), hidden)
        self.dominant = nn.Sequential(
            nn.Linear(channels * components * WAVE_FACTS, hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
        )
        self.gate = nn.Linear(hidden, hidden)
        age = torch.arange(lookback - 1, -1, -1)
        fading = torch.stack([torch.exp(-age / days) for days in MEMORIES], dim=-1)
        self.fading: Tensor
        self.sums: Tensor
        self.register_buffer("fading", fading / fading.square().sum(0).sqrt(), persistent=False)
        # A product in place of cumsum, which has no deterministic form on a GPU.
        self.register_buffer("sums", torch.ones(lookback, lookback).triu(), persistent=False)

    def forward(self, changes: Tensor, last: int) -> Tensor:
        windows = changes[-(last + self.lookback - 1) :].nan_to_num().unfold(0, self.lookback, 1).float()
        level = windows @ self.sums
        waves, residual = self.waves(level)
        size = residual.square().mean(-1, keepdim=True).add(SMALLEST**2).sqrt()
        rest = torch.cat([residual / size @ self.fading, size.log(), level[..., -1:] / self.lookback**0.5], dim=-1)
        cycle = self.dominant(waves.flatten(-3))
        return functional.gelu(self.residual(rest.flatten(-2))) + torch.sigmoid(self.gate(cycle)) * cycle
