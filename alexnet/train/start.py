"""How a training starts: `fit` begins a run, and `resume` continues one."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alexnet.checkpoint import read_config, write_config
from alexnet.config import Config, Parallel
from alexnet.config_checks import check, without_effect
from alexnet.data.store import Store
from alexnet.device import device_here, device_type, resolve, switched
from alexnet.distributed.launch import begun_before, check_same_on_all_ranks, note_begun
from alexnet.distributed.mesh import Mesh, init_mesh, is_distributed
from alexnet.distributed.restart import heard_on_each_machine
from alexnet.errors import ConfigError, RunError
from alexnet.files import FOREIGN_LOCK_S, check_utf8, exists
from alexnet.program import command
from alexnet.train.changes import accept, change_settings, continued
from alexnet.train.endings import explained
from alexnet.train.folder import check_empty, check_room, run_lock
from alexnet.train.loop import train
from alexnet.train.run_log import RunLog, read_metrics
from alexnet.train.setup import Setup, restore, set_up, start_from, with_classes
from alexnet.train.sgd import zero_velocity
from alexnet.train.state import TrainState
from alexnet.train.trackers import check_named


def fit(config: Config, run_dir: str | Path) -> dict[str, Any]:
    """Train a new run into `run_dir` and return the metrics of the last epoch.

    With several processes every rank calls this function (`alexnet.distributed`), and rank 0
    writes the files. After a restart by torchrun the run is resumed.

    Raises:
        RunError: The folder is not empty or has a name that is not UTF-8, or the number of classes
            differs from the store's.
        BusyError: Another process is training this run, or its disk does not answer.
        OSError: A disk fails before the first step; with several ranks this is mostly a BusyError
            or MeshError. Later one that is full is a RunError, and any other error an OSError.
        ConfigError: The config is invalid, it names no store, or ALEXNET_TRACKERS names an unknown
            tracker.
        DataError: The store or an image is missing or damaged; during training, a single process
            has saved the run.
        MeshError: The ranks cannot share the network, or one of them refuses the run.
        StoreLost: The store became unreadable; a single process has saved the run.
        Interrupted: On Ctrl-C and SIGTERM, after saving.
        NotFinite: On a NaN or an infinity; the message names the step and, on a CPU, the tensor.
        RankLost: With several ranks, one died, hangs, or had an error of its own.
    """
    run = Path(run_dir)
    # No recipe names one, and "" would be the current folder.
    if not config.data:
        raise ConfigError(
            "the config names no store; give it one by dataclasses.replace(config, data=STORE)"
        )
    check(config)
    # No checkpoint in it could be read.
    check_utf8(run)
    mesh = init_mesh(config.parallel, config.device)
    # After a rank has died torchrun starts all of them again with the same arguments.
    if begun_before(mesh, run):
        return resume(run, config.parallel)

    with ExitStack() as held:

        def prepare() -> Setup:
            # The lock needs the folder, which is only made once the config and the store are
            # accepted. If it exists, another process may be training in it.
            locks_first = run.is_dir()
            if mesh.first and locks_first:
                held.enter_context(_lock(run, mesh, config.parallel))
            check_empty(run)
            store = _open_store(config)
            resolved = _resolved(with_classes(config, store))
            # Before the network is drawn, which may be larger than the memory.
            if mesh.first:
                _check_needs(run, resolved, store)
            setup = set_up(resolved, store, mesh)
            if mesh.first and not locks_first:
                held.enter_context(_lock(run, mesh, config.parallel))
                # Another process may have begun the same run, and even ended it, in between.
                check_empty(run)
            return setup

        setup = check_same_on_all_ranks(mesh, prepare, Setup.fingerprint)
        messages = [f"warning: {sentence}" for sentence in without_effect(setup.config)]
        if config.init:
            # Each rank reads the file. The lines may differ: one has a command as it is typed on
            # the machine of its rank.
            start = partial(start_from, setup)
            messages += check_same_on_all_ranks(
                mesh, start, lambda _: {"start of its weights": json.dumps(setup.init)}
            )
        note_begun(mesh, run)
        # Not before this point: nothing is written for a run that any rank refuses.
        if mesh.first:
            write_config(run, setup.config)
        with explained(setup.config, setup.net.mesh, run), switched(setup.config):
            return train(setup, run, zero_velocity(setup.net), TrainState(), messages)


def resume(
    run_dir: str | Path,
    parallel: Parallel | None = None,
    epochs: int | None = None,
    lr: float | None = None,
    device: str | None = None,
    data: str | None = None,
    workers: int | None = None,
    timeout_s: float | None = None,
) -> dict[str, Any]:
    """Continue a run, bit for bit if the number of ranks and the settings are the same.

    On CUDA this holds for runs with `deterministic`, on the same kind of GPU; on a CPU, on the same
    kind of processor with as many threads. New settings are saved with the run, all but `parallel`;
    a finished run keeps its settings.

    Args:
        parallel: How the processes share the network in this call; not saved. None: as it was
            saved, or, in a single process, without sharing.
        epochs: New number of epochs in all; the schedule is scaled in proportion, and training goes
            on from the epoch of the checkpoint. A run that ended before its last epoch goes on too.
        lr: New value of `sgd.lr`, which the schedule divides. The velocity is kept.
        device: New value of `device`. None: as it was saved, or, on a machine without such a
            device, the one that it has; the precision stays the same.
        data: New folder or URL of the same store. Its checksum is that of the checkpoint; before
            the first checkpoint, only the number of classes is compared.
        workers: New value of `workers`.
        timeout_s: New value of `parallel.timeout_s`, also of `parallel`.

    Returns:
        The metrics of the last epoch; empty if the run had finished before.

    Raises:
        RunError: There is no run, its store has changed, or the checkpoint belongs to another
            network.
        ConfigError: The run has completed `epochs` epochs, or the new settings are invalid.
        BusyError: Another process is training the run, or its disk does not answer.
        DataError, OSError, MeshError, StoreLost, Interrupted, NotFinite, RankLost: As `fit` does.
    """
    run = Path(run_dir)
    with heard_on_each_machine():
        saved = _read_trained_config(run)
    changed = change_settings(
        saved, epochs=epochs, lr=lr, data=data, workers=workers, timeout_s=timeout_s
    )
    if device is not None:
        changed = replace(changed, device=device_type(device))
    # Not saved: the run returns to its own device where there is one.
    device_now = device or device_here(changed.device)
    if parallel is None:
        alone = Parallel(timeout_s=changed.parallel.timeout_s)
        parallel = changed.parallel if is_distributed() else alone
    elif timeout_s is not None:
        parallel = replace(parallel, timeout_s=timeout_s)
    # First, because it takes this rank's GPU: what comes before it on CUDA happens on GPU 0.
    mesh = init_mesh(parallel, device_now)
    with ExitStack() as held:

        def prepare() -> Setup:
            config = replace(_resolved(replace(changed, device=device_now)), parallel=parallel)
            # Before the checkpoint is read, which another process may be about to replace.
            if mesh.first:
                held.enter_context(_lock(run, mesh, parallel))
            store = _open_store(config)
            if mesh.first:
                _check_needs(run, config, store)
            # Before its first checkpoint nothing else tells another store.
            return set_up(with_classes(config, store), store, mesh)

        setup = check_same_on_all_ranks(mesh, prepare, Setup.fingerprint)
        velocity = zero_velocity(setup.net)
        # A shared disk may not show the checkpoint to all ranks.
        state = check_same_on_all_ranks(
            mesh,
            partial(_restored_or_new, setup, run, velocity),
            lambda state: {
                "checkpoint": repr(state),
                "start of its weights": json.dumps(setup.init),
            },
        )
        if epochs is not None:
            schedule = continued(changed.schedule, state)
            changed = replace(changed, schedule=schedule)
            setup = replace(setup, config=replace(setup.config, schedule=schedule))
        accepted, messages = accept(run, saved, changed, setup, state, lr)

        def note_change(log: RunLog) -> None:
            # The other settings do not change what is learned.
            if (accepted.sgd, accepted.schedule) != (saved.sgd, saved.schedule):
                log.write(
                    "change",
                    state.step,
                    epoch=state.epoch,
                    lr=accepted.sgd.lr,
                    epochs=accepted.schedule.epochs,
                )
            # At the same moment as its line in the log: once it is saved, it is no change any more.
            if mesh.first and accepted != saved:
                write_config(run, accepted)

        with explained(setup.config, setup.net.mesh, run), switched(setup.config):
            return train(setup, run, velocity, state, messages, note_change)


def _resolved(config: Config) -> Config:
    """Return what `resolve` does, after `init_mesh`: a rank's GPU is its own, and no other's."""
    if is_distributed():
        config = replace(config, device=device_type(config.device))
    return resolve(config)


def _open_store(config: Config) -> Store:
    """Open the store of a run, which may be silent for half of the timeout.

    A rank whose store does not answer then reports it before the others give up waiting for it.
    """
    return Store(config.data, config.parallel.timeout_s / 2)


def _lock(run: Path, mesh: Mesh, parallel: Parallel) -> AbstractContextManager[None]:
    """Hold the lock of a run, for which the first rank waits no longer than the others for it."""
    alone = mesh.world.size == 1
    return run_lock(run, FOREIGN_LOCK_S if alone else min(FOREIGN_LOCK_S, parallel.timeout_s / 2))


def _check_needs(run: Path, config: Config, store: Store) -> None:
    """Refuse a run whose disk lacks room for it, or whose trackers are unknown or not installed."""
    check_room(run, config, store.size_px)
    check_named()


def _read_trained_config(run: Path) -> Config:
    """Read the config of a run that was trained here, and not imported.

    Raises:
        RunError: It was imported, or there is no run.
    """
    config = read_config(run)
    if not config.data:
        begin = command("train", "RECIPE", "--data", "STORE", "--init", run)
        raise RunError(
            f"{run} was imported and not trained here; begin a run from it with: {begin}"
        )
    return config


def _restored_or_new(setup: Setup, run: Path, velocity: dict[str, torch.Tensor]) -> TrainState:
    """Restore network, `velocity` and position from the last checkpoint of the run.

    Without a checkpoint the run was stopped before its first one, and begins again.

    Raises:
        RunError: As `restore` does, or the run has completed an epoch and lacks its checkpoint.
    """
    last = run / "last.safetensors"
    if exists(last):
        return restore(setup, run, velocity)
    # A kill may fall between the line of the first epoch and its checkpoint, but of no later epoch.
    if exists(run / "metrics.jsonl") and len(read_metrics(run, "epoch")) > 1:
        again = command("train", run / "config.json", "--out", "NEW_RUN")
        raise RunError(
            f"{last} is missing, and to begin again would overwrite what {run} has learned; put it "
            f"back, or begin a new run with the same settings: {again}"
        )
    if setup.config.init:
        start_from(setup)
    return TrainState()
