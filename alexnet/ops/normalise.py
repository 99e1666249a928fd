"""Local response normalisation (section 3.3) and the original code's spatial normalisation.

Both are b = a / (k + alpha * S(a^2))^beta with a symmetric linear S: over adjacent maps, or over a square inside each
map. So both have the gradient  da = db d^-beta - 2 alpha beta a S(db a d^(-beta-1)),  d = k + alpha S(a^2).

The sum over maps is a product with a banded 0/1 matrix, which costs little beside the convolutions; the work goes in
pieces that stay in the processor's cache. Arithmetic is float32 inside, whatever comes in (float64 stays float64).
On a CPU with a C++ compiler the same is compiled code, `kernels.cpp`, for channels-last tensors; there the units
and the maximum beside a normalisation are part of the same pass over memory (`norm_pool`). On CUDA a Triton kernel
does unit and normalisation, `triton_lrn.py`.
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
from alexnet.ops import compiled, pool

Sum = Callable[[torch.Tensor], torch.Tensor]

PIECE_VALUES = 1 << 20  # float32 values worked on at once: 4 MiB, about a core's share of the cache


def lrn(
    x: torch.Tensor,
    n: int = Lrn.n,
    k: float = Lrn.k,
    alpha: float = Lrn.alpha,
    beta: float = Lrn.beta,
    columns: int = 1,
) -> torch.Tensor:
    """Local response normalisation over adjacent maps, as the paper has it.

    x: (N, C, H, W), float64, float32 or bfloat16; the result has its shape, dtype and memory format. The sum at map i
    runs from i - n/2 to i + n/2, both halves rounded down (n=4 sums five maps), inside i's own column only. alpha
    multiplies the sum itself (PyTorch's own function divides it by n). Raises ConfigError when columns do not divide C.
    """
    return norm_pool(x, norm=Lrn(n, k, alpha, beta), columns=columns)


def norm_pool(
    x: torch.Tensor,
    relu: bool = False,
    norm: Lrn | None = None,
    window: Pool | None = None,
    relu_after: bool = False,
    columns: int = 1,
) -> torch.Tensor:
    """What stands between two convolutions: unit, normalisation, maximum, unit, each part optional, in this order.

    x: (N, C, H, W), float64, float32 or bfloat16. Where it is compiled nothing between the parts is written to memory,
    or rounded to bfloat16. Raises ConfigError as `lrn`.
    """
    if norm:
        _check(x, norm.n, columns)
    beta = norm.beta if norm else 0.75
    half, k, alpha = (norm.n // 2, norm.k, norm.alpha) if norm else (-1, 1.0, 0.0)
    if compiled.usable(x, beta) and (window is None or window.size_px <= compiled.MOST_WINDOW_PX):
        size_px, stride, partial = (
            (window.size_px, window.stride, window.partial) if window else (0, 1, False)
        )
        done = compiled.norm_pool(
            x, relu, columns, half, size_px, stride, partial, relu_after, k, alpha
        )
        y: torch.Tensor = done[0]
        return y
    if norm and (triton := _triton(x, beta)) is not None:
        x = triton.lrn_triton(x, relu, columns, half, k, alpha)
    else:
        x = F.relu(x) if relu else x
        x = _plain_lrn(x, norm, columns) if norm else x
    x = pool.max_pool(x, window.size_px, window.stride, window.partial) if window else x
    return F.relu(x) if relu_after else x


def _check(x: torch.Tensor, n: int, columns: int) -> None:
    if x.dim() != 4:
        raise ConfigError(f"lrn needs (N, C, H, W); it was given shape {tuple(x.shape)}")
    if n < 1:
        raise ConfigError(f"lrn over n={n} maps; n must be at least 1")
    if columns < 1 or x.shape[1] % columns:
        raise ConfigError(f"{columns} columns do not divide {x.shape[1]} maps")


def _triton(x: torch.Tensor, beta: float) -> Any:
    """The module of the CUDA kernel where it can take x, else None."""
    fits = (
        x.is_cuda and x.dtype in (torch.float32, torch.bfloat16) and beta == 0.75 and x.numel() > 0
    )
    if (
        not fits
        or not x.is_contiguous(memory_format=torch.channels_last)
        or not util.find_spec("triton")
    ):
        return None
    from alexnet.ops import triton_lrn

    return triton_lrn


def _plain_lrn(x: torch.Tensor, norm: Lrn, columns: int) -> torch.Tensor:
    band = _band(x.shape[1] // columns, norm.n // 2, _inner(x.dtype), x.device)

    def over_maps(squares: torch.Tensor) -> torch.Tensor:
        return _band_product(squares, band, columns)

    return _normalise(x, over_maps, norm.k, norm.alpha, norm.beta)


def spatial_norm(
    x: torch.Tensor,
    size_px: int = SpatialNorm.size_px,
    k: float = SpatialNorm.k,
    alpha: float = SpatialNorm.alpha,
    beta: float = SpatialNorm.beta,
) -> torch.Tensor:
    """Normalisation over a size_px x size_px square around each position, inside each map (original code only).

    x: (N, C, H, W), float64, float32 or bfloat16; the square is cut at the border. Raises ConfigError for an even size.
    """
    if size_px < 1 or size_px % 2 == 0:
        raise ConfigError(f"spatial_norm over {size_px} pixels; the side of the square must be odd")
    half = size_px // 2
    if compiled.usable(x, beta):
        y: torch.Tensor = compiled.spatial_norm(x, half, k, alpha)
        return y

    def over_square(squares: torch.Tensor) -> torch.Tensor:
        rows = F.avg_pool2d(squares, (size_px, 1), 1, (half, 0), divisor_override=1)
        return F.avg_pool2d(rows, (1, size_px), 1, (0, half), divisor_override=1)

    return _normalise(x, over_square, k, alpha, beta)


def _normalise(x: torch.Tensor, sums: Sum, k: float, alpha: float, beta: float) -> torch.Tensor:
    result: torch.Tensor = _Normalise.apply(x, sums, k, alpha, beta)  # type: ignore[no-untyped-call]
    return result


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, sums: Sum, k: float, alpha: float, beta: float
    ) -> torch.Tensor:
        y = torch.empty_like(x)
        d = torch.empty_like(x, dtype=_inner(x.dtype))
        for a, b, c in zip(_pieces(x), _pieces(y), _pieces(d), strict=True):
            a = a.to(c.dtype)
            c.copy_(sums(a * a)).mul_(alpha).add_(k)
            b.copy_(_power(c, beta).mul_(a))
        ctx.save_for_backward(x, d)
        ctx.constants = sums, alpha, beta
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        x, d = ctx.saved_tensors
        sums, alpha, beta = ctx.constants
        dy = grads[0].contiguous(memory_format=_format(x))
        dx = torch.empty_like(x)
        for a, c, db, da in zip(_pieces(x), _pieces(d), _pieces(dy), _pieces(dx), strict=True):
            a = a.to(c.dtype)
            direct = _power(c, beta).mul_(db)  # db d^-beta
            through = sums((direct * a).div_(c)).mul_(a)
            da.copy_(direct.sub_(through, alpha=2 * alpha * beta))
        return dx, None, None, None, None


def _power(d: torch.Tensor, beta: float) -> torch.Tensor:
    """d ** -beta; for the paper's 0.75 by square roots, several times faster than a power."""
    if beta == 0.75:
        root = d.sqrt()
        return root.sqrt().mul_(root).reciprocal_()
    return d.pow(-beta)


def _pieces(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """In parts that stay in a CPU's cache; a GPU takes the whole at once."""
    if x.device.type != "cpu":
        return (x,)
    pieces: tuple[torch.Tensor, ...] = x.split(
        max(1, PIECE_VALUES // max(1, x[0].numel())) if len(x) else 1
    )  # type: ignore[no-untyped-call]
    return pieces


def _inner(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _format(x: torch.Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@lru_cache(maxsize=32)
def _band(maps: int, half: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    place = torch.arange(maps, device=device)
    return ((place[:, None] - place[None, :]).abs() <= half).to(dtype)


def _band_product(x: torch.Tensor, band: torch.Tensor, columns: int) -> torch.Tensor:
    """Sum of x: (N, C, H, W) over neighbouring maps of each column, in x's own memory format."""
    if columns > 1:
        return torch.cat([_band_product(part, band, 1) for part in x.chunk(columns, dim=1)], dim=1)
    if _format(x) is torch.channels_last or not x.is_contiguous():
        return torch.matmul(x.permute(0, 2, 3, 1), band).permute(0, 3, 1, 2)
    return torch.matmul(band, x.flatten(2)).view(x.shape)
