"""`alexnet reproduce`"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Names, Paths, on_disk, parse
from alexnet.errors import AlexNetError
from alexnet.files import check_may_write, write_whole
from alexnet.terminal import print_if_read

NOT_OF_RUNS = "claims", "data", "records", "document", "report", "runs"
"""The options that are also of use without --data; all others are those of the runs it makes."""


@dataclass(frozen=True)
class ReproduceArguments:
    """Run the paper's claims as experiments.

    Without arguments, print a line or two for each claim; without --data, all recorded results of
    the claims that are named.
    """

    claims: Positional[Annotated[Names, tyro.conf.arg(metavar="[CLAIM...]")]] = ()
    """Ids of the claims; all that the store is fit for when none is given."""
    data: Annotated[str | None, tyro.conf.arg(metavar="STORE")] = None
    """Prepared store: photographs of 112 pixels or more, tiny-imagenet, mini-ImageNet or
    CIFAR-10."""
    first: Annotated[str | None, tyro.conf.arg(metavar="STORE")] = None
    """pretrain: store of the classes that are learned first, such as tiny-imagenet."""
    scale: Literal["smoke", "desk", "full"] = "desk"
    """smoke: seconds for each run, as a test of the program only. desk: some minutes to an hour for
    each run. full: the paper's own setting."""
    precision: Literal["auto", "float32"] = "auto"
    """auto is bfloat16 on CUDA and float32 elsewhere; the paper used float32."""
    seeds: int = 5
    """Runs of each arm, with different seeds."""
    jobs: int = 1
    """Number of runs at the same time; they share the cores and the GPUs. The nets of desk scale
    are so small that one run per core is fastest."""
    out: Path = Path("runs/reproduce")
    """Folder of the runs, which are kept and used again, and of reduced stores."""
    records: Path | None = None
    """Folder of the recorded results; when not given, records/claims, and for what is not there the
    records that come with the program. A run at smoke scale, which has no results, is recorded in
    OUT/records when it is not given."""
    document: Path | None = None
    """Only write the table of all records into this Markdown file, and their figures into a folder
    beside it."""
    report: Path | None = None
    """Only write all records, with figures, into this HTML file."""
    runs: Paths = ()
    """With --report: trained runs to show; the filters and answers are those of the first."""


def reproduce(arguments: list[str]) -> None:
    """Run `alexnet reproduce`."""
    a = parse(ReproduceArguments, "reproduce", arguments)
    if min(a.seeds, a.jobs) < 1:
        raise AlexNetError("--seeds and --jobs must be at least 1")
    for path in (a.out, a.records, a.document, a.report):
        if path is not None:
            on_disk(path)
    from alexnet.experiments import cost, document, records, table
    from alexnet.experiments.claims import chosen

    # A test of the program has no place among the results.
    folder = a.records or (a.out / "records" if a.scale == "smoke" else records.OWN)
    claims = chosen(a.claims)
    if (a.claims or a.data) and (a.document or a.report):
        raise AlexNetError("--document and --report show all records; run claims without them")
    for option in fields(a):
        of_runs = option.name not in NOT_OF_RUNS
        if a.data is None and of_runs and getattr(a, option.name) != option.default:
            raise AlexNetError(
                f"--{option.name} has an effect beside --data alone, the store of the claim"
            )
    if a.runs and a.report is None:
        raise AlexNetError("--runs has an effect beside --report alone, the page that shows them")
    if a.document is not None or a.report is not None:
        recorded = records.read(a.records, records.RESULTS)
        # Only these need matplotlib.
        from alexnet import figures
        from alexnet.experiments import pictures, report

        if a.document is not None:
            check_may_write(a.document)
            beside = a.document.with_name(f"{a.document.stem}-figures")
            drawn = pictures.pictures(recorded)
            if drawn:
                beside.mkdir(exist_ok=True)
            for one in drawn:
                figures.save(one.figure, beside / one.file, one.source)
            text = document.text(recorded, drawn, beside.name)
            write_whole(a.document, text.encode())
            print(a.document)
        if a.report is not None:
            write_whole(a.report, report.page(recorded, a.runs, folder).encode())
            print(a.report)
        return
    if a.data is None:
        # The speed is measured now, so that the estimates hold for this machine.
        costs = cost.claims_s(claims, cost.peak_macs_per_s())
        recorded = records.read(a.records)
        if a.claims:
            print(table.listing(claims, recorded, costs, folder))
        else:
            print(table.overview(recorded, costs, folder))
        return
    from alexnet.data.store import Store
    from alexnet.experiments.reproduce import run_and_record
    from alexnet.experiments.specs import Settings

    first = None if a.first is None else Store(a.first)
    settings = Settings(Store(a.data), a.scale, a.seeds, a.out, first, a.jobs, a.precision)
    # A claim that the store is not fit for is an error only where the user has named it.
    for text in run_and_record(claims, settings, folder, strict=bool(a.claims)):
        print_if_read(text)
