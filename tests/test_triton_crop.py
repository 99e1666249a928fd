"""The preprocessing kernel against the plain path; without a GPU, in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

from alexnet import recipes
from alexnet.config import Augment, Conv
from alexnet.data.augment import Augmentation, fixed_crop, sample_augmentation
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.errors import DataError
from alexnet.ops import blocks, convolution

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from alexnet.ops.triton_crop import crop_triton  # noqa: E402

# Small, because the interpreter takes 30 ms for each program of 1,024 values.
STORED, INPUT, COUNT = 20, 14, 3
FLOATS = (torch.float32, torch.bfloat16)


def statistics() -> Statistics:
    rng = np.random.default_rng(0)
    root = rng.normal(0, 40, (3, 3))
    return Statistics(rng.uniform(80, 160, (STORED, STORED, 3)), root @ root.T)


def images() -> torch.Tensor:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (COUNT, STORED, STORED, 3), np.uint8)
    return torch.from_numpy(pixels).to(DEVICE)


def sample(augment: Augment, input_px: int = INPUT) -> Augmentation:
    # Without chunks, so that a batch of three has reflected and other crops.
    index = np.arange(COUNT)
    augment = replace(augment, chunk=1)
    drawn = sample_augmentation(augment, statistics(), input_px, 1, 2, index, index)
    assert 0 < drawn.flip.sum() < COUNT or not augment.flips
    return drawn


def rounded(exact: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As the kernel rounds: to the nearest on a GPU, towards zero in the interpreter."""
    if dtype == torch.float32 or DEVICE.type == "cuda":
        return exact.to(dtype)
    return (exact.contiguous().view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)


@pytest.mark.parametrize("recipe", ["paper", "original", "torchvision", "cifar_11"])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("input_px", [INPUT, pytest.param(STORED, id="whole image")])
def test_kernel_gives_the_bits_of_the_plain_path(
    recipe: str, dtype: torch.dtype, input_px: int
) -> None:
    augment = getattr(recipes, recipe)().augment
    drawn = sample(augment, input_px)
    exact = Preprocess(augment, statistics(), input_px, DEVICE).plain(images(), drawn)
    want = rounded(exact, dtype).permute(0, 3, 1, 2)
    preprocess = Preprocess(augment, statistics(), input_px, DEVICE, dtype)
    packed = preprocess.packed(drawn).to(DEVICE)
    got = preprocess.on_device(images(), packed, zoomed=False)
    assert torch.equal(got, want)
    assert got.stride() == want.stride()


def test_crop_of_the_inputs_size_is_one_of_the_rescaled_ones() -> None:
    augment = Augment()
    preprocess = Preprocess(augment, statistics(), INPUT, DEVICE)
    packed = preprocess.packed(sample(augment)).to(DEVICE)
    crop, rescaled = (preprocess.on_device(images(), packed, zoomed) for zoomed in (False, True))
    assert torch.equal(crop, rescaled)


@pytest.mark.parametrize(
    ("size", "stride", "pad", "zoom"),
    [(11, 4, (0, 3), 1.0), (11, 4, (2, 2), 0.3), (5, 2, (0, 3), 1.0), (7, 3, (1, 0), 1.0)],
)
def test_crops_in_blocks_are_those_that_the_first_convolution_would_cut(
    size: int, stride: int, pad: tuple[int, int], zoom: float
) -> None:
    augment = Augment(zoom=zoom, chunk=1)
    drawn = sample(augment)
    preprocess = Preprocess(augment, statistics(), INPUT, DEVICE)
    packed = preprocess.packed(drawn).to(DEVICE)
    x = preprocess.on_device(images(), packed, zoom < 1)
    given = preprocess.on_device(images(), packed, zoom < 1, Conv("conv1", 6, size, stride, pad))
    assert given.is_contiguous(memory_format=torch.channels_last)
    assert given.shape[1:] == blocks.shape(3, INPUT, size, stride, pad)
    weight, bias = torch.randn(6, 3, size, size, device=DEVICE), torch.randn(6, device=DEVICE)
    got = convolution(given, weight, bias, stride, pad)
    torch.testing.assert_close(got, blocks.conv2d(x, weight, bias, stride, pad))
    before, after = pad
    direct = F.conv2d(F.pad(x, (before, after, before, after)), weight, bias, stride)
    torch.testing.assert_close(got, direct, rtol=1e-3, atol=1e-2)


def test_blocks_of_conv1_of_the_paper_are_57_a_side_with_48_maps() -> None:
    assert blocks.shape(3, 224, 11, 4, (0, 3)) == (48, 57, 57)


@pytest.mark.parametrize("mean", ["pixel", "centre", "channel"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_zoomed_crops_are_those_of_the_cpu(mean: str, dtype: torch.dtype) -> None:
    augment = Augment(zoom=0.3, mean=mean, colour="original")  # type: ignore[arg-type]
    drawn = sample(augment)
    cpu = Preprocess(augment, statistics(), INPUT, torch.device("cpu"))
    preprocess = Preprocess(augment, statistics(), INPUT, DEVICE, dtype)
    packed = preprocess.packed(drawn).to(DEVICE)
    got = preprocess.on_device(images(), packed, zoomed=True)
    want = cpu(images().cpu(), drawn)
    # float32 coordinates of up to 20 pixels, times a contrast of up to 255 gray levels.
    rtol = 2**-7 if dtype == torch.bfloat16 else 0
    torch.testing.assert_close(got.cpu().float(), want, rtol=rtol, atol=4e-3)


def test_packed_numbers_of_a_crop_and_its_reflection() -> None:
    drawn = replace(fixed_crop(2, 3, False, 2), flip=np.array([False, True]), scale=0.5)
    packed = drawn.packed(4)
    assert packed.tolist() == [[2, 1, 3, 1, 0, 0, 0, 0.5], [2, 1, 6, -1, 0, 0, 0, 0.5]]


def test_kernel_never_reads_beyond_an_image() -> None:
    """Nothing checks the numbers on the device: places outside are those of the edge."""
    augment = Augment(colour="none", mean="centre")
    preprocess = Preprocess(augment, statistics(), INPUT, DEVICE)
    packed = torch.tensor([[-9e9, 1, 9e9, 1, 0, 0, 0, 1]] * COUNT, device=DEVICE)
    got = preprocess.on_device(images(), packed, zoomed=True).permute(0, 2, 3, 1)
    want = images()[:, :1, -1:].float() - preprocess.centre_mean
    assert torch.equal(got, want)


def test_crop_beyond_its_image_is_refused_before_it_is_packed() -> None:
    preprocess = Preprocess(Augment(), statistics(), INPUT, DEVICE)
    for top, left in ((7, 0), (0, 7), (-1, 0)):
        with pytest.raises(DataError, match="a crop of 14 pixels reaches beyond its image of 20"):
            preprocess.packed(fixed_crop(top, left, False, 2))


def test_triton_crop_passes_opcheck() -> None:
    preprocess = Preprocess(Augment(), statistics(), INPUT, DEVICE)
    packed = preprocess.packed(sample(Augment())).to(DEVICE)
    given = images(), preprocess.whole_mean, packed, None, INPUT, False, True, torch.float32
    opcheck(crop_triton, given, test_utils=("test_schema", "test_faketensor"))
    opcheck(crop_triton, (*given, 4, 16, 0), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("zoom", [1.0, 0.5])
def test_preprocessing_takes_the_kernel_where_it_can(
    zoom: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    augment = Augment(zoom=zoom)
    drawn = sample(augment)
    preprocess = Preprocess(augment, statistics(), INPUT, DEVICE)
    want = preprocess.on_device(images(), preprocess.packed(drawn).to(DEVICE), zoom < 1)
    for dtype, takes in ((torch.float32, True), (torch.bfloat16, True), (torch.float64, False)):
        preprocess.device, preprocess.dtype = torch.device("cuda"), dtype
        assert preprocess._takes_triton() == takes
    preprocess.device, preprocess.dtype = torch.device("cpu"), torch.float32
    assert not preprocess._takes_triton()
    preprocess.device = DEVICE
    monkeypatch.setattr(preprocess, "_takes_triton", lambda: True)
    monkeypatch.setattr(preprocess, "plain", None)
    monkeypatch.setattr(preprocess, "zoomed", None)
    assert torch.equal(preprocess(images(), drawn), want)
    with pytest.raises(DataError, match="reaches beyond its image"):
        preprocess(images(), fixed_crop(7, 0, False, COUNT))
