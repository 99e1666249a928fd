"""The loss where the last layer is divided by classes, without gathering all logits; and where
images are mixed."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from alexnet.distributed.collectives import all_sum
from alexnet.distributed.mesh import Group


class _CrossEntropyByClasses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, labels: torch.Tensor, group: Group, smoothing: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # The largest logit of all ranks is subtracted first, so that no exponential overflows.
        largest = logits.max(1).values
        if group.size > 1:
            dist.all_reduce(largest, dist.ReduceOp.MAX, group=group.handle)
        exponentials = (logits - largest[:, None]).exp()
        # The logit of an image's label is on one rank. The others add 0.
        index = labels - group.index * logits.shape[1]
        is_here = (index >= 0) & (index < logits.shape[1])
        index = index.clamp(0, logits.shape[1] - 1)[:, None]
        of_label = torch.where(is_here, logits.gather(1, index)[:, 0], 0)
        sums = [exponentials.sum(1), of_label]
        if smoothing:
            sums.append(logits.sum(1))
        # The sums travel in one collective operation.
        total, of_label, *of_all = all_sum(torch.stack(sums), group)
        ctx.save_for_backward(exponentials / total[:, None], index, is_here)
        # Not by `argmax`: a rank that has not the largest logit does not know whose it is.
        wrong = (of_label < largest).sum()
        classes = group.size * logits.shape[1]
        ctx.smoothing, ctx.classes = smoothing, classes
        if smoothing:
            of_label = (1 - smoothing) * of_label + smoothing / classes * of_all[0]
        return (total.log() + largest - of_label).sum(), wrong

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # The derivative is the softmax minus the target.
        p, index, is_here = ctx.saved_tensors
        of_label = (ctx.smoothing - 1) * is_here.to(p.dtype)[:, None]
        difference = p.scatter_add(1, index, of_label)
        if ctx.smoothing:
            difference -= ctx.smoothing / ctx.classes
        return gradients[0] * difference, None, None, None


def cross_entropy_by_classes(
    logits: torch.Tensor, labels: torch.Tensor, group: Group, smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the cross-entropies of a batch, and count its wrong classifications.

    The ranks exchange three numbers for each image: the largest logit, the sum of the exponentials
    and the logit of the label; with smoothing also the sum of the logits.

    Args:
        logits: (N, classes / size) of the classes of this rank.
        labels: (N,) int64, among all classes.
        smoothing: As `Config.label_smoothing`.

    Returns:
        The summed loss, and the number of images whose label does not have the largest logit.
    """
    arguments = logits, labels, group, smoothing
    results: tuple[torch.Tensor, torch.Tensor]
    results = _CrossEntropyByClasses.apply(*arguments)  # type: ignore[no-untyped-call]
    return results


def mixed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    others: torch.Tensor,
    share: torch.Tensor,
    smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum the cross-entropies of a batch of mixed images, and count its wrong classifications.

    Args:
        logits: (N, classes) of all classes.
        labels, others: Labels of the images, and of those mixed in (`data.mixing`), (N,) int64.
        share: Share of `others` in the targets, (N,).
        smoothing: As `Config.label_smoothing`.

    Returns:
        The summed loss, and the number of images for which `labels` has not the largest logit.
    """
    of_labels, of_others = (
        F.cross_entropy(logits, target, reduction="none", label_smoothing=smoothing)
        for target in (labels, others)
    )
    # Cross-entropy is linear in the target.
    losses = torch.lerp(of_labels, of_others, share.to(of_labels.dtype)).sum()
    return losses, (logits.argmax(1) != labels).sum()
