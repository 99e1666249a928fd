"""Runs what the claims compare.

Each configuration runs once, in a process of its own, no matter how many claims need it
(`specs.py`).
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from alexnet.config import StepSchedule
from alexnet.data.store import Store
from alexnet.device import device_type
from alexnet.errors import AlexNetError
from alexnet.evaluation import QUARTER
from alexnet.experiments import cost, job
from alexnet.experiments.checks import check
from alexnet.experiments.claim import SEARCH_EPOCHS, Arm, Claim, error_name
from alexnet.experiments.measures import ENSEMBLE, RunResult, epochs_to
from alexnet.experiments.processes import epochs_done, run_processes
from alexnet.experiments.specs import (
    RunSpec,
    Settings,
    plan_run,
    spec_of,
    stores_of,
    threads_of_a_run,
)
from alexnet.files import size, write_whole
from alexnet.progress import duration
from alexnet.terminal import print_if_read
from alexnet.train.folder import checkpoint_bytes


def run_ahead(claims: Sequence[Claim], settings: Settings) -> None:
    """Run everything that does not depend on another run, for all claims together.

    One list for all claims keeps the cores busy: claim by claim, they would wait for the last run
    of each claim.
    """
    specs: list[RunSpec] = []
    later: list[RunSpec] = []
    for claim in claims:
        later += [spec for _, _, spec in _trials_of_rates(claim, settings)]
        for arm in claim.arms:
            waits = bool(claim.rates or arm.init)
            (later if waits else specs).extend(_runs_of(claim, arm, settings, {}))
    run_all(specs, settings, later)


def run(claim: Claim, settings: Settings) -> dict[str, list[RunResult]]:
    """Run a claim.

    Returns:
        The results of each arm, one for each seed.

    Raises:
        AlexNetError: The claim cannot be tested here, or a run has no numbers.
    """
    check(claim, settings)
    factors = _search_rates(claim, settings)
    specs = {arm.name: _runs_of(claim, arm, settings, factors) for arm in claim.arms}
    ready = [spec for arm in claim.arms if not arm.init for spec in specs[arm.name]]
    waiting = [spec for arm in claim.arms if arm.init for spec in specs[arm.name]]
    run_all(ready, settings, waiting)
    # The others start from the networks of these, so each of these has to have numbers.
    for spec in ready:
        _result(spec)
    run_all(waiting, settings)
    results = {name: [_result(spec) for spec in of_arm] for name, of_arm in specs.items()}
    # The first arm alone has what is measured in addition.
    first = claim.arms[0].name
    if claim.extra_metrics is not None:
        results[first] = [
            _with_extra_metrics(claim, spec, result)
            for spec, result in zip(specs[first], results[first], strict=True)
        ]
    if claim.together is not None:
        results[first] = _with_ensembles(claim.together, results[first])
    return results


def _runs_of(
    claim: Claim, arm: Arm, settings: Settings, factors: dict[str, float]
) -> list[RunSpec]:
    """The runs of an arm, one for each seed."""
    return [plan_run(claim, arm, seed, settings, factors) for seed in range(settings.seeds)]


def _outcome(spec: RunSpec) -> RunResult | str:
    """The result of a run that was made, or why it has no numbers: its loss was not finite.

    Raises AlexNetError if the process of the run has failed for another reason.
    """
    outcome = job.read(spec.folder)
    if outcome is None:
        raise AlexNetError(f"{spec.name} gave no numbers: {_see_log(spec)}")
    return outcome


def _see_log(spec: RunSpec) -> str:
    """Where a run whose process has failed says why, with its last line."""
    log = spec.folder / "log"
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = next((line for line in reversed(lines) if line.strip()), "")
    return f"see {log}" + (f" ({last})" if last else "")


def _result(spec: RunSpec) -> RunResult:
    """The result of a run that was made. Raises AlexNetError if it has no numbers."""
    outcome = _outcome(spec)
    if isinstance(outcome, str):
        raise AlexNetError(f"{spec.name} gave no numbers: {outcome}")
    return outcome


def _with_extra_metrics(claim: Claim, spec: RunSpec, result: RunResult) -> RunResult:
    """The result with the claim's extra metrics, which are kept in a file beside the run."""
    measure = claim.extra_metrics
    assert measure is not None
    # Named by the text of its module, which has its constants too: what has changed is measured
    # anew.
    text = f"{measure.__qualname__} {inspect.getsource(sys.modules[measure.__module__])}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    path = spec.folder / f"{claim.id}-{digest}.json"
    if not path.exists():
        # The store may have another name than when the run was trained.
        measured = measure(spec.folder / "run", Path(spec.config.data))
        write_whole(path, json.dumps(measured).encode())
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
    trials = _trials_of_rates(claim, settings)
    # Which rates they will have is not known yet, and does not change how long they take.
    later = [spec for arm in claim.arms for spec in _runs_of(claim, arm, settings, {})]
    run_all([spec for _, _, spec in trials], settings, later)
    # At some rates the loss may not stay finite.
    outcomes = [_outcome(spec) for _, _, spec in trials]
    for arm in claim.arms:
        scores = [
            (
                # A run that ended early has reached the claim's error: the sooner the better, and
                # dividing by 1000 ranks it before every run that has not.
                outcome.epochs[-1]["val_error"]
                if len(outcome.epochs) == spec.config.schedule.epochs
                else epochs_to(QUARTER, outcome) / 1e3,
                factor,
            )
            for (trial_arm, factor, spec), outcome in zip(trials, outcomes, strict=True)
            if trial_arm is arm and isinstance(outcome, RunResult)
        ]
        if not scores:
            raise AlexNetError(f"{claim.id}: {arm.name} learns at none of the rates that are tried")
        factors[arm.name] = min(scores)[1]
        print_if_read(
            f"{claim.id}, {arm.name}: {factors[arm.name]} times the rate was best after "
            f"{max(spec.config.schedule.epochs for _, _, spec in trials)} epochs"
        )
    return factors


def _trials_of_rates(claim: Claim, settings: Settings) -> list[tuple[Arm, float, RunSpec]]:
    """The short runs by which an arm's factor of the learning rate is chosen."""
    trials = []
    for arm in claim.arms:
        for factor in claim.rates:
            spec = plan_run(claim, arm, 0, settings, {arm.name: factor})
            # A smooth schedule would fall within the search, which compares early errors.
            assert isinstance(spec.config.schedule, StepSchedule)
            num_epochs = min(SEARCH_EPOCHS, spec.config.schedule.epochs)
            config = replace(spec.config, schedule=replace(spec.config.schedule, epochs=num_epochs))
            name = f"{claim.id}, {arm.name}, {factor} x rate"
            trials.append((arm, factor, spec_of(name, config, settings)))
    return trials


def run_all(specs: Sequence[RunSpec], settings: Settings, later: Sequence[RunSpec] = ()) -> None:
    """Run all that has not been run before, and say how each run ended.

    Args:
        later: Runs that have to wait for the end of these; they are announced with them.
    """
    pending = _pending(specs)
    waiting = {folder: spec for folder, spec in _pending(later).items() if folder not in pending}
    _announce(pending.values(), settings, waiting.values())
    for number, (spec, left_s) in enumerate(run_processes(pending.values(), settings), 1):
        result = job.read(spec.folder)
        summary = result if isinstance(result, str) else f"failed, {_see_log(spec)}"
        if isinstance(result, RunResult):
            summary = f"{result.test_error:.2%} {error_name(spec.config)}"
        left = "" if left_s is None else f"; {duration(left_s)} left"
        print_if_read(f"{number}/{len(pending)} {spec.name}: {summary}{left}")


def _pending(specs: Sequence[RunSpec]) -> dict[Path, RunSpec]:
    """Those that have no result yet, by folder, since two with the same key are the same run."""
    return {spec.folder: spec for spec in specs if job.read(spec.folder) is None}


def _announce(
    specs: Collection[RunSpec], settings: Settings, later: Collection[RunSpec] = ()
) -> None:
    """Say how many runs there are, what they write, and on a CPU about how long they take."""
    if not specs:
        return
    text = "1 run" if len(specs) == 1 else f"{len(specs)} runs"
    if later:
        text += f" and then {len(later)} more"
    if len(specs) + len(later) > 1:
        text += f", {min(settings.jobs, max(len(specs), len(later)))} at a time"
    stores = stores_of([*specs, *later])
    # The small networks of the other scales leave little.
    if settings.scale == "full":
        kept = sum(_kept_bytes(spec, stores[spec.config.data]) for spec in (*specs, *later))
        text += f", which keep {size(kept)} in {settings.out}"
    # The estimate does not hold on a GPU, which small networks do not fill, nor at smoke scale,
    # where the start of each process takes most of the time.
    on_cpu = all(device_type(spec.config.device) == "cpu" for spec in (*specs, *later))
    if on_cpu and settings.scale != "smoke":
        macs_per_s = cost.peak_macs_per_s(threads_of_a_run(settings.jobs))
        times = [_about(some, settings, stores, macs_per_s) for some in (specs, later) if some]
        text += f": {' and then '.join(times)} on this machine"
    print_if_read(f"{text}. Ctrl-C stops them, and the same command continues.")


def _about(
    specs: Collection[RunSpec], settings: Settings, stores: dict[str, Store], macs_per_s: float
) -> str:
    """How long some runs take, in words.

    Args:
        macs_per_s: Peak speed of one run, as `cost.peak_macs_per_s` measures it.
    """
    peak = min(settings.jobs, len(specs)) * macs_per_s
    seconds, ends_early = 0.0, False
    for spec in specs:
        store, epochs = stores[spec.config.data], spec.config.schedule.epochs
        images = store.num_images(spec.config.train_split)
        val_images = store.num_images(spec.config.val_split)
        whole_s = cost.run_s(spec.config, len(store.classes), images, val_images, peak)
        seconds += whole_s * (1 - epochs_done(spec) / epochs)
        ends_early |= getattr(spec.config.schedule, "until_error", None) is not None
    return f"{'at most about' if ends_early else 'about'} {duration(seconds)}"


def _kept_bytes(spec: RunSpec, store: Store) -> int:
    """The size of what a run keeps: its two checkpoints, and its predictions."""
    architecture = replace(spec.config.architecture, classes=len(store.classes))
    config = replace(spec.config, architecture=architecture)
    predictions = 4 * store.num_images(config.val_split) * len(store.classes)
    return sum(checkpoint_bytes(config, store.size_px)) + predictions
