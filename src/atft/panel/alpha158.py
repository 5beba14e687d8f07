"""The 158 factors of qlib's Alpha158, one Polars expression each, under qlib's names.

Every expression looks at one stock's rows in date order, one row per calendar day, null where the
stock printed no bar, and at nothing after its own row. As in qlib, a window is `days` calendar
rows cut off at the stock's first bar; what is missing inside it is skipped, one observation is
enough, and `shift` counts calendar rows (nothing is filled). A day whose change cannot be told counts
as neither up nor down. Prices enter as ratios.

Where this departs from qlib, and why:

- Undefined is null, never NaN or infinite: a ratio to a volume of zero, a regression on one point.
- No `+ 1e-12` in denominators: it carries the unit of the price. Where the whole is zero its share
  is 0, as in qlib; the rounding left over by a rolling sum does not count as a whole. KMID2, KUP2,
  KLOW2, KSFT2 and RSV are held within [-1, 1], where they are unless a price lies outside its day's range.
- CORR takes the log of volume where it is positive, not of volume + 1, which carries the unit of
  the volume; CORD leaves out changes from a volume of zero, as pandas does with qlib's infinities.
- CORR, CORD and RSQR are null where a standard deviation is below 2e-5, as in qlib, but measured
  against the mean close: qlib's prices start at 1, so that its bound is relative to the first day.
- IMAX, IMIN and IMXD skip missing days, which NumPy's argmax, behind qlib's, mistakes for the extreme.

Sources: Microsoft qlib, `qlib/contrib/data/loader.py` (Alpha158DL), `qlib/data/ops.py` and
`qlib/data/_libs/rolling.pyx`; Yang et al. 2020, Qlib: An AI-oriented Quantitative Investment Platform.
"""

import polars as pl

WINDOWS = (5, 10, 20, 30, 60)  # trading days
NEGLIGIBLE = 2e-5  # a standard deviation below this is rounding
MOST_ROWS = 1 << 20  # more calendar days than any panel has

OPEN, HIGH, LOW, CLOSE, VOLUME = (pl.col(name) for name in ("open", "high", "low", "close", "volume"))
CLOSE_BEFORE, VOLUME_BEFORE = CLOSE.shift(1), VOLUME.shift(1)
CLOSE_CHANGE, VOLUME_CHANGE = CLOSE - CLOSE_BEFORE, VOLUME - VOLUME_BEFORE
BODY_TOP = pl.when(OPEN > CLOSE).then(OPEN).when(OPEN <= CLOSE).then(CLOSE)
BODY_BOTTOM = pl.when(OPEN < CLOSE).then(OPEN).when(OPEN >= CLOSE).then(CLOSE)
ROW = pl.int_range(pl.len(), dtype=pl.Int64)
CLOSE_ROW = pl.when(CLOSE.is_not_null()).then(ROW.cast(pl.Float64))
AGE = pl.col("age")  # calendar rows since the first bar, which is 1; 0 before


def body() -> pl.Expr:
    """The day's return from open to close: (close - open) / open."""
    return (CLOSE - OPEN) / OPEN


def span() -> pl.Expr:
    """The day's range: (high - low) / open."""
    return (HIGH - LOW) / OPEN


def body_share() -> pl.Expr:
    """Body over range, -1 to 1: (close - open) / (high - low)."""
    return _share(CLOSE - OPEN, HIGH - LOW)


def upper_shadow() -> pl.Expr:
    """High above the body: (high - max(open, close)) / open."""
    return (HIGH - BODY_TOP) / OPEN


def upper_shadow_share() -> pl.Expr:
    """Upper shadow over range, 0 to 1: (high - max(open, close)) / (high - low)."""
    return _share(HIGH - BODY_TOP, HIGH - LOW)


def lower_shadow() -> pl.Expr:
    """Body above the low: (min(open, close) - low) / open."""
    return (BODY_BOTTOM - LOW) / OPEN


def lower_shadow_share() -> pl.Expr:
    """Lower shadow over range, 0 to 1: (min(open, close) - low) / (high - low)."""
    return _share(BODY_BOTTOM - LOW, HIGH - LOW)


def close_shift() -> pl.Expr:
    """The close against the middle of the range: (2 close - high - low) / open."""
    return (2 * CLOSE - HIGH - LOW) / OPEN


def close_shift_share() -> pl.Expr:
    """Where the close lies in the range, -1 at the low, 1 at the high: (2 close - high - low) / (high - low)."""
    return _share(2 * CLOSE - HIGH - LOW, HIGH - LOW)


def price_to_close(price: str) -> pl.Expr:
    """Another price of the day over its close: price / close."""
    return pl.col(price) / CLOSE


def past_close(days: int) -> pl.Expr:
    """The close `days` days ago over today's: close[-days] / close."""
    return CLOSE.shift(days) / CLOSE


def mean_close(days: int) -> pl.Expr:
    """The window's mean close over today's: mean(close) / close."""
    return _mean(CLOSE, days) / CLOSE


def close_deviation(days: int) -> pl.Expr:
    """Standard deviation of the window's closes over today's close: std(close) / close."""
    return _std(CLOSE, days) / CLOSE


def trend_slope(days: int) -> pl.Expr:
    """Growth per day of a straight line through the window's closes, over today's close: slope(close) / close."""
    return _slope(days) / CLOSE


def trend_r_squared(days: int) -> pl.Expr:
    """Share of the closes' variance that lies on a straight line, 0 to 1: corr(close, row)^2."""
    return _correlation(CLOSE, CLOSE_ROW, days, _mean(CLOSE, days)) ** 2


def trend_residual(days: int) -> pl.Expr:
    """Today's close less its place on the window's straight line, over the close: resi(close) / close."""
    return (CLOSE - _mean(CLOSE, days) - _slope(days) * (CLOSE_ROW - _mean(CLOSE_ROW, days))) / CLOSE


def highest_high(days: int) -> pl.Expr:
    """The window's highest high over today's close: max(high) / close."""
    return _max(HIGH, days) / CLOSE


def lowest_low(days: int) -> pl.Expr:
    """The window's lowest low over today's close: min(low) / close."""
    return _min(LOW, days) / CLOSE


def close_quantile(days: int, quantile: float) -> pl.Expr:
    """A quantile of the window's closes, linear between two of them, over today's: quantile(close) / close."""
    return CLOSE.rolling_quantile(quantile, "linear", window_size=days, min_samples=1) / CLOSE


def close_rank(days: int) -> pl.Expr:
    """Rank of today's close among the window's, ties at their average, over their number: in (0, 1]."""
    return CLOSE.rolling_rank(days, min_samples=1) / _count(CLOSE, days)


def range_position(days: int) -> pl.Expr:
    """Where the close lies in the window's range, 0 to 1: (close - min(low)) / (max(high) - min(low))."""
    lowest = _min(LOW, days)
    return _share(CLOSE - lowest, _max(HIGH, days) - lowest)


def position_of_high(days: int) -> pl.Expr:
    """Place of the highest high (the first of equals) in the window, counted from 1, over `days`."""
    return _position(_first_largest(HIGH.rank("dense"), days), days) / days


def position_of_low(days: int) -> pl.Expr:
    """Place of the lowest low (the first of equals) in the window, counted from 1, over `days`."""
    return _position(_first_largest(LOW.rank("dense", descending=True), days), days) / days


def high_after_low(days: int) -> pl.Expr:
    """Days by which the highest high came after the lowest low, over `days`: in (-1, 1)."""
    high, low = HIGH.rank("dense"), LOW.rank("dense", descending=True)
    return (_first_largest(high, days) - _first_largest(low, days)) / days


def close_volume_correlation(days: int) -> pl.Expr:
    """Correlation of the close with the log of volume: corr(close, log(volume))."""
    pair = CLOSE.is_not_null() & (VOLUME > 0)
    return _correlation(pl.when(pair).then(CLOSE), pl.when(pair).then(VOLUME).log(), days, _mean(CLOSE, days))


def change_correlation(days: int) -> pl.Expr:
    """Correlation of price with volume changes: corr(close / close[-1], log(volume / volume[-1] + 1))."""
    pair = CLOSE_CHANGE.is_not_null() & VOLUME.is_not_null() & (VOLUME_BEFORE > 0)
    growth, volume_growth = CLOSE / CLOSE_BEFORE, VOLUME / VOLUME_BEFORE
    return _correlation(pl.when(pair).then(growth), pl.when(pair).then(volume_growth + 1).log(), days, 1.0)


def share_up(days: int) -> pl.Expr:
    """Share of the window's days with a close above the day before's: mean(close > close[-1])."""
    return _mean(_observed(CLOSE_CHANGE > 0), days)


def share_down(days: int) -> pl.Expr:
    """Share of the window's days with a close below the day before's: mean(close < close[-1])."""
    return _mean(_observed(CLOSE_CHANGE < 0), days)


def up_less_down(days: int) -> pl.Expr:
    """Share of days up less share of days down, -1 to 1: mean(sign(close - close[-1]))."""
    return _mean(_observed(CLOSE_CHANGE.sign()), days)


def gain_share(days: int) -> pl.Expr:
    """Sum of the gains in close over the sum of all changes in size, 0 to 1."""
    return _share_of_changes(_gain(CLOSE_CHANGE), CLOSE_CHANGE, days)


def loss_share(days: int) -> pl.Expr:
    """Sum of the losses in close over the sum of all changes in size, 0 to 1."""
    return _share_of_changes(_gain(-CLOSE_CHANGE), CLOSE_CHANGE, days)


def gain_less_loss(days: int) -> pl.Expr:
    """Gain share less loss share, -1 to 1: net over gross change of the close."""
    return _share_of_changes(CLOSE_CHANGE, CLOSE_CHANGE, days)


def mean_volume(days: int) -> pl.Expr:
    """The window's mean volume over today's: mean(volume) / volume; null where none traded today."""
    return _mean(VOLUME, days) / _positive(VOLUME)


def volume_deviation(days: int) -> pl.Expr:
    """Standard deviation of the window's volumes over today's: std(volume) / volume; null where none traded today."""
    return _std(VOLUME, days) / _positive(VOLUME)


def weighted_move_deviation(days: int) -> pl.Expr:
    """Standard deviation over mean of |close / close[-1] - 1| * volume: how uneven the traded moves are."""
    move = (CLOSE / CLOSE_BEFORE - 1).abs() * VOLUME
    return _std(move, days) / _unless_all_zero(_mean(move, days), move, days)


def volume_gain_share(days: int) -> pl.Expr:
    """Sum of the rises in volume over the sum of all its changes in size, 0 to 1."""
    return _share_of_changes(_gain(VOLUME_CHANGE), VOLUME_CHANGE, days)


def volume_loss_share(days: int) -> pl.Expr:
    """Sum of the falls in volume over the sum of all its changes in size, 0 to 1."""
    return _share_of_changes(_gain(-VOLUME_CHANGE), VOLUME_CHANGE, days)


def volume_gain_less_loss(days: int) -> pl.Expr:
    """Volume gain share less volume loss share, -1 to 1: net over gross change of volume."""
    return _share_of_changes(VOLUME_CHANGE, VOLUME_CHANGE, days)


def _count(value: pl.Expr, days: int) -> pl.Expr:
    return value.is_not_null().cast(pl.Float64).rolling_sum(days, min_samples=1)


def _sum(value: pl.Expr, days: int) -> pl.Expr:
    return value.rolling_sum(days, min_samples=1)


def _mean(value: pl.Expr, days: int) -> pl.Expr:
    return value.rolling_mean(days, min_samples=1)


def _std(value: pl.Expr, days: int) -> pl.Expr:
    return value.rolling_std(days, min_samples=1)


def _variance(value: pl.Expr, days: int) -> pl.Expr:
    return value.rolling_var(days, min_samples=1, ddof=0)


def _max(value: pl.Expr, days: int) -> pl.Expr:
    return value.rolling_max(days, min_samples=1)


def _min(value: pl.Expr, days: int) -> pl.Expr:
    return value.rolling_min(days, min_samples=1)


def _positive(value: pl.Expr) -> pl.Expr:
    """Null where the value is zero."""
    return pl.when(value > 0).then(value)


def _gain(change: pl.Expr) -> pl.Expr:
    return change.clip(lower_bound=0)


def _share(part: pl.Expr, whole: pl.Expr) -> pl.Expr:
    """Part over whole within [-1, 1], which sound bars never leave; 0 where both are 0."""
    return (part / whole.clip(lower_bound=1e-300)).clip(-1.0, 1.0)


def _share_of_changes(part: pl.Expr, change: pl.Expr, days: int) -> pl.Expr:
    """Rolling sum of `part` over that of |change|; 0 where nothing changed."""
    size = change.abs()
    return _sum(part, days) / _unless_all_zero(_sum(size, days), size, days)


def _observed(event: pl.Expr) -> pl.Expr:
    """The event as a number, 0 where it cannot be told, null before the first bar."""
    return pl.when(AGE > 0).then(event.cast(pl.Float64).fill_null(0.0))


def _unless_all_zero(whole: pl.Expr, size: pl.Expr, days: int) -> pl.Expr:
    """The denominator `whole`, infinite where all sizes of the window are 0, so that its shares are 0.

    Asked of the rolling maximum, which is exact: rolling sums and means keep the rounding of values
    that have left the window.
    """
    return pl.when(_max(size, days) > 0).then(whole).otherwise(float("inf"))


def _slope(days: int) -> pl.Expr:
    """Least squares growth of the close per row; null on fewer than two closes (two rows have a variance of 0.25)."""
    covariance = _mean(CLOSE_ROW * CLOSE, days) - _mean(CLOSE_ROW, days) * _mean(CLOSE, days)
    variance = _variance(CLOSE_ROW, days)
    return pl.when(variance > 0.2).then(covariance / variance)


def _first_largest(rank: pl.Expr, days: int) -> pl.Expr:
    """Row number of the window's largest rank, the first of equals.

    Rank and row are packed into one integer, so that a rolling maximum finds both. Only the order
    of the ranks counts, and later rows do not change the order of earlier ones.
    """
    code = rank.cast(pl.Int64) * MOST_ROWS + (MOST_ROWS - 1 - ROW)
    return MOST_ROWS - 1 - code.rolling_max(days, min_samples=1) % MOST_ROWS


def _position(row: pl.Expr, days: int) -> pl.Expr:
    """A row number as a place in today's window, counted from 1 at its first row."""
    return pl.min_horizontal(AGE, days) - (ROW - row)


def _correlation(price: pl.Expr, other: pl.Expr, days: int, price_unit: pl.Expr | float) -> pl.Expr:
    """Pearson correlation of two series that are null on the same rows; null where either hardly varies."""
    covariance = _mean(price * other, days) - _mean(price, days) * _mean(other, days)
    price_variance, other_variance = _variance(price, days), _variance(other, days)
    moves = (price_variance > (NEGLIGIBLE * price_unit) ** 2) & (other_variance > NEGLIGIBLE**2)
    return pl.when(moves).then(covariance / (price_variance * other_variance).sqrt())


ALPHA158: dict[str, pl.Expr] = {
    "KMID": body(),
    "KLEN": span(),
    "KMID2": body_share(),
    "KUP": upper_shadow(),
    "KUP2": upper_shadow_share(),
    "KLOW": lower_shadow(),
    "KLOW2": lower_shadow_share(),
    "KSFT": close_shift(),
    "KSFT2": close_shift_share(),
    "OPEN0": price_to_close("open"),
    "HIGH0": price_to_close("high"),
    "LOW0": price_to_close("low"),
    "VWAP0": price_to_close("vwap"),
    **{f"ROC{days}": past_close(days) for days in WINDOWS},
    **{f"MA{days}": mean_close(days) for days in WINDOWS},
    **{f"STD{days}": close_deviation(days) for days in WINDOWS},
    **{f"BETA{days}": trend_slope(days) for days in WINDOWS},
    **{f"RSQR{days}": trend_r_squared(days) for days in WINDOWS},
    **{f"RESI{days}": trend_residual(days) for days in WINDOWS},
    **{f"MAX{days}": highest_high(days) for days in WINDOWS},
    **{f"MIN{days}": lowest_low(days) for days in WINDOWS},
    **{f"QTLU{days}": close_quantile(days, 0.8) for days in WINDOWS},
    **{f"QTLD{days}": close_quantile(days, 0.2) for days in WINDOWS},
    **{f"RANK{days}": close_rank(days) for days in WINDOWS},
    **{f"RSV{days}": range_position(days) for days in WINDOWS},
    **{f"IMAX{days}": position_of_high(days) for days in WINDOWS},
    **{f"IMIN{days}": position_of_low(days) for days in WINDOWS},
    **{f"IMXD{days}": high_after_low(days) for days in WINDOWS},
    **{f"CORR{days}": close_volume_correlation(days) for days in WINDOWS},
    **{f"CORD{days}": change_correlation(days) for days in WINDOWS},
    **{f"CNTP{days}": share_up(days) for days in WINDOWS},
    **{f"CNTN{days}": share_down(days) for days in WINDOWS},
    **{f"CNTD{days}": up_less_down(days) for days in WINDOWS},
    **{f"SUMP{days}": gain_share(days) for days in WINDOWS},
    **{f"SUMN{days}": loss_share(days) for days in WINDOWS},
    **{f"SUMD{days}": gain_less_loss(days) for days in WINDOWS},
    **{f"VMA{days}": mean_volume(days) for days in WINDOWS},
    **{f"VSTD{days}": volume_deviation(days) for days in WINDOWS},
    **{f"WVMA{days}": weighted_move_deviation(days) for days in WINDOWS},
    **{f"VSUMP{days}": volume_gain_share(days) for days in WINDOWS},
    **{f"VSUMN{days}": volume_loss_share(days) for days in WINDOWS},
    **{f"VSUMD{days}": volume_gain_less_loss(days) for days in WINDOWS},
}
