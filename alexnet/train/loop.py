"""`fit(config, run_dir)`: the one training loop. Evaluate, save, log and step stand here in the order they happen.

Nothing random is carried along: the order of an epoch, what happens to each picture and every dropout mask are
functions of the seed and of where training stands, so a resumed run goes on bit for bit.
"""

from __future__ import annotations

import json
import math
import signal as signals
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from alexnet import weights
from alexnet.config import Config, Parallel, check, without_effect
from alexnet.configfile import to_dict
from alexnet.data.augment import Preprocess, check_sizes, draw
from alexnet.data.loader import batches, epoch_order
from alexnet.data.places import StoreLost
from alexnet.data.store import Split, Store
from alexnet.device import (
    allow_tf32,
    dtype_of,
    only_deterministic,
    peak_memory_bytes,
    resolve,
)
from alexnet.evaluation import centre, measure
from alexnet.model import Network
from alexnet.ops.arena import kept_memory
from alexnet.parallel.launch import agreed, restarted, together
from alexnet.parallel.mesh import Mesh, join, launched
from alexnet.parallel.mesh import check as fits
from alexnet.parallel.part import Part
from alexnet.parallel.watch import watched
from alexnet.progress import Progress
from alexnet.provenance import code_version
from alexnet.signal import signal, warning
from alexnet.train.checkpoint import Position, read_config, write_config
from alexnet.train.readings import Readings
from alexnet.train.runlog import RunLog
from alexnet.train.sgd import after_epoch, colour_on, descend, fall, finished, rates, zero_velocity

SIGNAL_PICTURES = 32


class Interrupted(Exception):
    """Ctrl-C or SIGTERM; everything up to here is saved. `number`: the signal's."""

    def __init__(self, number: int, run: Path, step: int) -> None:
        super().__init__(
            f"stopped and saved at step {step}; go on with: alexnet train --resume {run}"
        )
        self.number = number


def fit(config: Config, run_dir: str | Path) -> dict[str, Any]:
    """Train a new run into `run_dir` and return the last epoch's metrics.

    Every rank of several processes calls it (`alexnet.parallel`); the first writes. Raises ValueError for a config that
    cannot work or a folder that holds something; Interrupted on Ctrl-C and SIGTERM; NotFinite for a NaN.
    """
    run = Path(run_dir)
    if restarted() and (run / "config.json").exists():
        return resume(run, config.parallel)
    check(config)
    mesh = join(config.parallel)

    def ready() -> Ready:
        if run.exists() and any(run.iterdir()):
            raise ValueError(
                f"{run} holds something already; choose another --out, or go on with --resume {run}"
            )
        store = Store(config.data)
        whole = resolve(_with_classes(config, store))
        return _ready(whole, store, mesh)

    begun = agreed(mesh, ready, Ready.says)
    said = [f"warning: {sentence}" for sentence in without_effect(config)]
    if config.init:
        said.append(_start_from(begun))
    if mesh.first:
        run.mkdir(parents=True, exist_ok=True)
        write_config(run, begun.config)
    with watched(mesh, f"go on with: alexnet train --resume {run}"):
        return _train(begun, run, zero_velocity(begun.net), Position(), said)


def resume(run_dir: str | Path, parallel: Parallel | None = None) -> dict[str, Any]:
    """Go on with an interrupted run, on as many ranks bit for bit; returns the last epoch's metrics.

    parallel: how several processes share it now; None: as it was saved, or all of it in one process. Raises ValueError
    when there is no run, when its store has changed, or when the checkpoint is of another net.
    """
    run = Path(run_dir)
    config = resolve(read_config(run))
    parallel = parallel or (config.parallel if launched() else Parallel())
    config = replace(config, parallel=parallel)
    mesh = join(parallel)
    begun = agreed(mesh, lambda: _ready(config, Store(config.data), mesh), Ready.says)
    net, velocity, position = begun.net, zero_velocity(begun.net), Position()
    if (run / "last.safetensors").exists():  # else it was stopped before the first
        saved = weights.read(run)
        if saved.about["store"] != begun.store.checksum:
            raise ValueError(
                f"{config.data} is not the store this run began with; prepare it as it was"
            )
        weights.copy_into(net, net.own(saved.weights), str(run / "last.safetensors"))
        for name, tensor in net.own(saved.velocity).items():
            velocity[name].copy_(tensor)
        position = Position.from_dict(saved.about["position"])
    elif config.init:
        _start_from(begun)
    said = [f"resumed at epoch {position.epoch + 1}, step {position.step}"]
    with watched(mesh, f"go on with: alexnet train --resume {run}"):
        return _train(begun, run, velocity, position, said)


@dataclass(frozen=True)
class Ready:
    """What training begins with: nothing is written before all is known to fit."""

    config: Config
    store: Store
    splits: tuple[Split, Split]
    net: Part

    def says(self) -> str:
        """What must be the same on every rank."""
        return json.dumps([to_dict(replace(self.config, data="")), self.store.checksum])


def _ready(config: Config, store: Store, mesh: Mesh) -> Ready:
    fits(config, mesh.world.size)
    net = Part(config.architecture, config.seed, mesh).to(config.device)
    if config.precision == "float64":
        net = net.double()
    answer_s = (
        config.parallel.timeout_s / 2
    )  # a rank says that it waits for its store before others miss it
    train, val = (
        store.split(name, keep=True, answer_s=answer_s)
        for name in (config.train_split, config.val_split)
    )
    check_sizes(store.size_px, config.architecture.input_px)
    return Ready(config, store, (train, val), net)


def _start_from(begun: Ready) -> str:
    """Copy what `config.init` asks for into the network; returns a line that says what was taken.

    The last layer answers for classes: taken from a run on other classes it would begin with their
    answers. So it starts anew unless the lists of classes are equal.
    """
    config, net = begun.config, begun.net
    saved = weights.read(config.init)
    layers = set(config.init_layers) or {layer.name for layer in config.architecture.layers}
    same_classes = list(saved.about["classes"]) == begun.store.classes
    if not same_classes:
        layers.discard(config.architecture.layers[-1].name)
    taken, anew = weights.copy_matching(net, net.own(saved.weights), layers)
    why = "" if same_classes else " (the classes differ, so the last layer is not taken)"
    return (
        f"from {config.init}: {', '.join(taken) or 'nothing'}; "
        f"started anew: {', '.join(anew) or 'nothing'}{why}"
    )


def _with_classes(config: Config, store: Store) -> Config:
    """The head takes the store's number of classes; an explicit field that disagrees is refused."""
    own, theirs = config.architecture.classes, len(store.classes)
    if own not in (None, theirs):
        raise ValueError(
            f"architecture.classes is {own} and {config.data} has {theirs} classes; leave the field out"
        )
    return replace(config, architecture=replace(config.architecture, classes=theirs))


def _train(
    begun: Ready, run: Path, velocity: dict[str, torch.Tensor], at: Position, said: list[str]
) -> dict[str, Any]:
    config, store, (train, val), net = begun.config, begun.store, begun.splits, begun.net
    only_deterministic(config.deterministic)
    allow_tf32(config.precision)
    mesh, device = net.mesh, torch.device(config.device)
    sgd, schedule = config.sgd, config.schedule
    reshuffled = config.order == "shuffled"
    preprocess = Preprocess(
        config.augment,
        store.statistics,
        config.architecture.input_px,
        device,
        dtype_of(config.precision),
    )
    parameters = dict(net.named_parameters())
    about = describe(config, store)
    log = RunLog(run, at.step, at.epoch, writes=mesh.first)
    readings = Readings(net, at, late=1 if device.type == "cuda" else 0)
    for line in said:
        print(line, file=sys.stderr)
    if at.step == 0:
        _start(config, log, net.together(), preprocess, train)
    metrics: dict[str, Any] = {}
    began_s, saved_s = time.perf_counter() - at.elapsed_s, time.perf_counter()

    def save(which: Literal["last", "best"]) -> None:
        readings.settle()
        at.elapsed_s = time.perf_counter() - began_s
        whole, moving = net.whole(parameters), net.whole(velocity if which == "last" else {})
        if mesh.first:
            header = about | {"position": asdict(at)}
            weights.write(
                run / f"{which}.safetensors", whole, moving, preprocess.whole_mean, header
            )

    with kept_memory(device), _stop_signals() as stop, _saved_without_store(save, mesh):
        while not finished(schedule, at.epoch, at.plateau):
            order = epoch_order(len(train), config.seed, at.epoch if reshuffled else 0)
            colour = colour_on(schedule, at.epoch)
            of = {name: rates(config, name, at.epoch, at.plateau) for name in parameters}
            begun_s, waited_s, begun_images = time.perf_counter(), 0.0, at.images
            with Progress(
                f"epoch {at.epoch + 1}/{schedule.epochs}", len(train), "images", at.images
            ) as progress:
                pin = device.type == "cuda"
                for batch in batches(
                    train, order, sgd.batch, config.workers, at.batch, pin=pin, share=mesh.share
                ):
                    what = (
                        preprocess.augment,
                        store.statistics,
                        preprocess.input_px,
                        config.seed,
                        at.epoch,
                    )
                    x = preprocess(batch.images, draw(*what, batch.index, batch.place, colour))
                    labels = batch.labels.to(device, non_blocking=True)
                    loss, wrong = net.loss(
                        x, labels, batch.whole, dropout_key=(config.seed, at.step)
                    )
                    due = time.perf_counter() - saved_s > 60 * config.checkpoint_minutes
                    readings.add(x, loss, wrong, batch.whole, bool(stop), due)
                    descend(loss, parameters, velocity, of, sgd.momentum, net.summed)
                    at.step += 1
                    at.batch += 1
                    waited_s += batch.waited_s
                    progress.advance(batch.whole, str(readings))
                    stops, saves = readings.agreed(bool(stop), due)
                    if stops:
                        save("last")
                        raise Interrupted(stop[0] if stop else signals.SIGTERM, run, at.step)
                    if saves:
                        save("last")
                        saved_s = time.perf_counter()
            readings.settle()
            spent_s = time.perf_counter() - begun_s
            result = measure(
                [(net, preprocess)], val, centre(config.augment), sgd.batch, config.workers, mesh
            )
            metrics = {
                "epoch": at.epoch + 1,
                "rate": sgd.rate * fall(schedule, at.epoch, at.plateau),
                "train_loss": at.loss_sum / at.images,
                "train_error": at.errors / at.images,
                "val_loss": result.loss,
                "val_error": result.top1_error,
                "val_top5_error": result.top5_error,
                "images_per_s": (at.images - begun_images) / spent_s,
                "waited_share": waited_s / spent_s,
                "peak_memory_bytes": peak_memory_bytes(device),
                "elapsed_s": time.perf_counter() - began_s,
            }
            log.write("epoch", at.step, **metrics)
            _print_epoch(metrics, schedule.epochs)
            at.plateau = after_epoch(schedule, at.plateau, result.top1_error)
            at.epoch, at.batch, at.images, at.errors, at.loss_sum = at.epoch + 1, 0, 0, 0, 0.0
            about["evaluation"] = {"patches": 1, "split": config.val_split, **metrics}
            if result.top1_error < at.least_error:
                at.least_error = result.top1_error
                save("best")
            save("last")
            saved_s = time.perf_counter()
    log.close()
    together(mesh)
    return metrics


def describe(config: Config, store: Store) -> dict[str, Any]:
    """The header of a checkpoint: enough to use the weights without the store."""
    return {
        "code": code_version(),
        "torch": torch.__version__,
        "recipe": config.recipe,
        "config": to_dict(config),
        "classes": store.classes,
        "words": store.words,
        "store": store.checksum,
        "stored_px": store.size_px,
        "covariance": store.statistics.covariance.tolist(),
        "evaluation": None,
    }


def _start(
    config: Config, log: RunLog, net: Network | None, preprocess: Preprocess, train: Split
) -> None:
    """Before the first step: what the untrained network sees. net: the whole one, where this rank has it."""
    if net is None:
        return
    order = epoch_order(len(train), config.seed, 0)[:SIGNAL_PICTURES]
    sample = next(batches(train, order, SIGNAL_PICTURES, workers=0))
    seen = signal(net, preprocess.centre(sample.images))
    log.write("start", 0, signal={s.layer: [s.difference, s.rms] for s in seen})
    if (text := warning(seen)) is not None:
        print(f"warning: {text}", file=sys.stderr)


def _print_epoch(m: dict[str, Any], epochs: int) -> None:
    left_min = math.ceil(
        m["elapsed_s"] / m["epoch"] * (epochs - m["epoch"]) / 60
    )  # a plateau may end sooner
    print(
        f"epoch {m['epoch']:3d}/{epochs}  loss {m['train_loss']:.3f}  train error {m['train_error']:.1%}  "
        f"val error {m['val_error']:.1%}  rate {m['rate']:g}  {m['images_per_s']:,.0f} images/s  "
        f"waited {m['waited_share']:.1%}  memory {m['peak_memory_bytes'] / 2**20:,.0f} MiB  "
        f"{left_min:,d} min left",
        flush=True,
    )


@contextmanager
def _saved_without_store(save: Callable[[Literal["last"]], None], mesh: Mesh) -> Iterator[None]:
    """What one process has trained is not lost with its store; of several ranks others may be elsewhere."""
    try:
        yield
    except StoreLost:
        if mesh.world.size == 1:
            save("last")
        raise


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """A list that holds the signal's number once Ctrl-C or SIGTERM came. A second one acts at once."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signals.signal(number, before[number])

    before: dict[int, Any] = {}
    try:
        for number in (int(signals.SIGINT), int(signals.SIGTERM)):
            before[number] = signals.signal(number, note)
    except ValueError:  # not the main thread: nothing to catch there
        pass
    try:
        yield seen
    finally:
        for caught, handler in before.items():
            signals.signal(caught, handler)
