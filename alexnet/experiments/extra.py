"""Extra metrics of a finished run. Each function takes the folders of the run and of its store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from alexnet.data.loader import epoch_order
from alexnet.data.store import Split
from alexnet.inference import centre_crops, last_hidden, nearest, split_for
from alexnet.ops.arena import kept_memory
from alexnet.trained import load

MASKS = 64
"""Dropout masks whose predictions claim dropout averages. Their number is ours."""
NEIGHBOURS, QUERIES = 4000, 1000
"""Training images that can be neighbors, and validation images whose neighbors are searched."""


@torch.no_grad()
def over_masks(run: Path, data: Path) -> dict[str, float]:
    """Compare halved outputs at test with the average over dropout masks (section 4.2).

    The paper calls halving an approximation of the geometric mean of the predictions of all dropout
    networks.

    Returns:
        masked_error: Error with the center crop of the normalized geometric mean over MASKS masks.
        halved_error: Error with the center crop and halved outputs, as in every test.
    """
    trained = load(run)
    val = split_for(trained, data)
    net, masked, halved = trained.net, 0, 0
    with kept_memory(trained.preprocess.device):
        for x, labels in centre_crops(trained, val, np.arange(len(val))):
            # The mean of log-probabilities is the log of the geometric mean; dividing by MASKS and
            # normalizing would not change the argmax. The number of the mask takes the place of the
            # step, so that every call has the same masks.
            net.train()
            sums = sum(F.log_softmax(net(x, dropout_key=(0, mask)), 1) for mask in range(MASKS))
            net.eval()
            assert isinstance(sums, torch.Tensor)
            masked += int((sums.argmax(1).cpu() != labels).sum())
            halved += int((net(x).argmax(1).cpu() != labels).sum())
    return {"masked_error": masked / len(val), "halved_error": halved / len(val)}


@torch.no_grad()
def alike(run: Path, data: Path) -> dict[str, float]:
    """Measure how often the nearest training images have the class of the query (Fig. 4).

    Returns:
        same_class_by_hidden: Share of the six nearest training images that have the class of the
            validation image, by L2 distance in the last hidden layer.
        same_class_by_pixels: The same by L2 distance in the pixels that the network sees.
    """
    trained = load(run)
    train = split_for(trained, data, trained.config.train_split)
    val = split_for(trained, data)

    def sample(split: Split, limit: int) -> tuple[torch.Tensor, ...]:
        """The last hidden layer, the pixels and the labels of up to `limit` images of a split."""
        centred = centre_crops(trained, split, epoch_order(len(split), 0, 0)[:limit])
        # On CUDA the network sees bfloat16. Distances are differences of squares and products,
        # which it would round to 8 bits before they are subtracted.
        rows = [
            (last_hidden(trained, x), x.flatten(1).float().cpu(), labels) for x, labels in centred
        ]
        return tuple(map(torch.cat, zip(*rows, strict=True)))

    *train_rows, train_labels = sample(train, NEIGHBOURS)
    *val_rows, val_labels = sample(val, QUERIES)
    shares = {}
    for space, queries, rows in zip(("hidden", "pixels"), val_rows, train_rows, strict=True):
        same = train_labels[nearest(queries, [rows])] == val_labels[:, None]
        shares[f"same_class_by_{space}"] = float(same.float().mean())
    return shares
