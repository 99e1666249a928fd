"""Batches on their way to a GPU: the same, in the same order, from memory not yet reused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import load, predict
from alexnet.config import Augment
from alexnet.data import device_feed, shapes
from alexnet.data.device_feed import LateResults, on_device
from alexnet.data.loader import Batch, batches
from alexnet.data.store import Store
from alexnet.evaluation import predictions
from alexnet.trained import precision_of_use, probabilities
from tests.conftest import tiny

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def batch(number: int, images: torch.Tensor) -> Batch:
    index = np.array([number])
    return Batch(images, torch.tensor([number]), index, index, 1, 0.0)


class Reused:
    """Batches in as few buffers as possible: one is filled again when nobody holds it."""

    def __init__(self, count: int) -> None:
        self.count, self.made, self.free = count, 0, list[np.ndarray]()

    def __iter__(self) -> Iterator[Batch]:
        for number in range(self.count):
            if not self.free:
                self.made += 1
                self.free.append(np.empty((1, 2, 2, 3), np.uint8))
            buffer = self.free.pop()
            buffer[:] = number
            images = torch.from_numpy(buffer)
            weakref.finalize(images, self.free.append, buffer)
            yield batch(number, images)
            del images


class Slow:
    """A device whose copies are made long after they were started, if at all."""

    def __init__(self, device: torch.device) -> None:
        self.queue: list[SlowEvent] = []
        self.handed_over: list[int] = []

    def start(self, host: Batch) -> tuple[Batch, SlowEvent]:
        event = SlowEvent(host.images.numpy(), torch.full_like(host.images, 255))
        self.queue.append(event)
        return replace(host, images=event.to), event

    def hand_over(self, moved: Batch, arrived: SlowEvent) -> None:
        self.handed_over.append(int(moved.labels[0]))

    def run(self, most_behind: int) -> None:
        while len(self.queue) > most_behind:
            event = self.queue.pop(0)
            event.to.copy_(torch.from_numpy(event.pixels))
            event.done = True


class SlowEvent:
    def __init__(self, pixels: np.ndarray, to: torch.Tensor) -> None:
        # A view of the buffer and not the tensor, which would hold the buffer.
        self.pixels, self.to, self.done = pixels.view(), to, False

    def query(self) -> bool:
        return self.done


def test_no_buffer_is_filled_again_while_it_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(CUDA)
    monkeypatch.setattr(device_feed, "Copies", lambda device: slow)
    source = Reused(9)
    got = []
    for moved in on_device(iter(source), CUDA):
        assert slow.handed_over[-1] == int(moved.labels[0]), "the step waits for its own batch"
        got.append(moved)
        slow.run(most_behind=3)
    slow.run(most_behind=0)
    assert [int(b.labels[0]) for b in got] == list(range(9))
    assert [b.images.unique().tolist() for b in got] == [[n] for n in range(9)]
    assert source.made <= 6, "buffers of finished copies are used again"


def test_each_copy_starts_a_batch_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(CUDA)
    monkeypatch.setattr(device_feed, "Copies", lambda device: slow)
    started = []
    for _ in on_device(iter(Reused(4)), CUDA):
        started.append(len(slow.queue))
    assert started == [2, 3, 4, 4]


def test_without_a_gpu_the_batches_are_handed_through() -> None:
    source = iter([])
    assert on_device(source, CPU) is source


def test_streams_wait_for_each_other_and_the_host_for_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[str, Any]] = []

    class Stream:
        def __init__(self, device: object = None) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...
        def wait_event(self, event: object) -> None:
            calls.append(("wait", self))

    class Event:
        def record(self) -> None:
            calls.append(("record", None))

        def query(self) -> bool:
            return False

    class Tensor:
        def to(self, device: torch.device, non_blocking: bool) -> Tensor:
            calls.append(("copy", non_blocking))
            return self

        def record_stream(self, stream: object) -> None:
            calls.append(("hold", stream))

    computing = Stream()
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: computing)
    host = replace(batch(0, torch.empty(0)), images=Tensor(), labels=Tensor())  # type: ignore[arg-type]
    assert len(list(on_device(iter([host]), CUDA))) == 1
    assert calls == [
        ("copy", True),
        ("copy", True),
        ("record", None),
        ("wait", computing),
        ("hold", computing),
        ("hold", computing),
    ]


@needs_gpu
def test_batches_arrive_on_the_gpu_unchanged(store: Path) -> None:
    split = Store(store).split("train")
    order = np.arange(len(split))
    here = batches(split, order, 7)
    there = on_device(batches(split, order, 7, pin=True), torch.device("cuda", 0))
    for a, b in zip(here, there, strict=True):
        assert b.images.is_cuda
        assert torch.equal(a.images, b.images.cpu())
        assert torch.equal(a.labels, b.labels.cpu())


def test_late_results_come_one_batch_late_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Event:
        def record(self, stream: object) -> None:
            recorded.append(stream)

        def synchronize(self) -> None: ...

    recorded: list[object] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    # The stream of the device of the result, which need not be PyTorch's current one.
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    values = [torch.full((2, 3), float(i)) for i in range(3)]
    late = LateResults(CUDA)
    assert [len(late.add(value)) for value in values] == [0, 1, 1]
    (last,) = late.rest()
    assert (last == 2).all()
    assert late.rest() == []
    assert recorded == ["stream of cpu"] * 3
    at_once = LateResults(CPU)
    assert [float(at_once.add(value)[0][0, 0]) for value in values] == [0, 1, 2]
    assert at_once.rest() == []


def test_images_are_copied_once_for_ten_crops(
    store: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, split = load(run), Store(store).split("val")
    (fed,) = batches(split, np.arange(4), 4)
    given = []
    preprocess = type(trained.preprocess)
    real = preprocess.__call__

    def watched(self: Any, images: torch.Tensor, augmentation: Any) -> torch.Tensor:
        given.append(images)
        return real(self, images, augmentation)

    monkeypatch.setattr(preprocess, "__call__", watched)
    # A dtype in place of a device, so that here too a copy is a new tensor.
    moved = fed.images.clone()
    monkeypatch.setattr(torch.Tensor, "to", _copying(torch.Tensor.to, fed.images, moved))
    probabilities(trained.net, trained.preprocess, fed.images, Augment())
    assert len(given) == 10
    assert all(images is moved for images in given)


def _copying(real: Any, host: torch.Tensor, moved: torch.Tensor) -> Any:
    def to(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        result: torch.Tensor = moved if self is host else real(self, *args, **options)
        return result

    return to


def test_predictions_follow_the_order_asked_for(store: Path, run: Path) -> None:
    trained, split = load(run), Store(store).split("val")
    order = np.array([7, 3, 20, 3])
    nets, test = [(trained.net, trained.preprocess)], Augment(test_patches="centre")
    p, _ = predictions(nets, split, test, order, batch=3)
    alone = [predictions(nets, split, test, order[place : place + 1])[0][0] for place in range(4)]
    # A batch of another size may be summed in another order.
    np.testing.assert_allclose(p, alone, atol=1e-6)
    assert np.abs(p[0] - p[2]).max() > 1e-3, "images that cannot be told apart"


def test_a_gpu_predicts_in_batches_what_a_cpu_predicts_one_by_one(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        Image.fromarray(shapes.image(number, 1)).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_text("no image")
    trained = load(run, device="cpu")
    single = list(predict(trained, [tmp_path]))
    from alexnet import inference

    sizes: list[int] = []

    def watched(net: Any, preprocess: Any, images: torch.Tensor, test: Augment) -> torch.Tensor:
        sizes.append(len(images))
        preprocess.device = CPU
        return probabilities(net, preprocess, images, test)

    monkeypatch.setattr(inference, "probabilities", watched)
    monkeypatch.setattr(inference, "BATCH", 3)
    trained.preprocess.device = CUDA
    together = list(predict(trained, [tmp_path]))
    assert sizes == [2, 2]
    assert [p.error for p in together] == [p.error for p in single]
    for a, b in zip(single, together, strict=True):
        assert a.file == b.file
        assert [c for c, _ in a.classes] == [c for c, _ in b.classes]
        assert [v for _, v in a.classes] == pytest.approx([v for _, v in b.classes], abs=1e-5)


@pytest.mark.parametrize("precision", ["float64", "float32", "tf32", "bfloat16"])
def test_precision_of_use_is_that_of_the_run_on_a_gpu_and_float32_on_a_cpu(
    precision: str, store: Path
) -> None:
    config = tiny(store, precision=precision)
    assert precision_of_use(config, CPU) == "float32"
    want = "float32" if precision == "float64" else precision
    assert precision_of_use(config, CUDA) == want
