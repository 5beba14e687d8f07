"""The fastest of several runs: what the code takes when nothing else disturbs it."""

import time
from collections.abc import Callable
from typing import Any


def best(repeats: int, run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the fastest of `repeats` runs, and what the last one returned."""
    fastest, out = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        out = run()
        fastest = min(fastest, time.perf_counter() - start)
    return fastest, out
