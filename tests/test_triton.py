"""The Triton kernels against the plain implementation; without a GPU, in Triton's interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet import model, ops
from alexnet.config import Architecture, Conv, FullyConnected, Lrn, Pool, SpatialNorm
from alexnet.model import Network
from alexnet.ops import normalise, plain
from alexnet.ops.plain import Pass

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
triton = pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from alexnet.ops import triton_between, triton_spatial  # noqa: E402
from tests import triton_resources  # noqa: E402
from tests.transformed_gradients import assert_transformed_alike  # noqa: E402

# The interpreter computes with NumPy, which warns of NaNs and infinities, also in empty lanes.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

REGISTERS = 192
"""The most that a thread of any kernel may need; of 255 that a GPU has, the rest are spilled."""
RECIPES = ["paper", "original", "original_one_column", "torchvision", "cifar_11", "cifar_18"]
"""Their launches are those of all recipes, up to the sides of images."""
LARGEST_KERNEL = """
import json, torch
from tests.triton_resources import launches, resources
gradients = [launch for launch in launches("paper", torch.bfloat16) if "dx" in launch[0].arg_names]
print(json.dumps(resources(max(gradients, key=lambda launch: launch[4]["tile"]), 90)))
"""


OTHER_KERNELS = """
import json, torch
from alexnet.ops.triton_dropout import _masked
from alexnet.ops.triton_update import BLOCK, BLOCKS, _update
from tests.triton_resources import resources
numbers, values = torch.empty(1, dtype=torch.int64), torch.empty(1)
arguments = numbers, numbers, numbers, values, 0.9
launches = [(_update, (1, 1), arguments, 4, {"block": BLOCK, "blocks": BLOCKS})]
for dtype in (torch.bfloat16, torch.float32):
    x = torch.empty(1, dtype=dtype)
    launches.append((_masked, (1, 1), (x, numbers, x, 4096, 0, 0, 1 << 31), 4, {"counters": 256}))
for launch in launches:
    for capability in (80, 90, 100):
        print(json.dumps(resources(launch, capability) | {"kernel": launch[0].fn.__name__}))
"""


CROPS = """
import json, torch
from alexnet.ops.triton_crop import VALUES, _crop
from tests.triton_resources import resources
images, values = torch.empty(1, dtype=torch.uint8), torch.empty(1)
paper = {"stored": 256, "px": 224, "before": 0, "VALUES": VALUES}
crop = {"covered": 224, "side": 1, "zoomed": False, "mean_moves": True, "divides": False}
for kind, dtype, deviation, changes in (
    ("crop", torch.float32, None, {}),
    ("in blocks", torch.bfloat16, None, {"covered": 228, "side": 4, "mean_moves": False}),
    ("rescaled", torch.bfloat16, values, {"zoomed": True, "divides": True}),
):
    arguments = images, values, values, deviation, torch.empty(1, dtype=dtype)
    for capability in (80, 90, 100):
        used = resources((_crop, (1, 1), arguments, 4, paper | crop | changes), capability)
        print(json.dumps(used | {"kind": kind}))
"""


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operators and the network take the kernels, also where they are interpreted."""
    if DEVICE == "cpu":
        # All but the question whether x is on CUDA.
        monkeypatch.setattr(normalise, "adds_bias", lambda x: True)
        monkeypatch.setattr(model, "adds_bias", lambda x: True)


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).mul(3).to(DEVICE, dtype)
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else x


def assert_like_plain(
    fast: Any, formula: Any, inputs: tuple[torch.Tensor, ...], dtype: torch.dtype
) -> None:
    """Compare the result and all gradients with those of the formula in float64."""
    results = []
    for function, values in ((fast, inputs), (formula, [value.double() for value in inputs])):
        leaves = [value.clone().requires_grad_() for value in values]
        y = function(*leaves)
        dy = random(*y.shape, dtype=dtype, seed=1).to(y.dtype)
        results.append((y.detach(), *torch.autograd.grad(y, leaves, dy)))
        assert y.is_contiguous(memory_format=torch.channels_last)
    # bfloat16 is rounded once, to 8 bits; the interpreter cuts them off.
    limit = 1e-6 if dtype == torch.float32 else 6e-3
    for value, low, exact in zip([inputs[0], *inputs], *results, strict=True):
        assert low.dtype == value.dtype
        assert float((low.double() - exact).norm()) <= limit * float(exact.norm())


CASES = [
    ((2, 12, 7, 6), 2, True, Lrn(5, alpha=0.1), Pool(), False),
    ((1, 40, 5, 8), 1, False, Lrn(4, 0.0, 0.1), Pool(3, 2, True), True),
    ((3, 14, 4, 3), 1, True, None, Pool(2, 2, True), False),
    ((1, 96, 3, 3), 1, True, None, None, False),
    ((2, 18, 3, 2), 2, True, Lrn(9, alpha=0.1), None, False),
    ((1, 256, 2, 2), 2, False, Lrn(1, alpha=0.1), None, False),
    # A column of more maps than a program takes.
    ((1, 300, 2, 2), 1, True, Lrn(5, alpha=0.1), Pool(2, 1), False),
    ((1, 5, 9, 7), 1, False, None, Pool(4, 3, True), True),
    ((1, 5, 4, 4), 1, False, Lrn(5, alpha=0.1), Pool(1, 2), True),
]
"""Shape, columns, ReLU, LRN, window, ReLU after it."""


@pytest.mark.parametrize(
    ("case", "dtype"),
    [(case, torch.float32) for case in CASES] + [(case, torch.bfloat16) for case in CASES[:4]],
)
def test_the_pass_between_convolutions_is_the_plain_one(
    case: tuple[tuple[int, ...], int, bool, Lrn | None, Pool | None, bool], dtype: torch.dtype
) -> None:
    shape, columns, relu, norm, window, relu_after = case
    between = Pass(relu, norm, window, relu_after, columns)
    bias = random(shape[1], dtype=torch.float32, seed=2)
    assert_like_plain(
        lambda x, b: triton_between.norm_pool(x, b, between),
        lambda x, b: plain.norm_pool(x, b, between),
        (random(*shape, dtype=dtype), bias),
        dtype,
    )


@pytest.mark.parametrize(
    ("shape", "size_px", "dtype"),
    [
        ((2, 6, 2, 5), 5, torch.bfloat16),
        ((1, 70, 2, 4), 3, torch.float32),
        # More pixels in a row than a program takes.
        ((1, 1, 1, 70), 9, torch.float32),
        ((1, 3, 1, 1), 1, torch.float32),
    ],
)
def test_spatial_normalization_is_the_plain_one(
    shape: tuple[int, ...], size_px: int, dtype: torch.dtype
) -> None:
    norm = SpatialNorm(size_px, alpha=0.1)
    assert_like_plain(
        lambda x: triton_spatial.spatial_norm(x, norm),
        lambda x: plain.spatial_norm(x, norm),
        (random(*shape, dtype=dtype),),
        dtype,
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("relu_after", [False, True])
def test_maxima_of_nans_infinities_and_equals_are_pytorchs(relu: bool, relu_after: bool) -> None:
    nan, inf = float("nan"), float("inf")
    x = torch.tensor([[nan, 1, 1, -inf, -inf, 0], [nan, 0, 1, -inf, -inf, -1]], device=DEVICE)
    x = x.view(1, 1, 2, 6).contiguous(memory_format=torch.channels_last)
    results = []
    for norm_pool in (triton_between.norm_pool, plain.norm_pool):
        leaf = x.clone().requires_grad_()
        y = norm_pool(leaf, None, Pass(relu, window=Pool(2, 1), relu_after=relu_after))
        (g,) = torch.autograd.grad(y, leaf, torch.arange(1.0, 6, device=DEVICE).view(y.shape))
        results.append((y.detach(), g))
    for ours, pytorchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, pytorchs, rtol=0, atol=0, equal_nan=True)


def test_no_nan_is_lost_in_a_normalization() -> None:
    x = random(1, 20, 3, 5, dtype=torch.float32)
    x[0, 7, 1, 2] = float("nan")
    for fast, exact in (
        (
            triton_between.norm_pool(x, None, Pass(True, Lrn(), Pool(), columns=2)),
            plain.norm_pool(x, None, Pass(True, Lrn(), Pool(), columns=2)),
        ),
        (
            triton_spatial.spatial_norm(x, SpatialNorm(3)),
            plain.spatial_norm(x, SpatialNorm(3)),
        ),
    ):
        assert fast.isnan()[exact.isnan()].all()
        # It reaches no other map of another column, and no other map in a square.
        assert not fast[:, 10:].isnan().any()
        torch.testing.assert_close(fast[:, 10:], exact[:, 10:])


def test_second_derivatives_of_the_triton_kernels_are_those_of_the_formula() -> None:
    x, bias = random(1, 4, 5, 5, dtype=torch.float32), random(4, dtype=torch.float32)
    between = Pass(True, Lrn(alpha=0.1), Pool(), columns=2)
    norm = SpatialNorm(3, alpha=0.1)
    for fast, formula, inputs in (
        (
            lambda x, b: triton_between.norm_pool(x, b, between),
            lambda x, b: plain.norm_pool(x, b, between),
            (x, bias),
        ),
        (
            lambda x: triton_between.norm_pool(x, None, between),
            lambda x: plain.norm_pool(x, None, between),
            (x,),
        ),
        (
            lambda x: triton_spatial.spatial_norm(x, norm),
            lambda x: plain.spatial_norm(x, norm),
            (x,),
        ),
    ):
        results = []
        for function in (fast, formula):
            leaves = [value.clone().requires_grad_() for value in inputs]
            first = torch.autograd.grad(function(*leaves).sum(), leaves, create_graph=True)
            results.append(torch.autograd.grad(sum(g.square().sum() for g in first), leaves))
        for ours, exact in zip(*results, strict=True):
            torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-6)


def test_gradients_of_the_triton_kernels_may_be_transformed() -> None:
    x, bias = random(1, 4, 5, 5, dtype=torch.float32), random(4, dtype=torch.float32)
    between, norm = Pass(True, Lrn(alpha=0.1), Pool(), columns=2), SpatialNorm(3, alpha=0.1)
    assert_transformed_alike(
        lambda x: triton_between.norm_pool(x, bias, between),
        lambda x: plain.norm_pool(x, bias, between),
        x,
    )
    assert_transformed_alike(
        lambda x: triton_spatial.spatial_norm(x, norm), lambda x: plain.spatial_norm(x, norm), x
    )


def test_hooks_on_saved_tensors_may_lay_them_out_otherwise_for_triton() -> None:
    x, between = random(1, 6, 5, 4, dtype=torch.float32), Pass(True, Lrn(), Pool())
    x.requires_grad_()
    for op in (
        lambda x: triton_between.norm_pool(x, None, between),
        lambda x: triton_between.norm_pool(x, None, Pass(True, Lrn())),
        lambda x: triton_spatial.spatial_norm(x, SpatialNorm(3, alpha=0.1)),
    ):
        with torch.autograd.graph.saved_tensors_hooks(torch.Tensor.contiguous, lambda saved: saved):
            hooked = op(x).square().sum()
        results = (torch.autograd.grad(y, x)[0] for y in (hooked, op(x).square().sum()))
        assert torch.equal(*results)


def test_bits_are_the_same_every_time() -> None:
    x, bias = random(2, 12, 7, 7, dtype=torch.bfloat16), random(12, dtype=torch.float32)
    results = []
    for _ in range(2):
        leaves = [x.clone().requires_grad_(), bias.clone().requires_grad_()]
        y = triton_between.norm_pool(*leaves, Pass(True, Lrn(), Pool()))
        results.append((y, *torch.autograd.grad(y.float().sum(), leaves)))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.usefixtures("as_on_cuda")
def test_operators_take_the_kernels_only_where_these_can_compute_the_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[str] = []
    for kernels in (triton_between, triton_spatial):
        name = kernels.__name__.removeprefix("alexnet.ops.triton_")
        monkeypatch.setattr(kernels, "launch", lambda *args, name=name, **rest: taken.append(name))
    x = random(1, 4, 5, 5, dtype=torch.float32)
    ops.norm_pool(x, True, Lrn(), Pool(), False, 2, torch.zeros(4, device=DEVICE))
    ops.lrn(x.bfloat16())
    ops.spatial_norm(x)
    assert taken == ["between", "between", "spatial"]
    for value in (x.double(), x.contiguous(), x[:0]):
        ops.norm_pool(value, True, bias=torch.ones(4, device=DEVICE))
        ops.spatial_norm(value)
    ops.norm_pool(x, True, Lrn(beta=0.5))
    ops.norm_pool(x, True, Lrn(n=19))
    ops.spatial_norm(x, beta=0.5)
    ops.norm_pool(random(1, 1, 20, 20, dtype=torch.float32), window=Pool(16, 1))
    torch.func.vmap(lambda value: ops.norm_pool(value, True, Lrn()))(x[None])
    assert len(taken) == 3


@pytest.mark.usefixtures("as_on_cuda")
def test_bias_that_is_a_view_is_read_by_its_indices() -> None:
    x, biases = random(1, 4, 5, 5, dtype=torch.float32), random(8, dtype=torch.float32)
    bias = biases[::2].requires_grad_()
    assert not bias.is_contiguous()
    results = []
    for each in (bias, bias.detach().clone().requires_grad_()):
        y = ops.norm_pool(x, True, window=Pool(), bias=each)
        results.append((y.detach(), *torch.autograd.grad(y.sum(), each)))
    for view, copy in zip(*results, strict=True):
        assert torch.equal(view, copy)


def test_a_bias_is_added_where_there_is_no_kernel_for_it() -> None:
    x, bias = random(1, 4, 5, 5, dtype=torch.bfloat16), random(4, dtype=torch.float32)
    biased = x + bias.bfloat16()[:, None, None]
    wanted = plain.norm_pool(biased, None, Pass(True, window=Pool()))
    assert torch.equal(ops.norm_pool(x.contiguous(), True, window=Pool(), bias=bias), wanted)


@pytest.mark.usefixtures("as_on_cuda")
def test_the_network_gives_the_bias_of_a_convolution_to_the_pass_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = (
        Conv("conv1", 6, 5, stride=2, std=0.2, then=("lrn", "max_pool", "activation")),
        Conv("conv2", 8, 3, pad=(1, 1), std=0.2, bias=1, then=("activation", "spatial_norm")),
        Conv("conv3", 8, 3, pad=(1, 1), std=0.2, linked=True, bias=1),
        FullyConnected("fc4", 3, std=0.1),
    )
    net = Network(Architecture(layers, columns=2, input_px=15)).to(DEVICE).eval()
    images = random(2, 3, 15, 15, dtype=torch.float32)
    passes: list[tuple[bool, Any]] = []
    norm_pool = triton_between.norm_pool
    monkeypatch.setattr(
        triton_between,
        "norm_pool",
        lambda *args: passes.append((args[1] is not None, args[2].window)) or norm_pool(*args),
    )
    results = []
    for precise in (False, True):
        twin = net.double() if precise else net
        logits = twin(images.double() if precise else images)
        results.append([logits, *torch.autograd.grad(logits.square().sum(), [*twin.parameters()])])
    # float64 has no kernels, and the same values.
    assert passes == [(True, Pool()), (True, None), (True, None)]
    for low, exact in zip(*results, strict=True):
        torch.testing.assert_close(low.double(), exact.double(), rtol=1e-4, atol=1e-5)
    # A hook sees the values with the bias.
    seen: list[torch.Tensor] = []
    net.float().conv1.register_forward_hook(lambda module, inputs, y: seen.append(y))
    torch.testing.assert_close(net(images), results[1][0].float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen[0], net.conv1(images))


def test_every_convolution_of_a_recipe_leaves_its_bias_to_a_kernel() -> None:
    launched = [
        (kernel, constants)
        for kernel, _, _, _, constants in triton_resources.launches("cifar_18", torch.bfloat16)
    ]
    between = [constants["has_bias"] for _, constants in launched if "has_bias" in constants]
    # Three convolutions forward and back, and two spatial normalizations, whose gradients are two.
    assert between == [True] * 6 and len(launched) == 6 + 2 * 3


def _compile(*arguments: str) -> list[dict[str, Any]]:
    """Run a program outside of the interpreter; its lines of JSON."""
    if not triton_resources.CUOBJDUMP.exists():
        pytest.skip("this build of Triton brings no cuobjdump")
    root = Path(__file__).resolve().parents[1]
    program = subprocess.run(
        [sys.executable, *arguments],
        env=triton_resources.without_interpreter(),
        cwd=root,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert program.returncode == 0, program.stderr
    return [json.loads(line) for line in program.stdout.splitlines()]


def test_the_largest_kernel_fits_the_registers_of_an_h100() -> None:
    (used,) = _compile("-c", LARGEST_KERNEL)
    assert used["reg"] <= REGISTERS and used["stack"] == used["local"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90, 100])
def test_every_kernel_of_the_recipes_compiles_and_fits_the_registers(capability: int) -> None:
    lines = _compile("-m", "tests.triton_resources", str(capability), *RECIPES)
    assert {line["kernel"].split(".")[0] for line in lines} == {"triton_between", "triton_spatial"}
    for used in lines:
        assert used["reg"] <= REGISTERS and used["stack"] == used["local"] == 0, used
        # A graphics card has 99 KiB of shared memory for a program.
        assert used["shared"] <= 99 << 10, used


def test_the_update_and_the_masks_of_dropout_compile_and_fit_the_registers() -> None:
    lines = _compile("-c", OTHER_KERNELS)
    assert [line["kernel"] for line in lines] == ["_update"] * 3 + ["_masked"] * 6
    for used in lines:
        # With 64 registers a multiprocessor holds 1,024 threads; 54 and 30 were seen.
        assert used["reg"] <= 64 and used["stack"] == used["local"] == 0, used


@pytest.mark.slow
def test_crops_compile_and_keep_their_values_in_registers() -> None:
    lines = _compile("-c", CROPS)
    # 96 registers leave room for 640 threads on a multiprocessor, 40 for 1,536.
    limits = {"crop": 40, "in blocks": 40, "rescaled": 96}
    assert [line["kind"] for line in lines] == [kind for kind in limits for _ in range(3)]
    for used in lines:
        assert used["reg"] <= limits[used["kind"]] and used["stack"] == used["local"] == 0, used
