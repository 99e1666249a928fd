"""What is later than the paper: smooth schedules, soft targets, averaged weights."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from alexnet import checkpoint, load
from alexnet.cli import main
from alexnet.cli.train import parse_train
from alexnet.config import Config, Layer, Sgd, SmoothSchedule, StepSchedule, scaled
from alexnet.config_checks import check
from alexnet.distributed.loss import cross_entropy_by_classes
from alexnet.distributed.mesh import ALONE, Group
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import ConfigError, RunError
from alexnet.evaluation import evaluate
from alexnet.experiments.measures import steady_epochs
from alexnet.experiments.records import until
from alexnet.saved_config import from_dict, to_dict
from alexnet.train import loop
from alexnet.train.changes import changes_in_words
from alexnet.train.run_log import read_metrics
from alexnet.train.sgd import PlateauState, lr_factor, middle_of_step, param_hyper, update_average
from alexnet.train.start import fit, resume
from tests.conftest import tiny, tiny_architecture
from tests.runs import interrupted, same_bits

START = PlateauState()


@pytest.mark.parametrize(
    ("form", "at_quarter", "at_half"),
    [("cosine", (1 + math.sqrt(0.5)) / 2, 0.5), ("linear", 0.75, 0.5)],
)
def test_smooth_schedule_has_the_values_of_its_curve(
    form: str, at_quarter: float, at_half: float
) -> None:
    schedule = SmoothSchedule(12, form, warmup_epochs=4)  # type: ignore[arg-type]
    factors = [lr_factor(schedule, epoch, START) for epoch in (0, 1, 4, 6, 8, 12)]
    assert factors == pytest.approx([0, 0.25, 1, at_quarter, at_half, 0], abs=1e-15)
    # Of 10 steps, the last one of the first epoch; the mean of the curve is that of its middles.
    assert middle_of_step(0, 9, 10) == 0.95
    steps = [
        lr_factor(schedule, middle_of_step(epoch, batch, 10), START)
        for epoch in range(4, 12)
        for batch in range(10)
    ]
    assert sum(steps) / len(steps) == pytest.approx(0.5)
    assert min(steps) > 0
    assert steps == sorted(steps, reverse=True)


def test_smooth_schedule_is_scaled_with_its_warm_up() -> None:
    schedule = SmoothSchedule(90, "linear", 5)
    assert scaled(schedule, 18) == SmoothSchedule(18, "linear", 1)
    assert from_dict(SmoothSchedule, to_dict(schedule)) == schedule
    assert steady_epochs(schedule) == 0


@pytest.mark.parametrize("warmup", [-1, 3, float("nan")])
def test_warm_up_is_shorter_than_the_schedule(warmup: float) -> None:
    config = tiny(Path("store"), schedule=SmoothSchedule(3, warmup_epochs=warmup))
    with pytest.raises(ConfigError, match=r"^schedule\.warmup_epochs is .*; it must be at least 0"):
        check(config)


def test_fields_of_a_smooth_schedule_are_options() -> None:
    config = tiny(Path("store"), schedule=SmoothSchedule(10))
    arguments = ["--schedule.form", "linear", "--schedule.warmup-epochs", "2", "--epochs", "20"]
    got = parse_train("tiny", arguments, config).config
    assert got.schedule == SmoothSchedule(20, "linear", 4)
    assert until(got, 3) == got
    (words,) = changes_in_words(config, got)
    assert words == (
        "20 epochs in place of 10; the learning rate goes on along the linear curve of that length"
    )


def test_run_with_a_smooth_schedule_learns_at_a_new_rate_in_each_step(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 images in batches of 16 are 4 steps; the rates are seen at the update itself."""
    config = tiny(store, schedule=SmoothSchedule(2, warmup_epochs=0.5))
    seen: list[float] = []
    real = loop.sgd_step

    def recorded(loss, parameters, velocity, hyper, *rest):  # type: ignore[no-untyped-def]
        seen.append(hyper["conv1.weight"].lr)
        real(loss, parameters, velocity, hyper, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "sgd_step", recorded)
        fit(config, tmp_path / "whole")
    want = [
        param_hyper(config, "conv1.weight", epoch, START).lr
        for epoch in (0.125, 0.375, 0.625, 0.875, 1.125, 1.375, 1.625, 1.875)
    ]
    assert seen == want
    assert [line["lr"] for line in read_metrics(tmp_path / "whole", "epoch")] == want[3::4]
    interrupted(config, tmp_path / "parts", 6)
    assert same_bits(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_that_of_pytorch(smoothing: float) -> None:
    """By the classes of one rank too, which have a loss and a gradient of their own."""
    logits = torch.randn(6, 10, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(6)
    want = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    by_classes, wrong = cross_entropy_by_classes(logits, labels, Group(), smoothing)
    torch.testing.assert_close(by_classes / 6, want)
    assert wrong == (logits.argmax(1) != labels).sum()
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (by_classes / 6, want)]
    torch.testing.assert_close(*gradients)

    net = ShardedNetwork(tiny_architecture(), 0, ALONE).eval()
    images = torch.randn(6, 3, 32, 32)
    loss, _ = net.loss(images, labels, 6, smoothing=smoothing)
    torch.testing.assert_close(
        loss, F.cross_entropy(net(images), labels, label_smoothing=smoothing)
    )


def test_smoothing_changes_the_training_loss_alone(store: Path, tmp_path: Path) -> None:
    """With weights that never change; a run whose weights do change takes other steps."""
    frozen = tiny(store, sgd=Sgd(16, lr=0), schedule=StepSchedule(1))
    sharp = replace(frozen.architecture, layers=sharper(frozen.architecture.layers))
    plain = fit(replace(frozen, architecture=sharp), tmp_path / "plain")
    smooth = fit(replace(frozen, architecture=sharp, label_smoothing=0.5), tmp_path / "smooth")
    assert smooth["train_loss"] != plain["train_loss"]
    assert smooth["train_error"] == plain["train_error"]
    assert smooth["val_loss"] == plain["val_loss"]
    for smoothing in (0.0, 0.5):
        trains = tiny(store, schedule=StepSchedule(1), label_smoothing=smoothing)
        fit(trains, tmp_path / str(smoothing))
    assert not same_bits(tmp_path / "0.0", tmp_path / "0.5")


def sharper(layers: tuple[Layer, ...]) -> tuple[Layer, ...]:
    """Layers whose logits differ from each other."""
    return (*layers[:-1], replace(layers[-1], std=1.0))


@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_label_smoothing_leaves_the_label_a_share(value: float) -> None:
    with pytest.raises(ConfigError, match=r"^label_smoothing is .*; it must be at least"):
        check(tiny(Path("store"), label_smoothing=value))


def averaged(store: Path, **changes: object) -> Config:
    base = tiny(store, schedule=StepSchedule(2), **changes)
    return replace(base, sgd=replace(base.sgd, lr=0.01, ema_decay=0.75))


def test_average_of_three_steps_has_its_closed_form() -> None:
    """d is 1/10, 2/11 and 0.1; the first weights remain with their product."""
    weights = [torch.randn(3, 4) for _ in range(4)]
    average, net = (torch.nn.Linear(4, 3, bias=False) for _ in range(2))
    with torch.no_grad():
        average.weight.copy_(weights[0])
        for step, (weight, decay) in enumerate(zip(weights[1:], (0.9, 0.9, 0.1), strict=True)):
            net.weight.copy_(weight)
            update_average(average, net, decay, step)
    d = 1 / 10, 2 / 11, 0.1
    want = (
        d[0] * d[1] * d[2] * weights[0]
        + (1 - d[0]) * d[1] * d[2] * weights[1]
        + (1 - d[1]) * d[2] * weights[2]
        + (1 - d[2]) * weights[3]
    )
    torch.testing.assert_close(average.weight.detach(), want)


def test_average_is_validated_saved_and_used(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are trained as without it; all that reads a run has their average."""
    config = averaged(store)
    fit(replace(config, sgd=replace(config.sgd, ema_decay=0.0)), tmp_path / "plain")
    of_steps: list[torch.Tensor] = []
    real = loop.sgd_step

    def recorded(loss, parameters, *rest):  # type: ignore[no-untyped-def]
        if not of_steps:
            of_steps.append(parameters["fc8.weight"].detach().clone())
        real(loss, parameters, *rest)
        of_steps.append(parameters["fc8.weight"].detach().clone())

    with monkeypatch.context() as patch:
        patch.setattr(loop, "sgd_step", recorded)
        metrics = fit(config, tmp_path / "run")
    saved, plain = (checkpoint.read(tmp_path / name) for name in ("run", "plain"))
    assert saved.training.keys() == plain.weights.keys()
    assert all(saved.training[name].equal(plain.weights[name]) for name in plain.weights)
    want = of_steps[0]
    for step, weight in enumerate(of_steps[1:]):
        want = torch.lerp(want, weight, 1 - min(0.75, (1 + step) / (10 + step)))
    torch.testing.assert_close(saved.weights["fc8.weight"], want)
    trained = load(tmp_path / "run", device="cpu")
    assert trained.net.get_parameter("fc8.weight").equal(saved.weights["fc8.weight"])
    (centre, *_) = evaluate([tmp_path / "run"], store, device="cpu")
    assert metrics["val_loss"] == pytest.approx(centre.loss, rel=1e-5)
    assert checkpoint.read(tmp_path / "run", "best").training == {}
    main(["export", str(tmp_path / "run"), str(tmp_path / "net.safetensors")])
    assert checkpoint.read(tmp_path / "net.safetensors").about["sha256"] == saved.about["sha256"]


def test_averaged_run_is_resumed_bit_for_bit(store: Path, tmp_path: Path) -> None:
    fit(averaged(store), tmp_path / "whole")
    interrupted(averaged(store), tmp_path / "parts", 6)
    assert same_bits(tmp_path / "whole", tmp_path / "parts")


def test_average_begins_at_the_weights_of_a_checkpoint_without_one(
    run: Path, copied_run: Path
) -> None:
    """A run that is lengthened with an average in its config.json."""
    config = checkpoint.read_config(copied_run)
    sgd = replace(config.sgd, lr=0.0, bias_lr=0.0, ema_decay=0.5)
    checkpoint.write_config(copied_run, replace(config, sgd=sgd, schedule=StepSchedule(4)))
    resume(copied_run)
    saved, before = checkpoint.read(copied_run), checkpoint.read(run)
    for name, weight in before.weights.items():
        assert saved.training[name].equal(weight)
        assert saved.weights[name].equal(weight)


def test_average_begins_at_the_weights_that_a_run_starts_from(
    store: Path, run: Path, tmp_path: Path
) -> None:
    config = averaged(store, init=str(run))
    frozen = replace(config.sgd, lr=0.0, bias_lr=0.0)
    fit(replace(config, sgd=frozen, schedule=StepSchedule(1)), tmp_path / "run")
    saved, before = checkpoint.read(tmp_path / "run"), checkpoint.read(run)
    assert all(saved.weights[name].equal(weight) for name, weight in before.weights.items())


def test_damaged_weights_of_training_are_noticed(store: Path, tmp_path: Path) -> None:
    fit(replace(averaged(store), schedule=StepSchedule(1)), tmp_path / "run")
    file = tmp_path / "run" / "last.safetensors"
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    begin, _ = json.loads(data[8 : 8 + size])["training.fc8.weight"]["data_offsets"]
    data[8 + size + begin] ^= 1
    file.write_bytes(data)
    with pytest.raises(RunError, match="does not have the checksum that it states"):
        checkpoint.read(file)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decay_of_the_average_is_a_share(decay: float) -> None:
    config = averaged(Path("store"))
    with pytest.raises(ConfigError, match=r"^sgd\.ema_decay is .*; it must be at least 0 and belo"):
        check(replace(config, sgd=replace(config.sgd, ema_decay=decay)))
