"""The side of a candidate: warm up, report the work of a run, then run once for each input line.

Only the standard library is imported, so that a candidate can live in an environment without the
dependencies of this package.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable


def serve(
    run: Callable[[], object], count: float, unit: str, note: str = "", warm_up: int = 2
) -> None:
    """Serve timed runs until stdin is closed.

    Args:
        run: The function to time.
        count: Units of work (images, multiply-adds, bytes) in one run.
        note: What it runs on.
    """
    for _ in range(warm_up):
        run()
    print(json.dumps({"count": count, "unit": unit, "note": note}), flush=True)
    for _ in sys.stdin:
        began_s = time.perf_counter()
        run()
        print(time.perf_counter() - began_s, flush=True)
