"""Causal features, one Polars expression each, grouped in families.

Every expression looks at one stock's rows in date order, one per calendar day, null where the
stock printed no bar, and at nothing after its own row; callers evaluate it over each code.
Lookbacks are in trading days; unless a feature says otherwise half of its window must be there.
Prices enter as ratios and returns alone: an adjusted level knows the splits to come. The columns,
made by `panel.bars` and `prepared`: clean `open, high, low, close, vwap, volume` (only ratios mean
anything), `value` (money traded), `path` (log growth of 1), `r` (log daily return), `log_volume`
(null without volume), `market` (mean simple return of the tradable stocks that day), `day`, `date`, and counts that
reach back to the first bar: `age`, `unbroken`.
"""

import math

import polars as pl

from atft.panel.alpha158 import ALPHA158


def trailing_return(days: int, skip: int = 0) -> pl.Expr:
    """Log return over `days` days, ending `skip` days ago."""
    return pl.col("path").shift(skip) - pl.col("path").shift(skip + days)


def volatility(days: int) -> pl.Expr:
    """Log of the standard deviation of daily returns."""
    return pl.col("r").rolling_std(days, min_samples=days // 2).clip(lower_bound=1e-6).log()


def downside_share(days: int) -> pl.Expr:
    """Share of squared returns that came from losses, 0 to 1."""
    square = pl.col("r") ** 2
    loss = pl.col("r").clip(upper_bound=0) ** 2
    return _mean(loss, days) / _mean(square, days).clip(lower_bound=1e-12)


def skewness(days: int) -> pl.Expr:
    """Third standardised moment of daily returns."""
    mean, std = _mean(pl.col("r"), days), pl.col("r").rolling_std(days, min_samples=days // 2)
    third = _mean(pl.col("r") ** 3, days) - 3 * mean * _mean(pl.col("r") ** 2, days) + 2 * mean**3
    return third / std.clip(lower_bound=1e-6) ** 3


def largest_return(days: int) -> pl.Expr:
    """Largest daily return of the window (lottery demand)."""
    return pl.col("r").rolling_max(days, min_samples=days // 2)


def day_range() -> pl.Expr:
    """Log of high over low."""
    return (pl.col("high") / pl.col("low")).log()


def gap() -> pl.Expr:
    """Log return from the last close to the open."""
    return (pl.col("open") / pl.col("close").forward_fill().shift(1)).log().clip(-0.5, 0.5)


def close_location() -> pl.Expr:
    """Where the close lies in the day's range: -1 at the low, 1 at the high."""
    span = pl.col("high") - pl.col("low")
    return pl.when(span > 0).then((2 * pl.col("close") - pl.col("high") - pl.col("low")) / span)


def volume_shock(days: int) -> pl.Expr:
    """Log of volume over its mean of the `days` days before."""
    return pl.col("log_volume") - _mean(pl.col("log_volume"), days).shift(1)


def volume_change(days: int) -> pl.Expr:
    """Change of log volume over `days` days."""
    return pl.col("log_volume") - pl.col("log_volume").shift(days)


def volume_trend(short: int, long: int) -> pl.Expr:
    """Mean log volume of the short window less that of the long one."""
    return _mean(pl.col("log_volume"), short) - _mean(pl.col("log_volume"), long)


def volume_volatility(days: int) -> pl.Expr:
    """Standard deviation of daily changes of log volume."""
    return (pl.col("log_volume") - pl.col("log_volume").shift(1)).rolling_std(days, min_samples=days // 2)


def dollar_volume(days: int) -> pl.Expr:
    """Log of the mean money traded a day, in the money's own unit."""
    return _mean(pl.col("value"), days).clip(lower_bound=1.0).log()


def illiquidity(days: int) -> pl.Expr:
    """Log of mean |return| per unit of money traded, over the days with trade (Amihud 2002)."""
    money = pl.when(pl.col("value") > 0).then(pl.col("value"))
    return (_mean(pl.col("r").abs() / money, days) + 1e-14).log()


def return_volume_correlation(days: int) -> pl.Expr:
    """Correlation of daily returns with daily changes of log volume."""
    change = pl.col("log_volume") - pl.col("log_volume").shift(1)
    return _correlation(pl.col("r"), change, days)


def distance_to_high(days: int) -> pl.Expr:
    """Log distance to the highest close of the window, at most 0."""
    return pl.col("path") - pl.col("path").rolling_max(days, min_samples=days // 2)


def distance_to_low(days: int) -> pl.Expr:
    """Log distance to the lowest close of the window, at least 0."""
    return pl.col("path") - pl.col("path").rolling_min(days, min_samples=days // 2)


def strength_index(days: int) -> pl.Expr:
    """Gains over gains plus losses, 0 to 1 (Wilder's RSI with a plain mean)."""
    return _mean(pl.col("r").clip(lower_bound=0), days) / _mean(pl.col("r").abs(), days).clip(lower_bound=1e-12)


def trend_fit(days: int) -> pl.Expr:
    """Correlation of the log price with time, -1 to 1."""
    return _correlation(pl.col("path"), pl.col("day"), days)


def market_beta(days: int) -> pl.Expr:
    """Slope of daily returns on the equal-weighted market, over the days the stock has a return."""
    covariance, _, market_variance = _market_moments(pl.col("r"), days, days // 2)
    return covariance / market_variance.clip(lower_bound=1e-10)


def downside_beta(days: int) -> pl.Expr:
    """Market beta over the window's days on which the market fell, at least `days` / 5 of them (Ang et al. 2006)."""
    fell = pl.when(pl.col("market") < 0).then(pl.col("r"))
    covariance, _, market_variance = _market_moments(fell, days, days // 5)
    return covariance / market_variance.clip(lower_bound=1e-10)


def residual_momentum(days: int, beta_days: int, skip: int = 0) -> pl.Expr:
    """Log return over `days` days, ending `skip` days ago, less today's beta times the market's log return.

    One beta for the whole window: known today, estimated over `beta_days`.
    """
    market_path = pl.col("market").clip(lower_bound=-0.9999).log1p().cum_sum()
    market = market_path.shift(skip) - market_path.shift(skip + days)
    return trailing_return(days, skip) - market_beta(beta_days) * market


def idiosyncratic_volatility(days: int) -> pl.Expr:
    """Log of the standard deviation of what the window's regression on the market leaves of daily returns."""
    covariance, variance, market_variance = _market_moments(pl.col("r"), days, days // 2)
    left = variance - covariance**2 / market_variance.clip(lower_bound=1e-10)
    return left.clip(lower_bound=1e-12).sqrt().log()


def market_r_squared(days: int) -> pl.Expr:
    """Share of the variance of daily returns that the market explains, 0 to 1."""
    covariance, variance, market_variance = _market_moments(pl.col("r"), days, days // 2)
    return (covariance**2 / (variance * market_variance).clip(lower_bound=1e-16)).clip(0.0, 1.0)


def value_shock(days: int) -> pl.Expr:
    """Log of money traded over its mean log of the `days` days before; null without trade today."""
    money = pl.when(pl.col("value") > 0).then(pl.col("value").log())
    return money - _mean(money, days).shift(1)


def untraded_share(days: int) -> pl.Expr:
    """Share of the window's calendar days since the first bar without a share traded, 0 to 1."""
    untraded = (pl.col("volume").fill_null(0.0) <= 0).cast(pl.Float64)
    return _mean(pl.when(pl.col("age") > 0).then(untraded), days)


def accumulation(days: int) -> pl.Expr:
    """Mean close location weighted by volume, -1 (closes at lows) to 1 (at highs): Chaikin's money flow."""
    location = close_location()
    volume = pl.when(location.is_not_null()).then(pl.col("volume"))
    traded = volume.rolling_max(days, min_samples=days // 2) > 0
    return pl.when(traded).then(_mean(location * volume, days) / _mean(volume, days))


def high_low_spread(days: int) -> pl.Expr:
    """Mean bid-ask spread as a share of the price, from highs and lows (Corwin & Schultz 2012).

    The variance in a two-day range is twice that of a day, its spread the same. A day's prices are
    first moved to meet the close before where they do not hold it; negative estimates count as 0.
    """
    close_before = pl.col("close").shift(1)
    jump = (pl.col("low") - close_before).clip(lower_bound=0) + (pl.col("high") - close_before).clip(upper_bound=0)
    high, low = pl.col("high") - jump, pl.col("low") - jump
    high_before, low_before = pl.col("high").shift(1), pl.col("low").shift(1)
    one_day = (high / low).log() ** 2 + (high_before / low_before).log() ** 2
    highest = pl.when(high > high_before).then(high).otherwise(high_before)
    lowest = pl.when(low < low_before).then(low).otherwise(low_before)
    scale = 3 - 2 * math.sqrt(2)
    alpha = (math.sqrt(2) - 1) * one_day.sqrt() / scale - (highest / lowest).log() / math.sqrt(scale)
    spread = 2 * (alpha.exp() - 1) / (alpha.exp() + 1)
    return _mean(spread.clip(lower_bound=0), days)


def weekday_angle() -> pl.Expr:
    """The weekday as an angle in radians, Monday 0, a fifth of a circle a day."""
    return (pl.col("date").dt.weekday().cast(pl.Float64) - 1) * (2 * math.pi / 5)


def month_angle() -> pl.Expr:
    """How far the month has gone by its calendar days, as an angle in radians, 0 on the first; the turn is at 0."""
    gone = (pl.col("date").dt.day().cast(pl.Float64) - 1) / pl.col("date").dt.month_end().dt.day()
    return gone * (2 * math.pi)


def listing_age() -> pl.Expr:
    """Log of the calendar days since the stock's first bar, that one included."""
    return pl.when(pl.col("age") > 0).then(pl.col("age").cast(pl.Float64).log())


def unbroken_days() -> pl.Expr:
    """Log of 1 + calendar days since the last one without a bar; since the first bar where none was missing."""
    return pl.when(pl.col("age") > 0).then(pl.col("unbroken").cast(pl.Float64).log1p())


def _market_moments(r: pl.Expr, days: int, min_samples: int) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
    """Rolling covariance of returns and market, variance of returns, variance of the market; pairs only."""

    def mean(value: pl.Expr) -> pl.Expr:
        return value.rolling_mean(days, min_samples=min_samples)

    market = pl.when(r.is_not_null()).then(pl.col("market"))
    covariance = mean(r * market) - mean(r) * mean(market)
    return covariance, mean(r**2) - mean(r) ** 2, mean(market**2) - mean(market) ** 2


def _mean(value: pl.Expr, days: int) -> pl.Expr:
    return value.rolling_mean(days, min_samples=max(days // 2, 1))


def _correlation(x: pl.Expr, y: pl.Expr, days: int) -> pl.Expr:
    covariance = _mean(x * y, days) - _mean(x, days) * _mean(y, days)
    variance = (_mean(x**2, days) - _mean(x, days) ** 2) * (_mean(y**2, days) - _mean(y, days) ** 2)
    return (covariance / variance.clip(lower_bound=1e-16).sqrt()).clip(-1.0, 1.0)


# Momentum of 5 days and more is divided by nothing: ranks within the date make it comparable.
FAMILIES: dict[str, dict[str, pl.Expr]] = {
    "momentum": {
        "return_1": trailing_return(1),
        "return_2": trailing_return(2),
        "return_5": trailing_return(5),
        "return_10": trailing_return(10),
        "return_20": trailing_return(20),
        "return_60": trailing_return(60),
        "momentum_230_20": trailing_return(230, skip=20),
    },
    "shape": {
        "distance_to_high_20": distance_to_high(20),
        "distance_to_high_250": distance_to_high(250),
        "distance_to_low_20": distance_to_low(20),
        "strength_index_14": strength_index(14),
        "trend_fit_20": trend_fit(20),
        "close_location": close_location(),
        "gap": gap(),
    },
    "volatility": {
        "day_range": day_range(),
        "volatility_5": volatility(5),
        "volatility_20": volatility(20),
        "volatility_60": volatility(60),
        "downside_share_20": downside_share(20),
        "skewness_60": skewness(60),
        "largest_return_20": largest_return(20),
        "beta_60": market_beta(60),
    },
    "volume": {
        "volume_change_1": volume_change(1),
        "volume_shock_20": volume_shock(20),
        "volume_trend_5_60": volume_trend(5, 60),
        "volume_volatility_20": volume_volatility(20),
        "return_volume_correlation_20": return_volume_correlation(20),
        "dollar_volume_20": dollar_volume(20),
        "illiquidity_20": illiquidity(20),
    },
    "beta": {
        "beta_120": market_beta(120),
        "beta_250": market_beta(250),
        "downside_beta_120": downside_beta(120),
        "residual_momentum_5": residual_momentum(5, beta_days=120),
        "residual_momentum_20": residual_momentum(20, beta_days=120),
        "residual_momentum_60": residual_momentum(60, beta_days=120),
        "residual_momentum_230_20": residual_momentum(230, beta_days=250, skip=20),
        "idiosyncratic_volatility_20": idiosyncratic_volatility(20),
        "idiosyncratic_volatility_60": idiosyncratic_volatility(60),
        "market_r_squared_60": market_r_squared(60),
    },
    "liquidity": {
        "illiquidity_5": illiquidity(5),
        "illiquidity_60": illiquidity(60),
        "dollar_volume_5": dollar_volume(5),
        "dollar_volume_60": dollar_volume(60),
        "value_shock_20": value_shock(20),
        "untraded_share_20": untraded_share(20),
        "accumulation_20": accumulation(20),
        "high_low_spread_20": high_low_spread(20),
    },
    "calendar": {
        "weekday_sin": weekday_angle().sin(),
        "weekday_cos": weekday_angle().cos(),
        "month_sin": month_angle().sin(),
        "month_cos": month_angle().cos(),
        "listing_age": listing_age(),
        "unbroken_days": unbroken_days(),
    },
    "alpha158": ALPHA158,
}
# Each of these less its mean over the tradable stocks of the sector, and of the industry, that day.
RELATIVE = (
    "return_1",
    "return_5",
    "return_20",
    "return_60",
    "residual_momentum_20",
    "volatility_20",
    "distance_to_high_250",
    "volume_shock_20",
    "illiquidity_20",
)
# The same for all stocks of a date, hence never standardised within it.
MARKET = (
    "market_volatility",
    "market_trend",
    "market_dispersion",
    "weekday_sin",
    "weekday_cos",
    "month_sin",
    "month_cos",
)


def prepared(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows of whole stocks with the columns that several expressions share."""
    return rows.with_columns(
        r=pl.col("daily_return").clip(lower_bound=-0.9999).log1p(),
        log_volume=pl.when(pl.col("volume") > 0).then(pl.col("volume").log()),
        day=pl.col("date").rank("dense").cast(pl.Float64),
    )


def market_days(grid: pl.DataFrame) -> pl.DataFrame:
    """`date, market, dispersion` (of the tradable stocks' daily returns) of each date by itself, null without any."""
    tradable = grid.filter("tradable").sort("date", "code")
    return (
        grid.select("date").unique().sort("date")
        .join(
            tradable.group_by("date", maintain_order=True).agg(
                market=pl.col("market").first(), dispersion=pl.col("daily_return").clip(-0.2, 0.2).std()
            ),
            on="date", how="left", maintain_order="left",
        )
    )  # fmt: skip


def market_state(days: pl.DataFrame) -> pl.DataFrame:
    """State of the market per date, each about 0 in ordinary times: volatility, trend, dispersion.

    Levels are compared with their own past (expanding), never with the whole sample.

    Args:
        days: `market_days` of all dates from the first one on.
    """
    daily = days.with_columns(pl.col("market").fill_null(0.0), pl.col("dispersion").fill_null(strategy="forward"))
    count = pl.int_range(1, pl.len() + 1)
    vol = (pl.col("market") ** 2).ewm_mean(alpha=0.1, adjust=True).sqrt().clip(lower_bound=1e-6)
    spread = pl.col("dispersion").ewm_mean(alpha=0.1, adjust=True, ignore_nulls=True).clip(lower_bound=1e-6)
    return daily.select(
        "date",
        market_volatility=(2 * (vol / (vol.cum_sum() / count)).log()).clip(-3, 3),
        market_trend=(pl.col("market").rolling_sum(20, min_samples=10) / (vol * 20**0.5)).clip(-3, 3),
        market_dispersion=(2 * (spread / (spread.cum_sum() / spread.cum_count())).log()).clip(-3, 3),
    )
