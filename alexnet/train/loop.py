"""The one training loop, from the first batch of a run to its last checkpoint.

No random state is carried along: the order of an epoch, the augmentation of each image and every
dropout mask are functions of the seed and of the position in training. A resumed run therefore
continues bit for bit, on CUDA if its config is deterministic.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from alexnet import diagnostics
from alexnet.card import warn_not_written, write_card
from alexnet.config import Config, SmoothSchedule
from alexnet.cores import decoding_threads
from alexnet.data.augment import Augmentation, sample_augmentation
from alexnet.data.device_feed import moved
from alexnet.data.loader import Batch, batches, epoch_order
from alexnet.data.mixing import mix, mixes, sample_mixing
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Split
from alexnet.data.training_feed import epoch_batches, training_split
from alexnet.device import dtype_of, peak_memory_bytes
from alexnet.distributed.collectives import all_sum
from alexnet.distributed.launch import barrier
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import AlexNetError
from alexnet.evaluation import TEST_COST, Result, centre, measure
from alexnet.model import Network
from alexnet.ops.arena import kept_memory
from alexnet.progress import Progress
from alexnet.terminal import print_if_read
from alexnet.train import graph_step
from alexnet.train.checkpoints import Checkpoints
from alexnet.train.endings import Interrupted, NotFinite, stop_signals
from alexnet.train.metrics import StepMetrics
from alexnet.train.run_log import RunLog
from alexnet.train.setup import Setup, choose_products
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
)
from alexnet.train.state import TrainState
from alexnet.waiting import yielding

SIGNAL_IMAGES = 32
"""Number of training images whose features `diagnostics.signal` compares before the first step."""


def _write_card(run: Path) -> None:
    """Write the card of a run that is complete, and so does not fail without one."""
    try:
        write_card(run)
    except (OSError, AlexNetError) as error:
        warn_not_written(run, error)


def train(
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
    # The work of the whole training, in training images; shown in the first epoch only.
    epoch_images = len(train) + TEST_COST * len(val)
    forecast: float | None = (schedule.epochs - state.epoch) * epoch_images
    num_batches = math.ceil(len(train) / sgd.batch)

    def set_hyper(epoch: float) -> dict[str, ParamHyper]:
        hyper = {name: param_hyper(config, name, epoch, state.plateau) for name in parameters}
        # The first call also records the graph.
        if graph is not None:
            graph.set_hyper(hyper)
        return hyper

    def interrupted(stop: list[int]) -> Interrupted:
        # The first rank may still be writing: it would take a rank that has left for a dead one.
        barrier(mesh)
        return Interrupted(stop[0] if stop else signal.SIGTERM, run, state.step)

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
            print_if_read(line, err=True)
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
                        raise interrupted(stop)
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
            # After the checkpoint: who reads the line may stop the training.
            _print_epoch(metrics, schedule.epochs)
            # Asked during the validation: nothing is left to save.
            if _any_rank(bool(stop), net):
                raise interrupted(stop)
    if mesh.first:
        _write_card(run)
    # Rank 0 may still be writing when another rank's caller wants to read the run.
    barrier(mesh)
    return metrics


def _any_rank(asked: bool, net: ShardedNetwork) -> bool:
    """Whether any rank was asked to stop. Collective."""
    count = next(net.parameters()).new_tensor([float(asked)])
    return float(all_sum(count, net.mesh.world)) > 0


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
    mesh = setup.net.mesh
    batch = config.sgd.batch // mesh.data.size
    # The confusions of ImageNet's 21,841 classes would take gigabytes, and nobody reads them here.
    result = measure(nets, setup.val, crop, batch, workers, mesh, confusion=False)
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
        print_if_read(f"warning: {text}", err=True)


def _print_epoch(m: dict[str, Any], epochs: int) -> None:
    # For a `Plateau` this is an upper bound: it may end before the maximum number of epochs.
    left_s = m["elapsed_s"] / m["epoch"] * (epochs - m["epoch"])
    left = f"{math.ceil(left_s / 60):,d} min" if left_s > 60 else f"{math.ceil(left_s)} s"
    print_if_read(
        f"epoch {m['epoch']:3d}/{epochs}  loss {m['train_loss']:.3f}  "
        f"train error {m['train_error']:.1%}  "
        f"val error {m['val_error']:.1%}  lr {m['lr']:g}  {m['images_per_s']:,.0f} images/s  "
        f"waited {m['waited_share']:.1%}  memory {m['peak_memory_bytes'] / 2**20:,.0f} MiB"
        + (f"  {left} left" if m["epoch"] < epochs else "")
    )
