"""Tokyo's daily bars through the official J-Quants client (API v2).

Stored are the prices as printed and the factor of each split, not the API's adjusted prices. `AdjC`
is counted back from the day of the request: every split changes the whole past, so days fetched
before and after it would not fit together, and a close adjusted for a split to come knows of it.

Field names: https://jpx-jquants.com/en/spec/eq-bars-daily and eq-master.
"""

import re
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import requests
from jquantsapi import ClientV2
from tqdm import tqdm

from atft.errors import InputError
from atft.program import new_file

SCHEMA = {
    "date": pl.Date,
    "code": pl.String,
    "open": pl.Float64,
    "high": pl.Float64,
    "low": pl.Float64,
    "close": pl.Float64,
    "volume": pl.Float64,
    "sector": pl.String,
    "industry": pl.String,
    "adjustment_factor": pl.Float64,
    "traded_value": pl.Float64,
    "limit_up": pl.Boolean,
    "limit_down": pl.Boolean,
}
BAR_FIELDS = ("Date", "Code", "O", "H", "L", "C", "Vo", "Va", "AdjFactor", "UL", "LL")
TRADING_DAY = ("1", "2")  # calendar's HolDiv: a full and a half day; 0 is closed, 3 is open for derivatives alone
TOKYO = timezone(timedelta(hours=9))
TRIES = 6
KEY_HELP = "set JQUANTS_API_KEY, or api_key under [jquants-api-client] in ~/.jquants-api/jquants-api.toml"


class PatientClient(ClientV2):
    """The official client, reading the key where it always does, with waits that J-Quants asks for.

    Its own retries are switched off: they repeat a 429 three times at once, where the provider
    bars whoever goes on asking for some five minutes, and hide the status that remains.

    The key never leaves the request header: texts from outside are shown with it blotted out.
    """

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        try:
            super().__init__()
        except ValueError:  # no key, or a config file that is not TOML
            raise InputError(f"no J-Quants API key found: {KEY_HELP}") from None
        # requests would quote a key that cannot be a header.
        if not (isinstance(self._api_key, str) and re.fullmatch("[!-~]+", self._api_key)):
            raise InputError(f"the J-Quants API key holds a blank, a line end or no text at all: {KEY_HELP}")
        self._sleep = sleep

    def _request_session(
        self, status_forcelist: list[int] | None = None, allowed_methods: list[str] | None = None
    ) -> requests.Session:
        del status_forcelist, allowed_methods  # the retries of the base class
        if self._session is None:
            self._session = requests.Session()
            self._session.max_redirects = 0  # requests would carry the key along to any other host
        return self._session

    def _get(self, url: str, params: dict[str, Any] | None = None) -> requests.Response:
        """One page. Every page is tried again by itself, so a 429 on the third costs no second look at the first."""
        problem = ""
        for tries in range(1, TRIES + 1):
            try:
                answer = super()._get(url, params)
                answer.json()  # an answer cut short is asked for again, like one that never came
            except requests.HTTPError as error:
                problem, wait = self._judge(error, tries)
            except requests.RequestException as error:
                problem, wait = type(error).__name__, 2.0**tries
            else:
                return answer
            if tries < TRIES:
                tqdm.write(f"J-Quants: {problem}; waiting {wait:.0f} s", file=sys.stderr)
                self._sleep(wait)
        raise InputError(f"J-Quants: {problem}, {TRIES} times over; whole days are kept, run this again to go on")

    def _judge(self, error: requests.HTTPError, tries: int) -> tuple[str, float]:
        """What is wrong, and the seconds after which asking again may help; `InputError` where it cannot."""
        answer = error.response
        assert answer is not None  # the client attaches it
        status = answer.status_code
        try:
            said = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            said = str(answer.reason)
        says = f"{status} {said.replace(self._api_key, '***')[:300]}"
        if status in (401, 403):
            raise InputError(f"J-Quants refuses the API key or the plan does not cover this ({says}): {KEY_HELP}")
        if status != 429 and status < 500:
            raise InputError(f"J-Quants: {says}")
        told = answer.headers.get("Retry-After", "")
        if told.isdecimal():
            return says, max(1.0, float(told))
        # The limit counts requests a minute; who runs into it while barred waits out the five minutes.
        return says, min(60.0 * 2 ** (tries - 1), 300.0) if status == 429 else 2.0**tries


def fetch_bars(client: ClientV2, first: date, last: date, out: Path) -> tuple[int, list[date]]:
    """Number of trading days fetched into `out`, and those for which nothing is published.

    One Parquet file a calendar month, sorted by code and date, replaced whole after every day: a
    killed run loses the day it was at. Days on disk are read, never fetched again, and the files
    come out the same in one run or many. A day without bars is asked for again next time.
    """
    known = {day for file in _months(out) for day in _read(file)["date"].unique()}
    wanted = [day for day in trading_days(client, first, last) if day not in known]
    unpublished = []
    for day in tqdm(wanted, "fetch", unit="day", disable=None):
        bars = bars_of(client, day)
        if bars.is_empty():
            unpublished.append(day)
            continue
        month = out / f"{day:%Y-%m}.parquet"
        if month.exists():
            bars = pl.concat([_read(month), bars])
        with new_file(month) as scratch:
            bars.sort("code", "date").rechunk().write_parquet(scratch)
    return len(wanted) - len(unpublished), unpublished


def trading_days(client: ClientV2, first: date, last: date) -> list[date]:
    """Days from `first` to `last`, but none to come, on which Tokyo trades stocks."""
    last = min(last, datetime.now(TOKYO).date())
    if first > last:
        raise InputError(f"--from {first} comes after {last}, the last day asked for or today in Tokyo")
    calendar = _table(
        client.get_mkt_calendar(from_yyyymmdd=f"{first}", to_yyyymmdd=f"{last}"), ("Date", "HolDiv"), "calendar"
    )
    if calendar.is_empty():
        raise InputError(f"J-Quants: the calendar is empty from {first} to {last}; does the plan cover these days?")
    open_days = calendar.filter(pl.col("HolDiv").cast(pl.String).is_in(TRADING_DAY))
    return open_days["Date"].cast(pl.Date).unique().sort().to_list()


def bars_of(client: ClientV2, day: date) -> pl.DataFrame:
    """All bars of one day in our names (`SCHEMA`), with sectors as listed on that very day.

    Sectors come from the day's own issue master, at the price of a second request a day: a later
    master knows reclassifications and delistings to come, an earlier one lacks new listings.

    Returns:
        Prices and volume as printed, null where the stock did not trade. `adjustment_factor` is
        0.5 on the ex-date of a 1:2 split and 1 on other days, `traded_value` is in yen,
        `limit_up` and `limit_down` tell that a price touched the day's limit, `sector` is one of
        17 and `industry` one of 33, in English, null for what the master does not list. No rows
        where nothing is published.
    """
    bars = _table(client.get_eq_bars_daily(date_yyyymmdd=f"{day}"), BAR_FIELDS, f"bars of {day}")
    if bars.is_empty():
        return pl.DataFrame(schema=SCHEMA)
    master = _table(client.get_eq_master(date=f"{day}"), ("Date", "Code", "S17", "S33"), f"issue master of {day}")
    if (bars["Date"].cast(pl.Date) != day).any():
        raise InputError(f"J-Quants: asked for the bars of {day}, it sent another day's")
    if (master["Date"].cast(pl.Date) > day).any():
        raise InputError(f"J-Quants: asked for the issue master of {day}, it sent a later one")
    sectors, industries = client.get_17_sectors(), client.get_33_sectors()
    named = master.select(
        "Code",
        sector=pl.col("S17").cast(pl.String).replace(_names(sectors, "S17")),
        industry=pl.col("S33").cast(pl.String).replace(_names(industries, "S33")),
    )
    renamed = bars.join(named, "Code", how="left").select(
        date=pl.lit(day),
        code="Code",
        open="O",
        high="H",
        low="L",
        close="C",
        volume="Vo",
        sector="sector",
        industry="industry",
        adjustment_factor="AdjFactor",
        traded_value="Va",
        limit_up=pl.col("UL").cast(pl.String) == "1",
        limit_down=pl.col("LL").cast(pl.String) == "1",
    )
    twice = renamed.filter(pl.col("code").is_duplicated())
    if not twice.is_empty():
        raise InputError(f"J-Quants: stock {twice['code'][0]} is there twice on {day}")
    try:
        return renamed.cast(SCHEMA)  # pyright: ignore[reportArgumentType]
    except pl.exceptions.PolarsError as error:
        raise InputError(f"J-Quants: bars of {day} hold what is no number ({str(error).splitlines()[0]})") from error


def _table(frame: pd.DataFrame, fields: tuple[str, ...], what: str) -> pl.DataFrame:
    if frame.empty:
        return pl.DataFrame(schema=dict.fromkeys(fields, pl.String))
    if missing := [field for field in fields if field not in frame.columns]:
        raise InputError(f"J-Quants: {what} lack {', '.join(missing)}; has the API changed?")
    return pl.from_pandas(frame.filter(items=fields))


def _names(table: pd.DataFrame, code: str) -> dict[str, str]:
    """Code -> English name, from the client's own table; the API itself has Japanese names alone."""
    return {row[code]: row[f"{code}NmEn"].strip() for row in table.to_dict("records")}


def _months(out: Path) -> list[Path]:
    return sorted(out.glob("[0-9][0-9][0-9][0-9]-[0-9][0-9].parquet"))


def _read(file: Path) -> pl.DataFrame:
    try:
        bars = pl.read_parquet(file, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{file}: cannot be read; delete it, and its month is fetched again") from error
    if bars.schema != pl.Schema(SCHEMA):
        raise InputError(f"{file}: was not written by this version; move it away, and its month is fetched again")
    return bars
