"""`alexnet demo`"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from alexnet.cli.arguments import on_disk, parse, stoppable
from alexnet.program import command


@dataclass(frozen=True)
class DemoArguments:
    """Run the whole system in minutes: make a data set, prepare it, train, test, draw figures."""

    out: Path = Path("demo")
    """Folder of all output."""
    train: int = 3000
    """Number of training images."""
    val: int = 500
    """Number of test images."""
    epochs: int = 0
    """Number of epochs; 0: the number in the recipe."""
    force: bool = False
    """Remove an earlier demo and make a new one."""


def demo(arguments: list[str]) -> None:
    """Run `alexnet demo`."""
    a = parse(DemoArguments, "demo", arguments)
    from alexnet import demo as steps

    wanted = {"out": a.out, "train": a.train, "val": a.val, "epochs": a.epochs}
    defaults = DemoArguments()
    # Without --force, which would begin again.
    options = [
        (f"--{name}", value) for name, value in wanted.items() if value != getattr(defaults, name)
    ]
    with stoppable(command("demo", *itertools.chain(*options))):
        print(steps.report(steps.demo(on_disk(a.out), a.train, a.val, a.epochs, a.force), a.out))
