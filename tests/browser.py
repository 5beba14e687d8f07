"""A headless Chromium, where there is one: Playwright's own, or the system's. Not a test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = "no Chromium: `.ci/browser` installs one"


def executable() -> str | None:
    """Path of a browser on the search path; None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; None where neither Playwright nor the system has one."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        yield None
        return
    with sync_playwright() as playwright:
        path = (
            playwright.chromium.executable_path if Path(playwright.chromium.executable_path).exists() else executable()
        )
        if path is None:
            yield None
            return
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--force-color-profile=srgb"])
        try:
            yield browser
        finally:
            browser.close()
