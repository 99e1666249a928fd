"""`alexnet evaluate`"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Paths, parse
from alexnet.errors import AlexNetError
from alexnet.program import command
from alexnet.terminal import printable, wrapped

if TYPE_CHECKING:
    from alexnet.data.store import Store
    from alexnet.evaluation import Result


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
    from alexnet.data.store import Store

    data = a.data or evaluation.common_store(a.runs)
    if not a.data:
        # On stderr, so that --json can be piped.
        print(printable(f"tested on {data}, the store of the training"), file=sys.stderr)
    if len(a.runs) > 1:
        text = f"the ensemble of {len(a.runs)} runs: their probabilities are averaged"
        print(f"{text}; for the errors of one, evaluate it alone", file=sys.stderr)
    if not a.json and (len(a.runs) > 1 or any(run.is_file() for run in a.runs)):
        # Before the test, which may take hours.
        keeping = f"{command('evaluate', *arguments, '--json')} > FILE"
        of = "an ensemble" if len(a.runs) > 1 else "a single file"
        text = f"the errors of {of} are kept nowhere; to keep them in a file"
        print(printable(f"{text}: {keeping}"), file=sys.stderr)
    # Opened before the test, which may take an hour: what is measured is kept under its checksum.
    store = Store(data)
    of_others = bool(a.data) and not a.split and not _trained_on(a.runs, store)
    results = evaluation.evaluate(a.runs, data, a.split, a.device)
    if a.json:
        print(json.dumps([result.to_dict() for result in results]))
    else:
        _print(results, store)
    if of_others:
        _say_part(store, results[0].images)
    # Printed first: keeping the results may fail.
    if len(a.runs) == 1 and a.runs[0].is_dir():
        _keep(a.runs[0], store, a.split, results)


def _print(results: Sequence[Result], store: Store) -> None:
    """Print the errors, and the confusion matrix where there are few classes."""
    from alexnet import evaluation
    from alexnet.data.classes import short_names

    for r in results:
        top5 = f", top-5 {r.top5_error:.2%}" if evaluation.says_top5(r) else ""
        print(
            f"{evaluation.crops_name(r)}: top-1 error {r.top1_error:.2%}{top5}, "
            f"loss {r.loss:.4f} ({r.images} images)"
        )
    # A thousand lines of classes are no table; --json has all of them.
    if len(store.classes) <= 20:
        names = list(map(printable, short_names(store.classes, store.words)))
        print(confusion_table(results[-1].confusion, names, results[-1].class_errors))


def _trained_on(runs: Sequence[Path], store: Store) -> bool:
    """Whether one of the runs was trained on a store, or on another one of its name.

    Raises:
        RunError, ConfigError: A run cannot be read.
    """
    from alexnet.checkpoint import read

    # By its checksum, since it may have been moved, and by its name, since one that was prepared
    # anew has images of the training, too. Both are in the header, also of a single file.
    # An imported run names none: "" would be the current folder.
    return any(
        saved.about["store"] == store.checksum
        or (saved.config.data and abspath(saved.config.data) == abspath(store.name))
        for saved in map(read, runs)
    )


def _say_part(store: Store, tested: int) -> None:
    """Say on stderr that most images of a store were not tested, where no run has seen them.

    `prepare` holds out a tenth of the images of a folder, also where all of them are for a test.
    """
    counts = {name: store.num_images(name) for name in store.manifest["splits"]}
    if 2 * tested >= sum(counts.values()):
        return
    splits = ", ".join(f"{name} ({count:,})" for name, count in counts.items())
    text = f"tested on {tested:,} of the {sum(counts.values()):,} images of {store.name}"
    print(printable(f"{text}; --split names another of its splits: {splits}"), file=sys.stderr)


def _keep(run: Path, store: Store, split: str, results: Sequence[Result]) -> None:
    """Write the errors to the card of the run, where that can be written."""
    from alexnet.card import add_evaluation, warn_not_written
    from alexnet.checkpoint import read_config

    try:
        split = split or read_config(run).val_split
        add_evaluation(run, store.name, store.checksum, split, results)
    except (OSError, AlexNetError) as error:
        # A run of someone else, on a full disk, or with a damaged file can be tested as well.
        warn_not_written(run, error)


def confusion_table(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], errors: Sequence[float | None]
) -> str:
    """The confusion matrix as text: true classes in rows, predicted classes in columns.

    Where the terminal is too narrow for it, each class has a line with its error and the three
    classes that it is most often taken for.
    """
    width = max(map(len, classes))
    digits = max(len(str(n)) for row in confusion for n in (*row, len(classes)))
    numbers = " ".join(f"{i:>{digits}}" for i in range(len(classes)))
    matrix = f"{'':>{width}}   error  predicted {numbers}"
    fits = len(matrix) <= shutil.get_terminal_size().columns
    lines = ["", matrix if fits else f"{'':>{width}}   error  most often taken for"]
    for i, (name, row, error) in enumerate(zip(classes, confusion, errors, strict=True)):
        share = "     -" if error is None else f"{error:6.1%}"
        if fits:
            # Zeros are shown as dots, so that the confusions stand out.
            cells = f"{i:>9} " + " ".join(f"{n or '.':>{digits}}" for n in row)
        else:
            wrong = sorted(((n, j) for j, n in enumerate(row) if n and j != i), reverse=True)
            cells = ", ".join(f"{classes[j]} {n}" for n, j in wrong[:3]) or "-"
        head = f"{name:>{width}}  {share}  "
        lines += [head + cells] if fits else wrapped(cells, head, " " * len(head))
    return "\n".join(lines)
