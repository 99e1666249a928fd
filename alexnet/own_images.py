"""From a folder of images to a tested classifier, in one call: `alexnet train FOLDER`.

Each step is a call that a user would make too: prepare, choose a recipe, train, test, write the
page of the run. A run that was interrupted continues where it stopped.
"""

from __future__ import annotations

import itertools
import math
import shlex
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from alexnet import recipes, run_report
from alexnet.checkpoint import read_config
from alexnet.config import Config, Schedule, SmoothSchedule, StoreSettings, scaled
from alexnet.config_checks import check
from alexnet.data import sources
from alexnet.data.augment import sample_augmentation
from alexnet.data.manifest import is_store
from alexnet.data.notes import in_words
from alexnet.data.prepare import prepare, sample_sizes
from alexnet.data.preprocess import Preprocess, check_sizes
from alexnet.data.resident import should_decode_once
from alexnet.data.sources import Source
from alexnet.data.store import Store
from alexnet.device import device_type, dtype_of, resolve
from alexnet.errors import DataError, RunError
from alexnet.evaluation import TEST_COST, Result, crops_name, own_test, same_answer
from alexnet.files import check_outside
from alexnet.model import Network
from alexnet.ops.arena import kept_memory
from alexnet.program import command
from alexnet.saved_config import differences, to_dict
from alexnet.terminal import printable
from alexnet.train.run_log import read_metrics
from alexnet.train.start import fit, resume
from alexnet.trained import load
from alexnet.waiting import yielding

EPOCHS = 10, 200
"""Least and most epochs that are chosen. On flowers 200 err as 150 do (`records/`)."""
TINY_PX, CIFAR_PX = 48, 32
"""Images whose shorter side has fewer pixels than the first number are trained on as CIFAR-10 is,
with the second number of pixels."""
MANY = 20_000
"""From this many tiny training images on, the recipe is cifar_26, which does not augment; with
augmentation an epoch takes twice as long. Both were measured far from this number, at 2,500 and at
50,000 images (docs/log.md)."""
MOST_SKIPPED = 0.1
"""Largest share of the images of a split that may be unreadable. One image of a split may be in any
case: one bad file must not stop a small folder."""
MOST_SEEN = 0.1
"""Largest share of the images to test on that an earlier run may have been trained on, where a run
is said to be able to go on from it."""
MUCH_BETTER = 0.05
"""Difference of an epoch's error from the last one that is worth a line; on few test images errors
of one network differ by two or three points from epoch to epoch."""
TIMED_S = 2.0
"""Least time of the training steps that are timed before a training."""


def train_on(
    folder: str,
    run: Path,
    change: Callable[[Config], Config] = lambda config: config,
    minutes: float | None = None,
    base: Config | None = None,
) -> list[Result]:
    """Prepare a folder of labeled images, train on it, test, and write `report.html` into the run.

    Args:
        folder: A source that `alexnet prepare` reads, or a store.
        run: Folder of the run. The store lies beside it, as `RUN-store`.
        change: Changes the settings of the recipe.
        minutes: Time to train, which a new run makes its number of epochs from, by the speed that
            it measures here; None: the number of epochs of the settings. A run that was begun keeps
            its number.
        base: The recipe; None: the one that is recommended for images of this size.

    Returns:
        The results with the center crop and with the recipe's other test crops.

    Raises:
        DataError: The folder is not a source, or the store beside the run holds other images.
        RunError: The run was begun with other settings.
        Interrupted, NotFinite, BusyError: As `fit` does.
    """
    if is_store(Path(folder)):
        # As a path, so that a slash at the end does not make another name of it.
        store = Store(Path(folder))
        train = next(iter(store.manifest["splits"].values()))
        small = recommended(store.size_px, train["images"])
        others = recipes.modern(), recipes.cifar_26(), recipes.cifar_11()
        config = base or fitting(store.size_px, (small, *others))
        if config is None:
            raise DataError(
                f"no recipe fits the {store.size_px} pixels of {folder}; prepare it with "
                f"--size-px {stored_px(small)}, or {CIFAR_PX} for tiny images"
            )
    else:
        check_outside(run, sources.image_folders(folder), "name a folder elsewhere with --out")
        source = sources.find(folder)
        if not {"val", "test"} & {split.name for split in source.splits}:
            raise DataError(
                f"{folder} has no images to test on beside those to train on; give a class two "
                "images or more, or add a split named val or test"
            )
        config = base or recommended(typical_side_px(source), source.splits[0].count)
        # Before the images are prepared, which may take minutes.
        check(change(config))
        _prepare(source, folder, Path(store_beside(run)), change(config))
        store = Store(store_beside(run))
    # The recipe may test on another split than these images have.
    held_out = [name for name in ("val", "test") if name in store.manifest["splits"]]
    val = held_out[0] if held_out else config.val_split
    asked = change(config)
    # Images that are decoded once are decoded by the CPU, also where the GPU was to do it.
    resident = not asked.gpu_decoding and should_decode_once(
        store, asked.train_split, device_type(asked.device)
    )
    config = replace(config, data=store.name, val_split=val, resident=resident)
    return _train_and_test(change(config), store, run, minutes)


def store_beside(run: Path) -> str:
    """The store of a run that was made from a folder of images."""
    return f"{run}-store"


def recommended(side_px: int, images: int | None = None) -> Config:
    """Return the recipe for images of this size and number.

    Args:
        side_px: Shorter side of a typical image, in pixels.
        images: Number of training images; None: not known, as of a stream, which has many.
    """
    if side_px >= TINY_PX:
        return recipes.modern_small()
    return recipes.cifar_26() if images is None or images >= MANY else recipes.cifar_11()


def fitting(size_px: int, recipes_to_try: Iterable[Config]) -> Config | None:
    """Return the first recipe whose input fits a store, or None.

    Args:
        size_px: Side of the stored images.
    """
    for config in recipes_to_try:
        try:
            check_sizes(size_px, config.architecture.input_px)
        except DataError:
            continue
        return config
    return None


def stored_px(config: Config) -> int:
    """Return the side of the stored images: the input's, or in the paper's proportion of 256 to 224
    where crops are random. The networks for CIFAR-10 see 24 of its 32 pixels.
    """
    px = config.architecture.input_px
    if px < CIFAR_PX:
        return CIFAR_PX
    return round(px * 256 / 224) if config.augment.crops else px


def typical_side_px(source: Source) -> int:
    """Return the median of the shorter sides of some training images, in pixels.

    Raises:
        DataError: None of these images can be read.
    """
    sides = [min(size) for size in sample_sizes(source.splits[0])]
    if not sides:
        raise DataError(
            f"none of the images of {source.description} that were looked at can be read; repair "
            "them or take them out"
        )
    return int(statistics.median(sides))


def _prepare(source: Source, images: str, folder: Path, config: Config) -> None:
    """Prepare the store of a run, or check that it holds this source.

    Args:
        images: Name of the source, as the user gave it.

    Raises:
        DataError: The store holds other images, or is damaged.
    """
    for note in source.notes:
        print(printable(note), file=sys.stderr)
    settings = StoreSettings(size_px=stored_px(config), most_skipped=MOST_SKIPPED)
    if not is_store(folder):
        # `prepare` would refuse it too, but with the options of its own command.
        if folder.exists():
            raise DataError(
                f"{folder} exists and is not a store; move it away, or choose another --out"
            )
        # `alexnet train FOLDER` has no options of its own for the preparation.
        alone = images, folder, "--size-px", settings.size_px, "--most-skipped", MOST_SKIPPED
        manifest = prepare(source, folder, settings, spare=1, arguments=alone)
        print("\n".join(map(printable, in_words(manifest, source.notes))), file=sys.stderr)
        return
    store = Store(folder)
    manifest = store.manifest
    held = {name: split.get("fingerprint") for name, split in manifest["splits"].items()}
    there = {split.name: split.fingerprint for split in source.splits}
    before_px = manifest["settings"]["size_px"]
    if held == there and manifest["source"] != source.description:
        # Streams have no fingerprint, and another folder may have files of the same names.
        raise DataError(
            f"{folder} was prepared from {manifest['source']}, and this is {source.description}; "
            "name the images as you did then, or choose another --out"
        )
    can_go_on = False
    # The manifests of earlier versions do not say.
    archives = manifest.get("archives", source.archives)
    if archives != source.archives:
        was = "archives of other names, sizes or dates"
    elif held != there:
        was, can_go_on = _changes(store, source)
    elif before_px != settings.size_px:
        was = f"{before_px} pixels a side, and this recipe needs {settings.size_px}"
    else:
        print(
            f"{folder}, which was prepared before, is used; images changed since then under their "
            "old names are not in it",
            file=sys.stderr,
        )
        return
    run = str(folder).removesuffix("-store")
    go_on = f" (with --init {shlex.quote(run)} to go on from that run)" if can_go_on else ""
    raise DataError(
        f"{folder} was prepared for {was}; choose another --out{go_on}, or begin again after: "
        f"rm -r {shlex.join([str(folder), run])}"
    )


def _changes(store: Store, source: Source) -> tuple[str, bool]:
    """Say in what a source differs from the store that was prepared from it.

    Returns:
        Words that continue "prepared for", and whether a run on this store can go on with the
        images that the source has now: none has vanished, so none can be tested on under another
        name, and at most MOST_SEEN of those to test on were trained on.
    """
    has_now = f"than {source.description} has now"
    by_another = "or by an earlier version, which held out others"
    # The names in a stream are unknown before it has been read.
    if not all(split.fingerprint for split in source.splits):
        return f"other images {has_now}, {by_another}", False
    splits = {name: store.split(name) for name in store.manifest["splits"]}
    # Counted, since images of two splits may have the same name.
    before = {name: Counter(map(part.name, range(len(part)))) for name, part in splits.items()}
    now = {split.name: Counter(i.name for i in split.items(0)) for split in source.splits}
    all_before, all_now = (sum(names.values(), Counter[str]()) for names in (before, now))
    tested_before, tested_now = (
        sum((names for split, names in of_split.items() if split != "train"), Counter[str]())
        for of_split in (before, now)
    )
    seen = before["train"] & (tested_now - tested_before)
    can_go_on = all_before <= all_now and seen.total() <= MOST_SEEN * tested_now.total()
    entries = store.manifest["splits"].values()
    unreadable = Counter(name for entry in entries for name, _ in entry.get("skipped", []))
    if all_now == all_before + unreadable:
        return f"other labels {has_now}, {by_another}", can_go_on
    return f"other images {has_now}", can_go_on


def _train_and_test(config: Config, store: Store, run: Path, minutes: float | None) -> list[Result]:
    if (run / "config.json").is_file():
        begun = read_config(run)
        if minutes is not None:
            epochs = begun.schedule.epochs
            config = replace(config, schedule=scaled(config.schedule, epochs))
            print(f"{run} was begun with {epochs} epochs, and keeps them", file=sys.stderr)
        # The number of classes is only known from the store, and auto only on the machine.
        asked = replace(
            resolve(config),
            # Another version may have decided otherwise; the result is the same.
            resident=begun.resident,
            architecture=replace(config.architecture, classes=begun.architecture.classes),
            schedule=_as_saved(config.schedule, begun.schedule),
        )
        if to_dict(begun) != to_dict(asked):
            changes = ", ".join(differences(to_dict(begun), to_dict(asked)))
            options = _resumed_with(begun, asked)
            how = "with them" if options else "as it is"
            raise RunError(
                f"{run} was begun with other settings ({changes}); go on {how} by "
                f"`{command('train', '--resume', run, *options)}`, or choose another folder: "
                f"--out {shlex.quote(str(run.with_name(f'{run.name}-2')))}"
            )
        resume(run)
    else:
        epoch_s = _epoch_s(config, store)
        if minutes is not None:
            epochs = epochs_within(60 * minutes, epoch_s)
            config = replace(config, schedule=scaled(config.schedule, epochs))
        _announce(config, store, run, epoch_s, minutes is not None)
        fit(config, run)
    return finish(run)


def _resumed_with(begun: Config, asked: Config) -> list[str]:
    """Return the options with which a resumed run gets these settings; none if it cannot."""
    lr, epochs = asked.sgd.lr, asked.schedule.epochs
    schedule = _as_saved(scaled(begun.schedule, epochs), asked.schedule)
    retuned = replace(begun, sgd=replace(begun.sgd, lr=lr), schedule=schedule)
    if to_dict(retuned) != to_dict(asked):
        return []
    longer = ["--epochs", str(epochs)] if epochs != begun.schedule.epochs else []
    return longer + (["--lr", repr(lr)] if lr != begun.sgd.lr else [])


def _as_saved(schedule: Schedule, saved: Schedule) -> Schedule:
    """Return `saved` where both differ in nothing but the last bits of the warm-up.

    A run that was lengthened has a warm-up that was scaled twice.
    """
    if isinstance(schedule, SmoothSchedule) and isinstance(saved, SmoothSchedule):
        same = replace(schedule, warmup_epochs=saved.warmup_epochs) == saved
        if same and math.isclose(schedule.warmup_epochs, saved.warmup_epochs):
            return saved
    return schedule


def epochs_within(time_s: float, epoch_s: float) -> int:
    """The number of epochs for a time to train, within the limits of `EPOCHS`."""
    least, most = EPOCHS
    # Rounded last: the time may be infinite.
    return int(min(most, max(least, time_s / epoch_s)))


def _epoch_s(config: Config, store: Store) -> float:
    """Measure the seconds that an epoch and its validation take here."""
    images, tests = map(store.num_images, (config.train_split, config.val_split))
    return (images + TEST_COST * tests) * image_s(config, store, TIMED_S)


def finish(run: Path) -> list[Result]:
    """Test a run that is trained, and write its page."""
    test = own_test(run)
    run_report.write(run, test)
    return list(test.results)


def _announce(config: Config, store: Store, run: Path, epoch_s: float, chosen: bool) -> None:
    """Print what will be trained, and how long it will take here.

    Args:
        chosen: Whether the number of epochs was made from the time to train.
    """
    images, tests = map(store.num_images, (config.train_split, config.val_split))
    plural = "" if config.schedule.epochs == 1 else "s"
    minutes = config.schedule.epochs * epoch_s / 60
    least = (
        " (the least; --epochs gives fewer)"
        if chosen and config.schedule.epochs == EPOCHS[0]
        else ""
    )
    print(
        f"{len(store.classes)} classes, {images:,} images to train on and {tests:,} to test on\n"
        f"recipe {config.recipe}, {config.schedule.epochs} epoch{plural}{least} into {run}: "
        f"about {max(1, minutes):,.0f} min on this machine as busy as it is now",
        flush=True,
    )


def report(results: list[Result], run: Path) -> str:
    """Return the text that `alexnet train FOLDER` ends with: errors, the page, what to do next."""
    largest = max(map(sum, results[0].confusion)) / results[0].images
    tests = "\n".join(
        f"  test error, {crops_name(result)}: {result.top1_error:.1%}" for result in results
    )
    # The names are only known to the run, and only needed here.
    names = load(run, device="cpu").names
    warning = f"  {sentence}\n" if (sentence := same_answer(results[-1], names)) else ""
    return (
        f"\n{tests}   (answering the largest class every time: {1 - largest:.1%})\n"
        f"{warning}{_better_epoch(run)}"
        f"  curves, confusions and the worst mistakes: {run / 'report.html'}\n\n"
        "Next:\n"
        f"  {command('predict', run, 'IMAGE...')}\n"
        f"  {command('export', run, f'{run.name}.onnx', '--with-preprocessing')}"
    )


def _better_epoch(run: Path) -> str:
    """A line where the network of an earlier epoch erred much less than the last one."""
    epochs = read_metrics(run, "epoch")
    if not epochs:
        return ""
    best, last = min(epochs, key=lambda m: m["val_error"]), epochs[-1]
    if last["val_error"] - best["val_error"] < MUCH_BETTER:
        return ""
    return (
        f"  epoch {best['epoch']} erred {best['val_error']:.1%} with the center crop; its weights: "
        f"{run / 'best.safetensors'}\n"
    )


def image_s(config: Config, store: Store, least_s: float) -> float:
    """Measure the seconds that a training image takes: augmentation, forward and backward.

    The decoding and the update are not in it, nor what a CUDA graph saves.

    Args:
        least_s: Least time of the steps that are timed; they are at least four. Half of it goes by
            first, and two steps at least: they make what later ones reuse, and on a busy machine
            the threads begin to yield (`alexnet.waiting`), as they do in training.
    """
    classes = len(store.classes)
    config = resolve(replace(config, architecture=replace(config.architecture, classes=classes)))
    device, batch, px = torch.device(config.device), config.sgd.batch, config.architecture.input_px
    net = Network(config.architecture, config.seed).to(device)
    parameters = list(net.parameters())
    preprocess = Preprocess(
        config.augment, store.statistics, px, device, dtype_of(config.precision)
    )
    stored = torch.zeros((batch, store.size_px, store.size_px, 3), dtype=torch.uint8, device="cpu")
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    index = np.arange(batch)
    # The median, since another program may be busy for a moment.
    times_s: list[float] = []
    first_s = time.perf_counter()
    with kept_memory(device), yielding(device):
        for step in itertools.count():
            began_s = time.perf_counter()
            augmentation = sample_augmentation(
                config.augment, store.statistics, px, config.seed, step, index, index
            )
            loss = F.cross_entropy(net(preprocess(stored, augmentation)).float(), labels)
            # Reading a gradient waits for a GPU.
            float(torch.autograd.grad(loss, parameters)[0].sum())
            if step >= 2 and began_s - first_s >= least_s / 2:
                times_s.append(time.perf_counter() - began_s)
            if len(times_s) >= 4 and sum(times_s) >= least_s:
                break
    return statistics.median(times_s) / batch
