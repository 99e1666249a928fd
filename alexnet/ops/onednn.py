"""A fully connected layer in float32 by oneDNN, for training on a CPU.

PyTorch multiplies float32 matrices with the BLAS that it was built with, usually Intel's MKL, and
computes convolutions with oneDNN. On a processor of another maker MKL may not use all instructions:
on a Zen 5 oneDNN is more than twice as fast (docs/performance.md). `ops.trial` finds out where.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from alexnet.ops import fast

MIN_WEIGHTS = 2**16
"""Weights of a layer. Below this the call costs more than the product."""


def suits(weight_shape: tuple[int, ...], columns: int) -> bool:
    """Whether oneDNN can compute a fully connected layer, and the layer is large enough for it."""
    units, inputs = weight_shape
    return columns == 1 and units * inputs >= MIN_WEIGHTS and _available()


def _available() -> bool:
    """Whether this PyTorch has the operator. It is the compiler's, and has no public name."""
    built = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return built and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Compute what `F.linear` computes.

    Args:
        x: (N, inputs), float32, on a CPU.
        weight: (units, inputs).
        bias: (units,), or None.

    Returns:
        (N, units).
    """
    y: torch.Tensor = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def _product(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """a b^T + bias; both may be transposed views."""
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, weight, bias), dy = ctx.saved_tensors, gradients[0]
        needed = ctx.needs_input_grad
        if fast.gradient_observed(dy):
            return fast.plain_gradients(F.linear, (x, weight, bias), needed, dy)
        return (
            _product(dy, weight.t()) if needed[0] else None,
            _product(dy.t(), x.t()) if needed[1] else None,
            dy.sum(0) if needed[2] else None,
        )
