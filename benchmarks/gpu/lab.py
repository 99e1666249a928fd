"""What the stages share: their tables, timing on the card, and the training that they measure."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from alexnet import recipes
from alexnet.config import Config
from alexnet.data.augment import Augmentation, sample_augmentation
from alexnet.data.loader import Batch
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.device import allow_tf32, dtype_of, only_deterministic
from alexnet.ops import cuda_trial
from alexnet.provenance import code_version, machine

CLASSES, TINY_CLASSES = 1000, 10
STORED_PX, TINY_STORED_PX = 256, 80
Value = float | int | str | bool


@dataclass
class Lab:
    """A stage: where its results go, and its table.

    Attributes:
        tiny: Small sizes, to see that the stage runs; its numbers mean nothing.
        attempts, failures: Number of calls of `attempt`, and of those that measured nothing.
        device_name: Asked at once, because after an error of a kernel CUDA may answer nothing.
    """

    out: Path
    stage: str
    tiny: bool
    rows: list[dict[str, Value]] = field(default_factory=list)
    attempts: int = 0
    failures: int = 0
    device_name: str = field(init=False)

    def __post_init__(self) -> None:
        on_cuda = torch.cuda.is_available()
        self.device_name = torch.cuda.get_device_name() if on_cuda else machine()

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def row(self, name: str, **values: Value) -> None:
        """Print a row, and write the table, so that a stage that is stopped leaves its rows."""
        self.rows.append({"name": name, **values})
        words = (f"{key.replace('_', ' ')} {_in_words(value)}" for key, value in values.items())
        print(f"  {name:<44} {'   '.join(words)}", flush=True)
        table = {
            "stage": self.stage,
            "tiny": self.tiny,
            "device": self.device_name,
            "torch": torch.__version__,
            "code": code_version(),
            "rows": self.rows,
        }
        (self.out / f"{self.stage}.json").write_text(json.dumps(table, indent=1))

    def attempt(self, name: str, measure: Callable[[], dict[str, Value]]) -> None:
        """Add a row of what is measured, or of why it cannot be."""
        self.attempts += 1
        try:
            values = measure()
        # Anything: of the kernels of several libraries, new to this card, one that fails must not
        # take the others with it. The row is the report.
        except Exception as error:
            values = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            self.failures += 1
        self.row(name, **values)
        if self.device.type == "cuda":
            # After an illegal access every call of CUDA fails. The other attempts say so, too, and
            # programs in processes of their own can still be measured.
            with suppress(RuntimeError):
                torch.cuda.empty_cache()


def _in_words(value: Value) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def seconds_of(run: Callable[[], object], least_s: float = 0.05, turns: int = 7) -> float:
    """The time of a run on the device: of as many in a row as take `least_s`, in several turns."""
    if not torch.cuda.is_available():
        began_s = time.perf_counter()
        run()
        return time.perf_counter() - began_s
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def turn(count: int) -> float:
        first.record()
        for _ in range(count):
            run()
        last.record()
        last.synchronize()
        return first.elapsed_time(last) / 1e3 / count

    # Libraries choose their kernels in the first runs.
    turn(2)
    count = max(1, min(1000, int(least_s / max(turn(2), 1e-6))))
    return median(turn(count) for _ in range(turns))


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """The run as a CUDA graph, in which launches cost nothing; itself where there is no card."""
    return cuda_trial.captured(run).replay if torch.cuda.is_available() else run


def copy_seconds(count: int, device: torch.device) -> float:
    """The time of a copy that reads and writes `count` bytes altogether."""
    source = torch.zeros(max(1, count // 2), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return seconds_of(graphed(lambda: target.copy_(source)))


def training_config(
    lab: Lab, batch: int, precision: str = "bfloat16", classes: int = CLASSES
) -> Config:
    """The recipe that is measured, `paper`; in a tiny stage a small network of the same kinds."""
    config = recipes.paper()
    architecture = replace(config.architecture, classes=classes)
    if lab.tiny:
        architecture = replace(architecture, classes=TINY_CLASSES, width=1 / 16, input_px=67)
    return replace(
        config,
        architecture=architecture,
        sgd=replace(config.sgd, batch=batch),
        precision=precision,
        seed=0,
    )


def as_trained(precision: str) -> None:
    """Set PyTorch's switches as `alexnet train` does."""
    only_deterministic(False)
    allow_tf32(precision)


@dataclass(frozen=True)
class Images:
    """Made images, whose color tells their class, with what training needs of a store.

    Attributes:
        batch: Its images and labels lie on the device.
    """

    batch: Batch
    statistics: Statistics
    augmentation: Augmentation
    preprocess: Preprocess


def images_for(lab: Lab, config: Config, seed: int = 0) -> Images:
    """Make a batch for a config."""
    px, count = (TINY_STORED_PX if lab.tiny else STORED_PX), config.sgd.batch
    classes, rng = config.architecture.classes or CLASSES, np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    # The same colors in every batch.
    colours = np.random.default_rng(1).integers(40, 180, (classes, 3), np.uint8)
    noise = rng.integers(0, 76, (count, px, px, 1), np.uint8)
    images = colours[labels][:, None, None, :] + noise
    statistics = Statistics(np.full((px, px, 3), 147.0, np.float32), 1600 * np.eye(3))
    index = np.arange(count)
    input_px = config.architecture.input_px
    return Images(
        Batch(
            torch.from_numpy(images).to(lab.device),
            torch.from_numpy(labels).to(lab.device),
            index,
            index,
            count,
            0.0,
        ),
        statistics,
        sample_augmentation(config.augment, statistics, input_px, 0, seed, index, index),
        Preprocess(config.augment, statistics, input_px, lab.device, dtype_of(config.precision)),
    )


def describe_seconds(seconds: float, images: int) -> dict[str, Any]:
    """Time of a step, images per second, and the hours of 90 epochs of ImageNet at this speed."""
    per_s = images / seconds
    return {"ms": 1e3 * seconds, "images_per_s": per_s, "hours": 90 * 1_281_167 / per_s / 3600}
