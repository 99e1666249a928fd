"""`python -m benchmarks.gpu OUT [STAGE ...] [--tiny]`: what one CUDA card computes, and how fast.

Each stage is a process of its own with a time limit, prints a table and writes OUT/STAGE.json,
row by row, so that a stage that fails or is ended costs only what it had not measured yet. Without
a stage all of them run, in half an hour. A stage alone runs under a profiler or a sanitizer too:
`python -m benchmarks.gpu.kernels OUT`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, arg

ROOT = Path(__file__).resolve().parents[2]
LIMITS_S = {
    "facts": 90,
    "correctness": 420,
    "convs": 180,
    "kernels": 180,
    "steps": 420,
    "profile": 150,
    "feed": 360,
}
"""The stages in their order, and the seconds that each may take."""
Stage = Literal["facts", "correctness", "convs", "kernels", "steps", "profile", "feed"]


@dataclass(frozen=True)
class LabArguments:
    """Measure one CUDA card, stage by stage."""

    out: Positional[Path]
    """Folder for the tables, as JSON, and for the logs."""
    stages: Annotated[Positional[tuple[Stage, ...]], arg(metavar="[STAGE ...]")] = ()
    """Stages to run; all of them if none is named."""
    tiny: bool = False
    """Small sizes, which a CPU computes too, to see that every stage runs."""


def run_stage(stage: str, out: Path, tiny: bool, limit_s: float) -> str:
    """Run a stage in a process of its own. Return how it ended; "ok" if without an error."""
    command = [sys.executable, "-u", "-m", f"benchmarks.gpu.{stage}", str(out.resolve())]
    # PYTHONPATH stays as it is: it may name packages that were carried to the machine.
    process = subprocess.Popen(
        command + ["--tiny"] * tiny, cwd=ROOT, process_group=0 if os.name == "posix" else None
    )
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return f"ended after its limit of {limit_s:g} s"
    finally:
        # Also what the stage has started: tests, compilers.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "ok" if code == 0 else f"failed, exit code {code}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and return the exit code: 1 if one of them failed."""
    a = tyro.cli(
        LabArguments, prog="python -m benchmarks.gpu", args=arguments, config=(OmitArgPrefixes,)
    )
    a.out.mkdir(parents=True, exist_ok=True)
    # As an exception, so that the stage is ended with this program.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    ends = {}
    for stage in a.stages or LIMITS_S:
        began_s = time.monotonic()
        print(f"== {stage}", flush=True)
        ends[stage] = run_stage(stage, a.out, a.tiny, LIMITS_S[stage])
        print(f"== {stage}: {ends[stage]}, {time.monotonic() - began_s:.0f} s", flush=True)
    return int(any(end != "ok" for end in ends.values()))


if __name__ == "__main__":
    sys.exit(main())
