"""A contender's side: warm up, say what one run counts, then run once for every line read. Standard library alone, so
that a contender may live in an environment without this package's dependencies.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def serve(
    run: Callable[[], object], count: float, unit: str, note: str = "", warm_up: int = 2
) -> None:
    """run: what is timed; count: how many units (images, multiply-adds, bytes) one run is; note: what it ran on."""
    for _ in range(warm_up):
        run()
    print(json.dumps({"count": count, "unit": unit, "note": note}), flush=True)
    for _ in sys.stdin:
        began_s = time.perf_counter()
        run()
        print(time.perf_counter() - began_s, flush=True)
