"""The tests of the CUDA path, each file in a process of its own, side by side on a card.

Most of their time is Triton's compiler, which runs on one core for each process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from importlib import util
from pathlib import Path

from benchmarks.gpu.__main__ import ROOT
from benchmarks.gpu.card import DEVICE, Row, Table, run_as_program


def correctness(table: Table, out: Path, tiny: bool) -> None:
    files = [*sorted(ROOT.glob("tests/test_triton*.py")), ROOT / "tests/test_graph_step.py"]
    if tiny:
        files = [file for file in files if file.stem == "test_triton_update"]
    began_s = time.monotonic()
    processes = {}
    for file in files:
        processes[file] = _start(file, out)
        # The two cores of a small machine would only delay each other.
        if DEVICE.type == "cpu":
            processes[file].wait()
    for file, process in processes.items():
        table.add(file.stem, partial(_result, process, _log(file, out), began_s))


def _log(file: Path, out: Path) -> Path:
    return out / f"correctness-{file.stem}.log"


def _start(file: Path, out: Path) -> subprocess.Popen[bytes]:
    # Libraries of other versions than here warn of other things.
    options = ["-m", "not slow", "-p", "no:cacheprovider", "-o", "filterwarnings=default"]
    if DEVICE.type == "cuda" and util.find_spec("xdist"):
        options += ["-n", "3"]
    with _log(file, out).open("w") as log:
        command = [sys.executable, "-m", "pytest", str(file), *options]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)


def _result(process: subprocess.Popen[bytes], log: Path, began_s: float) -> Row:
    code, text = process.wait(), log.read_text().strip()
    if code:
        print(text[-3000:])
        raise AssertionError(f"pytest ended with exit code {code}; see {log.name}")
    return {"seconds": time.monotonic() - began_s, "pytest": text.splitlines()[-1]}


if __name__ == "__main__":
    run_as_program("correctness", correctness)
