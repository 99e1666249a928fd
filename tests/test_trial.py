"""The way in which a CPU multiplies: timed, kept, saved, and right in any case."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint as checkpoint_activations
from torch.utils.flop_counter import FlopCounterMode

from alexnet import checkpoint, native
from alexnet.config import Architecture, Conv, FullyConnected, Parallel, StepSchedule
from alexnet.environment import components
from alexnet.model import Network
from alexnet.ops import (
    blocks,
    convolution,
    fully_connected,
    locally_connected,
    onednn,
    trial,
    winograd,
)
from alexnet.ops.trial import WAYS, Product, Way
from alexnet.train import loop
from alexnet.train.start import fit, resume
from tests.conftest import HAS_COMPILER, HAS_ONEDNN, tiny, tiny_architecture
from tests.ranks import on_ranks
from tests.runs import stopped_after

Layer = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def no_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin without choices, in this process and in its cache; the kernels are loaded before."""
    native.kernels(), native.winograd(), native.arena()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = trial.chosen()
    trial.install({})
    yield
    trial.install(before)


class Clock:
    """A clock that goes on only while a layer is computed, and a layer that takes its time."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self.seconds, self.now_s = seconds, 0.0
        self.computed: list[tuple[str, int]] = []
        """The ways that were computed, each with its number of images."""

    def perf_counter(self) -> float:
        return self.now_s

    def layer(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, way: Way
    ) -> torch.Tensor:
        name = next(name for name, each in WAYS.items() if each == way)
        self.computed.append((name, len(x)))
        self.now_s += self.seconds[name] * len(x)
        return F.linear(x.to(way.dtype), weight.to(way.dtype)).to(x.dtype)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock({"bfloat16": 1.0, "float32": 2.0})
    monkeypatch.setattr(trial, "time", fake)
    return fake


def way_of(clock: Clock, training: bool = True, **changes: Any) -> str:
    """The name of the way that is chosen for a fully connected layer."""
    x = torch.ones(2, 4, dtype=torch.bfloat16)
    chosen = trial.way(
        "fully connected", clock.layer, x, torch.ones(3, 4), None, training, **changes
    )
    return next(name for name, way in WAYS.items() if way == chosen)


def test_choice_follows_the_time_and_is_made_once(clock: Clock) -> None:
    assert way_of(clock) == "bfloat16"
    looks, turns = 2 * len(clock.seconds), trial.TURNS * len(clock.seconds)
    assert len(clock.computed) == looks + turns
    # In turns, so that a disturbance does not fall on one of them alone.
    assert [name for name, _ in clock.computed[looks:]] == ["bfloat16", "float32"] * trial.TURNS
    clock.seconds["bfloat16"] = 3.0
    assert way_of(clock) == "bfloat16"
    # Training and test are two questions.
    assert way_of(clock, training=False) == "float32"
    assert len(clock.computed) == 2 * (looks + turns)


def test_nearly_equal_times_choose_what_a_float32_run_does(clock: Clock) -> None:
    clock.seconds["bfloat16"] = 2.0 * trial.MARGIN + 0.01
    assert way_of(clock) == "float32"
    clock.seconds["bfloat16"] = 2.0 * trial.MARGIN - 0.01
    assert way_of(clock, training=False) == "bfloat16"
    times = {"bfloat16": 0.99, "float32": 0.95, "float32 by tiles": 1.0}
    assert trial._fastest(times, times) == "float32 by tiles"


def test_hopeless_way_is_computed_for_few_images_only(clock: Clock) -> None:
    clock.seconds["bfloat16"] = 2.0 * trial.HOPELESS + 0.1
    assert way_of(clock) == "float32"
    look = [(name, trial.CONNECTED_FEW) for name in ("bfloat16", "float32")]
    assert clock.computed == 2 * look


@pytest.mark.usefixtures("compiled_code")
def test_3x3_convolutions_in_training_may_go_by_tiles(clock: Clock) -> None:
    clock.seconds = {trial.BFLOAT16: 3.0, trial.DIRECT: 2.0, trial.TILES: 1.0, trial.OWN_TILES: 1.0}

    def computed(x: torch.Tensor, weight: torch.Tensor, bias: Any, way: Way) -> torch.Tensor:
        clock.layer(x.flatten(1)[:, :1], weight.flatten(1)[:, :1], None, way)
        # Whatever is timed has as many pixels as a step would need to go by tiles.
        if way.method == "tiles" and len(x) > trial.FEW:
            assert x[0, 0].numel() * len(x) >= winograd.MIN_PIXELS
        return x.float().sum() + weight.sum() + (0 if bias is None else bias.sum())

    x = torch.ones(1, 64, 6, 5, dtype=torch.bfloat16)
    weight, bias = torch.ones(64, 64, 3, 3), torch.ones(64)
    same = (1, (1, 1), 1)
    # Tiles always add a bias.
    assert trial.way("convolution", computed, x, weight, None, True, *same) == WAYS["float32"]
    assert trial.way("convolution", computed, x, weight, bias, True, *same) == WAYS[trial.TILES]
    assert trial.way("convolution", computed, x, weight, bias, False, *same) == WAYS["float32"]
    # Tiles have no stride.
    other = (2, (1, 1), 1)
    assert trial.way("convolution", computed, x, weight, bias, True, *other) == WAYS["float32"]


def test_choice_is_read_by_the_next_process(clock: Clock) -> None:
    way_of(clock)
    count = len(clock.computed)
    trial.install({})
    clock.seconds["bfloat16"] = 3.0
    assert way_of(clock) == "bfloat16"
    assert len(clock.computed) == count


def test_process_that_ends_its_trial_first_decides_for_all(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = trial._try

    def meanwhile(product: Product, *arguments: Any) -> dict[str, float]:
        trial._store_times(str(product), trial.WAYS, {"bfloat16": 2.0, "float32": 1.0})
        return real(product, *arguments)

    monkeypatch.setattr(trial, "_try", meanwhile)
    assert way_of(clock) == "float32"
    assert list(trial._read().values()) == [{"bfloat16": 2.0, "float32": 1.0}]


@pytest.mark.parametrize("other", ["threads", "processor", "PyTorch", "version"])
def test_another_machine_makes_its_own_choice(
    other: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    way_of(clock)
    trial.install({})
    clock.seconds["bfloat16"] = 3.0
    with monkeypatch.context() as patch:
        if other == "threads":
            patch.setattr(torch, "get_num_threads", lambda: 57)
        elif other == "processor":
            patch.setattr(native, "processor", lambda: "flags: none")
        elif other == "PyTorch":
            patch.setattr(torch, "__version__", "9.9")
        else:
            patch.setattr(trial, "VERSION", trial.VERSION + 1)
        assert way_of(clock) == "float32"
    # Each has a file of its own.
    trial.install({})
    assert way_of(clock) == "bfloat16"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b'{"a": 1}',
        b'{"a": {}}',
        b'{"a": {"bfloat16": 1.0}}',
        b'{"a": {"float32": 1.0, "float16": 1.0}}',
        b'{"a": {"float32": "1"}}',
        b'{"a": {"float32": -1.0}}',
        b'{"a": {"float32": NaN}}',
    ],
)
def test_damaged_file_is_made_anew(damage: bytes, clock: Clock) -> None:
    way_of(clock)
    sound = trial._file().read_bytes()
    trial._file().write_bytes(damage)
    trial.install({})
    assert trial.choices_on_file() == {}
    clock.seconds["bfloat16"] = 3.0
    assert way_of(clock) == "float32"
    assert json.loads(trial._file().read_bytes()).keys() == json.loads(sound).keys()


def test_folder_that_others_can_write_or_nobody_can_make_is_no_error(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = native.private_folder()
    folder.chmod(0o777)
    assert way_of(clock) == "bfloat16"
    assert list(folder.iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert way_of(clock, training=False) == "bfloat16"
    assert trial.choices_on_file() == {}


def test_compiler_that_came_later_adds_its_way(clock: Clock) -> None:
    product = Product("convolution", (64, 64, 3, 3), (64, 8, 8), True, True, 1, (1, 1), 1)
    trial._store_times(str(product), trial.WAYS, {"bfloat16": 2.0, "float32": 1.0})
    assert trial._times(str(product), ("bfloat16", "float32")) is not None
    assert trial._times(str(product), tuple(WAYS)) is None


def test_large_float32_layers_are_timed_in_training(clock: Clock) -> None:
    if not HAS_ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")
    clock.seconds = {trial.DIRECT: 2.0, trial.ONEDNN: 1.0}
    inputs = onednn.MIN_WEIGHTS // 4
    for weights, training, expected in [
        ((4, inputs), True, trial.ONEDNN),
        ((4, inputs), False, "float32"),
        ((4, inputs - 1), True, "float32"),
    ]:
        x, weight = torch.ones(2, weights[1]), torch.ones(weights)
        way = trial.way("fully connected", clock.layer, x, weight, None, training)
        single = Way(torch.float32, "tiles" if training else "direct")
        assert way == (WAYS[expected] if expected == trial.ONEDNN else single)
        # A product with a single way is not a choice.
        assert list(trial.chosen().values()) == [trial.ONEDNN]
    in_columns = trial.way("fully connected", clock.layer, x, weight, None, True, columns=2)
    assert in_columns == Way(torch.float32, "tiles")


@pytest.mark.usefixtures("compiled_code")
def test_3x3_float32_convolutions_go_the_fastest_way(clock: Clock) -> None:
    x, weight, bias = torch.ones(1, 64, 6, 5), torch.ones(64, 64, 3, 3), torch.ones(64)
    for name in (trial.DIRECT, trial.TILES, trial.OWN_TILES):
        clock.seconds = dict.fromkeys((trial.DIRECT, trial.TILES, trial.OWN_TILES), 2.0)
        clock.seconds[name] = 1.0
        trial._file(make=True).unlink(missing_ok=True)
        trial.install({})

        def computed(x: torch.Tensor, weight: torch.Tensor, bias: Any, way: Way) -> torch.Tensor:
            clock.layer(x.flatten(1)[:, :1], weight.flatten(1)[:, :1], None, way)
            return x.sum() + weight.sum() + bias.sum()

        way = trial.way("convolution", computed, x, weight, bias, True, 1, (1, 1), 1)
        assert way == WAYS[name]
        assert trial.way("convolution", computed, x, weight, bias, False, 1, (1, 1), 1) == Way(
            torch.float32
        )


@pytest.mark.parametrize("name", [trial.DIRECT, trial.BLOCKS])
def test_strided_convolution_of_an_image_goes_the_faster_way(clock: Clock, name: str) -> None:
    clock.seconds = {trial.DIRECT: 2.0, trial.BLOCKS: 2.0, name: 1.0}

    def computed(x: torch.Tensor, weight: torch.Tensor, bias: Any, way: Way) -> torch.Tensor:
        clock.layer(x.flatten(1)[:, :1], weight.flatten(1)[:, :1], None, way)
        return weight.sum() + bias.sum()

    def way_of_conv1(
        training: bool, channels: int = 3, stride: int = 2, with_bias: bool = True
    ) -> Way:
        x, weight = torch.ones(1, channels, 16, 16), torch.ones(8, channels, 7, 7)
        bias = torch.ones(8) if with_bias else None
        return trial.way("convolution", computed, x, weight, bias, training, stride, (0, 3), 1)

    assert way_of_conv1(training=True) == WAYS[name]
    # A single way is left in evaluation mode, for many channels, where blocks have one pixel, and
    # without a bias.
    assert way_of_conv1(training=False) == WAYS[trial.DIRECT]
    count = len(clock.computed)
    way_of_conv1(training=True, channels=blocks.MAX_CHANNELS + 1)
    way_of_conv1(training=True, stride=1)
    way_of_conv1(training=True, with_bias=False)
    assert len(clock.computed) == count


def test_other_values_and_devices_are_left_as_they_are(clock: Clock) -> None:
    for dtype in (torch.float32, torch.float64):
        for training in (False, True):
            x = torch.ones(2, 4, dtype=dtype)
            way = trial.way("fully connected", clock.layer, x, torch.ones(3, 4), None, training)
            assert way == Way(dtype, "tiles" if training else "direct")
    x = torch.ones(2, 4, dtype=torch.bfloat16, device="meta")
    way = trial.way("fully connected", clock.layer, x, torch.ones(3, 4), None, True)
    assert way == Way(torch.bfloat16, "tiles")
    assert clock.computed == []
    assert trial.chosen() == {}


def never(*_: object) -> dict[str, float]:
    raise AssertionError("a trial")


def small() -> Network:
    layers = (Conv("conv1", 8, 3), FullyConnected("fc2", 4))
    return Network(Architecture(layers, input_px=8))


def flops(net: nn.Module, x: torch.Tensor) -> None:
    with FlopCounterMode(display=False):
        net(x)


def mapped(net: nn.Module, x: torch.Tensor) -> None:
    torch.func.vmap(net)(x[:, None])


def compiled(net: nn.Module, x: torch.Tensor) -> None:
    torch.compile(net, backend="eager", fullgraph=True)(x)


def exported(net: nn.Module, x: torch.Tensor) -> None:
    torch.export.export(net, (x,))


def autocast(net: nn.Module, x: torch.Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        net(x)


@pytest.mark.parametrize("observe", [flops, mapped, compiled, exported, autocast])
@pytest.mark.parametrize("training", [False, True])
def test_observed_networks_make_no_trial(
    observe: Callable[[nn.Module, torch.Tensor], None],
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net = small().train(training)
    x = torch.randn(2, 3, 8, 8).bfloat16()
    with monkeypatch.context() as patch:
        patch.setattr(trial, "_try", never)
        observe(net, x)
        # Nothing was decided either.
        assert trial.chosen() == {}
    net(x)
    assert len(trial.chosen()) == 2


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return convolution(x, weight, bias, 1, (1, 1), 2, training=True)


def strided(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return convolution(x, weight, bias, 4, (0, 3), training=True)


def connected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return fully_connected(x, weight, bias, training=True)


def local(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return locally_connected(x, weight, bias, (1, 1), training=True)


LAYERS: dict[Layer, tuple[tuple[int, ...], ...]] = {
    convolved: ((32, 128, 12, 12), (128, 64, 3, 3), (128,)),
    strided: ((4, 3, 32, 32), (16, 3, 11, 11), (16,)),
    connected: ((8, 100), (600, 100), (600,)),
    local: ((4, 6, 5, 5), (8, 6, 3, 3, 5, 5), (8, 5, 5)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", [way for way in WAYS if way != trial.ONEDNN or HAS_ONEDNN])
def test_all_ways_compute_the_same(
    name: str, layer: Layer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the layer in float64, whose products nothing rounds."""
    monkeypatch.setattr(trial, "way", lambda *_, **__: WAYS[name])
    real, by_tiles = winograd.conv2d, list[str]()
    monkeypatch.setattr(winograd, "conv2d", lambda *a: by_tiles.append(name) or real(*a))
    real_linear, by_onednn = onednn.linear, list[str]()
    monkeypatch.setattr(onednn, "linear", lambda *a: by_onednn.append(name) or real_linear(*a))
    real_blocks, in_blocks = blocks.conv2d, list[str]()
    monkeypatch.setattr(blocks, "conv2d", lambda *a: in_blocks.append(name) or real_blocks(*a))
    shapes = LAYERS[layer]
    leaves = [torch.randn(shape).bfloat16() for shape in shapes]
    # Weights keep their float32.
    ours = [each if i == 0 else each.float() for i, each in enumerate(leaves)]
    exact = [each.double() for each in leaves]
    results = []
    for inputs in (ours, exact):
        if inputs is exact:
            monkeypatch.setattr(trial, "way", lambda *_, **__: Way(torch.float64))
        inputs = [each.clone().requires_grad_() for each in inputs]
        y = layer(*inputs)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        results.append([y, *torch.autograd.grad(y, inputs, dy.to(y.dtype))])
    if HAS_COMPILER:
        assert bool(by_tiles) == (name in (trial.TILES, trial.OWN_TILES) and layer is convolved)
    assert bool(by_onednn) == (name == trial.ONEDNN and layer is connected)
    assert bool(in_blocks) == (name == trial.BLOCKS and layer is strided)
    assert results[0][0].dtype == torch.bfloat16
    assert [each.dtype for each in results[0][2:]] == [torch.float32] * 2
    for got, wanted in zip(*results, strict=True):
        difference = (got.double() - wanted).detach().norm() / wanted.detach().norm()
        # bfloat16 keeps eight bits, and the way in bfloat16 also rounds the gradients to it.
        assert float(difference) < 2**-7


def test_trial_of_every_kind_works_and_leaves_nothing_behind() -> None:
    weights: dict[str, torch.Tensor] = {}
    state = torch.get_rng_state()
    for training in (True, False):
        for layer, shapes in LAYERS.items():
            x = torch.ones(shapes[0], dtype=torch.bfloat16)
            others = [torch.ones(shape).requires_grad_() for shape in shapes[1:]]
            weights[layer.__name__] = others[0]
            with torch.no_grad() if training else torch.enable_grad():
                layer(x, *others)
                assert all(each.grad is None for each in others)
    assert len(trial.chosen()) == len(LAYERS)
    assert all(len(times) >= 2 for times in trial._read().values())
    assert torch.equal(torch.get_rng_state(), state)
    with torch.inference_mode():
        trial.install({})
        trial._file().unlink()
        layer(x, *others)
    assert len(trial.chosen()) == 1


@pytest.mark.parametrize("layer", LAYERS)
def test_trial_below_hooks_on_saved_tensors_is_made_once_and_ends(layer: Layer) -> None:
    """The hooks of `checkpoint` compute the layer again when a saved tensor is read."""
    shapes = LAYERS[layer]
    x = torch.ones(shapes[0], dtype=torch.bfloat16)
    others = [torch.ones(shape).requires_grad_() for shape in shapes[1:]]
    read: list[torch.Tensor] = []

    def unpack(tensor: torch.Tensor) -> torch.Tensor:
        # A call of `trial.way` here would wait for itself.
        assert not trial._TRIAL.locked()
        read.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, unpack):
        y = layer(x, *others)
    assert read == []
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert len(read) > 0
    assert len(trial.chosen()) == 1


def test_checkpointed_layer_has_its_trial_and_its_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = torch.ones(LAYERS[convolved][0], dtype=torch.bfloat16)
    others = [torch.ones(shape).requires_grad_() for shape in LAYERS[convolved][1:]]
    # A trial that waits for itself never ends: it must not hold up the other tests.
    monkeypatch.setattr(trial, "_TRIAL", Lock())
    gradients: list[torch.Tensor] = []

    def train() -> None:
        y = checkpoint_activations(convolved, x, *others, use_reentrant=False)
        gradients.extend(torch.autograd.grad(y.sum(), others))

    thread = Thread(target=train, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    wanted = torch.autograd.grad(convolved(x, *others).sum(), others)
    assert all(torch.equal(a, b) for a, b in zip(gradients, wanted, strict=True))


def test_network_of_inference_mode_has_its_trials_in_training_mode() -> None:
    with torch.inference_mode():
        net = small().train()
        net(torch.randn(2, 3, 8, 8).bfloat16())
    assert len(trial.chosen()) == 2


def test_choices_that_another_thread_replaces_are_no_error(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Replaced(dict[str, str]):
        """Choices that are replaced as soon as one is made."""

        def __setitem__(self, name: str, choice: str) -> None:
            self.clear()

    monkeypatch.setattr(trial, "_CHOICES", Replaced())
    assert way_of(clock) == "bfloat16"


def test_check_says_what_was_timed(clock: Clock) -> None:
    def line() -> str:
        return next(part.text for part in components() if part.name == "products")

    assert line().startswith("none timed yet")
    way_of(clock)
    clock.seconds["bfloat16"] = 3.0
    way_of(clock, training=False)
    assert line() == "2 timed on this CPU: 1 in bfloat16, 1 in float32"


def bfloat16(store: Path, **changes: object) -> Any:
    return tiny(store, precision="bfloat16", schedule=StepSchedule(1), **changes)


def test_resumed_run_computes_with_the_saved_choices(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a machine that would choose otherwise; and bit for bit as if it had not stopped."""
    faster: list[str] = ["bfloat16"]

    def fake(product: Product, ways: Any, *_: Any) -> dict[str, float]:
        return {each: 1.0 if each == faster[0] else 2.0 for each in ways}

    monkeypatch.setattr(trial, "_try", fake)
    fit(bfloat16(store), tmp_path / "unbroken")
    with stopped_after(2):
        fit(bfloat16(store), tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run").about["products"]
    # Seven layers, in training and at test.
    assert len(saved) == 14
    assert set(saved.values()) == {"bfloat16"}
    assert "on this CPU: 14 in bfloat16" in capsys.readouterr().err
    faster[0] = "float32"
    trial._file().unlink()
    resume(tmp_path / "run")
    one, other = (checkpoint.read(tmp_path / name) for name in ("run", "unbroken"))
    assert one.about["products"] == saved
    assert one.about["sha256"] == other.about["sha256"]
    # A new run asks this machine.
    fit(bfloat16(store), tmp_path / "new")
    new = checkpoint.read(tmp_path / "new")
    assert set(new.about["products"].values()) == {"float32"}
    assert new.about["sha256"] != other.about["sha256"]


def test_run_decides_before_its_first_step(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.choose_products
    before_first_step: list[dict[str, str]] = []

    def noted(setup: Any) -> list[str]:
        lines = real(setup)
        before_first_step.append(trial.chosen())
        return lines

    monkeypatch.setattr(loop, "choose_products", noted)
    fit(bfloat16(store), tmp_path / "run")
    # Neither a step nor the validation met a product that was not decided.
    assert before_first_step == [trial.chosen()]
    assert len(trial.chosen()) == 14


@pytest.mark.parametrize("products", [None, 3, [], {"a": []}, {"a": "float16"}])
def test_checkpoint_without_choices_that_mean_something_here_is_resumed(
    products: object, store: Path, tmp_path: Path
) -> None:
    with stopped_after(1):
        fit(bfloat16(store), tmp_path / "run")
    saved = checkpoint.read(tmp_path / "run")
    about = {key: value for key, value in saved.about.items() if key != "products"}
    if products is not None:
        about["products"] = products
    checkpoint.write(saved.file, saved.weights, saved.velocity, saved.mean, about)
    resume(tmp_path / "run")
    assert len(checkpoint.read(tmp_path / "run").about["products"]) == 14


def large(store: Path, **changes: object) -> Any:
    """A float32 run with a fully connected layer that oneDNN may compute."""
    *_, last = tiny_architecture().layers
    layers = (FullyConnected("fc6", 2**10, then=("activation",)), last)
    return tiny(store, architecture=one_column(*layers), schedule=StepSchedule(1), **changes)


def one_column(*layers: Conv | FullyConnected) -> Architecture:
    """These layers after a convolution without a stride, which has a single way."""
    first = tiny_architecture().layers[0]
    assert isinstance(first, Conv)
    return replace(tiny_architecture(), layers=(replace(first, stride=1), *layers), columns=1)


def test_resumed_float32_run_computes_with_the_saved_choices(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not HAS_ONEDNN:
        pytest.skip("this PyTorch has no oneDNN")
    faster = [trial.ONEDNN]

    def fake(product: Product, ways: Any, *_: Any) -> dict[str, float]:
        return {each: 1.0 if each == faster[0] else 2.0 for each in ways}

    monkeypatch.setattr(trial, "_try", fake)
    calls = []
    real = onednn.linear
    monkeypatch.setattr(onednn, "linear", lambda *a: calls.append(1) or real(*a))
    fit(large(store), tmp_path / "unbroken")
    assert calls
    with stopped_after(2):
        fit(large(store), tmp_path / "run")
    faster[0] = trial.DIRECT
    trial._file().unlink()
    resume(tmp_path / "run")
    one, other = (checkpoint.read(tmp_path / name) for name in ("run", "unbroken"))
    assert list(one.about["products"].values()) == [trial.ONEDNN]
    assert one.about["sha256"] == other.about["sha256"]
    calls.clear()
    fit(large(store), tmp_path / "new")
    assert not calls


def test_choice_that_is_missing_on_this_machine_is_float32(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = torch.ones(2, 2**14, dtype=torch.bfloat16), torch.ones(4, 2**14)
    question = "fully connected", clock.layer, x, weight, None, True
    clock.seconds = {trial.BFLOAT16: 2.0, trial.DIRECT: 2.0, trial.ONEDNN: 1.0}
    monkeypatch.setattr(onednn, "_available", lambda: True)
    assert trial.way(*question) == WAYS[trial.ONEDNN]
    monkeypatch.setattr(onednn, "_available", lambda: False)
    assert trial.way(*question) == WAYS[trial.DIRECT]


def test_rank_without_an_image_of_the_batch_gets_gradients_of_zero(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trial, "way", lambda *_, **__: WAYS[trial.ONEDNN])
    weight = torch.ones(4, 3, requires_grad=True)
    fully_connected(torch.ones(0, 3), weight, None, training=True).sum().backward()
    assert torch.equal(weight.grad, torch.zeros(4, 3))  # type: ignore[arg-type]


def test_small_float32_run_has_no_choices(store: Path, tmp_path: Path) -> None:
    trial.install({"a": "float32"})
    net = one_column(*tiny_architecture().layers[-2:])
    fit(tiny(store, architecture=net, schedule=StepSchedule(1)), tmp_path / "run")
    assert checkpoint.read(tmp_path / "run").about["products"] == {}


def other_choices(store: str, run: str, columns: int) -> dict[str, str]:
    """Train on a rank whose trial would choose otherwise than those of the other ranks."""
    mine = "bfloat16" if os.environ["RANK"] == "0" else "float32"
    trial._times = lambda name, ways: {  # type: ignore[assignment]
        each: 1.0 if each == mine else 2.0 for each in ways
    }
    fit(bfloat16(Path(store), parallel=Parallel(columns=columns)), Path(run))
    return trial.chosen()


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 2])
def test_all_ranks_choose_what_rank_0_chooses(
    store: Path, tmp_path: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # the ranks would compile the kernels into an empty cache
    run = tmp_path / "run"
    first, second = on_ranks(2, other_choices, str(store), str(run), columns)
    saved = checkpoint.read(run).about["products"]
    assert set(saved.values()) == {"bfloat16"}
    assert len(saved) == 14
    # The second met nothing that rank 0 had not decided.
    assert second == saved
    assert first.items() >= saved.items()
