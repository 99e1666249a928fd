"""What the stages share: the device, times on it, tables."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Without a card, kernels run in Triton's interpreter. It reads the variable once, when imported.
if DEVICE.type == "cpu":
    os.environ.setdefault("TRITON_INTERPRET", "1")

Row = dict[str, Any]


class Table:
    """Rows of a stage, printed and written to a file as they are measured."""

    def __init__(self, path: Path) -> None:
        self._path, self.failed = path, False
        self._rows: list[Row] = []
        self._write()

    def add(self, title: str, measure: Callable[[], Row]) -> None:
        """Measure a row. One that fails is reported, and the next one is measured."""
        try:
            row = measure()
        # Whatever it is (no memory, a library that is missing, a compiler), it is the result of
        # this row, and its traceback is what someone needs who is not at the machine.
        except Exception as error:
            traceback.print_exc()
            self.failed, row = True, {"error": f"{type(error).__name__}: {error}"}
        values = ", ".join(f"{name} {_text(value)}" for name, value in row.items())
        print(f"  {title:44} {values}", flush=True)
        self._rows.append({"what": title, **row})
        self._write()

    def _write(self) -> None:
        where = torch.cuda.get_device_name() if DEVICE.type == "cuda" else "cpu"
        result = {"device": where, "torch": torch.__version__, "rows": self._rows}
        self._path.write_text(json.dumps(result, indent=1) + "\n")


def _text(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def run_as_program(name: str, stage: Callable[[Table, Path, bool], None]) -> None:
    """Run a stage as `python -m benchmarks.gpu.NAME OUT [--tiny]`; exit 1 if a row failed."""
    out, *options = sys.argv[1:]
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    # As a training run does: cuDNN measures which of its algorithms is the fastest.
    torch.backends.cudnn.benchmark = True
    table = Table(folder / f"{name}.json")
    stage(table, folder, options == ["--tiny"])
    sys.exit(table.failed)


def seconds(run: Callable[[], object], least_s: float = 0.05, turns: int = 5) -> float:
    """Return the seconds of a run on the device.

    The median of `turns`, each of so many runs, queued one behind the other, that they take
    `least_s`. On a CPU one run is timed, the first.
    """
    if DEVICE.type == "cpu":
        began_s = time.perf_counter()
        run()
        return time.perf_counter() - began_s
    run()
    run()
    torch.cuda.synchronize()

    def of(count: int) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000 / count

    count = max(1, min(1000, int(least_s / max(of(2), 1e-6))))
    return sorted(of(count) for _ in range(turns))[turns // 2]


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """Return `run` as a CUDA graph, so that the host's launches are not in its time."""
    if DEVICE.type == "cpu":
        return run
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()

    def replay(kept: object = result) -> None:  # the graph writes its result there
        graph.replay()

    return replay


def copy_seconds(moved: int) -> float:
    """Return the seconds in which a copy reads and writes `moved` bytes in all."""
    source = torch.zeros(max(1, moved // 2), dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return seconds(captured(lambda: target.copy_(source)))


def channels_last(*shape: int) -> torch.Tensor:
    """Random bfloat16 values on the device, (N, C, H, W)."""
    x = torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last)
