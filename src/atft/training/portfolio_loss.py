"""What the scores of consecutive days would earn as a book, after the cost of trading it, with a gradient.

Shape letters and masks as in `losses.py`, with the forward return in the label's place.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from atft.training.losses import standardized, usable

# For normal scores the weights are as sinh(z / temperature), so with a = 1 / temperature they hold effectively
# gross^2 / sum w^2 = 2 N e^(a^2) (2 Phi(a) - 1)^2 / (e^(2 a^2) - 1) names: here N / 5, as two deciles do.
TEMPERATURE = 0.712
LEAST_GROSS = 0.1  # of the weights before they are brought to gross 1: below, the scores tie
LEAST_RISK = 1e-4  # a basis point: a book without risk makes no Sharpe ratio


def portfolio_loss(
    score: Tensor,
    forward_return: Tensor,
    horizons: Sequence[int],
    cost_bps: float,
    day_weight: Tensor | None = None,
) -> Tensor:
    """Minus the net return of the book of h sleeves that `soft_weights` makes, in units of its risk. [H]

    Shift and scale of a day's scores change nothing; scores that tie hold nothing.

    Args:
        score: [D, N, H] of consecutive days.
        forward_return: [D, N, H] simple, NaN masked.
        horizons: [H] days that a sleeve is held.
        cost_bps: Basis points per side of the traded amount.
        day_weight: See `usable`.
    """
    weights = soft_weights(score, torch.isfinite(forward_return))
    gross, turnover, risk = book_facts(weights, forward_return, horizons, day_weight)
    return (cost_bps / 1e4 * turnover - gross) / risk


def soft_weights(score: Tensor, mask: Tensor) -> Tensor:
    """Long-short weights of the day's known stocks: gross 1, net 0, in place of deciles. [D, N, H]

    The difference of two softmaxes of the standardised score, one for each side; 0 where all scores tie.
    """
    z = standardized(score, mask) / TEMPERATURE
    lowest = torch.finfo(z.dtype).min  # not -inf: a day without stocks has no softmax
    long, short = (side.masked_fill(~mask, lowest).softmax(1) for side in (z, -z))
    difference = long - short
    return difference / difference.abs().sum(1, keepdim=True).clamp(min=LEAST_GROSS)


def book_facts(
    weights: Tensor, forward_return: Tensor, horizons: Sequence[int], day_weight: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(gross return, turnover, risk) of a book of h sleeves of 1/h each, means a day over the block. [H] each

    - Gross: a sleeve left to drift earns w . forward_return / h on constant capital.
    - Turnover: two-way and netted. But for drift the book is the mean of the last h signals, so a day
      trades |w_t - w_(t - h)| / h. Where the block is not longer than h, its two ends stand for such a pair:
      a lower bound as long as signals further apart differ more. A single day trades nothing.
    - Risk: standard deviation of what a sleeve adds to the gross return if stocks moved on their own, without a
      gradient, at least `LEAST_RISK` / h. Days weigh alike in it, lest a weight of days cancel.

    An unknown stock has weight 0 that day, as if sold. A day with too few stocks counts nothing, nor do its trades.

    Args:
        weights: [D, N, H], 0 where the forward return is unknown.
    """
    mask, share = usable(forward_return)
    weight = torch.ones_like(share[:, 0]) if day_weight is None else day_weight
    held = torch.tensor(horizons, dtype=weights.dtype, device=weights.device)
    returns = forward_return.nan_to_num()
    own = returns - returns.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    variance = ((weights.detach() * own).square().sum(1, keepdim=True) * share).sum(dim=(0, 1))
    gross = ((weights * returns).sum(1) * share[:, 0] * weight).sum(0)
    columns = zip(weights.unbind(2), share[:, 0].unbind(1), weight.unbind(1), horizons, strict=True)
    traded = torch.stack([_traded(*column) for column in columns])
    return gross / held, traded / held, variance.sqrt().clamp(min=LEAST_RISK) / held


def _traded(weights: Tensor, share: Tensor, weight: Tensor, horizon: int) -> Tensor:
    """Mean of |w_t - w_(t - horizon)| over the pairs of days that both count; weights [D, N], share, weight [D]."""
    days = len(weights)
    apart = min(horizon, days - 1)
    both = (share[apart:] > 0) & (share[: days - apart] > 0)
    change = (weights[apart:] - weights[: days - apart]).abs().sum(1)
    return (change * both * weight[apart:]).sum() / both.sum().clamp(min=1)
