"""`python -m benchmarks.gpu OUT STAGE...`: measure one CUDA GPU, stage by stage.

A stage is a process of its own with a time limit, so that one that fails or hangs costs only
itself. It prints its table while it measures and keeps it in OUT/STAGE.json. In calls of at most
ten minutes, by their limits:

    python -m benchmarks.gpu OUT facts correctness convs     # is it right; what the card can do
    python -m benchmarks.gpu OUT kernels steps               # images per second
    python -m benchmarks.gpu OUT profile feed racecheck      # where the time goes; from a store

PyTorch with CUDA, Triton, NumPy, pyarrow, Pillow, rich and safetensors are needed; `facts` says
what else is missing and what follows from it. With --tiny every stage runs in small sizes, also on
a CPU, to see that it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.interleave import environment


@dataclass(frozen=True)
class Stage:
    """A module of this package with a function `run`, and its time limit in seconds."""

    module: str
    limit_s: int


STAGES = {
    "facts": Stage("facts", 90),
    "correctness": Stage("correctness", 330),
    "convs": Stage("convs", 180),
    "kernels": Stage("kernels", 150),
    "steps": Stage("steps", 450),
    "profile": Stage("longest", 120),
    "feed": Stage("feed", 330),
    "racecheck": Stage("racecheck", 150),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run stages one after the other; returns the exit status: 0 if all of them succeeded."""
    # Not tyro, which a rented machine lacks.
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the results")
    parser.add_argument("stages", metavar="STAGE", nargs="*", help=f"of: {', '.join(STAGES)}")
    parser.add_argument("--tiny", action="store_true", help="small sizes, also on a CPU")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args(arguments)
    stages = a.stages or list(STAGES)
    if unknown := [stage for stage in stages if stage not in STAGES]:
        parser.error(f"there is no stage {unknown[0]}; there are {', '.join(STAGES)}")
    if a.here:
        _run_here(a.out, stages[0], a.tiny)
        return 0
    try:
        a.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.exit(2, f"benchmarks.gpu: {a.out} cannot be made a folder: {error.strerror}\n")
    failed = [stage for stage in stages if not _succeeds(a.out, stage, a.tiny)]
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def _succeeds(out: Path, stage: str, tiny: bool) -> bool:
    """Run a stage in a process of its own, within its limit."""
    print(f"===== {stage}", flush=True)
    began_s = time.monotonic()
    command = [sys.executable, "-u", "-m", "benchmarks.gpu", str(out), stage, "--here"]
    # A session of its own, so that the processes which the stage has started end with it.
    process = subprocess.Popen(
        command + ["--tiny"] * tiny, env=environment(), start_new_session=True
    )
    try:
        code = process.wait(STAGES[stage].limit_s)
        said = "ok" if code == 0 else f"failed ({code})"
    except subprocess.TimeoutExpired:
        code, said = 1, f"stopped at its limit of {STAGES[stage].limit_s} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    print(f"===== {stage}: {said}, {time.monotonic() - began_s:.0f} s", flush=True)
    return code == 0


def _run_here(out: Path, stage: str, tiny: bool) -> None:
    """Run a stage in this process."""
    import torch

    from benchmarks.gpu.lab import Lab

    if not torch.cuda.is_available():
        if not tiny:
            sys.exit("there is no CUDA GPU here; --tiny runs on a CPU")
        # Before Triton is imported, which reads it once.
        os.environ["TRITON_INTERPRET"] = "1"
        # The sizes are too small for more, whose threads would wait for each other.
        torch.set_num_threads(1)
    module = importlib.import_module(f"benchmarks.gpu.{STAGES[stage].module}")
    lab = Lab(out, stage, tiny)
    module.run(lab)
    if lab.failures == lab.attempts > 0:
        sys.exit(f"{stage}: nothing could be measured")


if __name__ == "__main__":
    sys.exit(main())
