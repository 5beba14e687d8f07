"""Markets made by hand and the rules they are judged by; not a test."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from atft.evaluation.facts import Rules, Scores
from atft.evaluation.market import Market

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_text())
RULES = Rules(
    primary_horizon=5, cost_bps=10.0, cost_grid_bps=(0, 10), quantile=0.1, periods_per_year=252, top_names=10,
    smoothing=0.0, exit_quantile=0.1, trade_share=1.0, neutral="none", psi_bins=10, bootstrap=200,
)  # fmt: skip


def day_of(*values: float) -> np.ndarray:
    """One date as [1, stock]."""
    return np.array([values], np.float32)


def market_of(returns: np.ndarray, **facts: Any) -> Market:
    """Stocks that all print, trade and are ranked every day, entered at the close itself; `facts` are changed."""
    returns = np.asarray(returns, np.float32)
    days, stocks = returns.shape
    everywhere = np.ones((days, stocks), bool)
    plain = Market(
        dates=np.busday_offset(np.datetime64("2020-01-01"), np.arange(days), roll="forward"),
        codes=[f"{i:03d}" for i in range(stocks)],
        horizons=(1,),
        delay=0,
        daily_return=returns,
        has_bar=everywhere,
        can_trade=everywhere,
        tradable=everywhere,
        forward_return=np.vstack([returns[1:], np.full((1, stocks), np.nan)])[..., None].astype(np.float32),
        label=np.zeros((days, stocks, 1), np.float32),
        money_traded=np.full((days, stocks), 1e7, np.float32),
        sector=np.ones((days, stocks), np.int16),
        sector_names=["unknown", "all"],
    )
    return replace(plain, **facts)


def parts_of(market: Market, score: np.ndarray, roles: dict[str, tuple[int, int]], seed: int = 0) -> list[Scores]:
    """`score`, [day, stock] for every horizon or [day, stock, horizon], where ranked, as blocks of days."""
    by_horizon = score if score.ndim == 3 else np.repeat(score[..., None], len(market.horizons), axis=2)
    ranked = np.where(market.tradable[..., None], by_horizon, np.nan).astype(np.float32)
    return [Scores(role, 0, seed, np.arange(*days), ranked[slice(*days)]) for role, days in roles.items()]
