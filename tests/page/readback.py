"""Reads a page's numbers back, by rules of its own. Not a test."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SPAN = re.compile(r'<span class="num[^"]*" data-key="([^"]+)">([^<]*)')
UNITS = {"%": 100.0, "bn": 1e-9, "m": 1e-6, "k": 1e-3}


def shown(html: str) -> list[tuple[str, str]]:
    """(key, text) of every number that stands on the page."""
    return SPAN.findall(html)


def value_at(files: Mapping[str, Path], key: str) -> Any:
    """What the file holds at the key; text of a CSV is a number, or None where it is empty."""
    name, *path = key.split(".")
    found: Any
    if files[name].suffix == ".csv":
        with files[name].open() as file:
            found = list(csv.DictReader(file))
    else:
        found = json.loads(files[name].read_text())
    for part in path:
        found = found[int(part)] if isinstance(found, list) else found[part]
    if files[name].suffix == ".csv":
        return float(found) if found else None
    return found


def agrees(text: str, value: Any) -> bool:
    """Whether the text is the value, rounded to the digits that the text has."""
    if value is None or isinstance(value, str):
        return text == ("n/a" if value is None else value)
    number, _, unit = text.replace("\N{MINUS SIGN}", "-").replace(",", "").partition("\N{NO-BREAK SPACE}")
    digits = len(number.partition(".")[2])
    return abs(float(number) - value * UNITS.get(unit, 1.0)) <= 0.5 * 10**-digits + 1e-9
