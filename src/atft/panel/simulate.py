"""A simulated market whose predictable part is known exactly.

Returns are innovations plus planted alpha. The innovations (market, sectors, industries, hidden
peer clusters, fat-tailed noise) cannot be foreseen. Each planted part is a fading memory of
*observed* innovations, so that its expectation given the past bars, with the generator's
parameters known, has a closed form: the oracle.

    part        what moves a stock tomorrow                          who can find it
    peer        cluster peers moved yesterday and it has not yet     a model that sees neighbours
    cyclical    phase of its own volume cycle (period 8-20 days)     a model that sees frequency
    regime      own surprise: reverts in turbulence, persists else   a model with interactions
    reversal    own surprise reverts                                 any model
    volume      abnormal volume drifts                               any model

The constants are frozen: changing one voids every table that was measured on this market.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

PARTS = ("peer", "cyclical", "regime", "reversal", "volume")

BURN_IN = 250  # days simulated before the first bar, so that memories and regimes start settled
SECTORS, INDUSTRIES_PER_SECTOR, CLUSTER_SIZE = 8, 3, 8
MARKET_VOL, SECTOR_VOL, INDUSTRY_VOL, STOCK_VOL = 0.008, 0.005, 0.004, 0.016  # per day
DRIFT = 0.0006  # daily log return of every stock: about the return lost to volatility, and a premium
CLUSTER_CORRELATION = 0.35  # of two cluster mates' idiosyncratic returns
TURBULENCE, TO_TURBULENT, TO_CALM = 2.0, 1 / 60, 1 / 50  # volatility multiple, daily probabilities
CYCLE_AMPLITUDE = 0.5  # of log volume
VOLUME_NOISE, VOLUME_MEMORY = 0.3, 0.6
FADE = {"peer": 0.7, "regime": 0.7, "reversal": 0.5, "volume": 0.9}  # memory kept per day
# RankIC at horizon 5, delay 1, of each part alone; the parts are nearly orthogonal, so squares add.
TARGET_IC = {"peer": 0.10, "cyclical": 0.06, "regime": 0.06, "reversal": 0.05, "volume": 0.05}
STRENGTH = {"standard": 1.0, "hard": 0.4}
CROSS_SECTION_VOL = 1.2  # of a daily return in units of the stock's own idiosyncratic volatility
SPLIT_ABOVE, SPLITS_MISSED = 120.0, 0.1  # price that triggers a 2:1 split; share the vendor misses

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SimulatedMarket:
    """What a vendor would deliver, and what only the simulation knows.

    Attributes:
        bars: `date, code, open, high, low, close, volume, sector, industry, terminal_return`,
            sorted by (code, date). Prices are split-adjusted as vendors do it, backwards.
            `terminal_return` stands on a delisted stock's last bar: what its holders got after it.
        oracle: `date, code, horizon` and one column per part: the expected log return from the
            close of t + delay to t + delay + horizon, given the bars up to t.
        clusters: `code, cluster`: the hidden peers.
    """

    bars: pl.DataFrame
    oracle: pl.DataFrame
    clusters: pl.DataFrame


def simulate_market(
    stocks: int, days: int, market: str, seed: int, horizons: tuple[int, ...], delay: int
) -> SimulatedMarket:
    """Simulate `stocks` x `days` daily bars from 2014-01-02 on (weekdays), with the oracle beside them."""
    rng = np.random.default_rng(seed)
    total = BURN_IN + days
    sector, industry, cluster = _membership(rng, stocks)
    beta = np.clip(rng.normal(1.0, 0.3, stocks), 0.3, 2.0)
    vol = STOCK_VOL * np.exp(rng.normal(0.0, 0.3, stocks))
    innovation = _innovations(rng, total, sector, industry, cluster, beta, vol)
    listed, terminal = _listings(rng, total, stocks)
    halted = _halts(rng, listed)
    has_bar = listed & ~halted & (rng.random((total, stocks)) >= 0.001)
    innovation[halted] = 0.0

    # A surprise counts only where both of its bars were printed: the oracle sees what a reader sees.
    observed = has_bar & np.vstack([np.zeros((1, stocks), bool), has_bar[:-1]])
    surprise = np.where(observed, _sector_demeaned(innovation, sector, observed) / vol, 0.0)
    volume_noise = rng.normal(0.0, VOLUME_NOISE, (total, stocks))
    period = rng.uniform(8.0, 20.0, stocks)
    phase = 2 * np.pi * (np.arange(total + max(horizons) + delay + 1)[:, None] / period + rng.random(stocks))

    # Impulses have unit variance; each part's coefficient then follows from its target IC.
    calm = np.where(_turbulent(innovation, listed), -1.0, 1.0)[:, None]
    impulses = {
        "peer": _peer_surprise(surprise, observed, cluster),
        "regime": calm * surprise,
        "reversal": -surprise,
        "volume": np.where(has_bar, volume_noise / VOLUME_NOISE, 0.0),
    }
    strength = STRENGTH[market]
    memory = {part: _remember(impulse, FADE[part]) for part, impulse in impulses.items()}
    gain = {part: strength * _gain(part, period) for part in PARTS}
    alpha = vol * (sum(gain[part] * memory[part] for part in memory) + gain["cyclical"] * np.cos(phase[:total]))
    log_return = np.where(halted, 0.0, innovation + alpha)

    codes = np.array([f"S{i:04d}" for i in range(stocks)])
    dates = _weekdays(days)
    bars = _bars(rng, log_return, vol, surprise, volume_noise, CYCLE_AMPLITUDE * np.sin(phase[:total]), listed, has_bar)
    keep = slice(BURN_IN, None)
    day, stock = np.nonzero(has_bar[keep].T)[::-1]
    prints = {name: values[keep][day, stock] for name, values in bars.items()}
    frame = pl.DataFrame(
        {
            "date": dates[day],
            "code": codes[stock],
            **prints,
            "sector": np.array([f"sector {s}" for s in range(SECTORS)])[sector[stock]],
            "industry": np.array([f"industry {s}" for s in range(SECTORS * INDUSTRIES_PER_SECTOR)])[industry[stock]],
        }
    ).with_columns(pl.col("open", "high", "low").fill_nan(None))
    last = {codes[i]: terminal[i] for i in range(stocks) if not listed[-1, i] and np.isfinite(terminal[i])}
    frame = frame.with_columns(
        pl.when(pl.col("date") == pl.col("date").max().over("code"))
        .then(pl.col("code").replace_strict(last, default=None, return_dtype=pl.Float64))
        .alias("terminal_return")
    )
    oracle = pl.concat(
        [
            pl.DataFrame(
                {
                    "date": dates[day],
                    "code": codes[stock],
                    "horizon": np.full(len(day), horizon, np.int32),
                    **{
                        part: expected[keep][day, stock].astype(np.float32)
                        for part, expected in _expectations(memory, gain, vol, phase, total, horizon, delay).items()
                    },
                }
            )
            for horizon in horizons
        ]
    )
    return SimulatedMarket(frame, oracle, pl.DataFrame({"code": codes, "cluster": cluster}))


def _weekdays(days: int) -> NDArray[np.datetime64]:
    return np.busday_offset(np.datetime64("2014-01-02"), np.arange(days), roll="forward").astype("datetime64[D]")


def _membership(rng: np.random.Generator, stocks: int) -> tuple[NDArray[np.int64], ...]:
    """Sector, industry and hidden cluster of each stock; clusters are independent of sectors."""
    industry = rng.permutation(np.arange(stocks) % (SECTORS * INDUSTRIES_PER_SECTOR))
    cluster = rng.permutation(np.arange(stocks) // CLUSTER_SIZE)
    return industry // INDUSTRIES_PER_SECTOR, industry, cluster


def _innovations(
    rng: np.random.Generator,
    total: int,
    sector: NDArray[np.int64],
    industry: NDArray[np.int64],
    cluster: NDArray[np.int64],
    beta: Array,
    vol: Array,
) -> Array:
    """Unforeseeable log returns [day, stock], louder in turbulent regimes."""
    turbulent = np.zeros(total, bool)
    switch = rng.random(total)
    for t in range(1, total):
        turbulent[t] = switch[t] >= TO_CALM if turbulent[t - 1] else switch[t] < TO_TURBULENT
    level = np.where(turbulent, TURBULENCE, 1.0)[:, None]
    market = MARKET_VOL * rng.standard_normal((total, 1))
    sectors = SECTOR_VOL * rng.standard_normal((total, SECTORS))
    industries = INDUSTRY_VOL * rng.standard_normal((total, SECTORS * INDUSTRIES_PER_SECTOR))
    clusters = rng.standard_normal((total, cluster.max() + 1))
    noise = rng.standard_t(5, (total, len(vol))) / np.sqrt(5 / 3)
    own = np.sqrt(CLUSTER_CORRELATION) * clusters[:, cluster] + np.sqrt(1 - CLUSTER_CORRELATION) * noise
    common = beta * market + sectors[:, sector] + industries[:, industry]
    return DRIFT + level * common + np.sqrt(level) * vol * own


def _listings(rng: np.random.Generator, total: int, stocks: int) -> tuple[NDArray[np.bool_], Array]:
    """Who is listed when, and the terminal return (NaN where none): one in seven lists late, one in ten leaves."""
    start = np.where(rng.random(stocks) < 0.15, rng.integers(BURN_IN, total, stocks), 0)
    end = np.where(
        rng.random(stocks) < 0.10, rng.integers(BURN_IN + min(100, (total - BURN_IN) // 2), total, stocks), total
    )
    end = np.where(end - start < 60, total, end)
    day = np.arange(total)[:, None]
    collapse = rng.random(stocks) < 0.6
    terminal = np.where(collapse, -rng.uniform(0.2, 0.9, stocks), rng.uniform(0.05, 0.3, stocks))
    return (day >= start) & (day < end), np.where(end < total, terminal, np.nan)


def _halts(rng: np.random.Generator, listed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Trading halts of one to three days: no bar, no return, no memory made."""
    halted = np.zeros_like(listed)
    days, stocks = np.nonzero(rng.random(listed.shape) < 0.0005)
    for day, stock, length in zip(days, stocks, rng.integers(1, 4, len(days)), strict=True):
        halted[day : day + length, stock] = True
    leaving = listed & ~np.vstack([listed[1:], listed[-1:]])
    return halted & listed & ~leaving


def _sector_demeaned(values: Array, sector: NDArray[np.int64], present: NDArray[np.bool_]) -> Array:
    out = values.copy()
    for s in range(SECTORS):
        members = sector == s
        count = np.maximum(present[:, members].sum(1, keepdims=True), 1)
        out[:, members] -= np.where(present[:, members], values[:, members], 0.0).sum(1, keepdims=True) / count
    return out


def _peer_surprise(surprise: Array, observed: NDArray[np.bool_], cluster: NDArray[np.int64]) -> Array:
    """Mean surprise of the cluster mates beyond what the stock itself shared, at unit variance.

    Taking out the stock's own share makes the part invisible to a model that sees only the stock.
    """
    member = (cluster[:, None] == np.arange(cluster.max() + 1)).astype(float)
    total, count = surprise @ member, observed.astype(float) @ member
    others = (total[:, cluster] - surprise) / np.maximum(count[:, cluster] - observed, 1.0)
    mates, rho = CLUSTER_SIZE - 1, CLUSTER_CORRELATION
    return (others - rho * surprise) / np.sqrt(rho + (1 - rho) / mates - rho**2)


def _turbulent(innovation: Array, listed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the exponentially weighted variance of the equal-weight market is high, as of each day."""
    market = np.where(listed, innovation, 0.0).sum(1) / np.maximum(listed.sum(1), 1)
    threshold = (MARKET_VOL**2 + SECTOR_VOL**2 / SECTORS) * (1 + TURBULENCE**2) / 2
    variance, turbulent = threshold, np.zeros(len(market), bool)
    for t, value in enumerate(market):
        variance = 0.9 * variance + 0.1 * value**2
        turbulent[t] = variance > threshold
    return turbulent


def _remember(impulse: Array, fade: float) -> Array:
    """Memory that acts on day t: all impulses before t, fading geometrically."""
    memory = np.zeros_like(impulse)
    for t in range(1, len(impulse)):
        memory[t] = fade * memory[t - 1] + impulse[t - 1]
    return memory


def _gain(part: str, period: Array) -> float:
    """Coefficient that gives the part its target IC at horizon 5 and delay 1."""
    if part == "cyclical":
        swing = np.sin(5 * np.pi / period) / np.sin(np.pi / period)
        expected_std = np.sqrt(np.mean(swing**2) / 2)
    else:
        fade = FADE[part]
        expected_std = fade * (1 - fade**5) / (1 - fade) / np.sqrt(1 - fade**2)
    return TARGET_IC[part] * np.sqrt(5) * CROSS_SECTION_VOL / expected_std


def _expectations(
    memory: dict[str, Array], gain: dict[str, float], vol: Array, phase: Array, total: int, horizon: int, delay: int
) -> dict[str, Array]:
    """Expected log return of days t+delay+1 .. t+delay+horizon as of the close of t, per part [day, stock]."""
    out = {}
    for part, acts in memory.items():
        # memory[t + 1] is known at t; without new impulses it fades, and new ones have mean zero.
        known = np.vstack([acts[1:], FADE[part] * acts[-1:]])
        fade = FADE[part]
        out[part] = gain[part] * vol * known * fade**delay * (1 - fade**horizon) / (1 - fade)
    ahead = [np.cos(phase[delay + k : delay + k + total]) for k in range(1, horizon + 1)]
    out["cyclical"] = gain["cyclical"] * vol * np.sum(ahead, axis=0)
    return {part: out[part] for part in PARTS}


def _bars(
    rng: np.random.Generator,
    log_return: Array,
    vol: Array,
    surprise: Array,
    volume_noise: Array,
    cycle: Array,
    listed: NDArray[np.bool_],
    has_bar: NDArray[np.bool_],
) -> dict[str, Array]:
    """Open, high, low, close, volume as a vendor prints them: split-adjusted backwards, some splits missed."""
    total, stocks = log_return.shape
    first = np.argmax(listed, axis=0)
    path = np.where(np.arange(total)[:, None] > first, np.where(listed, log_return, 0.0), 0.0).cumsum(0)
    price = np.exp(rng.normal(np.log(40.0), 0.5, stocks)) * np.exp(path)

    # A price above the limit splits 2:1 overnight. The vendor divides all earlier prices by the
    # ratio, so an adjusted level knows the splits to come; where it misses one, a jump stays.
    divisor, adjust = np.ones((total, stocks)), np.ones((total, stocks))
    missed = rng.random((total, stocks)) < SPLITS_MISSED
    for t in range(1, total):
        split = price[t - 1] / divisor[t - 1] > SPLIT_ABOVE
        divisor[t] = divisor[t - 1] * np.where(split, 2.0, 1.0)
        adjust[:t] *= np.where(split & ~missed[t], 2.0, 1.0)
    adjusted = price / divisor / adjust
    close = np.round(adjusted, 4)
    wobble = vol * rng.standard_normal((total, stocks))
    open_ = np.round(adjusted * np.exp(-0.7 * log_return + 0.3 * wobble), 4)
    up, down = np.abs(0.5 * vol * rng.standard_normal((2, total, stocks)))
    high = np.maximum(open_, close) * np.exp(up)
    low = np.minimum(open_, close) * np.exp(-down)
    lost = rng.random((total, stocks)) < 0.003  # absent prints
    log_volume = rng.normal(13.0, 1.0, stocks) + 0.3 * np.abs(surprise) + cycle
    persistent = _remember(np.where(has_bar, volume_noise, 0.0), VOLUME_MEMORY) * VOLUME_MEMORY + volume_noise
    volume = np.round(np.exp(log_volume + persistent) * divisor * adjust / divisor[-1:])
    return {
        "open": np.where(lost, np.nan, open_),
        "high": np.where(lost, np.nan, np.round(np.maximum(high, np.maximum(open_, close)), 4)),
        "low": np.where(lost, np.nan, np.round(np.minimum(low, np.minimum(open_, close)), 4)),
        "close": close,
        "volume": volume,
    }
