"""Local response normalization (section 3.3) and the original code's spatial normalization.

Both are b = a / (k + alpha * S(a^2))^beta with a symmetric linear S: a sum over neighboring maps,
or over a square inside each map. So both have the gradient

    da = db d^-beta - 2 alpha beta a S(db a d^(-beta-1)),    d = k + alpha S(a^2).

The paper multiplies the sum by alpha; PyTorch, Caffe and ONNX multiply the mean, so their alpha is
n times ours. The sum never crosses from one column to the other.

Each function takes the fastest path that can compute its result:

- On a CPU with a C++ compiler, channels-last tensors go through `kernels.cpp` (`compiled.py`),
  where the activation and the pool beside a normalization are part of the same pass over memory.
- On CUDA, Triton kernels do the same (`triton_between.py`, `triton_spatial.py`), and the bias
  of the convolution is added in the same pass. In training with bfloat16 the pass over maps is also
  there in CUDA C++ (`cuda_between.py`); a trial on the card takes the faster one.
- Otherwise, such as in float64, PyTorch's operations do it, with the gradient above: the sum over
  maps is a product with a banded matrix of zeros and ones, which costs little beside the
  convolutions, and the work is done in pieces that stay in the processor's cache. Where the square
  of a value is no finite number, the maps of its column that are no neighbors of it become NaN at
  its position: zero times infinity is NaN.
- Where the operations are observed (`fast.unobserved`), the formula is written out (`plain.py`).

Sums are float32 for bfloat16 values, and float64 for float64 values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib import util
from typing import Any

import torch
import torch.nn.functional as F

from alexnet.config import Lrn, Pool, SpatialNorm
from alexnet.errors import ConfigError
from alexnet.native import nvrtc
from alexnet.ops import compiled, cuda_between, cuda_trial, fast, plain
from alexnet.ops.plain import FAST_BETA, Pass

Sum = Callable[[torch.Tensor], torch.Tensor]

PIECE_VALUES = 1 << 20
"""Number of float32 values in a piece: 4 MiB, about one core's share of the cache."""


def lrn(
    x: torch.Tensor,
    n: int = Lrn.n,
    k: float = Lrn.k,
    alpha: float = Lrn.alpha,
    beta: float = Lrn.beta,
    columns: int = 1,
) -> torch.Tensor:
    """Normalize over neighboring maps, as in section 3.3.

    Args:
        x: (N, C, H, W), float64, float32 or bfloat16.
        n: The sum at map i runs from i - n/2 to i + n/2, both halves rounded down, so n=4 sums five
            maps.
        alpha: Multiplies the sum itself.
        columns: Number of groups of maps; the sum stays inside its group.

    Returns:
        A tensor with the shape, dtype and memory format of x.

    Raises:
        ConfigError: If the columns do not divide C, or n is less than 1.
    """
    return norm_pool(x, norm=Lrn(n, k, alpha, beta), columns=columns)


def norm_pool(
    x: torch.Tensor,
    relu: bool = False,
    norm: Lrn | None = None,
    window: Pool | None = None,
    relu_after: bool = False,
    columns: int = 1,
    bias: torch.Tensor | None = None,
    training: bool = False,
) -> torch.Tensor:
    """Compute what stands between two convolutions: ReLU, LRN, maximum, ReLU, each one optional.

    Where the pass is compiled, nothing between its parts is written to memory or rounded to
    bfloat16.

    Args:
        x: (N, C, H, W), float64, float32 or bfloat16.
        bias: (C,), of the convolution that computed x, added before anything else.
        training: Allow the way that only training takes on CUDA, by a trial. In evaluation mode the
            result for an image must not depend on a trial.

    Raises:
        ConfigError: As `lrn` does, or if the window is larger than the maps.
    """
    between = Pass(relu, norm, window, relu_after, columns)
    _check(x, between)
    if not fast.unobserved(x, *([] if bias is None else [bias])):
        return plain.norm_pool(x, bias, between)
    # The kernels read the bias as contiguous memory, which a view need not be.
    bias = None if bias is None else bias.contiguous()
    if _triton_takes(x):
        # Imported here: Triton is present only beside a CUDA build of PyTorch.
        from alexnet.ops import triton_between

        if triton_between.takes(between):
            # Without gradients no trial is worth its time.
            if (
                training
                and bias is not None
                and bias.requires_grad
                and torch.is_grad_enabled()
                and cuda_trial.possible(x)
                and cuda_between.takes(x, bias, between)
            ):
                ways = {"Triton": triton_between.norm_pool, _CUDA: cuda_between.norm_pool}
                return cuda_trial.fastest(ways, x, bias, between)(x, bias, between)
            return triton_between.norm_pool(x, bias, between)
    x = x if bias is None else plain.add_bias(x, bias)
    # Without LRN any exponent will do.
    beta = norm.beta if norm else FAST_BETA
    # The compiled pass applies the ReLU behind the window where it takes the maximum.
    fits = window.size_px <= plain.MAX_WINDOW_PX if window else not relu_after
    if compiled.takes(x, beta) and fits:
        k, alpha = (norm.k, norm.alpha) if norm else (1.0, 0.0)
        size_px, stride, partial = (
            (window.size_px, window.stride, window.partial) if window else (0, 1, False)
        )
        y: torch.Tensor = compiled.norm_pool(
            x, relu, columns, between.half, size_px, stride, partial, relu_after, k, alpha
        )[0]
        return y
    x = F.relu(x) if relu else x
    x = _lrn_by_pieces(x, norm, columns) if norm else x
    x = plain.max_pool(x, window) if window else x
    return F.relu(x) if relu_after else x


_CUDA = f"CUDA C++ ({nvrtc.digest('between.cu')})"
"""Name of a way. It has the checksum of the text: after a change of it the trial is made again."""


def spatial_norm(
    x: torch.Tensor,
    size_px: int = SpatialNorm.size_px,
    k: float = SpatialNorm.k,
    alpha: float = SpatialNorm.alpha,
    beta: float = SpatialNorm.beta,
) -> torch.Tensor:
    """Normalize over a square of size_px x size_px pixels around each position of each map.

    The paper does not mention it: it stands only in the layer files of the authors' 2012 release.

    Args:
        x: (N, C, H, W), float64, float32 or bfloat16. The square is cut at the border.

    Raises:
        ConfigError: If the size is not odd.
    """
    if size_px < 1 or size_px % 2 == 0:
        raise ConfigError(f"spatial_norm over {size_px} pixels; the side of the square must be odd")
    norm = SpatialNorm(size_px, k, alpha, beta)
    if not fast.unobserved(x):
        return plain.spatial_norm(x, norm)
    if _triton_takes(x):
        from alexnet.ops import triton_spatial

        if triton_spatial.takes(norm):
            return triton_spatial.spatial_norm(x, norm)
    if compiled.takes(x, beta):
        y: torch.Tensor = compiled.spatial_norm(x, size_px // 2, k, alpha)
        return y
    return _by_pieces(
        x,
        lambda squares: plain.sum_over_square(squares, size_px),
        lambda t: plain.spatial_norm(t, norm),
        (k, alpha, beta),
    )


def _check(x: torch.Tensor, between: Pass) -> None:
    """Raise ConfigError if a pass is not defined for x: the kernels would not notice."""
    if x.dim() != 4:
        raise ConfigError(
            f"lrn or norm_pool needs (N, C, H, W); it was given shape {tuple(x.shape)}"
        )
    if between.norm and between.norm.n < 1:
        raise ConfigError(f"lrn over n={between.norm.n} maps; n must be at least 1")
    if between.columns < 1 or x.shape[1] % between.columns:
        raise ConfigError(f"{between.columns} columns do not divide {x.shape[1]} maps")
    if between.window and min(map(between.pooled_px, x.shape[2:])) < 1:
        height, width = x.shape[2:]
        raise ConfigError(
            f"a window of {between.window.size_px} pixels is larger than maps of "
            f"{height}x{width}; choose a smaller one"
        )


def adds_bias(x: torch.Tensor) -> bool:
    """Whether `norm_pool` adds a bias in the same pass on the device of x.

    It has a kernel that does so on CUDA. On a CPU the convolution adds its bias at no cost.
    """
    return x.is_cuda and util.find_spec("triton") is not None and _bfloat16_on(x.device)


@lru_cache
def _bfloat16_on(device: torch.device) -> bool:
    """Whether a GPU multiplies bfloat16, as the Triton kernels do: since compute capability 8.0."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _triton_takes(x: torch.Tensor) -> bool:
    """Whether the Triton kernels can take x: (N, C, H, W)."""
    return (
        adds_bias(x)
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def _lrn_by_pieces(x: torch.Tensor, norm: Lrn, columns: int) -> torch.Tensor:
    """LRN with the sum over maps as a banded matrix product."""
    band = _band(x.shape[1] // columns, norm.n // 2, _sum_dtype(x.dtype), x.device)
    return _by_pieces(
        x,
        lambda squares: _band_product(squares, band, columns),
        lambda t: plain.lrn(t, norm, columns),
        (norm.k, norm.alpha, norm.beta),
    )


def _by_pieces(
    x: torch.Tensor, sums: Sum, formula: Sum, constants: tuple[float, float, float]
) -> torch.Tensor:
    """Normalize x piece by piece.

    Args:
        sums: S of the module's formula.
        formula: The whole normalization in differentiable operations, for second derivatives.
        constants: k, alpha and beta.
    """
    y: torch.Tensor = _Normalise.apply(x, sums, formula, constants)  # type: ignore[no-untyped-call]
    return y


class _Normalise(torch.autograd.Function):
    """b = a / (k + alpha S(a^2))^beta; only a and k + alpha S(a^2) are kept for the gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, sums: Sum, formula: Sum, constants: tuple[float, float, float]
    ) -> torch.Tensor:
        k, alpha, beta = constants
        y = torch.empty_like(x)
        d = torch.empty_like(x, dtype=_sum_dtype(x.dtype))
        for a, b, c in zip(_pieces(x), _pieces(y), _pieces(d), strict=True):
            # bfloat16 values are squared in float32; the result is rounded once, at the end.
            a = a.to(c.dtype)
            c.copy_(sums(a * a)).mul_(alpha).add_(k)
            b.copy_(_power(c, beta).mul_(a))
        ctx.save_for_backward(x, d)
        ctx.sums, ctx.formula, ctx.constants = sums, formula, constants
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        x, d = ctx.saved_tensors
        if fast.gradient_observed(grads[0]):
            (gradient,) = fast.plain_gradients(ctx.formula, (x,), (True,), grads[0])
            return gradient, None, None, None
        _, alpha, beta = ctx.constants
        # The pieces of all tensors are walked together, so they must lie alike in memory.
        dy = grads[0].contiguous(memory_format=_format(x))
        dx = torch.empty_like(x)
        for a, c, db, da in zip(_pieces(x), _pieces(d), _pieces(dy), _pieces(dx), strict=True):
            a = a.to(c.dtype)
            direct = _power(c, beta).mul_(db)  # db d^-beta
            through = ctx.sums((direct * a).div_(c)).mul_(a)
            da.copy_(direct.sub_(through, alpha=2 * alpha * beta))
        return dx, None, None, None


def _power(d: torch.Tensor, beta: float) -> torch.Tensor:
    """Compute d ** -beta; for the paper's 0.75 by square roots, several times faster than `pow`."""
    # d^-3/4 = 1 / (d^1/2 d^1/4)
    if beta == FAST_BETA:
        root = d.sqrt()
        return root.sqrt().mul_(root).reciprocal_()
    return d.pow(-beta)


def _pieces(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Split a batch into pieces that stay in a CPU's cache; a GPU takes the batch at once."""
    if x.device.type != "cpu":
        return (x,)
    pieces: tuple[torch.Tensor, ...] = x.split(
        max(1, PIECE_VALUES // max(1, x[0].numel())) if len(x) else 1
    )  # type: ignore[no-untyped-call]
    return pieces


def _sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the sums of squares."""
    return torch.promote_types(dtype, torch.float32)


def _format(x: torch.Tensor) -> torch.memory_format:
    """The memory format of x; a tensor that has both formats counts as contiguous."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@lru_cache(maxsize=32)
def _band(maps: int, half: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The (maps, maps) matrix of 1 where two maps are at most `half` apart, and 0 elsewhere."""
    index = torch.arange(maps, device=device)
    return ((index[:, None] - index[None, :]).abs() <= half).to(dtype)


def _band_product(x: torch.Tensor, band: torch.Tensor, columns: int) -> torch.Tensor:
    """Sum x: (N, C, H, W) over the neighboring maps of each column, in x's own memory format."""
    # Column by column: one band for all of them would reach across their border.
    if columns > 1:
        return torch.cat([_band_product(part, band, 1) for part in x.chunk(columns, dim=1)], dim=1)
    # The maps are the last dimension in memory in one format, and not in the other.
    if _format(x) is torch.channels_last or not x.is_contiguous():
        return torch.matmul(x.permute(0, 2, 3, 1), band).permute(0, 3, 1, 2)
    return torch.matmul(band, x.flatten(2)).view(x.shape)
