"""The modules of the network: one class for each kind of operation in the plan.

What PyTorch has is PyTorch's (`nn.ReLU`, `nn.MaxPool2d`), so that tools that look for these
classes find them. The others are subclasses where PyTorch has the kind, and plain modules where it
has none. The paper's words are used: a *map* is a channel, and a *column* is a group of a grouped
convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.fx
import torch.nn.functional as F
from torch import nn

from alexnet import config
from alexnet.architecture import Op
from alexnet.config import Architecture, Conv, Local
from alexnet.ops import (
    Mask,
    convolution,
    dropout,
    dropout_key,
    fully_connected,
    locally_connected,
    lrn,
    spatial_norm,
)

DropoutKey = tuple[int, int] | Mapping[str, torch.Tensor]
"""What determines the dropout masks of a step: (seed, step), from which each layer's key is hashed.

Or the keys themselves by the name of the layer, int64 tensors on the device (`ops.dropout_keys`),
which a CUDA graph reads anew at each replay.
"""


def make(op: Op, architecture: Architecture, generator: torch.Generator) -> nn.Module:
    """Make the module of one operation; the weights of a layer are drawn from `generator`."""
    pool = architecture.pool
    match op.op:
        case "linear":
            weight, bias = initial_weights(op, generator)
            if isinstance(op.layer, Conv):
                return Conv2d(op, weight, bias)
            if isinstance(op.layer, Local):
                return Local2d(op, weight, bias)
            return Linear(op, weight, bias)
        case "activation":
            # Section 3.1: max(0, x), and the saturating functions that it is compared with.
            match architecture.activation:
                case "relu":
                    return nn.ReLU()
                case "tanh":
                    return nn.Tanh()
                case _:
                    return nn.Sigmoid()
        case "lrn":
            return ResponseNorm(
                architecture.lrn, 1 if architecture.lrn_across_columns else op.columns
            )
        case "spatial_norm":
            return SpatialNorm(architecture.spatial_norm)
        case "batch_norm":
            return BatchNorm(architecture.batch_norm, op.shape[0])
        case "max_pool":
            return nn.MaxPool2d(pool.size_px, pool.stride, ceil_mode=pool.partial)
        case "avg_pool":
            return nn.AvgPool2d(pool.size_px, pool.stride, ceil_mode=pool.partial)
        case "dropout":
            return Dropout(architecture.dropout, op.layer.name)
    raise AssertionError(f"the plan has an unknown operation {op.op!r}")


def initial_weights(op: Op, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the weights and set the biases of a layer, from `layer.std` and `layer.bias`.

    Section 5: weights are Gaussian with zero mean, biases constant.
    """
    # On the CPU even under `torch.set_default_device`, because the generator is there.
    weight = torch.empty(op.weight_shape, device="cpu")
    if op.layer.std is None:
        # PyTorch's default initialization: weights and biases uniform within 1 / sqrt(fan-in).
        # It is written out because nn.Conv2d draws from the global generator, in another order.
        bound = 1 / math.sqrt(math.prod(op.weight_shape[1:4]))
        bias = torch.empty(op.bias_shape, device="cpu")
        bias.uniform_(-bound, bound, generator=generator)
        weight.uniform_(-bound, bound, generator=generator)
    else:
        weight.normal_(0, op.layer.std, generator=generator)
        bias = torch.full(op.bias_shape, float(op.layer.bias), device="cpu")
    if isinstance(op.layer, Conv):
        # Channels last is the fast layout for convolutions on CPUs and with tensor cores, and the
        # kernels of `native/` need it. The values were drawn before: the layout changes no weight.
        weight = weight.contiguous(memory_format=torch.channels_last)
    return weight, bias


class Conv2d(nn.Conv2d):
    """A convolution in columns, with its own padding on either side; see `ops.convolution`."""

    def __init__(self, op: Op, weight: torch.Tensor, bias: torch.Tensor) -> None:
        assert isinstance(op.layer, Conv)
        super().__init__(
            op.in_shape[0],
            op.shape[0],
            op.layer.size_px,
            op.layer.stride,
            # Where the two sides differ, `forward` pads and PyTorch's own padding is 0.
            padding=op.layer.pad[0] if len(set(op.layer.pad)) == 1 else 0,
            groups=op.columns,
            # Without memory, and without random numbers: the parameters are replaced below.
            device="meta",
        )
        self.pad = op.layer.pad
        self._made = self.padding, self.dilation, self.padding_mode
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convolve(x, self.bias)

    def convolve(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """Compute the layer with this bias; with None, for a caller that adds it later."""
        settings = self.padding, self.dilation, self.padding_mode
        if settings != self._made or self.stride[0] != self.stride[1]:
            # Someone has changed what `ops.convolution` does not have, and PyTorch's layer has.
            uneven = self.pad if self.pad[0] != self.pad[1] else (0, 0)
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x, bias = F.pad(x, uneven * 2, mode), None if bias is None else bias.to(x.dtype)
            y: torch.Tensor = self._conv_forward(x, self.weight.to(x.dtype), bias)
            return y
        return convolution(
            x, self.weight, bias, self.stride[0], self.pad, self.groups, self.training
        )

    def extra_repr(self) -> str:
        before, after = self.pad
        sides = "" if before == after else f", pad={self.pad}"
        return f"{super().extra_repr()}{sides}"  # type: ignore[no-untyped-call]


class Linear(nn.Linear):
    """A fully connected layer in columns; it flattens its input. See `ops.fully_connected`."""

    def __init__(self, op: Op, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__(math.prod(op.in_shape), op.shape[0], device="meta")
        self.columns = op.columns
        # With columns, the weights are (outputs, inputs / columns): block-diagonal, without zeros.
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return fully_connected(x, self.weight, self.bias, self.columns, self.training)

    def extra_repr(self) -> str:
        columns = "" if self.columns == 1 else f", columns={self.columns}"
        return super().extra_repr() + columns


class Local2d(nn.Module):
    """A locally connected layer; see `ops.locally_connected`."""

    def __init__(self, op: Op, weight: torch.Tensor, bias: torch.Tensor) -> None:
        assert isinstance(op.layer, Local)
        super().__init__()
        self.pad = op.layer.pad
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return locally_connected(x, self.weight, self.bias, self.pad, self.training)

    def extra_repr(self) -> str:
        filters, channels, size, _, height, width = self.weight.shape
        return f"{channels}, {filters}, size_px={size}, positions={height}x{width}, pad={self.pad}"


class ResponseNorm(nn.Module):
    """Local response normalization (section 3.3); see `ops.lrn`."""

    def __init__(self, norm: config.Lrn, columns: int) -> None:
        super().__init__()
        self.n = norm.n
        self.k = norm.k
        self.alpha = norm.alpha
        self.beta = norm.beta
        self.columns = columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return lrn(x, self.n, self.k, self.alpha, self.beta, self.columns)

    def extra_repr(self) -> str:
        return (
            f"n={self.n}, k={self.k:g}, alpha={self.alpha:g}, beta={self.beta:g}, "
            f"columns={self.columns}"
        )


class SpatialNorm(nn.Module):
    """The original code's normalization over a square; see `ops.spatial_norm`."""

    def __init__(self, norm: config.SpatialNorm) -> None:
        super().__init__()
        self.size_px = norm.size_px
        self.k = norm.k
        self.alpha = norm.alpha
        self.beta = norm.beta

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return spatial_norm(x, self.size_px, self.k, self.alpha, self.beta)

    def extra_repr(self) -> str:
        return f"size_px={self.size_px}, k={self.k:g}, alpha={self.alpha:g}, beta={self.beta:g}"


class BatchNorm(nn.Module):
    """Batch normalization of maps or units, with running statistics for test time.

    Not `nn.BatchNorm2d`, which refuses units, and whose count of batches would be one more tensor
    in every checkpoint.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, norm: config.BatchNorm, maps: int) -> None:
        super().__init__()
        self.epsilon, self.momentum = norm.epsilon, norm.momentum
        self.weight = nn.Parameter(torch.ones(maps, device="cpu"))
        self.bias = nn.Parameter(torch.zeros(maps, device="cpu"))
        self.register_buffer("running_mean", torch.zeros(maps, device="cpu"))
        self.register_buffer("running_var", torch.ones(maps, device="cpu"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.epsilon,
        )

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, epsilon={self.epsilon:g}, momentum={self.momentum:g}"


def batch_norm(
    x: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    training: bool,
    momentum: float,
    epsilon: float,
) -> torch.Tensor:
    """PyTorch's batch normalization, also for the last batch of an epoch with a single image.

    The units of one image have no variance, so they are normalized by the running statistics.
    """
    training = training and x.numel() > x.shape[1]
    return F.batch_norm(x, mean, variance, weight, bias, training, momentum, epsilon)


class Dropout(nn.Dropout):
    """Dropout as in 2012 (section 4.2), active in training mode; see `ops.dropout`."""

    def __init__(self, settings: config.Dropout, layer: str) -> None:
        super().__init__(settings.rate)
        self.form = settings.form
        self.masks = settings.masks
        self.layer = layer

    # The key is an argument and not an attribute: what is random stays visible at the call.
    def forward(self, x: torch.Tensor, key: DropoutKey | None = None) -> torch.Tensor:
        """Apply the layer.

        Args:
            key: Determines the mask. None: as `nn.Dropout`, a mask from PyTorch's own generator.
        """
        mask = self.mask(x, key) if self.training and self.masks else None
        return dropout(x, mask, self.p, self.form)

    def mask(self, x: torch.Tensor, key: DropoutKey | None) -> Mask | torch.Tensor:
        """The mask for the batch x. A rank of several draws its part of it."""
        return _mask(x, key, self.p, self.layer)

    def extra_repr(self) -> str:
        return f"p={self.p}, form={self.form!r}" + ("" if self.masks else ", masks=False")


def layer_key(key: DropoutKey, layer: str) -> int | torch.Tensor:
    """The key of a layer's mask."""
    return dropout_key(*key, layer) if isinstance(key, tuple) else key[layer]


def _mask(x: torch.Tensor, key: DropoutKey | None, rate: float, layer: str) -> Mask | torch.Tensor:
    if key is None:
        return torch.rand_like(x, dtype=torch.float32) >= rate
    return Mask(layer_key(key, layer), rate)


# `torch.fx.symbolic_trace` runs the modules with placeholders in place of tensors. These functions
# ask about values, so they stay whole in the traced graph.
for _function in (
    "_mask",
    "batch_norm",
    "convolution",
    "dropout",
    "fully_connected",
    "locally_connected",
    "lrn",
    "spatial_norm",
):
    torch.fx.wrap(_function)
