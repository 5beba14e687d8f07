"""What lies on disk after fetching is what the exchange said on the day, however often the run was broken."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from exchange import FIRST, HALT, HOLIDAYS, IDLE, KEY, LAST, MOVED, SPLIT, Exchange, bars, days, is_open, master
from jquantsapi import ClientV2

import fetch
from atft.errors import InputError
from atft.fetch import jquants
from atft.fetch.jquants import SCHEMA, PatientClient, fetch_bars
from atft.panel.sources import OPTIONAL, REQUIRED, load_bars
from atft.program import run_program

# The client's own use of pandas.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning:jquantsapi")

SRC = Path(__file__).parents[2] / "src"
BARS, MASTER, CALENDAR = "/v2/equities/bars/daily", "/v2/equities/master", "/v2/markets/calendar"
OPEN = [day for day in days(FIRST, LAST) if is_open(day)]


@pytest.fixture
def exchange(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Exchange]:
    exchange = Exchange()
    monkeypatch.setattr(ClientV2, "JQUANTS_API_BASE", exchange.base)
    monkeypatch.setenv("JQUANTS_API_KEY", KEY)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield exchange
    exchange.close()


def fetched(out: Path, first: date = FIRST, last: date = LAST) -> list[float]:
    """Fetch without waiting; the waits that were asked for."""
    waits: list[float] = []
    fetch_bars(PatientClient(waits.append), first, last, out)
    return waits


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def table(folder: Path) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(file) for file in sorted(folder.glob("*.parquet"))])


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["fetch.py", *arguments])
    run_program(fetch.main)


def test_bars_come_as_printed_on_all_pages_and_trading_days(exchange: Exchange, tmp_path: Path) -> None:
    assert fetched(tmp_path / "out") == []
    bars = table(tmp_path / "out")
    assert dict(bars.schema) == SCHEMA
    assert sorted(contents(tmp_path / "out")) == ["2020-09.parquet", "2020-10.parquet"]
    assert bars["date"].unique().sort().to_list() == OPEN
    assert (bars.group_by("date").len()["len"] == 3).all()
    assert exchange.dates(BARS) == [f"{day}" for day in OPEN]
    for file in (tmp_path / "out").iterdir():
        month = pl.read_parquet(file)
        assert month.equals(month.sort("code", "date"))


def test_a_split_shows_in_the_factor_and_leaves_earlier_prices_alone(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "out")
    split = table(tmp_path / "out").filter(code="13010")
    assert split["adjustment_factor"].to_list() == [0.5 if day == SPLIT else 1.0 for day in OPEN]
    before, after = (split.row(by_predicate=pl.col("date") == day, named=True) for day in (FIRST, SPLIT))
    assert (before["close"], after["close"]) == (2028.0, 1015.0)
    assert (after["volume"], after["traded_value"]) == (500.0, 507500.0)


def test_limits_are_flags_and_a_day_without_trades_has_no_prices(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "out")
    bars = table(tmp_path / "out")
    assert bars.filter("limit_up").select("date", "code").rows() == [(FIRST, "13010")]
    assert not bars["limit_down"].any()
    halted = bars.filter(pl.col("close").is_null()).select("date", "code")
    assert set(halted.rows()) == {IDLE, *((HALT, code) for code in ("13010", "13020", "130A0"))}
    printed = bars.select("open", "high", "low", "close", "volume", "traded_value")
    assert printed.null_count().row(0) == (4,) * 6
    assert not printed.fill_null(0).select(pl.any_horizontal(pl.all().is_nan())).to_series().any()


def test_a_stock_has_the_sector_that_was_known_on_the_day(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "out")
    bars = table(tmp_path / "out")
    for day, sector, industry in bars.filter(code="13020").select("date", "sector", "industry").rows():
        moved = day >= MOVED
        assert sector == ("IT & SERVICES, OTHERS" if moved else "MACHINERY")
        assert industry == ("Services" if moved else "Machinery")
    new = bars.filter(code="130A0")
    assert (new["sector"].is_null() == (new["date"] < HALT)).all()
    assert exchange.dates(MASTER) == exchange.dates(BARS)


def test_a_master_of_a_later_day_is_refused(exchange: Exchange, tmp_path: Path) -> None:
    exchange.interfere = lambda path, _: (200, {}, {"data": master(LAST)}) if path == MASTER else None
    with pytest.raises(InputError, match=f"issue master of {FIRST}, it sent a later one"):
        fetched(tmp_path / "out")


def test_it_waits_as_told_and_longer_where_nothing_is_told(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "calm")
    slow, down = {"message": "slow down"}, {"message": "down"}
    exchange.first_say = [(429, {"Retry-After": "7"}, slow), (429, {}, slow), (429, {}, slow)]
    exchange.first_say += [(500, {}, down), (200, {}, '{"data": [{"cut')]
    assert fetched(tmp_path / "out") == [7, 120, 240, 16, 32]
    assert contents(tmp_path / "out") == contents(tmp_path / "calm")


def test_only_the_page_that_failed_is_asked_again(exchange: Exchange, tmp_path: Path) -> None:
    failures = [(503, {"Retry-After": "3"}, {"message": "busy"})]
    exchange.interfere = lambda path, query: (
        failures.pop() if failures and path == BARS and "pagination_key" in query else None
    )
    assert fetched(tmp_path / "out") == [3]
    assert exchange.dates(BARS) == [f"{day}" for day in OPEN]
    assert len(table(tmp_path / "out")) == 3 * len(OPEN)


@pytest.mark.parametrize("status", [429, 500])
def test_it_gives_up_after_a_while_in_one_line(
    status: int, exchange: Exchange, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(PatientClient.__init__, "__defaults__", (lambda _: None,))
    exchange.first_say = [(status, {}, {"message": "no"})] * jquants.TRIES
    with pytest.raises(SystemExit):
        run(monkeypatch, "jquants", "--from", f"{FIRST}", "--to", f"{LAST}")
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert last_line == f"error: J-Quants: {status} no, 6 times over; whole days are kept, run this again to go on"
    assert not exchange.first_say


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_one_clear_line_without_the_key(
    status: int, exchange: Exchange, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The exchange may even quote the key."""
    exchange.first_say = [(status, {}, {"message": f"The key {KEY} has expired"})]
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, "jquants", "--from", f"{FIRST}", "--to", f"{LAST}", "--out", "out")
    out, err = capfd.readouterr()
    assert stopped.value.code == 1
    assert out == ""
    assert err.startswith(f"error: J-Quants refuses the API key or the plan does not cover this ({status} The key ***")
    assert err.count("\n") == 1
    assert KEY not in err
    assert len(exchange.asked) == 1


def test_the_key_is_nowhere_but_in_the_request(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "jquants", "--from", f"{FIRST}", "--to", f"{LAST}", "--out", "out")
    out, err = capfd.readouterr()
    assert out == f"out: {len(OPEN)} days fetched\n"
    everything = out.encode() + err.encode() + b"".join(contents(Path("out")).values())
    assert KEY.encode() not in everything
    assert not any(KEY in f"{asked}" for asked in exchange.asked)


def test_the_key_does_not_follow_a_redirect(exchange: Exchange, tmp_path: Path) -> None:
    exchange.first_say = [(302, {"Location": f"{exchange.base}/elsewhere"}, "")] * jquants.TRIES
    with pytest.raises(InputError, match="TooManyRedirects"):
        fetched(tmp_path / "out")
    assert {path for path, _ in exchange.asked} == {CALENDAR}


@pytest.mark.parametrize("key", ["", f"{KEY}\n", f" {KEY}", f"{KEY}あ"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(
    key: str, exchange: Exchange, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JQUANTS_API_KEY", key)
    with pytest.raises(SystemExit):
        run(monkeypatch, "jquants", "--from", f"{FIRST}")
    err = capsys.readouterr().err
    assert "set JQUANTS_API_KEY" in err
    assert err.count("\n") == 1
    assert KEY not in err
    assert not exchange.asked


def test_the_key_may_lie_in_the_clients_own_file(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JQUANTS_API_KEY")
    file = tmp_path / ".jquants-api/jquants-api.toml"
    file.parent.mkdir()
    file.write_text(f'[jquants-api-client]\napi_key = "{KEY}"\n')
    fetched(tmp_path / "out", FIRST, FIRST)
    assert len(table(tmp_path / "out")) == 3


def test_a_second_run_asks_for_new_days_alone(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "at once")
    fetched(tmp_path / "out", FIRST, HALT)
    exchange.asked.clear()
    fetched(tmp_path / "out", FIRST, HALT)
    assert {path for path, _ in exchange.asked} == {CALENDAR}
    exchange.asked.clear()
    fetched(tmp_path / "out")
    new = [f"{day}" for day in OPEN if day > HALT]
    assert exchange.dates(BARS) == exchange.dates(MASTER) == new
    assert contents(tmp_path / "out") == contents(tmp_path / "at once")


def test_days_before_those_on_disk_can_be_added(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "at once")
    fetched(tmp_path / "out", HALT, LAST)
    fetched(tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "at once")


def test_a_day_not_yet_published_is_asked_for_again(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exchange.interfere = lambda path, query: (
        (200, {}, {"data": []}) if path == BARS and query["date"] == f"{LAST}" else None
    )
    run(monkeypatch, "jquants", "--from", f"{FIRST}", "--to", f"{LAST}", "--out", "out")
    assert f"1 trading days have no bars yet, {LAST} first" in capsys.readouterr().out
    exchange.interfere = lambda _path, _query: None
    exchange.asked.clear()
    fetched(Path("out"))
    assert exchange.dates(BARS) == [f"{LAST}"]


def test_holidays_and_days_to_come_are_not_asked_for(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "out", min(HOLIDAYS), max(HOLIDAYS))
    assert exchange.dates(BARS) == []
    assert not (tmp_path / "out").exists()
    assert fetched(tmp_path / "out", LAST, LAST) == []
    with pytest.raises(InputError, match="comes after"):
        fetched(tmp_path / "out", date(9000, 1, 1), date(9000, 1, 2))


def test_a_run_cut_off_goes_on_where_it_stopped(exchange: Exchange, tmp_path: Path) -> None:
    """The server goes away in the middle, and is there again for the second run."""
    fetched(tmp_path / "at once")
    exchange.asked.clear()
    exchange.interfere = lambda path, query: (
        (500, {}, {"message": "gone"}) if path == MASTER and query["date"] == f"{HALT}" else None
    )
    with pytest.raises(InputError, match="gone"):
        fetched(tmp_path / "out")
    assert table(tmp_path / "out")["date"].max() == SPLIT
    exchange.interfere = lambda _path, _query: None
    exchange.asked.clear()
    fetched(tmp_path / "out")
    assert exchange.dates(BARS)[0] == f"{HALT}"
    assert contents(tmp_path / "out") == contents(tmp_path / "at once")


def test_nobody_there_is_one_clear_line(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ClientV2, "JQUANTS_API_BASE", "http://127.0.0.1:1/v2")
    monkeypatch.setattr(PatientClient.__init__, "__defaults__", (lambda _: None,))
    with pytest.raises(SystemExit):
        run(monkeypatch, "jquants", "--from", f"{FIRST}")
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: J-Quants: ConnectionError, 6 times over")


KILLED = """
import os, signal, sys
from pathlib import Path
from jquantsapi import ClientV2
ClientV2.JQUANTS_API_BASE = sys.argv.pop(1)
put, puts = Path.replace, []
def killed(self, target):
    puts.append(target)
    if len(puts) == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return put(self, target)
Path.replace = killed
import fetch
fetch.main()
"""


def test_a_killed_run_leaves_whole_files_and_the_next_one_goes_on(exchange: Exchange, tmp_path: Path) -> None:
    """Killed at the worst moment: the new month is written, and not yet in its place."""
    fetched(tmp_path / "at once")
    command = [sys.executable, "-c", KILLED, exchange.base]
    command += ["jquants", "--from", f"{FIRST}", "--to", f"{LAST}", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    left = [file for file in (tmp_path / "out").iterdir() if file.suffix != ".parquet"]
    assert len(left) == 1
    assert table(tmp_path / "out")["date"].unique().sort().to_list() == OPEN[:3]
    exchange.asked.clear()
    fetched(tmp_path / "out")
    assert exchange.dates(BARS) == [f"{day}" for day in OPEN[3:]]
    assert contents(tmp_path / "out") == contents(tmp_path / "at once")


def test_the_folder_loads_as_raw_bars(exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "raw/jquants")
    columns = {name: name if name in SCHEMA else None for name in (*REQUIRED, *OPTIONAL)}
    bars = load_bars(tmp_path / "raw", "jquants/*", columns, None)
    shared = [name for name in bars.columns if name in SCHEMA]
    assert bars.select(shared).equals(table(tmp_path / "raw/jquants").sort("code", "date").select(shared))


@pytest.mark.parametrize(
    ("path", "change", "says"),
    [
        (BARS, lambda row: {"C": "n/a"}, "hold what is no number"),
        (BARS, lambda row: {"Date": "2020-09-29"}, "sent another day's"),
        (BARS, lambda row: {"Code": "13010"}, "stock 13010 is there twice"),
    ],
)
def test_answers_that_make_no_sense_are_one_clear_line(
    path: str, change: object, says: str, exchange: Exchange, tmp_path: Path
) -> None:
    rows = [row | change(row) for row in bars(FIRST)]  # pyright: ignore
    exchange.interfere = lambda asked, _: (200, {}, {"data": rows}) if asked == path else None
    with pytest.raises(InputError, match=says):
        fetched(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_field_that_is_gone_is_named(exchange: Exchange, tmp_path: Path) -> None:
    exchange.interfere = lambda path, _: (200, {}, {"data": [{"Date": "x", "Code": "1"}]}) if path == BARS else None
    with pytest.raises(InputError, match="lack O, H, L, C, Vo, Va, AdjFactor, UL, LL"):
        fetched(tmp_path / "out")


def test_outside_the_plan_is_said_in_the_providers_words(exchange: Exchange, tmp_path: Path) -> None:
    exchange.interfere = lambda path, _: (400, {}, {"message": "Your plan covers 2021 ~"}) if path == BARS else None
    with pytest.raises(InputError, match="400 Your plan covers 2021 ~"):
        fetched(tmp_path / "out")


@pytest.mark.parametrize("spoil", ["cut", "foreign"])
def test_a_spoilt_file_is_named(spoil: str, exchange: Exchange, tmp_path: Path) -> None:
    fetched(tmp_path / "out")
    file = tmp_path / "out/2020-09.parquet"
    if spoil == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    else:
        pl.DataFrame({"date": [1]}).write_parquet(file)
    with pytest.raises(InputError, match=r"2020-09\.parquet: .*its month is fetched again"):
        fetched(tmp_path / "out")
