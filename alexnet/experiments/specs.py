"""Which runs the claims need: their configurations, stores and folders.

OUT/runs/KEY is a run; its key is a digest of its settings, its images and the kind of device, so
claims share runs, finished runs are used again, and an interrupted run continues. The key does not
depend on the code: after a change of what the code computes, runs need another OUT. OUT/data/KEY is
a reduced part of the store.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from alexnet.config import LOSSLESS_PX, Config, StoreSettings
from alexnet.cores import available_cores
from alexnet.data.loader import epoch_order
from alexnet.data.prepare import prepare
from alexnet.data.resident import should_decode_once
from alexnet.data.sources import Item, Source, SourceSplit
from alexnet.data.store import Store
from alexnet.device import device_type
from alexnet.experiments.bases import with_rates
from alexnet.experiments.claim import STORED_PX, Arm, Claim, Scale
from alexnet.experiments.data_sets import Part, kind_of
from alexnet.saved_config import to_dict

CHECKPOINT_MINUTES = 1
"""`Config.checkpoint_minutes` of a run, apart from full scale. Not 1.0, which would rename all
folders of runs."""


@dataclass(frozen=True)
class Settings:
    """The settings of `alexnet reproduce`."""

    store: Store
    scale: Scale
    seeds: int
    """Runs of each arm; run i has seed i."""
    out: Path
    first: Store | None = None
    """The store of the classes that claim pretrain learns first."""
    jobs: int = 1
    """Runs at the same time, which share the cores and the GPUs."""
    precision: Literal["auto", "float32"] = "auto"
    """`Config.precision` of every run."""


@dataclass(frozen=True)
class RunSpec:
    """A run: its name in messages, its configuration and its folder."""

    name: str
    config: Config
    folder: Path


def plan_run(
    claim: Claim, arm: Arm, seed: int, settings: Settings, factors: dict[str, float]
) -> RunSpec:
    """The run of an arm with a seed; prepares the reduced store that it needs.

    Args:
        factors: Factor of the learning rate by the name of the arm; 1 where an arm has none.
    """
    kind = kind_of(settings.store)
    config = with_rates(claim.config(arm, settings.scale, kind), factors.get(arm.name, 1.0))
    data = _prepared_part(settings, claim.part(arm, settings.scale, kind))
    init = ""
    if arm.init:
        before = next(other for other in claim.arms if other.name == arm.init)
        init = str(plan_run(claim, before, seed, settings, factors).folder / "run")
    config = replace(
        config,
        seed=seed,
        data=data,
        init=init,
        resident=should_decode_once(
            Store(data), config.train_split, device_type(config.device), settings.jobs
        ),
        # Most runs take minutes: at the default of ten an interruption would cost most of one. At
        # full scale a checkpoint has half a gigabyte, and a run takes hours.
        checkpoint_minutes=10 if settings.scale == "full" else CHECKPOINT_MINUTES,
        precision=settings.precision,
    )
    return spec_of(f"{claim.id}, {arm.name}, seed {seed}", config, settings)


def spec_of(name: str, config: Config, settings: Settings) -> RunSpec:
    """The run of a configuration, in the folder whose name is the digest of its settings."""
    # Paths do not decide a result: the store counts by its checksum, the run to start from by its
    # own key, which is the name of its folder. The recipe's name is only a label, and when the
    # images are decoded or the run is saved does not matter.
    init = Path(config.init).parent.name if config.init else ""
    same = replace(
        config,
        recipe="",
        data="",
        init=init,
        resident=False,
        checkpoint_minutes=CHECKPOINT_MINUTES,
    )
    decisive = to_dict(same)
    # The layout of ranks changes who computes a result, not the result.
    del decisive["parallel"]
    # A GPU computes in another precision if none is named, and in another order.
    if (device := device_type(config.device)) != "cpu":
        decisive["device"] = device
    text = json.dumps([decisive, Store(config.data).checksum], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    return RunSpec(name, config, settings.out / "runs" / key)


def classes_of(part: Part, store: Store, first: Store | None) -> list[int]:
    """The positions of a part's classes in its store, which is `first` for a part of that one."""
    if part.of == "new":
        assert first is not None
        return [n for n, name in enumerate(store.classes) if name not in first.classes]
    return list(range(part.first_class, part.first_class + (part.classes or len(store.classes))))


def _prepared_part(settings: Settings, part: Part) -> str:
    """The name of the store that a run reads: the store itself, or a reduced part of it.

    A part is stored without loss, so that images are compressed once at most.
    """
    store = settings.store
    if part.of == "first":
        assert settings.first is not None
        store = settings.first
    size_px = (
        store.size_px
        if store.size_px <= LOSSLESS_PX
        else STORED_PX[settings.scale] or store.size_px
    )
    classes = classes_of(part, store, settings.first)
    has_all = len(classes) == len(store.classes) and not part.train_of_each
    if has_all and size_px == store.size_px:
        return store.name
    # The name of a folder decides which runs are used again: it may not change with new fields.
    named = {"first_class": part.first_class, "classes": part.classes}
    chosen = named | {"train_of_each": part.train_of_each} if part.of == "store" else classes
    text = json.dumps([chosen, size_px, store.checksum])
    folder = settings.out / "data" / hashlib.sha256(text.encode()).hexdigest()[:12]
    # A store that was interrupted is not a folder yet: `prepare` renames it when it is complete.
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        splits = tuple(
            # Only training images are left out: an error on fewer test images is less exact.
            _items(store, name, classes, part.train_of_each if name == "train" else 0)
            for name in store.manifest["splits"]
        )
        names = tuple(store.classes[n] for n in classes)
        # Not the name of the store: the description counts towards the checksum of the part, and
        # paths do not decide a result.
        source = Source(f"a part of a store: {text}", names, splits)
        lossless = StoreSettings(
            size_px=size_px, encoding="png" if size_px <= LOSSLESS_PX else "ppm"
        )
        prepare(source, folder, lossless)
    return str(folder)


def _items(store: Store, name: str, classes: Sequence[int], of_each: int) -> SourceSplit:
    """A split with the images of some classes, in one shuffled order.

    Args:
        classes: Positions of the classes in the store, in the order of their new labels.
        of_each: The number of images of each class; 0: all of them.
    """
    split = store.split(name)
    num_left = dict.fromkeys(classes, of_each or len(split))
    labels = {n: label for label, n in enumerate(classes)}
    items = []
    # The order is that of epoch 0 with seed 0, so that every run sees the same part.
    for index in epoch_order(len(split), 0, 0).tolist():
        n = int(split.labels[index])
        if num_left.get(n, 0):
            num_left[n] -= 1
            # The bytes are read when the item is, so that a part need not fit into memory.
            items.append(Item(split.name(index), labels[n], partial(split.encoded, index)))
    return SourceSplit(name, len(items), lambda start: iter(items[start:]))


def stores_of(specs: Collection[RunSpec]) -> dict[str, Store]:
    """The stores that some runs read, by their names."""
    return {name: Store(name) for name in {spec.config.data for spec in specs}}


def threads_of_a_run(jobs: int) -> int:
    """The number of threads of each of `jobs` runs that share the cores."""
    return max(1, available_cores() // jobs)
