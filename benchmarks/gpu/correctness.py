"""The tests of what runs on CUDA alone and of whole runs, and 30 losses against plain PyTorch's."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import util

from benchmarks import same_training
from benchmarks.gpu.lab import Lab, Value, as_trained, images_for, training_config
from benchmarks.interleave import ROOT, environment

TESTS = [
    f"tests/test_{name}.py"
    for name in (
        *("triton", "triton_crop", "triton_dropout", "triton_update"),
        *("cuda_between", "cuda_trial", "graph_step", "device_feed", "gpu_decoding", "whole_run"),
    )
]
STEPS, BATCH, LR = 30, 128, 0.01
LIMIT = 0.02
"""Largest difference of a float32 loss from that of plain PyTorch, which rounds otherwise."""
BFLOAT16_SHARE = 0.25
"""The same in bfloat16, as a share of the largest change of plain PyTorch's loss in these steps. A
network whose products do not read what the update writes is off by the whole change; rounding, on a
CPU with crops of 67 pixels, by less than a hundredth of it."""
TESTS_LIMIT_S = 220


def run(lab: Lab) -> None:
    """Add a row for each check; ends the process with status 1 if one has failed."""
    for precision in ("float32", "bfloat16"):
        lab.attempt(f"losses in {precision}", lambda p=precision: _compared(lab, p))
    _tests(lab)
    failed = [row["name"] for row in lab.rows if "error" in row or row.get("ok") is False]
    if failed:
        sys.exit(f"failed: {', '.join(map(str, failed))}")


def _compared(lab: Lab, precision: str) -> dict[str, Value]:
    """Compare our losses with those of plain PyTorch in float32."""
    batch, steps = (2, 2) if lab.tiny else (BATCH, STEPS)
    # Ten classes, so that the loss falls in so few steps.
    config = training_config(lab, batch, precision, classes=10)
    config = replace(config, sgd=replace(config.sgd, lr=LR))
    made = [images_for(lab, config, seed) for seed in range(steps)]
    data = [(images.batch, images.augmentation) for images in made]
    as_trained(precision)
    kinds = {"loop": same_training.loop, "graph": same_training.graph}
    ours = {
        name: same_training.losses(kind(config, made[0].preprocess), data)
        for name, kind in kinds.items()
    }
    as_trained("float32")
    exact = images_for(lab, replace(config, precision="float32")).preprocess
    plain = same_training.losses(same_training.plain(config, exact), data)
    apart = {name: float((values - plain).abs().max()) for name, values in ours.items()}
    limit = LIMIT
    if precision == "bfloat16":
        limit = max(LIMIT, BFLOAT16_SHARE * float((plain - plain[0]).abs().max()))
    return {
        **{f"{name}_apart": difference for name, difference in apart.items()},
        "limit": limit,
        "first": float(plain[0]),
        "last": float(plain[-1]),
        # A NaN is not below any limit.
        "ok": all(difference < limit for difference in apart.values()),
    }


def _tests(lab: Lab) -> None:
    if util.find_spec("pytest") is None:
        lab.row("tests", said="not run: pytest is missing")
        return
    on_cuda = lab.device.type == "cuda"
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider"),
        # Another version of PyTorch may warn of what the tests' own does not.
        *("-o", "filterwarnings=default"),
        # Side by side, because most of the time is that of Triton's compiler.
        *(["-n", "8"] if on_cuda and util.find_spec("xdist") else []),
        *(TESTS if not lab.tiny else ["tests/test_triton_update.py"]),
    ]
    log = lab.out / "tests.txt"
    try:
        with log.open("w") as file:
            code = subprocess.run(
                command,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment(),
                timeout=TESTS_LIMIT_S,
            ).returncode
    except subprocess.TimeoutExpired:
        lab.row("tests", ok=False, said=f"not finished in {TESTS_LIMIT_S} s")
        return
    lines = log.read_text().strip().splitlines()
    if code:
        print("\n".join(lines[-30:]))
    lab.row("tests", ok=code == 0, said=(lines or ["nothing"])[-1])
