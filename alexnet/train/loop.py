"""`fit(config, run_dir)`: the one training loop, from the first batch to the last checkpoint.

No random state is carried along: the order of an epoch, the augmentation of each image and every
dropout mask are functions of the seed and of the position in training. A resumed run therefore
continues bit for bit, on CUDA if its config is deterministic.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    nullcontext,
)
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alexnet import diagnostics
from alexnet.card import warn_not_written, write_card
from alexnet.checkpoint import read_config, write_config
from alexnet.config import Config, Parallel, SmoothSchedule
from alexnet.config_checks import check, without_effect
from alexnet.cores import decoding_threads
from alexnet.data.augment import Augmentation, sample_augmentation
from alexnet.data.device_feed import moved
from alexnet.data.loader import Batch, batches, epoch_order
from alexnet.data.mixing import mix, mixes, sample_mixing
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Split, Store
from alexnet.data.training_feed import epoch_batches, training_split
from alexnet.device import (
    device_here,
    device_type,
    dtype_of,
    peak_memory_bytes,
    resolve,
    switched,
)
from alexnet.distributed.launch import (
    barrier,
    begun_before,
    check_same_on_all_ranks,
    note_begun,
)
from alexnet.distributed.mesh import Mesh, init_mesh, is_distributed
from alexnet.distributed.restart import heard_on_each_machine
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import AlexNetError, ConfigError, RunError
from alexnet.evaluation import Result, centre, measure
from alexnet.files import FOREIGN_LOCK_S, exists
from alexnet.model import Network
from alexnet.ops.arena import kept_memory
from alexnet.program import command
from alexnet.progress import Progress
from alexnet.terminal import discard_stdout
from alexnet.train import graph_step
from alexnet.train.changes import accept, change_settings, continued
from alexnet.train.checkpoints import Checkpoints
from alexnet.train.endings import Interrupted, NotFinite, explained, stop_signals
from alexnet.train.folder import check_empty, check_room, run_lock
from alexnet.train.metrics import StepMetrics
from alexnet.train.run_log import RunLog
from alexnet.train.setup import (
    Setup,
    choose_products,
    restore,
    set_up,
    start_from,
    with_classes,
)
from alexnet.train.sgd import (
    ParamHyper,
    after_epoch,
    colour_on,
    finished,
    lr_factor,
    middle_of_step,
    param_hyper,
    sgd_step,
    update_average,
    zero_velocity,
)
from alexnet.train.state import TrainState
from alexnet.train.trackers import check_named
from alexnet.waiting import yielding

SIGNAL_IMAGES = 32
"""Number of training images whose features `diagnostics.signal` compares before the first step."""


def fit(config: Config, run_dir: str | Path) -> dict[str, Any]:
    """Train a new run into `run_dir` and return the metrics of the last epoch.

    With several processes every rank calls this function (`alexnet.distributed`), and rank 0
    writes the files. After a restart by torchrun the run is resumed.

    Raises:
        RunError: The folder is not empty, or the number of classes differs from the store's.
        BusyError: Another process is training this run, or its disk does not answer.
        OSError: A disk fails before the first step; with several ranks this is mostly a BusyError
            or MeshError.
        ConfigError: The config is invalid, or it names no store.
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
            store = Store(config.data)
            setup = set_up(_resolved(with_classes(config, store)), store, mesh)
            if mesh.first:
                _check_writable(run, setup.config, store)
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
            return _train(setup, run, zero_velocity(setup.net), TrainState(), messages)


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
    kind of processor with as many threads. New settings are saved with the run, all but `parallel`.

    Args:
        parallel: How the processes share the network in this call; not saved. None: as it was
            saved, or, in a single process, without sharing.
        epochs: New number of epochs in all; the schedule is scaled in proportion, and training goes
            on from the epoch of the checkpoint. A run that ended before its last epoch goes on too.
        lr: New value of `sgd.lr`, which the schedule divides. The velocity is kept.
        device: New value of `device`. None: as it was saved, or, on a machine without such a
            device, the one that it has; the precision stays the same.
        data: New folder or URL of the same store, which its checksum recognizes.
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
            store = Store(config.data)
            if mesh.first:
                _check_writable(run, config, store)
            return set_up(config, store, mesh)

        setup = check_same_on_all_ranks(mesh, prepare, Setup.fingerprint)
        velocity = zero_velocity(setup.net)
        # A shared disk may not show the checkpoint to all ranks.
        state = check_same_on_all_ranks(
            mesh,
            partial(_restored_or_new, setup, run, velocity),
            lambda state: {"checkpoint": repr(state)},
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
            return _train(setup, run, velocity, state, messages, note_change)


def _resolved(config: Config) -> Config:
    """Return what `resolve` does, after `init_mesh`: a rank's GPU is its own, and no other's."""
    if is_distributed():
        config = replace(config, device=device_type(config.device))
    return resolve(config)


def _lock(run: Path, mesh: Mesh, parallel: Parallel) -> AbstractContextManager[None]:
    """Hold the lock of a run, for which the first rank waits no longer than the others for it."""
    alone = mesh.world.size == 1
    return run_lock(run, FOREIGN_LOCK_S if alone else min(FOREIGN_LOCK_S, parallel.timeout_s / 2))


def _check_writable(run: Path, config: Config, store: Store) -> None:
    """Refuse a run whose disk lacks room for it, or whose trackers cannot be opened."""
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
    """
    if exists(run / "last.safetensors"):
        return restore(setup, run, velocity)
    if setup.config.init:
        start_from(setup)
    return TrainState()


def _write_card(run: Path) -> None:
    """Write the card of a run that is complete, and so does not fail without one."""
    try:
        write_card(run)
    except (OSError, AlexNetError) as error:
        warn_not_written(run, error)


def _train(
    setup: Setup,
    run: Path,
    velocity: dict[str, torch.Tensor],
    state: TrainState,
    messages: list[str],
    note_change: Callable[[RunLog], None] | None = None,
) -> dict[str, Any]:
    """Train from `state` to the end of the schedule.

    Args:
        messages: Lines to print before the first step.
        note_change: Saves and logs the new settings of a resumed run, directly before the training.

    Returns:
        The metrics of the last epoch; empty if the schedule has no epoch after `state`.
    """
    config, net = setup.config, setup.net
    store, train, val = setup.store, setup.train, setup.val
    messages = [*messages, *choose_products(setup)]
    mesh, device = net.mesh, torch.device(config.device)
    sgd, schedule = config.sgd, config.schedule
    workers = decoding_threads(config.workers, device.type)
    source = training_split(config, train, device, workers)
    reshuffled = config.order == "shuffled"
    preprocess = Preprocess(
        config.augment,
        store.statistics,
        config.architecture.input_px,
        device,
        dtype_of(config.precision),
    )
    # The crop, reflection and color shift of each image.
    draw = partial(
        sample_augmentation,
        config.augment,
        store.statistics,
        config.architecture.input_px,
        config.seed,
    )
    parameters = dict(net.named_parameters())
    graph = None
    if graph_step.takes(config, device, mesh):
        graph = graph_step.GraphStep(net, preprocess, velocity, config)
    step_metrics = StepMetrics(net, state, late=1 if device.type == "cuda" else 0)
    metrics: dict[str, Any] = {}
    # Of the whole training, in training images, for the first epoch; later ones have none. To
    # validate an image takes a third of a step: forward, without the two products of backward.
    forecast: float | None = (schedule.epochs - state.epoch) * (len(train) + len(val) / 3)
    num_batches = math.ceil(len(train) / sgd.batch)

    def set_hyper(epoch: float) -> dict[str, ParamHyper]:
        hyper = {name: param_hyper(config, name, epoch, state.plateau) for name in parameters}
        # The first call also records the graph.
        if graph is not None:
            graph.set_hyper(hyper)
        return hyper

    with (
        kept_memory(device),
        yielding(device),
        stop_signals() as stop,
        # From here on every error closes the trackers, which have threads and servers.
        RunLog(run, state.step, state.epoch, writes=mesh.first) as log,
        # After the trackers are open, because its clock starts here.
        Checkpoints(setup, run, velocity, preprocess, state, step_metrics) as checkpoints,
        nullcontext() if graph is None else closing(graph),
    ):
        # To stderr, because stdout has one line for each epoch.
        for line in messages:
            print(line, file=sys.stderr)
        if note_change is not None:
            note_change(log)
        # A run that is resumed has logged it at its start, and is not untrained any more.
        if state.step == 0:
            _log_signal(config, log, net.gather_network(), preprocess, train)
            checkpoints.save_snapshot()
        while not finished(schedule, state.epoch, state.plateau):
            # The epoch: its order, and the hyperparameters that hold in it. Those of a smooth
            # schedule are set again in each step.
            order = epoch_order(len(train), config.seed, state.epoch if reshuffled else 0)
            colour = colour_on(schedule, state.epoch)
            hyper = set_hyper(state.epoch)
            epoch_began_s, images_before = time.perf_counter(), state.images
            waited_s = 0.0
            title = f"epoch {state.epoch + 1}/{schedule.epochs}"
            # On a GPU a batch is copied while the step before it is computed.
            feed = epoch_batches(
                source,
                order,
                sgd.batch,
                workers,
                state.batch,
                device,
                mesh.share,
            )
            with Progress(title, len(train), "images", state.images, forecast) as progress:
                for batch in feed:
                    # Input: decoded while the previous step was computed; cropped, reflected and
                    # shifted in color on the device.
                    augmentation = draw(state.epoch, batch.index, batch.position, colour)
                    # Asked before `add`, which sends it to the other ranks.
                    due = checkpoints.due()
                    if isinstance(schedule, SmoothSchedule):
                        hyper = set_hyper(middle_of_step(state.epoch, state.batch, num_batches))
                    # Forward; as a CUDA graph, backward and update too.
                    if graph is not None:
                        loss, num_wrong = graph(batch, augmentation, state.step)
                        images = graph.x
                    else:
                        images, loss, num_wrong = _forward(
                            net, preprocess, config, batch, augmentation, state
                        )

                    # Metrics: on a GPU they are read one step late, so that the host never waits
                    # for the step it has just queued. They carry the ranks' wish to stop or save.
                    step_metrics.add(images, loss, num_wrong, batch.global_size, bool(stop), due)

                    # Backward and update. The learning rate is inside the velocity (section 5).
                    if graph is None:
                        sgd_step(
                            loss, parameters, velocity, hyper, sgd.momentum, net.reduce_gradients
                        )
                    if setup.average is not None:
                        update_average(setup.average, net, sgd.ema_decay, state.step)
                    state.step += 1
                    state.batch += 1
                    waited_s += batch.waited_s
                    progress.advance(batch.global_size, str(step_metrics))

                    # All ranks agree before any of them stops or saves: saving is collective.
                    stops, saves = step_metrics.agreed(bool(stop), due)
                    if stops:
                        checkpoints.save("last")
                        # The first rank may still be writing: it would take a rank that has left
                        # for a dead one.
                        barrier(mesh)
                        raise Interrupted(stop[0] if stop else signal.SIGTERM, run, state.step)
                    if saves:
                        checkpoints.save("last")

            # Validation: the center crop of every image, since ten crops would take ten times as
            # long. `alexnet evaluate` reports the paper's ten. Where the weights are averaged, the
            # average is validated.
            step_metrics.settle()
            spent_s, forecast = time.perf_counter() - epoch_began_s, None
            result = _validate(setup, preprocess, workers, state.step)
            elapsed_s, trained_on = checkpoints.elapsed_s(), state.images - images_before
            # Resumed after the last batch of the epoch: the speed is the run's so far.
            speed_so_far = (state.epoch * len(train) + state.images) / elapsed_s
            last_step = middle_of_step(state.epoch, num_batches - 1, num_batches)
            metrics = {
                "epoch": state.epoch + 1,
                "lr": sgd.lr * lr_factor(schedule, last_step, state.plateau),
                "train_loss": state.loss_sum / state.images,
                "train_error": state.errors / state.images,
                "val_loss": result.loss,
                "val_error": result.top1_error,
                "val_top5_error": result.top5_error,
                "images_per_s": trained_on / spent_s if trained_on else speed_so_far,
                "waited_share": waited_s / spent_s,
                "peak_memory_bytes": peak_memory_bytes(device),
                "elapsed_s": elapsed_s,
            }
            log.write("epoch", state.step, **metrics)

            # State of the next epoch, and the checkpoints. The state is advanced first: a resumed
            # run then begins with the next epoch.
            state.plateau = after_epoch(schedule, state.plateau, result.top1_error)
            state.next_epoch()
            checkpoints.save_epoch(metrics)
            # After the checkpoint, and without an error where the reader of stdout has left: the
            # training goes on.
            try:
                _print_epoch(metrics, schedule.epochs)
            except BrokenPipeError:
                discard_stdout()
    if mesh.first:
        _write_card(run)
    # Rank 0 may still be writing when another rank's caller wants to read the run.
    barrier(mesh)
    return metrics


def _forward(
    net: ShardedNetwork,
    preprocess: Preprocess,
    config: Config,
    batch: Batch,
    augmentation: Augmentation,
    state: TrainState,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the loss of this rank's part of a batch.

    Returns:
        The input of the network, shape (N, 3, H, W), and what `ShardedNetwork.loss` returns, two
        scalars before their sum over the ranks.
    """
    images = preprocess(batch.images, augmentation)
    labels = moved(batch.labels, images.device)
    mixed = None
    if mixes(config.augment):
        mixing = sample_mixing(
            config.augment, preprocess.input_px, config.seed, state.epoch, batch.index
        )
        images, mixed = mix(images, labels, mixing)
    loss, num_wrong = net.loss(
        images,
        labels,
        batch.global_size,
        # The dropout masks are a function of (seed, step).
        dropout_key=(config.seed, state.step),
        smoothing=config.label_smoothing,
        mixed=mixed,
    )
    return images, loss, num_wrong


def _validate(setup: Setup, preprocess: Preprocess, workers: int, step: int) -> Result:
    """Measure the validation error with the center crop.

    Raises:
        NotFinite: The loss is not finite. Nothing is saved then, because a run could not go on from
            such weights.
    """
    config = setup.config
    nets, crop = [(setup.tested, preprocess)], centre(config.augment)
    # Each rank measures as many images at once as it trains on.
    batch = config.sgd.batch // setup.net.mesh.data.size
    result = measure(nets, setup.val, crop, batch, workers, setup.net.mesh)
    if not math.isfinite(result.loss):
        raise NotFinite(f"step {step}: the validation loss is not finite", step)
    return result


def _log_signal(
    config: Config, log: RunLog, net: Network | None, preprocess: Preprocess, train: Split
) -> None:
    """Log the signal before the first step; `net` is the full one on rank 0 and None elsewhere."""
    if net is None:
        return
    order = epoch_order(len(train), config.seed, 0)[:SIGNAL_IMAGES]
    sample = next(batches(train, order, SIGNAL_IMAGES, workers=0))
    layers = diagnostics.signal(net, preprocess.centre(sample.images), batch_statistics=True)
    log.write("start", 0, signal={s.layer: [s.difference, s.rms] for s in layers})
    if (text := diagnostics.warning(layers, config.architecture)) is not None:
        print(f"warning: {text}", file=sys.stderr)


def _print_epoch(m: dict[str, Any], epochs: int) -> None:
    # For a `Plateau` this is an upper bound: it may end before the maximum number of epochs.
    left_s = m["elapsed_s"] / m["epoch"] * (epochs - m["epoch"])
    left = f"{math.ceil(left_s / 60):,d} min" if left_s > 60 else f"{math.ceil(left_s)} s"
    print(
        f"epoch {m['epoch']:3d}/{epochs}  loss {m['train_loss']:.3f}  "
        f"train error {m['train_error']:.1%}  "
        f"val error {m['val_error']:.1%}  lr {m['lr']:g}  {m['images_per_s']:,.0f} images/s  "
        f"waited {m['waited_share']:.1%}  memory {m['peak_memory_bytes'] / 2**20:,.0f} MiB"
        + (f"  {left} left" if m["epoch"] < epochs else ""),
        flush=True,
    )
