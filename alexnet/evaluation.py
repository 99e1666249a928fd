"""Test errors, top-1 and top-5 (section 2): center crop, ten crops (section 4.1), ensembles
(section 6).

Every image of the split counts exactly once, whatever the batch size or the number of ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet import checkpoint
from alexnet.config import Augment
from alexnet.cores import decoding_threads
from alexnet.data.augment import evaluation_crops
from alexnet.data.device_feed import LateResults, on_device
from alexnet.data.loader import batches
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Split, Store
from alexnet.device import allow_tf32
from alexnet.distributed.launch import all_gather, scatter
from alexnet.distributed.mesh import ALONE, Mesh
from alexnet.errors import RunError
from alexnet.model import Network
from alexnet.ops.arena import kept_memory
from alexnet.progress import Progress
from alexnet.trained import (
    Trained,
    check_store,
    load,
    own_store,
    precision_of_use,
    probabilities,
)


@dataclass(frozen=True)
class Result:
    """Errors on a split.

    Attributes:
        images: Number of images.
        patches: Number of crops over which the probabilities of an image are averaged.
        loss: Mean cross-entropy of the averaged probabilities.
        top1_error: Fraction of images whose most probable class is wrong.
        top5_error: Fraction of images whose class is not among the five most probable; None with
            five classes or fewer.
        class_errors: Top-1 error of each class; None for a class without images.
        confusion: Number of images, as confusion[true class][predicted class]; empty where it was
            not asked for.
        weights_sha256: Checksum of the weights of each network that was measured; empty where they
            were not loaded from a checkpoint.
    """

    images: int
    patches: int
    loss: float
    top1_error: float
    top5_error: float | None
    class_errors: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    weights_sha256: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


TOP5_CLASSES = 20
"""From this number of classes on a top-5 error is shown: five guesses of six are nearly always
right."""
TEST_COST = 1 / 3
"""Cost of testing an image with one crop, in training steps of an image: the forward pass without
the two products of the backward pass."""
QUARTER = 0.25
"""The training error to which Figure 1 of the paper draws its line, and by which it compares ReLU
with tanh."""
FEW_IMAGES = 10
"""Of fewer test images, one answer for all of them does not say that nothing was learned."""


def says_top5(result: Result) -> bool:
    """Whether the top-5 error of a result means something."""
    return result.top5_error is not None and len(result.class_errors) >= TOP5_CLASSES


def crops_name(result: Result) -> str:
    """Return the crops of a test in words: `center crop` or, for instance, `10 crops`."""
    return "center crop" if result.patches == 1 else f"{result.patches} crops"


def same_answer(result: Result, names: Sequence[str]) -> str | None:
    """Return a sentence, without its full stop, where every image was given the same class.

    None where the answers differ, or where the images are of one class only, which may be right.
    """
    counts = np.array(result.confusion)
    answers, true = np.flatnonzero(counts.sum(0)), np.flatnonzero(counts.sum(1))
    if len(answers) > 1 or len(true) < 2:
        return None
    if result.images < FEW_IMAGES:
        return (
            f"every one of {result.images} test images was called {names[answers[0]]}, and so few "
            "say next to nothing about the network; add images"
        )
    return (
        f"every test image was called {names[answers[0]]}: the network has learned nothing yet; "
        "train longer, or at another learning rate"
    )


def centre(augment: Augment) -> Augment:
    """Return the same settings with the center crop as the only test crop."""
    return replace(augment, test_patches="centre")


def score(
    p: NDArray[np.float32], labels: NDArray[np.int64], patch_count: int, confusion: bool = True
) -> Result:
    """Compute the errors of predictions.

    Args:
        p: Probabilities, (N, classes).
        labels: True classes, (N,).
        patch_count: Number of crops that were averaged, for the record.
        confusion: Whether to count the confusions, which take memory for each pair of classes.
    """
    count, classes = p.shape
    # NaN comes after every probability, and equals itself as no NaN does.
    known = np.where(np.isnan(p), -np.inf, p)
    # How many classes come before the true one. Counted, since sorting a thousand classes takes
    # twenty times as long. Ties are broken by the order of the classes, the same on every machine.
    own = known[np.arange(count), labels][:, None]
    earlier = np.arange(classes) < labels[:, None]
    before = (known > own).sum(1) + ((known == own) & earlier).sum(1)
    right, in_five = before == 0, before < 5
    class_images = np.bincount(labels, minlength=classes)
    class_right = np.bincount(labels[right], minlength=classes)
    size = classes if confusion else 0
    counts = np.zeros((size, size), np.int32)
    if confusion:
        # `np.add.at` counts repeated pairs; `counts[labels, p] += 1` would count each pair once.
        np.add.at(counts, (labels, known.argmax(1)), 1)
    # The bound keeps one probability that rounds to 0 from making the mean loss infinite.
    loss = -np.log(np.maximum(p[np.arange(count), labels].astype(np.float64), 1e-30)).mean()
    return Result(
        images=count,
        patches=patch_count,
        loss=float(loss),
        top1_error=float(1 - right.mean()),
        top5_error=float(1 - in_five.mean()) if classes > 5 else None,
        class_errors=tuple(
            float(1 - class_right[c] / class_images[c]) if class_images[c] else None
            for c in range(classes)
        ),
        # Row by row: with 21,841 classes, a list of all of them would take another 4 GB.
        confusion=tuple(tuple(row.tolist()) for row in counts),
    )


def measure(
    nets: Sequence[tuple[Network, Preprocess]],
    split: Split,
    test: Augment,
    batch: int = 128,
    workers: int | None = None,
    mesh: Mesh = ALONE,
    confusion: bool = True,
) -> Result:
    """Measure the errors of one network, or of an ensemble whose probabilities are averaged.

    Args:
        nets: Networks with their preprocessing.
        test: Says which crops are taken.
        batch: Number of images in a batch.
        workers: Number of decoding threads, as `Config.workers`.
        mesh: The ranks among which the images are divided; every rank gets the whole result.
        confusion: As in `score`.
    """
    preprocess = nets[0][1]
    count = num_crops(preprocess, test)
    p, _ = predictions(nets, split, test, scatter(np.arange(len(split)), mesh), batch, workers)
    # The parts of the ranks are put together in the order of the split.
    p = all_gather(p, len(split), mesh, preprocess.device)
    return score(p, split.labels, count, confusion)


def predictions(
    nets: Sequence[tuple[Network, Preprocess]],
    split: Split,
    test: Augment,
    order: NDArray[np.int64],
    batch: int = 128,
    workers: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Compute the predictions for the images at positions `order` of a split.

    Returns:
        Probabilities (N, classes), averaged over crops and networks, and labels (N,).
    """
    chunks: list[NDArray[np.float32]] = []
    preprocess = nets[0][1]
    device, pin = preprocess.device, preprocess.device.type == "cuda"
    threads = decoding_threads(workers, device.type)
    count = num_crops(preprocess, test)
    what = f"test, {count} crop{'s' if count > 1 else ''}"
    # `kept_memory` reuses the memory of the activations from batch to batch.
    with kept_memory(device), Progress(what, len(order), "images") as progress:
        # A GPU has the next batch in its queue when the host waits for the result of this one.
        results = LateResults(device)
        for b in on_device(batches(split, order, batch, threads, pin=pin), device):
            p = [probabilities(net, pre, b.images, test) for net, pre in nets]
            chunks += results.add(torch.stack(p).mean(0))
            progress.advance(len(b.labels))
        chunks += results.rest()
    return np.concatenate(chunks), split.labels[order]


def evaluate(
    runs: str | Path | Sequence[str | Path],
    data: str | Path = "",
    split: str = "",
    device: str = "auto",
) -> list[Result]:
    """Measure the errors of runs on a split of a store.

    Several runs form an ensemble: their probabilities are averaged.

    Args:
        runs: Run folders or .safetensors files, or one of these.
        data: Folder or URL of the store; if empty, the one that all of the runs were trained on.
        split: Name of the split; if empty, the validation split of the first run.

    Returns:
        The result with the center crop, and then, if it differs, that of the recipe's own test
        (ten crops, for instance).

    Raises:
        RunError: If the store's classes or image size are not those the runs were trained on, or
            one of them is used in tf32 and another in float32, or they were trained on different
            stores and none is named.
        DataError: If there is no store, or it is damaged.
    """
    if isinstance(runs, str | Path):
        runs = [runs]
    if not runs:
        raise RunError("name at least one run")
    store = Store(data or common_store(runs))
    members = [load(run, device=device) for run in runs]
    for run, member in zip(runs, members, strict=True):
        check_store(member, store, run)
    # PyTorch has one switch for the whole process.
    used = {precision_of_use(member.config, member.preprocess.device) for member in members}
    if used >= {"tf32", "float32"}:
        raise RunError(
            "some of the runs are used in tf32 and others in float32, which one process cannot; "
            "evaluate them apart"
        )
    # The run that was loaded last has set the switch, and products in bfloat16 do not heed it.
    if "tf32" in used:
        allow_tf32("tf32")
    images = store.split(split or members[0].config.val_split)
    # Each member keeps its own mean image; the test crops are those of the first.
    nets = [(member.net, member.preprocess) for member in members]
    test = members[0].preprocess.augment
    results = [measure(nets, images, centre(test))]
    if num_crops(members[0].preprocess) > 1:
        results.append(measure(nets, images, test))
    return _of_weights(results, members)


def num_crops(preprocess: Preprocess, test: Augment | None = None) -> int:
    """The number of test crops, those of the recipe if `test` is None; 1 is the center crop."""
    of = preprocess.augment if test is None else test
    return len(evaluation_crops(of, preprocess.stored_px, preprocess.input_px))


def _of_weights(results: Sequence[Result], members: Sequence[Trained]) -> list[Result]:
    """Return the results with the checksums of the weights that were measured."""
    # Those that were loaded: a training may have saved others in these runs meanwhile.
    weights = tuple(member.about["sha256"] for member in members)
    return [replace(result, weights_sha256=weights) for result in results]


def common_store(runs: Sequence[str | Path]) -> str:
    """Return the folder or URL of the store that all of the runs were trained on.

    Raises:
        RunError: The runs were trained on different stores.
        DataError: The store is not there any more.
    """
    if not runs:
        raise RunError("name at least one run")
    saved = [checkpoint.read(run) for run in runs]
    for run, other in zip(runs, saved, strict=True):
        # The checksum tells stores apart and not the name: a store may have been moved.
        if other.about["store"] != saved[0].about["store"]:
            raise RunError(
                f"{runs[0]} and {run} were trained on different stores, {saved[0].config.data} and "
                f"{other.config.data}; name the one to test on with --data STORE"
            )
    return own_store(saved[0].config).name


@dataclass(frozen=True)
class OwnTest:
    """A run, tested on the validation split of its own store.

    Attributes:
        p: Probabilities, (N, classes), averaged over the recipe's own test crops.
        results: As `evaluate` returns them.
    """

    trained: Trained
    store: Store
    split: Split
    p: NDArray[np.float32]
    results: tuple[Result, ...]


def own_test(run: str | Path) -> OwnTest:
    """Test a run on the validation split of its own store, image by image.

    Raises:
        RunError, DataError: The run has no checkpoint, or its store does not exist any more or has
            been prepared anew with other classes or another image size.
    """
    trained = load(run)
    store = trained.open_store()
    split = store.split(trained.config.val_split)
    preprocess = trained.preprocess
    nets, test = [(trained.net, preprocess)], preprocess.augment
    p, labels = predictions(nets, split, test, np.arange(len(split)))
    count = num_crops(preprocess)
    by_test_crops = score(p, labels, count)
    results = [by_test_crops] if count == 1 else [measure(nets, split, centre(test)), by_test_crops]
    return OwnTest(trained, store, split, p, tuple(_of_weights(results, [trained])))


@dataclass(frozen=True)
class Mistake:
    """An image of the validation split whose most probable class is wrong.

    Attributes:
        index: Position in the split.
        name: Name of the image in its source.
        true, predicted: Names of the classes to display.
        probability: Probability of the predicted class.
    """

    index: int
    name: str
    true: str
    predicted: str
    probability: float


def worst_mistakes(test: OwnTest, limit: int) -> list[Mistake]:
    """Return the images on which the run was surest of a wrong class, the surest first."""
    predicted, sure = test.p.argmax(1), test.p.max(1)
    # A stable sort breaks ties by the order of the images, the same on every machine.
    order = np.argsort(-sure, kind="stable")
    wrong = order[predicted[order] != test.split.labels[order]][:limit]
    names = test.trained.names
    return [
        Mistake(
            i,
            test.split.name(i),
            names[test.split.labels[i]],
            names[predicted[i]],
            float(sure[i]),
        )
        for i in wrong.tolist()
    ]
