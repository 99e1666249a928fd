"""What a training step on CUDA launches and copies, traced without a card (`cuda_trace.py`)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet import recipes
from alexnet.architecture import plan
from alexnet.config import Conv
from tests import cuda_trace

pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

ROOT = Path(__file__).parents[1]

# Launches of a step, by recipe. A new one costs the host some microseconds in every step of a run
# that cannot be captured as a graph, and the card some of its time in every run.
LAUNCHES = {
    "paper": 67,
    "one_column": 67,
    "six_conv": 72,
    "original": 72,
    "original_2010": 72,
    "original_one_column": 72,
    "original_six_conv": 77,
    "pre_trained": 81,
    "fine_tuned": 77,
    "torchvision": 69,
    "caffe_alexnet": 70,
    "caffenet": 74,
    "cifar_11": 67,
    "cifar_13": 65,
    "cifar_18": 67,
    "cifar_26": 67,
    "demo": 72,
    "modern": 98,
    "modern_small": 98,
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


def check_step(name: str, step: dict[str, Any]) -> None:
    assert sum(step["launches"].values()) <= LAUNCHES[name], (name, step["launches"])
    assert len(step["from_host"]) == COPIES, step["from_host"]
    assert not step["to_host"]
    assert len(step["waits"]) == 1, step["waits"]
    # One update for all parameters, one kernel for the crops, and a pass each way for each layer.
    assert step["launches"]["_update"] == step["launches"]["crop_triton"] == 1


def check_rest(name: str, found: dict[str, Any]) -> None:
    """Check what happens beside the graph: no copy from the host for which it waits."""
    metrics, loop, evaluation = (found[part] for part in ("metrics", "loop", "evaluation"))
    # The loss is copied to the host, where it is read a step later.
    assert not metrics["from_host"]
    assert len(metrics["to_host"]) == 1
    # The loop's step: images, labels, and the numbers of crops and colors.
    assert len(loop["from_host"]) == 3, loop["from_host"]
    assert not loop["waits"]
    assert not loop["to_host"]
    # The images are on the card: for each test crop its numbers alone are copied.
    crops = {"centre": 1, "nine": 9, "ten": 10}[getattr(recipes, name)().augment.test_patches]
    assert evaluation["launches"]["crop_triton"] == crops
    assert len(evaluation["from_host"]) == crops, evaluation["from_host"]
    assert not evaluation["waits"]
    assert not evaluation["to_host"]


def check_layout(name: str, found: dict[str, Any]) -> None:
    """Check that the maps of all convolutions and pools are channels-last, in every part."""
    architecture = getattr(recipes, name)().architecture
    ops = list(plan(replace(architecture, classes=10)))
    ends = [type(op.layer) is not Conv for op in ops].index(True)
    # The last of them is flattened in the order of the weights that follow, or is the input of a
    # local layer, which has positions first.
    *maps, last = dict.fromkeys(op.shape for op in ops[:ends])
    assert len(last) == 3
    for part in cuda_trace.PARTS:
        for shape in maps:
            wrong = [
                text
                for text in found[part]["unlike"]
                if f"({cuda_trace.BATCH}, {str(shape)[1:]}" in text
            ]
            assert not wrong, (name, part)


def test_step_of_the_paper_launches_and_moves_what_it_must(library: Path) -> None:
    found, in_blocks, shared = traces(library, "paper", "paper:1:blocks", "paper:8").values()
    check_step("paper", found["step"])
    # At batch 128 in bfloat16. Version 0.1 moved 5.8 GB by 181 launches.
    assert found["step"]["bytes"] < 1.9e9
    # fc6 needs its input in the order of its weights: a copy forward and one backward.
    assert [text.split()[0] for text in found["step"]["unlike"]] == ["clone", "clone"]
    # Crops in blocks need no padding, and their filters are cut into blocks, forward and backward.
    step = in_blocks["step"]
    assert sum(step["launches"].values()) <= LAUNCHES["paper"] + 3 <= 70
    assert step["bytes"] < 1.83e9
    assert len(step["from_host"]) == COPIES
    assert [text.split()[0] for text in step["unlike"]] == ["clone", "clone"]
    # On eight ranks with as many images each: all gradients are copied into one tensor, which is
    # summed and stays where it is, so that the host waits for nothing.
    step = shared["step"]
    assert sum(step["launches"].values()) <= LAUNCHES["paper"] + 2
    assert step["launches"]["allreduce_"] == step["launches"]["_foreach_copy_"] == 1
    assert len(step["from_host"]) == COPIES - 1
    assert not step["to_host"]
    assert not step["waits"]
    # The wishes to stop and to save travel with the loss, and are made on the card.
    assert shared["metrics"]["launches"]["allreduce_"] == 1
    assert not shared["metrics"]["from_host"]


def test_every_recipe_launches_what_it_must_and_never_waits(library: Path) -> None:
    found = traces(library, *recipes.__all__)
    assert set(found) == set(LAUNCHES) == set(recipes.__all__)
    for name, parts in found.items():
        check_step(name, parts["step"])
        check_rest(name, parts)
        check_layout(name, parts)
