"""Takes the README's picture of the page. Run after `dvc repro`: python docs/screenshot.py [PAGE PICTURE]"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from browser import MISSING, chromium  # noqa: E402

WIDTH, HEIGHT = 1280, 985


def main(page: Path, picture: Path) -> None:
    with chromium() as browser:
        if browser is None:
            sys.exit(f"error: {MISSING}")
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        tab.goto(page.resolve().as_uri())
        tab.wait_for_function("[...document.querySelectorAll('figure')].every((f) => f.dataset.drawn)")
        picture.parent.mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=picture)


if __name__ == "__main__":
    given = [Path(argument) for argument in sys.argv[1:]]
    main(*(given or (ROOT / "metrics/report.html", ROOT / "docs/images/page.png")))
