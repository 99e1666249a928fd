"""Collective operations with gradients.

They are written here because the gradients of PyTorch's own mean something else, and because they
lose the memory format (docs/design.md). In a group of one rank they return their argument.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from alexnet.distributed.mesh import Group, Mesh

# PyTorch 2.13 renamed both.
_gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter_into = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def all_sum(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Replace x by its sum over the group, in place; every rank gets the same bits."""
    if group.size > 1:
        dist.all_reduce(x, group=group.handle)
    return x


def sum_with_requests(values: torch.Tensor, mesh: Mesh, stop: bool, save: bool) -> torch.Tensor:
    """Sum the values of a step over all ranks, and with them the requests to stop and to save.

    The requests travel in the same collective, so that agreeing costs no further one. `granted`
    reads them; in a single process there are none.

    Args:
        values: One number each; ranks that share the units computed the same ones.
        stop, save: Whether this rank wants to stop, and to save. Only the first rank's clock
            decides when to save.

    Returns:
        The sums, followed by the two requests.
    """
    if mesh.world.size == 1:
        return values
    # The same loss must enter the sum once.
    counted = values if mesh.units.index == 0 else torch.zeros_like(values)
    # Filled on the device, because a copy from the host would wait for the step.
    requests = [values.new_full((1,), wish) for wish in (stop, save and mesh.first)]
    return all_sum(torch.cat([counted, *requests]), mesh.world)


def granted(requests: list[float]) -> tuple[bool, bool]:
    """Whether to stop and whether to save, from the sums that follow the values of a step."""
    stop, save = requests
    return stop > 0, save > 0


def begin_sum(x: torch.Tensor, group: Group) -> tuple[torch.Tensor, dist.Work | None]:
    """Begin to sum x over the group, without waiting for the result.

    Returns:
        A tensor that holds the sum after `work.wait()`, and `work`; None if there is nothing to
        wait for. The tensor may be x itself.
    """
    if group.size == 1:
        return x, None
    if not x.is_contiguous() and x.dim() == 4:
        # The gradient of a convolution is channels last. Permuted, the same memory is contiguous,
        # and is summed without a copy; the sum has the memory format that the update expects.
        x, work = begin_sum(x.permute(0, 2, 3, 1).contiguous(), group)
        return x.permute(0, 3, 1, 2), work
    x = x.contiguous()
    return x, dist.all_reduce(x, group=group.handle, async_op=True)


def gather_stack(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Gather x of every rank, without a gradient: (size, *x.shape), contiguous."""
    x = x.contiguous()
    out = x.new_empty((group.size * x.shape[0], *x.shape[1:]))
    _gather_into(out, x, group=group.handle)
    return out.view(group.size, *x.shape)


def gather_maps(x: torch.Tensor, group: Group) -> torch.Tensor:
    """Concatenate the maps or units of every rank, in the order of the ranks.

    Args:
        x: (N, C, H, W) or (N, C).

    Returns:
        (N, size * C, H, W) or (N, size * C). The gradient is summed over the ranks.
    """
    if group.size == 1:
        return x
    if x.dim() == 2:
        return _apply(_Gather, x, group, True)
    # Channels last, as the activations are in memory, so that neither permutation copies.
    return _apply(_Gather, x.permute(0, 2, 3, 1), group, True).permute(0, 3, 1, 2)


def gather_rows(x: torch.Tensor, group: Group, rows: tuple[int, ...]) -> torch.Tensor:
    """Concatenate the rows (images) of every rank, in the order of the ranks.

    Args:
        x: (rows of this rank, ...).
        rows: Number of rows of each rank.

    Returns:
        (sum of rows, ...). The gradient is summed over the ranks.
    """
    if group.size == 1:
        return x
    # Every rank must send as many rows. Those with fewer add zeros, which are removed again.
    most_rows = max(rows)
    if len(x) < most_rows:
        x = torch.cat([x, x.new_zeros(most_rows - len(x), *x.shape[1:])])
    padded = torch.split(_apply(_Gather, x, group, False), most_rows)
    return torch.cat([part[:count] for part, count in zip(padded, rows, strict=True)])


def sum_parts(x: torch.Tensor, group: Group) -> torch.Tensor:
    """The sum of x over the ranks, for computations that every rank then repeats."""
    return x if group.size == 1 else _apply(_Sum, x, group)


class _Gather(torch.autograd.Function):
    """Concatenation over the ranks along the last dimension or the first.

    Every rank goes on with another computation, so the gradients of a rank's x on all ranks are
    summed.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group, last: bool) -> torch.Tensor:
        ctx.group, ctx.last = group, last
        parts = gather_stack(x, group)
        return torch.cat(list(parts), -1) if last else parts.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        group, last = ctx.group, ctx.last
        parts = torch.stack(gradients[0].chunk(group.size, -1 if last else 0)).contiguous()
        gradient = torch.empty_like(parts[0])
        _scatter_into(gradient, parts.flatten(0, 1), group=group.handle)
        return gradient, None, None


class _Sum(torch.autograd.Function):
    """Sum over the ranks.

    Every rank repeats the same computation on the sum, so each already has the full gradient. The
    gradient of PyTorch's all_reduce adds these equal gradients and is `size` times as large.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Group) -> torch.Tensor:
        return all_sum(x.clone(), group)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0], None


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> torch.Tensor:
    out: torch.Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return out
