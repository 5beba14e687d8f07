"""Causal features, one Polars expression each, grouped in families.

Every expression looks at one stock's rows in date order and at nothing after its own row.
Lookbacks are in trading days. Prices enter as ratios and returns alone: an adjusted level knows
the splits to come. `path` is the log of the growth of one unit of money (see `panel.bars`).
"""

from collections.abc import Sequence

import polars as pl


def trailing_return(days: int, skip: int = 0) -> pl.Expr:
    """Log return over `days` days, ending `skip` days ago."""
    return pl.col("path").shift(skip) - pl.col("path").shift(skip + days)


def volatility(days: int) -> pl.Expr:
    """Log of the standard deviation of daily returns."""
    return pl.col("r").rolling_std(days, min_samples=days // 2).clip(lower_bound=1e-6).log()


def downside_share(days: int) -> pl.Expr:
    """Share of squared returns that came from losses, 0 to 1."""
    square = pl.col("r") ** 2
    loss = pl.when(pl.col("r") < 0).then(square).otherwise(0.0)
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
    """Log of mean price x volume; both adjusted the same way, so splits cancel."""
    return _mean(pl.col("close") * pl.col("volume"), days).clip(lower_bound=1.0).log()


def illiquidity(days: int) -> pl.Expr:
    """Log of mean |return| per dollar traded (Amihud 2002)."""
    dollars = (pl.col("close") * pl.col("volume")).clip(lower_bound=1.0)
    return (_mean(pl.col("r").abs() / dollars, days) + 1e-14).log()


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
    """Slope of daily returns on the equal-weighted market."""
    r, market = pl.col("r"), pl.col("market")
    covariance = _mean(r * market, days) - _mean(r, days) * _mean(market, days)
    return covariance / (_mean(market**2, days) - _mean(market, days) ** 2).clip(lower_bound=1e-10)


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
}
# Each of these less its mean over the tradable stocks of the sector, that day.
RELATIVE = ("return_1", "return_5", "return_20", "volume_shock_20")
# The same for all stocks of a date, hence never standardised within it.
MARKET = ("market_volatility", "market_trend", "market_dispersion")


def add_features(grid: pl.DataFrame, families: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    """The grid with one raw column per feature, and their names in order.

    Args:
        grid: Rows of `panel.bars.on_grid` with a `tradable` column, sorted by (code, date).
        families: Names out of `FAMILIES`, "relative" and "market".
    """
    day = pl.col("date").rank("dense").cast(pl.Float64)
    market = pl.col("daily_return").filter("tradable").mean().over("date").fill_null(0.0)
    grid = grid.with_columns(
        r=pl.col("daily_return").clip(lower_bound=-0.9999).log1p(),
        log_volume=pl.when(pl.col("volume") > 0).then(pl.col("volume").log()),
        day=day,
        market=market,
    )
    chosen = {name: expr for family in families if family in FAMILIES for name, expr in FAMILIES[family].items()}
    needed = dict(chosen)
    if "relative" in families:
        everything = {name: expr for family in FAMILIES.values() for name, expr in family.items()}
        needed |= {name: everything[name] for name in RELATIVE}
    grid = grid.with_columns(expr.over("code").alias(name) for name, expr in needed.items())
    names = list(chosen)
    if "relative" in families:
        sector_mean = {name: pl.col(name).filter("tradable").mean().over("date", "sector") for name in RELATIVE}
        grid = grid.with_columns((pl.col(name) - sector_mean[name]).alias(f"{name}_in_sector") for name in RELATIVE)
        names += [f"{name}_in_sector" for name in RELATIVE]
    if "market" in families:
        grid = grid.join(market_state(grid), on="date", how="left", maintain_order="left")
        names += list(MARKET)
    return grid, names


def market_state(grid: pl.DataFrame) -> pl.DataFrame:
    """State of the market per date, each about 0 in ordinary times: volatility, trend, dispersion.

    Levels are compared with their own past (expanding), never with the whole sample.
    """
    tradable = grid.filter("tradable").sort("date", "code")
    daily = (
        grid.select("date").unique().sort("date")
        .join(
            tradable.group_by("date", maintain_order=True).agg(
                market=pl.col("market").first(), dispersion=pl.col("daily_return").clip(-0.2, 0.2).std()
            ),
            on="date", how="left", maintain_order="left",
        )
        .with_columns(pl.col("market").fill_null(0.0), pl.col("dispersion").fill_null(strategy="forward"))
    )  # fmt: skip
    count = pl.int_range(1, pl.len() + 1)
    vol = (pl.col("market") ** 2).ewm_mean(alpha=0.1, adjust=True).sqrt().clip(lower_bound=1e-6)
    spread = pl.col("dispersion").ewm_mean(alpha=0.1, adjust=True, ignore_nulls=True).clip(lower_bound=1e-6)
    return daily.select(
        "date",
        market_volatility=(2 * (vol / (vol.cum_sum() / count)).log()).clip(-3, 3),
        market_trend=(pl.col("market").rolling_sum(20, min_samples=10) / (vol * 20**0.5)).clip(-3, 3),
        market_dispersion=(2 * (spread / (spread.cum_sum() / spread.cum_count())).log()).clip(-3, 3),
    )
