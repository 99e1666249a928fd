"""`python -m benchmarks.gpu`: every stage runs, in small sizes also on a CPU, and a failure costs
only itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as lab
from benchmarks.gpu.card import Table

ROOT = Path(__file__).parents[1]


def rows(file: Path) -> dict[str, dict[str, object]]:
    return {row["what"]: row for row in json.loads(file.read_text())["rows"]}


def run(out: Path, *stages: str, limit_s: float) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", str(out), *stages, "--tiny"]
    completed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit_s)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    for file in out.glob("*.json"):
        assert rows(file), file.name


def test_two_stages(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    run(tmp_path, "facts", "convs", limit_s=120)
    assert {file.name for file in tmp_path.iterdir()} == {"facts.json", "convs.json"}
    assert rows(tmp_path / "facts.json")["copy on the device"]["TB/s read and written"]
    assert {"conv1, batch 2, in blocks", "conv2, batch 2, dense columns"} <= set(
        rows(tmp_path / "convs.json")
    )


@pytest.mark.slow
def test_all_stages(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    run(tmp_path, limit_s=1500)
    assert {file.stem for file in tmp_path.glob("*.json")} == set(lab.LIMITS_S)


def test_a_row_that_fails_costs_only_itself(tmp_path: Path) -> None:
    table = Table(tmp_path / "table.json")
    table.add("first", lambda: {"ms": 1 / 0})
    table.add("second", lambda: {"ms": 1.0})
    assert table.failed
    first, second = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert first == {"what": "first", "error": "ZeroDivisionError: division by zero"}
    assert second == {"what": "second", "ms": 1.0}


def test_a_stage_is_ended_at_its_limit(tmp_path: Path) -> None:
    assert lab.run_stage("facts", tmp_path, True, 0.1) == "ended after its limit of 0.1 s"


def test_a_stage_that_fails_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def failing(stage: str, out: Path, tiny: bool, limit_s: float) -> str:
        ran.append(stage)
        return "failed, exit code 1"

    monkeypatch.setattr(lab, "run_stage", failing)
    assert lab.main([str(tmp_path), "facts", "convs"]) == 1
    assert ran == ["facts", "convs"]


def test_fixtures_are_imported_without_boto3() -> None:
    code = "import sys; sys.modules['boto3'] = None; import tests.conftest"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=120)
