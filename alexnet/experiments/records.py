"""Records of claims: one JSON file for each claim, kind of data and scale.

A record holds runs and configurations, never effects: those are computed when it is read, so that
no stored value can disagree with the runs or with today's measure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch

from alexnet.bench.contest import machine
from alexnet.config import Config, Steps
from alexnet.configfile import from_dict, to_dict
from alexnet.experiments.claim import Arm, Claim, Effect, Part, error_name
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.effects import Done
from alexnet.experiments.job import done
from alexnet.experiments.runner import Terms, kind_of
from alexnet.experiments.statistics import Estimate, estimate, holm
from alexnet.files import write_whole
from alexnet.provenance import code_version

UNDERFITTED = 0.2
"""A training error above this, of ten classes, is called underfitted below the paper's setting."""
WIDTHS = {1.0: "full width", 0.5: "half of the width", 0.25: "a quarter of the width"}
NO_IMAGES = {"probabilities": np.zeros((0, 0), np.float32), "labels": np.zeros(0, np.int64)}


def record(claim: Claim, results: dict[str, list[Done]], terms: Terms) -> dict[str, Any]:
    """What is kept of a claim that was run."""
    store, kind = terms.store, kind_of(terms.store)
    images = {name: split["images"] for name, split in store.manifest["splits"].items()}
    precision = "" if terms.precision == "auto" else f" --precision {terms.precision}"
    return {
        "claim": claim.id,
        "on": kind,
        "scale": terms.scale,
        "command": f"alexnet reproduce {claim.id} --data {store.name} --scale {terms.scale} "
        f"--seeds {terms.seeds}{precision}",
        "store": {"images": images, "classes": len(store.classes), "size_px": store.size_px},
        "store_checksum": store.checksum,
        "code": code_version(),
        "environment": {"torch": torch.__version__, "machine": machine()},
        "parts": {arm.name: asdict(claim.part(arm, terms.scale, kind)) for arm in claim.arms},
        "configs": {
            arm.name: to_dict(
                replace(claim.config(arm, terms.scale, kind), precision=terms.precision)
            )
            for arm in claim.arms
        },
        "arms": {name: [_run(one) for one in runs] for name, runs in results.items()},
    }


def _run(one: Done) -> dict[str, Any]:
    kept = "test_error", "centre_error", "train_error", "images_per_s", "rate", "colour", "also"
    return {name: getattr(one, name) for name in kept} | {"epochs": list(one.epochs)}


def write(found: dict[str, Any], folder: Path) -> Path:
    """Into FOLDER/CLAIM-KIND-SCALE.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['claim']}-{found['on']}-{found['scale']}.json"
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    return path


@dataclass(frozen=True)
class Row:
    """An effect of a record, as every table shows it."""

    effect: Effect
    estimate: Estimate
    repeat: tuple[str, ...]
    """Why it has to be measured again; empty: what was recorded is what would run today."""
    adjusted_p: float | None = None
    """Holm's, over all rows that were read together; None without an interval."""


@dataclass(frozen=True)
class Record:
    """A record as it was read."""

    claim: Claim
    raw: dict[str, Any]
    """The JSON file."""
    results: dict[str, list[Done]]
    rows: tuple[Row, ...]

    @property
    def in_papers_setting(self) -> bool:
        return self.claim.is_papers_setting(self.raw["scale"], self.raw["on"])

    def config(self, arm: str) -> Config:
        return from_dict(Config, self.raw["configs"][arm])

    def errors(self) -> list[str]:
        """Errors by seed of each arm: `test error, base: 36.3, 37.6 %`"""
        lines = []
        for name, runs in self.results.items():
            percent = ", ".join(f"{100 * run.test_error:.1f}" for run in runs)
            part = Part(**self.raw["parts"][name])
            lines.append(f"{error_name(self.config(name))}, {name}{part}: {percent} %")
        return lines

    def setting(self) -> str:
        """`desk, photographs, 5 seeds: a quarter of the width, 4,000 images, training error 29 %:
        underfitted`, of the first arm.
        """
        first = self.claim.arms[0].name
        runs, part = self.results[first], Part(**self.raw["parts"][first])
        width = self.config(first).architecture.width
        store = self.raw["store"]
        images = store["images"][self.config(first).train_split]
        if part.train_of_each:
            images = part.train_of_each * (part.classes or store["classes"])
        train_error = mean(run.train_error for run in runs)
        underfitted = train_error > UNDERFITTED and not self.in_papers_setting
        return (
            f"{where(self.raw)}, {len(runs)} seed{'s' if len(runs) > 1 else ''}: "
            f"{WIDTHS.get(width, f'1/{1 / width:.0f} of the width')}, {images:,} images, "
            f"training error {100 * train_error:.0f} %{': underfitted' if underfitted else ''}"
        )

    def verdict(self, row: Row) -> str:
        """`same sign, 1.4 inside the interval`. Below the paper's own setting an opposite sign is
        one of that setting: it cannot refute a claim about ImageNet.
        """
        words = [str(row.estimate.verdict)]
        if row.estimate.low is None:
            words[0] += f" (one {'seed' if row.effect.nets == 1 else 'ensemble'}: no interval)"
        elif words[0] == "opposite sign" and not self.in_papers_setting:
            scale = self.raw["scale"]
            words[0] += " on other images" if scale == "full" else f" at {scale} scale"
        if row.effect.number is not None and row.estimate.low is not None:
            inside = "inside" if row.estimate.contains(row.effect.number) else "outside"
            words.append(f"{row.effect.number:g} {inside} the interval")
        return ", ".join(words)


def where(raw: dict[str, Any]) -> str:
    """`desk, photographs`"""
    names = {"cifar10": "CIFAR-10", "imagenet": "ImageNet 2012"}
    return f"{raw['scale']}, {names.get(raw['on'], raw['on'])}"


def opened(raw: dict[str, Any]) -> Record:
    """A record with its effects computed from its runs."""
    (claim,) = (claim for claim in CLAIMS if claim.id == raw["claim"])
    configs = {name: from_dict(Config, config) for name, config in raw["configs"].items()}
    results = {
        name: [done(run, configs[name], **NO_IMAGES) for run in runs]
        for name, runs in raw["arms"].items()
    }
    rows = tuple(
        Row(
            effect,
            estimate(effect.values(results), effect.none, effect.sided),
            tuple(_repeat(claim, effect, raw)),
        )
        for effect in claim.effects
    )
    return Record(claim, raw, results, rows)


def read(folder: Path) -> list[Record]:
    """All records of a folder, in the order of the claims, the largest scale first, the claim's own
    data first; p values adjusted over all their rows.
    """
    found = [opened(json.loads(path.read_text())) for path in sorted(folder.glob("*.json"))]
    scales = "full", "desk", "smoke"

    def place(one: Record) -> tuple[int, ...]:
        claim = one.claim
        kind = claim.kinds.index(one.raw["on"])
        return CLAIMS.index(claim), scales.index(one.raw["scale"]), kind

    return adjusted(sorted(found, key=place))


def adjusted(records: Sequence[Record]) -> list[Record]:
    """The records with Holm's p values, over all their rows together."""
    p_values = [row.estimate.p for one in records for row in one.rows]
    found = iter(holm([p for p in p_values if p is not None]))
    return [
        replace(
            one,
            rows=tuple(
                row if row.estimate.p is None else replace(row, adjusted_p=next(found))
                for row in one.rows
            ),
        )
        for one in records
    ]


def _repeat(claim: Claim, effect: Effect, raw: dict[str, Any]) -> Iterator[str]:
    """Why a row has to be measured again: the reason that the record names, and every setting of
    the arms it compares that is another today.
    """
    if "to_be_repeated" in raw:
        yield raw["to_be_repeated"]
    said: set[str] = set()
    for arm in claim.arms:
        if arm.name in effect.arms:
            for setting in _changes(claim, arm, effect, raw):
                if setting not in said:
                    said.add(setting)
                    yield setting


def _changes(claim: Claim, arm: Arm, effect: Effect, raw: dict[str, Any]) -> Iterator[str]:
    scale, kind = raw["scale"], raw["on"]
    before = from_dict(Config, raw["configs"][arm.name])
    # The precision is the user's choice, not the claim's.
    today = replace(claim.config(arm, scale, kind), precision=before.precision)
    if effect.first_epochs is not None:
        before, today = (until(config, effect.first_epochs) for config in (before, today))
    yield from _differences(to_dict(before), to_dict(today), "")
    part = asdict(claim.part(arm, scale, kind))
    yield from _differences(raw["parts"][arm.name], part, "part")


def until(config: Config, epochs: int) -> Config:
    """The configuration without the settings of its schedule that act after its first epochs.

    Two configurations that are equal then train the same network for that long, since nothing but
    the schedule depends on the epoch.
    """
    schedule = config.schedule
    assert isinstance(schedule, Steps)
    ends = schedule.colour_until
    return replace(
        config,
        schedule=replace(
            schedule,
            epochs=min(epochs, schedule.epochs),
            drops=tuple(at for at in schedule.drops if at < epochs),
            layer_rates=tuple(rate for rate in schedule.layer_rates if rate.epoch < epochs),
            colour_until=ends if ends is not None and ends < epochs else None,
        ),
    )


def _differences(before: Any, today: Any, name: str) -> Iterator[str]:
    """`schedule.colour_until none -> 18`; of what is no single value the name alone."""
    if isinstance(before, dict) and isinstance(today, dict) and before.keys() == today.keys():
        for key in before:
            yield from _differences(before[key], today[key], f"{name}.{key}".lstrip("."))
    elif _named(before) and _named(today) and len(before) == len(today):
        for one, other in zip(before, today, strict=True):
            yield from _differences(one, other, f"{name}.{one['name']}")
    elif before != today:
        single = not isinstance(before, dict | list) and not isinstance(today, dict | list)
        yield f"{name} {_word(before)} -> {_word(today)}" if single else name


def _named(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) and "name" in one for one in value)


def _word(value: Any) -> str:
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
