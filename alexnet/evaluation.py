"""Test errors: centre and ten patches, top-1 and top-5, ensembles (section 4.1). Every picture counts exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alexnet.config import Augment
from alexnet.data.augment import Preprocess, patches, same_patch
from alexnet.data.loader import batches
from alexnet.data.store import Split
from alexnet.model import Network


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
def probabilities(net: Network, preprocess: Preprocess, images: torch.Tensor, test: Augment) -> torch.Tensor:
    """Softmax averaged over the test's patches. images: (N, stored_px, stored_px, 3) uint8 -> (N, classes) float32."""
    places = patches(test, preprocess.stored_px, preprocess.input_px)
    total: torch.Tensor | None = None
    for top, left, flip in places:
        x = preprocess(images, same_patch(top, left, flip, len(images)))
        p = F.softmax(net(x), dim=1)
        total = p if total is None else total + p
    assert total is not None
    return total / len(places)


def split_probabilities(
    net: Network, preprocess: Preprocess, split: Split, test: Augment, batch: int = 128, workers: int = 2
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(probabilities (N, classes), labels (N,)) of a split in its own order, on the CPU."""
    for b in batches(split, np.arange(len(split)), batch, workers):
        yield probabilities(net, preprocess, b.images, test).cpu(), b.labels


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
        class_errors=tuple(float(1 - confusion[c, c] / own[c]) if own[c] else None for c in range(classes)),
        confusion=tuple(tuple(row) for row in confusion.tolist()),
    )


def test_split(
    nets: Sequence[tuple[Network, Preprocess]], split: Split, test: Augment, batch: int = 128, workers: int = 2
) -> Result:
    """The errors of one network, or of several with their softmax averaged."""
    kept: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.int64]] = []
    for b in batches(split, np.arange(len(split)), batch, workers):
        p = torch.stack([probabilities(net, pre, b.images, test).cpu() for net, pre in nets]).mean(0)
        kept.append(p.numpy())
        labels.append(b.labels.numpy())
    preprocess = nets[0][1]
    count = len(patches(test, preprocess.stored_px, preprocess.input_px))
    return score(np.concatenate(kept), np.concatenate(labels), count)
