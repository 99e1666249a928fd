"""The side of a candidate: warm up, report the work of a run, then run once for each input line.

Only the standard library is imported, so that a candidate can live in an environment without the
dependencies of this package.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

RUNS_ON_GPU = 10
"""In a row, so that the GPU works on one while the host launches the next."""


def serve(
    run: Callable[[], object],
    count: float,
    unit: str,
    note: str = "",
    warm_up: int = 2,
    wait: Callable[[], object] | None = None,
) -> None:
    """Serve timed runs until stdin is closed.

    Args:
        run: The function to time.
        count: Units of work (images, multiply-adds, bytes) in one run.
        note: What it runs on.
        wait: Waits for the GPU, on which a call returns before its work is done. What is timed is
            then `RUNS_ON_GPU` runs and one wait: a wait after each would measure the latency.
    """
    runs = RUNS_ON_GPU if wait else 1
    for _ in range(warm_up):
        run()
    print(json.dumps({"count": runs * count, "unit": unit, "note": note}), flush=True)
    for _ in sys.stdin:
        if wait:
            wait()
        began_s = time.perf_counter()
        for _ in range(runs):
            run()
        if wait:
            wait()
        print(time.perf_counter() - began_s, flush=True)
