"""A J-Quants on this machine: it speaks as much of the v2 format as is fetched, and can misbehave."""

import json
import threading
from collections.abc import Callable
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEY = "k3y-nobody-may-see"
FIRST, LAST = date(2020, 9, 28), date(2020, 10, 6)
HOLIDAYS = {date(2020, 10, 2)}
SPLIT = date(2020, 9, 30)  # of 13010, 1:2
HALT = date(2020, 10, 1)  # nothing traded at all
IDLE = (date(2020, 9, 29), "13020")  # not traded
MOVED = date(2020, 10, 5)  # 13020 goes from machinery to services
PAGE = 2

Answer = tuple[int, dict[str, str], Any]


def days(first: date, last: date) -> list[date]:
    return [first + timedelta(i) for i in range((last - first).days + 1)]


def is_open(day: date) -> bool:
    return day.weekday() < 5 and day not in HOLIDAYS


def bars(day: date) -> list[dict[str, Any]]:
    if not is_open(day):
        return []
    rows = []
    for number, code in enumerate(("130A0", "13010", "13020")):
        price = 1000.0 * (number + 1) + day.day
        if code == "13010" and day >= SPLIT:
            price /= 2
        halted = day == HALT or (day, code) == IDLE
        prices = dict.fromkeys(("O", "H", "L", "C"), None if halted else price)
        rows.append(
            {"Date": f"{day}", "Code": code, **prices, "UL": "1" if number == 1 and day == FIRST else "0", "LL": "0"}
            | {"Vo": None if halted else 500.0, "Va": None if halted else 500 * price}
            | {"AdjFactor": 0.5 if code == "13010" and day == SPLIT else 1.0, "AdjC": 1.0, "AdjVo": 1.0}
        )
    return rows


def master(day: date) -> list[dict[str, Any]]:
    sectors = {"13010": ("8", "3600"), "13020": ("10", "9050") if day >= MOVED else ("8", "3600")}
    if day >= HALT:
        sectors["130A0"] = ("5", "3250")
    rest = dict.fromkeys(
        ("CoName", "CoNameEn", "S17Nm", "S33Nm", "ScaleCat", "Mkt", "MktNm", "Mrgn", "MrgnNm", "ProdCat"), ""
    )
    return [rest | {"Date": f"{day}", "Code": code, "S17": s17, "S33": s33} for code, (s17, s33) in sectors.items()]


def calendar(first: date, last: date) -> list[dict[str, Any]]:
    return [{"Date": f"{day}", "HolDiv": "1" if is_open(day) else "0"} for day in days(first, last)]


class Exchange:
    """Serves until closed. `asked` lists (path, query); `first_say` is answered before anything else."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.first_say: list[Answer] = []
        self.interfere: Callable[[str, dict[str, str]], Answer | None] = lambda _path, _query: None
        self.key = KEY
        exchange = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = dict(parse_qsl(url.query))
                exchange.asked.append((url.path, query))
                status, headers, body = exchange.answer(url.path, query, self.headers.get("x-api-key", ""))
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.server.server_port}/v2"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, path: str, query: dict[str, str], key: str) -> Answer:
        if self.first_say:
            return self.first_say.pop(0)
        if key != self.key:
            return 403, {}, {"message": f"The key {key} is invalid or expired"}
        if said := self.interfere(path, query):
            return said
        if path == "/v2/markets/calendar":
            rows = calendar(date.fromisoformat(query["from"]), date.fromisoformat(query["to"]))
        else:
            table = {"/v2/equities/bars/daily": bars, "/v2/equities/master": master}[path]
            rows = table(date.fromisoformat(query["date"]))
        start, page = int(query.get("pagination_key", 0)), PAGE if path == "/v2/equities/bars/daily" else len(rows)
        more = {"pagination_key": f"{start + page}"} if start + page < len(rows) else {}
        return 200, {}, {"data": rows[start : start + page]} | more

    def dates(self, path: str) -> list[str]:
        """Days asked for, first pages alone."""
        return [query["date"] for asked, query in self.asked if asked == path and "pagination_key" not in query]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
