"""The 20 longest kernels of a training step, of the loop's and of the graph's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiler

from benchmarks.gpu.card import DEVICE, Row, Table, run_as_program
from benchmarks.gpu.steps import graph_step, loop_step

LONGEST = 20
STEPS = 3


def profile(table: Table, out: Path, tiny: bool) -> None:
    batch = 2 if tiny else 512
    for name, make in (("the loop's step", loop_step), ("GraphStep", graph_step)):
        rows: list[Row] = []
        table.add(f"{name}, batch {batch}", partial(_profiled, make, batch, tiny, rows))
        for row in rows:
            table.add(f"  {row.pop('kernel')[:100]}", lambda row=row: row)


def _profiled(
    make: Callable[[int, bool], Callable[[], object]], batch: int, tiny: bool, rows: list[Row]
) -> Row:
    """Profile some steps; append to `rows` the longest kernels, and return the sum of all."""
    step = make(batch, tiny)
    step()
    step()
    on_card = DEVICE.type == "cuda"
    activities = [ProfilerActivity.CUDA if on_card else ProfilerActivity.CPU]
    with profiler(activities=activities) as record:
        for _ in range(STEPS):
            step()
        if on_card:
            torch.cuda.synchronize()
    found = [
        (event.self_device_time_total if on_card else event.self_cpu_time_total, event)
        for event in record.key_averages()
    ]
    found.sort(key=lambda pair: -pair[0])
    rows += [
        {"kernel": event.key, "us a step": us / STEPS, "launches a step": event.count / STEPS}
        for us, event in found[:LONGEST]
    ]
    return {
        "us a step": sum(us for us, _ in found) / STEPS,
        "launches a step": sum(event.count for _, event in found) / STEPS,
    }


if __name__ == "__main__":
    run_as_program("profile", profile)
