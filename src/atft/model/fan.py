"""Frequency Adaptive Normalization: the dominant cycles of level-like channels, and what is left."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

FINER = 4  # trial frequencies per Fourier bin: a cycle between two bins leaks into both, and its phase is lost
MEMORIES = (1.0, 3.0, 9.0)  # days after which a past residual counts 1/e in the sums that describe it
WAVE_FACTS = 4


class Waves(nn.Module):
    """The strongest waves of windows, one after another, and what they leave.

    The frequency is the largest of the spectrum of what the earlier waves left, on a grid `FINER` times
    as fine as the window's own; the wave is then fitted by least squares and taken out. The choice of
    frequency has no gradient, what follows from it has.

    Shapes: input [..., lag], oldest first; output facts [..., wave, 4] and residual [..., lag]. Facts of a
    wave: cosine and sine of its phase at the last lag, logarithm of its amplitude, frequency from -1 (one cycle
    a window) to 1 (a cycle in two lags). The mean belongs to no wave and is taken out too.

    Source: Mallat & Zhang, Matching Pursuits with Time-Frequency Dictionaries, 1993.
    """

    def __init__(self, lags: int, waves: int) -> None:
        super().__init__()
        self.lags, self.waves = lags, waves
        # At a cycle in two lags the sine vanishes, so the grid ends one step before.
        grid = torch.arange(FINER, FINER * lags // 2)
        turn = 2 * math.pi / (FINER * lags) * grid[:, None].double() * torch.arange(1 - lags, 1)
        sine, cosine = torch.sin(turn), torch.cos(turn)
        gram = torch.stack([(cosine * cosine).sum(1), (cosine * sine).sum(1), (sine * sine).sum(1)], dim=1)
        self.sine: Tensor
        self.cosine: Tensor
        self.gram: Tensor
        self.frequency: Tensor
        for name, value in {
            "sine": sine,
            "cosine": cosine,
            "gram": gram,
            "frequency": 4 * grid.double() / (FINER * lags) - 1,
        }.items():
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, level: Tensor) -> tuple[Tensor, Tensor]:
        rest = level.float()
        rest = rest - rest.mean(-1, keepdim=True)
        facts = []
        for _ in range(self.waves):
            spectrum = torch.fft.rfft(rest.detach(), n=FINER * self.lags)
            chosen = spectrum[..., FINER : FINER * self.lags // 2].abs().argmax(-1)
            sine, cosine = self.sine[chosen], self.cosine[chosen]
            cc, cs, ss = self.gram[chosen].unbind(-1)
            c, s = (rest * cosine).sum(-1), (rest * sine).sum(-1)
            determinant = cc * ss - cs * cs
            a, b = (c * ss - s * cs) / determinant, (s * cc - c * cs) / determinant
            rest = rest - a[..., None] * cosine - b[..., None] * sine
            amplitude = (a * a + b * b + 1e-4).sqrt()
            facts.append(torch.stack([a / amplitude, -b / amplitude, amplitude.log(), self.frequency[chosen]], dim=-1))
        return torch.stack(facts, dim=-2), rest


class FrequencyAdaptiveNorm(nn.Module):
    r"""Encodes windows of summed changes with their dominant cycles taken out, and the cycles beside.

    Per stock, day and channel: the changes of the last `lookback` days are summed to a level, the
    straight line through its ends is taken out (otherwise the jump between the ends looks like
    cycles), and the `components` strongest waves are split off. The residual, scaled to unit size, is
    encoded by its exponentially fading sums; the waves' phases, amplitudes and frequencies go
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
        self.ramp: Tensor
        self.register_buffer("fading", fading / fading.square().sum(0).sqrt(), persistent=False)
        self.register_buffer("ramp", torch.arange(1, lookback + 1) / lookback, persistent=False)

    def forward(self, changes: Tensor, last: int) -> Tensor:
        windows = changes[-(last + self.lookback - 1) :].nan_to_num().unfold(0, self.lookback, 1).float()
        level = windows.cumsum(-1)
        slope = level[..., -1:]
        waves, residual = self.waves(level - slope * self.ramp)
        size = residual.square().mean(-1, keepdim=True).add(1e-4).sqrt()
        rest = torch.cat([residual / size @ self.fading, size.log(), slope / self.lookback**0.5], dim=-1)
        cycle = self.dominant(waves.flatten(-3))
        return functional.gelu(self.residual(rest.flatten(-2))) + torch.sigmoid(self.gate(cycle)) * cycle
