"""`alexnet report`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import on_disk, parse


@dataclass(frozen=True)
class ReportArguments:
    """Test a run on its own store, and write report.html, a page about it.

    Beside it, predictions.csv lists every validation image with its true and its predicted class.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run."""
    out: Path | None = None
    """Folder of the two files; the run's own when not given."""


def report(arguments: list[str]) -> None:
    """Run `alexnet report`."""
    a = parse(ReportArguments, "report", arguments)
    from alexnet import run_report

    out = None if a.out is None else on_disk(a.out)
    print(run_report.write(a.run, out=out))
