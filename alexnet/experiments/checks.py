"""Which claims can be tested on which stores, and at which scales."""

from __future__ import annotations

import itertools
from typing import get_args

from alexnet import config_checks
from alexnet.data.preprocess import check_sizes
from alexnet.data.store import Store
from alexnet.errors import AlexNetError
from alexnet.experiments.claim import STORED_PX, Claim, Scale
from alexnet.experiments.data_sets import DATA, Part, kind_of
from alexnet.experiments.measures import ENSEMBLE, steady_epochs
from alexnet.experiments.specs import Settings, classes_of


def check(claim: Claim, settings: Settings) -> None:
    """Raises AlexNetError if the claim cannot be tested on this store or at this scale."""
    store, scale = settings.store, settings.scale
    kind = kind_of(store)
    if not claim.arms:
        raise AlexNetError(
            f"{claim.id} needs ImageNet and the recipes themselves; see docs/reproduction.md"
        )
    if scale == "full" and claim.manual_commands:
        raise AlexNetError(
            f"{claim.id} at full scale is not one experiment but a chain of commands: "
            + "; ".join(claim.manual_commands)
        )
    if claim.together is not None and settings.seeds < ENSEMBLE:
        raise AlexNetError(
            f"{claim.id} averages {ENSEMBLE} networks and --seeds is {settings.seeds}; "
            f"use --seeds {ENSEMBLE}, or {2 * ENSEMBLE} for two ensembles"
        )
    # Small images can show a mechanism at a small scale, but are not the data of these claims.
    small_stand_in = DATA[kind].size_px == 64 or (kind == "cifar10" and claim.kinds[-1] != kind)
    if kind not in claim.kinds:
        needs = ", or ".join(DATA[fitting].needs for fitting in claim.kinds)
        raise AlexNetError(
            f"{claim.id} needs {needs}; {store.name} holds "
            f"{len(store.classes)} classes of other images, of {store.size_px} pixels"
        )
    if scale == "full" and small_stand_in:
        largest = DATA[claim.kinds[-1]]
        none = f"{claim.id} has no full scale"
        needs = f"{claim.id} at full scale needs larger images, such as {largest.needs}"
        raise AlexNetError(
            f"{none if largest.size_px == 64 else needs}; on {store.name}, give --scale desk"
        )
    _check_splits(claim, store, settings)
    if claim.learns_first:
        _check_first(claim, settings)
    if DATA[kind].size_px is None and store.size_px < STORED_PX[scale]:
        raise AlexNetError(
            f"{claim.id} at this scale needs images of {STORED_PX[scale]} pixels; "
            "prepare them larger"
        )
    if scale == "full":
        # Below full scale the networks fit the stored sizes.
        for arm in claim.arms:
            config = claim.config(arm, scale, kind)
            input_px, test_px = config.architecture.input_px, config.augment.test_px
            check_sizes(store.size_px, input_px, test_px)
    # At every scale, so that a run at smoke scale, which takes seconds, finds what would otherwise
    # fail after the first run at full scale.
    for arm, of_scale in itertools.product(claim.arms, get_args(Scale)):
        config = claim.config(arm, of_scale, kind)
        config_checks.check(config)
        steady_epochs(config.schedule)


def _check_splits(claim: Claim, store: Store, settings: Settings) -> None:
    """Raise AlexNetError if a store, which may be the first one, lacks a split."""
    config = claim.config(claim.arms[0], settings.scale, kind_of(settings.store))
    missing = {config.train_split, config.val_split} - store.manifest["splits"].keys()
    if missing:
        raise AlexNetError(f"{store.name} has no split {min(missing)!r}, which its training needs")


def _check_first(claim: Claim, settings: Settings) -> None:
    """Raise AlexNetError if the classes that are learned first are of no use."""
    store, first = settings.store, settings.first
    if first is None:
        raise AlexNetError(
            f"{claim.id} learns other classes first; name their store, such as tiny-imagenet-200 "
            f"at {store.size_px} pixels: --first STORE"
        )
    if first.size_px != store.size_px:
        raise AlexNetError(
            f"{first.name} has images of {first.size_px} pixels and {store.name} of "
            f"{store.size_px}; prepare both alike"
        )
    _check_splits(claim, first, settings)
    if len(classes_of(Part(of="new"), store, first)) < 2:
        raise AlexNetError(
            f"{store.name} has fewer than two classes that {first.name} has not; name another "
            "store for --first"
        )
