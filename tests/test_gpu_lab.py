"""`python -m benchmarks.gpu`: its stages run, without a GPU in tiny sizes, and on bare machines."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from alexnet.ops import plain
from benchmarks import same_training
from benchmarks.gpu import correctness, steps
from benchmarks.gpu.__main__ import STAGES, Stage, main
from benchmarks.gpu.lab import Lab, Value
from benchmarks.interleave import ROOT, environment

CALL_LIMIT_S = 600
MISSING = ("simplejpeg", "boto3", "hypothesis", "tyro", "matplotlib", "scipy", "jinja2", "datasets")
"""What a rented machine with PyTorch and Triton need not have."""


def rows(out: Path, stage: str) -> list[dict[str, object]]:
    table = json.loads((out / f"{stage}.json").read_text())
    assert table["stage"] == stage and table["tiny"] and table["device"] and table["code"]
    found: list[dict[str, object]] = table["rows"]
    assert all("error" not in row for row in found)
    return found


def test_a_stage_prints_its_table_and_keeps_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main([str(out), "facts", "--tiny"]) == 0
    printed = capfd.readouterr().out
    for row in rows(out, "facts"):
        assert str(row["name"]) in printed
    assert "===== facts: ok" in printed


@pytest.mark.slow
@pytest.mark.parametrize("stage", sorted(set(STAGES) - {"facts"}))
def test_every_stage_runs_in_tiny_sizes(stage: str, tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    assert main([str(tmp_path), stage, "--tiny"]) == 0
    assert rows(tmp_path, stage)


@pytest.mark.parametrize(
    ("precision", "losses", "correct"),
    [
        ("float32", [2.4, 3.01, 2.0], True),
        ("float32", [2.4, 3.03, 2.0], False),
        ("bfloat16", [2.4, 3.1, 2.1], True),
        # The weights that the products use never change.
        ("bfloat16", [2.4, 2.4, 2.4], False),
        ("bfloat16", [2.4, float("nan"), float("nan")], False),
    ],
)
def test_losses_are_compared_with_those_of_plain_pytorch_in_both_precisions(
    precision: str,
    losses: list[float],
    correct: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    by_plain = [2.4, 3.0, 2.0]
    made = {"plain": by_plain, "loop": by_plain, "graph": losses}
    for kind, values in made.items():
        monkeypatch.setattr(same_training, kind, lambda *_, values=values: values)
    monkeypatch.setattr(same_training, "losses", lambda values, data: torch.tensor(values))
    row = correctness._compared(Lab(tmp_path, "correctness", tiny=True), precision)
    assert row["ok"] == correct


def test_other_programs_are_measured_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, broken = tmp_path / "other_net.py", tmp_path / "broken_net.py"
    script.write_text(
        "import sys; from benchmarks.worker import serve\n"
        "assert sys.argv[1:] == ['step', 'precision=bfloat16', 'batch=2']\n"
        "serve(lambda: None, 2, 'images')"
    )
    broken.write_text("raise SystemExit('no kernel for this card')")
    programs = {
        "absent": ("a_module_that_is_not_there", str(script)),
        "there": ("json", str(script)),
        "broken": ("json", str(broken)),
    }
    monkeypatch.setattr(steps, "OTHER_PROGRAMS", programs)
    lab = Lab(tmp_path, "steps", tiny=True)
    steps.other_programs(lab)
    absent, there, failed = lab.rows
    assert absent == {"name": "absent", "said": "not installed"}
    assert there["name"] == "there, batch 2" and float(there["images_per_s"]) > 0
    assert "no kernel for this card" in str(failed["error"])


def test_another_program_on_the_cpu_is_no_row_of_the_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "other_net.py"
    script.write_text(
        "from benchmarks.worker import serve; serve(lambda: None, 2, 'images', 'cpu, other 1.0')"
    )
    monkeypatch.setattr(Lab, "device", torch.device("cuda"))
    with pytest.raises(ValueError, match="other is installed without CUDA"):
        steps._of_program(Lab(tmp_path, "steps", tiny=True), "other", str(script), 2)


def test_other_programs_share_the_memory_of_a_card() -> None:
    variables = environment()
    assert variables["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert variables["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


@pytest.mark.slow
def test_a_stage_that_fails_or_hangs_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STAGES, "facts", Stage("facts", 0))
    # The table cannot be written.
    (tmp_path / "convs.json").mkdir()
    assert main([str(tmp_path), "facts", "convs", "--tiny"]) == 1
    printed = capfd.readouterr().out
    assert "facts: stopped at its limit of 0 s" in printed
    assert "convs: failed (1)" in printed
    assert printed.endswith("failed: facts, convs\n")


@pytest.mark.parametrize(("measured", "code"), [(0, "facts: nothing could be measured"), (1, 0)])
def test_a_stage_that_measures_nothing_has_failed(
    measured: int, code: int | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Value]:
        raise RuntimeError("no kernel image is available")

    def run(lab: Lab) -> None:
        lab.row("made", images=2)
        lab.attempt("first", broken)
        for _ in range(measured):
            lab.attempt("second", lambda: {"ms": 1.0})

    monkeypatch.setitem(sys.modules, "benchmarks.gpu.facts", SimpleNamespace(run=run))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    try:
        ended: object = main([str(tmp_path), "facts", "--tiny", "--here"])
    except SystemExit as stopped:
        ended = stopped.code
    assert ended == code
    table = json.loads((tmp_path / "facts.json").read_text())
    assert len(table["rows"]) == 2 + measured


def test_a_profiler_that_sees_no_kernel_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a container withholds the counters of the card."""
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    from benchmarks.gpu import longest

    class Blind:
        def __init__(self, activities: object) -> None: ...

        def __enter__(self) -> Blind:
            return self

        def __exit__(self, *error: object) -> None: ...

        def key_averages(self) -> list[object]:
            return []

    monkeypatch.setattr(longest, "profile", Blind)
    monkeypatch.setattr(longest, "our_step", lambda *_: lambda: None)
    with pytest.raises(SystemExit, match="the profiler saw no kernel of: graph, loop"):
        longest.run(Lab(tmp_path, "profile", tiny=True))


def test_a_kernel_that_does_not_compile_leaves_the_other_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    from benchmarks.gpu import kernels, racecheck

    def broken(*arguments: object) -> torch.Tensor:
        raise RuntimeError("no kernel image is available")

    lab = Lab(tmp_path, "kernels", tiny=True)
    monkeypatch.setattr(kernels.triton_between, "norm_pool", broken)
    cases = {case.name: case for case in kernels.cases(lab, 2)}
    assert {"after conv1, Triton, forward", "dropout", "update"} <= cases.keys()
    # The gradient has the shape of the result.
    monkeypatch.setattr(kernels.triton_between, "norm_pool", plain.norm_pool)
    gradients = [case for name, case in cases.items() if "Triton, and gradient" in name]
    assert len(gradients) == 5
    for case in gradients:
        case.run()

    run = list[str]()
    made = [kernels.Case(name, lambda name=name: run.append(name), 0) for name in "abc"]  # type: ignore[misc]
    made[1] = kernels.Case("b", broken, 0)
    monkeypatch.setattr(kernels, "cases", lambda *_: made)
    monkeypatch.setattr(racecheck, "_groups_of_maps", lambda lab: run.append("groups"))
    with pytest.raises(SystemExit, match="failed: b"):
        racecheck.main()
    assert run == ["a", "c", "groups"]


def test_a_row_is_kept_where_an_error_leaves_cuda_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> dict[str, Value]:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    lab = Lab(tmp_path, "steps", tiny=True)
    monkeypatch.setattr(Lab, "device", torch.device("cuda"))
    for name in ("empty_cache", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, broken)
    lab.attempt("a kernel", broken)
    lab.attempt("another program", lambda: {"ms": 1.0})
    kernel, program = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert "illegal memory access" in kernel["error"]
    assert program == {"name": "another program", "ms": 1.0}


def test_a_file_in_place_of_the_folder_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("")
    with pytest.raises(SystemExit) as stopped:
        main([str(out), "facts"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error == f"benchmarks.gpu: {out} cannot be made a folder: File exists\n"


def test_stages_need_a_gpu_unless_they_are_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit, match="there is no CUDA GPU here"):
        main([str(tmp_path), "facts", "--here"])


def test_an_unknown_stage_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "fact"])
    assert "there is no stage fact; there are facts, correctness" in capsys.readouterr().err


def test_each_documented_call_ends_within_ten_minutes() -> None:
    text = (ROOT / "benchmarks" / "gpu" / "__main__.py").read_text()
    calls = [re.findall(r"[a-z]+", line) for line in re.findall(r"gpu OUT ([a-z ]+?) +#", text)]
    assert sorted(stage for call in calls for stage in call) == sorted(STAGES)
    for call in calls:
        assert sum(STAGES[stage].limit_s for stage in call) <= CALL_LIMIT_S


def test_stages_and_their_tests_import_on_a_bare_machine() -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    modules = [f"benchmarks.gpu.{stage.module}" for stage in STAGES.values()]
    # Those that need more are skipped, as `facts` says.
    modules += [file.removesuffix(".py").replace("/", ".") for file in correctness.TESTS]
    # An import of a module that stands as None fails as if it were not installed.
    program = f"""
import importlib, sys
for name in {MISSING}: sys.modules[name] = None
for name in {["alexnet.train.loop", "tests.conftest", *modules]}:
    try: importlib.import_module(name)
    except BaseException as error:
        if type(error).__name__ != "Skipped": raise
        print(name)
"""
    command = [sys.executable, "-c", program]
    variables = environment() | {"TRITON_INTERPRET": "1"}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["tests.test_gpu_decoding"], "the tests that are skipped"


def test_processes_find_what_their_parent_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/carried/wheels")
    assert environment()["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/carried/wheels"]
    monkeypatch.delenv("PYTHONPATH")
    assert environment()["PYTHONPATH"] == str(ROOT)
