"""Gradients under transforms of which only the backward pass of an operator knows."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual


def transformed_gradients(
    op: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> list[torch.Tensor]:
    """Compute the gradients of a batch by either `vmap` of PyTorch, and a tangent of one."""
    x = x.detach().requires_grad_()
    y = op(x)
    dys = torch.randn(2, *y.shape, generator=torch.Generator().manual_seed(1)).to(y)

    def gradient(dy: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(y, x, dy, retain_graph=True)[0]

    (legacy,) = torch.autograd.grad(y, x, dys, is_grads_batched=True, retain_graph=True)
    # PyTorch's own call of `torch.jit.script`.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with dual_level():
            tangent = unpack_dual(gradient(make_dual(dys[0], dys[1]))).tangent
    assert tangent is not None
    results = [legacy, torch.func.vmap(gradient)(dys), tangent]
    assert not any(result.requires_grad for result in results)
    return results


def assert_transformed_alike(
    fast: Callable[[torch.Tensor], torch.Tensor],
    plain: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
) -> None:
    """Compare the fast path of an operator with its plain one, x being float32."""
    for ours, exact in zip(*(transformed_gradients(op, x) for op in (fast, plain)), strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-5 * float(exact.abs().max()))
