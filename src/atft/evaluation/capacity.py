"""How much capital a strategy can carry."""

import numpy as np


def capacity(
    annual_alpha: float,
    turnover_two_way_daily: float,
    names: int,
    dollar_volume: float,
    cost: float,
    volatility: float,
    impact: float = 1.0,
    periods_per_year: int = 252,
) -> tuple[float, float] | None:
    """Capital at which trading costs eat all alpha, and at which they leave half of what `cost` leaves of it.

    A trade of Q in a stock that trades `dollar_volume` a day pays cost + impact * volatility *
    sqrt(Q / dollar_volume) per unit. Capital A spread over n names trades Q = A * turnover / n a day in
    each, so the impact grows with the square root of capital and the half stands at a quarter.

    Args:
        annual_alpha: Gross return a year, simple.
        turnover_two_way_daily: Sum of absolute weight changes a day, both sides.
        names: Stocks traded, equal-weighted.
        dollar_volume: Money a typical name trades a day; lagged, or it foresees the volume.
        cost: Half the spread and fees, a share of the money traded (0.00025 = 2.5 bp).
        volatility: Daily standard deviation of a name's return.
        impact: Y of the square-root law, about 1.
        periods_per_year: Trading days.

    Returns:
        (zero, half) in the currency of `dollar_volume`. None where the spread alone costs more than
        the alpha, and where nothing is traded or no volume is known, so nothing bounds the capital.
        A cap on participation is for the caller.

    Source: Toth et al. 2011, Phys. Rev. X 1, 021006; Almgren et al. 2005, Risk 18(7).
    """
    traded_yearly = periods_per_year * turnover_two_way_daily
    if not (traded_yearly > 0 and dollar_volume > 0 and annual_alpha > traded_yearly * cost):
        return None
    participation = ((annual_alpha - traded_yearly * cost) / (traded_yearly * impact * volatility)) ** 2
    zero = participation * names * dollar_volume / turnover_two_way_daily
    return (float(zero), float(zero / 4)) if np.isfinite(zero) else None
