"""How long the runs of a claim take on this machine, estimated before they begin."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from alexnet.architecture import plan
from alexnet.config import Config
from alexnet.experiments.claim import SEARCH_EPOCHS, Claim
from alexnet.experiments.data_sets import (
    DATA,
    FIRST_CLASSES,
    FIRST_IMAGES,
    NEW_CLASSES,
    NEW_IMAGES,
    Kind,
)

SIZES_OF_PARTS = {
    "first": (FIRST_CLASSES, FIRST_IMAGES, 10_000),
    "new": (NEW_CLASSES, NEW_IMAGES, 7_500),
}
"""Classes, training and validation images where claim pretrain learns tiny-imagenet first."""
SEEDS = 5
"""Seeds whose runs are estimated, as `alexnet reproduce` has by default."""
SHARE_OF_PEAK = 0.5
"""Multiply-adds per second of a network's layers, relative to a large matrix product."""


def usual_kind(claim: Claim) -> Kind:
    """The images on which a claim is tested at desk scale: tiny-imagenet, where it can be."""
    return "tiny-imagenet" if "tiny-imagenet" in claim.kinds else claim.kinds[0]


def claims_s(claims: Sequence[Claim], macs_per_s: float) -> dict[str, float]:
    """Estimate the seconds that the runs of each claim take at desk scale on the usual images.

    A claim without arms has none. Runs that several claims share count for each of them, and runs
    that may end early count in full. Tests after a training, such as ten crops, are left out.

    Args:
        macs_per_s: Peak speed, as `peak_macs_per_s` measures it.
    """
    seconds = {}
    for claim in claims:
        kind = usual_kind(claim)
        data = DATA[kind]
        of_kind = data.classes, data.images, data.val_images
        times = []
        for arm in claim.arms:
            part = claim.part(arm, "desk", kind)
            classes, images, val_images = SIZES_OF_PARTS.get(part.of) or of_kind
            of_each = part.train_of_each or images / classes
            share = (part.classes or classes) / classes
            config = claim.config(arm, "desk", kind)
            sizes = round(share * classes), share * classes * of_each, share * val_images
            epochs = config.schedule.epochs
            searched = len(claim.rates) * min(SEARCH_EPOCHS, epochs) / epochs
            times.append((SEEDS + searched) * run_s(config, *sizes, macs_per_s))
        if times:
            seconds[claim.id] = sum(times)
    return seconds


def run_s(
    config: Config, classes: int, images: float, val_images: float, macs_per_s: float
) -> float:
    """Estimate the seconds of a run.

    The multiply-adds of a forward pass count three times for a training image, since a backward
    pass costs two, and once for an image of the validation after each epoch. All other operations
    have few by comparison.

    Args:
        images: Number of training images.
        val_images: Number of validation images; claim `relu` validates on its training images.
        macs_per_s: As for `claims_s`.
    """
    ops = plan(replace(config.architecture, classes=classes))
    forward_macs = sum(op.multiply_adds for op in ops if op.op == "linear")
    if config.val_split == config.train_split:
        val_images = images
    macs = config.schedule.epochs * (3 * images + val_images) * forward_macs
    return macs / (SHARE_OF_PEAK * macs_per_s)


def peak_macs_per_s(threads: int | None = None) -> float:
    """Multiply-adds per second of a large matrix product on the CPU.

    Args:
        threads: Number of threads; None: as many as PyTorch uses now.
    """
    side, before = 1024, torch.get_num_threads()
    torch.set_num_threads(threads or before)
    a = torch.ones(side, side, device="cpu")
    # The fastest of five: other programs can only make a run slower.
    best_s = math.inf
    for _ in range(5):
        began_s = time.perf_counter()
        a @ a
        best_s = min(best_s, time.perf_counter() - began_s)
    torch.set_num_threads(before)
    return float(side**3 / best_s)
