"""Batches that a GPU decodes are those of the CPU; a decoder on the CPU stands for the GPU's."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import fit
from alexnet.config import StoreSettings
from alexnet.config_checks import without_effect
from alexnet.data import gpu_decoding, shapes
from alexnet.data.gpu_decoding import GpuDecodedSplit, decoder, decodes_on_gpu
from alexnet.data.loader import Share, batches, epoch_order
from alexnet.data.prepare import prepare
from alexnet.data.storage import StoreLost
from alexnet.data.store import Split, Store
from alexnet.errors import ConfigError, DataError, RunError
from tests.conftest import tiny
from tests.runs import same_bits

# A bare machine, on which only the network is measured, has none.
simplejpeg = pytest.importorskip("simplejpeg")

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SIDE = 32


def decode(files: list[bytes]) -> list[torch.Tensor]:
    """As torchcodec, but on the CPU, and with the pixels of the loader."""
    try:
        decoded = [simplejpeg.decode_jpeg(file, "RGB") for file in files]
    except ValueError as error:
        raise RuntimeError(str(error)) from None
    return [torch.from_numpy(rgb).permute(2, 0, 1) for rgb in decoded]


class NoCopies:
    """The copies to a device that is the CPU; it records what is done on their stream."""

    calls: list[str]

    def __init__(self, device: torch.device) -> None:
        NoCopies.calls = []

    @contextmanager
    def stream(self) -> Iterator[None]:
        self.calls.append("begin")
        yield
        self.calls.append("end")

    def start(self, batch: Any) -> tuple[Any, None]:
        self.calls.append("start")
        return batch, None

    def hand_over(self, batch: Any, arrived: None) -> None:
        self.calls.append("hand over")


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "jpegs"
    settings = StoreSettings(size_px=SIDE, encoding="jpeg")
    prepare(shapes.source(20, 10), folder, settings, workers=1)
    return folder


@pytest.fixture
def split(jpegs: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    monkeypatch.setattr(gpu_decoding, "Copies", NoCopies)
    monkeypatch.setattr(gpu_decoding, "decoder", lambda device: decode)
    return Store(jpegs).split("train")


def with_files(split: Split, monkeypatch: pytest.MonkeyPatch, changed: dict[int, bytes]) -> None:
    """Put other files in place of some images of a split."""
    real = split.read

    def read(index: Any) -> list[bytes]:
        numbers = np.asarray(index).tolist()
        return [changed.get(n, file) for n, file in zip(numbers, real(index), strict=True)]

    monkeypatch.setattr(split, "read", read)


def check_same(split: Split, batch: int = 16, start: int = 0, share: Share | None = None) -> None:
    order, share = epoch_order(len(split), 0, 0), share or Share()
    theirs = batches(split, order, batch, start=start, share=share)
    ours = GpuDecodedSplit(split, CPU, 2).batches(order, batch, start, share)
    for a, b in zip(theirs, ours, strict=True):
        assert torch.equal(a.images, b.images)
        assert b.images.is_contiguous()
        assert torch.equal(a.labels, b.labels)
        assert np.array_equal(a.index, b.index)
        assert np.array_equal(a.position, b.position)
        assert a.global_size == b.global_size


@pytest.mark.parametrize("start, share", [(0, Share()), (2, Share()), (1, Share(1, 3))])
def test_the_batches_are_those_of_the_loader(split: Split, start: int, share: Share) -> None:
    check_same(split, 16, start, share)


def test_a_rank_without_an_image_of_the_last_batch_gets_an_empty_one(split: Split) -> None:
    check_same(split, len(split) - 1, 0, Share(1, 2))


def test_the_cpu_decodes_what_is_no_jpeg(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(shapes.image(3, 1)).resize((SIDE, SIDE)).save(buffer, "PNG")
    with_files(split, monkeypatch, {5: buffer.getvalue(), 6: buffer.getvalue()})
    check_same(split)


def test_the_cpu_decodes_an_image_that_the_gpu_refuses(
    split: Split, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Two images of the last batch.
    sizes, refused = [], split.read(epoch_order(len(split), 0, 0)[-2:])

    def refusing(files: list[bytes]) -> list[torch.Tensor]:
        sizes.append(len(files))
        if any(file in refused for file in files):
            raise RuntimeError("unknown chroma subsampling")
        return decode(files)

    monkeypatch.setattr(gpu_decoding, "decoder", lambda device: refusing)
    check_same(split)
    assert sizes == [16, 4, 1, 1, 1, 1], "the images of its batch one by one, and of no other"
    assert capsys.readouterr().err.count("warning: the GPU refuses JPEGs of this store") == 1


@pytest.mark.parametrize("side", [SIDE, SIDE // 2])
def test_a_damaged_image_or_one_of_another_size_is_named(
    split: Split, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = simplejpeg.encode_jpeg(np.zeros((side, side, 3), np.uint8))
    with_files(split, monkeypatch, {7: file[:-40] if side == SIDE else file})
    order = np.arange(len(split))
    with pytest.raises(DataError) as caught:
        list(GpuDecodedSplit(split, CPU, 1).batches(order, 16))
    assert str(caught.value).startswith(f"{split.name(7)} is damaged in the store (")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        # As an extension raises it that uses PyTorch's stable interface; with PyTorch 2.13 the
        # reason comes before it.
        RuntimeError('torch_call_dispatcher("aten::empty", ...) API call failed at ops.h'),
    ],
)
def test_a_gpu_without_memory_is_no_reason_to_decode_elsewhere(
    error: RuntimeError, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(files: list[bytes]) -> list[torch.Tensor]:
        raise error

    monkeypatch.setattr(gpu_decoding, "decoder", lambda device: full)
    with pytest.raises(torch.OutOfMemoryError):
        list(GpuDecodedSplit(split, CPU, 1).batches(np.arange(4), 2))


def test_a_batch_is_decoded_on_the_stream_of_the_copies_and_handed_over(split: Split) -> None:
    before = set(threading.enumerate())
    feed = GpuDecodedSplit(split, CPU, 2).batches(np.arange(len(split)), 8)
    first = next(feed)
    assert NoCopies.calls[:3] == ["begin", "end", "start"]
    assert NoCopies.calls.count("hand over") == 1
    assert first.waited_s > 0
    feed.close()
    assert set(threading.enumerate()) <= before, "a thread goes on"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_decodes_nearly_the_same_pixels(jpegs: Path) -> None:
    pytest.importorskip("torchcodec", reason="torchcodec is not installed: pip install torchcodec")
    split = Store(jpegs).split("train")
    order = np.tile(np.arange(len(split)), 20)
    theirs = batches(split, order, 16)
    for a, b in zip(theirs, GpuDecodedSplit(split, CUDA, 2).batches(order, 16), strict=True):
        assert b.images.is_cuda
        assert torch.equal(a.labels, b.labels.cpu())
        assert float((a.images.float() - b.images.cpu().float()).abs().mean()) < 3


def test_a_store_that_does_not_answer_is_lost(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threading import Event

    answer = Event()
    monkeypatch.setattr(split, "read", lambda index: answer.wait() and [])
    monkeypatch.setattr(split, "answer_s", 1)
    with pytest.raises(StoreLost, match="has not delivered an image for 1 s"):
        list(GpuDecodedSplit(split, CPU, 1).batches(np.arange(4), 2))
    answer.set()


def test_training_on_such_batches_is_the_same(
    split: Split, jpegs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet.data import training_feed

    monkeypatch.setattr(training_feed, "decodes_on_gpu", lambda config: config.gpu_decoding)
    for on in (False, True):
        fit(tiny(jpegs, gpu_decoding=on), tmp_path / str(on))
    assert same_bits(tmp_path / "False", tmp_path / "True")


def torchcodec(monkeypatch: pytest.MonkeyPatch, decode_jpeg: Any) -> None:
    """Install a package of that name."""
    package, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    decoders.decode_jpeg = decode_jpeg  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchcodec", package)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)


def test_torchcodec_is_asked_for_rgb_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def decode_jpeg(source: list[bytes], **options: Any) -> list[torch.Tensor]:
        asked.append(options)
        return decode(source)

    torchcodec(monkeypatch, decode_jpeg)
    file = simplejpeg.encode_jpeg(np.full((8, 8, 3), 200, np.uint8))
    assert decoder(CUDA)([file])[0].shape == (3, 8, 8)
    assert asked == [{"mode": "RGB", "device": CUDA}] * 2, "a trial, and the image"


def test_without_torchcodec_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(ConfigError, match=r"decode JPEGs here .*pip install torchcodec"):
        decoder(CUDA)

    def unable(source: list[bytes], **options: Any) -> None:
        raise RuntimeError("torchcodec was not compiled\nwith nvJPEG support")

    torchcodec(monkeypatch, unable)
    with pytest.raises(ConfigError, match=r"\(torchcodec was not compiled with nvJPEG support\)"):
        decoder(CUDA)


def test_it_is_refused_before_anything_is_written(
    jpegs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet.train import setup

    monkeypatch.setattr(setup, "decodes_on_gpu", lambda config: config.gpu_decoding)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    run, lossless = tmp_path / "run", tmp_path / "lossless"
    with pytest.raises(ConfigError, match="torchcodec cannot decode JPEGs here"):
        fit(tiny(jpegs, gpu_decoding=True), run)
    prepare(shapes.source(20, 10), lossless, StoreSettings(size_px=SIDE, encoding="png"), workers=1)
    with pytest.raises(RunError, match="are png; a GPU decodes only JPEGs"):
        fit(tiny(lossless, gpu_decoding=True), run)
    assert not run.exists()


def test_it_has_an_effect_on_cuda_alone(jpegs: Path) -> None:
    """So that a run of a GPU can be resumed on a CPU."""
    config = tiny(jpegs, gpu_decoding=True)
    there = replace(config, device="cuda")
    assert decodes_on_gpu(there)
    assert not decodes_on_gpu(replace(there, resident=True))
    assert not decodes_on_gpu(replace(there, gpu_decoding=False))
    assert not decodes_on_gpu(replace(config, device="cpu"))
    assert "gpu_decoding is on, but cpu decodes no JPEGs" in without_effect(
        replace(config, device="cpu")
    )
    assert [s for s in without_effect(replace(there, resident=True)) if "decoded once" in s]
    assert not [s for s in without_effect(there) if "gpu_decoding" in s]


def test_the_real_decoder_has_this_interface() -> None:
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError) as error:
        pytest.skip(f"torchcodec cannot be used here: {error}")
    files = [simplejpeg.encode_jpeg(shapes.image(n, 1)) for n in range(3)]
    device = CUDA if torch.cuda.is_available() else CPU
    decoded = decode_jpeg(files, mode="RGB", device=device)
    for ours, theirs in zip(decode(files), decoded, strict=True):
        assert theirs.dtype == torch.uint8
        assert theirs.device.type == device.type
        # Rounding, and on a GPU also the interpolation of the colors, of which edges have most.
        difference = (ours.float() - theirs.cpu().float()).abs()
        assert float(difference.mean()) < (3 if device == CUDA else 1e-9)
    with pytest.raises(RuntimeError):
        decode_jpeg([files[0], files[0][:200]], mode="RGB", device=device)
