"""Values and templates to one HTML file that needs nothing else: no font, script or picture from elsewhere."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from atft.page.numbers import Form, number_of, written

ASSETS = Path(__file__).parent / "assets"
_PLACE = re.compile(r"\{([a-z_.0-9]+)\}")


class Notes:
    """Footnotes in the order in which the page first needs them; the same text is one note."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> Markup:
        """The superscript that leads to the note."""
        if text not in self.texts:
            self.texts.append(text)
        place = self.texts.index(text) + 1
        return Markup('<sup><a href="#note-{0}">{0}</a></sup>').format(place)


class Numbers:
    """Writes values of the sources, each with the key that says where it stands.

    Args:
        sources: Nested values by name; a key is a dotted path into them.
    """

    def __init__(self, sources: Mapping[str, Any], notes: Notes) -> None:
        self.sources, self.notes = sources, notes

    def value(self, key: str) -> Any:
        """The value at a dotted path; the key must exist."""
        found: Any = self.sources
        for part in key.split("."):
            found = found[int(part)] if isinstance(found, list | tuple) else found[part]
        return found

    def known(self, key: str) -> bool:
        """Whether the sources hold the key at all (a market without an oracle does not)."""
        try:
            self.value(key)
        except (KeyError, IndexError):
            return False
        return True

    def number(self, key: str, form: Form | None = None) -> Markup:
        """The number as a span that names its key; null is "n/a" with the reason as a footnote."""
        value, what = self.value(key), number_of(key)
        if value is None:
            mark = self.notes.mark(what.undefined)
            return Markup('<span class="num undefined" data-key="{}">n/a{}</span>').format(key, mark)
        text = value if isinstance(value, str) else written(value, form or what.form)
        return Markup('<span class="num" data-key="{}">{}</span>').format(key, text)

    def meaning(self, name: str) -> Markup:
        """The footnote that defines a number; nothing for a number without a definition of its own."""
        text = number_of(name).meaning
        return self.notes.mark(text) if text else Markup()

    def say(self, sentence: str) -> Markup:
        """A sentence whose {key} places become numbers."""
        parts = _PLACE.split(sentence)
        return Markup("").join(self.number(part) if i % 2 else part for i, part in enumerate(parts))


def render(template: str, sources: Mapping[str, Any], charts: Mapping[str, Any], **values: Any) -> str:
    """The page of a template in `assets`. The same values give the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    notes = Notes()
    numbers = Numbers(sources, notes)
    environment.globals |= {
        "number": numbers.number, "known": numbers.known, "value": numbers.value, "meaning": numbers.meaning,
        "say": numbers.say, "notes": notes, "charts": charts, "asset": _asset, "series": _for_script(charts),
    }  # fmt: skip
    return environment.get_template(template).render(**values)


def _asset(name: str) -> Markup:
    return Markup((ASSETS / name).read_text().strip())  # noqa: S704 our own files


def _for_script(charts: Mapping[str, Any]) -> Markup:
    """JSON that may stand inside a script element."""
    text = json.dumps(charts, separators=(",", ":"), allow_nan=False, sort_keys=True)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 nothing in it can end the element


# --- charts --------------------------------------------------------------------------------------


def chart(
    table: pl.DataFrame,
    x: str,
    series: Sequence[Mapping[str, Any]],
    form: Form,
    *,
    zero: bool = True,
    idle: int = -1,
) -> dict[str, Any] | None:
    """What the page's script draws: `x` and one entry of `values` for each series; None where there is nothing.

    Args:
        series: Each names its `column` and `label`, and may have `color` (1 to 4, 0 = grey), `dash`, `kind`
            (line, bars, points, band: a shade between this column and the next, or state: a strip of 0 and 1).
        zero: Whether the value axis always shows 0.
        idle: The row whose values are shown while nobody points at the chart.
    """
    drawn = [one for one in series if table[one["column"]].drop_nulls().len()]
    if table.is_empty() or not drawn:
        return None
    times = table.schema[x] == pl.Date
    at = table[x].cast(pl.Datetime("ms")).dt.epoch("s") if times else table[x]
    return {
        "time": times,
        "x": at.to_list(),
        "form": form,
        "zero": zero,
        "idle": range(len(table))[idle],
        "series": [{**one, "values": table[one["column"]].to_list()} for one in drawn],
    }
