"""`python -m benchmarks WHAT`: measure speeds on this machine, in turns with other programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import tyro
from tyro.conf import Positional

from benchmarks import scale, suites


@dataclass(frozen=True)
class BenchArguments:
    """Measure this program, the limits of the machine, and the other programs, in turns."""

    what: Positional[Literal["ops", "step", "loader", "prepare", "infer", "scale"]]
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: int = 128
    """Images in a batch of the training step."""
    data: str = ""
    """loader: a store (default: the built-in data set); prepare: a source of `alexnet prepare`."""
    rounds: int = 5
    """Number of turns of each program."""
    python: str = sys.executable
    """Python interpreter whose environment has the other frameworks."""
    json: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a benchmark and print its lines as they are measured.

    Raises ValueError for a mistake in the arguments; the program then exits with code 2.
    """
    a = tyro.cli(
        BenchArguments,
        prog="python -m benchmarks",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    if min(a.rounds, a.batch) < 1:
        raise ValueError("--rounds and --batch must be at least 1")
    settings = suites.Settings(a.precision, a.batch, a.data, a.python)
    lines = scale.scale if a.what == "scale" else partial(suites.bench, a.what)
    for line in lines(settings, a.rounds, a.json):
        print(line, flush=True)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        sys.exit(2)
