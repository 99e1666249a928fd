"""New settings of a run that is resumed: learning rate, epochs, and where and how it is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet.config import Config, Plateau, Schedule, SmoothSchedule, StepSchedule, scaled
from alexnet.config_checks import check
from alexnet.errors import ConfigError
from alexnet.program import command
from alexnet.train.checkpoints import hardware
from alexnet.train.setup import Setup
from alexnet.train.sgd import PlateauState, finished
from alexnet.train.state import TrainState

ROUNDED = "the same within rounding, not bit for bit"


def change_settings(
    config: Config,
    *,
    epochs: int | None,
    lr: float | None,
    data: str | None,
    workers: int | None,
    timeout_s: float | None,
) -> Config:
    """Return the config of a run with other settings; None leaves a setting as it is.

    The schedule is scaled as `--epochs` scales that of a new run.

    Args:
        timeout_s: `parallel.timeout_s`. The others have the names of their fields.

    Raises:
        ConfigError: A new setting is invalid.
    """
    # The same number would leave out what lies after the last epoch, and nothing is asked for.
    if epochs not in (None, config.schedule.epochs):
        config = replace(config, schedule=scaled(config.schedule, epochs))
    if lr is not None:
        config = replace(config, sgd=replace(config.sgd, lr=lr))
    if data is not None:
        # As `fit` does: "" would be the current folder, and the sign of an imported run.
        if not data:
            raise ConfigError("--data names no store; give a folder or a URL, or leave it out")
        config = replace(config, data=data)
    if workers is not None:
        config = replace(config, workers=workers)
    if timeout_s is not None:
        config = replace(config, parallel=replace(config.parallel, timeout_s=timeout_s))
    check(config)
    return config


def continued(schedule: Schedule, state: TrainState) -> Schedule:
    """Return the schedule with which a run goes on whose user asked for a number of epochs.

    A run that ended before its last epoch goes on to it: a `Plateau` begins again with the first
    learning rate (`state` changes), and a reached `until_error` holds no longer.

    Raises:
        ConfigError: The run has completed more epochs.
    """
    if state.epoch > schedule.epochs:
        raise ConfigError(
            f"epochs is {schedule.epochs} and the run has completed {state.epoch}; give a larger "
            "number"
        )
    if state.epoch == schedule.epochs or not finished(schedule, state.epoch, state.plateau):
        return schedule
    if isinstance(schedule, Plateau):
        state.plateau = PlateauState()
        return schedule
    # Only an error that was reached ends a run before its last epoch.
    assert isinstance(schedule, StepSchedule)
    return replace(schedule, until_error=None)


def accept(
    run: Path, saved: Config, changed: Config, setup: Setup, state: TrainState, lr: float | None
) -> tuple[Config, list[str]]:
    """Return the settings that a resumed run has from now on, and lines about them.

    Args:
        changed: `saved` with the settings that were asked for, of which `lr` is one.
        setup: What this process trains.
    """
    position, device = (state.epoch, state.plateau), setup.config.device
    if not finished(changed.schedule, *position):
        resumed = f"resumed at epoch {state.epoch + 1}, step {state.step}"
        # Not by the saved config, which keeps its device where a run goes on elsewhere.
        lines = hardware_in_words(setup.saved_on, hardware(device), device)
        return changed, [resumed, *lines, *changes_in_words(saved, changed)]
    if finished(saved.schedule, *position):
        # Without a step to train, new settings would only wait to act on a later resume.
        return saved, [_already_finished(run, saved, changed, state, lr)]
    part = f" and {state.batch} batches of the next" if state.batch else ""
    lost = _left_out(saved.schedule, changed.schedule)
    return changed, [f"{run} ends here, after {state.epoch} epochs{part}{lost}"]


def _already_finished(
    run: Path, saved: Config, changed: Config, state: TrainState, lr: float | None
) -> str:
    options: list[str | int] = ["--epochs", 2 * saved.schedule.epochs]
    if lr is not None:
        options += ["--lr", f"{lr:g}"]
    # What else was asked for was not saved either.
    for option, before, now in (
        ("--data", saved.data, changed.data),
        ("--device", saved.device, changed.device),
        ("--workers", saved.workers, changed.workers),
        ("--parallel.timeout-s", saved.parallel.timeout_s, changed.parallel.timeout_s),
    ):
        if now != before:
            options += [option, str(now)]
    longer = command("train", "--resume", run, *options)
    return f"{run} is already finished ({state.epoch} epochs); lengthen it with: {longer}"


def changes_in_words(old: Config, new: Config) -> list[str]:
    """Describe what has changed since a run was saved, one line for each setting."""
    lines = []
    if old.data != new.data:
        lines.append(f"store {new.data} in place of {old.data}")
    if old.sgd.lr != new.sgd.lr:
        lines.append(f"learning rate {new.sgd.lr:g} in place of {old.sgd.lr:g}")
    before, after = old.schedule, new.schedule
    if before.epochs != after.epochs:
        lost = _left_out(before, after)
        lines.append(f"{after.epochs} epochs in place of {before.epochs}{_drops(after)}{lost}")
    return lines


def hardware_in_words(before: dict[str, Any], now: dict[str, Any], device: str) -> list[str]:
    """Return a line where sums have another order than before a run was saved; none elsewhere.

    Args:
        before: What the checkpoint says of its hardware (`Setup.saved_on`), in which earlier
            versions have left out the number of threads.
        device: Type of the device now.
    """
    before_on = before.get("device", device)
    if before_on != device:
        return [f"on {device} in place of {before_on}: {ROUNDED}"]
    if "machine" not in before:
        return []
    # Earlier versions have left it out, too.
    with_family = " family " in before["machine"]

    def words(of: dict[str, Any]) -> str:
        # The number of cores decides nothing, and a GPU stands behind it.
        processor, _, gpu = of["machine"].rpartition(", ")
        if device == "cuda":
            return str(gpu)
        if not with_family:
            processor = processor.partition(" family ")[0]
        if device != "cpu" or "threads" not in before:
            return str(processor)
        return f"{processor} with {of['threads']} thread{'s' if of['threads'] > 1 else ''}"

    if words(now) == words(before):
        return []
    return [f"on {words(now)} in place of {words(before)}: {ROUNDED}"]


def _left_out(before: Schedule, after: Schedule) -> str:
    """Describe what a shortened schedule leaves out.

    It is lost for longer schedules too, because only the shortened one is saved and scaled again.
    """
    if not (isinstance(before, StepSchedule) and isinstance(after, StepSchedule)):
        return ""

    def acting(schedule: StepSchedule) -> tuple[int, int, bool]:
        # Those after the last epoch act in neither. Of two rates of a layer that begin in one
        # epoch, the last one acts.
        drops = sum(epoch < schedule.epochs for epoch in schedule.drops)
        rates = {(r.layer, r.epoch) for r in schedule.layer_lrs if r.epoch < schedule.epochs}
        until = schedule.colour_until
        return drops, len(rates), until is not None and until < schedule.epochs

    drops, rates, colour = (
        old - new for old, new in zip(acting(before), acting(after), strict=True)
    )
    lost = [f"drops of the learning rate: {drops}"] * (drops > 0)
    lost += [f"learning rates of single layers: {rates}"] * (rates > 0)
    lost += ["the end of the color noise"] * (colour > 0)
    return f"; left out, also of a longer run later: {', '.join(lost)}" if lost else ""


def _drops(schedule: Schedule) -> str:
    if isinstance(schedule, Plateau):
        return f"; patience {schedule.patience}"
    if isinstance(schedule, SmoothSchedule):
        return f"; the learning rate goes on along the {schedule.form} curve of that length"
    # Counted from 1, as in the lines of the epochs.
    at = ", ".join(str(epoch + 1) for epoch in schedule.drops)
    return f"; the learning rate drops at the beginning of epoch {at}" if at else ""
