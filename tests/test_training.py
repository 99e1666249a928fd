"""Training: a run is determined by its config, and an interrupted run resumes bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from alexnet import checkpoint, recipes
from alexnet.checkpoint import read_config
from alexnet.config import (
    Plateau,
    Sgd,
    StepSchedule,
    StoreSettings,
)
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.device import allow_tf32, resolve
from alexnet.distributed import collectives
from alexnet.distributed.mesh import ALONE, Group, Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import RunError
from alexnet.saved_config import from_dict, to_dict
from alexnet.train import endings, loop, trackers
from alexnet.train import metrics as train_metrics
from alexnet.train.endings import NotFinite
from alexnet.train.metrics import StepMetrics
from alexnet.train.run_log import read_metrics
from alexnet.train.start import fit, resume
from alexnet.train.state import TrainState
from tests.conftest import tiny, tiny_architecture
from tests.runs import interrupted, same_bits, stopped_after


def numbers(run: Path) -> list[dict[str, float]]:
    """The metrics of each epoch that do not depend on time."""
    keys = ("epoch", "step", "lr", "train_loss", "train_error", "val_loss", "val_error")
    return [{k: m[k] for k in keys} for m in read_metrics(run, "epoch")]


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_the_number_of_workers_changes_nothing(
    store: Path, run: Path, workers: int, tmp_path: Path
) -> None:
    fit(tiny(store, workers=workers), tmp_path / "run")
    assert same_bits(tmp_path / "run", run)
    assert numbers(tmp_path / "run") == numbers(run)


def test_default_device_of_pytorch_changes_nothing(store: Path, run: Path, tmp_path: Path) -> None:
    """A program that uses the package may have set one; `meta` has no values at all."""
    with torch.device("meta"):
        fit(tiny(store), tmp_path / "run")
    assert same_bits(tmp_path / "run", run)
    assert numbers(tmp_path / "run") == numbers(run)


def test_another_seed_gives_another_run(store: Path, run: Path, tmp_path: Path) -> None:
    fit(tiny(store, seed=1), tmp_path / "run")
    assert not same_bits(tmp_path / "run", run)


@pytest.mark.parametrize(
    ("steps", "signal_number"), [(1, signal.SIGTERM), (4, signal.SIGINT), (6, signal.SIGTERM)]
)
def test_stopped_run_resumes_bit_for_bit(
    store: Path, run: Path, steps: int, signal_number: int, tmp_path: Path
) -> None:
    with stopped_after(steps, signal_number) as stopped:
        fit(tiny(store), tmp_path / "run")
    assert stopped.match(f"saved at step {steps}")
    assert stopped.value.number == signal_number
    assert checkpoint.read(tmp_path / "run").about["position"]["step"] == steps
    resume(tmp_path / "run")
    assert same_bits(tmp_path / "run", run)
    assert numbers(tmp_path / "run") == numbers(run)


def test_second_signal_acts_at_once_in_a_single_process_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What stops all processes of a launch reaches a rank twice: directly, and by torchrun."""
    acted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: acted.append(number))
    try:
        for world, at_once in (("1", 1), ("2", 0)):
            monkeypatch.setenv("RANK", "0")
            monkeypatch.setenv("WORLD_SIZE", world)
            with endings.stop_signals() as received:
                for _ in range(2):
                    os.kill(os.getpid(), signal.SIGTERM)
            assert (len(received), len(acted)) == (2 - at_once, at_once)
            acted.clear()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_first_ctrl_c_says_what_it_does_and_second_how_to_go_on(
    copied_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = copied_run / "last.safetensors"
    line = f"to go on from the last checkpoint: alexnet train --resume {copied_run}"
    for notes in ([line], []):
        with (
            pytest.raises(KeyboardInterrupt) as stopped,
            endings.explained(tiny(copied_run), ALONE, copied_run),
            endings.stop_signals(),
        ):
            os.kill(os.getpid(), signal.SIGINT)
            assert capsys.readouterr().err == (
                "stopping after this step, or after a validation that is at work, with a "
                "checkpoint; the same signal again stops at once\n"
            )
            os.kill(os.getpid(), signal.SIGINT)
        assert getattr(stopped.value, "__notes__", []) == notes
        saved.unlink(missing_ok=True)


def test_signal_that_the_process_was_started_to_ignore_stays_ignored() -> None:
    """As Ctrl-C is in a background job of a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with endings.stop_signals() as received:
            os.kill(os.getpid(), signal.SIGINT)
        assert not received
    finally:
        signal.signal(signal.SIGINT, before)


def test_training_goes_on_where_the_reader_of_its_lines_has_left(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as streams, monkeypatch.context() as patch:
        for name in ("stdout", "stderr"):
            reader, writer = os.pipe()
            os.close(reader)
            patch.setattr(sys, name, streams.enter_context(os.fdopen(writer, "w")))
        # A tracker that fails has a line too.
        failing = Mock(**{"add_scalar.side_effect": OSError("no server")})
        monkeypatch.setattr(trackers, "_opened", lambda run: [failing])
        resume(copied_run, epochs=4)
    failing.add_scalar.assert_called_once()
    assert checkpoint.read(copied_run).about["position"]["epoch"] == 4


def test_ranks_that_diverged_wait_for_the_one_that_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun would end it, in the middle of reading the checkpoint, as soon as one has ended."""
    events: list[str] = []

    def mend(*_: object) -> str:
        events.append("mend")
        return "go on"

    monkeypatch.setattr(endings, "watch_ranks", lambda *_: nullcontext())
    monkeypatch.setattr(endings, "_mend", mend)
    monkeypatch.setattr(endings, "barrier", lambda mesh: events.append("barrier"))
    for rank, expected in ((0, ["mend", "barrier"]), (1, ["barrier"])):
        mesh = Mesh(world=Group((0, 1), rank))
        with (
            pytest.raises(NotFinite, match="a loss") as raised,
            endings.explained(tiny(tmp_path), mesh, tmp_path),
        ):
            raise NotFinite("a loss", 7)
        assert events == expected
        assert raised.value.step == 7
        events.clear()


def test_each_rank_validates_its_part_of_a_batch_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def measure(
        nets: object, split: object, crop: object, batch: int, *_: object, **confusion: bool
    ) -> Any:
        sizes.append(batch)
        assert confusion == {"confusion": False}
        return SimpleNamespace(loss=1.0)

    monkeypatch.setattr(loop, "measure", measure)
    net = SimpleNamespace(mesh=Mesh(data=Group((0, 1))))
    setup: Any = SimpleNamespace(config=tiny(tmp_path), val=None, tested=net, net=net)
    loop._validate(setup, None, 1, 0)  # type: ignore[arg-type]
    assert sizes == [8]


def test_signal_handlers_are_restored_after_a_run(store: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(tiny(store, schedule=StepSchedule(1)), tmp_path / "run")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_training_in_a_thread_gives_the_same_run(store: Path, run: Path, tmp_path: Path) -> None:
    thread = threading.Thread(target=fit, args=(tiny(store), tmp_path / "run"))
    thread.start()
    thread.join()
    assert same_bits(tmp_path / "run", run)


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
    assert same_bits(tmp_path / "again", run)
    assert from_dict(type(config), to_dict(config)) == config


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


def test_a_loss_that_is_read_late_is_not_blamed_on_the_update_before_it() -> None:
    """Its own update has made all weights NaN by then."""
    net, state = ShardedNetwork(tiny_architecture(), 0, ALONE), TrainState()
    metrics = StepMetrics(net, state, late=1)
    x, loss = torch.zeros(1, 3, 32, 32), torch.tensor(float("nan"))
    metrics.add(x, loss, loss, 1, False, False)
    with torch.no_grad():
        for weight in net.parameters():
            weight.fill_(torch.nan)
    state.step += 1
    with pytest.raises(NotFinite, match=r"^step 0: the loss is not finite$"):
        metrics.add(x, loss, loss, 1, False, False)


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

    monkeypatch.setattr(collectives, "all_sum", all_sum)
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
    monkeypatch.setattr(collectives, "all_sum", lambda values, group: values)
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


def test_float64_is_used_from_the_weights_to_the_loss(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, losses = loop.sgd_step, set[torch.dtype]()

    def watched(loss: torch.Tensor, *others: object) -> None:
        losses.add(loss.dtype)
        real(loss, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "sgd_step", watched)
    fit(tiny(store, precision="float64", schedule=StepSchedule(1)), tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run")
    assert {t.dtype for t in (*saved.weights.values(), *saved.velocity.values())} == {torch.float64}
    assert losses == {torch.float64}


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


def test_no_test_computes_in_tf32_unless_it_asks_for_it() -> None:
    """Tests that compare two convolutions of one card would fail by chance."""
    assert not torch.backends.cudnn.allow_tf32


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
    epochs = read_metrics(run, "epoch")
    assert len(epochs) == 3
    for m in epochs:
        assert 0 <= m["waited_share"] < 1
        assert m["peak_memory_bytes"] > 2**20
        assert m["images_per_s"] > 0


def test_plateau_run_resumes_bit_for_bit(store: Path, tmp_path: Path) -> None:
    config = tiny(store, schedule=Plateau(epochs=9, patience=1, min_delta=0.5, drops=2))
    fit(config, tmp_path / "whole")
    interrupted(config, tmp_path / "run", 10)
    assert same_bits(tmp_path / "whole", tmp_path / "run")
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
        (replace(tiny(store), data=""), r"names no store; .*replace\(config, data=STORE\)"),
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


def test_auto_device_and_precision_are_resolved(store: Path) -> None:
    config = resolve(tiny(store, device="auto", precision="auto"))
    assert config.device in ("cpu", "cuda", "mps")
    assert config.precision == ("bfloat16" if config.device == "cuda" else "float32")


def test_bfloat16_trains_with_float32_weights(store: Path, tmp_path: Path) -> None:
    for precision in ("bfloat16", "float32"):
        fit(tiny(store, precision=precision, schedule=StepSchedule(1)), tmp_path / precision)
    saved = checkpoint.read(tmp_path / "bfloat16")
    assert {t.dtype for t in (*saved.weights.values(), *saved.velocity.values())} == {torch.float32}
    rounded, exact = (
        read_metrics(tmp_path / precision, "epoch")[0]["train_loss"]
        for precision in ("bfloat16", "float32")
    )
    assert rounded != exact


@pytest.mark.slow
@pytest.mark.parametrize("name", ["original", "paper"])
def test_the_full_size_net_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
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
    interrupted(config, tmp_path / "run", 2)
    assert same_bits(tmp_path / "whole", tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.__all__)
def test_every_recipe_trains_for_an_epoch(name: str, tmp_path: Path) -> None:
    """At its own input size; networks for photographs have an eighth of their width."""
    config = getattr(recipes, name)()
    px = config.architecture.input_px
    prepare(shapes.source(20, 10), tmp_path / "store", StoreSettings(size_px=px + 8))
    width = config.architecture.width * (0.125 if px >= 224 else 1)
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
from alexnet.train.start import fit
from alexnet.train.run_log import read_metrics
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
