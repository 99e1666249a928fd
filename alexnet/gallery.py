"""The figures of finished runs: what one says of test pictures and which training pictures lie nearest to them in its
last hidden layer (Fig. 4, of the store it was trained on), how they learned, what they began with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet import figures
from alexnet.data.loader import batches, epoch_order
from alexnet.data.store import Split, Store
from alexnet.evaluation import probabilities
from alexnet.inference import activation
from alexnet.progress import Progress
from alexnet.signal import Signal
from alexnet.train.runlog import read_metrics
from alexnet.weights import Trained, load

# Fig. 4: images on the left and on the right, and neighbours of each.
ANSWERS, ASKED, NEAREST = 8, 5, 6
BEST = 5


def of_run(run: str | Path) -> tuple[Trained, Split, Split]:
    """A run, and the training and validation pictures of its store. Raises ValueError where the store is gone."""
    trained = load(run)
    config = trained.about["config"]
    store = Store(config["data"])
    return trained, store.split(config["train_split"]), store.split(config["val_split"])


def centre_patches(
    trained: Trained, split: Split, order: NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Preprocessed pictures `order` of a split and their labels, in batches."""
    with Progress(f"{len(order)} pictures", len(order), "images") as progress:
        for batch in batches(split, order, 128):
            yield trained.preprocess.centre(batch.images), batch.labels
            progress.advance(len(batch.labels))


def last_hidden(trained: Trained, x: torch.Tensor) -> torch.Tensor:
    """The feature vector of section 6.1, of preprocessed pictures: (N, units) float32."""
    return activation(trained, trained.net.steps[-2].layer.name, x).flatten(1)


def nearest(asked: torch.Tensor, there: torch.Tensor, most: int = NEAREST) -> torch.Tensor:
    """The rows of `there` (M, values) nearest by L2 to each of `asked` (N, values): (N, most), nearest first."""
    return torch.cdist(asked, there).topk(most, largest=False).indices


def answers(run: str | Path) -> Figure:
    """Eight validation pictures and the five classes the run finds likeliest, by its own test."""
    trained, _, val = of_run(run)
    (batch,) = batches(val, epoch_order(len(val), 0, 0)[:ANSWERS], ANSWERS)
    p = probabilities(
        trained.net, trained.preprocess, batch.images, trained.preprocess.augment
    ).cpu()
    best = torch.argsort(p, dim=1, descending=True, stable=True)[:, :BEST].tolist()
    names = trained.names
    found = [
        figures.Answer(picture, names[own], tuple((names[i], float(row[i])) for i in first))
        for picture, own, row, first in zip(
            batch.images.numpy(), batch.labels.tolist(), p, best, strict=True
        )
    ]
    return figures.answers(found)


@torch.no_grad()
def neighbours(run: str | Path) -> Figure:
    """Five validation pictures, each of another class where there are so many, and the six training pictures whose
    last hidden layers are nearest by L2."""
    trained, train, val = of_run(run)
    order = epoch_order(len(val), 0, 0)
    _, first = np.unique(val.labels[order], return_index=True)
    asked = order[np.sort(first)[-ASKED:]]  # not those of `answers`
    every = np.arange(len(train))
    there, own = (
        torch.cat([last_hidden(trained, x) for x, _ in centre_patches(trained, split, which)])
        for split, which in ((train, every), (val, asked))
    )
    return figures.neighbours(
        [
            (_picture(val, i), [_picture(train, j) for j in near])
            for i, near in zip(asked, nearest(own, there), strict=True)
        ]
    )


def curves(runs: Sequence[Path]) -> Figure:
    """Learning curves. Raises ValueError for a folder without metrics."""
    return figures.curves([(run.name, read_metrics(run, "epoch")) for run in runs])


def signals(runs: Sequence[Path]) -> Figure:
    """What the untrained networks saw, layer by layer."""
    starts = [(run.name, read_metrics(run, "start")[0]["signal"]) for run in runs]
    return figures.signals(
        [(name, [Signal(layer, *pair) for layer, pair in seen.items()]) for name, seen in starts]
    )


def _picture(split: Split, index: int) -> NDArray[np.uint8]:
    (batch,) = batches(split, np.array([index]), 1, workers=0)
    picture: NDArray[np.uint8] = batch.images[0].numpy()
    return picture
