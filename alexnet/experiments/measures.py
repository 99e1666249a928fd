"""What a claim measures of a finished run besides its errors. Each takes a run's folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alexnet.data.loader import batches, epoch_order
from alexnet.data.store import Split, Store
from alexnet.inference import activation
from alexnet.ops.arena import kept_memory
from alexnet.progress import Progress
from alexnet.weights import Trained, load

MASKS = 64
NEIGHBOURS = 6
"""Of each test picture, as in Fig. 4."""
SEARCHED, ASKED = 4000, 1000
"""Pictures among which neighbours are sought, and pictures whose neighbours are."""


@torch.no_grad()
def over_masks(run: Path) -> dict[str, float]:
    """Dropout's halving at test against what it stands for (section 4.2): the predictions of many masks, averaged.

    Errors with the centre patch: halved, and of the normalised geometric mean over MASKS masks.
    """
    trained, _, val = _of(run)
    net = trained.net
    masked, halved, pictures = 0, 0, len(val)
    with kept_memory(trained.preprocess.device), Progress(f"{MASKS} masks", pictures, "images") as progress:
        for x, labels in _centre_patches(trained, val, np.arange(pictures)):
            sums = torch.zeros(())
            for mask in range(MASKS):
                sums = sums + F.log_softmax(net(x, dropout_key=(0, mask)), 1)
            masked += int((sums.argmax(1).cpu() != labels).sum())
            halved += int((net(x).argmax(1).cpu() != labels).sum())
            progress.advance(len(labels))
    return {"masked_error": masked / pictures, "halved_error": halved / pictures}


@torch.no_grad()
def alike(run: Path) -> dict[str, float]:
    """Of validation pictures' six nearest training pictures, the share of the same class: by L2 in the last hidden
    layer, and in the pixels the network sees (Fig. 4).
    """
    trained, train, val = _of(run)
    layer = trained.net.steps[-2].layer.name

    def seen(split: Split, most: int) -> tuple[torch.Tensor, ...]:
        """The last hidden layer, the pixels and the labels of some of a split's pictures."""
        centred = _centre_patches(trained, split, epoch_order(len(split), 0, 0)[:most])
        rows = [(activation(trained, layer, x), x.flatten(1).cpu(), labels) for x, labels in centred]
        return tuple(map(torch.cat, zip(*rows, strict=True)))

    *there, labels = seen(train, SEARCHED)
    *asked, own = seen(val, ASKED)
    shares = {}
    for kind, mine, others in zip(("hidden", "pixels"), asked, there, strict=True):
        near = nearest(mine, others, NEIGHBOURS)
        shares[f"same_class_by_{kind}"] = float((labels[near] == own[:, None]).float().mean())
    return shares


def nearest(asked: torch.Tensor, there: torch.Tensor, most: int) -> torch.Tensor:
    """The rows of `there` (M, values) nearest by L2 to each of `asked` (N, values): (N, most), nearest first."""
    return torch.cdist(asked, there).topk(most, largest=False).indices


def _of(run: Path) -> tuple[Trained, Split, Split]:
    trained = load(run)
    config = trained.about["config"]
    store = Store(config["data"])
    return trained, store.split(config["train_split"]), store.split(config["val_split"])


def _centre_patches(
    trained: Trained, split: Split, order: NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for batch in batches(split, order, 128):
        yield trained.preprocess.centre(batch.images), batch.labels
