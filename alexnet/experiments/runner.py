"""Runs what the claims compare.

Each configuration runs once, in a process of its own, no matter how many claims need it.
OUT/runs/KEY is a run; its key is a digest of its settings, its images and the kind of device, so
claims share runs, finished runs are used again, and an interrupted run continues. The key does not
depend on the code: after a change of what the code computes, runs need another OUT. OUT/data/KEY is
a reduced part of the store.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from alexnet import config_checks
from alexnet.config import LOSSLESS_PX, Config, StepSchedule, StoreSettings
from alexnet.cores import JOBS, available_cores
from alexnet.data.loader import epoch_order
from alexnet.data.prepare import prepare
from alexnet.data.preprocess import check_sizes
from alexnet.data.resident import should_decode_once
from alexnet.data.sources import Item, Source, SourceSplit
from alexnet.data.sources.cifar import CIFAR_CLASSES
from alexnet.data.store import Store
from alexnet.device import device_type
from alexnet.errors import AlexNetError, RunError
from alexnet.evaluation import QUARTER
from alexnet.experiments import cost, job
from alexnet.experiments.claim import (
    NEEDS,
    OF_64_PX,
    SMALL_IMAGES,
    STORED_PX,
    Arm,
    Claim,
    Kind,
    Part,
    Scale,
    error_name,
)
from alexnet.experiments.effects import ENSEMBLE, RunResult, epochs_to, steady_epochs
from alexnet.files import size, write_whole
from alexnet.progress import Progress, duration
from alexnet.saved_config import to_dict
from alexnet.train.folder import checkpoint_bytes
from alexnet.train.run_log import read_metrics

LOOK_EVERY_S = 3.0
"""Time between two looks at how far the runs are."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that says which GPUs a process has."""
CHECKPOINT_MINUTES = 1
"""`Config.checkpoint_minutes` of a run, apart from full scale. Not 1.0, which would rename all
folders of runs."""
SEARCH_EPOCHS = 5
"""Length of a run of the search for a learning rate."""

print_now: Callable[[str], None] = partial(print, flush=True)


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
    say: Callable[[str], None] = print_now


@dataclass(frozen=True)
class RunSpec:
    """A run: its name in messages, its configuration and its folder."""

    name: str
    config: Config
    folder: Path


# sha256 of the wnids of ImageNet 2012's 1000 classes in order, joined by newlines.
IMAGENET_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"
# The same of the 200 classes of tiny-imagenet-200.
TINY_IMAGENET_SHA256 = "add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8"
# The same of the 100 classes of mini-ImageNet.
MINI_IMAGENET_SHA256 = "1b4824645ca6499eae20325be027c6a1b408e7adf003ea4a544cf3b84b10a170"


def kind_of(store: Store) -> Kind:
    """The kind of data in a store.

    Each set is recognized by the names of its classes, so that no other images count as the paper's
    own setting.
    """
    cifar10 = set(CIFAR_CLASSES) == {name.lower() for name in store.classes}
    if store.size_px == 32 and cifar10 and "test" in store.manifest["splits"]:
        return "cifar10"
    wnids = hashlib.sha256("\n".join(store.classes).encode()).hexdigest()
    if store.size_px == 64 and wnids == TINY_IMAGENET_SHA256:
        return "tiny-imagenet"
    if store.size_px == 64 and wnids == MINI_IMAGENET_SHA256:
        return "mini-imagenet"
    return "imagenet" if wnids == IMAGENET_SHA256 else "photographs"


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
    small_stand_in = kind in OF_64_PX or (kind == "cifar10" and claim.kinds[-1] != kind)
    if kind not in claim.kinds:
        raise AlexNetError(
            f"{claim.id} needs {NEEDS[claim.kinds[0]]}; {store.name} holds "
            f"{len(store.classes)} classes of other images, of {store.size_px} pixels"
        )
    if scale == "full" and small_stand_in:
        largest = claim.kinds[-1]
        none = f"{claim.id} has no full scale"
        needs = f"{claim.id} at full scale needs larger images, such as {NEEDS[largest]}"
        raise AlexNetError(
            f"{none if largest in OF_64_PX else needs}; on {store.name}, give --scale desk"
        )
    _check_splits(claim, store, settings)
    if claim.learns_first:
        _check_first(claim, settings)
    if kind not in SMALL_IMAGES and store.size_px < STORED_PX[scale]:
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


def run_ahead(claims: Sequence[Claim], settings: Settings) -> None:
    """Run everything that does not depend on another run, for all claims together.

    One list for all claims keeps the cores busy: claim by claim, they would wait for the last run
    of each claim.
    """
    arms = [
        (claim, arm) for claim in claims if not claim.rates for arm in claim.arms if not arm.init
    ]
    specs = [
        plan_run(claim, arm, seed, settings, {})
        for claim, arm in arms
        for seed in range(settings.seeds)
    ]
    run_all(specs, settings, may_fail=True, may_crash=True)


def run(claim: Claim, settings: Settings) -> dict[str, list[RunResult]]:
    """Run a claim.

    Returns:
        The results of each arm, one for each seed.

    Raises:
        AlexNetError: The claim cannot be tested here, or a run has no numbers.
    """
    check(claim, settings)
    factors = _search_rates(claim, settings)
    results: dict[str, list[RunResult]] = {}
    seeds = settings.seeds
    # An arm that starts from the network of another arm has to wait for it.
    for needs_init in (False, True):
        arms = [arm for arm in claim.arms if bool(arm.init) == needs_init]
        specs = [
            plan_run(claim, arm, seed, settings, factors) for arm in arms for seed in range(seeds)
        ]
        run_results = run_all(specs, settings)
        # Extra metrics are those of the first arm, whose runs are the first of the list.
        if claim.extra_metrics is not None and not needs_init:
            run_results[:seeds] = map(
                partial(_with_extra_metrics, claim), specs[:seeds], run_results[:seeds]
            )
        if claim.together is not None and not needs_init:
            run_results[:seeds] = _with_ensembles(claim.together, run_results[:seeds])
        for number, arm in enumerate(arms):
            results[arm.name] = run_results[number * seeds : (number + 1) * seeds]
    return results


def _with_extra_metrics(claim: Claim, spec: RunSpec, result: RunResult) -> RunResult:
    """The result with the claim's extra metrics, which are kept in a file beside the run."""
    measure = claim.extra_metrics
    assert measure is not None
    # Named by the text of the function, so that one that has changed measures the run anew.
    text = hashlib.sha256(inspect.getsource(measure).encode()).hexdigest()[:8]
    path = spec.folder / f"{claim.id}-{text}.json"
    if not path.exists():
        write_whole(path, json.dumps(measure(spec.folder / "run")).encode())
    return replace(result, extra_metrics=json.loads(path.read_text()))


def _with_ensembles(
    measure: Callable[[Sequence[RunResult]], dict[str, float]], runs: Sequence[RunResult]
) -> list[RunResult]:
    """The results with the metrics of their ensemble.

    An ensemble is `ENSEMBLE` consecutive seeds; what is left over belongs to no ensemble.
    """
    results = list(runs)
    for first in range(0, len(results) - ENSEMBLE + 1, ENSEMBLE):
        members = results[first : first + ENSEMBLE]
        shared = measure(members)
        results[first : first + ENSEMBLE] = [
            replace(member, extra_metrics={**member.extra_metrics, **shared}) for member in members
        ]
    return results


def _search_rates(claim: Claim, settings: Settings) -> dict[str, float]:
    """The factor of the learning rate for each arm: the one with the lowest error early on.

    Raises AlexNetError if an arm learns at none of the rates.
    """
    factors: dict[str, float] = {}
    if not claim.rates:
        return factors
    trials = [(arm, factor) for arm in claim.arms for factor in claim.rates]
    specs = []
    for arm, factor in trials:
        spec = plan_run(claim, arm, 0, settings, {arm.name: factor})
        # A smooth schedule would fall within the search, which compares early errors.
        assert isinstance(spec.config.schedule, StepSchedule)
        num_epochs = min(SEARCH_EPOCHS, spec.config.schedule.epochs)
        config = replace(spec.config, schedule=replace(spec.config.schedule, epochs=num_epochs))
        specs.append(_spec_of(f"{claim.id}, {arm.name}, {factor} x rate", config, settings))
    results = run_all(specs, settings, may_fail=True)
    planned_epochs = [spec.config.schedule.epochs for spec in specs]
    for arm in claim.arms:
        scores = [
            (
                # A run that ended early has reached the claim's error: the sooner the better, and
                # dividing by 1000 ranks it before every run that has not.
                result.epochs[-1]["val_error"]
                if len(result.epochs) == planned
                else epochs_to(QUARTER, result) / 1e3,
                factor,
            )
            for (trial_arm, factor), planned, result in zip(
                trials, planned_epochs, results, strict=True
            )
            if trial_arm is arm and result is not None
        ]
        if not scores:
            raise AlexNetError(f"{claim.id}: {arm.name} learns at none of the rates that are tried")
        factors[arm.name] = min(scores)[1]
        settings.say(
            f"{claim.id}, {arm.name}: {factors[arm.name]} times the rate was best after "
            f"{max(planned_epochs)} epochs"
        )
    return factors


def _with_rates(config: Config, factor: float) -> Config:
    """The configuration with this factor of all learning rates, which so keep their ratios."""
    sgd, schedule = config.sgd, config.schedule
    sgd = replace(
        sgd,
        lr=factor * sgd.lr,
        bias_lr=None if sgd.bias_lr is None else factor * sgd.bias_lr,
        bias_lr_of=tuple((layer, factor * lr) for layer, lr in sgd.bias_lr_of),
    )
    if isinstance(schedule, StepSchedule):
        lrs = tuple(replace(each, lr=factor * each.lr) for each in schedule.layer_lrs)
        schedule = replace(schedule, layer_lrs=lrs)
    return replace(config, sgd=sgd, schedule=schedule)


def plan_run(
    claim: Claim, arm: Arm, seed: int, settings: Settings, factors: dict[str, float]
) -> RunSpec:
    """The run of an arm with a seed; prepares the reduced store that it needs.

    Args:
        factors: Factor of the learning rate by the name of the arm; 1 where an arm has none.
    """
    kind = kind_of(settings.store)
    config = _with_rates(claim.config(arm, settings.scale, kind), factors.get(arm.name, 1.0))
    store = _part(settings, claim.part(arm, settings.scale, kind))
    init = ""
    if arm.init:
        before = next(other for other in claim.arms if other.name == arm.init)
        init = str(plan_run(claim, before, seed, settings, factors).folder / "run")
    config = replace(
        config,
        seed=seed,
        data=str(store),
        init=init,
        resident=should_decode_once(
            Store(str(store)), config.train_split, device_type(config.device), settings.jobs
        ),
        # Most runs take minutes: at the default of ten an interruption would cost most of one. At
        # full scale a checkpoint has half a gigabyte, and a run takes hours.
        checkpoint_minutes=10 if settings.scale == "full" else CHECKPOINT_MINUTES,
        precision=settings.precision,
    )
    return _spec_of(f"{claim.id}, {arm.name}, seed {seed}", config, settings)


def _spec_of(name: str, config: Config, settings: Settings) -> RunSpec:
    """The run of a configuration, in the folder whose name is the digest of its settings."""
    # Paths do not decide a result: the store counts by its checksum, the run to start from by its
    # own key, which is the name of its folder. The recipe's name is only a label, and when the
    # images are decoded or the run is saved does not matter.
    init = Path(config.init).parent.name if config.init else ""
    same = replace(config, resident=False, checkpoint_minutes=CHECKPOINT_MINUTES)
    decisive = to_dict(replace(same, recipe="", data="", init=init))
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


def _part(settings: Settings, part: Part) -> str:
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
    of = named | {"train_of_each": part.train_of_each} if part.of == "store" else classes
    text = json.dumps([of, size_px, store.checksum])
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
        source = Source(f"a part of {store.name}: {text}", names, splits)
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


def run_all(
    specs: Sequence[RunSpec], settings: Settings, may_fail: bool = False, may_crash: bool = False
) -> list[Any]:
    """Run all that has not been run before.

    Args:
        may_fail: A run whose loss was not finite gives None instead of an error.
        may_crash: So does a run whose process has failed for another reason.

    Returns:
        The result of each run, in the order given.

    Raises:
        AlexNetError: A run gave no numbers, and is not one that may.
    """
    # By folder, since two specs with the same key are the same run.
    pending = {spec.folder: spec for spec in specs if job.read(spec.folder) is None}
    began_s, total = time.perf_counter(), len(pending)
    _announce(pending.values(), settings)
    for number, spec in enumerate(_run_processes(pending.values(), settings), 1):
        result = job.read(spec.folder)
        summary = result if isinstance(result, str) else f"failed, see {spec.folder}/log"
        if isinstance(result, RunResult):
            summary = f"{result.test_error:.2%} {error_name(spec.config)}"
        # An estimate: as if the runs that are left took as long as those before them.
        left_s = (time.perf_counter() - began_s) / number * (total - number)
        settings.say(f"{number}/{total} {spec.name}: {summary}; {duration(left_s)} left")
    results: list[Any] = []
    for spec in specs:
        result = job.read(spec.folder)
        if isinstance(result, RunResult):
            results.append(result)
        elif may_crash or (may_fail and isinstance(result, str)):
            results.append(None)
        else:
            raise AlexNetError(f"{spec.name} gave no numbers: {result or f'see {spec.folder}/log'}")
    return results


def _announce(specs: Collection[RunSpec], settings: Settings) -> None:
    """Say how many runs there are, what they write, and on a CPU about how long they take."""
    if not specs:
        return
    at_once = min(settings.jobs, len(specs))
    text = "1 run" if len(specs) == 1 else f"{len(specs)} runs, {at_once} at a time"
    stores = _stores(specs)
    # The small networks of the other scales leave little.
    if settings.scale == "full":
        kept = sum(_kept_bytes(spec, stores[spec.config.data]) for spec in specs)
        text += f", which keep {size(kept)} in {settings.out}"
    # The estimate does not hold on a GPU, which small networks do not fill, nor at smoke scale,
    # where the start of each process takes most of the time.
    on_cpu = all(device_type(spec.config.device) == "cpu" for spec in specs)
    if on_cpu and settings.scale != "smoke":
        macs_per_s = at_once * cost.peak_macs_per_s(threads_of_a_run(settings.jobs))
        seconds, ends_early = 0.0, False
        for spec in specs:
            store, epochs = stores[spec.config.data], spec.config.schedule.epochs
            images = store.num_images(spec.config.train_split)
            val_images = store.num_images(spec.config.val_split)
            whole_s = cost.run_s(spec.config, len(store.classes), images, val_images, macs_per_s)
            seconds += whole_s * (1 - _epochs_done(spec) / epochs)
            ends_early |= getattr(spec.config.schedule, "until_error", None) is not None
        about = "at most about" if ends_early else "about"
        text += f": {about} {duration(seconds)} on this machine"
    settings.say(f"{text}. Ctrl-C stops them, and the same command continues.")


def _kept_bytes(spec: RunSpec, store: Store) -> int:
    """The size of what a run keeps: its two checkpoints, and its predictions."""
    architecture = replace(spec.config.architecture, classes=len(store.classes))
    config = replace(spec.config, architecture=architecture)
    predictions = 4 * store.num_images(config.val_split) * len(store.classes)
    return sum(checkpoint_bytes(config, store.size_px)) + predictions


def threads_of_a_run(jobs: int) -> int:
    """The number of threads of each of `jobs` runs that share the cores."""
    return max(1, available_cores() // jobs)


def _run_processes(specs: Collection[RunSpec], settings: Settings) -> Iterator[RunSpec]:
    """Start a process for each run, `settings.jobs` at a time, and yield each run as it ends."""
    # Each run would otherwise start a thread for every core, and on CUDA a decoder, too. Not by
    # `Config.workers`, which the key of a run has.
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads_of_a_run(settings.jobs)),
        JOBS: str(settings.jobs),
    }
    # Each run would otherwise take the first GPU.
    gpus: list[str | None] = [*_gpus()] or [None]
    free = [gpus[number % len(gpus)] for number in range(settings.jobs)]
    taken = dict[subprocess.Popen[bytes], str | None]()
    if settings.jobs > 1:
        # By default the threads of OpenMP spin while they wait, and take the cores of other runs.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    waiting, running = list(specs), dict[subprocess.Popen[bytes], RunSpec]()
    stores = _stores(specs)
    images = {
        spec.folder: stores[spec.config.data].num_images(spec.config.train_split) for spec in specs
    }
    total = sum(spec.config.schedule.epochs * images[spec.folder] for spec in specs)
    ended = 0

    def presented() -> int:
        current = (_epochs_done(spec) * images[spec.folder] for spec in running.values())
        return ended + sum(current)

    with _ended_together(running):
        while waiting or running:
            while waiting and len(running) < settings.jobs:
                spec = waiting.pop(0)
                spec.folder.mkdir(parents=True, exist_ok=True)
                config = json.dumps(to_dict(spec.config)).encode()
                write_whole(spec.folder / job.CONFIG_FILE, config)
                with (spec.folder / "log").open("ab") as log:
                    command = [sys.executable, "-m", "alexnet.experiments.job", str(spec.folder)]
                    gpu = free.pop(0)
                    of_gpu = {} if gpu is None else {VISIBLE: gpu}
                    process = subprocess.Popen(
                        command, stdout=log, stderr=log, env=environment | of_gpu
                    )
                running[process], taken[process] = spec, gpu
            # Closed before a run is yielded, because the caller then says how the run ended.
            with Progress("training", total, "presentations", presented()) as bar:
                processes = _wait_for_any(running, presented, bar)
            for process in processes:
                spec = running.pop(process)
                free.append(taken.pop(process))
                # All of them, also where a run has reached its error early.
                ended += spec.config.schedule.epochs * images[spec.folder]
                yield spec


def _gpus() -> list[str]:
    """The names of several GPUs, as `VISIBLE` lists them; empty if there are not several."""
    count = torch.cuda.device_count()
    if count < 2:
        return []
    # Those that the user leaves to this program, by number or by name.
    listed = os.environ.get(VISIBLE)
    names = listed.split(",") if listed else map(str, range(count))
    return [name.strip() for name in names][:count]


def _wait_for_any(
    processes: Collection[subprocess.Popen[bytes]], presented: Callable[[], int], bar: Progress
) -> list[subprocess.Popen[bytes]]:
    """Wait until a process has ended, and return all that have.

    Args:
        presented: Counts the images that the runs have been trained on, by their finished epochs.
    """
    before, looked_s = presented(), time.perf_counter()
    # Polling: there is no portable call that waits for the first of several processes.
    while not (ended := [process for process in processes if process.poll() is not None]):
        time.sleep(0.1)
        # Less often, because the files of metrics grow with the runs.
        if time.perf_counter() - looked_s >= LOOK_EVERY_S:
            now, looked_s = presented(), time.perf_counter()
            if now > before:
                bar.advance(now - before)
                before = now
    return ended


def _stores(specs: Collection[RunSpec]) -> dict[str, Store]:
    """The stores that some runs read, by their names."""
    return {name: Store(name) for name in {spec.config.data for spec in specs}}


def _epochs_done(spec: RunSpec) -> int:
    """The number of epochs that a run has finished so far."""
    # A run that has only begun has no metrics; and runs must not end because a disk is slow.
    with suppress(RunError, OSError):
        return len(read_metrics(spec.folder / "run", "epoch"))
    return 0


@contextmanager
def _ended_together(running: dict[subprocess.Popen[bytes], RunSpec]) -> Iterator[None]:
    """End all runs before this program ends.

    Ctrl-C and SIGTERM are passed on to the runs, and each saves a checkpoint before it ends.
    """

    def stop(number: int, frame: Any) -> None:
        # SIGTERM takes the same way out as Ctrl-C: through `finally` below. The exit code of the
        # program is made from the number.
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # All signals first, then the waiting, so that the runs save at the same time.
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()
        signal.signal(signal.SIGTERM, before)
