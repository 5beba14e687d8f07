"""What a feature table's columns are worth before they are let in: defects, and knowledge of the future."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.stats import rankdata
from tqdm import tqdm

from atft.errors import InputError
from atft.panel.bars import Grid
from atft.panel.sources import readable
from atft.panel.standardize import rank_gauss

COLUMNS_AT_ONCE = 32  # that are audited together
AUDIT_DATES = 60  # evenly spread, on which relations across stocks are measured
DEFECTS = ("all_null", "constant", "duplicate", "non_finite", "price_level")
LEVEL_CORRELATION = 0.95  # mean rank correlation with the adjusted price, beyond which a column is one
THIN = 60  # rows known on the sampled dates, below which nothing can be told
MARKET_CORRELATION = 0.5  # rank correlation through time with the market's future, beyond which a column knows it
SIZE_CORRELATION = 0.7  # mean rank correlation with the size of a future return; volatility reaches about .4


@dataclass(frozen=True)
class Finding:
    """One column that was left out, and why."""

    column: str
    defect: str
    detail: str


@dataclass(frozen=True)
class Rows:
    """Where each row of the table belongs: `day` and `stock` numbers, -1 where no bar stands behind it."""

    day: NDArray[np.int32]
    stock: NDArray[np.int32]

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Rows that have a bar."""
        return (self.day >= 0) & (self.stock >= 0)

    @cached_property
    def probe(self) -> NDArray[np.int64]:
        """Rows of the date that has most."""
        return np.flatnonzero(self.known & (self.day == np.bincount(self.day[self.known]).argmax()))


def audit(
    table: pl.LazyFrame,
    columns: Sequence[str],
    rows: Rows,
    grid: Grid,
    canary_rank_ic: float,
    canary_icir: float,
    delay: int,
    horizons: Sequence[int],
    where: str,
) -> tuple[list[Finding], dict[str, NDArray[np.float64]], list[str]]:
    """Defects of the columns; those equal for all stocks of a date, [T] values by name; those too thin to examine.

    Raises:
        InputError: When a column's relation with future returns is beyond what is plausible.
    """
    sample = _Sample(rows, grid, delay, horizons)
    leaks: list[str] = []
    thin: list[str] = []
    findings: list[Finding] = []
    market_wide: dict[str, NDArray[np.float64]] = {}
    seen: dict[tuple[float, int, bytes], str] = {}
    groups = [columns[i : i + COLUMNS_AT_ONCE] for i in range(0, len(columns), COLUMNS_AT_ONCE)]
    for group in tqdm(groups, "audit", disable=None, leave=False):
        with readable(where):
            frame = table.select(group).collect().cast(pl.Float32).fill_nan(None)
        facts = {
            fact: frame.select(query).row(0, named=True)
            for fact, query in {
                "low": pl.all().min(), "high": pl.all().max(), "sum": pl.all().sum(), "unknown": pl.all().null_count()
            }.items()
        }  # fmt: skip
        drawn = frame[sample.index].fill_null(float("nan")).to_numpy()
        columns_drawn = np.ascontiguousarray(drawn.T)
        sound = []
        for i, name in enumerate(group):
            low, high = facts["low"][name], facts["high"][name]
            fingerprint = (facts["sum"][name], facts["unknown"][name], hashlib.sha256(columns_drawn[i]).digest())
            twin = seen.setdefault(fingerprint, name)
            if low is None:
                findings.append(Finding(name, "all_null", "no value at all"))
            elif np.isinf([low, high]).any():
                findings.append(Finding(name, "non_finite", f"{frame[name].is_infinite().sum()} infinite values"))
            elif low == high:
                findings.append(Finding(name, "constant", f"always {low:g}"))
            elif twin != name and _equal(table, name, twin):
                findings.append(Finding(name, "duplicate", f"equal to {twin}"))
            elif (common := _common(frame[name], rows, len(grid.dates))) is not None:
                market_wide[name] = common
                leaks += filter(None, [sample.market_leak(common, name)])
            else:
                sound.append(i)
        verdict = sample.judge(drawn[:, sound], [str(group[i]) for i in sound], (canary_rank_ic, canary_icir))
        findings, leaks, thin = findings + verdict.levels, leaks + verdict.leaks, thin + verdict.thin
    if leaks:
        more = f" and {len(leaks) - 3} more" if len(leaks) > 3 else ""
        raise InputError(
            f"{where}: column {', '.join(leaks[:3])}{more} knows the future; add it to data.table.exclude, or, if you "
            f"can explain a RankIC, raise data.table.canary_rank_ic and canary_icir"
        )
    return findings, market_wide, thin


def _equal(table: pl.LazyFrame, one: str, other: str) -> bool:
    """Whether two columns that look alike are: value by value."""
    same = pl.col(one).cast(pl.Float32).eq_missing(pl.col(other).cast(pl.Float32)).all()
    return bool(table.select(same).collect().item())


def _common(column: pl.Series, rows: Rows, dates: int) -> NDArray[np.float64] | None:
    """[T] the date's one value, NaN where unknown, if it stands in most rows of the date and no date has two."""
    if column[rows.probe].drop_nulls().n_unique() > 1:
        return None
    values = column.to_numpy()
    keep = rows.known & ~np.isnan(values)
    there, all_rows = (np.bincount(rows.day[x], minlength=dates) for x in (keep, rows.known))
    first = np.full(dates, np.nan, np.float32)
    first[rows.day[keep][::-1]] = values[keep][::-1]
    most = (2 * there[there > 0] > all_rows[there > 0]).all() and all_rows.max() > 1
    return first.astype(np.float64) if most and (values[keep] == first[rows.day[keep]]).all() else None


@dataclass(frozen=True)
class _Verdict:
    """Names and reasons of leaks, price levels, and names of columns known too rarely to be examined."""

    leaks: list[str]
    levels: list[Finding]
    thin: list[str]


class _Sample:
    """Evenly spread dates on which columns are held against prices and future returns."""

    def __init__(self, rows: Rows, grid: Grid, delay: int, horizons: Sequence[int]) -> None:
        path = np.where(grid.dense("has_bar"), grid.dense("path"), np.nan)
        printed = np.log(grid.dense("printed"))
        final = np.take_along_axis(printed - path, _last_known(path)[None], axis=0)
        last = max(len(path) - delay - max(horizons), 0)
        known = np.flatnonzero(rows.known)
        known = known[np.argsort(rows.day[known], kind="stable")]
        count = np.bincount(rows.day[known], minlength=len(path))
        enough = np.flatnonzero((grid.dense("tradable").sum(1) >= 20)[:last] & (count >= 20)[:last])
        days = enough[np.unique(np.linspace(0, len(enough) - 1, AUDIT_DATES).astype(int))] if len(enough) else enough
        of_day = [known[slice(*np.searchsorted(rows.day[known], [day, day + 1]))] for day in days]
        self.days = days
        self.spans = [(start, h) for start in (0, delay) for h in sorted({1, *horizons})]
        self.index = np.concatenate([np.empty(0, np.int64), *of_day])
        self._cuts = np.cumsum([len(part) for part in of_day])[:-1]
        # Against what each date's columns are held: returns, their sizes, and prices as printed and as
        # adjusted for all splits of the sample; as ranks.
        self._against = []
        for day, part in zip(days, of_day, strict=True):
            future = np.stack([path[day + start + h] - path[day + start] for start, h in self.spans], axis=1)
            levels = np.stack([printed[day], path[day] + final[0]], axis=1)
            facts = np.hstack([future, np.abs(future), levels])[rows.stock[part]]
            self._against.append(rank_gauss(facts.astype(np.float32)))
        # The mean stock's future, for columns that are equal for all.
        step = np.diff(path, axis=0, prepend=np.nan)
        everyone = np.where(np.isfinite(step), step, 0).sum(1) / np.maximum(np.isfinite(step).sum(1), 1)
        self._market = np.concatenate([everyone.cumsum(), np.full(delay + max(horizons), np.nan)])

    def judge(self, values: NDArray[np.float32], names: Sequence[str], bounds: tuple[float, float]) -> _Verdict:
        """What `values` [row, column] of the rows `index` know: leaks, price levels, and columns too thin to tell."""
        if not self._against or not names:
            return _Verdict([], [], list(names))
        parts = zip(np.split(values, self._cuts), self._against, strict=True)
        product, scale, both = (np.stack(x) for x in zip(*(_moments(rank_gauss(v), y) for v, y in parts), strict=True))
        # Dates with few known stocks count together, so that a thin column is no hiding place.
        pooled = product.sum(0) / np.maximum(np.sqrt(scale.sum(0)[..., 0] * scale.sum(0)[..., 1]), 1e-9)
        daily = np.where(both >= 20, product / np.maximum(np.sqrt(scale[..., 0] * scale[..., 1]), 1e-9), np.nan)
        n = len(self.spans)
        gap = int(np.median(np.diff(self.days))) if len(self.days) > 1 else 1  # days between two dates
        leaks, levels, thin = [], [], []
        for i, name in enumerate(names):
            if both[:, i].sum(0).max() < THIN:
                thin.append(name)
                continue
            facts = [
                (f"days {start + 1} to {start + h}", pooled[i, k], daily[:: -(-h // gap), i, k], pooled[i, n + k])
                for k, (start, h) in enumerate(self.spans)
            ]
            if reason := canary(facts, *bounds):
                leaks.append(f"{name!r} ({reason})")
            elif (likeness := np.abs(pooled[i, 2 * n :]).max()) > LEVEL_CORRELATION:
                levels.append(Finding(name, "price_level", f"rank correlation {likeness:.3f} with the adjusted price"))
        return _Verdict(leaks, levels, thin)

    def market_leak(self, values: NDArray[np.float64], name: str) -> str | None:
        """Why a column that is equal for all stocks cannot be honest: it tells the market's future through time."""
        dates = len(values)
        for start, h in self.spans:
            future = self._market[start + h : start + h + dates] - self._market[start : start + dates]
            known = np.isfinite(values) & np.isfinite(future)
            if known.sum() < 60 * h or np.ptp(values[known]) == 0:
                continue  # overlapping returns: too few of them to tell
            relation = np.corrcoef(rankdata(values[known]), rankdata(future[known]))[0, 1]
            if abs(relation) > MARKET_CORRELATION:
                span = f"days {start + 1} to {start + h}"
                return f"{name!r} (its rank correlation with the market's return of {span} is {relation:.3f})"
        return None


def canary(
    facts: Sequence[tuple[str, float, NDArray[np.float64], float]], most_rank_ic: float, most_icir: float
) -> str | None:
    """Why a column cannot be an honest feature, or None.

    An honest feature has a mean RankIC of a few hundredths, and its daily RankIC changes sign often:
    the best published factors reach a mean / standard deviation of about .5. A column that knows a
    future return, even under noise, is right every day. One that knows only its size (|return|)
    beats what volatility can.

    Args:
        facts: For each span of future days: its name, the RankIC with its return over all dates, the
            RankIC of dates that do not overlap [date], and the rank correlation with the return's size.
        most_rank_ic: Bound of the RankIC.
        most_icir: Bound of mean / standard deviation of at least 20 dates' RankIC, once it is above .03.
    """
    for span, rank_ic, daily, size in facts:
        known = daily[np.isfinite(daily)]
        steady = abs(known.mean()) / max(known.std(), 1e-9) if len(known) >= 20 else 0.0
        if abs(rank_ic) > most_rank_ic:
            return f"its RankIC with the return of {span} after its row is {rank_ic:.3f}"
        if abs(rank_ic) > 0.03 and steady > most_icir:
            return f"its RankIC with the return of {span} after its row is {rank_ic:.3f} day by day (ICIR {steady:.1f})"
        if abs(size) > SIZE_CORRELATION:
            return f"its rank correlation with the size of the return of {span} after its row is {size:.3f}"
    return None


def _moments(
    x: NDArray[np.float32], y: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Products, squares [..., 2] and count of each column of x with each of y over the rows known in both."""
    x_known, y_known = np.isfinite(x).astype(np.float32), np.isfinite(y).astype(np.float32)
    x, y = np.nan_to_num(x), np.nan_to_num(y)
    squares = np.stack([(x**2).T @ y_known, x_known.T @ y**2], axis=-1)
    return (x.T @ y).astype(float), squares.astype(float), (x_known.T @ y_known).astype(float)


def _last_known(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """[stock] the last row on which each column is known."""
    return len(values) - 1 - np.argmax(np.isfinite(values[::-1]), axis=0)
