"""The network: an `Architecture` becomes a `plan` of operations, and the plan a `Network`.

The plan alone gives every shape, parameter count and multiply-add count, so tables and cost
estimates need no weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from alexnet import native, ops
from alexnet.config import Architecture, Conv, FullyConnected, Layer, Local
from alexnet.errors import ConfigError
from alexnet.ops import blocks, winograd
from alexnet.ops.pool import pooled_px

# (channels, height, width); a fully connected layer has height and width 1.
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Op:
    """One operation of the plan, with its shapes and counts."""

    name: str
    """Key in `Network.activations`. A layer's bare name (`conv1`) is the output of its neurons,
    after the activation function; `conv1.linear`, `conv1.lrn`, `conv1.max_pool` and so on are the
    intermediate values."""
    op: str
    layer: Layer
    in_shape: Shape
    shape: Shape
    columns: int
    """Number of groups whose outputs depend only on inputs of the same group; 1: no groups."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the layer's weights, with the fan-in in the last dimensions."""
        fan_in = self.in_shape[0] // self.columns
        match self.layer:
            case Conv(size_px=size):
                return (self.shape[0], fan_in, size, size)
            case Local(size_px=size):
                return (self.shape[0], fan_in, size, size, *self.shape[1:])
            case FullyConnected():
                return (self.shape[0], math.prod(self.in_shape) // self.columns)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """One bias for each kernel or unit; a locally connected layer has one for each position."""
        return self.shape if isinstance(self.layer, Local) else self.shape[:1]

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return (
            math.prod(self.weight_shape) + math.prod(self.bias_shape) if self.op == "linear" else 0
        )

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the weights in the forward pass of one image."""
        if self.op != "linear":
            return 0
        positions = self.shape[1] * self.shape[2] if isinstance(self.layer, Conv) else 1
        return math.prod(self.weight_shape) * positions

    @property
    def neurons(self) -> int:
        """Number of neurons in the paper's sense: the outputs of a layer with weights."""
        return math.prod(self.shape) if self.op == "linear" else 0


def plan(architecture: Architecture) -> tuple[Op, ...]:
    """List every operation of an architecture, in order.

    Raises:
        ConfigError: The architecture is invalid; the message names the layer.
    """
    layers = _layers(architecture)
    steps: list[Op] = []
    shape: Shape = (3, architecture.input_px, architecture.input_px)
    for index, layer in enumerate(layers):
        columns = _columns(architecture, layer, first=index == 0, last=index == len(layers) - 1)
        for step in _layer_steps(architecture, layer, shape, columns):
            steps.append(step)
            shape = step.shape
    return tuple(steps)


def _layers(architecture: Architecture) -> list[Layer]:
    """Apply the ablations to the table of layers: width, classes, `without`, lrn, bias."""
    layers = list(architecture.layers)
    names = [layer.name for layer in layers]
    if not layers or not isinstance(layers[-1], FullyConnected):
        raise ConfigError(
            "a network ends in a fully connected layer with one unit per class; this one does not"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"two layers have the same name: {', '.join(names)}")
    for name in architecture.without:
        if name not in names[1:] or not isinstance(layers[names.index(name)], Conv):
            raise ConfigError(
                f"without={name!r}: only a convolution after the first can be removed"
            )
    if architecture.width <= 0:
        raise ConfigError(f"width is {architecture.width}; it must be greater than 0")
    if architecture.classes is not None and architecture.classes < 2:
        raise ConfigError(f"classes is {architecture.classes}; a classifier needs at least 2")
    linked = False
    result: list[Layer] = []
    for index, layer in enumerate(layers):
        layer = _resized(architecture, layer, last=index == len(layers) - 1)
        if layer.name in architecture.without:
            linked = linked or (isinstance(layer, Conv) and layer.linked)
            # The pool and the normalization stay: without them the layers behind would see larger
            # maps, and the ablation would measure two changes at once.
            stays = tuple(op for op in layer.then if op != "activation")
            result[-1] = replace(result[-1], then=result[-1].then + stays)
            continue
        # The next convolution inherits the link of a removed one; otherwise removing conv3 would
        # also separate the two columns.
        if linked and isinstance(layer, Conv):
            layer = replace(layer, linked=True)
            linked = False
        result.append(layer)
    return result


def _resized(architecture: Architecture, layer: Layer, last: bool) -> Layer:
    """Apply `bias`, `normalise`, `classes` and `width` to one layer. `last`: the output layer."""
    # A bias of 0 is kept: the ablation concerns only the biases that the paper sets to 1.
    if architecture.bias is not None and layer.bias != 0:
        layer = replace(layer, bias=architecture.bias)
    if not architecture.normalise:
        layer = replace(
            layer, then=tuple(op for op in layer.then if op not in ("lrn", "spatial_norm"))
        )
    if isinstance(layer, FullyConnected):
        units = (
            (architecture.classes or layer.units)
            if last
            else round(layer.units * architecture.width)
        )
        return replace(layer, units=units)
    return replace(layer, kernels=round(layer.kernels * architecture.width))


def _columns(architecture: Architecture, layer: Layer, first: bool, last: bool) -> int:
    """Number of groups in which the layer sees its inputs; the image and linked layers have one.

    The last layer sees both columns even without links, since there is one set of classes.
    """
    if architecture.columns < 1:
        raise ConfigError(f"columns is {architecture.columns}; it must be at least 1")
    sees_all = isinstance(layer, FullyConnected) or getattr(layer, "linked", False)
    if first or last or (architecture.links and sees_all):
        return 1
    return architecture.columns


def _layer_steps(
    architecture: Architecture, layer: Layer, in_shape: Shape, columns: int
) -> Iterator[Op]:
    """Yield the linear operation of a layer and the operations of `layer.then`, and check them."""
    name = layer.name
    if isinstance(layer, FullyConnected):
        shape: Shape = (layer.units, 1, 1)
    else:
        stride = layer.stride if isinstance(layer, Conv) else 1
        if stride < 1 or layer.size_px < 1 or min(layer.pad) < 0:
            raise ConfigError(f"{name}: size and stride must be at least 1, padding at least 0")
        side = (in_shape[1] + sum(layer.pad) - layer.size_px) // stride + 1
        shape = (layer.kernels, side, side)
    if shape[0] < 1:
        raise ConfigError(f"{name} has {shape[0]} kernels or units; it needs at least 1")
    _check_side(name, in_shape, shape)
    if shape[0] % architecture.columns and (columns > 1 or not isinstance(layer, FullyConnected)):
        raise ConfigError(
            f"{name}: {architecture.columns} columns do not divide its {shape[0]} kernels or units"
        )
    if in_shape[0] % columns:
        raise ConfigError(f"{name}: {columns} columns do not divide the {in_shape[0]} maps it sees")
    if isinstance(layer, Local) and columns > 1:
        raise ConfigError(f"{name}: a locally connected layer belongs to nets of one column")
    linear = name if "activation" not in layer.then else f"{name}.linear"
    yield Op(linear, "linear", layer, in_shape, shape, columns)
    used_names: set[str] = set()
    for op in layer.then:
        before = shape
        if op in ("max_pool", "avg_pool"):
            pool = architecture.pool
            side = pooled_px(shape[1], pool.size_px, pool.stride, pool.partial)
            shape = (shape[0], side, side)
            _check_side(f"{name}.{op}", before, shape)
        key = name if op == "activation" else f"{name}.{op}"
        # A layer that takes over the operations of a removed one may have two of the same name.
        while key in used_names:
            key += "+"
        used_names.add(key)
        yield Op(key, op, layer, before, shape, architecture.columns)


def passes(steps: tuple[Op, ...]) -> tuple[tuple[Op, ...], ...]:
    """Group the operations that `ops.norm_pool` computes in a single pass over memory."""
    groups: list[tuple[Op, ...]] = []
    start = 0
    while start < len(steps):
        length = _pass_length(steps[start:])
        groups.append(steps[start : start + length])
        start += length
    return tuple(groups)


def _pass_length(steps: tuple[Op, ...]) -> int:
    """Number of leading operations that form one pass; 1 where the first stands alone.

    A pass is [activation] [lrn] max_pool [activation], or activation lrn. Anything shorter gains
    nothing: a single operation is one pass over memory already.
    """
    names = [step.op for step in steps[:4]]
    length = 0
    for optional in ("activation", "lrn"):
        if names[length : length + 1] == [optional]:
            length += 1
    if names[length : length + 1] == ["max_pool"]:
        return length + (2 if names[length + 1 : length + 2] == ["activation"] else 1)
    return 2 if length == 2 else 1


def _check_side(name: str, before: Shape, after: Shape) -> None:
    """Raise ConfigError if an operation leaves no pixel of its input."""
    if after[1] < 1:
        raise ConfigError(
            f"{name}: its input of {before[1]}x{before[2]} pixels is too small and shrinks to "
            "nothing; use a larger input_px or fewer pools"
        )


class Parameters(nn.Module):
    """Weight and bias of one layer, initialized from `layer.std` and `layer.bias`.

    Section 5: weights are Gaussian with zero mean, biases constant.
    """

    def __init__(self, step: Op, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(step.weight_shape)
        if step.layer.std is None:
            # PyTorch's default initialization: weights and biases uniform within 1 / sqrt(fan-in).
            # It is written out because nn.Conv2d draws from the global generator, in another order.
            bound = 1 / math.sqrt(math.prod(step.weight_shape[1:4]))
            bias = torch.empty(step.bias_shape).uniform_(-bound, bound, generator=generator)
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.normal_(0, step.layer.std, generator=generator)
            bias = torch.full(step.bias_shape, float(step.layer.bias))
        if isinstance(step.layer, Conv):
            # Channels last is the fast layout for convolutions on CPUs and with tensor cores, and
            # the kernels of `native/` need it. The values were drawn before: the layout changes
            # no weight.
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)


class Network(nn.Module):
    """The network of an architecture.

    Parameters are named `conv1.weight`, `conv1.bias`, ..., `fc8.bias`. The network does not depend
    on devices or processes, and it has no training mode: dropout is active when a key is given.
    """

    def __init__(self, architecture: Architecture, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        # Columns computed by this process; a rank of `ShardedNetwork` may hold only one.
        self.columns = architecture.columns
        self.steps = plan(architecture)
        # The fused pass knows only ReLU.
        self.passes = (
            passes(self.steps)
            if architecture.activation == "relu"
            else tuple((step,) for step in self.steps)
        )
        # A generator of its own: weights depend on the seed alone, not on earlier random calls.
        generator = torch.Generator().manual_seed(seed)
        for step in self.steps:
            if step.op == "linear":
                self.add_module(step.layer.name, Parameters(step, generator))

    def forward(
        self, images: torch.Tensor, dropout_key: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Compute the logits.

        Activations and products have the dtype of `images`. The exception is bfloat16 on a CPU on
        which it is slow: there the products are float32.

        Args:
            images: Preprocessed images, shape (N, 3, input_px, input_px).
            dropout_key: (seed, step) in training; None at test time.

        Returns:
            Logits of shape (N, classes), float32, or float64 for float64 images.
        """
        x = images
        for steps in self.passes:
            x = self._run(steps[0], x, dropout_key) if len(steps) == 1 else self._run_pass(steps, x)
        logits = x.flatten(1)
        return logits if logits.dtype == torch.float64 else logits.float()

    def activations(
        self, images: torch.Tensor, dropout_key: tuple[int, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """Compute every intermediate value, by name (`Op.name`), in order; the last is the logits.

        The operations run one by one. `forward` fuses some of them and is tested against this.
        """
        result: dict[str, torch.Tensor] = {}
        x = images
        for step in self.steps:
            x = result[step.name] = self._run(step, x, dropout_key)
        return result

    def _run_pass(self, steps: tuple[Op, ...], x: torch.Tensor) -> torch.Tensor:
        """Run the operations of one group of `passes`."""
        architecture, names = self.architecture, [step.op for step in steps]
        norm = architecture.lrn if "lrn" in names else None
        window = architecture.pool if "max_pool" in names else None
        after = window is not None and names[-1] == "activation"
        return ops.norm_pool(x, names[0] == "activation", norm, window, after, self.columns)

    def _run(self, step: Op, x: torch.Tensor, dropout_key: tuple[int, int] | None) -> torch.Tensor:
        """Run one operation."""
        architecture = self.architecture
        match step.op:
            case "linear":
                weight, bias = (
                    self.get_parameter(f"{step.layer.name}.{name}") for name in ("weight", "bias")
                )
                # Weights are float32 and cast at each use, so that small updates are not rounded
                # away as they would be in bfloat16.
                dtype = (
                    torch.float32
                    if x.dtype == torch.bfloat16 and native.slow_in_bfloat16(x.device)
                    else x.dtype
                )
                return self._linear(step, weight.to(dtype), bias.to(dtype), x.to(dtype)).to(x.dtype)
            case "activation":
                return apply_activation(x, architecture.activation)
            case "lrn":
                c = architecture.lrn
                return ops.lrn(x, c.n, c.k, c.alpha, c.beta, self.columns)
            case "spatial_norm":
                s = architecture.spatial_norm
                return ops.spatial_norm(x, s.size_px, s.k, s.alpha, s.beta)
            case "max_pool":
                p = architecture.pool
                return ops.max_pool(x, p.size_px, p.stride, p.partial)
            case "avg_pool":
                p = architecture.pool
                return ops.avg_pool(x, p.size_px, p.stride, p.partial)
            case _:
                d = architecture.dropout
                mask = None
                if dropout_key is not None and d.masks:
                    mask = self._mask(step, x, dropout_key)
                return ops.dropout(x, mask, d.rate, d.form)

    # A rank of `ShardedNetwork` holds a part of the units and images, and overrides the next two.

    def _mask(self, step: Op, x: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
        """The dropout mask of the layer for the batch x."""
        return ops.dropout_mask(
            tuple(x.shape), self.architecture.dropout.rate, *key, step.layer.name, x.device
        )

    def _linear(
        self, step: Op, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        """The weighted sums of the layer, before the activation function."""
        return apply_linear(step, weight, bias, x)


def apply_linear(
    step: Op, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """The weighted sums of a layer, by the fastest path that can compute them.

    Args:
        weight: Shape `step.weight_shape`, or a shard of it together with a `step` that says so.
        bias: Shape `step.bias_shape`, or the same shard.
        x: Input of the layer, (N, *step.in_shape).
    """
    match step.layer:
        case Conv(stride=stride, pad=(before, after)):
            if step.columns == 1 and blocks.wins(x, weight, stride):
                return blocks.conv2d(x, weight, bias, stride, (before, after))
            if winograd.wins(x, weight, stride, (before, after), step.columns):
                return winograd.conv2d(x, weight, bias, step.columns)
            # F.conv2d pads both sides alike. Padding apart copies the input, so it is done only
            # for conv1, which has three pixels on the right and bottom alone.
            if before != after:
                x = F.pad(x, (before, after, before, after))
                before = 0
            return F.conv2d(x, weight, bias, stride, before, groups=step.columns)
        case Local(pad=pad):
            return ops.locally_connected(x, weight, bias, pad)
        case FullyConnected():
            x = x.flatten(1)
            if step.columns == 1:
                return F.linear(x, weight, bias)
            # Block-diagonal weights: each column of units sees the units of its own column.
            parts = zip(
                *(t.chunk(step.columns, dim) for t, dim in ((x, 1), (weight, 0), (bias, 0))),
                strict=True,
            )
            return torch.cat([F.linear(*part) for part in parts], dim=1)


def apply_activation(x: torch.Tensor, unit: Literal["relu", "tanh", "logistic"]) -> torch.Tensor:
    """Apply the activation function: max(0, x), tanh(x) or 1 / (1 + exp(-x)) (section 3.1)."""
    return F.relu(x) if unit == "relu" else torch.tanh(x) if unit == "tanh" else torch.sigmoid(x)


def build(architecture: Architecture, seed: int = 0) -> Network:
    """Build the network of an architecture with weights drawn from `seed`.

    Raises:
        ConfigError: The architecture is invalid (see `plan`).
    """
    return Network(architecture, seed)
