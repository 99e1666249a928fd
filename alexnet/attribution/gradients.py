"""Saliency by gradients: the gradient itself, integrated gradients, and SmoothGrad."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.model import Network, evaluation_mode

AT_ONCE = 32
"""Number of images in one backward pass; it limits the memory."""


def saliency(net: Network, x: torch.Tensor, label: int) -> NDArray[np.float32]:
    """Return the gradient of a class's logit with respect to the pixels.

    Source: Simonyan, Vedaldi and Zisserman, 2013 (arXiv:1312.6034), section 3.

    Args:
        x: (3, input_px, input_px), preprocessed.

    Returns:
        (3, input_px, input_px), in logits per unit of the input.
    """
    return _as_array(_gradients(net, x[None], label)[0])


def integrated_gradients(
    net: Network, x: torch.Tensor, label: int, steps: int = 64
) -> NDArray[np.float32]:
    """Attribute the difference of a logit between an image and the mean image to the pixels.

    The gradients along the straight line from the mean image are averaged (midpoint rule) and
    multiplied by the image. Their sum is the difference of the two logits, up to the error of the
    rule.

    Source: Sundararajan, Taly and Yan, 2017 (arXiv:1703.01365), equations 1 and 3.

    Args:
        x: (3, input_px, input_px), preprocessed.

    Returns:
        (3, input_px, input_px), in logits.
    """
    shares = (torch.arange(steps, device=x.device, dtype=x.dtype) + 0.5) / steps
    total = torch.zeros_like(x)
    for part in shares.split(AT_ONCE):  # type: ignore[no-untyped-call]
        total += _gradients(net, part[:, None, None, None] * x, label).sum(0)
    return _as_array(x * total / steps)


def smoothgrad(
    net: Network, x: torch.Tensor, label: int, seed: int = 0, noise: float = 0.15, samples: int = 32
) -> NDArray[np.float32]:
    """Average the gradients of a class's logit over copies of an image with Gaussian noise.

    Source: Smilkov and others, 2017 (arXiv:1706.03825), section 2.

    Args:
        x: (3, input_px, input_px), preprocessed.
        seed: Of the noise.
        noise: Standard deviation, as a share of the range of the image's values.

    Returns:
        (3, input_px, input_px), in logits per unit of the input.
    """
    # On the CPU, so that a seed gives the same noise on every device.
    generator = torch.Generator().manual_seed(seed)
    deviation = noise * (x.max() - x.min())
    total = torch.zeros_like(x)
    for start in range(0, samples, AT_ONCE):
        count = min(AT_ONCE, samples - start)
        normal = torch.randn((count, *x.shape), generator=generator, dtype=x.dtype, device="cpu")
        total += _gradients(net, x + deviation * normal.to(x.device), label).sum(0)
    return _as_array(total / samples)


def _gradients(net: Network, images: torch.Tensor, label: int) -> torch.Tensor:
    """Return the gradient of a class's logit for each image. images: (N, 3, H, W)."""
    # The layout in which the network is fast.
    images = images.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    with evaluation_mode(net), torch.enable_grad():
        (gradient,) = torch.autograd.grad(net(images)[:, label].sum(), images)
    return gradient


def _as_array(x: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = x.float().cpu().numpy()
    return array
