"""`alexnet train --resume`"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagConversionOff

from alexnet.cli.arguments import stoppable
from alexnet.cli.help import help_page, names_of, wants_help
from alexnet.cli.mistakes import in_one_sentence
from alexnet.cli.options import understood
from alexnet.distributed.restart import heard_on_each_machine, is_first
from alexnet.program import command


@dataclass(frozen=True)
class ResumeArguments:
    """Continue a run that was interrupted, or lengthen one that is finished.

    Without other options the result has the same bits as an uninterrupted run, on CUDA if the run
    is deterministic. With another number of ranks or threads, or on another processor or GPU, it is
    the same within rounding. A setting that is not given stays as it was.
    """

    resume: Path
    """Folder of the run."""
    columns: int | None = None
    """parallel.columns in this call; not saved."""
    hybrid: bool | None = None
    """parallel.hybrid in this call; not saved."""
    epochs: int | None = None
    """New number of epochs in all, to which the schedule is scaled."""
    lr: Annotated[float | None, tyro.conf.arg(aliases=("--sgd.lr",))] = None
    """New value of sgd.lr, which the schedule divides."""
    device: str | None = None
    """New value of device."""
    data: Annotated[str | None, tyro.conf.arg(metavar="STORE")] = None
    """New folder or URL of the same store."""
    workers: int | None = None
    """New value of workers."""
    timeout_s: Annotated[float | None, tyro.conf.arg(aliases=("--parallel.timeout-s",))] = None
    """New value of parallel.timeout_s."""


def resume(arguments: list[str]) -> None:
    """Run `alexnet train --resume`."""
    if wants_help(arguments):
        print(help_page(ResumeArguments, "train"))
        return
    # The fields of a recipe that are aliases here.
    aliases = {"sgd.lr": False, "parallel.timeout-s": False}
    names = {**names_of(ResumeArguments), **aliases}
    words = understood(arguments, names, "train --resume RUN", values=True)
    with in_one_sentence("train --resume"):
        r = tyro.cli(
            ResumeArguments, prog=command("train"), args=words, config=(FlagConversionOff,)
        )
    from alexnet.checkpoint import read_config
    from alexnet.distributed.mesh import destroy_mesh
    from alexnet.train import start

    changes = {
        name: value for name in ("columns", "hybrid") if (value := getattr(r, name)) is not None
    }
    with stoppable():
        # None is not the same as the saved layout: with None, a single process resumes a run that
        # was saved by several ranks.
        with heard_on_each_machine():
            parallel = replace(read_config(r.resume).parallel, **changes) if changes else None
        start.resume(
            r.resume,
            parallel,
            epochs=r.epochs,
            lr=r.lr,
            device=r.device,
            data=r.data,
            workers=r.workers,
            timeout_s=r.timeout_s,
        )
    destroy_mesh()
    _finish(r.resume)


def _finish(run: Path) -> None:
    """End as `alexnet train FOLDER` does if that began the run, else as a recipe's run does."""
    from alexnet import own_images
    from alexnet.checkpoint import read_config
    from alexnet.distributed.mesh import is_distributed

    store = Path(own_images.store_beside(run)).resolve()
    # With several processes each would write the page.
    if not is_distributed() and Path(read_config(run).data).resolve() == store:
        print(own_images.report(own_images.finish(run), run))
    else:
        print_next(run)


def print_next(run: Path) -> None:
    """Say what can be done with a trained run; of several processes the first one does."""
    if is_first():
        lines = [
            f"test it with its recipe's crops: {command('evaluate', run)}",
            f"make a page about it:            {command('report', run)}",
            f"classify images:                 {command('predict', run, 'IMAGE...')}",
        ]
        print("\n".join(lines))
