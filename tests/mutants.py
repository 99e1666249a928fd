"""Mutation testing: change one thing in the code and check that a test fails (`make mutants`).

Each row of the ledger `docs/paper.md` names the tests that cover it, and `mutant_table.py` has at
least one mutant for each row: a changed constant, order, sign or flag. The tests of the row must
fail on it. If they pass, the sentence of the paper is not covered by any test.

    python -m tests.mutants                all mutants, each in a copy of the tree
    python -m tests.mutants LRN dropout    mutants whose row or change contains one of the words
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
    """A sentence of the ledger with the code that implements it and the tests that cover it."""

    sentence: str
    code: tuple[str, ...]
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    """A change of one place in alexnet/`file`; `row` is the beginning of the sentence."""

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
    """The rows of the tables in the ledger."""
    rows_of_ledger = []
    for line in LEDGER.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and cells[1:] != ["code", "test"]:
            code, tests = (tuple(re.findall(r"`([^`]+)`", cell)) for cell in cells[1:])
            rows_of_ledger.append(Row(cells[0], code, tests))
    return rows_of_ledger


def row_of(mutant: Mutant) -> Row:
    """The row that a mutant belongs to. Raises ValueError unless exactly one row matches."""
    matching = [row for row in rows() if row.sentence.startswith(mutant.row)]
    if len(matching) != 1:
        raise ValueError(f"{len(matching)} rows of {LEDGER.name} begin with {mutant.row!r}")
    return matching[0]


def node_ids(names: Sequence[str]) -> list[str]:
    """`tests/FILE.py::NAME` for each test.

    Raises ValueError for a test that does not exist, and for a name that two files have.
    """
    files: dict[str, str] = {}
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE):
            file = f"tests/{path.name}"
            if files.setdefault(name, file) != file:
                raise ValueError(f"{files[name]} and {file} both have a test named {name}")
    ids = []
    for name in names:
        function = name.split("[")[0]
        if function not in files:
            raise ValueError(f"no test is named {function}")
        ids.append(f"{files[function]}::{name}")
    return ids


def apply(mutant: Mutant, root: Path) -> None:
    """Change the tree at `root`. Raises ValueError unless `old` occurs exactly once."""
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
    """Run tests of the tree at `root` and return the exit code; the output goes to `report`."""
    os.chdir(root)
    sys.path.insert(0, str(root))
    for name in [name for name in sys.modules if name.split(".")[0] in ("alexnet", "tests")]:
        del sys.modules[name]
    import pytest

    # Plain assertions: rewriting them gives a warning for modules imported before the fork.
    options = ["-x", "-q", "--assert=plain", "-p", "no:cacheprovider"]
    options += ["--basetemp", str(root.parent / "temp")]
    with (
        report.open("w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        return int(pytest.main([*options, *ids]))


def judge(mutant: Mutant | None, names: Sequence[str], pipe: Connection) -> None:
    """Send the outcome of these tests on a mutant: killed, survived, or an error.

    None stands for no change. Runs in a separate process, so that the changed package is imported
    only there.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = copy_of_the_tree(Path(folder))
        if mutant is not None:
            apply(mutant, root)
        report = Path(folder) / "report"
        code = run_tests(root, node_ids(names), report)
        outcome = {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}")
        pipe.send(outcome if mutant else f"{outcome}\n{report.read_text()}")


def verdict(mutant: Mutant | None, names: Sequence[str]) -> tuple[Mutant | None, str, float]:
    """The verdict of these tests on a mutant, and the seconds it took."""
    began_s = time.perf_counter()
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=judge, args=(mutant, names, sender))
    process.start()
    sender.close()
    try:
        outcome = receiver.recv()
    except EOFError:
        outcome = "the process died"
    process.join()
    return mutant, outcome, time.perf_counter() - began_s


def examine(chosen: Sequence[Mutant]) -> Iterator[tuple[Mutant, str, float]]:
    """Yield the verdict of each mutant as it is known, using all cores.

    PyTorch is imported once, before the forks, so that no mutant has to import it again.
    """
    import datasets  # noqa: F401
    import torch  # noqa: F401

    os.environ["OMP_NUM_THREADS"] = "1"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = [pool.submit(verdict, mutant, row_of(mutant).tests) for mutant in chosen]
        for future in as_completed(verdicts):
            yield future.result()  # type: ignore[misc]


def main(words: Sequence[str]) -> int:
    chosen = [m for m in mutants() if not words or any(w.lower() in str(m).lower() for w in words)]
    if not chosen:
        print(f"no mutant has {' or '.join(words)} in its name", file=sys.stderr)
        return 2
    # A test that fails in any case kills every mutant of its row.
    names = sorted({name for row in map(row_of, chosen) for name in row.tests})
    print("the tests without a change:", end=" ", flush=True)
    _, outcome, seconds = verdict(None, names)
    passed = outcome.startswith("survived")
    print(f"{'pass' if passed else outcome} ({seconds:.0f} s)", flush=True)
    if not passed:
        return 1
    began_s = time.perf_counter()
    surviving: list[Mutant] = []
    for number, (mutant, outcome, seconds) in enumerate(examine(chosen), 1):
        left_min = (time.perf_counter() - began_s) / number * (len(chosen) - number) / 60
        print(
            f"{number}/{len(chosen)} {outcome} ({seconds:.0f} s) {mutant}; {left_min:.0f} min left",
            flush=True,
        )
        if outcome != "killed":
            surviving.append(mutant)
    print(f"\n{len(chosen) - len(surviving)} of {len(chosen)} mutants killed")
    for mutant in surviving:
        print(f"  not killed: {mutant}")
    return 1 if surviving else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
