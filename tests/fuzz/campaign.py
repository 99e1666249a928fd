"""Runs damaged inputs through a reader, each under a time limit, and counts what happens.

An input has one of these outcomes:

- same: read, and the content is that of the undamaged file;
- accepted: read as another content, where the format has no checksum and nothing is missing;
- clear: refused with one sentence that names the file, or the store or source that it is a part of
  (what is wrong with a table may show at an image: "IMAGE has the label ..., which ...");
- unclear: refused with a sentence that names neither, or that has several lines;
- silent: read as another content although a checksum covers the file, or with images missing;
- traceback: an exception that the command line does not turn into a sentence;
- hang: no end within the time limit;
- crash: the process died.

The last five but `unclear` are faults of the program; `unclear` is one of its language.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import resource
import shutil
import signal
import threading
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

from alexnet.data.storage import StoreLost
from alexnet.errors import AlexNetError
from tests.fuzz.readers import Content, Reader

OUTCOMES = "same", "accepted", "clear", "unclear", "silent", "traceback", "hang", "crash"
FAULTS = "silent", "traceback", "hang", "crash"
LIMIT_S = 20  # for one input; reading an undamaged one takes milliseconds
# Memory for one process beyond what it has at its start, so that a bomb is an error and not a swap.
LIMIT_BYTES = 3 << 30
FORKING = threading.Lock()
SENTENCE = 700  # characters; a longer message is not one sentence
# The errors that the command line turns into a sentence (`cli.main`).
REFUSALS = AlexNetError, StoreLost, FileNotFoundError, PermissionError


class Hang(BaseException):
    """The time limit has passed. Not an Exception, so that no reader catches it."""


@dataclass
class Tally:
    """The outcomes of one reader, and the first inputs of each kind of fault."""

    reader: str
    outcomes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, number: int, outcome: str, detail: str) -> None:
        self.outcomes[outcome] += 1
        if outcome in (*FAULTS, "unclear"):
            # One example for each message, without the numbers in it.
            kind = f"{outcome}: {''.join(c for c in detail if not c.isdigit())[:120]}"
            self.examples.setdefault(kind, (number, detail))

    @property
    def faults(self) -> int:
        return sum(self.outcomes[outcome] for outcome in FAULTS)


def damaged(reader: Reader, seed: int, number: int, pristine: Path, folder: Path) -> str:
    """Make the folder of one input; return the names of the damaged files."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(pristine, folder)
    rng = random.Random(f"{reader.name} {seed} {number}")
    path = folder / rng.choice(reader.damaged)
    reader.damage(path, rng)
    return path.name


def judge(
    reader: Reader, seed: int, number: int, truth: Content, pristine: Path, folder: Path
) -> tuple[str, str]:
    """Read one input; return its outcome, and the message or the last lines of the traceback."""
    name = damaged(reader, seed, number, pristine, folder)
    try:
        content = reader.read(folder)
    except REFUSALS as error:
        message = str(error)
        # The folder is the beginning of the path of a store or a source, and of any file in it.
        named = not reader.names_file or name in message or folder.name in message
        is_sentence = "\n" not in message and len(message) <= SENTENCE
        return ("clear" if named and is_sentence else "unclear"), message[:SENTENCE]
    except Hang:
        return "hang", f"no end within {LIMIT_S} s"
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{error!r:.300} at {Path(place.filename).name}:{place.lineno}"
    if content == truth:
        return "same", ""
    # Images that a note accounts for are not lost without a word.
    if reader.has_checksum or (content.items < truth.items and content.notes == truth.notes):
        return "silent", f"{content} in place of {truth}"
    return "accepted", ""


def _work(
    reader: Reader,
    seed: int,
    numbers: Sequence[int],
    truth: Content,
    pristine: Path,
    to: Connection,
) -> None:
    """Judge inputs in a process of its own, and send each outcome."""

    def limit(signum: int, frame: FrameType | None) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, limit)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, resource.RLIM_INFINITY))
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)  # warnings of decoders, by the thousand
    folder = pristine.with_name(f"input-{os.getpid()}")
    for number in numbers:
        signal.alarm(LIMIT_S)
        outcome = judge(reader, seed, number, truth, pristine, folder)
        signal.alarm(0)
        to.send((number, *outcome))
    shutil.rmtree(folder, ignore_errors=True)


def outcomes(
    reader: Reader, seed: int, numbers: Sequence[int], truth: Content, pristine: Path
) -> Iterator[tuple[int, str, str]]:
    """Yield the outcome of each input. A process that dies is replaced by another."""
    context = multiprocessing.get_context("fork")
    while numbers:
        # One thread after the other: a process that is forked between these lines of another thread
        # would keep its pipe open, and filelock, which `datasets` imports, refuses two at a time.
        with FORKING:
            receiver, sender = context.Pipe(duplex=False)
            arguments = reader, seed, numbers, truth, pristine, sender
            process = context.Process(target=_work, args=arguments)
            process.start()
            sender.close()
        done = 0
        try:
            while done < len(numbers):
                yield receiver.recv()
                done += 1
        except EOFError:
            process.join()
            yield numbers[done], "crash", f"the process ended with exit code {process.exitcode}"
            done += 1
        process.join()
        numbers = numbers[done:]


def run(reader: Reader, seed: int, inputs: int, folder: Path, processes: int) -> Tally:
    """Judge `inputs` inputs of one reader, on several processes."""
    pristine = folder / "pristine"
    truth, tally = reader.read(pristine), Tally(reader.name)
    chunks = [range(inputs)[start::processes] for start in range(processes)]
    with ThreadPoolExecutor(processes) as pool:
        results = list(
            pool.map(lambda chunk: list(outcomes(reader, seed, chunk, truth, pristine)), chunks)
        )
    for result in itertools.chain(*results):
        if result[1] == "hang":
            # Judged a second time, alone: other processes may have taken the time.
            (result,) = outcomes(reader, seed, result[:1], truth, pristine)
        tally.add(*result)
    return tally
