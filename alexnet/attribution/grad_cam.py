"""Grad-CAM: where the maps of the last convolution are evidence for a class."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.architecture import POOLS, Op
from alexnet.config import FullyConnected
from alexnet.errors import RunError
from alexnet.model import Network, evaluation_mode


def grad_cam(net: Network, x: torch.Tensor, label: int) -> NDArray[np.float32]:
    """Add the maps of the last convolution, weighted by their mean gradient; keep what is positive.

    Where a pool stands between the convolution and its ReLU, the maps are rectified before they are
    added, as the paper's are.

    Source: Selvaraju and others, 2017 (arXiv:1610.02391), equations 1 and 2.

    Args:
        x: (3, input_px, input_px), preprocessed.

    Returns:
        (rows, columns) of the maps of `map_layer`, in logits.

    Raises:
        RunError: The network has no convolution.
    """
    layer = map_layer(net.plan)
    x = x.detach()[None].requires_grad_()
    with evaluation_mode(net), torch.enable_grad():
        values = net.activations(x)
        logit = values[net.plan[-1].name].flatten(1)[0, label]
        (gradient,) = torch.autograd.grad(logit, values[layer])
    maps = values[layer].detach()
    # Where the pool comes before the ReLU, these maps are not yet rectified. A ReLU and a maximum
    # may change places, so rectified they are what the other order would have given.
    if net.architecture.activation == "relu":
        maps = maps.relu()
    weights = gradient.mean((2, 3), keepdim=True)
    result: NDArray[np.float32] = (weights * maps).sum(1)[0].relu().float().cpu().numpy()
    return result


def map_layer(ops: tuple[Op, ...]) -> str:
    """Return the name of the last maps before a pool, which are the finest of the last layer.

    Raises:
        RunError: The network has no convolution.
    """
    with_maps = [op for op in ops if not isinstance(op.layer, FullyConnected)]
    if not with_maps:
        raise RunError("grad-cam needs a convolution, and this network has none")
    last = [op for op in with_maps if op.layer is with_maps[-1].layer]
    before_pool = last[0]
    for op in last:
        if op.op in POOLS:
            break
        before_pool = op
    return before_pool.name
