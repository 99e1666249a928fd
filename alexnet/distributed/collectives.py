"""Collectives with gradients. What is handed to each is counted; among one rank nothing is."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from alexnet.distributed.mesh import Group, Mesh

# PyTorch 2.13 renamed both
_gather_into = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_scatter_into = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


def all_sum(x: torch.Tensor, mesh: Mesh, group: Group, purpose: str) -> torch.Tensor:
    """x becomes the sum over the group, in place, the same bits on every rank."""
    if group.size > 1:
        mesh.sent_bytes[purpose] += x.numel() * x.element_size()
        dist.all_reduce(x, group=group.handle)
    return x


def begin_sum(
    x: torch.Tensor, mesh: Mesh, group: Group, purpose: str
) -> tuple[torch.Tensor, dist.Work | None]:
    """As `all_sum`, without waiting: the sum, once the work (None where there is none to do) is done."""
    if group.size == 1:
        return x, None
    if not x.is_contiguous() and x.dim() == 4:  # kernels, channels last: as they lie
        x, work = begin_sum(x.permute(0, 2, 3, 1).contiguous(), mesh, group, purpose)
        return x.permute(0, 3, 1, 2), work
    x = x.contiguous()
    mesh.sent_bytes[purpose] += x.numel() * x.element_size()
    return x, dist.all_reduce(x, group=group.handle, async_op=True)


def gathered(x: torch.Tensor, mesh: Mesh, group: Group, purpose: str) -> torch.Tensor:
    """(size, *x.shape), contiguous."""
    x = x.contiguous()
    mesh.sent_bytes[purpose] += x.numel() * x.element_size()
    out = x.new_empty((group.size * x.shape[0], *x.shape[1:]))
    _gather_into(out, x, group=group.handle)
    return out.view(group.size, *x.shape)


def _scattered(parts: torch.Tensor, mesh: Mesh, group: Group, purpose: str) -> torch.Tensor:
    """parts: (size, ...); the sum over the ranks of this rank's own part."""
    parts = parts.contiguous()
    mesh.sent_bytes[purpose] += parts.numel() * parts.element_size()
    out = torch.empty_like(parts[0])
    _scatter_into(out, parts.flatten(0, 1), group=group.handle)
    return out


class _Gather(torch.autograd.Function):
    """Every rank's x, one after the other along the last dimension or the first; the gradients are summed."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, mesh: Mesh, group: Group, purpose: str, last: bool
    ) -> torch.Tensor:
        ctx.given = mesh, group, purpose, last
        parts = gathered(x, mesh, group, purpose)
        return torch.cat(list(parts), -1) if last else parts.flatten(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        mesh, group, purpose, last = ctx.given
        parts = torch.stack(gradients[0].chunk(group.size, -1 if last else 0))
        return _scattered(parts, mesh, group, f"{purpose}, gradient"), None, None, None, None


class _Sum(torch.autograd.Function):
    """The sum of every rank's x; what follows is the same on every rank, so its gradient is each one's own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, mesh: Mesh, group: Group, purpose: str) -> torch.Tensor:
        return all_sum(x.clone(), mesh, group, purpose)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return gradients[0], None, None, None


def gather_maps(x: torch.Tensor, mesh: Mesh, group: Group, purpose: str) -> torch.Tensor:
    """Every rank's maps or units: (N, C, H, W) or (N, C) -> C times as many, in the order of the ranks."""
    if group.size == 1:
        return x
    if x.dim() == 2:
        return _apply(_Gather, x, mesh, group, purpose, True)
    return _apply(_Gather, x.permute(0, 2, 3, 1), mesh, group, purpose, True).permute(0, 3, 1, 2)


def gather_rows(
    x: torch.Tensor, mesh: Mesh, group: Group, purpose: str, rows: tuple[int, ...]
) -> torch.Tensor:
    """Every rank's pictures, one rank after the other: (rows of this rank, ...) -> (sum of rows, ...).

    Ranks with fewer than the first send rows of zeros, which are left out again.
    """
    if group.size == 1:
        return x
    most = max(rows)
    if len(x) < most:
        x = torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])])
    whole = _apply(_Gather, x, mesh, group, purpose, False)
    return torch.cat([part[:own] for part, own in zip(torch.split(whole, most), rows, strict=True)])


def sum_parts(x: torch.Tensor, mesh: Mesh, group: Group, purpose: str) -> torch.Tensor:
    """The sum of every rank's part, for a following computation that every rank does alike."""
    return x if group.size == 1 else _apply(_Sum, x, mesh, group, purpose)


def _apply(function: type[torch.autograd.Function], *given: Any) -> torch.Tensor:
    out: torch.Tensor = function.apply(*given)  # type: ignore[no-untyped-call]
    return out
