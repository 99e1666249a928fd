"""What the verbs share: parsing, recipe names, and the exit codes of a training run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from alexnet import recipes
from alexnet.cli.help import help_page, names_of, wants_help
from alexnet.cli.mistakes import in_one_sentence
from alexnet.cli.options import understood
from alexnet.config import Config
from alexnet.data.storage import as_url, is_url
from alexnet.distributed.restart import remember
from alexnet.errors import AlexNetError, BusyError, unknown
from alexnet.program import command


def _several(item: Callable[[str], Any], metavar: str) -> Any:
    """The type of an argument that takes any number of words; each becomes an `item`.

    tyro checks a value of the type `tuple[str, ...]` with typeguard, whose import takes as long as
    everything else that `--help` does. A plain tuple with a constructor is not checked.
    """
    return Annotated[
        tuple,
        PrimitiveConstructorSpec(
            nargs="*",
            metavar=metavar,
            instance_from_str=lambda words: tuple(map(item, words)),
            is_instance=lambda value: isinstance(value, tuple),
            str_from_instance=lambda value: list(map(str, value)),
        ),
    ]


if TYPE_CHECKING:
    Names = tuple[str, ...]
    Paths = tuple[Path, ...]
else:
    Names = _several(str, "NAME...")
    Paths = _several(Path, "PATH...")


def parse(form: Any, verb: str, arguments: list[str]) -> Any:
    """Parse the arguments of `alexnet VERB` into a dataclass.

    Prints the help and exits if it is asked for. Raises AlexNetError for an option that does not
    exist and for values that do not fit.
    """
    if wants_help(arguments):
        print(help_page(form, verb))
        sys.exit(0)
    words = understood(arguments, names_of(form), verb)
    with in_one_sentence(verb):
        return tyro.cli(
            form,
            prog=command(verb),
            args=words,
            # OmitArgPrefixes: the settings of a store are --size-px, and not --settings.size-px.
            config=(tyro.conf.OmitArgPrefixes,),
        )


def on_disk(path: Path) -> Path:
    """The path of an output. Raises AlexNetError for a URL: all output goes to local folders."""
    if is_url(path):
        raise AlexNetError(f"{as_url(path)} is a URL; write to a folder and copy that there")
    return path


def needs(given: Sequence[object], what: str, *example: object) -> None:
    """Raise AlexNetError if nothing is given, with an example, which the parser's sentence lacks.

    Args:
        what: What has to be named.
        example: A verb and its arguments.
    """
    if not given:
        raise AlexNetError(f"name {what}, for example: {command(*example)}")


def recipe(name: str) -> Config:
    """The configuration of a recipe. Raises AlexNetError for an unknown name."""
    # Not `hasattr`: the module also has names that it imports, such as Conv.
    if name not in recipes.__all__:
        raise AlexNetError(unknown("recipe", name, recipes.__all__))
    return cast(Config, getattr(recipes, name)())


@contextmanager
def stoppable(whole: str = "") -> Iterator[None]:
    """Turn the end of a training run into an exit code.

    The code is 128 + the signal's number for a run that was stopped, and 1 for a loss that is not
    finite or a rank that was lost.

    Args:
        whole: The command that goes on with all that was stopped, where that is more than the run.
    """
    try:
        yield
    except Exception as error:
        # Imported here, since these modules import PyTorch.
        from alexnet.distributed.heartbeat import RankLost
        from alexnet.train.endings import Interrupted, NotFinite

        if isinstance(error, RankLost):
            if error.reports:
                print(f"alexnet: {error}", file=sys.__stderr__, flush=True)
            # torchrun would start the ranks again, and the mistake would be made again.
            mistake = isinstance(error.__cause__, AlexNetError)
            if error.reports and mistake and not isinstance(error.__cause__, BusyError):
                remember(1)
            # Not sys.exit: threads inside a collective operation wait for the lost rank for ever.
            os._exit(1)
        if isinstance(error, Interrupted | NotFinite):
            # A loss that is not finite would come again.
            goes_on = whole and isinstance(error, Interrupted)
            everything = f", or go on with everything by: {whole}" if goes_on else ""
            print(f"alexnet: {error}{everything}", file=sys.stderr)
            sys.exit(128 + error.number if isinstance(error, Interrupted) else 1)
        raise
