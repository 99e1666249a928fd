"""Test errors: centre and ten patches, top-1 and top-5, ensembles (section 4.1). Every picture counts exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alexnet.config import Augment
from alexnet.data.augment import Preprocess, patches, same_patch
from alexnet.data.loader import batches
from alexnet.data.store import Split, Store
from alexnet.model import Network
from alexnet.ops.arena import kept_memory
from alexnet.parallel.launch import collected, dealt
from alexnet.parallel.mesh import ALONE, Mesh
from alexnet.progress import Progress
from alexnet.weights import load

PATCHES_AT_ONCE = 128


@dataclass(frozen=True)
class Result:
    """Errors are shares of the pictures; top5_error is None with five classes or fewer."""

    images: int
    patches: int
    loss: float
    top1_error: float
    top5_error: float | None
    class_errors: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    """confusion[true class][predicted class]: pictures."""

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


@torch.no_grad()
def probabilities(
    net: Network, preprocess: Preprocess, images: torch.Tensor, test: Augment
) -> torch.Tensor:
    """Softmax averaged over the test's patches. images: (N, stored_px, stored_px, 3) uint8 -> (N, classes) float32."""
    places = patches(test, preprocess.stored_px, preprocess.input_px)
    at_once = max(
        1, PATCHES_AT_ONCE // len(images)
    )  # one picture's ten read the weights once, not ten times
    sums = []
    for first in range(0, len(places), at_once):
        group = places[first : first + at_once]
        x = torch.cat([preprocess(images, same_patch(*place, len(images))) for place in group])
        sums.append(F.softmax(net(x), dim=1).view(len(group), len(images), -1).sum(0))
    return torch.stack(sums).sum(0) / len(places)


def centre(augment: Augment) -> Augment:
    return replace(augment, test_patches="centre")


def score(p: NDArray[np.float32], labels: NDArray[np.int64], patch_count: int) -> Result:
    """p: (N, classes) probabilities; labels: (N,)."""
    count, classes = p.shape
    order = np.argsort(-p, axis=1, kind="stable")
    right = order[:, 0] == labels
    in_five = (order[:, :5] == labels[:, None]).any(1)
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels, order[:, 0]), 1)
    own = confusion.sum(1)
    loss = -np.log(np.maximum(p[np.arange(count), labels].astype(np.float64), 1e-30)).mean()
    return Result(
        images=count,
        patches=patch_count,
        loss=float(loss),
        top1_error=float(1 - right.mean()),
        top5_error=float(1 - in_five.mean()) if classes > 5 else None,
        class_errors=tuple(
            float(1 - confusion[c, c] / own[c]) if own[c] else None for c in range(classes)
        ),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def measure(
    nets: Sequence[tuple[Network, Preprocess]],
    split: Split,
    test: Augment,
    batch: int = 128,
    workers: int = 2,
    mesh: Mesh = ALONE,
) -> Result:
    """The errors of one network, or of several with their softmax averaged. mesh: each shard tests a part."""
    preprocess = nets[0][1]
    count = len(patches(test, preprocess.stored_px, preprocess.input_px))
    p, _ = predictions(nets, split, test, dealt(np.arange(len(split)), mesh), batch, workers)
    return score(collected(p, len(split), mesh, preprocess.device), split.labels, count)


def predictions(
    nets: Sequence[tuple[Network, Preprocess]],
    split: Split,
    test: Augment,
    order: NDArray[np.int64],
    batch: int = 128,
    workers: int = 2,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Of the split's pictures `order`: softmax (N, classes), averaged over patches and nets, and labels (N,)."""
    kept: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    preprocess = nets[0][1]
    count = len(patches(test, preprocess.stored_px, preprocess.input_px))
    what = f"test, {count} patch{'es' if count > 1 else ''}"
    with kept_memory(preprocess.device), Progress(what, len(order), "images") as progress:
        for b in batches(split, order, batch, workers):
            p = torch.stack(
                [probabilities(net, pre, b.images, test).cpu() for net, pre in nets]
            ).mean(0)
            kept.append(p.numpy())
            labels.append(b.labels.numpy())
            progress.advance(len(b.labels))
    return np.concatenate(kept), np.concatenate(labels)


def _other_classes(run: list[str], store: list[str]) -> str | None:
    """How the classes differ; None when they are the same in the same order. Words do not count."""
    if run == store:
        return None
    if len(run) != len(store):
        return f"{len(run)}, and {len(store)} in the store"
    at = next(i for i, pair in enumerate(zip(run, store, strict=True)) if pair[0] != pair[1])
    return f"class {at + 1} is {run[at]!r}, and {store[at]!r} in the store"


def evaluate(
    runs: Sequence[str | Path], data: str | Path, split: str = "", device: str = "auto"
) -> list[Result]:
    """The errors of a run on a store's split: centre patch, and the recipe's own test (ten patches, say).

    Several runs are an ensemble: their probabilities are averaged. split: the run's own validation split when empty.
    Raises ValueError when the store's classes or picture size are not those the runs were trained on.
    """
    if not runs:
        raise ValueError("evaluate needs at least one run")
    store = Store(data)
    members = [load(run, device=device) for run in runs]
    for run, member in zip(runs, members, strict=True):
        if (other := _other_classes(list(member.classes), store.classes)) is not None:
            raise ValueError(f"{run} was trained on other classes than {data} has: {other}")
        if member.preprocess.stored_px != store.size_px:
            want = member.preprocess.stored_px
            raise ValueError(
                f"{run} needs pictures of {want} pixels and {data} has {store.size_px}: prepare it so"
            )
    pictures = store.split(split or members[0].about["config"]["val_split"])
    nets = [(member.net, member.preprocess) for member in members]
    test = members[0].preprocess.augment
    results = [measure(nets, pictures, centre(test))]
    if test.test_patches != "centre":
        results.append(measure(nets, pictures, test))
    return results
