"""Does a test notice when the code is wrong? `make mutants` changes one thing at a time and looks.

Each row of the ledger `docs/paper.md` names the tests that hold it. For each row stands here at
least one mutant: a constant, an order, a sign or a flag of the code that is changed. The row's own
tests must fail on it. A mutant that they let live is a sentence of the ledger that nobody holds.

    python -m tests.mutants                all of them, each in a copy of the tree
    python -m tests.mutants LRN dropout    those whose row or change contains one of these words
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from tests.mutant_table import MUTANTS

ROOT = Path(__file__).resolve().parents[1]
LEDGER = ROOT / "docs" / "paper.md"
COPIED = "alexnet", "tests", "docs", "benchmarks", "records", "README.md", "CHANGELOG.md"
COPIED += "pyproject.toml", "Makefile"


@dataclass(frozen=True)
class Row:
    """A sentence of the ledger with the tests that hold it, as pytest is given them."""

    sentence: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    """`old`, which stands once in alexnet/`file`, becomes `new`; row: the beginning of the sentence."""

    row: str
    file: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.row}: {self.old.strip()!r} -> {self.new.strip()!r}"


def mutants() -> list[Mutant]:
    return [
        Mutant(row, file, old, new)
        for row, changes in MUTANTS.items()
        for file, old, new in changes
    ]


def rows() -> list[Row]:
    """The rows of the ledger's tables."""
    found = []
    for line in LEDGER.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and "`" in cells[2]:
            found.append(Row(cells[0], tuple(re.findall(r"`([^`]+)`", cells[2]))))
    return found


def row_of(mutant: Mutant) -> Row:
    """Raises ValueError unless exactly one row begins as the mutant says."""
    named = [row for row in rows() if row.sentence.startswith(mutant.row)]
    if len(named) != 1:
        raise ValueError(f"{len(named)} rows of {LEDGER.name} begin with {mutant.row!r}")
    return named[0]


def node_ids(names: Sequence[str]) -> list[str]:
    """`tests/FILE.py::NAME` of each test. Raises ValueError for one that no file defines."""
    homes: dict[str, str] = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
            homes[name] = f"tests/{path.name}"
    ids = []
    for name in names:
        function = name.split("[")[0]
        if function not in homes:
            raise ValueError(f"no test is named {function}")
        ids.append(f"{homes[function]}::{name}")
    return ids


def apply(mutant: Mutant, root: Path) -> None:
    """Raises ValueError where `old` does not stand exactly once."""
    path = root / "alexnet" / mutant.file
    text = path.read_text()
    if text.count(mutant.old) != 1:
        raise ValueError(
            f"{mutant.file} has {mutant.old!r} {text.count(mutant.old)} times, not once"
        )
    path.write_text(text.replace(mutant.old, mutant.new))


def copy_of_the_tree(folder: Path) -> Path:
    root = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, root / name)
    return root


def run_tests(root: Path, ids: Sequence[str], report: Path) -> int:
    """Pytest's exit code for these tests of the tree at `root`, whose output goes into `report`."""
    os.chdir(root)
    sys.path.insert(0, str(root))
    for name in [name for name in sys.modules if name.split(".")[0] in ("alexnet", "tests")]:
        del sys.modules[name]
    import pytest

    # Assertions are not rewritten: pytest would warn of modules that were imported before the fork.
    options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider"]
    options += ["--basetemp", str(root.parent / "temp")]
    with (
        report.open("w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        return int(pytest.main([*options, *ids]))


def judge(mutant: Mutant | None, answer: Connection) -> None:
    """Send what came of a mutant: killed, survived, or why it is no mutant. None: no change.

    Runs in a process of its own: the changed package is imported there and nowhere else.
    """
    with tempfile.TemporaryDirectory() as place:
        root = copy_of_the_tree(Path(place))
        if mutant is None:
            names = sorted({name for row in map(row_of, mutants()) for name in row.tests})
        else:
            apply(mutant, root)
            names = list(row_of(mutant).tests)
        report = Path(place) / "report"
        code = run_tests(root, node_ids(names), report)
        said = {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}")
        answer.send(said if mutant else f"{said}\n{report.read_text()}")


def verdict(mutant: Mutant | None) -> tuple[Mutant | None, str, float]:
    """The verdict on a mutant and the seconds it took."""
    began_s = time.perf_counter()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=judge, args=(mutant, theirs))
    process.start()
    theirs.close()
    try:
        said = ours.recv()
    except EOFError:
        said = "ended without a word"
    process.join()
    return mutant, said, time.perf_counter() - began_s


def examine(chosen: Sequence[Mutant]) -> Iterator[tuple[Mutant, str, float]]:
    """Each mutant's verdict as it comes, on all cores. PyTorch is imported once, before the forks."""
    import datasets  # noqa: F401
    import torch  # noqa: F401

    os.environ["OMP_NUM_THREADS"] = "1"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for future in as_completed([pool.submit(verdict, mutant) for mutant in chosen]):
            yield future.result()  # type: ignore[misc]


def main(words: Sequence[str]) -> int:
    chosen = [m for m in mutants() if not words or any(w.lower() in str(m).lower() for w in words)]
    if not words:
        print("the tests without a change:", end=" ", flush=True)
        _, said, seconds = verdict(None)
        passed = said.startswith("survived")
        print(f"{'pass' if passed else said} ({seconds:.0f} s)", flush=True)
        if not passed:
            return 1
    began_s = time.perf_counter()
    living: list[Mutant] = []
    for number, (mutant, said, seconds) in enumerate(examine(chosen), 1):
        left_min = (time.perf_counter() - began_s) / number * (len(chosen) - number) / 60
        print(
            f"{number}/{len(chosen)} {said} ({seconds:.0f} s) {mutant}; {left_min:.0f} min left",
            flush=True,
        )
        if said != "killed":
            living.append(mutant)
    print(f"\n{len(chosen) - len(living)} of {len(chosen)} mutants killed")
    for mutant in living:
        print(f"  not killed: {mutant}")
    return 1 if living else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
