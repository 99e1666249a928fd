"""Records of claims, and the tables made of them: on the terminal and in docs/reproduction.md."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from alexnet import __version__
from alexnet.bench.contest import machine
from alexnet.configfile import to_dict
from alexnet.experiments.claim import Claim, Effect, Part
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.effects import Done
from alexnet.experiments.runner import Terms, check, kind_of, run, run_ahead
from alexnet.experiments.statistics import estimate
from alexnet.files import write_whole
from alexnet.model import plan

DOCUMENT = """# Reproduction

Every claim of the paper, and what was measured here. Made from `records/claims` by
`alexnet reproduce --document docs/reproduction.md`; a test fails when the two disagree.

An effect is a difference between runs that share seed, data and order. The interval holds the true mean 95 times in
100 (Student's t over the seeds). *Agrees*: it lies wholly on the claimed side of no effect; *disagrees*: wholly on the
other; *differs*: wholly on one, where the paper claims none; *cannot tell*: neither. "Could tell" is the smallest
distance from no effect that so many seeds find four times in five. Sizes are comparable with the paper's only at full
scale; at desk scale the net is narrower, the set smaller.
Seconds are those of the runs as they ran, most of them two at a time.

"""


def reproduce(claims: Sequence[Claim], terms: Terms, records: Path, picky: bool) -> Iterator[str]:
    """Runs the claims, records each and says what came of it. picky: one that the store is not fit for is an error."""
    fit = []
    for claim in claims:
        try:
            check(claim, terms.store, terms.scale)
            fit.append(claim)
        except ValueError:
            if picky:
                raise
    run_ahead(fit, terms)
    for claim in fit:
        found = record(claim, run(claim, terms), terms)
        path = write(found, records)
        yield "\n".join(
            [claim.id, *(f"  {e['name']}: {effect_line(e)}" for e in found["effects"]), f"  {path}"]
        )


def record(claim: Claim, results: dict[str, list[Done]], terms: Terms) -> dict[str, Any]:
    """What is kept of a claim that was run."""
    store, kind = terms.store, kind_of(terms.store)
    pictures = {name: split["images"] for name, split in store.manifest["splits"].items()}
    return {
        "claim": claim.id,
        "on": kind,
        "scale": terms.scale,
        "command": f"alexnet reproduce {claim.id} --data {store.name} --scale {terms.scale} --seeds {terms.seeds}",
        "store": {"pictures": pictures, "classes": len(store.classes), "size_px": store.size_px},
        "store_checksum": store.checksum,
        "environment": {"alexnet": __version__, "torch": torch.__version__, "machine": machine()},
        "parts": {arm.name: asdict(claim.part(arm, terms.scale, kind)) for arm in claim.arms},
        "effects": [_effect(effect, results) for effect in claim.effects],
        "configs": {arm.name: to_dict(claim.config(arm, terms.scale, kind)) for arm in claim.arms},
        "arms": {name: [_run(done) for done in runs] for name, runs in results.items()},
    }


def _effect(effect: Effect, results: dict[str, list[Done]]) -> dict[str, Any]:
    values = effect.values(results)
    return {"name": effect.name, "none": effect.none, "values": values} | asdict(
        estimate(values, effect.none, effect.sided)
    )


def _run(done: Done) -> dict[str, Any]:
    kept = "test_error", "centre_error", "train_error", "images_per_s", "rate", "colour", "also"
    return {name: getattr(done, name) for name in kept} | {"epochs": list(done.epochs)}


def write(found: dict[str, Any], folder: Path) -> Path:
    """Into FOLDER/CLAIM-KIND-SCALE.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{found['claim']}-{found['on']}-{found['scale']}.json"
    write_whole(path, (json.dumps(found, indent=1) + "\n").encode())
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """All records, in the order of the claims, the largest scale first, the claim's own data first."""
    found = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    by_id, scales = {claim.id: claim for claim in CLAIMS}, ("full", "desk", "smoke")

    def place(one: dict[str, Any]) -> tuple[int, ...]:
        claim = by_id[one["claim"]]
        return CLAIMS.index(claim), scales.index(one["scale"]), claim.kinds.index(one["on"])

    return sorted(found, key=place)


def effect_line(effect: dict[str, Any]) -> str:
    """`1.42 [0.80, 2.04], 5 seeds, could tell 0.81: agrees`"""
    if effect["low"] is None:
        return f"{effect['mean']:.2f}, one seed: cannot tell"
    return (
        f"{effect['mean']:.2f} [{effect['low']:.2f}, {effect['high']:.2f}], {effect['n']} seeds, "
        f"could tell {effect['smallest']:.2f}: {effect['verdict']}"
    )


def where(one: dict[str, Any]) -> str:
    """`desk, photographs`"""
    return f"{one['scale']}, {'CIFAR-10' if one['on'] == 'cifar10' else one['on']}"


def source(claim: Claim) -> str:
    """What the paper and its authors' log say."""
    log = "" if claim.logged == "-" else f"; the authors' log: {claim.logged}"
    return f"The paper: {'no number' if claim.paper == '-' else claim.paper}{log}"


def listing(records: Sequence[dict[str, Any]], cost_h: dict[str, float]) -> str:
    """The table of `alexnet reproduce` without arguments. cost_h: of five seeds at desk scale on this machine."""
    lines = []
    for claim in CLAIMS:
        needs = " or ".join(claim.kinds)
        lines += [f"{claim.id:<11} {claim.statement}"]
        lines += [f"{'':<11}   {source(claim)}; on {needs}"]
        if claim.id in cost_h:
            lines += [
                f"{'':<11}   five seeds at desk scale: about {60 * cost_h[claim.id]:.0f} minutes here"
            ]
        own = [one for one in records if one["claim"] == claim.id]
        for one in own:
            lines += [
                f"{'':<11}   {where(one)}: {e['name']}: {effect_line(e)}" for e in one["effects"]
            ]
    return "\n".join(lines)


def document(records: Sequence[dict[str, Any]]) -> str:
    """docs/reproduction.md."""
    by_claim = {claim.id: [one for one in records if one["claim"] == claim.id] for claim in CLAIMS}
    tested = [claim for claim in CLAIMS if by_claim[claim.id]]
    lines = [
        "| claim | measure | the paper | ours | scale, data | seeds | verdict |",
        "|---|---|---|---|---|---|---|",
    ]
    for claim in tested:
        said = {effect.name: effect.paper for effect in claim.effects}
        for one in by_claim[claim.id]:
            lines += [
                _row(claim, one, effect, said.get(effect["name"], "-")) for effect in one["effects"]
            ]
    lines += ["", "## Each claim", ""]
    for claim in CLAIMS:
        lines += [f"**{claim.id}**: {claim.statement}. {source(claim)}.", ""]
        for one in by_claim[claim.id]:
            sizes = ", ".join(
                f"{name} {count:,}" for name, count in one["store"]["pictures"].items()
            )
            lines += [f"`{one['command']}` ({sizes}; {one['environment']['machine']})", ""]
            lines += [*(f"- test error, {line}" for line in errors(one)), ""]
        if commands := not_run(claim, by_claim[claim.id]):
            lines += [f"{NOT_RUN}{', '.join(f'`{command}`' for command in commands)}", ""]
    return DOCUMENT + "\n".join(lines).rstrip() + "\n"


def errors(one: dict[str, Any]) -> list[str]:
    """Test errors by seed of each arm: `base, 1,000 pictures of each class: 36.3, 37.6 %`"""
    found = {
        name: ", ".join(f"{100 * run['test_error']:.1f}" for run in runs)
        for name, runs in one["arms"].items()
    }
    return [f"{name}{Part(**one['parts'][name])}: {percent} %" for name, percent in found.items()]


def _row(claim: Claim, one: dict[str, Any], effect: dict[str, Any], paper: str) -> str:
    ours = f"{effect['mean']:.2f}"
    if effect["low"] is not None:
        ours += f" [{effect['low']:.2f}, {effect['high']:.2f}], could tell {effect['smallest']:.2f}"
    cells = (
        claim.id,
        effect["name"],
        paper,
        ours,
        where(one),
        str(effect["n"]),
        f"*{effect['verdict']}*",
    )
    return f"| {' | '.join(cells)} |"


NOT_RUN = "Not run here, in the paper's own setting: "


def not_run(claim: Claim, own: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """The commands of the paper's own setting, for someone who has the data; none where it was run."""
    if any(one["scale"] == "full" for one in own):
        return ()
    return claim.by_hand or (f"alexnet reproduce {claim.id} --data STORE --scale full",)


def cost_h(
    claims: Sequence[Claim], macs_per_s: float, pictures: int = 4000, seeds: int = 5
) -> dict[str, float]:
    """Hours of each claim's runs at desk scale, by multiply-adds: forward once, backward twice, half of the peak."""
    found = {}
    for claim in claims:
        seconds = 0.0
        for arm in claim.arms:
            config = claim.config(arm, "desk", claim.kinds[0])
            steps = plan(replace(config.architecture, classes=10))
            part = claim.part(arm, "desk", claim.kinds[0])
            images = config.schedule.epochs * (
                (part.classes or 10) * part.train_of_each or pictures
            )
            seconds += (
                seeds
                * images
                * 3
                * sum(step.multiply_adds for step in steps if step.op == "linear")
                / (0.5 * macs_per_s)
            )
        if claim.arms:
            found[claim.id] = seconds / 3600
    return found


def peak_macs_per_s(side: int = 1024) -> float:
    """Multiply-adds a second of a matrix product on this machine's default device."""
    a = torch.ones(side, side)
    best_s = math.inf
    for _ in range(5):
        began_s = time.perf_counter()
        a @ a
        best_s = min(best_s, time.perf_counter() - began_s)
    return float(side**3 / best_s)
