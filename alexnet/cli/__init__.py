"""The command line: one function for each verb.

Arguments are parsed here and nowhere else. A verb imports PyTorch only after its arguments have
been parsed, so that help texts and mistakes appear at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import keyword
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn, get_args

# Before the imports that fail there, of the modules `fcntl` and `resource`.
if sys.platform == "win32":
    sys.exit("alexnet: Windows lacks what this program needs; run it in WSL, on Linux or on macOS")

from alexnet.data.storage import StoreLost
from alexnet.distributed.restart import launched
from alexnet.errors import AlexNetError, nearest_name, unknown
from alexnet.files import UNREACHABLE
from alexnet.program import command
from alexnet.terminal import discard, entry, printable, wrapped

VERBS = (
    "demo",
    "prepare",
    "look",
    "train",
    "evaluate",
    "predict",
    "explain",
    "explore",
    "features",
    "figure",
    "report",
    "summary",
    "export",
    "which",
    "import",
    "golden",
    "check",
    "reproduce",
)
"""Each is a function of the same name in the module of the same name; `import_` for the keyword."""

# Errors of the system that the user can mend, and how. Others are bugs until proven otherwise.
DISK_ERRORS = {
    errno.ENOSPC: "make room on this disk and run the command again",
    errno.EDQUOT: "your quota of this disk is used up; make room and run the command again",
    errno.EFBIG: "the disk or `ulimit -f` does not allow files of this size",
    errno.ENOENT: "check the name",
    errno.EACCES: "change its permissions or choose another path",
    errno.EPERM: "change its permissions or choose another path",
    errno.EROFS: "this disk cannot be written; choose another folder",
    errno.EIO: "check this disk, or try again if it is remote; restore a file that fails again",
    errno.EMFILE: "allow more open files with `ulimit -n`",
    errno.ENFILE: "the system has too many open files; close other programs",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "a part of this path is a file, or a link that leads nowhere",
    errno.ENOTDIR: "a part of this path is a file and not a folder",
    errno.EISDIR: "this is a folder and not a file",
    errno.ELOOP: "this path has a loop of symbolic links",
    **dict.fromkeys(UNREACHABLE, "the file system did not answer; try again"),
}

HELP = (
    ("demo", "the whole system in minutes, on a built-in data set"),
    (
        "prepare SOURCE STORE",
        "make a store from image folders, the ImageNet archives, Parquet, WebDataset, or a Hugging "
        "Face data set",
    ),
    ("look STORE", "what a store contains: facts, and a figure with images"),
    (
        "train FOLDER",
        "from a folder of images to a tested classifier with its page, in one command",
    ),
    ("train RECIPE --data STORE --out RUN", "train a network (train --help: the recipes)"),
    ("train --resume RUN", "continue an interrupted run"),
    (
        "evaluate RUN... [--data STORE]",
        "top-1 and top-5 error with the center crop and with ten crops; of several runs, the "
        "errors of their ensemble",
    ),
    ("predict RUN IMAGE...", "classes and probabilities of image files and folders"),
    ("explain RUN IMAGE...", "what in an image is evidence for its class"),
    ("explore RUN --out PAGE", "write a page that runs the network in the browser"),
    ("features RUN --data STORE --out FOLDER", "the activations of a layer, as files"),
    (
        "figure KIND RUN...",
        "draw the network, its filters, answers, mistakes, curves, and others (figure --help)",
    ),
    ("report RUN", "write a page about a run: errors, curves, mistakes"),
    ("summary RECIPE", "layer table, also for other programs"),
    ("export RUN FILE", "write the weights, or the network as ONNX, to a file"),
    ("golden RUN IMAGE OUT", "every value of the network, as files"),
    ("which FILE", "which AlexNet a file of weights is"),
    ("import FILE RUN", "a run from another program's weights"),
    ("check", "what this machine has and lacks"),
    ("check STORE|RUN...", "compare files with their checksums"),
    (
        "reproduce [CLAIM...] [--data STORE]",
        "run the paper's claims as experiments; without arguments, list the claims, their cost and "
        "what was measured",
    ),
)
"""What `alexnet --help` lists: a command and what it does."""


def _no_verb(typed: str) -> str:
    """The sentence for a verb that does not exist."""
    from alexnet.cli.figure import Kind

    figure = nearest_name(typed, get_args(Kind))
    if figure and not nearest_name(typed, VERBS):
        return f"there is no verb {typed!r}; it is a figure: {command('figure', figure, 'RUN')}"
    return unknown("verb", typed, VERBS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program `alexnet`.

    The exit code is 2, with one sentence on stderr, for a mistake in the arguments or the data, and
    128 + the signal's number for a run that was stopped.
    """
    # A terminal that is not of UTF-8 must not end a list of predictions at a name that it lacks.
    # None and other streams are those of a program that calls this function.
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")
    with _reader_may_leave():
        _main(list(sys.argv[1:] if arguments is None else arguments) or ["--help"])


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """End without an error where the reader of stdout, such as `head`, has closed the pipe."""
    try:
        try:
            yield
        finally:
            # Python flushes it once more when it exits, and would report the error there. It is
            # None where the caller has closed it.
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError as error:
        discard(sys.stdout)
        # What had already failed keeps its exit code.
        if isinstance(error.__context__, SystemExit):
            raise error.__context__ from None


def _main(arguments: list[str]) -> None:
    verb, *rest = arguments
    if verb in ("-h", "--help", "help"):
        print(_help())
        return
    if verb == "--version":
        from alexnet.provenance import VERSION

        print(f"alexnet {VERSION}")
        return
    if verb == "--completion":
        from alexnet.cli import completion

        try:
            print(completion.script(rest, VERBS), end="")
        except AlexNetError as error:
            _fail(str(error))
        return
    if verb not in VERBS:
        _fail(_no_verb(verb))
    with launched():
        _run(verb, rest)


def _run(verb: str, arguments: list[str]) -> None:
    """Run a verb; an error that the user can mend becomes one sentence and exit code 2."""
    try:
        function_of(verb)(arguments)
    except AlexNetError as error:
        _fail(str(error))
    except StoreLost as error:
        print(f"alexnet: {error}", file=sys.stderr, flush=True)
        # Not sys.exit, which joins the threads that decode: they may wait for the store for ever.
        os._exit(2)
    except KeyboardInterrupt as stopped:
        notes = getattr(stopped, "__notes__", [])
        if _continues(verb, arguments):
            notes = ["the same command continues"]
        print("; ".join(["stopped", *notes]), file=sys.stderr)
        # Ctrl-C has no number, and is SIGINT; a verb that ends itself on another signal names it.
        sys.exit(128 + (stopped.args[0] if stopped.args else signal.SIGINT))
    except BrokenPipeError:
        raise  # `main` knows what it means
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            path = f"{error.filename}: " if error.filename is not None else ""
            _fail(f"{path}{error.strerror}; {DISK_ERRORS[error.errno]}")
        # One without a number of the system, as of a remote store.
        if isinstance(error, FileNotFoundError | PermissionError):
            _fail(str(error))
        if isinstance(error, ImportError):
            from alexnet import requirements

            if wrong := requirements.unmet():
                _fail(f"packages are too old or missing: {requirements.mend(wrong)}")
        # Any other error is a fault of this program: its traceback must reach the bug report.
        print("alexnet: this is a bug of the program; please report it:", file=sys.stderr)
        raise


def _continues(verb: str, arguments: list[str]) -> bool:
    """Whether a verb that was stopped goes on when it is called again.

    `train` says so itself, but not before its first checkpoint.
    """
    if verb == "train":
        from alexnet.cli.train import is_folder

        return bool(arguments) and is_folder(arguments[0])
    if verb == "reproduce":
        # Without a store it only prints.
        return any(word.split("=")[0] == "--data" for word in arguments)
    forced = any(word.split("=")[0] == "--force" for word in arguments)
    return verb in ("demo", "prepare") and not forced


def function_of(verb: str) -> Callable[[list[str]], None]:
    """Import the function of a verb, which takes the arguments after it.

    Only this verb is imported, because the parser of arguments alone takes 60 ms.
    """
    name = f"{verb}_" if keyword.iskeyword(verb) else verb
    function: Callable[[list[str]], None]
    function = getattr(importlib.import_module(f"alexnet.cli.{name}"), name)
    return function


def _help() -> str:
    lines = [
        f"usage: {command('VERB')} ...",
        "",
        *wrapped("AlexNet, the network of 2012, from image archives to the figures of the paper."),
        "",
    ]
    for form, text in HELP:
        lines += entry(form, text, 40)
    return "\n".join([*lines, "", *wrapped(f"The options of a verb: {command('VERB')} --help")])


def _fail(sentence: str) -> NoReturn:
    # It may name files of a source, and a terminal obeys what their names may contain.
    lines = map(printable, sentence.split("\n"))
    print("alexnet: " + "\n".join(lines), file=sys.stderr)
    sys.exit(2)
