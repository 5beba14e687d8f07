"""Frequency Adaptive Normalization: the dominant cycles of level-like channels, and what is left."""

import torch
from torch import Tensor, nn
from torch.nn import functional


def dominant_components(level: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """(dominant, residual) of windows [..., lag]: the strongest Fourier components, and the rest.

    The mean always belongs to the dominant part; `components` more frequencies follow, chosen per
    window by amplitude. The choice has no gradient, the parts have.
    """
    lags = level.shape[-1]
    spectrum = torch.fft.rfft(level.float())
    strongest = spectrum[..., 1:].abs().topk(components, dim=-1).indices + 1
    mask = torch.zeros(spectrum.shape, device=level.device).scatter(-1, strongest, 1.0)
    mask[..., 0] = 1.0
    dominant = torch.fft.irfft(spectrum * mask, n=lags)
    return dominant, level - dominant


class FrequencyAdaptiveNorm(nn.Module):
    r"""Encodes windows of summed changes with their dominant cycles taken out, and the cycles beside.

    Per stock, day and channel: the changes of the last `lookback` days are summed to a level, the
    straight line through its ends is taken out (otherwise the jump between the ends looks like
    cycles), and the `components` strongest Fourier components are split off. The residual, scaled
    to unit size, is encoded; the dominant part goes through a small network and a gate (there is
    nothing to denormalise in a ranking, so it is fused instead); scale and slope, which the
    normalisation removed, are handed on as features.

    Shapes: input [day, stock, channel] of daily changes, consecutive days, oldest first, NaN where
    unknown (no change: one NaN would poison every frequency); output
    [last, stock, hidden].

    Source: Ye et al., Frequency Adaptive Normalization, 2024, adapted from forecasting to encoding.
    """

    def __init__(self, channels: int, lookback: int, components: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.lookback, self.components = lookback, components
        flat = channels * lookback
        self.residual = nn.Linear(flat, hidden)
        self.dominant = nn.Sequential(
            nn.Linear(flat, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, hidden)
        )
        self.scale = nn.Linear(2 * channels, hidden)
        self.gate = nn.Linear(hidden, hidden)
        self.ramp: Tensor
        self.register_buffer("ramp", torch.arange(1, lookback + 1) / lookback, persistent=False)

    def forward(self, changes: Tensor, last: int) -> Tensor:
        windows = changes[-(last + self.lookback - 1) :].nan_to_num().unfold(0, self.lookback, 1).float()
        level = windows.cumsum(-1)
        slope = level[..., -1:]
        flat = level - slope * self.ramp
        dominant, residual = dominant_components(flat, self.components)
        size = residual.square().mean(-1, keepdim=True).add(1e-4).sqrt()
        facts = torch.cat([size.log(), slope / self.lookback**0.5], dim=-1).flatten(-2)
        kept = self.residual((residual / size).flatten(-2)) + self.scale(facts)
        cycle = self.dominant((dominant / self.lookback**0.5).flatten(-2))
        return functional.gelu(kept) + torch.sigmoid(self.gate(cycle)) * cycle
