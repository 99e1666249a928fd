"""What a training step on CUDA launches and copies, traced without a card (`cuda_trace.py`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alexnet import recipes
from tests import cuda_trace

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

ROOT = Path(__file__).parents[1]

# Launches of a step, by recipe. A new one costs the host some microseconds in every step of a run
# that cannot be captured as a graph, and the card some of its time in every run.
LAUNCHES = {
    "paper": 69,
    "one_column": 69,
    "six_conv": 74,
    "original": 74,
    "original_2010": 74,
    "original_one_column": 74,
    "original_six_conv": 79,
    "pre_trained": 83,
    "fine_tuned": 79,
    "torchvision": 71,
    "caffe_alexnet": 72,
    "caffenet": 76,
    "cifar_11": 69,
    "cifar_13": 67,
    "cifar_18": 69,
    "cifar_26": 69,
    "demo": 74,
    "modern": 100,
    "modern_small": 100,
}
# Images, labels, the numbers of the crops and colors, the keys of dropout. The addresses of the
# gradients are copied where the step is no graph, and for this copy alone the host waits.
COPIES = 5


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler on this machine")
    path = tmp_path_factory.mktemp("fake") / "fake_cuda.so"
    cuda_trace.build(path)
    return path


def traces(library: Path, *names: str) -> dict[str, dict[str, Any]]:
    lines = subprocess.run(
        [sys.executable, "-m", "tests.cuda_trace", str(library), *names],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.splitlines()
    return {found.pop("recipe"): found for found in map(json.loads, lines)}


def check(name: str, step: dict[str, Any]) -> None:
    assert sum(step["launches"].values()) <= LAUNCHES[name], (name, step["launches"])
    assert len(step["from_host"]) == COPIES, step["from_host"]
    assert not step["to_host"]
    assert len(step["waits"]) == 1, step["waits"]
    # One update for all parameters, one kernel for the crops, and a pass each way for each layer.
    assert step["launches"]["_update"] == step["launches"]["crop_triton"] == 1


def test_step_of_the_paper_launches_and_moves_what_it_must(library: Path) -> None:
    found, shared = traces(library, "paper", "paper:8").values()
    check("paper", found["step"])
    # At batch 128 in bfloat16. Version 0.1 moved 5.8 GB by 181 launches.
    assert found["step"]["bytes"] < 1.9e9
    # fc6 needs its input in the order of its weights: a copy forward and one backward.
    assert [text.split()[0] for text in found["step"]["unlike"]] == ["clone", "clone"]
    assert not found["prediction"]["to_host"]
    assert len(found["prediction"]["from_host"]) == 2
    # On eight ranks with as many images each: all gradients are copied into one tensor, which is
    # summed and stays where it is, so that the host waits for nothing.
    step = shared["step"]
    assert sum(step["launches"].values()) <= LAUNCHES["paper"] + 2
    assert step["launches"]["allreduce_"] == step["launches"]["_foreach_copy_"] == 1
    assert len(step["from_host"]) == COPIES - 1
    assert not step["to_host"]
    assert not step["waits"]


def test_step_of_every_recipe_launches_what_it_must(library: Path) -> None:
    found = traces(library, *recipes.__all__)
    assert set(found) == set(LAUNCHES) == set(recipes.__all__)
    for name, trace in found.items():
        check(name, trace["step"])
        assert not trace["prediction"]["to_host"]
