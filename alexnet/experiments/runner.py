"""Runs what claims compare: each configuration once, in a process of its own, whichever claims need it.

OUT/runs/KEY is a run, its key a digest of everything that decides it, so that claims share runs, finished ones are
used again and an interrupted one goes on. OUT/data/KEY is a part of the store, reduced.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from alexnet.config import LOSSLESS_PX, Config, Steps, StoreSettings
from alexnet.configfile import to_dict
from alexnet.data.loader import epoch_order
from alexnet.data.prepare import prepare
from alexnet.data.sources import Item, Source, SourceSplit
from alexnet.data.store import Store
from alexnet.experiments import job
from alexnet.experiments.claim import STORED_PX, Arm, Claim, Kind, Part, Scale, error_name
from alexnet.experiments.effects import ENSEMBLE, Done
from alexnet.files import write_whole

SEARCH_EPOCHS = 5

said_at_once: Callable[[str], None] = partial(print, flush=True)


@dataclass(frozen=True)
class Terms:
    """The settings of `alexnet reproduce`. jobs: runs side by side, which share the cores."""

    store: Store
    scale: Scale
    seeds: int
    out: Path
    jobs: int = 1
    precision: Literal["auto", "float32"] = "auto"
    """`Config.precision` of every run."""
    say: Callable[[str], None] = said_at_once


@dataclass(frozen=True)
class Wanted:
    """A run to be had, and its place."""

    name: str
    config: Config
    folder: Path


# sha256 of the wnids of ImageNet 2012's 1000 classes in order, joined by newlines.
IMAGENET_SHA256 = "385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd"


def kind_of(store: Store) -> Kind:
    """What a store holds. ImageNet is known by its list of classes alone, so that no other set of
    photographs, of 1000 classes or fewer, counts as the paper's own setting.
    """
    if store.size_px == 32 and "test" in store.manifest["splits"]:
        return "cifar10"
    wnids = hashlib.sha256("\n".join(store.classes).encode()).hexdigest()
    return "imagenet" if wnids == IMAGENET_SHA256 else "photographs"


def check(claim: Claim, terms: Terms) -> None:
    """Raises ValueError when the claim cannot be tested on this store, or at this scale."""
    store, scale = terms.store, terms.scale
    kind = kind_of(store)
    if not claim.arms:
        raise ValueError(
            f"{claim.id} needs ImageNet and the recipes themselves; see docs/reproduction.md"
        )
    if scale == "full" and claim.by_hand:
        raise ValueError(
            f"{claim.id} at full scale is not one experiment but a chain of commands: "
            + "; ".join(claim.by_hand)
        )
    if claim.together is not None and terms.seeds < ENSEMBLE:
        raise ValueError(
            f"{claim.id} averages {ENSEMBLE} networks and --seeds is {terms.seeds}; "
            f"use --seeds {ENSEMBLE}, or {2 * ENSEMBLE} for two ensembles"
        )
    small_stand_in = kind == "cifar10" and claim.kinds[-1] != "cifar10"
    if kind not in claim.kinds or (scale == "full" and small_stand_in):
        needs = (
            "CIFAR-10 prepared at 32 pixels"
            if claim.kinds[0] == "cifar10"
            else "photographs of 112 pixels or more"
        )
        raise ValueError(
            f"{claim.id} needs {needs}; {store.name} holds images of {store.size_px} pixels"
        )
    if kind != "cifar10" and store.size_px < STORED_PX[scale]:
        raise ValueError(
            f"{claim.id} at this scale needs images of {STORED_PX[scale]} pixels; "
            "prepare them larger"
        )
    for part in {arm.part for arm in claim.arms} - {None}:
        assert part is not None
        if part.first_class + part.classes > len(store.classes):
            raise ValueError(
                f"{claim.id} needs ten classes or more; {store.name} has {len(store.classes)}"
            )


def run_ahead(claims: Sequence[Claim], terms: Terms) -> None:
    """What needs no other run, of all claims together: no core waits at the end of one claim for the next."""
    arms = [
        (claim, arm) for claim in claims if not claim.rates for arm in claim.arms if not arm.init
    ]
    wanted = [
        _wanted(claim, arm, seed, terms, {}) for claim, arm in arms for seed in range(terms.seeds)
    ]
    _all(wanted, terms, may_fail=True)


def run(claim: Claim, terms: Terms) -> dict[str, list[Done]]:
    """All runs of a claim, by arm and seed."""
    check(claim, terms)
    factors = _rates(claim, terms)
    results: dict[str, list[Done]] = {}
    for later in (False, True):  # an arm that starts from another's network waits for it
        arms = [arm for arm in claim.arms if bool(arm.init) == later]
        wanted = [
            _wanted(claim, arm, seed, terms, factors) for arm in arms for seed in range(terms.seeds)
        ]
        done = _all(wanted, terms)
        if claim.also is not None and not later:
            done[: terms.seeds] = map(
                partial(_with_more, claim), wanted[: terms.seeds], done[: terms.seeds]
            )
        if claim.together is not None and not later:
            done[: terms.seeds] = _with_ensembles(claim.together, done[: terms.seeds])
        for number, arm in enumerate(arms):
            results[arm.name] = done[number * terms.seeds : (number + 1) * terms.seeds]
    return results


def _with_more(claim: Claim, wanted: Wanted, done: Done) -> Done:
    """With what the claim measures besides; kept beside the run."""
    assert claim.also is not None
    kept = wanted.folder / f"{claim.id}.json"
    if not kept.exists():
        write_whole(kept, json.dumps(claim.also(wanted.folder / "run")).encode())
    return replace(done, also=json.loads(kept.read_text()))


def _with_ensembles(
    measured: Callable[[Sequence[Done]], dict[str, float]], runs: Sequence[Done]
) -> list[Done]:
    """With what is measured of each ensemble of consecutive seeds; a rest belongs to none."""
    done = list(runs)
    for first in range(0, len(done) - ENSEMBLE + 1, ENSEMBLE):
        members = done[first : first + ENSEMBLE]
        shared = measured(members)
        done[first : first + ENSEMBLE] = [
            replace(one, also={**one.also, **shared}) for one in members
        ]
    return done


def _rates(claim: Claim, terms: Terms) -> dict[str, float]:
    """The factor of each arm's learning rate, of those that claim tries the one with the least error early on."""
    factors: dict[str, float] = {}
    if not claim.rates:
        return factors
    tries = [(arm, factor) for arm in claim.arms for factor in claim.rates]
    wanted = []
    for arm, factor in tries:
        one = _wanted(claim, arm, 0, terms, {arm.name: factor})
        assert isinstance(one.config.schedule, Steps)
        short = replace(one.config.schedule, epochs=min(SEARCH_EPOCHS, one.config.schedule.epochs))
        wanted.append(
            _placed(
                f"{claim.id}, {arm.name}, {factor} x rate",
                replace(one.config, schedule=short),
                terms,
            )
        )
    done = _all(wanted, terms, may_fail=True)
    for arm in claim.arms:
        own = [
            (
                result.epochs[-1]["val_error"]
                if len(result.epochs) == SEARCH_EPOCHS
                else len(result.epochs) / 1e3,
                factor,
            )
            for (of, factor), result in zip(tries, done, strict=True)
            if of is arm and result is not None
        ]
        if not own:
            raise ValueError(f"{claim.id}: {arm.name} learns at none of the rates that are tried")
        factors[arm.name] = min(own)[1]
        terms.say(
            f"{claim.id}, {arm.name}: {factors[arm.name]} times the rate was best after {SEARCH_EPOCHS} epochs"
        )
    return factors


def _wanted(claim: Claim, arm: Arm, seed: int, terms: Terms, factors: dict[str, float]) -> Wanted:
    kind = kind_of(terms.store)
    config = claim.config(arm, terms.scale, kind)
    factor = factors.get(arm.name, 1.0)
    bias = config.sgd.bias_rate
    sgd = replace(
        config.sgd, rate=factor * config.sgd.rate, bias_rate=None if bias is None else factor * bias
    )
    store = _part(terms, claim.part(arm, terms.scale, kind))
    init = ""
    if arm.init:
        before = next(other for other in claim.arms if other.name == arm.init)
        init = str(_wanted(claim, before, seed, terms, factors).folder / "run")
    config = replace(
        config,
        seed=seed,
        data=str(store),
        sgd=sgd,
        init=init,
        checkpoint_minutes=1,
        precision=terms.precision,
    )
    return _placed(f"{claim.id}, {arm.name}, seed {seed}", config, terms)


def _placed(name: str, config: Config, terms: Terms) -> Wanted:
    decides = to_dict(
        replace(
            config, recipe="", data="", init=Path(config.init).parent.name if config.init else ""
        )
    )
    del decides["parallel"]  # who computes it
    text = json.dumps([decides, Store(config.data).checksum], sort_keys=True)
    return Wanted(name, config, terms.out / "runs" / hashlib.sha256(text.encode()).hexdigest()[:12])


def _part(terms: Terms, part: Part) -> str:
    """The store itself, or a part of it, reduced and kept lossless."""
    store = terms.store
    size_px = (
        store.size_px if store.size_px <= LOSSLESS_PX else STORED_PX[terms.scale] or store.size_px
    )
    if part == Part() and size_px == store.size_px:
        return store.name
    text = json.dumps([asdict(part), size_px, store.checksum])
    folder = terms.out / "data" / hashlib.sha256(text.encode()).hexdigest()[:12]
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        first, last = part.first_class, part.first_class + (part.classes or len(store.classes))
        splits = tuple(
            _items(store, name, first, last, part.train_of_each if name == "train" else 0)
            for name in store.manifest["splits"]
        )
        source = Source(f"a part of {store.name}: {text}", tuple(store.classes[first:last]), splits)
        lossless = StoreSettings(
            size_px=size_px, encoding="png" if size_px <= LOSSLESS_PX else "ppm"
        )
        prepare(source, folder, lossless)
    return str(folder)


def _items(store: Store, name: str, first: int, last: int, of_each: int) -> SourceSplit:
    """The pictures of classes first..last - 1, in one shuffled order; of_each: of every class so many, 0 for all."""
    split = store.split(name)
    left = dict.fromkeys(range(first, last), of_each or len(split))
    items = []
    for index in epoch_order(len(split), 0, 0).tolist():
        label = int(split.labels[index])
        if left.get(label, 0):
            left[label] -= 1
            items.append(Item(split.name(index), label - first, partial(split.encoded, index)))
    return SourceSplit(name, len(items), lambda start: iter(items[start:]))


def _all(wanted: Sequence[Wanted], terms: Terms, may_fail: bool = False) -> list[Any]:
    """What each gave. Raises ValueError for one that gave no numbers, unless it may (then None)."""
    todo = {one.folder: one for one in wanted if job.read(one.folder) is None}
    began_s, total = time.perf_counter(), len(todo)
    for number, one in enumerate(_worked(todo.values(), terms), 1):
        found = job.read(one.folder)
        said = found if isinstance(found, str) else "ended"
        if isinstance(found, Done):
            said = f"{found.test_error:.2%} {error_name(one.config)}"
        left_min = (time.perf_counter() - began_s) / number * (total - number) / 60
        terms.say(f"{number}/{total} {one.name}: {said}; {left_min:.0f} min left")
    results: list[Any] = []
    for one in wanted:
        found = job.read(one.folder)
        if isinstance(found, Done):
            results.append(found)
        elif isinstance(found, str) and may_fail:
            results.append(None)
        else:
            raise ValueError(f"{one.name} gave no numbers: {found or f'see {one.folder}/log'}")
    return results


def _worked(todo: Iterable[Wanted], terms: Terms) -> Iterator[Wanted]:
    """Each as it ends, so many side by side as terms.jobs says."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    environment = os.environ | {"OMP_NUM_THREADS": str(max(1, cores // terms.jobs))}
    if terms.jobs > 1:
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    waiting, running = list(todo), dict[subprocess.Popen[bytes], Wanted]()
    with _ended_together(running):
        while waiting or running:
            while waiting and len(running) < terms.jobs:
                one = waiting.pop(0)
                one.folder.mkdir(parents=True, exist_ok=True)
                write_whole(one.folder / "wanted.json", json.dumps(to_dict(one.config)).encode())
                with (one.folder / "log").open("ab") as log:
                    command = [sys.executable, "-m", "alexnet.experiments.job", str(one.folder)]
                    running[subprocess.Popen(command, stdout=log, stderr=log, env=environment)] = (
                        one
                    )
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                yield running.pop(process)


@contextmanager
def _ended_together(running: dict[subprocess.Popen[bytes], Wanted]) -> Iterator[None]:
    """Ctrl-C and SIGTERM reach the runs, which save where they are, before this program ends."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()
        signal.signal(signal.SIGTERM, before)
