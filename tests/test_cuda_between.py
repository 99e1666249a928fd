"""The pass between two convolutions in CUDA C++ (`native/between.cu`).

Without a card the file is compiled as C++ and run block by block. Where NVRTC is installed it is
compiled for three generations of GPUs. Neither finds a race between threads:
`benchmarks/gpu/racecheck.py` looks for one on a card.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet import model
from alexnet.config import Architecture, Conv, FullyConnected, Lrn, Pool
from alexnet.model import Network
from alexnet.native import HERE, nvrtc
from alexnet.ops import cuda_between, cuda_trial, normalise, plain
from alexnet.ops.plain import Pass
from tests.transformed_gradients import transformed_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SOURCE = HERE / "between.cu"


class Emulated:
    """A kernel that a CPU runs, one block after the other."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def __call__(
        self,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        args: Sequence[torch.Tensor | int],
        shared_mem: int,
    ) -> None:
        # What the emulation has for a block.
        assert shared_mem <= 16 << 14
        self.function(
            grid[0],
            *(
                ctypes.c_void_p(arg.data_ptr()) if isinstance(arg, torch.Tensor) else arg
                for arg in args
            ),
        )


@pytest.fixture
def runnable(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the CPU run the kernels where there is no card."""
    # Its results would outlive the test.
    monkeypatch.setattr(cuda_between, "_kernels", cuda_between._kernels.__wrapped__)
    if DEVICE == "cuda":
        return
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.getbasetemp()

    def kernels(
        file: str, names: tuple[str, ...], macros: tuple[tuple[str, str], ...], *rest: object
    ) -> nvrtc.Kernels:
        options = nvrtc.options_of([*macros, ("EMULATE", "1")])
        library = folder / f"{hashlib.sha256(' '.join(options).encode()).hexdigest()[:16]}.so"
        if not library.exists():
            flags = ["-O1", "-std=c++17", "-fPIC", "-shared", "-x", "c++"]
            subprocess.run([compiler, *flags, *options, HERE / file, "-o", library], check=True)
        functions = ctypes.CDLL(str(library))
        return {
            name: Emulated(getattr(functions, name.replace("between", "emulate"))) for name in names
        }

    monkeypatch.setattr(nvrtc, "kernels", kernels)
    monkeypatch.setattr(nvrtc, "ensure_context", lambda device: None)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal values of deviation 3 in bfloat16, channels last."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).mul(3).bfloat16().to(DEVICE)
    return x.contiguous(memory_format=torch.channels_last)


CASES: list[tuple[tuple[int, ...], Pass]] = [
    ((2, 96, 9, 11), Pass(True, Lrn(5, alpha=0.1), Pool(), False, 2)),
    ((1, 128, 7, 6), Pass(False, Lrn(5, alpha=0.1), Pool(3, 2, True), True, 1)),
    ((3, 8, 5, 5), Pass(True, None, Pool(), False, 1)),
    ((2, 48, 4, 7), Pass(False, None, Pool(3, 2), True, 3)),
    ((2, 48, 4, 7), Pass(True, None, None, False, 1)),
    ((2, 32, 6, 5), Pass(True, Lrn(5, alpha=0.1), None, False, 2)),
    ((2, 32, 6, 5), Pass(False, Lrn(3, alpha=0.1), None, False, 1)),
    # The widest sum, a sum of one map, and windows that do not overlap.
    ((1, 24, 7, 7), Pass(True, Lrn(9, 1.0, 0.1), Pool(2, 2, True), False, 1)),
    ((1, 24, 7, 7), Pass(True, Lrn(1, 1.0, 0.1), Pool(4, 3), False, 1)),
    # Windows with gaps between them.
    ((1, 16, 8, 8), Pass(True, Lrn(5, alpha=0.1), Pool(2, 3), False, 2)),
]
"""Shape of x, and the pass."""


@pytest.mark.usefixtures("runnable")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("smallest", [False, True])
def test_the_pass_is_the_plain_one(
    case: tuple[tuple[int, ...], Pass], smallest: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with many blocks: of one row of results forward, and of one pixel backward."""
    if smallest:
        for size in ("SHARED_BYTES", "PIXELS_OF_A_BLOCK", "TURNS", "THREADS"):
            monkeypatch.setattr(cuda_between, size, 1)
    shape, between = case
    x, bias = random(*shape), random(1, shape[1], 1, 1, seed=2).float().flatten()
    assert cuda_between.takes(x, bias, between)
    leaves = [value.clone().requires_grad_() for value in (x, bias)]
    y = cuda_between.norm_pool(leaves[0], leaves[1], between)
    assert y.is_contiguous(memory_format=torch.channels_last)
    exact_leaves = [value.detach().double().requires_grad_() for value in (x, bias)]
    exact = plain.norm_pool(*exact_leaves, between)
    if between.window:
        assert y.grad_fn is not None
        exact = at_positions(exact, y.grad_fn.saved_tensors[2], *exact_leaves, between)  # type: ignore[attr-defined]
    dy = random(*y.shape, seed=1)
    gradients = torch.autograd.grad(y, leaves, dy)
    exact_gradients = torch.autograd.grad(exact, exact_leaves, dy.double())
    for ours, theirs in zip((y, *gradients), (exact, *exact_gradients), strict=True):
        # bfloat16 is rounded twice, each time by 2^-9 at most: before the maximum, and the result.
        assert bool((ours.double() - theirs).norm() <= 6e-3 * theirs.norm())


def at_positions(
    maxima: torch.Tensor,
    position: torch.Tensor,
    x: torch.Tensor,
    bias: torch.Tensor,
    between: Pass,
) -> torch.Tensor:
    """The values at the positions that the kernel has found, which are maxima but for rounding.

    Values of a window that bfloat16 makes equal are both the maximum, and either has the gradient.
    """
    window = between.window
    assert window is not None
    values = plain.norm_pool(x, bias, between._replace(window=None))
    (height, width), (out_height, out_width) = values.shape[2:], maxima.shape[2:]
    number = position.long()
    found = number != 255
    row = (
        torch.arange(out_height, device=DEVICE)[:, None] * window.stride + number // window.size_px
    )
    col = torch.arange(out_width, device=DEVICE) * window.stride + number % window.size_px
    assert bool(((row < height) & (col < width))[found].all())
    at = torch.where(found, row * width + col, 0).flatten(2)
    chosen = values.flatten(2).gather(2, at).view(maxima.shape) * found
    assert bool((chosen >= maxima * (1 - 2**-7)).all())
    return chosen


@pytest.mark.usefixtures("runnable")
def test_nans_are_kept_and_first_of_equal_values_has_the_gradient() -> None:
    nan, inf = float("nan"), float("inf")
    values = (
        torch.tensor([[nan, 2, 2, inf, inf, 0], [nan, 1, 2, 1, -inf, -1]]).bfloat16().to(DEVICE)
    )
    x = values.view(1, 1, 2, 6).expand(1, 8, 2, 6).contiguous(memory_format=torch.channels_last)
    results = []
    for function in (cuda_between.norm_pool, plain.norm_pool):
        leaf, bias = x.clone().requires_grad_(), torch.zeros(8, device=DEVICE)
        y = function(leaf, bias, Pass(True, window=Pool(2, 1)))
        dy = torch.arange(1.0, 6, device=DEVICE).bfloat16().expand(8, 1, 5).reshape(y.shape)
        (gradient,) = torch.autograd.grad(y, leaf, dy)
        results.append((y.detach(), gradient))
    (ours, dx), (plain_y, plain_dx) = results
    torch.testing.assert_close(ours, plain_y, rtol=0, atol=0, equal_nan=True)
    # Of the two NaNs the first one has the gradient here, and the last one in PyTorch.
    torch.testing.assert_close(dx[..., 1:], plain_dx[..., 1:], rtol=0, atol=0)
    assert (dx[0, 0, :, 0].tolist(), plain_dx[0, 0, :, 0].tolist()) == ([1, 0], [0, 1])


@pytest.mark.usefixtures("runnable")
def test_second_derivatives_of_the_cuda_kernels_are_those_of_the_formula() -> None:
    x, bias = random(1, 8, 5, 5), torch.zeros(8, device=DEVICE)
    between = Pass(True, Lrn(alpha=0.1), Pool())
    results = []
    for function in (cuda_between.norm_pool, plain.norm_pool):
        leaves = [value.clone().requires_grad_() for value in (x, bias)]
        first = torch.autograd.grad(function(*leaves, between).sum(), leaves, create_graph=True)
        results.append(torch.autograd.grad(sum(g.float().square().sum() for g in first), leaves))
    for ours, exact in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact)


@pytest.mark.usefixtures("runnable")
def test_gradients_of_the_cuda_kernels_may_be_transformed() -> None:
    x, bias = random(1, 8, 5, 5), torch.zeros(8, device=DEVICE)
    between = Pass(True, Lrn(alpha=0.1), Pool())
    ours, exact = (
        transformed_gradients(lambda x, by=by: by.norm_pool(x, bias, between), x)
        for by in (cuda_between, plain)
    )
    # Both differentiate the formula.
    assert all(map(torch.equal, ours, exact))


@pytest.mark.usefixtures("runnable")
def test_hooks_on_saved_tensors_may_lay_them_out_otherwise_for_cuda() -> None:
    """They may also return a view at any address, as a gradient may be one."""

    def moved(saved: torch.Tensor) -> torch.Tensor:
        room = saved.new_empty(saved.numel() + 1)[1:]
        return room.view(saved.shape).copy_(saved)

    x, bias = random(1, 16, 5, 5).requires_grad_(), torch.zeros(16, device=DEVICE)
    for between in (Pass(True, Lrn(), Pool()), Pass(True, Lrn())):
        with torch.autograd.graph.saved_tensors_hooks(moved, lambda saved: saved):
            hooked = cuda_between.norm_pool(x, bias, between)
        y = cuda_between.norm_pool(x, bias, between)
        results = (torch.autograd.grad(each.square().sum(), x)[0] for each in (hooked, y))
        assert torch.equal(*results)


@pytest.mark.usefixtures("runnable")
def test_what_the_kernels_do_not_have_is_left_to_triton() -> None:
    x, bias = random(1, 16, 5, 5), torch.zeros(16, device=DEVICE)
    good = Pass(True, Lrn(), Pool(), columns=2)
    assert cuda_between.takes(x, bias, good)
    assert not cuda_between.takes(x.float(), bias, good)
    assert not cuda_between.takes(x, None, good)
    assert not cuda_between.takes(x, bias.bfloat16(), good)
    for between in (
        Pass(True, Lrn(beta=0.5), Pool(), False, 2),
        Pass(True, Lrn(11), Pool(), False, 2),
        # Values below 0 in a window.
        Pass(False, Lrn(), Pool(), False, 2),
        Pass(False, Lrn(), None, True, 2),
        Pass(True, Lrn(), Pool(16, 2), False, 2),
        Pass(True, Lrn(), Pool(1, 2), False, 2),
        # Four maps in a column.
        Pass(True, Lrn(), Pool(), False, 4),
    ):
        assert not cuda_between.takes(x, bias, between)
    wide = random(1, 1024, 1, 60)
    assert not cuda_between.takes(
        wide, torch.zeros(1024, device=DEVICE), Pass(True, window=Pool(2, 1, True))
    )


@pytest.mark.parametrize("missing", [AttributeError, ImportError, OSError, RuntimeError])
def test_without_nvrtc_there_are_no_kernels(
    missing: type[Exception], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object) -> None:
        raise missing("no such library")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda._utils, "_get_nvrtc_library", refuse)
    monkeypatch.setattr(nvrtc, "_reported", set())
    for _ in range(2):
        assert nvrtc.kernels.__wrapped__("between.cu", (), (), (), 0) is None
    said = capsys.readouterr().err
    assert (
        said == "warning: between.cu is not compiled, and Triton does its work: no such library\n"
    )


@pytest.mark.usefixtures("runnable")
@pytest.mark.parametrize("chosen", [0, 1])
def test_a_trial_chooses_in_training_alone(chosen: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from alexnet.ops import triton_between

    calls: list[str] = []

    def fastest(ways: dict[str, Any], *arguments: object) -> Any:
        names = list(ways)
        # Another text of the kernels is another way, whose trial is made anew.
        assert names == ["Triton", f"CUDA C++ ({nvrtc.digest('between.cu')})"]
        calls.append("trial")
        return ways[names[chosen]]

    def by_triton(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        calls.append("Triton")
        return plain.norm_pool(x, *rest)

    for module in (normalise, model):
        monkeypatch.setattr(module, "adds_bias", lambda x: True)
    monkeypatch.setattr(cuda_trial, "possible", lambda x: True)
    monkeypatch.setattr(cuda_trial, "fastest", fastest)
    monkeypatch.setattr(triton_between, "norm_pool", by_triton)
    x, bias = random(1, 16, 5, 5), torch.zeros(16, device=DEVICE, requires_grad=True)
    normalise.norm_pool(x, True, Lrn(), Pool(), bias=bias, training=True)
    assert calls == (["trial"] if chosen else ["trial", "Triton"])
    with torch.no_grad():
        normalise.norm_pool(x, True, Lrn(), Pool(), bias=bias, training=True)
    assert calls[-1] == "Triton"
    assert calls.count("trial") == 1
    # Only a GPU has a trial for the convolution, too.
    monkeypatch.setattr(model.layers, "convolution", lambda x, *others: random(1, 16, 5, 5))
    first = Conv("conv1", 16, 3, then=("activation", "lrn", "max_pool"))
    net = Network(Architecture((first, FullyConnected("fc2", 2)), input_px=7)).to(DEVICE)
    calls.clear()
    # Attributions ask for gradients in evaluation mode.
    net.eval()(random(1, 3, 7, 7))
    assert calls == ["Triton"]
    net.train()(random(1, 3, 7, 7))
    assert calls[1] == "trial"


def nvrtc_library() -> ctypes.CDLL:
    """NVRTC as its own package has it; the CPU build of PyTorch has none."""
    spec = util.find_spec("nvidia")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
    for folder in folders:
        # Of the packages of CUDA 12, and of those since CUDA 13.
        for pattern in ("cuda_nvrtc/lib/libnvrtc.so.*", "cu*/lib/libnvrtc.so.*"):
            for library in folder.glob(pattern):
                return ctypes.CDLL(str(library))
    pytest.skip("needs NVRTC: python -m pip install nvidia-cuda-nvrtc-cu12")


PASSES: list[tuple[tuple[int, int], Pass]] = [
    # After conv1, conv2, conv3 and conv5 of `paper`; conv4's is conv3's.
    ((96, 55), Pass(True, Lrn(), Pool(), False, 2)),
    ((256, 27), Pass(True, Lrn(), Pool(), False, 2)),
    ((384, 13), Pass(True, None, None, False, 1)),
    ((256, 13), Pass(True, None, Pool(), False, 1)),
    # Where the ReLU stands behind the maximum, as after conv1 of `original`.
    ((96, 55), Pass(False, None, Pool(), True, 1)),
]
"""Maps, their side in pixels, and what stands behind them."""


@pytest.mark.parametrize("capability", [80, 90, 100])
def test_kernels_compile_for_every_card_and_keep_all_in_registers(
    capability: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = nvrtc_library()
    logs: list[str] = []

    def kernels(
        file: str, names: tuple[str, ...], macros: tuple[tuple[str, str], ...], *rest: object
    ) -> None:
        options = [f"--gpu-architecture=sm_{capability}", "--ptxas-options=-v"]
        binary, log = nvrtc.compiled(
            library, SOURCE.read_bytes(), [*options, *nvrtc.options_of(macros)]
        )
        assert all(name.encode() in binary for name in names)
        logs.append(log)

    monkeypatch.setattr(nvrtc, "kernels", kernels)
    monkeypatch.setattr(cuda_between, "_kernels", cuda_between._kernels.__wrapped__)
    for (maps, side), between in PASSES:
        x = torch.empty((1, maps, side, side), dtype=torch.bfloat16, device="meta")
        cuda_between.takes(x, torch.empty(maps, device="meta"), between)
    found = [re.findall(r"(\d+) bytes spill stores|Used (\d+) registers", log) for log in logs]
    spills = [int(spill) for log in found for spill, _ in log if spill]
    registers = [int(count) for log in found for _, count in log if count]
    assert spills == [0] * 2 * len(PASSES)
    # So that five blocks of 192 threads share the 65,536 registers of a multiprocessor.
    assert len(registers) == 2 * len(PASSES)
    assert max(registers) <= 64


def test_what_the_compiler_says_is_the_error() -> None:
    with pytest.raises(RuntimeError, match=r"NVRTC: .*error"):
        nvrtc.compiled(nvrtc_library(), b"not C++", ["--gpu-architecture=sm_90"])
