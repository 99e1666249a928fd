"""When an operator may take a fast path, and how a fast path keeps second derivatives.

A fast path (compiled code, Triton, CUDA C++, oneDNN, Winograd tiles, a convolution over blocks)
computes what the plain path computes, up to rounding and to how far an infinity or a NaN reaches
(`normalise.py`, `triton_band.py`), but it hides the PyTorch operations behind its result. Where
something observes those operations, the plain path is taken: the transforms of `torch.func`,
`torch.compile` and `torch.export`, tracers, forward-mode differentiation, autocast, tensor
subclasses, and dispatch modes, which count or record operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.autograd import forward_ad


def _observed() -> bool:
    """The answer of a later PyTorch that lacks one of the functions below."""
    # The plain path is right in any case, and needs none of them.
    return True


# PyTorch has no public names for these; `autograd.Function` itself asks the second one.
_tracing_state: Callable[[], object] = getattr(torch._C, "_get_tracing_state", _observed)
_transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", _observed
)
_num_dispatch_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", _observed)
any_global_hook: Callable[[], object] = getattr(
    nn.modules.module, "_has_any_global_hook", _observed
)
"""True in a test if a hook is registered for all modules of the process."""
# Batches of the older `vmap`, which `is_grads_batched=True` and `jacobian(vectorize=True)` still
# use; a PyTorch that lacks the question has none of them.
_is_legacy_batch: Callable[[torch.Tensor], bool] = getattr(
    torch._C._functorch, "is_legacy_batchedtensor", lambda tensor: False
)


def unobserved(*tensors: torch.Tensor) -> bool:
    """Whether nothing observes the operations on these tensors, so that a fast path may run."""
    # First, so that the compiler does not follow the private functions below.
    if torch.compiler.is_compiling() or _tracing_state() is not None:
        return False
    if _transforms_active() or _num_dispatch_modes():
        return False
    # Tensors without values, which only ask for shapes; autocast does not know their device.
    if tensors[0].device.type == "meta":
        return False
    if torch.is_autocast_enabled(tensors[0].device.type):
        return False
    return all(
        type(tensor) in (torch.Tensor, nn.Parameter)
        and forward_ad.unpack_dual(tensor).tangent is None  # type: ignore[no-untyped-call]
        for tensor in tensors
    )


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Return x: (N, C, H, W) as kernels read it; x itself where it is laid out so.

    A backward pass asks for it, for saved tensors too: hooks on these, such as `save_on_cpu`, may
    return them in another layout.
    """
    return x.contiguous(memory_format=torch.channels_last)


def gradient_observed(dy: torch.Tensor) -> bool:
    """Whether a backward pass must differentiate the plain path, by `plain_gradients`.

    That is where its operations are recorded (`create_graph=True`), where gradients are batched,
    and where dy has a tangent. The forward pass has not seen any of these.
    """
    return (
        torch.is_grad_enabled()
        or _transforms_active()
        or _is_legacy_batch(dy)
        or forward_ad.unpack_dual(dy).tangent is not None  # type: ignore[no-untyped-call]
    )


def plain_gradients(
    plain: Callable[..., torch.Tensor],
    inputs: Sequence[torch.Tensor],
    needed: Sequence[bool],
    dy: torch.Tensor,
) -> tuple[torch.Tensor | None, ...]:
    """Differentiate the plain path, so that the gradients can be differentiated and batched.

    The backward pass of a fast path calls this where `gradient_observed`: its own gradients have no
    derivatives, and are written into memory that has no room for a batch of them.

    Args:
        plain: The plain path; it computes the result from `inputs`.
        needed: Whether the gradient of each input is needed.
        dy: Gradient of the result.

    Returns:
        The gradient of each input, or None where it is not needed.
    """
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need]
    recorded = torch.is_grad_enabled()
    with torch.enable_grad():
        y = plain(*inputs)
    gradients = iter(torch.autograd.grad(y, wanted, dy, create_graph=recorded))
    return tuple(next(gradients) if need else None for need in needed)
