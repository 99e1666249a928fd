"""`python -m conformance FRAMEWORK`: compare a framework's normalization with the vectors.

python -m conformance torch            # a line for each case; exit code 1 if one fails or all raise
python -m conformance torch --write    # and keep the result in conformance/results
python -m conformance table            # the kept results as a table
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.adapters import FRAMEWORKS, Adapter
from conformance.cases import CASES, FOLDER, Case, Damaged, load

RESULTS = FOLDER / "results"
ROUNDOFF = {"float32": 2.0**-24, "bfloat16": 2.0**-9}
ROUNDINGS = {"forward": 16, "gradient": 32}
"""Tolerance in units of the roundoff, relative to the largest value.

An implementation that rounds after every operation squares, adds up to nine squares, multiplies,
adds, raises to a power and multiplies: 14 roundings. The gradient has two such chains. A window
that is wrong by one map is off by more than twice the tolerance of bfloat16 (a test checks it)."""

Array = NDArray[Any]
Outcome = dict[str, Any]
"""The verdict, the error relative to the largest value (or None), and a reason.

The verdict is pass, FAIL, error (the framework raised one) or none (it has no gradients)."""


def by_columns(function: Callable[..., Array], case: Case, *arrays: Array) -> Array:
    """Call a function that knows no columns once for each column."""
    one = replace(case, columns=1)
    parts = zip(*(np.split(array, case.columns, axis=1) for array in arrays), strict=True)
    results = [function(*map(np.ascontiguousarray, part), one) for part in parts]
    return np.concatenate(results, axis=1)


def compare(got: Array, want: Array, what: str, dtype: str) -> Outcome:
    """The largest error of a result, relative to the largest value, and the verdict."""
    if got.shape != want.shape:
        return {"verdict": "FAIL", "error": None, "reason": f"shape {got.shape}"}
    error = float(np.abs(got.astype(np.float64) - want).max() / np.abs(want).max())
    # Not `error > tolerance`: an error that is not a number fails, too.
    passed = error <= ROUNDINGS[what] * ROUNDOFF[dtype]
    return {"verdict": "pass" if passed else "FAIL", "error": error if error == error else None}


def outcome(adapter: Adapter, case: Case, what: str, dtype: str) -> Outcome:
    """Run one case forward or backward; of several readings, take the one that fits best."""
    if what == "gradient" and adapter.gradient is None:
        return {"verdict": "none", "error": None, "reason": "no gradients"}
    arrays = load(case)
    names = ("x",) if what == "forward" else ("x", "dy")
    inputs = [arrays[name].astype(np.float32) for name in names]

    def run(*parts: Any) -> Array:
        *values, settings = parts
        if what == "forward":
            return adapter.forward(*values, settings, dtype)
        assert adapter.gradient is not None
        return adapter.gradient(*values, settings, dtype)

    # A framework may raise anything for what it does not offer; that is a result, not an error.
    try:
        got = run(*inputs, case) if adapter.columns else by_columns(run, case, *inputs)
    except Exception as error:
        return {"verdict": "error", "error": None, "reason": first_line(error)}
    key = "y" if what == "forward" else "dx"
    best: Outcome = {}
    for reading in case.readings:
        result = compare(got, arrays[f"{key}_{reading}" if reading else key], what, dtype)
        if reading:
            result["reading"] = reading
        if not best or _error_of(result) < _error_of(best):
            best = result
    return best


def _error_of(result: dict[str, Any]) -> float:
    """The error of a comparison; infinite where there is nothing to compare."""
    return np.inf if result["error"] is None else float(result["error"])


def first_line(error: Exception) -> str:
    """The name of an error and the beginning of its message, without paths and addresses."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m|/\S+/", "", str(error)).split())
    return f"{type(error).__name__}: {text}"[:160]


def results_of(name: str) -> dict[str, Any]:
    """All outcomes of a framework.

    Raises:
        ImportError: The framework is not installed.
    """
    adapter = FRAMEWORKS[name][0]()
    outcomes = {
        case.name: {
            dtype: {what: outcome(adapter, case, what, dtype) for what in ROUNDINGS}
            for dtype in ROUNDOFF
        }
        for case in CASES
    }
    return {"framework": name, "version": adapter.version, "cases": outcomes}


def cell(result: Outcome) -> str:
    """An outcome in a few letters."""
    if result["verdict"] == "none":
        return "-"
    if result["verdict"] == "error":
        return "error"
    error = "" if result["error"] is None else f" {result['error']:.0e}"
    reading = f" ({result['reading']})" if "reading" in result else ""
    return f"{result['verdict']}{error}{reading if result['verdict'] == 'pass' else ''}"


def lines_of(results: dict[str, Any]) -> list[str]:
    """The outcomes of one framework as lines for a terminal."""
    head = f"{'case':<15}{'float32':<21}{'gradient':<21}{'bfloat16':<21}gradient"
    lines = [f"{results['framework']} {results['version']}", head]
    reasons: dict[str, str] = {}
    for name, by_dtype in results["cases"].items():
        each = [by_dtype[dtype][what] for dtype in ROUNDOFF for what in ROUNDINGS]
        lines.append(f"{name:<15}" + "".join(f"{cell(result):<21}" for result in each).rstrip())
        for result in each:
            if result["verdict"] == "error":
                # One line for each kind of error, of the first case that has it.
                reasons.setdefault(
                    result["reason"].partition(":")[0], f"{name}: {result['reason']}"
                )
    return [*lines, *(f"error: {reason}" for reason in reasons.values())]


def table() -> str:
    """The kept results as two Markdown tables, float32 and bfloat16, a column for each framework.

    A cell has the forward pass and the gradient.
    """
    kept = [json.loads((RESULTS / f"{name}.json").read_text()) for name in FRAMEWORKS]
    names = [f"{each['framework']} {each['version']}" for each in kept]
    parts = []
    for dtype in ROUNDOFF:
        lines = [f"| {dtype} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for case in CASES:
            pairs = [each["cases"][case.name][dtype] for each in kept]
            cells = [_pair(pair["forward"], pair["gradient"]) for pair in pairs]
            lines.append(f"| {case.name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _pair(forward: Outcome, gradient: Outcome) -> str:
    """The cells of the forward pass and the gradient as one, in which a number alone has passed."""
    texts = [cell(result).removeprefix("pass ") for result in (forward, gradient)]
    shown = dict.fromkeys(text.replace("FAIL", "**FAIL**") for text in texts if text != "-")
    return ", ".join(shown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a framework and print its lines; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("framework", help=f"{', '.join(FRAMEWORKS)}, or table")
    parser.add_argument("--write", action="store_true", help="keep the result")
    a = parser.parse_args(arguments)
    if a.framework == "table":
        print(table())
        return 0
    if a.framework not in FRAMEWORKS:
        names = ", ".join(FRAMEWORKS)
        print(f"there is no framework {a.framework!r}; they are {names}", file=sys.stderr)
        return 2
    try:
        results = results_of(a.framework)
    except Damaged as error:
        print(error, file=sys.stderr)
        return 2
    except ImportError as error:
        packages = FRAMEWORKS[a.framework][1]
        print(
            f"{a.framework} is not installed here ({error.name or error}): "
            f"{sys.executable} -m pip install {packages}",
            file=sys.stderr,
        )
        return 2
    print("\n".join(lines_of(results)))
    verdicts = {
        result["verdict"]
        for by_dtype in results["cases"].values()
        for by_what in by_dtype.values()
        for result in by_what.values()
    }
    if "pass" not in verdicts:
        # Rather the adapter is broken, by a new version of the framework, than every case.
        kept = "; the kept result stays as it is" if a.write else ""
        print(f"{a.framework}: not one case passes{kept}", file=sys.stderr)
        return 1
    if a.write:
        RESULTS.mkdir(exist_ok=True)
        text = json.dumps(results, indent=1) + "\n"
        (RESULTS / f"{a.framework}.json").write_text(text)
    return 1 if "FAIL" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
