"""Records of claims: one JSON file for each claim, kind of data and scale.

A record holds runs and configurations, never effects. Effects are computed when it is read, so that
no stored value can disagree with the runs or with the current measure.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from alexnet.config import Config, SmoothSchedule, StepSchedule
from alexnet.cores import available_cores
from alexnet.data.store import Store
from alexnet.experiments.claim import Arm, Claim, Effect, Scale
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.data_sets import Part, kind_of
from alexnet.experiments.estimates import estimate, holm
from alexnet.experiments.measures import RunResult
from alexnet.experiments.record import Record, Row
from alexnet.experiments.specs import Settings, classes_of, threads_of_a_run
from alexnet.files import write_whole
from alexnet.provenance import PACKAGE, code_version, machine
from alexnet.saved_config import differences, from_dict, to_dict
from alexnet.terminal import print_if_read


def new_record(
    claim: Claim, results: dict[str, list[RunResult]], settings: Settings
) -> dict[str, Any]:
    """The record of a claim that was run, as JSON values."""
    store, first, kind = settings.store, settings.first, kind_of(settings.store)
    # What is said of the store that claim pretrain learns first.
    of_first: dict[str, Any] = {}
    if claim.learns_first and first is not None:
        new = classes_of(Part(of="new"), store, first)
        described = _described(first) | {"checksum": first.checksum}
        of_first = {"first_store": described, "new_classes": len(new)}
    # The command names the precision only if it is not the default.
    named = f" --first {shlex.quote(first.name)}" if first is not None and of_first else ""
    precision = "" if settings.precision == "auto" else f" --precision {settings.precision}"
    made_in = _environment_of(results, settings.jobs)
    # So many runs share the cores: the threads of a run decide the order of its sums. A command
    # with other --jobs may have made the runs.
    num_jobs, threads = settings.jobs, made_in["threads"]
    if isinstance(threads, int) and made_in["machine"] == machine():
        divided = max(1, available_cores() // threads)
        num_jobs = divided if threads_of_a_run(num_jobs) != threads else num_jobs
    jobs = "" if num_jobs == 1 else f" --jobs {num_jobs}"
    return {
        "claim": claim.id,
        "on": kind,
        "scale": settings.scale,
        "command": f"alexnet reproduce {claim.id} --data {shlex.quote(store.name)}{named} "
        f"--scale {settings.scale} --seeds {settings.seeds}{jobs}{precision}",
        "store": _described(store),
        "store_checksum": store.checksum,
        **of_first,
        "code": code_version(),
        "environment": made_in,
        "parts": {arm.name: asdict(claim.part(arm, settings.scale, kind)) for arm in claim.arms},
        "configs": {
            arm.name: to_dict(
                replace(claim.config(arm, settings.scale, kind), precision=settings.precision)
            )
            for arm in claim.arms
        },
        "arms": {name: [_run(run) for run in runs] for name, runs in results.items()},
    }


def _described(store: Store) -> dict[str, Any]:
    """What a record says of a store. The keys are those of all records, and may not change."""
    images = {name: split["images"] for name, split in store.manifest["splits"].items()}
    return {"images": images, "classes": len(store.classes), "size_px": store.size_px}


def environment(jobs: int) -> dict[str, Any]:
    """What decides the last digits of a run beside the code, because sums have another order.

    Args:
        jobs: Number of runs at the same time.
    """
    return {
        "torch": torch.__version__,
        "machine": machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads_of_a_run(jobs),
    }


def _environment_of(results: dict[str, list[RunResult]], jobs: int) -> dict[str, Any]:
    """The environment of runs, which another command or machine may have made.

    Several values of an entry are one text. An entry that a run does not name is that of now.
    """
    environments: dict[str, Any] = {}
    for key, now in environment(jobs).items():
        values = {run.origin.get(key, now) for runs in results.values() for run in runs} or {now}
        one, *others = values
        environments[key] = "; ".join(sorted(map(str, values))) if others else one
    return environments


def _run(result: RunResult) -> dict[str, Any]:
    """A run as a record keeps it, and `RunResult.from_json` reads it.

    The keys are those of all records, and may not change.
    """
    names = (
        *("test_error", "top5_error", "centre_error", "train_error"),
        *("images_per_s", "rate", "colour", "products", "origin"),
    )
    # "also" is the key of the extra metrics in every record that exists.
    extra = {"also": result.extra_metrics}
    return {name: getattr(result, name) for name in names} | extra | {"epochs": list(result.epochs)}


def write(raw: dict[str, Any], folder: Path) -> Path:
    """Write a record to FOLDER/CLAIM-KIND-SCALE.json and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{raw['claim']}-{raw['on']}-{raw['scale']}.json"
    if path.exists() and _must_be_kept(path, raw):
        # Of several such records each keeps a file.
        data, files = path.read_bytes(), (path.with_suffix(f".json.{n}.bak") for n in count(1))
        before = next(file for file in files if not file.exists() or file.read_bytes() == data)
        # Copied and not renamed: a full disk or a kill may leave no new record behind.
        write_whole(before, data)
        print_if_read(
            "the record before, of other images, another device or more seeds, or damaged, is "
            f"{before}",
            err=True,
        )
    write_whole(path, text_of(raw).encode())
    return path


def text_of(raw: dict[str, Any]) -> str:
    """The JSON text of a record: indented, with one line for each epoch of a run."""
    # A list or an object that holds none. Strings have no line ends, so that they stay as they are.
    innermost = re.compile(r"[\[{][^\[\]{}]*[\]}]")
    return innermost.sub(lambda m: re.sub(r"\n *", " ", m[0]), json.dumps(raw, indent=1)) + "\n"


def _must_be_kept(path: Path, raw: dict[str, Any]) -> bool:
    """Whether `raw` may not take the place of a record: of one that is of another store or device,
    has more runs, or cannot be read."""
    try:
        old = json.loads(path.read_text())
        most = [max(map(len, record["arms"].values())) for record in (old, raw)]
        others = any(old.get(of) != raw.get(of) for of in ("store_checksum", "first_store"))
        others |= _devices(old) != _devices(raw)
        return others or most[0] > most[1]
    except (KeyError, TypeError, ValueError, AttributeError):
        return True


def _devices(raw: dict[str, Any]) -> set[tuple[str, str]]:
    """The devices and precisions of the runs of a record."""
    origins = [run.get("origin", {}) for runs in raw["arms"].values() for run in runs]
    # Runs without an origin are older than the runs on a GPU.
    return {(one.get("device", "cpu"), one.get("precision", "float32")) for one in origins}


def opened(raw: dict[str, Any]) -> Record:
    """Compute the effects of a record from its runs."""
    # Exactly one: a record of an unknown claim is an error.
    (claim,) = (claim for claim in CLAIMS if claim.id == raw["claim"])
    # So is one of data that the claim is no longer tested on.
    if raw["on"] not in claim.kinds:
        raise ValueError(f"claim {claim.id} is not tested on {raw['on']}")
    configs = {name: from_dict(Config, config) for name, config in raw["configs"].items()}
    # Predictions are not recorded. The measures that need them keep theirs in `extra_metrics`.
    results = {
        name: [RunResult.from_json(run, configs[name]) for run in runs]
        for name, runs in raw["arms"].items()
    }
    rows = tuple(
        Row(
            effect,
            estimate(effect.values(results), effect.none, effect.one_sided),
            _repeat(claim, effect, raw),
        )
        for effect in claim.effects
        if not effect.top5 or _have_top5(effect, results)
    )
    return Record(claim, raw, results, rows)


def _have_top5(effect: Effect, results: dict[str, list[RunResult]]) -> bool:
    return all(run.top5_error is not None for name in effect.arms for run in results[name])


SCALES: tuple[Scale, ...] = ("full", "desk", "smoke")
RESULTS: tuple[Scale, ...] = ("full", "desk")
"""Scales with results. A run at smoke scale is a test of the program."""


OWN = Path("records/claims")
"""Folder of the records that are made here; in a checkout, that of the project's own."""


def shipped() -> Path:
    """Folder of the records that come with this code: in an installed wheel, or in a checkout."""
    in_wheel = PACKAGE / "experiments" / "recorded"
    return in_wheel if in_wheel.is_dir() else PACKAGE.parent / OWN


def read(folder: Path | None, scales: Sequence[Scale] = SCALES) -> list[Record]:
    """Read the records of a folder that have one of the scales.

    Args:
        folder: None for the records that come with this code; a record of the same name in OWN
            takes the place of one of them.

    Returns:
        The records in the order of the claims; of one claim, the largest scale first. The p values
        are adjusted over the rows of all records.
    """
    folders = [shipped(), OWN] if folder is None else [folder]
    # In a checkout the two are the same.
    if folders[-1].resolve() == folders[0].resolve():
        del folders[1:]
    records: dict[str, Record] = {}
    for path in (path for parent in folders for path in sorted(parent.glob("*.json"))):
        try:
            raw = json.loads(path.read_text())
            if raw["scale"] in scales:
                record = opened(raw)
                # These fail for a file that lacks something, which has to be found here.
                for row in record.rows:
                    record.setting(row)
                record.errors(), record.raw["command"], record.raw["store_checksum"]
                records[path.name] = record
        # A user's own file may be of another version, or of something else. In a checkout it lies
        # among those that come with the code.
        except (AttributeError, LookupError, ArithmeticError, TypeError, ValueError) as error:
            print(f"warning: {path} is no record of this version: {error!r}", file=sys.stderr)
    return adjusted(_without_dropout(sorted(records.values(), key=_place)))


def _without_dropout(records: Sequence[Record]) -> list[Record]:
    """Add the training error without dropout to the records whose first arm is of the same net.

    On the same images another net may be measured: with dropout, its training error says little of
    what it could learn.
    """

    def images_of(record: Record) -> tuple[Any, ...]:
        raw = record.raw
        # Read, because the file may lack fields that are new.
        part = Part(**raw["parts"][record.claim.arms[0].name])
        # Other kinds of data are one set of images each. The checksum of a store tells more than
        # its images apart: its source is named in it, for example.
        images = raw["store_checksum"] if raw["on"] == "photographs" else raw["on"]
        return raw["scale"], images, part

    def net_of(record: Record) -> Config:
        # Without what is the user's choice, as in `_changes`.
        config = record.config(record.claim.arms[0].name)
        return replace(config, precision="auto", workers=None)

    measured = [
        (
            images_of(record),
            net_of(record),
            mean(run.train_error for run in record.results["no dropout"]),
        )
        for record in records
        if record.claim.id == "dropout"
    ]
    found = []
    for record in records:
        same = [(net, error) for images, net, error in measured if images == images_of(record)]
        error = next((error for net, error in same if net == net_of(record)), None)
        # Claim images has a net without dropout for each number of images.
        others = bool(same) and not record.claim.numbers_of_images
        found.append(
            replace(
                record,
                without_dropout=error,
                other_net_without_dropout=error is None and others,
            )
        )
    return found


def _place(record: Record) -> tuple[int, ...]:
    """The place of a record in the list of all."""
    claim, raw = record.claim, record.raw
    return CLAIMS.index(claim), SCALES.index(raw["scale"]), claim.kinds.index(raw["on"])


def adjusted(records: Sequence[Record]) -> list[Record]:
    """The records with p values adjusted by Holm's method over all rows of results together.

    Rows at smoke scale have none: they are tests of the program.
    """
    p_values = [
        row.estimate.p
        for record in records
        for row in record.rows
        if record.raw["scale"] in RESULTS and row.estimate.p is not None
    ]
    # `holm` keeps the order of the rows, so both loops walk through one iterator.
    adjusted_p = iter(holm(p_values))
    return [
        replace(
            record,
            rows=tuple(
                row if row.estimate.p is None else replace(row, adjusted_p=next(adjusted_p))
                for row in record.rows
            ),
        )
        if record.raw["scale"] in RESULTS
        else record
        for record in records
    ]


def _repeat(claim: Claim, effect: Effect, raw: dict[str, Any]) -> tuple[str, ...]:
    """The reasons to measure a row again: the settings of the compared arms that have changed."""
    compared = [arm for arm in claim.arms if arm.name in effect.arms]
    # Also the arms with whose networks these begin.
    compared += [arm for arm in claim.arms if arm.name in {after.init for after in compared}]
    changes = [setting for arm in compared for setting in _changes(claim, arm, effect, raw)]
    # Arms share most settings; each change is named once.
    return tuple(dict.fromkeys(changes))


def _changes(claim: Claim, arm: Arm, effect: Effect, raw: dict[str, Any]) -> Iterator[str]:
    """The settings of an arm that differ between the record and the current claim."""
    scale, kind = raw["scale"], raw["on"]
    # Read as a Config, so that a record of an older version gets today's names and defaults and
    # only true changes are left.
    before = from_dict(Config, raw["configs"][arm.name])
    # The precision is the user's choice, not the claim's; the number of decoding threads changes no
    # result.
    today = replace(
        claim.config(arm, scale, kind), precision=before.precision, workers=before.workers
    )
    if effect.first_epochs is not None:
        before, today = (until(config, effect.first_epochs) for config in (before, today))
    yield from differences(to_dict(before), to_dict(today))
    # Read as a Part for the same reason.
    parts = Part(**raw["parts"][arm.name]), claim.part(arm, scale, kind)
    yield from differences(asdict(parts[0]), asdict(parts[1]), "part")


def until(config: Config, epochs: int) -> Config:
    """The configuration without the settings of its schedule that act after the first `epochs`.

    Two configurations that are then equal train the same network for that long, since only the
    schedule depends on the epoch.
    """
    schedule = config.schedule
    # The rates of all epochs of a smooth schedule depend on its length.
    if isinstance(schedule, SmoothSchedule):
        return config
    assert isinstance(schedule, StepSchedule)
    ends = schedule.colour_until
    return replace(
        config,
        schedule=replace(
            schedule,
            epochs=min(epochs, schedule.epochs),
            drops=tuple(at for at in schedule.drops if at < epochs),
            layer_lrs=tuple(rate for rate in schedule.layer_lrs if rate.epoch < epochs),
            colour_until=ends if ends is not None and ends < epochs else None,
        ),
    )
