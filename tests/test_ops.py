"""Every operator against its slow twin, forward and gradient, and its tolerances stated."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from alexnet import layers, native, ops
from alexnet.architecture import Op, pooled_px
from alexnet.config import Architecture, Conv, Lrn, OpName, Pool, SpatialNorm
from alexnet.model import Network
from alexnet.ops import blocks, compiled, dropout_mask, fast, normalise, plain, trial
from alexnet.ops.arena import kept_memory
from tests import reference
from tests.conftest import tiny_architecture
from tests.transformed_gradients import assert_transformed_alike

FORMATS = [torch.contiguous_format, torch.channels_last]


def random(*shape: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> torch.Tensor:
    return (
        torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        .mul(scale)
        .to(dtype)
    )


@given(
    maps=st.integers(1, 12),
    n=st.integers(1, 14),
    columns=st.sampled_from([1, 2, 3]),
    alpha=st.floats(0, 2),
    beta=st.sampled_from([0.5, 0.75, 1.0]),
    last=st.booleans(),
)
@settings(max_examples=60)
def test_lrn_is_the_formula_for_any_constants(
    maps: int, n: int, columns: int, alpha: float, beta: float, last: bool
) -> None:
    x = random(2, maps * columns, 3, 4)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    want = reference.lrn(x.numpy(), n, 2.0, alpha, beta, columns)
    np.testing.assert_allclose(ops.lrn(x, n, 2.0, alpha, beta, columns).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])  # plain, and compiled
def test_an_even_n_sums_one_map_more(dtype: torch.dtype) -> None:
    x = random(1, 9, 2, 2).to(dtype).contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.lrn(x, n=4, alpha=1.0), ops.lrn(x, n=5, alpha=1.0))


def test_lrn_alpha_is_not_divided_by_n() -> None:
    x = random(2, 8, 3, 3)
    torch.testing.assert_close(
        ops.lrn(x, alpha=0.1), F.local_response_norm(x, 5, 0.1 * 5, 0.75, 2.0)
    )


def test_lrn_sums_never_cross_columns() -> None:
    x = random(2, 8, 3, 3)
    apart = torch.cat([ops.lrn(half, alpha=1.0) for half in x.chunk(2, 1)], 1)
    torch.testing.assert_close(ops.lrn(x, alpha=1.0, columns=2), apart)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_gradients_of_the_normalisations(form: torch.memory_format, beta: float) -> None:
    x = random(2, 6, 3, 4).contiguous(memory_format=form).requires_grad_()
    assert gradcheck(lambda t: ops.lrn(t, 5, 2.0, 0.5, beta, 2), (x,))
    assert gradcheck(lambda t: ops.spatial_norm(t, 3, 1.0, 0.5, beta), (x,))


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("form", FORMATS)
def test_spatial_norm_is_its_slow_twin(size: int, form: torch.memory_format) -> None:
    x = random(2, 4, 6, 7).contiguous(memory_format=form)
    want = reference.spatial_norm(x.numpy(), size, 1.0, 0.3, 0.75)
    np.testing.assert_allclose(ops.spatial_norm(x, size, 1.0, 0.3, 0.75).numpy(), want, rtol=1e-12)


# float32: sums of squares and two square roots, each exact to 2**-24. A gradient is the difference
# of two terms as large as the largest, and may miss a few units of it (2**-22). bfloat16: float32
# inside, 8 bits at the end.
@pytest.mark.parametrize(
    ("dtype", "rtol", "of_largest"), [(torch.float32, 2e-6, 2**-22), (torch.bfloat16, 2**-8, 4e-5)]
)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("in_cpp", [True, False])
def test_normalisations_in_lower_precision(
    dtype: torch.dtype,
    rtol: float,
    of_largest: float,
    form: torch.memory_format,
    in_cpp: bool,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    if in_cpp:
        request.getfixturevalue("compiled_code")
    else:
        monkeypatch.setattr(compiled, "takes", lambda x, beta=0.75: False)
    x = random(4, 32, 9, 9, dtype=dtype, scale=20).contiguous(memory_format=form)
    dy = random(4, 32, 9, 9, dtype=dtype).contiguous(memory_format=form).flip(0)
    for op in (
        lambda t: ops.lrn(t, columns=2),
        lambda t: ops.lrn(t, n=9, alpha=0.01),
        ops.spatial_norm,
    ):
        results = []
        for value in (x, x.double()):
            value = value.clone().requires_grad_()
            y = op(value)
            (g,) = torch.autograd.grad(y, value, dy.to(y.dtype))
            assert y.dtype == value.dtype
            assert y.stride() == value.stride()
            results.append((y.detach().double(), g.double()))
        for low, exact in zip(*results, strict=True):
            torch.testing.assert_close(
                low, exact, rtol=rtol, atol=of_largest * float(exact.abs().max())
            )


@pytest.mark.usefixtures("compiled_code")
@given(
    maps=st.integers(1, 12),
    n=st.integers(1, 14),
    columns=st.sampled_from([1, 2, 3]),
    size=st.sampled_from([1, 3, 5, 7]),
    sides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
@settings(max_examples=40)
def test_the_compiled_normalisations_are_the_plain_ones(
    maps: int, n: int, columns: int, size: int, sides: tuple[int, int]
) -> None:
    x = random(3, maps * columns, *sides, dtype=torch.float32).contiguous(
        memory_format=torch.channels_last
    )
    assert compiled.takes(x, 0.75)
    for op in (
        lambda t: ops.lrn(t, n, 2.0, 0.3, columns=columns),
        lambda t: ops.spatial_norm(t, size, 1.0, 0.3),
    ):
        value = x.clone().requires_grad_()
        exact = x.double().requires_grad_()
        (got,) = torch.autograd.grad(op(value).square().sum(), value)
        (want,) = torch.autograd.grad(op(exact).square().sum(), exact)
        torch.testing.assert_close(op(x).double(), op(x.double()), rtol=2e-6, atol=1e-7)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("compiled_code")
# More maps than the kernel takes at once.
@example(
    maps=300,
    columns=2,
    sides=(4, 3),
    relu=True,
    n=5,
    window=Pool(3, 2),
    relu_after=True,
)
@given(
    maps=st.integers(1, 20),
    columns=st.sampled_from([1, 2]),
    sides=st.tuples(st.integers(5, 23), st.integers(5, 23)),
    relu=st.booleans(),
    n=st.sampled_from([None, 1, 4, 5, 9]),
    window=st.sampled_from(
        [None, Pool(), Pool(2, 2), Pool(partial=True), Pool(5, 1), Pool(4, 3, True)]
    ),
    relu_after=st.booleans(),
)
@settings(max_examples=80)
def test_one_pass_is_its_parts_one_by_one(
    maps: int,
    columns: int,
    sides: tuple[int, int],
    relu: bool,
    n: int | None,
    window: Pool | None,
    relu_after: bool,
) -> None:
    x = random(2, maps * columns, *sides, dtype=torch.float32, scale=3).contiguous(
        memory_format=torch.channels_last
    )
    assert compiled.takes(x)
    norm = None if n is None else Lrn(n, alpha=0.1)
    results = []
    for value in (x, x.double()):  # float64 is never compiled
        value = value.requires_grad_()
        y = ops.norm_pool(value, relu, norm, window, relu_after, columns)
        (g,) = torch.autograd.grad(y.square().sum(), value)
        results.append((y.detach().double(), g.double()))
    for low, exact in zip(
        *results, strict=True
    ):  # a few roundings of float32, of the largest where terms cancel
        torch.testing.assert_close(low, exact, rtol=2e-6, atol=2**-21 * float(exact.abs().max()))


@pytest.mark.usefixtures("compiled_code")
@pytest.mark.parametrize("window", [None, Pool(3, 2)])
@pytest.mark.parametrize("n", [None, 3, 5])
def test_bfloat16_pass_is_the_float32_pass_rounded_once(n: int | None, window: Pool | None) -> None:
    rounded = random(2, 24, 9, 7, dtype=torch.float32).bfloat16()
    rounded = rounded.contiguous(memory_format=torch.channels_last)
    assert compiled.takes(rounded)
    norm = None if n is None else Lrn(n, alpha=0.1)
    dy = None
    results = []
    for x in (rounded, rounded.float()):
        x.requires_grad_()
        y = ops.norm_pool(x, True, norm, window, False, columns=2)
        dy = torch.randn_like(y) if dy is None else dy.to(y.dtype)
        results.append([y.detach(), *torch.autograd.grad(y, x, dy)])
    for low, exact in zip(*results, strict=True):
        assert torch.equal(low, exact.bfloat16())


def test_one_pass_keeps_nans_and_takes_the_first_of_equals() -> None:
    x = torch.tensor([[1.0, 1.0, -2.0], [float("nan"), -1.0, -1.0]]).view(1, 1, 2, 3)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    assert ops.norm_pool(x, True, None, Pool(2, 1), True).isnan().flatten().tolist() == [
        True,
        False,
    ]
    (g,) = torch.autograd.grad(ops.norm_pool(x, True, None, Pool(1, 1), True)[..., :2].nansum(), x)
    assert g.flatten()[:2].tolist() == [1, 1]
    (g,) = torch.autograd.grad(ops.norm_pool(x, window=Pool(2, 1))[..., 1].sum(), x)
    assert g.flatten().tolist() == [0, 1, 0, 0, 0, 0]


@pytest.mark.usefixtures("compiled_code")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, Pool(1, 1)])
def test_relu_lets_the_gradient_of_a_nan_through(dtype: torch.dtype, window: Pool | None) -> None:
    """As PyTorch's."""
    nan = float("nan")
    x = torch.tensor([1.0, nan, -1.0, 0.0], dtype=dtype).view(1, 4, 1, 1)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    (g,) = torch.autograd.grad(ops.norm_pool(x, True, None, window).sum(), x)
    assert g.flatten().tolist() == [1, 1, 0, 0]
    (g,) = torch.autograd.grad(ops.norm_pool(x, True, Lrn(1, k=1.0), window).sum(), x)
    assert g.isnan().flatten().tolist() == [False, True, False, False]


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_tangent_of_a_bias_is_carried_on() -> None:
    """In forward-mode differentiation, which no fast path has."""
    x = random(2, 4, 5, 5, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    bias, tangent = torch.zeros(4), torch.arange(4.0)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(bias, tangent)
        y = forward_ad.unpack_dual(ops.norm_pool(x, True, bias=dual))  # type: ignore[no-untyped-call]
    assert y.tangent is not None
    assert torch.equal(y.tangent, (x > 0) * tangent[:, None, None])


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (torch._C, "_get_tracing_state"),
        (torch._C, "_are_functorch_transforms_active"),
        (torch._C, "_len_torch_dispatch_stack"),
        (torch.nn.modules.module, "_has_any_global_hook"),
    ],
)
def test_pytorch_without_a_private_function_gets_the_plain_path(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.zeros(1)
    assert fast.unobserved(x)
    assert not fast.any_global_hook()
    monkeypatch.delattr(module, name)
    # A second copy, as it would be imported there.
    spec = spec_from_file_location("fast_with_another_pytorch", fast.__file__)
    assert spec is not None
    assert spec.loader is not None
    there = module_from_spec(spec)
    spec.loader.exec_module(there)
    is_hook = name == "_has_any_global_hook"
    assert bool(there.any_global_hook()) is is_hook
    assert there.unobserved(x) is is_hook


@pytest.mark.usefixtures("compiled_code")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_compiled_normalisations_are_well_made_operators(dtype: torch.dtype) -> None:
    x = (
        random(2, 8, 4, 5, dtype=dtype)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    assert compiled.takes(x, 0.75)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(compiled.norm_pool, (x, True, 2, 2, 3, 2, True, True, 2.0, 1e-4), test_utils=checks)
    opcheck(compiled.spatial_norm, (x, 2, 1.0, 4e-5), test_utils=checks)


@pytest.mark.parametrize("form", FORMATS)
def test_gradients_of_the_normalizations_may_be_transformed(form: torch.memory_format) -> None:
    x = random(2, 8, 6, 5, dtype=torch.float32).contiguous(memory_format=form)
    between, norm = plain.Pass(True, Lrn(alpha=0.1), Pool(), columns=2), SpatialNorm(3, alpha=0.1)
    assert_transformed_alike(
        lambda x: ops.norm_pool(x, True, between.norm, between.window, columns=2),
        lambda x: plain.norm_pool(x, None, between),
        x,
    )
    assert_transformed_alike(
        lambda x: ops.spatial_norm(x, 3, alpha=0.1), lambda x: plain.spatial_norm(x, norm), x
    )


@pytest.mark.usefixtures("compiled_code")
@pytest.mark.parametrize(
    "op",
    [
        ops.lrn,
        lambda x: ops.norm_pool(x, True, Lrn(), Pool()),
        lambda x: ops.spatial_norm(x, 3, alpha=0.1),
    ],
)
def test_hooks_on_saved_tensors_may_lay_them_out_otherwise(
    op: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    x = random(2, 8, 6, 5, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    assert compiled.takes(x)
    # This one returns contiguous tensors, also without a GPU.
    with torch.autograd.graph.save_on_cpu(pin_memory=True):
        hooked = op(x).square().sum()
    results = (torch.autograd.grad(y, x)[0] for y in (hooked, op(x).square().sum()))
    assert torch.equal(*results)


@pytest.mark.usefixtures("compiled_code")
def test_bfloat16_keeps_infinities_nans_and_signs() -> None:
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([nan, 1.0, inf, -inf, 1e18, -0.0], dtype=torch.bfloat16).view(1, 6, 1, 1)
    x = x.contiguous(memory_format=torch.channels_last)
    assert compiled.takes(x)
    # With alpha=0 an infinity is a NaN: 0 times its square.
    normalized = ops.lrn(x[:, [0, 1, 4, 5]], n=1, alpha=0.0, k=1.0)
    for y, of in ((ops.norm_pool(x, window=Pool(1, 1)), x), (normalized, x[:, [0, 1, 4, 5]])):
        assert bool(y[0, 0].isnan())
        # `equal` takes -0 for 0, so the bits are compared.
        assert torch.equal(y[:, 1:].view(torch.int16), of[:, 1:].view(torch.int16))
    zeros = torch.zeros_like(x).requires_grad_()
    largest = torch.full_like(x, torch.finfo(torch.bfloat16).max)
    # 1.002 times the largest value is a float32, and rounds to infinity.
    (g,) = torch.autograd.grad(ops.lrn(zeros, n=1, alpha=0.0, k=0.997), zeros, largest)
    assert torch.equal(g, torch.full_like(x, inf))


@pytest.mark.usefixtures("compiled_code")
@pytest.mark.parametrize("library", [native.kernels, native.winograd, native.arena])
def test_every_library_is_compiled_where_there_is_a_compiler(
    library: Callable[[], object],
) -> None:
    assert library() is not None


def test_without_a_compiler_one_line_for_each_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    libraries = native.kernels, native.arena
    monkeypatch.setattr(native.shutil, "which", lambda name: None)
    monkeypatch.delenv("ALEXNET_NATIVE", raising=False)
    monkeypatch.setattr(native, "_LOADED", {})
    try:
        for library in libraries:
            library.cache_clear()
            assert library() is None
            assert library() is None
        x = random(2, 8, 3, 3, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
        with kept_memory(x.device):
            assert ops.lrn(x).shape == x.shape
        if sys.platform == "linux":
            lines = capsys.readouterr().err.splitlines()
            assert len(lines) == len(libraries)
            assert all("slower: no C++ compiler was found" in line for line in lines)
    finally:
        for library in libraries:
            library.cache_clear()


def test_lrn_over_many_pieces_is_lrn_over_one() -> None:
    """By the operations of PyTorch, which NCHW takes; forward and gradient."""
    x = random(40, 8, 64, 64, dtype=torch.float32).requires_grad_()
    assert len(normalise._pieces(x)) == 2
    y = ops.lrn(x)
    dy = torch.randn_like(y)
    (dx,) = torch.autograd.grad(y, x, dy)
    for rows in (slice(0, 32), slice(32, 40)):
        piece = x[rows].detach().requires_grad_()
        alone = ops.lrn(piece)
        (gradient,) = torch.autograd.grad(alone, piece, dy[rows])
        assert torch.equal(y[rows], alone)
        assert torch.equal(dx[rows], gradient)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: ops.lrn(x, columns=3), "3 columns do not divide 8 maps"),
        (lambda x: ops.lrn(x, n=0), "n must be at least 1"),
        (lambda x: ops.lrn(x[0]), "needs \\(N, C, H, W\\)"),
        (lambda x: ops.spatial_norm(x, 4), "must be odd"),
        (lambda x: ops.norm_pool(x, True, columns=16), "16 columns do not divide 8 maps"),
        (lambda x: ops.norm_pool(x, window=Pool(4, 2)), "4 pixels is larger than maps of 3x3"),
        (lambda x: ops.norm_pool(x[..., :1], window=Pool(3, 2, True)), "than maps of 3x1"),
    ],
)
def test_bad_normalisations_are_refused(call: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call(random(1, 8, 3, 3))  # type: ignore[operator]


@given(
    side=st.integers(2, 14),
    size=st.integers(1, 4),
    stride=st.integers(1, 3),
    partial=st.booleans(),
    kind=st.sampled_from(["max", "avg"]),
)
@settings(max_examples=80)
def test_pools_are_their_slow_twin_and_as_large_as_planned(
    side: int, size: int, stride: int, partial: bool, kind: str
) -> None:
    if size > side or stride > size:
        return
    x = random(2, 3, side, side)
    architecture = Architecture((), pool=Pool(size, stride, partial))
    name: OpName = "max_pool" if kind == "max" else "avg_pool"
    op = Op("pool", "pool", name, Conv("conv", 3, 1), (3, side, side), (3, 1, 1), 1)
    got = layers.make(op, architecture, torch.Generator())(x)
    np.testing.assert_allclose(
        got.numpy(), reference.pool(x.numpy(), size, stride, partial, kind), rtol=1e-12
    )
    assert got.shape[2] == pooled_px(side, size, stride, partial)


def test_cifar_pools_give_16_8_4() -> None:
    assert [pooled_px(side, 3, 2, True) for side in (32, 16, 8)] == [16, 8, 4]


@given(
    size=st.integers(1, 12),
    stride=st.integers(2, 5),
    pad=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    sides=st.tuples(st.integers(12, 30), st.integers(12, 30)),
)
@settings(max_examples=40)
def test_a_convolution_over_blocks_is_the_convolution(
    size: int, stride: int, pad: tuple[int, int], sides: tuple[int, int]
) -> None:
    x, weight = random(2, 3, *sides), random(4, 3, size, size).requires_grad_()
    bias = random(4).requires_grad_()
    want = F.conv2d(F.pad(x, pad * 2), weight, bias, stride)
    got = blocks.conv2d(x, weight, bias, stride, pad)
    torch.testing.assert_close(got, want)
    gradients = [torch.autograd.grad(y.square().sum(), (weight, bias)) for y in (got, want)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("pad", [(1, 1), (0, 2)])
def test_locally_connected_is_its_slow_twin_with_gradients(pad: tuple[int, int]) -> None:
    x, bias = random(3, 2, 4, 4), random(5, 4, 4)
    weight = random(5, 2, 3, 3, 4, 4)
    got = ops.locally_connected(x, weight, bias, pad)
    want = reference.locally_connected(x.numpy(), weight.numpy(), bias.numpy(), pad)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-11, atol=1e-12)
    inputs = tuple(t.requires_grad_() for t in (x, weight, bias))
    assert gradcheck(lambda *t: ops.locally_connected(*t, pad), inputs)
    assert gradgradcheck(lambda *t: ops.locally_connected(*t, pad), inputs, fast_mode=True)


def test_locally_connected_with_equal_kernels_is_a_convolution() -> None:
    x, kernel = random(2, 3, 6, 6), random(4, 3, 3, 3)
    weight = kernel[..., None, None].expand(4, 3, 3, 3, 6, 6)
    got = ops.locally_connected(x, weight, torch.zeros(4, 6, 6, dtype=x.dtype), (1, 1))
    torch.testing.assert_close(got, F.conv2d(x, kernel, padding=1))


def test_kernels_for_other_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        ops.locally_connected(random(1, 2, 5, 5), random(3, 2, 3, 3, 4, 4), random(3, 4, 4))


def mask(step: int = 0, layer: str = "fc6", seed: int = 1, rate: float = 0.5) -> torch.Tensor:
    drawn = ops.Mask(ops.dropout_key(seed, step, layer), rate)
    return drawn.draw((64, 500), torch.device("cpu"))


@pytest.fixture
def plain_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropout_mask, "_compiled_takes", lambda keep: False)


# The known answers of Random123, the authors' library (tests/kat_vectors, "philox4x32 10").
@pytest.mark.parametrize(
    ("key", "counter", "answer"),
    [
        ("00000000 00000000", "00000000 " * 4, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff", "ffffffff " * 4, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            "a4093822 299f31d0",
            "243f6a88 85a308d3 13198a2e 03707344",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(key: str, counter: str, answer: str) -> None:
    low, high = (int(word, 16) for word in key.split())
    words = [int(word, 16) for word in counter.split()]
    assert reference.philox(low, high, words) == [int(word, 16) for word in answer.split()]
    signed = (low | high << 32) - (2**64 if high >= 2**31 else 0)
    for form in (signed, torch.tensor(signed)):
        got = dropout_mask.philox(form, tuple(torch.tensor([word]) for word in words))
        assert [f"{int(word):08x}" for word in got] == answer.split()


def test_keys_of_dropout_are_on_the_cpu_whatever_the_default_device() -> None:
    with torch.device("meta"):
        keys = ops.dropout_keys(1, 2, ["fc6"])
    assert keys.tolist() == [ops.dropout_key(1, 2, "fc6")]


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
def test_a_mask_keeps_a_unit_by_the_bits_of_its_number(rate: float, plain_masks: None) -> None:
    key = ops.dropout_key(1, 2, "fc6")
    drawn = ops.Mask(key, rate).draw((3, 5), torch.device("cpu")).flatten().tolist()
    low, high = key & 0xFFFFFFFF, key >> 32 & 0xFFFFFFFF
    for number, kept in enumerate(drawn):
        word = reference.philox(low, high, [number // 4, 0, 0, 0])[number % 4]
        assert kept == (word / 2**32 >= rate)


@pytest.mark.parametrize("compiled_masks", [False, True])
@given(
    rows=st.integers(1, 5),
    parts=st.integers(1, 3),
    count=st.integers(1, 70),
    step=st.integers(0, 2**63),
    data=st.data(),
)
@settings(max_examples=30)
def test_a_rank_draws_its_part_of_the_full_mask(
    compiled_masks: bool, rows: int, parts: int, count: int, step: int, data: st.DataObject
) -> None:
    key, cpu = ops.dropout_key(0, step, "fc6"), torch.device("cpu")
    first_row = data.draw(st.integers(0, rows - 1))
    part = data.draw(st.integers(0, parts - 1))
    full = ops.Mask(key, 0.5).draw((rows, parts * count), cpu)
    place = ops.Mask(key, 0.5, first_row, part * count, parts * count)
    with pytest.MonkeyPatch.context() as patch:
        if not compiled_masks:
            patch.setattr(dropout_mask, "_compiled_takes", lambda keep: False)
        got = place.draw((rows - first_row, count), cpu)
        assert ops.Mask(key, 0.5).draw((0, count), cpu).shape == (0, count)
    assert torch.equal(got, full[first_row:, part * count :][:, :count])


@pytest.mark.usefixtures("compiled_code")
def test_the_compiled_mask_is_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    key, cpu, masks = ops.dropout_key(0, 0, "fc6"), torch.device("cpu"), []
    # Counters of more than 32 bits, too.
    numbered = [ops.Mask(key, 0.3), ops.Mask(torch.tensor(key), 0.3), ops.Mask(key, 0.5, 2**33)]
    for takes in (lambda keep: False, lambda keep: True):
        monkeypatch.setattr(dropout_mask, "_compiled_takes", takes)
        masks += [[mask.draw((7, 4, 5, 5), cpu) for mask in numbered]]
    for slow, made in zip(*masks, strict=True):
        assert torch.equal(slow, made)


def test_keys_of_layers_may_be_given_as_tensors() -> None:
    net = Network(tiny_architecture())
    keys = dict(zip(("fc6", "fc7"), ops.dropout_keys(0, 3, ("fc6", "fc7")), strict=True))
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(net(x, dropout_key=keys), net(x, dropout_key=(0, 3)))
    assert not torch.equal(net(x, dropout_key=keys), net(x, dropout_key=(0, 4)))


def test_a_dropout_mask_is_a_function_of_seed_step_and_layer() -> None:
    assert torch.equal(mask(), mask())
    for other in (mask(step=1), mask(layer="fc7"), mask(seed=2)):
        agree = (mask() == other).float().mean()
        assert abs(agree - 0.5) < 0.02  # 32,000 coins: seven deviations


def test_a_dropout_mask_can_be_traced_with_its_key_as_an_input() -> None:
    def masked(x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return ops.dropout(x, ops.Mask(key, 0.5))

    x, keys = torch.randn(4, 6), ops.dropout_keys(0, 1, ("fc6", "fc7"))
    traced = make_fx(masked)(x, keys[0])
    assert torch.equal(traced(x, keys[1]), masked(x, keys[1]))
    each = torch.func.vmap(masked, in_dims=(None, 0))(x, keys)
    assert torch.equal(each, torch.stack([masked(x, key) for key in keys]))


def test_dropout_as_in_2012_does_not_rescale_in_training_and_halves_at_test() -> None:
    x = random(64, 500)
    kept = ops.dropout(x, mask())
    assert torch.equal(kept[mask()], x[mask()])
    assert not kept[~mask()].any()
    assert torch.equal(ops.dropout(x, None), x * 0.5)
    assert torch.equal(ops.dropout(x, None, 0.5, "inverted"), x)
    torch.testing.assert_close(ops.dropout(x, mask(), 0.25, "inverted"), kept / 0.75)


def test_without_masks_a_net_computes_in_training_what_it_computes_at_test(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The authors' code with enable=false: no unit is zeroed and outputs are still halved."""
    # In training a trial may choose another way to multiply, which rounds in another way.
    monkeypatch.setattr(trial, "_possible", lambda product: (trial.DIRECT,))
    architecture = tiny_architecture()
    still = replace(architecture, dropout=replace(architecture.dropout, masks=False))
    x = torch.randn(4, 3, 32, 32)
    net = Network(still)
    values = net.activations(x, dropout_key=(0, 1))
    assert torch.equal(values["fc6.dropout"], values["fc6"] * 0.5)
    assert torch.equal(net(x, dropout_key=(0, 1)), net.eval()(x))
    assert torch.equal(net(x), Network(architecture).eval()(x))
    assert not torch.equal(net(x), Network(architecture)(x, dropout_key=(0, 1)))


def test_the_dropout_rate_is_the_share_of_zeros() -> None:
    assert abs(mask(rate=0.2).float().mean() - 0.8) < 0.016  # seven deviations


def test_value_without_a_finite_square_reaches_its_column_in_the_pieces() -> None:
    """Its neighbors are 0, as in the formula, and the others of its column NaN."""
    x = torch.ones(1, 24, 1, 2, dtype=torch.float64)
    x[0, 0, 0, 0] = 1e200
    y = ops.lrn(x, columns=2)[0, :, 0]
    assert y[:3, 0].tolist() == [0, 0, 0]
    assert y[3:12, 0].isnan().all()
    assert y[12:].isfinite().all()
    assert y[:, 1].isfinite().all()
