"""The end of a market's history, and days put behind it: of the past only what they need is computed again.

Three kinds of numbers look back. Rolling ones start at the same places as in a whole build (`bars.windows`), so
the bars since the last such place are kept. Running ones (adjustment factors, growth, counts since listing, labels
as last known) go on from their last value (`bars.SEEDS`). Those of the whole market (averages that never end) are one
number a day, and all days are kept. The result is that of a whole build to the last bit.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from atft.errors import InputError
from atft.panel.bars import (
    ANCHOR,
    REACH,
    SEEDS,
    TYPICAL_DAYS,
    Grid,
    last_labels,
    numbered_labels,
    on_grid,
    seeds_of,
)
from atft.panel.build import Days, first_volume, with_beta, with_universe
from atft.panel.features import market_days
from atft.panel.sources import complete
from atft.panel.store import Panel, PanelWriter

# Columns of the grid that later days look back at, and what stands there before a stock is known.
KEPT: dict[str, tuple[type[np.generic], Any]] = {
    **dict.fromkeys(
        ("open", "high", "low", "close", "vwap", "volume", "value", "path", "daily_return", "terminal", "printed",
         "money"),
        (np.float64, np.nan),
    ),
    **dict.fromkeys(("has_bar", "can_trade", "error", "tradable"), (np.bool_, False)),
    **dict.fromkeys(("sector", "industry"), (np.int16, 0)),
    **dict.fromkeys(("bars", "age", "unbroken"), (np.int64, 0)),
}  # fmt: skip
COMPUTED = ("money", "tradable")  # of them those that are found on the whole tail


@dataclass(frozen=True)
class Recipe:
    """`params.yaml`, section data: what bars are turned into, without the features.

    Attributes:
        reach: Days that must stay behind the last one for those who look back further than features do.
    """

    min_history: int
    min_dollar_volume: float
    max_daily_return: float
    news_volume: float
    label: str
    beta_days: int
    reach: int

    @property
    def warm(self) -> int:
        return max(REACH, self.beta_days)

    def begin(self, end: int) -> int:
        """First day that is kept where `end` is the next one."""
        return max(min(end // ANCHOR * ANCHOR - self.warm, end - self.reach), 0)


@dataclass(frozen=True)
class Tail:
    """The last days of a history of bars, with all that later days need of the earlier ones.

    Attributes:
        grid: The kept days; columns `KEPT`, `market` and, where labels ask for it, `beta`.
        seeds: `bars.seeds_of` the last day.
        labels: `code, sector, industry` as last known, by name.
        sector_names, industry_names: What the numbers stand for.
        market: `features.market_days` of every day from the first one on.
        volume_from: The first date with a volume.
    """

    grid: Grid
    seeds: pl.DataFrame
    labels: pl.DataFrame
    sector_names: list[str]
    industry_names: list[str]
    market: pl.DataFrame
    volume_from: date | None

    @classmethod
    def of(cls, bars: pl.DataFrame, recipe: Recipe) -> Self:
        """The tail of a whole history of checked bars, as `build.build_panel` finds it."""
        return cls.whole(bars, recipe).cut(recipe)

    @classmethod
    def whole(cls, bars: pl.DataFrame, recipe: Recipe) -> Self:
        """The same with every day, and more columns than later days need."""
        labels, volume_from = last_labels(bars), first_volume(bars)
        numbered, sectors, industries = numbered_labels(bars)
        grid = replace(on_grid(numbered, recipe.max_daily_return, recipe.news_volume), warm=recipe.warm)
        grid = with_universe(grid, recipe.min_history, recipe.min_dollar_volume, volume_from)
        if "beta" in recipe.label:
            grid = with_beta(grid, recipe.beta_days)
        return cls(grid, seeds_of(grid), labels, sectors, industries, market_days(grid.frame), volume_from)

    def cut(self, recipe: Recipe) -> Self:
        """Without the days that nobody will look back at."""
        kept = replace(self.grid, first=recipe.begin(self.grid.end)).wanted()
        columns = [*KEPT, "market", *(["beta"] if "beta" in recipe.label else [])]
        return replace(self, grid=replace(kept, frame=kept.frame.select("date", "code", *columns)))

    def last_days(self, count: int, recipe: Recipe) -> Grid:
        """Of a `whole` one the last days as `extended` would give them: the grid's `first` is the first of them."""
        first = max(self.grid.end - count, 0)
        kept = replace(self.grid, first=recipe.begin(first)).wanted()
        return replace(kept, first=first, earlier=self.market.head(first) if first else None)

    @property
    def last(self) -> date:
        """The last day."""
        return self.grid.dates[-1].astype(object)

    def extended(self, bars: pl.DataFrame, recipe: Recipe) -> Self:
        """With the days of these bars behind it; the grid's `first` is the first of them.

        Args:
            bars: Checked, all later than `last`.

        Raises:
            InputError: When a stock prints again that was delisted with a terminal return.
        """
        volume_from = self.volume_from or first_volume(bars)
        self._refuse_returned(bars)
        fresh, sectors, industries = self._on_grid(bars, recipe)
        grid = _joined(self.grid, fresh, self.market)
        ranked = with_universe(grid, recipe.min_history, recipe.min_dollar_volume, volume_from)
        grid = _filled(grid, ranked, (*COMPUTED, "market"))
        if "beta" in recipe.label:
            grid = _filled(grid, with_beta(grid, recipe.beta_days), ("beta",))
        known = pl.concat([self.labels.select("code", "sector", "industry", date=pl.lit(self.last)),
                           bars.select("code", "sector", "industry", "date")])  # fmt: skip
        market = pl.concat([self.market, market_days(ranked.frame)])
        return replace(
            self,
            grid=replace(grid, earlier=self.market),
            seeds=seeds_of(fresh),
            labels=last_labels(known),
            sector_names=sectors,
            industry_names=industries,
            market=market,
            volume_from=volume_from,
        )

    def _refuse_returned(self, bars: pl.DataFrame) -> None:
        ended = self.grid.frame.filter(pl.col("terminal").is_not_null())["code"].unique().to_list()
        ended += self.seeds.filter(pl.col("terminal_return").is_not_null())["code"].to_list()
        if not (back := bars.filter(pl.col("code").is_in(ended)).head(1)).is_empty():
            row = back.row(0, named=True)
            raise InputError(
                f"bars: {row['code']} prints on {row['date']}, after its terminal return; give the newcomer another "
                f"code, or correct data/raw and run `dvc repro`"
            )

    def _on_grid(self, bars: pl.DataFrame, recipe: Recipe) -> tuple[Grid, list[str], list[str]]:
        """The grid of the new days alone, and the names of its labels."""
        before = complete(self.labels.with_columns(date=pl.lit(self.last)))
        numbered, sectors, industries = numbered_labels(
            pl.concat([before, bars]), self.sector_names, self.industry_names
        )
        numbered = numbered.filter(pl.col("date") > self.last)
        # The days before tell how much money was usual, and pay out what was announced on the last of them.
        quiet = min(TYPICAL_DAYS, len(self.grid.dates))
        recent = self.grid.days(self.grid.frame, self.grid.end - quiet, self.grid.end)
        pending = self.seeds.select("code", "terminal_return", date=pl.lit(self.last))
        recent = recent.select("date", "code", traded_value="value").join(pending, on=["date", "code"], how="left")
        recent = complete(recent).with_columns(pl.col("sector", "industry").cast(pl.Int16))
        grid = on_grid(pl.concat([recent, numbered]), recipe.max_daily_return, recipe.news_volume, self.seeds, quiet)
        start = self.grid.end - quiet
        return replace(grid, start=start, first=self.grid.end, warm=recipe.warm).wanted(), sectors, industries


def _joined(old: Grid, fresh: Grid, market: pl.DataFrame) -> Grid:
    """The days of `fresh` behind those of `old`, for the stocks of both; what is still to be found is empty there."""
    place = np.searchsorted(np.asarray(fresh.codes), np.asarray(old.codes))
    days, new_days = len(old.dates), len(fresh.dates)
    columns: dict[str, pl.Series] = {}
    kinds = KEPT | ({"beta": (np.float64, np.nan)} if "beta" in old.frame.columns else {})
    for name, (kind, absent) in kinds.items():
        whole = np.full((len(fresh.codes), days + new_days), absent, kind)
        whole[place, :days] = old.frame[name].to_numpy().reshape(-1, days)
        if name in fresh.frame.columns:
            whole[:, days:] = fresh.frame[name].to_numpy().reshape(-1, new_days)
        columns[name] = pl.Series(name, whole.ravel(), nan_to_null=True)
    by_day = np.zeros(days + new_days)
    by_day[:days] = market["market"].fill_null(0.0).to_numpy()[old.start :]
    dates = np.concatenate([old.dates, fresh.dates])
    frame = pl.DataFrame(
        {
            "date": np.tile(dates, len(fresh.codes)),
            "code": pl.Series(fresh.codes).repeat_by(len(dates)).explode(),
            **columns,
            "market": np.tile(by_day, len(fresh.codes)),
        }
    )
    return replace(fresh, frame=frame, dates=dates, start=old.start, first=fresh.start)


def _filled(grid: Grid, found: Grid, names: Sequence[str]) -> Grid:
    """The grid with the columns `names` of its wanted days out of `found`."""
    old = len(grid.dates) - len(found.dates)
    columns = []
    for name in names:
        whole = grid.frame[name].to_numpy().reshape(len(grid.codes), -1).copy()
        whole[:, old:] = found.frame[name].to_numpy().reshape(len(grid.codes), -1)
        columns.append(pl.Series(name, whole.ravel(), nan_to_null=True))
    return replace(grid, frame=grid.frame.with_columns(columns))


# --- on disk -------------------------------------------------------------------------------------


def write_tail(folder: Path, tail: Tail) -> None:
    """Write the tail to files in `folder`."""
    tail.grid.frame.drop("date", "code").write_ipc(folder / "tail.arrow")
    tail.seeds.join(tail.labels.rename({"sector": "sector_name", "industry": "industry_name"}), on="code", how="left",
                    maintain_order="left").write_parquet(folder / "stocks.parquet")  # fmt: skip
    tail.market.write_parquet(folder / "market.parquet")
    facts = {"start": tail.grid.start, "warm": tail.grid.warm, "volume_from": str(tail.volume_from or ""),
             "sector_names": tail.sector_names, "industry_names": tail.industry_names}  # fmt: skip
    (folder / "tail.json").write_text(json.dumps(facts, sort_keys=True) + "\n")


def read_tail(folder: Path) -> Tail:
    """The tail that `write_tail` wrote.

    Raises:
        InputError: When a file is missing or damaged.
    """
    try:
        facts = json.loads((folder / "tail.json").read_text())
        stocks, market = pl.read_parquet(folder / "stocks.parquet"), pl.read_parquet(folder / "market.parquet")
        frame = pl.read_ipc(folder / "tail.arrow")
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"{folder}: its tail cannot be read ({why}); delete it and append its days again") from error
    dates, codes = market["date"].to_numpy().astype("datetime64[D]")[facts["start"] :], stocks["code"].to_list()
    frame = frame.with_columns(
        date=pl.Series(np.tile(dates, len(codes))), code=pl.Series(codes).repeat_by(len(dates)).explode()
    )
    return Tail(
        Grid(frame, dates, codes, facts["start"], facts["start"], facts["warm"]),
        stocks.select("code", *SEEDS),
        stocks.select("code", sector="sector_name", industry="industry_name"),
        facts["sector_names"],
        facts["industry_names"],
        market,
        date.fromisoformat(facts["volume_from"]) if facts["volume_from"] else None,
    )


def write_days(
    folder: Path, earlier: Panel, start: int, keep: int, days: Days, span: int, threads: int, names: Mapping[str, Any]
) -> None:
    """Write the panel of the kept days of `earlier` and of all new ones.

    Args:
        earlier: The panel so far; its first day is number `start`.
        keep: Number of the first day that is kept.
        days: The new days, and of the last `span` old ones the labels, which may have ended since.
        names: Facts of the panel, see `PanelWriter`.
    """
    grid = days.grid
    place = np.searchsorted(np.asarray(grid.codes), np.asarray(earlier.codes))
    absent = {"features": np.nan, "label": np.nan, "forward_return": np.nan, "money_traded": np.nan}
    order = ("features", "tradable", "label", "forward_return", "daily_return", "has_bar", "can_trade", "money_traded",
             "sector", "industry")  # fmt: skip
    with PanelWriter(folder, dict(names)) as writer:
        for day in range(keep, grid.first):
            arrays: dict[str, NDArray[Any]] = {}
            for name in order:
                old = getattr(earlier, name)[day - start]
                arrays[name] = np.full((len(grid.codes), *old.shape[1:]), absent.get(name, 0), old.dtype)
                arrays[name][place] = old
            if day >= grid.first - span:
                arrays |= days.labels(day)
            writer.write_day(earlier.dates[day - start], arrays)
        for day, arrays in zip(grid.wanted().dates, days.arrays(threads), strict=True):
            writer.write_day(day, arrays)
