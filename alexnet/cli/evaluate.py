"""`alexnet evaluate`"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Paths, parse


@dataclass(frozen=True)
class EvaluateArguments:
    """Measure the test errors of a run, or of the ensemble of several runs.

    The errors are those of the center crop and of the recipe's own test, such as ten crops.
    """

    runs: Positional[Annotated[Paths, tyro.conf.arg(metavar="RUN...")]]
    """Folders of the runs."""
    data: str = ""
    """Prepared store: a folder or a URL; the one that the runs were trained on when not given."""
    split: str = ""
    """Split to test on; the run's validation split when not given."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: bool = False
    """Print JSON, with the confusion matrix."""


def evaluate(arguments: list[str]) -> None:
    """Run `alexnet evaluate`."""
    a = parse(EvaluateArguments, "evaluate", arguments)
    from alexnet import evaluation
    from alexnet.data.classes import short_names
    from alexnet.data.store import Store

    data = a.data or evaluation.common_store(a.runs)
    if not a.data:
        # On stderr, so that --json can be piped.
        print(f"tested on {data}, the store of the training", file=sys.stderr)
    results = evaluation.evaluate(a.runs, data, a.split, a.device)
    if a.json:
        print(json.dumps([result.to_dict() for result in results]))
        return
    for r in results:
        top5 = "" if r.top5_error is None else f", top-5 {r.top5_error:.2%}"
        name = "centre crop" if r.patches == 1 else f"{r.patches} crops"
        print(
            f"{name}: top-1 error {r.top1_error:.2%}{top5}, loss {r.loss:.4f} ({r.images} images)"
        )
    store = Store(data)
    # The table of more than 20 classes does not fit on a terminal.
    if len(store.classes) <= 20:
        names = short_names(store.classes, store.words)
        print(confusion_table(results[-1].confusion, names, results[-1].class_errors))


def confusion_table(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], errors: Sequence[float | None]
) -> str:
    """The confusion matrix as text: true classes in rows, predicted classes in columns."""
    width = max(map(len, classes))
    lines = [
        "",
        " " * width + "   error  predicted " + " ".join(f"{i:>4}" for i in range(len(classes))),
    ]
    for i, (name, row, error) in enumerate(zip(classes, confusion, errors, strict=True)):
        share = "     -" if error is None else f"{error:6.1%}"
        # Zeros are shown as dots, so that the confusions stand out.
        lines.append(f"{name:>{width}}  {share}  {i:>9} " + " ".join(f"{n or '.':>4}" for n in row))
    return "\n".join(lines)
