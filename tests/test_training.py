"""Training: a run is determined by its config, and an interrupted run resumes bit for bit."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet import checkpoint, load, recipes
from alexnet.checkpoint import read_config
from alexnet.config import (
    Architecture,
    FullyConnected,
    Plateau,
    Sgd,
    StepSchedule,
    StoreSettings,
    from_dict,
    to_dict,
)
from alexnet.data import shapes, verification
from alexnet.data.prepare import prepare
from alexnet.data.storage import StoreLost
from alexnet.data.store import Store
from alexnet.device import allow_tf32, resolve
from alexnet.distributed.mesh import ALONE, Group, Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import AlexNetError, DataError, RunError
from alexnet.files import file_sha256, locked
from alexnet.provenance import code_version
from alexnet.train import loop, sgd
from alexnet.train import metrics as train_metrics
from alexnet.train.loop import Interrupted, fit, resume
from alexnet.train.metrics import NotFinite, StepMetrics, TrainState, read_metrics
from tests.conftest import tiny, tiny_architecture


def same_weights(first: Path, second: Path) -> bool:
    a, b = checkpoint.read(first), checkpoint.read(second)
    pairs = [(a.weights, b.weights), (a.velocity, b.velocity)]
    return all(x.keys() == y.keys() and all(torch.equal(x[n], y[n]) for n in x) for x, y in pairs)


def numbers(run: Path) -> list[dict[str, float]]:
    """The metrics of each epoch that do not depend on time."""
    keys = ("epoch", "step", "lr", "train_loss", "train_error", "val_loss", "val_error")
    return [{k: m[k] for k in keys} for m in read_metrics(run, "epoch")]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_number_of_workers_changes_nothing(
    store: Path, run: Path, workers: int, tmp_path: Path
) -> None:
    fit(tiny(store, workers=workers), tmp_path / "run")
    assert same_weights(tmp_path / "run", run)
    assert numbers(tmp_path / "run") == numbers(run)


def test_another_seed_gives_another_run(store: Path, run: Path, tmp_path: Path) -> None:
    fit(tiny(store, seed=1), tmp_path / "run")
    assert not same_weights(tmp_path / "run", run)


def stop_after(
    monkeypatch: pytest.MonkeyPatch, steps: int, signal_number: int, layers: int = 7
) -> None:
    """Send this process a signal during its `steps`-th step.

    Steps are counted by updates: every layer has two parameters.
    """
    real, count = sgd.update, {"calls": 0}
    parameters = 2 * layers

    def counted(*arguments: object) -> None:
        count["calls"] += 1
        if count["calls"] == steps * parameters:
            os.kill(os.getpid(), signal_number)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sgd, "update", counted)


@pytest.mark.parametrize(
    ("steps", "signal_number"), [(1, signal.SIGTERM), (4, signal.SIGINT), (6, signal.SIGTERM)]
)
def test_stopped_run_resumes_bit_for_bit(
    store: Path,
    run: Path,
    steps: int,
    signal_number: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with (
        monkeypatch.context() as patch,
        pytest.raises(Interrupted, match=f"saved at step {steps}") as stopped,
    ):
        stop_after(patch, steps, signal_number)
        fit(tiny(store), tmp_path / "run")
    assert stopped.value.number == signal_number
    assert checkpoint.read(tmp_path / "run").about["position"]["step"] == steps
    resume(tmp_path / "run")
    assert same_weights(tmp_path / "run", run)
    assert numbers(tmp_path / "run") == numbers(run)


def test_signal_handlers_are_restored_after_a_run(store: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(tiny(store, schedule=StepSchedule(1)), tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_training_in_a_thread_gives_the_same_run(store: Path, run: Path, tmp_path: Path) -> None:
    thread = threading.Thread(target=fit, args=(tiny(store), tmp_path / "run"))
    thread.start()
    thread.join()
    assert same_weights(tmp_path / "run", run)


def test_resuming_a_finished_run_changes_nothing(store: Path, tmp_path: Path) -> None:
    fit(tiny(store), tmp_path / "run")
    before = (
        (tmp_path / "run" / "last.safetensors").read_bytes(),
        (tmp_path / "run" / "metrics.jsonl").read_bytes(),
    )
    resume(tmp_path / "run")
    after = (
        (tmp_path / "run" / "last.safetensors").read_bytes(),
        (tmp_path / "run" / "metrics.jsonl").read_bytes(),
    )
    assert before == after


def test_metrics_after_the_checkpoint_are_not_duplicated_on_resume(
    copied_run: Path,
) -> None:
    """As after a kill between the line of an epoch and its checkpoint."""
    with (copied_run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "epoch", "step": 12, "epoch": 4}\n{"kind": "epo')
    resume(copied_run)
    assert [m["epoch"] for m in read_metrics(copied_run, "epoch")] == [1, 2, 3]


def test_saved_config_reproduces_the_run(run: Path, tmp_path: Path) -> None:
    config = read_config(run)
    assert config.architecture.classes == 10
    assert config.precision == "float32"
    fit(config, tmp_path / "again")
    assert same_weights(tmp_path / "again", run)
    assert from_dict(type(config), to_dict(config)) == config


def test_checkpoint_describes_its_origin(run: Path, store: Path) -> None:
    for which in ("last", "best"):
        saved = checkpoint.read(run, which)  # type: ignore[arg-type]
        about = saved.about
        assert about["recipe"] == "tiny"
        assert about["code"] == code_version()
        assert about["store"] == Store(store).checksum
        assert about["classes"] == Store(store).classes
        assert about["sha256"] == checkpoint.tensors_sha256(saved.weights)
        epochs = read_metrics(run, "epoch")
        assert about["evaluation"]["val_error"] in [m["val_error"] for m in epochs]
    assert about["evaluation"]["val_error"] == min(m["val_error"] for m in epochs)


def test_conv1_is_frozen_and_colour_noise_off_in_the_end_game(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour_on = []
    real = loop.sample_augmentation

    def watched(*arguments: object) -> object:
        colour_on.append(arguments[-1])
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "sample_augmentation", watched)
    fit(tiny(store), tmp_path / "run")
    assert colour_on == [True] * 8 + [False] * 4
    fit(tiny(store, schedule=replace(tiny(store).schedule, epochs=2)), tmp_path / "two")
    three, two = (
        checkpoint.read(tmp_path / "run").weights,
        checkpoint.read(tmp_path / "two").weights,
    )
    assert torch.equal(three["conv1.weight"], two["conv1.weight"])
    assert not torch.equal(three["conv2.weight"], two["conv2.weight"])


def test_nan_error_names_the_step_and_the_tensor(store: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFinite, match=r"step \d+: .*(weight|bias|output of) .*not finite"):
        fit(tiny(store, sgd=Sgd(batch=16, lr=1e30)), tmp_path / "run")


def test_delayed_metrics_are_the_same_and_a_nan_keeps_its_step() -> None:
    net, labels = ShardedNetwork(tiny_architecture(), 0, ALONE), torch.tensor([0, 1, 2])
    x = torch.zeros(3, 3, net.architecture.input_px, net.architecture.input_px)
    logits = [torch.eye(3, 10)[torch.randperm(3)] * i for i in range(5)]
    sums = []
    for delay in (0, 1, 3):
        state = TrainState()
        metrics = StepMetrics(net, state, delay)
        for each in logits:
            wrong = (each.argmax(1) != labels).sum()
            metrics.add(x, torch.nn.functional.cross_entropy(each, labels), wrong, 3, False, False)
            state.step += 1
        assert state.images == 3 * (5 - delay)
        metrics.settle()
        sums.append((state.images, state.errors, state.loss_sum))
    assert sums[0] == sums[1] == sums[2]
    metrics.add(x, torch.tensor(float("inf")), torch.tensor(0), 3, False, False)
    state.step += 1
    with pytest.raises(NotFinite, match="step 5: the loss is not finite, though"):
        metrics.settle()


def test_metrics_of_several_ranks_copy_nothing_from_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such a copy would make the host of a GPU wait for the step."""
    net = ShardedNetwork(tiny_architecture(), 0, ALONE)
    net.mesh = Mesh(world=Group((0, 1)))
    sent: list[list[float]] = []

    def all_sum(values: torch.Tensor, group: Group) -> torch.Tensor:
        sent.append(values.tolist())
        return values

    monkeypatch.setattr(train_metrics, "all_sum", all_sum)
    metrics, (loss, wrong) = StepMetrics(net, TrainState(), late=1), torch.tensor([2.0, 3.0])
    with RecordedNames() as names:
        metrics.add(loss, loss, wrong, 4, True, False)
    assert sent == [[2, 3, 1, 0]]
    # What `torch.tensor` and `new_tensor` end in.
    assert not [name for name in names.seen if "lift_fresh" in name]
    with RecordedNames() as names:
        loss.new_tensor([1.0])
    assert [name for name in names.seen if "lift_fresh" in name]


def test_ranks_write_one_checkpoint_for_a_request_that_is_read_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a GPU the other ranks read a request to save after the next step."""
    net, state = ShardedNetwork(tiny_architecture(), 0, ALONE), TrainState()
    net.mesh = Mesh(world=Group((0, 1)))
    monkeypatch.setattr(train_metrics, "all_sum", lambda values, group: values)
    metrics, loss = StepMetrics(net, state, late=1), torch.tensor(1.0)
    saved_at: list[int] = []
    for state.step in range(8):
        due = state.step >= 3 and not saved_at
        metrics.add(loss, loss, loss, 4, False, due)
        if metrics.agreed(False, due)[1]:
            metrics.settle()
            saved_at.append(state.step)
    assert saved_at == [4]


def test_all_ranks_name_a_weight_that_is_not_finite_on_one_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rank that looked at its activations instead would wait for the others."""
    net, state = ShardedNetwork(tiny_architecture(), 0, ALONE), TrainState()
    assert train_metrics.weight_fault(net) is None
    monkeypatch.setattr(train_metrics, "all_sum", lambda values, group: values + 1)
    metrics = StepMetrics(net, state, late=0)
    x, loss = torch.zeros(1, 3, 32, 32), torch.tensor(float("nan"))
    with pytest.raises(NotFinite, match="step 0: a weight of another rank is not finite"):
        metrics.add(x, loss, loss, 4, False, False)


def test_too_little_memory_of_a_gpu_is_one_sentence(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "_forward", forward)
    with pytest.raises(RunError, match=r"too little memory for batches of \d+ images; begin a new"):
        fit(tiny(store), tmp_path / "run")


class RecordedNames(TorchDispatchMode):
    """Records the names of the operators that PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        self.seen.append(str(function))
        return function(*arguments, **(options or {}))


def test_init_copies_matching_layers_and_reports_them(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(store, init=str(run), schedule=StepSchedule(1))
    layers = [
        replace(layer, units=16)
        if isinstance(layer, FullyConnected) and layer.name == "fc7"
        else layer
        for layer in config.architecture.layers
    ]
    config = replace(
        config, architecture=replace(config.architecture, layers=tuple(layers)), sgd=Sgd(16, lr=0)
    )
    fit(config, tmp_path / "run")
    output = capsys.readouterr().err
    assert f"from {run}: conv1, conv2, conv3, conv4, fc6; started anew: fc7, fc8" in output
    mine, theirs = checkpoint.read(tmp_path / "run").weights, checkpoint.read(run).weights
    assert torch.equal(mine["conv4.weight"], theirs["conv4.weight"])


def test_last_layer_is_copied_only_if_the_classes_are_the_same(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A last layer of the same shape but for other classes is not copied."""
    frozen = {"sgd": Sgd(16, lr=0), "schedule": StepSchedule(1)}
    theirs = checkpoint.read(run)
    fit(tiny(store, init=str(run), **frozen), tmp_path / "same")
    assert torch.equal(
        checkpoint.read(tmp_path / "same").weights["fc8.weight"], theirs.weights["fc8.weight"]
    )
    about = theirs.about | {"classes": [f"other {i}" for i in range(10)]}
    other = tmp_path / "other.safetensors"
    checkpoint.write(other, theirs.weights, {}, theirs.mean, about)
    capsys.readouterr()
    fit(tiny(store, init=str(other), **frozen), tmp_path / "new")
    assert "started anew: fc8 (the classes differ" in capsys.readouterr().err
    mine = checkpoint.read(tmp_path / "new").weights
    assert torch.equal(mine["fc7.weight"], theirs.weights["fc7.weight"])
    assert torch.equal(
        mine["fc8.weight"],
        ShardedNetwork(tiny_architecture(), 0, ALONE).get_parameter("fc8.weight"),
    )


def test_a_start_that_gives_no_layer_is_refused(store: Path, run: Path, tmp_path: Path) -> None:
    """Training from scratch would look like fine-tuning."""
    wider = replace(tiny_architecture(), width=2 * tiny_architecture().width)
    with pytest.raises(RunError, match=r"no layer of .* has the shape .* leave --init out"):
        fit(tiny(store, init=str(run), architecture=wider), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_init_layers_limits_the_copied_layers(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(store, init=str(run), init_layers=("conv1", "fc6"), sgd=Sgd(16, lr=0))
    fit(replace(config, schedule=StepSchedule(1)), tmp_path / "run")
    output = capsys.readouterr().err
    assert f"from {run}: conv1, fc6; started anew: conv2, conv3, conv4, fc7, fc8" in output
    mine, theirs = checkpoint.read(tmp_path / "run").weights, checkpoint.read(run).weights
    assert torch.equal(mine["fc6.weight"], theirs["fc6.weight"])
    assert not torch.equal(mine["conv2.weight"], theirs["conv2.weight"])
    with pytest.raises(ValueError, match="init_layers names 'conv9'; the layers are conv1"):
        fit(replace(config, init_layers=("conv9",)), tmp_path / "none")


def test_fixed_order_keeps_the_batches_of_every_epoch(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[tuple[int, ...]] = []
    real = loop.sample_augmentation

    def watched(*arguments: object) -> object:
        batches.append(tuple(arguments[5]))  # type: ignore[arg-type]
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "sample_augmentation", watched)
    for order in ("fixed", "shuffled"):
        batches.clear()
        fit(tiny(store, order=order, schedule=StepSchedule(2)), tmp_path / order)
        first, second = batches[: len(batches) // 2], batches[len(batches) // 2 :]
        assert sorted(sum(first, ())) == sorted(sum(second, ())) == list(range(60))
        assert (first == second) == (order == "fixed")
        assert first[0] != tuple(range(len(first[0])))


def test_float64_is_used_from_the_weights_to_the_loss(store: Path, tmp_path: Path) -> None:
    fit(tiny(store, precision="float64", schedule=StepSchedule(1)), tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run")
    assert {t.dtype for t in (*saved.weights.values(), *saved.velocity.values())} == {torch.float64}
    loss = read_metrics(tmp_path / "run", "epoch")[0]["train_loss"]
    assert loss != float(np.float32(loss))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "float64"])
def test_cuda_uses_tf32_only_on_request(precision: str) -> None:
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision != "tf32"
        allow_tf32(precision)
        assert [backend.allow_tf32 for backend in backends] == [precision == "tf32"] * 2
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def test_net_that_starts_nearly_blind_gives_a_warning(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small_weights = replace(
        tiny_architecture(), layers=tuple(replace(x, std=0.001) for x in tiny_architecture().layers)
    )
    fit(tiny(store, architecture=small_weights, schedule=StepSchedule(1)), tmp_path / "run")
    assert "nearly blind" in capsys.readouterr().err
    start = read_metrics(tmp_path / "run", "start")[0]["signal"]
    assert start["fc7"][0] < 0.02 < start["conv1"][0]


def test_metrics_contain_waiting_time_memory_and_speed(run: Path) -> None:
    for m in read_metrics(run, "epoch"):
        assert 0 <= m["waited_share"] < 1
        assert m["peak_memory_bytes"] > 2**20
        assert m["images_per_s"] > 0


def test_plateau_run_resumes_bit_for_bit(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(store, schedule=Plateau(epochs=9, patience=1, min_delta=0.5, drops=2))
    fit(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 10, signal.SIGTERM)
        fit(config, tmp_path / "run")
    resume(tmp_path / "run")
    assert same_weights(tmp_path / "whole", tmp_path / "run")
    assert len({m["lr"] for m in read_metrics(tmp_path / "run", "epoch")}) == 3


def test_invalid_runs_are_refused_and_nothing_is_overwritten(
    store: Path, run: Path, tmp_path: Path
) -> None:
    before = (run / "config.json").read_bytes()
    with pytest.raises(
        ValueError, match="is not empty; choose another --out, or continue with --resume"
    ):
        fit(tiny(store), run)
    assert (run / "config.json").read_bytes() == before
    for config, message in (
        (tiny(tmp_path / "none"), "is not a prepared store"),
        (
            tiny(store, val_split="test"),
            "no split 'test'; name one .* with --val-split: train, val",
        ),
        (
            tiny(store, architecture=replace(tiny_architecture(), classes=12)),
            "classes is 12 and .* has 10 classes",
        ),
        (tiny(store, architecture=replace(tiny_architecture(), input_px=64)), "sees 64 pixels"),
        (tiny(store, device="quantum"), "--device quantum cannot be used here"),
        (tiny(store, sgd=Sgd(batch=-1)), "sgd.batch is -1"),
        (tiny(store, init=str(tmp_path / "none")), "does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(config, tmp_path / "new")
        assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="is not a run"):
        resume(tmp_path / "new")


def test_damaged_or_foreign_checkpoints_are_refused(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(tiny(store, schedule=StepSchedule(1)), run)
    last, data = run / "last.safetensors", (run / "last.safetensors").read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"x" * 100):
        last.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last\.safetensors is damaged"):
            resume(run)
        assert last.read_bytes() == damaged
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 64
    last.write_bytes(flipped)
    with pytest.raises(RunError, match=r"last\.safetensors is damaged .*checksum"):
        checkpoint.read(run)
    last.write_bytes(data)
    config = json.loads((run / "config.json").read_text())
    config["architecture"]["layers"][2]["kernels"] = 24
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"another architecture: conv3\.bias has shape \(16,\) there, \(24,\) here"
    ):
        resume(run)
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        resume(run)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one layer, small enough to damage each of its bytes."""
    architecture = Architecture((FullyConnected("fc", 2),), input_px=8)
    config = tiny(Path("store"), architecture=architecture, schedule=StepSchedule(1))
    about = {
        "recipe": "tiny",
        "config": to_dict(config),
        "classes": ["a", "b"],
        "store": "none",
        "covariance": np.eye(3).tolist(),
        "position": asdict(TrainState()),
    }
    file = tmp_path_factory.mktemp("small") / "a.safetensors"
    weights = {"fc.weight": torch.randn(2, 192), "fc.bias": torch.randn(2)}
    velocity = {name: torch.randn_like(weight) for name, weight in weights.items()}
    checkpoint.write(file, weights, velocity, torch.full((8, 8, 3), 9.0), about)
    return file


def test_no_changed_byte_of_a_checkpoint_is_accepted(small: Path, tmp_path: Path) -> None:
    """Weights, velocities, mean image and header: a bit in each of 300 places."""
    data, damaged = small.read_bytes(), tmp_path / "damaged.safetensors"
    checkpoint.read(small)
    for place in np.linspace(0, len(data) - 1, 300, dtype=int).tolist():
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        damaged.write_bytes(changed)
        with pytest.raises(RunError, match=r"damaged\.safetensors (is damaged|is not a run)"):
            checkpoint.read(damaged)


def without_checksum(file: Path, old: Path, **changes: object) -> None:
    """Write a checkpoint as version 0.2 did, with changes of its header."""
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["about"]) | changes
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(tensors, old, {"about": json.dumps(about)})


def test_checkpoint_of_version_0_2_is_read_and_reported_once(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.safetensors"
    without_checksum(small, old)
    for _ in range(2):
        saved = checkpoint.read(old)
    assert not saved.covered
    assert torch.equal(saved.mean, checkpoint.read(small).mean)
    (line,) = capsys.readouterr().err.splitlines()
    assert "its mean image and header are not protected by a checksum" in line
    assert load(old).classes == ("a", "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 3},
        {"classes": ["a"]},
        {"classes": ["a", "\ud800"]},
        {"words": [1]},
        {"covariance": [[1, 2, 3]]},
        {"covariance": [[math.nan] * 3] * 3},
        {"sha256": None},
        {"store": 10**400},
        {"config": []},
        {"config": {"is": []}},
        {"config": {"recipe": "a", "architecture": {"layers": [{"is": [1]}]}}},
    ],
)
def test_header_of_another_form_is_refused_by_the_files_name(
    small: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    old = tmp_path / "old.safetensors"
    without_checksum(small, old, **changes)
    with pytest.raises(AlexNetError, match=r"old\.safetensors"):
        load(old)


@pytest.mark.parametrize(
    "about", ["3", "[]", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\u00ff{"]
)
def test_header_that_is_no_object_is_refused(small: Path, tmp_path: Path, about: str) -> None:
    save_file(
        {"preprocess.mean": torch.zeros(8, 8, 3)}, tmp_path / "a.safetensors", {"about": about}
    )
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "mean",
    [torch.zeros(8, 8), torch.zeros(8, 8, 3, dtype=torch.int8), torch.full((8, 8, 3), math.inf)],
)
def test_mean_image_of_another_form_is_refused(
    small: Path, tmp_path: Path, mean: torch.Tensor
) -> None:
    saved = checkpoint.read(small)
    save_file(
        saved.weights | {"preprocess.mean": mean},
        tmp_path / "a.safetensors",
        {"about": json.dumps(saved.about)},
    )
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.read(tmp_path / "a.safetensors")


def test_position_of_another_form_is_refused() -> None:
    good = asdict(TrainState())
    assert TrainState.from_dict(good, Path("a")) == TrainState()
    for wrong in (None, 3, {"epoch": "1"}, good | {"step": -1}, good | {"plateau": [1]}):
        with pytest.raises(AlexNetError, match=r"^a"):
            TrainState.from_dict(wrong, Path("a"))


def test_files_of_a_run_have_the_modes_of_the_umask(small: Path, tmp_path: Path) -> None:
    saved = checkpoint.read(small)
    for umask, mode in ((0o022, 0o644), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            checkpoint.write(tmp_path / "a", saved.weights, {}, saved.mean, saved.about)
        finally:
            os.umask(before)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_full_disk_leaves_the_old_checkpoint_and_no_other_file(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, file = checkpoint.read(small), tmp_path / "a"
    shutil.copy(small, file)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    for sync, kind in ((full, OSError), (interrupted, KeyboardInterrupt)):
        monkeypatch.setattr("alexnet.files.os.fsync", sync)
        with pytest.raises(kind) as error:
            checkpoint.write(file, saved.weights, {}, saved.mean, saved.about)
        assert kind is KeyboardInterrupt or error.value.filename == str(file)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert file.read_bytes() == small.read_bytes()


def test_damaged_lines_of_the_metrics_are_named_and_a_cut_last_line_is_dropped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "epoch", "step": 1, "epoch": 1}\n'
    path.write_bytes(good.encode() + b'{"kind": "epo')
    assert len(read_metrics(tmp_path)) == 1
    for wrong in (b"\xff", b"3", b"{}", b'{"kind": 1}', b'{"kind": "epoch", "epoch": "x"}'):
        path.write_bytes(good.encode() + wrong + b"\n" + good.encode())
        with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is damaged \(.*; remove this"):
            read_metrics(tmp_path)
    path.write_text(good)
    with pytest.raises(RunError, match=r"line 1 is damaged .it lacks a field"):
        read_metrics(tmp_path, "epoch")


def test_second_process_of_a_run_is_refused_and_named(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(Interrupted), pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 1, signal.SIGTERM)
        fit(tiny(store), run)
    assert not (run / ".lock").exists()
    before = {path.name for path in run.iterdir()}
    message = rf"run is already being trained by process {os.getpid()} on .*; wait for it to finish"
    # A lock of this process keeps out its own second training, too.
    with locked(run / ".lock", f"{run} is already being trained", "wait for it to finish"):
        with pytest.raises(AlexNetError, match=message):
            resume(run)
        with pytest.raises(AlexNetError, match=message):
            fit(tiny(store), run)
    assert {path.name for path in run.iterdir()} == before


def test_rests_of_a_killed_process_do_not_make_a_folder_a_run(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").write_text("process 1 on a machine that was switched off")
    (run / ".config.json.writing").write_text("{")  # killed before it was complete
    fit(tiny(store, schedule=StepSchedule(1)), run)
    assert not (run / ".lock").exists()
    (tmp_path / "file").touch()
    with pytest.raises(AlexNetError, match="file is not a folder"):
        fit(tiny(store), tmp_path / "file")


def change_store_after(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Call `change` in the first step of a training."""
    real, calls = loop.sgd_step, list[int]()

    def step(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) == 1:
            change()

    monkeypatch.setattr(loop, "sgd_step", step)


def test_shard_cut_or_overwritten_while_training_ends_with_its_name_after_saving(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.data.verification.verify_in_background", lambda *arguments: None)
    for name, content in (("cut", b""), ("overwritten", b"\xff" * 10**6)):
        copy, run = tmp_path / f"store-{name}", tmp_path / f"run-{name}"
        shutil.copytree(store, copy)

        def change(copy: Path = copy, content: bytes = content) -> None:
            for shard in (copy / "train").glob("*.arrow"):
                shard.write_bytes(content[: shard.stat().st_size])

        with monkeypatch.context() as patch:
            change_store_after(patch, change)
            with pytest.raises((StoreLost, DataError), match=r"train/data-0000\d\.arrow"):
                fit(tiny(copy, workers=0), run)
        assert checkpoint.read(run).about["position"]["step"] == 1


def test_shard_with_another_checksum_ends_the_training(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    shard = copy / "train" / "data-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1  # in the labels, which training takes from the index
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"data-00001\.arrow is missing or damaged"):
        fit(tiny(copy, schedule=StepSchedule(50)), tmp_path / "run")
    # On a busy machine the thread that compares the files may end before the run begins.
    if (tmp_path / "run").exists():
        assert read_config(tmp_path / "run").data == str(copy)


def test_intact_files_of_a_large_store_are_remembered_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verification, "REMEMBERED_BYTES", 1)
    shard, found = tmp_path / "a", list[Path]()
    shard.write_bytes(b"content")
    right = {shard: file_sha256(shard)}
    verification._verify(right, "store", found.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "file_sha256", lambda path: 1 / 0)
        verification._verify(right, "store", found.append)  # not read again
    assert found == []
    shard.write_bytes(b"c0ntent")
    verification._verify(right, "store", found.append)
    assert found == [shard]


def test_changed_store_is_refused_on_resume(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    fit(tiny(tmp_path / "store", schedule=StepSchedule(1)), tmp_path / "run")
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match="is not the store this run began with"):
        resume(tmp_path / "run")


def test_auto_device_and_precision_are_resolved(store: Path) -> None:
    config = resolve(tiny(store, device="auto", precision="auto"))
    assert config.device in ("cpu", "cuda", "mps")
    assert config.precision == ("bfloat16" if config.device == "cuda" else "float32")


def test_bfloat16_trains_with_float32_weights(store: Path, tmp_path: Path) -> None:
    fit(tiny(store, precision="bfloat16", schedule=StepSchedule(1)), tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run")
    assert {t.dtype for t in (*saved.weights.values(), *saved.velocity.values())} == {torch.float32}


TRAIN_OR_RESUME = """
import sys
from pathlib import Path
from tests.conftest import tiny
from alexnet.train.loop import fit, resume
import torch
torch.set_num_threads(2)
store, run = map(Path, sys.argv[1:])
resume(run) if (run / "config.json").exists() else fit(tiny(store, checkpoint_minutes=0.0), run)
"""


@pytest.mark.slow
def test_run_killed_at_any_moment_resumes_bit_for_bit(
    store: Path, run: Path, tmp_path: Path
) -> None:
    """SIGKILL at many moments, with a checkpoint after every step."""
    killed = tmp_path / "run"
    command = [sys.executable, "-c", TRAIN_OR_RESUME, str(store), str(killed)]
    root = Path(__file__).parents[1]
    kills = 0
    for attempt in range(12):
        process = subprocess.Popen(
            command, cwd=root, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=2.2 + 0.15 * attempt)
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    assert kills > 0
    assert same_weights(killed, run)
    assert numbers(killed) == numbers(run)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["original", "paper"])
def test_the_full_size_net_resumes_bit_for_bit(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three steps of the full-size network, stopped after the second."""
    prepare(shapes.source(24, 10), tmp_path / "store", StoreSettings())
    config = getattr(recipes, name)()
    config = replace(
        config,
        data=str(tmp_path / "store"),
        sgd=replace(config.sgd, batch=8),
        schedule=StepSchedule(1),
        device="cpu",
    )
    fit(config, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, 2, signal.SIGTERM, layers=8)
        fit(config, tmp_path / "run")
    resume(tmp_path / "run")
    assert same_weights(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.__all__)
def test_every_recipe_trains_for_an_epoch(name: str, tmp_path: Path) -> None:
    """At its own input size; networks for 224 pixels have an eighth of their width."""
    config = getattr(recipes, name)()
    px = config.architecture.input_px
    prepare(shapes.source(20, 10), tmp_path / "store", StoreSettings(size_px=px + 8))
    width = config.architecture.width * (0.125 if px == 224 else 1)
    config = replace(
        config,
        data=str(tmp_path / "store"),
        architecture=replace(config.architecture, width=width),
        sgd=replace(config.sgd, batch=10),
        schedule=StepSchedule(1),
        val_split="val",
    )
    metrics = fit(config, tmp_path / "run")
    assert metrics["epoch"] == 1
    assert metrics["train_loss"] < 10


PEAK_MEMORY = """
import json, sys
from dataclasses import replace
from alexnet import recipes
from alexnet.config import StepSchedule
from alexnet.train.loop import fit
from alexnet.train.metrics import read_metrics
store, run = sys.argv[1:]
fit(replace(recipes.demo(), data=store, schedule=StepSchedule(6)), run)
from pathlib import Path
print(json.dumps([m["peak_memory_bytes"] for m in read_metrics(Path(run), "epoch")]))
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_epochs_or_images(tmp_path: Path) -> None:
    """Peak memory grows by at most 2 %, from epoch 2 on and with four times the images."""
    peaks = []
    for count in (400, 1600):
        folder = tmp_path / str(count)
        prepare(shapes.source(count, 100), folder / "store", StoreSettings(size_px=128))
        command = [sys.executable, "-c", PEAK_MEMORY, str(folder / "store"), str(folder / "run")]
        completed = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks.append(json.loads(completed.stdout.splitlines()[-1]))
    print(f"peak memory, MiB, by epoch: {[[p >> 20 for p in epochs] for epochs in peaks]}")
    for epochs in peaks:
        assert epochs[-1] <= 1.02 * epochs[1]
    assert peaks[1][-1] <= 1.02 * peaks[0][-1]
