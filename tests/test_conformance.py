"""The vectors for local response normalization, and the runner that compares frameworks."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alexnet.ops import compiled
from conformance import adapters, cases
from conformance.__main__ import (
    RESULTS,
    ROUNDINGS,
    ROUNDOFF,
    main,
    outcome,
    results_of,
    table,
)
from conformance.cases import CASES, Array, Case, forward, load, vectors
from tests import reference

ids = [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_files_hold_what_the_script_computes_and_have_the_published_checksums(case: Case) -> None:
    stored = load(case)
    wanted = vectors(case, CASES.index(case))
    assert set(stored) == set(wanted)
    for name, value in wanted.items():
        # Another machine's `pow` may differ in the last bits.
        np.testing.assert_allclose(stored[name], value, rtol=1e-12, atol=1e-300)
    for name in ("x", "dy"):
        assert np.array_equal(stored[name], cases.bfloat16_exact(stored[name]))
    entries = {entry["name"]: entry for entry in json.loads(cases.INDEX.read_text())}
    assert set(entries) == {path.stem for path in cases.VECTORS.iterdir()} == set(ids)
    for key in ("n", "k", "alpha", "beta", "columns", "convention"):
        assert entries[case.name][key] == getattr(case, key)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_formula_is_that_of_the_slow_twin_and_its_gradient_is_the_slope(case: Case) -> None:
    stored = load(case)
    reading = case.readings[0]
    if reading in ("", "both"):
        alpha = case.factor
        slow = reference.lrn(stored["x"], case.n, case.k, alpha, case.beta, case.columns)
        np.testing.assert_allclose(stored["y"], slow, rtol=1e-13)
    random = np.random.default_rng(1)
    direction = random.normal(size=case.shape)
    step = 1e-4
    for reading in case.readings:
        suffix = f"_{reading}" if reading else ""
        above, below = (
            (stored["dy"] * forward(stored["x"] + s * direction, case, reading)[0]).sum()
            for s in (step, -step)
        )
        slope = (stored[f"dx{suffix}"] * direction).sum()
        assert (above - below) / (2 * step) == pytest.approx(slope, rel=1e-6, abs=1e-8)


def over_the_batch(x: Array, case: Case) -> Array:
    return forward(x.swapaxes(0, 1), replace(case, columns=1))[0].swapaxes(0, 1)


def other_window(more: int, reading: str) -> Callable[[Array, Case], Array]:
    """The formula with `more` added to n, whose reading may take one map off a side again."""

    def wrong(x: Array, case: Case) -> Array:
        n = max(1, case.n + more)
        # The factor of the sum stays, so that only the window is another one.
        alpha = case.factor * n if case.convention == "mean" else case.alpha
        return forward(x, replace(case, n=n, alpha=alpha), reading)[0]

    return wrong


WRONG: dict[str, Callable[[Array, Case], Array]] = {
    "one map less below": other_window(0, "above"),
    "one map less above": other_window(0, "below"),
    "one map less on each side": other_window(-2, "both"),
    "one map more below": other_window(2, "below"),
    "one map more above": other_window(2, "above"),
    "one map more on each side": other_window(2, "both"),
    "the other convention": lambda x, case: forward(
        x, replace(case, alpha=case.alpha / case.n if case.convention == "sum" else 5 * case.alpha)
    )[0],
    "no columns": lambda x, case: forward(x, replace(case, columns=1))[0],
    "k": lambda x, case: forward(x, replace(case, k=3 - case.k))[0],
    "beta": lambda x, case: forward(x, replace(case, beta=1.25 - case.beta))[0],
    "over the batch": over_the_batch,
}


def test_a_wrong_definition_fails_several_cases_by_far() -> None:
    """Twice the tolerance of bfloat16, so that a rough implementation is told from a wrong one."""
    far = 2 * ROUNDINGS["forward"] * ROUNDOFF["bfloat16"]
    for name, wrong in WRONG.items():
        failed = []
        for case in CASES:
            stored = load(case)
            wanted = [stored[key] for key in stored if key.startswith("y")]
            got = wrong(stored["x"], case)
            if min(np.abs(got - y).max() / np.abs(y).max() for y in wanted) > far:
                failed.append(case.name)
        assert len(failed) >= (2 if name == "no columns" else 5), name
    even = next(case for case in CASES if case.readings != ("",))
    readings = [forward(load(even)["x"], even, reading)[0] for reading in even.readings]
    for i, one in enumerate(readings):
        for other in readings[:i]:
            assert np.abs(one - other).max() / np.abs(one).max() > far


@pytest.mark.parametrize("framework", ["alexnet", "alexnet-plain", "torch", "onnxruntime"])
def test_frameworks_that_are_installed_do_as_their_kept_results_say(framework: str) -> None:
    def verdicts(results: dict[str, Any]) -> dict[tuple[str, str, str], tuple[str, str]]:
        return {
            (name, dtype, what): (result["verdict"], result.get("reading", ""))
            for name, by_dtype in results["cases"].items()
            for dtype, by_what in by_dtype.items()
            for what, result in by_what.items()
        }

    got = verdicts(results_of(framework))
    assert got == verdicts(json.loads((RESULTS / f"{framework}.json").read_text()))
    if framework.startswith("alexnet"):
        assert {verdict for verdict, _ in got.values()} == {"pass"}


@pytest.mark.usefixtures("compiled_code")
def test_our_compiled_pass_computes_the_cases_of_its_exponent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []

    def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return function(*arguments)

        return call

    for name in ("norm_pool", "norm_pool_backward"):
        monkeypatch.setattr(compiled, name, counted(name, getattr(compiled, name)))
    adapter = adapters.FRAMEWORKS["alexnet"][0]()
    for case in CASES:
        for dtype in ROUNDOFF:
            calls.clear()
            outcome(adapter, case, "gradient", dtype)
            expected = ["norm_pool", "norm_pool_backward"] if case.beta == 0.75 else []
            assert calls == expected, (case.name, dtype)


def test_an_exact_result_is_the_best_one() -> None:
    even = next(case for case in CASES if case.readings != ("",))
    for reading in even.readings:
        exact = load(even)[f"y_{reading}"]
        adapter = adapters.Adapter("1.0", lambda x, case, dtype, y=exact: y)
        result = outcome(adapter, even, "forward", "float32")
        assert (result["verdict"], result["reading"], result["error"]) == ("pass", reading, 0.0)


def test_a_wrong_framework_gets_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(x: Array, case: Case, dtype: str) -> Array:
        return over_the_batch(x.astype(np.float64), case)

    def backwards(x: Array, dy: Array, case: Case, dtype: str) -> Array:
        raise RuntimeError("\x1b[1mno kernel in /home/someone/lrn.cc\x1b[0m")

    wrong = adapters.Adapter("1.0", run, backwards)
    monkeypatch.setitem(adapters.FRAMEWORKS, "torch", (lambda: wrong, "torch"))
    assert main(["torch"]) == 1
    output = capsys.readouterr().out
    assert "torch 1.0" in output
    line = next(line for line in output.splitlines() if line.startswith("mean-batch"))
    assert line.split()[1] == "FAIL"
    assert "error: paper: RuntimeError: no kernel in lrn.cc" in output
    # With as many images as maps the wrong sum has the right number of terms, and is wrong.
    assert "mean-square    FAIL" in output


def test_a_framework_that_passes_nothing_gets_exit_code_1_and_replaces_no_result(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """An adapter that a new version of its framework has broken raises an error in every case."""

    def run(x: Array, case: Case, dtype: str) -> Array:
        raise TypeError("lrn() got an unexpected keyword argument 'size'")

    broken = adapters.Adapter("9.0", run)
    monkeypatch.setitem(adapters.FRAMEWORKS, "torch", (lambda: broken, "torch"))
    monkeypatch.setattr("conformance.__main__.RESULTS", tmp_path)
    (tmp_path / "torch.json").write_text("kept")
    assert main(["torch"]) == 1
    assert capsys.readouterr().err == "torch: not one case passes\n"
    assert main(["torch", "--write"]) == 1
    assert capsys.readouterr().err.endswith("; the kept result stays as it is\n")
    assert (tmp_path / "torch.json").read_text() == "kept"
    exact = adapters.Adapter("9.1", lambda x, case, dtype: forward(x.astype(np.float64), case)[0])
    monkeypatch.setitem(adapters.FRAMEWORKS, "torch", (lambda: exact, "torch"))
    main(["torch", "--write"])
    assert json.loads((tmp_path / "torch.json").read_text())["version"] == "9.1"


def test_unknown_and_missing_frameworks_and_damaged_vectors_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["theano"]) == 2
    assert capsys.readouterr().err.startswith("there is no framework 'theano'; they are alexnet,")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert main(["openvino"]) == 2
    message = capsys.readouterr().err
    assert "openvino is not installed here (openvino): " in message
    assert message.endswith("-m pip install openvino\n")
    monkeypatch.setattr(cases, "VECTORS", tmp_path)
    for case in CASES:
        (tmp_path / f"{case.name}.npz").write_bytes(b"PK")
    assert main(["alexnet-plain"]) == 2
    assert "paper.npz is damaged: its checksum is not that of" in capsys.readouterr().err


def test_page_has_the_table_of_the_kept_results() -> None:
    page = (cases.FOLDER / "README.md").read_text()
    assert table() in page
    kept = {path.stem: json.loads(path.read_text()) for path in RESULTS.iterdir()}
    assert set(kept) == set(adapters.FRAMEWORKS)
    for results in kept.values():
        assert list(results["cases"]) == ids
    for entry in json.loads(cases.INDEX.read_text()):
        data = (cases.VECTORS / f"{entry['name']}.npz").read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
