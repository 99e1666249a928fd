"""Predict the training speed of many devices like this one.

The speed of a training step and of the link between two ranks are measured on this machine;
`cost.py` computes the rest. `python -m benchmarks.scale` is one rank of the measurement.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict

import torch
import torch.distributed as dist

from alexnet import recipes
from alexnet.provenance import code_version, describe, machine
from benchmarks.cost import Layout, Machine, Prediction, predict, step_macs
from benchmarks.interleave import interleave
from benchmarks.suites import Settings, our_candidate

LARGE_BYTES, SMALL_BYTES = 64 * 2**20, 8
ROUNDS, LINK_LIMIT_S = 7, 300
DEVICES = tuple(2**k for k in range(11))


def scale(settings: Settings, rounds: int, as_json: bool) -> Iterator[str]:
    """Yield the lines of the table, or JSON objects.

    `settings.batch` is the number of images on each device. Raises ValueError where the link cannot
    be measured.
    """
    if torch.cuda.device_count() == 1:
        raise ValueError(
            "one GPU has no link to another that could be measured; take a machine with several, "
            "or set CUDA_VISIBLE_DEVICES= for this machine's CPU"
        )
    paper = recipes.paper().architecture
    (ours,) = interleave(
        our_candidate("ours", "step", precision=settings.precision, batch=settings.batch),
        (),
        rounds,
    )
    assert not isinstance(ours, str)
    bytes_per_s, message_s = link()
    value_bytes = 2 if settings.precision == "bfloat16" else 4
    one_device = Machine(ours.per_second * step_macs(paper, Layout(), 1), bytes_per_s, message_s)
    if as_json:
        yield json.dumps({"machine": machine(), "code": code_version()} | asdict(one_device))
        for devices, (name, layout) in ((d, pair) for d in DEVICES for pair in layouts(d)):
            p = predict(paper, layout, settings.batch * devices, one_device, value_bytes)
            prediction = asdict(p) | {"images_per_s": p.images_per_s, "efficiency": p.efficiency}
            yield json.dumps({"devices": devices, "name": name} | prediction)
        return
    yield f"{machine()}; one device: {ours.per_second:,.0f} images/s ({ours.note})"
    yield describe(code_version())
    yield (
        f"link between two ranks here: {bytes_per_s / 1e9:.2f} GB/s, "
        f"{1e6 * message_s:,.0f} us per message"
    )
    yield f"predicted, {settings.batch} images per device, no overlap:"
    yield f"  {'devices':>7}  {'':<22}{'images/s':>12}{'payload, MB':>17}{'computing':>11}"
    for devices in DEVICES:
        for name, layout in layouts(devices):
            p = predict(paper, layout, settings.batch * devices, one_device, value_bytes)
            yield f"  {devices:>7}  {line(name, p)}"


def layouts(devices: int) -> list[tuple[str, Layout]]:
    """The layouts of `paper` on a number of devices, by name."""
    if devices == 1:
        return [("one process", Layout())]
    return [
        ("data parallel", Layout(devices)),
        ("columns" if devices == 2 else "columns x data", Layout(devices // 2, 2)),
        ("hybrid", Layout(devices, hybrid=True)),
    ]


def line(name: str, p: Prediction) -> str:
    return f"{name:<22}{p.images_per_s:>12,.0f}{p.payload_bytes / 1e6:>17,.1f}{p.efficiency:>11.1%}"


def link() -> tuple[float, float]:
    """Measure the link between two ranks on this machine.

    Returns:
        Bytes per second that a rank sends in a sum, and seconds for the smallest message.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command += ["-m", "benchmarks.scale"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, env=environment
    ) as torchrun:
        try:
            output, errors = torchrun.communicate(timeout=LINK_LIMIT_S)
        except subprocess.TimeoutExpired:
            # Not killed, because torchrun has to end its ranks.
            torchrun.terminate()
            raise ValueError(
                f"two ranks did not finish measuring their link within {LINK_LIMIT_S} s"
            ) from None
    if torchrun.returncode:
        raise ValueError(f"two ranks could not be started here: {_reason(errors)}")
    bytes_per_s, message_s = map(float, output.split()[-2:])
    return bytes_per_s, message_s


def _reason(errors: str) -> str:
    """The line of torchrun's stderr that says what went wrong.

    It is the first exception: after those of the ranks comes torchrun's own summary in a frame. A
    rank that was killed raises none; then it is the last line within the frame.
    """
    lines = [line.strip() for line in errors.splitlines()]
    # A rank's lines may begin with its number.
    exception = re.compile(r"(?:\[rank\d+\]: )?((?:\w+\.)*\w*(?:Error|Exception): .+)")
    found = [match[1] for line in lines if (match := exception.match(line))]
    in_frame = [line for line in lines if line.strip("=-")]
    return (found[:1] or in_frame[-1:] or ["no reason given"])[0]


def _rank() -> None:
    gpu_each = torch.cuda.device_count() >= 2
    dist.init_process_group("nccl" if gpu_each else "gloo")
    device = torch.device("cuda", dist.get_rank()) if gpu_each else torch.device("cpu")
    took_s = [_sum_s(torch.zeros(size // 4, device=device)) for size in (LARGE_BYTES, SMALL_BYTES)]
    if dist.get_rank() == 0:
        # In a ring of two ranks, each sends as many bytes as the tensor has, in two messages.
        print(LARGE_BYTES / took_s[0], took_s[1] / 2)
    dist.destroy_process_group()


def _sum_s(x: torch.Tensor) -> float:
    times = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        dist.all_reduce(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)


if __name__ == "__main__":
    _rank()
