"""The update rule of section 5 on CUDA in Triton: all parameters of a network in one launch.

One launch reads each weight, its velocity and its gradient once and writes weight, velocity and,
where the network multiplies in bfloat16, the bfloat16 copy that the next forward pass uses: 20
bytes for a weight. Parameter by parameter, with the copies cast anew at each step, it is 40 bytes
and a hundred launches. Learning rates are in device memory, so that a CUDA graph can hold the
launch. The plain twin is `train.sgd.update`.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

BLOCK = 1024
"""Number of weights that a program updates at a time."""
BLOCKS = 8
"""Number of times that it does so."""


@triton.jit
def _block(
    weights, velocities, gradients, copies, at, inside, momentum, lr, decay, has_copy,
    partial: tl.constexpr,
):  # fmt: skip
    """Update one block; without a mask, loads and stores are as wide as the memory allows."""
    mask = inside if partial else None
    weight = tl.load(weights + at, mask=mask)
    velocity = momentum * tl.load(velocities + at, mask=mask)
    velocity -= lr * tl.load(gradients + at, mask=mask).to(tl.float32)
    velocity -= decay * weight
    weight += velocity
    tl.store(velocities + at, velocity, mask=mask)
    tl.store(weights + at, weight, mask=mask)
    if has_copy:
        tl.store(copies + at, weight.to(tl.bfloat16), mask=mask)


@triton.jit
def _blocks(
    weights, velocities, gradients, copies, first, count, momentum, lr, decay, has_copy,
    block: tl.constexpr, blocks: tl.constexpr,
):  # fmt: skip
    """Update all values of a program."""
    for number in range(blocks):
        offset = number * block + tl.arange(0, block)
        if count == block * blocks:
            _block(
                weights, velocities, gradients, copies, first + offset, offset < count,
                momentum, lr, decay, has_copy, False,
            )  # fmt: skip
        else:
            _block(
                weights, velocities, gradients, copies, first + offset, offset < count,
                momentum, lr, decay, has_copy, True,
            )  # fmt: skip


@triton.jit
def _update(
    parts, addresses, gradients, hyper, momentum, block: tl.constexpr, blocks: tl.constexpr
):
    """Update the part of a parameter that belongs to this program.

    parts: (programs, 3) int64: the parameter, the first of its values, how many.
    addresses: (parameters, 3) int64: weight, velocity, bfloat16 copy (0: none).
    gradients: (parameters, 2) int64: address, and whether it is bfloat16.
    hyper: (parameters, 2) float32: learning rate, and its product with the weight decay.
    """
    part = parts + 3 * tl.program_id(0)
    parameter, first, count = tl.load(part), tl.load(part + 1), tl.load(part + 2)
    lr, decay = tl.load(hyper + 2 * parameter), tl.load(hyper + 2 * parameter + 1)
    if lr != 0:  # a learning rate of 0 freezes: weight and velocity stay
        address = addresses + 3 * parameter
        # Every tensor begins at a multiple of 16 bytes, which a bare address does not tell: only
        # then can four values be read at once.
        weights = tl.multiple_of(tl.load(address).to(tl.pointer_type(tl.float32)), 16)
        velocities = tl.multiple_of(tl.load(address + 1).to(tl.pointer_type(tl.float32)), 16)
        copy = tl.load(address + 2)
        copies = tl.multiple_of(copy.to(tl.pointer_type(tl.bfloat16)), 16)
        gradient = tl.load(gradients + 2 * parameter)
        # A pointer has one type for the compiler, so each dtype of gradients has a call of its own.
        if tl.load(gradients + 2 * parameter + 1) != 0:
            _blocks(
                weights, velocities, tl.multiple_of(gradient.to(tl.pointer_type(tl.bfloat16)), 16),
                copies, first, count, momentum, lr, decay, copy != 0, block, blocks,
            )  # fmt: skip
        else:
            _blocks(
                weights, velocities, tl.multiple_of(gradient.to(tl.pointer_type(tl.float32)), 16),
                copies, first, count, momentum, lr, decay, copy != 0, block, blocks,
            )  # fmt: skip


class Update:
    """The update of some parameters, whose weights, velocities and copies stay where they are.

    Args:
        weights: float32, without gaps in memory.
        velocities: Laid out in memory as the weights are.
        copies: For each weight its bfloat16 copy, laid out in the same way, or None.
    """

    def __init__(
        self,
        weights: Sequence[torch.Tensor],
        velocities: Sequence[torch.Tensor],
        copies: Sequence[torch.Tensor | None],
    ) -> None:
        device = weights[0].device
        addresses, parts = [], []
        for parameter, (weight, velocity, copy) in enumerate(
            zip(weights, velocities, copies, strict=True)
        ):
            for other in (velocity, copy):
                assert other is None or other.stride() == weight.stride()
            addresses.append(
                [
                    tensor.data_ptr() if tensor is not None else 0
                    for tensor in (weight, velocity, copy)
                ]
            )
            for first in range(0, weight.numel(), BLOCK * BLOCKS):
                parts.append([parameter, first, min(BLOCK * BLOCKS, weight.numel() - first)])
        self._addresses = torch.tensor(addresses, dtype=torch.int64).to(device)
        self._parts = torch.tensor(parts, dtype=torch.int64).to(device)
        self._hyper = torch.zeros((len(weights), 2), device=device)
        self._gradients = torch.zeros((len(weights), 2), dtype=torch.int64, device=device)
        # The addresses are those of these tensors, so they must not be freed.
        self._weights, self._kept = weights, (velocities, copies)
        self._gradients_kept: Sequence[torch.Tensor] = ()

    def set_hyper(self, lrs: Sequence[float], weight_decays: Sequence[float]) -> None:
        """Set the learning rate and the weight decay of each parameter for the next launches."""
        rows = [[lr, decay * lr] for lr, decay in zip(lrs, weight_decays, strict=True)]
        hyper = torch.tensor(rows, device="cpu")
        # A smooth schedule sets them in each step: the host must not wait for the step before.
        pinned = hyper.pin_memory() if self._hyper.is_cuda else hyper
        self._hyper.copy_(pinned, non_blocking=True)

    def in_layout(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The gradients, each in the layout of its weight: the kernel walks through memory."""
        return [
            gradient
            if gradient.stride() == weight.stride()
            else torch.empty_like(weight, dtype=gradient.dtype).copy_(gradient)
            for gradient, weight in zip(gradients, self._weights, strict=True)
        ]

    def read_from(self, gradients: Sequence[torch.Tensor]) -> None:
        """Let the next launches read these gradients, float32 or bfloat16, as `in_layout` gives."""
        # The host waits for this copy, so it is not made for the same tensors again.
        if gradients is self._gradients_kept:
            return
        rows = [[gradient.data_ptr(), gradient.dtype == torch.bfloat16] for gradient in gradients]
        self._gradients.copy_(torch.tensor(rows, dtype=torch.int64))
        self._gradients_kept = gradients

    def launch(self, momentum: float) -> None:
        """Update all parameters in place. A CUDA graph can contain this call."""
        _update[(len(self._parts),)](
            self._parts, self._addresses, self._gradients, self._hyper, momentum, BLOCK, BLOCKS
        )
