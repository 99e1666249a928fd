"""Verbs that measure this machine and the paper: bench, reproduce."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.parsing import parse


@dataclass(frozen=True)
class BenchArguments:
    """Speeds of this machine: ours, its own limits, and in a checkout the programs of benchmarks/, taking turns."""

    what: Positional[Literal["ops", "step", "loader", "prepare", "infer", "scale"]]
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: int = 128
    """Images of a training step."""
    data: str = ""
    """loader: a store (the built-in set when not given); prepare: what alexnet prepare takes."""
    rounds: int = 5
    """Turns of each."""
    python: str = sys.executable
    """The interpreter whose environment has the other frameworks."""
    json: bool = False


def bench(arguments: list[str]) -> None:
    a = parse(BenchArguments, "bench", arguments)
    if min(a.rounds, a.batch) < 1:
        raise ValueError("--rounds and --batch must be at least 1")
    from alexnet.bench import lists, scale

    terms = lists.Terms(a.precision, a.batch, a.data, a.python)
    lines = scale.scale if a.what == "scale" else partial(lists.bench, a.what)
    for line in lines(terms, a.rounds, a.json):
        print(line, flush=True)


@dataclass(frozen=True)
class ReproduceArguments:
    """The paper's claims as experiments. Without arguments: their table, with the recorded results."""

    claims: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[CLAIM...]")]] = ()
    """By their ids; none named: all that the store is fit for."""
    data: str | None = None
    """A prepared store: photographs of 112 pixels or more, or CIFAR-10."""
    scale: Literal["smoke", "desk", "full"] = "desk"
    """smoke: seconds a run, shows nothing. desk: minutes a run. full: the paper's own setting."""
    precision: Literal["auto", "float32"] = "auto"
    """auto is bfloat16 on CUDA and float32 elsewhere; the paper computed in float32."""
    seeds: int = 5
    jobs: int = 1
    """Runs side by side; they share the cores."""
    out: Path = Path("runs/reproduce")
    """Runs, kept to be used again, and reduced stores."""
    records: Path = Path("records/claims")
    """Folder of the results."""
    document: Path | None = None
    """Write the table of all records into this Markdown file, and do nothing else."""
    report: Path | None = None
    """Write all records as one HTML page, figures in it, and do nothing else."""
    runs: tuple[Path, ...] = ()
    """With --report: trained runs for the page, the first with its kernels, answers and neighbours."""


def reproduce(arguments: list[str]) -> None:
    a = parse(ReproduceArguments, "reproduce", arguments)
    if min(a.seeds, a.jobs) < 1:
        raise ValueError("--seeds and --jobs must be at least 1")
    from alexnet.experiments import records, runner, table
    from alexnet.experiments.claims import chosen

    if a.document is not None:
        a.document.write_text(table.document(records.read(a.records)))
        print(a.document)
        return
    if a.report is not None:
        from alexnet.experiments import report

        report.write(records.read(a.records), a.report, a.runs)
        print(a.report)
        return
    claims = chosen(a.claims)
    if a.data is None:
        if a.claims:
            raise ValueError(
                "name the prepared store: --data STORE (made by: alexnet prepare SOURCE STORE)"
            )
        costs = table.cost_h(claims, table.peak_macs_per_s())
        print(table.listing(records.read(a.records), costs))
        return
    from alexnet.data.store import Store

    terms = runner.Terms(Store(a.data), a.scale, a.seeds, a.out, a.jobs, a.precision)
    for found in table.reproduce(claims, terms, a.records, picky=bool(a.claims)):
        print(found, flush=True)
