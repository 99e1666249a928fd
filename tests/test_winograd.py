"""Convolutions with a quarter of the multiplications are convolutions, forward and gradient."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from alexnet import native, recipes
from alexnet.architecture import plan
from alexnet.config import Architecture, Conv, FullyConnected
from alexnet.model import Network
from alexnet.ops import trial, winograd
from tests.transformed_gradients import assert_transformed_alike

pytestmark = pytest.mark.usefixtures("compiled_code")

TOLERANCE = 1e-5
"""Relative to the result with absolute values: float32 rounds to 6e-8, tiles to 100 times that."""


def given_of(
    images: int, maps: int, kernels: int, columns: int, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(images)
    x = torch.randn(images, maps, height, width, generator=generator).contiguous(
        memory_format=torch.channels_last
    )
    weight = torch.randn(kernels, maps // columns, 3, 3, generator=generator)
    return x, weight, torch.randn(kernels, generator=generator)


def error(ours: torch.Tensor, exact: torch.Tensor, size: torch.Tensor) -> float:
    return float((ours.detach().double() - exact.detach()).norm() / size.detach().norm())


def direct(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, columns: int, dy: torch.Tensor
) -> list[torch.Tensor]:
    """In float64: the result, and the gradients of x, weight and bias."""
    exact = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y = F.conv2d(*exact, padding=1, groups=columns)
    return [y, *torch.autograd.grad(y, exact, dy.double())]


@settings(max_examples=40)
@given(
    images=st.sampled_from([1, 2, 3, 8, 33, 36]),
    maps=st.sampled_from([16, 32, 48]),
    kernels=st.sampled_from([16, 32]),
    columns=st.sampled_from([1, 2]),
    height=st.integers(1, 14),
    width=st.integers(1, 14),
    frozen=st.booleans(),
    native_products=st.booleans(),
)
def test_it_is_the_direct_convolution_with_its_gradients(
    images: int,
    maps: int,
    kernels: int,
    columns: int,
    height: int,
    width: int,
    frozen: bool,
    native_products: bool,
) -> None:
    x, weight, bias = given_of(images, columns * maps, columns * kernels, columns, height, width)
    wanted = (x, weight, bias) if not frozen else (x,)
    for t in wanted:
        t.requires_grad_()
    ours = winograd.conv2d(x, weight, bias, columns, native_products)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    dy = given_of(images, columns * kernels, 1, 1, height, width)[0]
    exact, sizes = (
        direct(*(f(t) for t in (x, weight, bias)), columns, f(dy)) for f in (torch.clone, torch.abs)
    )
    got = ours, *torch.autograd.grad(ours, wanted, dy)
    for mine, theirs, size in zip(got, exact, sizes, strict=False):
        assert error(mine, theirs, size) < TOLERANCE


def test_its_matrices_do_not_depend_on_the_defaults_of_pytorch() -> None:
    program = (
        "import torch; torch.set_default_dtype(torch.float64); torch.set_default_device('meta'); "
        "from alexnet.ops import winograd; "
        "print(winograd.G_BOTH.dtype, winograd.G_BOTH.device, float(winograd.G[0, 0]))"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert process.stdout == "torch.float32 cpu 0.25\n", process.stderr


def test_a_gradient_that_lies_otherwise_gives_the_same() -> None:
    x, weight, bias = given_of(3, 32, 32, 1, 7, 7)
    x.requires_grad_()
    out = winograd.conv2d(x, weight, bias)
    dy = torch.randn(out.shape)
    (a,) = torch.autograd.grad(out, x, dy, retain_graph=True)
    (b,) = torch.autograd.grad(out, x, dy.contiguous(memory_format=torch.channels_last))
    assert torch.equal(a, b)


def test_the_papers_last_three_convolutions_take_it_and_others_do_not() -> None:
    taken = []
    for step in plan(recipes.paper().architecture):
        layer = step.layer
        if step.op == "linear" and layer.name.startswith("conv"):
            x = torch.empty(128, *step.in_shape)
            weight = torch.empty(step.weight_shape)
            if winograd.takes(x, weight, layer.stride, layer.pad, step.columns):  # type: ignore[union-attr]
                taken.append(layer.name)
            assert not winograd.takes(
                x.double(), weight.double(), layer.stride, layer.pad, step.columns
            )  # type: ignore[union-attr]
            assert not winograd.takes(x[:1], weight, layer.stride, layer.pad, step.columns)  # type: ignore[union-attr]
    assert taken == ["conv3", "conv4", "conv5"]


def test_its_operators_are_ones_that_pytorch_can_compile() -> None:
    x, _, bias = given_of(2, 32, 32, 2, 5, 6)
    checks = ("test_schema", "test_faketensor")
    for gradient in (False, True):
        opcheck(winograd.spread, (x, 2, gradient), test_utils=checks)
    tiles = winograd.spread(x, 2, False)
    sums = torch.zeros(2, 36, tiles.shape[2], tiles.shape[3])
    opcheck(winograd.products, (tiles, torch.zeros(2, 36, 16, 16), sums), test_utils=checks)
    sums = torch.zeros(2, 36, 16, 16)
    opcheck(winograd.add_transposed_products, (tiles, tiles, sums), test_utils=checks)
    opcheck(
        winograd.collect,
        (tiles, bias, torch.zeros_like(x)),
        test_utils=checks,
    )


@settings(max_examples=40)
@given(
    rows=st.integers(1, 450),
    terms=st.sampled_from([1, 7, 191, 192, 193, 384, 600]),
    vectors=st.integers(1, 5),
    transposed=st.booleans(),
)
def test_products_are_those_of_pytorch(
    rows: int, terms: int, vectors: int, transposed: bool
) -> None:
    """Of every number of rows, terms and columns that the blocks of winograd.cpp leave over."""
    generator = torch.Generator().manual_seed(rows)
    a = torch.randn(2, 3, rows, terms, generator=generator)
    b = torch.randn(2, 3, terms, native.LANES * vectors, generator=generator)
    before = torch.randn(2, 3, rows, b.shape[-1], generator=generator)
    sums = before.clone()
    if transposed:
        winograd.add_transposed_products(a.transpose(2, 3).contiguous(), b, sums)
    else:
        winograd.products(a, b, sums)
    exact = a.double() @ b.double() + (before.double() if transposed else 0)
    # Each of the sums rounds to 2^-24 of a partial sum, whatever its order.
    assert error(sums, exact, a.double().abs() @ b.double().abs()) < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", [trial.TILES, trial.OWN_TILES])
def test_the_whole_net_gives_the_same_with_and_without(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "way", lambda *_, **__: trial.WAYS[name])
    net = Network(recipes.original().architecture)
    x = 50 * torch.randn(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        ours = net(x, (0, 0))
        monkeypatch.setattr(winograd, "takes", lambda *arguments: False)
        plain = net(x, (0, 0)).double()
    assert not torch.equal(ours, plain)
    assert error(ours, plain, plain) < TOLERANCE


@pytest.mark.parametrize("name", [trial.TILES, trial.OWN_TILES])
def test_a_prediction_never_goes_through_tiles(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rounding depends on the other images of the batch."""
    calls = []
    monkeypatch.setattr(winograd, "conv2d", lambda *arguments: calls.append(1) or arguments[0])
    # As if the trial of every layer had been won by tiles.
    monkeypatch.setattr(trial, "_times", lambda _, ways: {n: float(n != name) for n in ways})
    monkeypatch.setattr(trial, "_CHOICES", {})
    architecture = Architecture(
        (
            Conv("conv1", 64, 3, pad=(1, 1)),
            Conv("conv2", 64, 3, pad=(1, 1)),
            FullyConnected("f", 2),
        ),
        input_px=16,
    )
    net = Network(architecture)
    x = torch.randn(16, 3, 16, 16)
    net(x)
    assert calls == [1]
    net.eval()(x)
    assert calls == [1]


def test_weights_may_be_laid_out_in_any_way() -> None:
    x, weight, bias = given_of(2, 32, 16, 2, 5, 6)
    # Their two sides cannot be viewed as one.
    turned = weight.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(*(winograd.conv2d(x, w, bias, 2) for w in (weight, turned)))


def test_gradient_may_be_transformed() -> None:
    x, weight, bias = given_of(2, 32, 16, 2, 5, 6)
    assert_transformed_alike(
        lambda x: winograd.conv2d(x, weight, bias, 2),
        lambda x: F.conv2d(x, weight, bias, padding=1, groups=2),
        x,
    )
