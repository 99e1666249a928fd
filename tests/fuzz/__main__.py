"""Run the hostile campaign and print its table: `python -m tests.fuzz`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import torch

from tests.fuzz import kills
from tests.fuzz.campaign import OUTCOMES, Tally, damaged, run
from tests.fuzz.readers import READERS, Reader

INPUTS = 60_000
KILLS = 100


def main() -> int:
    """Return 1 if the program has any of the faults, else 0."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=INPUTS, help="number of damaged inputs")
    parser.add_argument("--kills", type=int, default=KILLS, help="number of killed processes")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other inputs")
    parser.add_argument("--only", default="", help="word in the names of the readers")
    parser.add_argument("--input", type=int, help="read this one input, and keep its files")
    a = parser.parse_args()
    torch.set_num_threads(1)  # the processes of the campaign share the cores
    chosen = [reader for reader in READERS if a.only in reader.name]
    if not chosen and a.only != "kills":
        parser.error(f"no reader is called {a.only!r}: {', '.join(r.name for r in READERS)}")
    with tempfile.TemporaryDirectory() as folder:
        if a.input is not None:
            return _one(chosen[0], a.seed, a.input, Path(folder))
        tallies = _all(chosen, a.inputs, a.seed, Path(folder)) if chosen else []
        _print(tallies)
        lines = kills.campaign(a.kills, a.seed, Path(folder)) if a.only in ("", "kills") else []
    print("\n".join(lines))
    is_faulty = any(tally.faults for tally in tallies) or any("not" in line for line in lines)
    return 1 if is_faulty else 0


def _all(chosen: list[Reader], inputs: int, seed: int, folder: Path) -> list[Tally]:
    tallies, began_s = [], time.perf_counter()
    whole = sum(reader.share for reader in chosen)
    for number, reader in enumerate(chosen):
        place = folder / f"reader-{number}"
        (place / "pristine").mkdir(parents=True)
        reader.make(place / "pristine")
        count = max(1, round(inputs * reader.share / whole))
        tallies.append(run(reader, seed, count, place, os.cpu_count() or 1))
        shutil.rmtree(place)
        spent_s = time.perf_counter() - began_s
        print(f"{spent_s:6.0f} s  {reader.name}: {dict(tallies[-1].outcomes)}", file=sys.stderr)
    return tallies


def _print(tallies: list[Tally]) -> None:
    """Print a row for each group of readers, then an example of each kind of fault."""
    rows: dict[str, Counter[str]] = {}
    for tally in tallies:
        # The formats of images share a row: their names are "image: FORMAT".
        rows.setdefault(tally.reader.split(":")[0], Counter()).update(tally.outcomes)
    rows["all"] = sum(rows.values(), Counter())
    print(f"| reader | inputs | {' | '.join(OUTCOMES)} |")
    print(f"|---|{'---|' * (len(OUTCOMES) + 1)}")
    for name, outcomes in rows.items():
        counts = " | ".join(str(outcomes[outcome]) for outcome in OUTCOMES)
        print(f"| {name} | {outcomes.total()} | {counts} |")
    for tally in tallies:
        for kind, (number, detail) in sorted(tally.examples.items()):
            print(f"\n{tally.reader}, input {number}, {kind.split(':')[0]}: {detail}")


def _one(reader: Reader, seed: int, number: int, folder: Path) -> int:
    """Read one input in this process, and show what happens."""
    (folder / "pristine").mkdir()
    reader.make(folder / "pristine")
    kept = Path(tempfile.mkdtemp(prefix="fuzz-"))
    name = damaged(reader, seed, number, folder / "pristine", kept / "input")
    print(f"{reader.name}, input {number}: {kept / 'input'} with {name} damaged")
    try:
        print(f"read: {reader.read(kept / 'input')}")
        print(f"undamaged: {reader.read(folder / 'pristine')}")
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
