"""The page in a real browser: nothing fails, nothing is fetched, every chart holds ink; wide, narrow, light, dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from atft.page.tear_sheet import Results
from browser import MISSING, chromium
from conftest import World
from page.pages import Written, results_of, write_all
from page.readback import agrees, value_at
from page.test_tear_sheet import DRAWN

# Share of a chart's pixels that are neither transparent nor of an axis: what was drawn inside the axes.
INK = """(figure) => [...figure.querySelectorAll('canvas')].map((canvas) => {
  const box = canvas.getBoundingClientRect(), over = figure.querySelector('.u-over').getBoundingClientRect();
  const scale = canvas.width / box.width;
  const data = canvas.getContext('2d').getImageData(
    (over.left - box.left) * scale, (over.top - box.top) * scale, over.width * scale, over.height * scale).data;
  const colors = new Map();
  for (let i = 0; i < data.length; i += 4)
    if (data[i + 3] > 20) {
      const key = [data[i] >> 4, data[i + 1] >> 4, data[i + 2] >> 4].join();
      colors.set(key, (colors.get(key) || 0) + 1);
    }
  // Grid and zero line are grey; a series has a colour.
  let ink = 0;
  for (const [key, count] of colors) {
    const [r, g, b] = key.split(',').map(Number);
    if (Math.max(r, g, b) - Math.min(r, g, b) >= 3) ink += count;
  }
  return ink;
})[0]"""
READY = "[...document.querySelectorAll('figure[data-chart]')].every((figure) => figure.dataset.drawn)"


@pytest.fixture(scope="module")
def results(world: World, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return results_of(world, tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write_all(results, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        if found is None:
            pytest.skip(MISSING)
        yield found


def opened(browser: Any, page: Path, width: int, scheme: str) -> tuple[Any, list[str]]:
    """The open page, and everything that it complained of or asked for."""
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.set_default_timeout(120_000)
    said: list[str] = []
    tab.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: said.append(f"error: {error}"))
    tab.on("request", lambda request: said.append(f"request: {request.url}"))
    tab.goto(page.as_uri())
    tab.wait_for_function(READY)
    return tab, [line for line in said if line != f"request: {page.as_uri()}" and not line.startswith("request: data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_opens_offline_and_draws_every_chart(browser: Any, written: Written, width: int, scheme: str) -> None:
    tab, said = opened(browser, written.page, width, scheme)
    assert said == []
    figures = tab.query_selector_all("figure[data-chart]")
    assert {figure.get_attribute("data-chart") for figure in figures} == DRAWN
    assert {f.get_attribute("data-chart"): ink for f in figures if (ink := f.evaluate(INK)) < 100} == {}
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    light = int(tab.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (light > 128) == (scheme == "light")
    tab.close()


def test_every_number_on_the_screen_equals_the_file(browser: Any, written: Written) -> None:
    tab, _ = opened(browser, written.page, 1400, "light")
    found = tab.evaluate(
        "[...document.querySelectorAll('[data-key]')].map((e) => [e.dataset.key, e.firstChild.textContent])"
    )
    assert len(found) > 150
    assert [(key, text) for key, text in found if not agrees(text, value_at(written.files, key))] == []
    tab.close()


def test_pointing_at_a_day_shows_its_values(browser: Any, written: Written) -> None:
    tab, said = opened(browser, written.page, 1400, "light")
    legend = tab.locator("figure[data-chart=equity] .legend")
    before = legend.inner_text()
    last = written.results.series["equity"].row(-1, named=True)
    assert before.startswith(f"{last['date']}")
    assert f"{last['net']:.2f}" in before
    tab.locator("figure[data-chart=equity] .u-over").hover(position={"x": 40, "y": 40})
    assert legend.inner_text() != before
    # Charts of days share the cursor.
    assert tab.locator("figure[data-chart=turnover] .legend").inner_text()[:10] == legend.inner_text()[:10]
    assert said == []
    tab.close()
