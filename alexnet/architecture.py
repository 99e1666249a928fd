"""From the table of layers to the plan: every operation of the network, with shapes and counts.

The plan alone gives every shape, parameter count and multiply-add count, so tables and cost
estimates need neither weights nor PyTorch. `model.Network` runs it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

from alexnet.config import (
    Architecture,
    BatchNorm,
    Conv,
    FullyConnected,
    Layer,
    Local,
    Lrn,
    OpName,
    SpatialNorm,
)
from alexnet.errors import ConfigError

# (channels, height, width); a fully connected layer has height and width 1.
Shape = tuple[int, int, int]
POOLS: tuple[OpName, ...] = ("max_pool", "avg_pool")
OF_MAPS: frozenset[OpName] = frozenset({*POOLS, "lrn", "spatial_norm"})
"""Operations that a fully connected layer, whose outputs have no positions, cannot have."""


@dataclass(frozen=True)
class Op:
    """One operation of the plan, with its shapes and counts."""

    name: str
    """Key of the result in `Network.activations`. A layer's bare name (`conv1`) is the output of
    its neurons, after the activation function; `conv1.linear`, `conv1.lrn`, `conv1.max_pool` and so
    on are the intermediate values."""
    module: str
    """Name of the submodule of `Network` that computes it: `conv1`, `relu1`, `norm1`, `pool1`, and
    `conv1_bn`, which is named after its layer because it has parameters (`layer_of`). A hook on
    `relu1` therefore sees the value `conv1`, and one on `conv1` sees `conv1.linear`."""
    op: Literal["linear"] | OpName
    layer: Layer
    in_shape: Shape
    shape: Shape
    columns: int
    """Number of groups whose outputs depend only on inputs of the same group; 1: no groups.

    A layer that sees all columns has 1, and the operations after it have the number of columns into
    which its outputs are divided."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(outputs, inputs), or (outputs, inputs, S, S); a local layer has its positions last."""
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
        """One bias for each filter or unit; a locally connected layer has one for each position."""
        return self.shape if isinstance(self.layer, Local) else self.shape[:1]

    @property
    def parameters(self) -> int:
        """Number of weights and biases; batch normalization has a gain and a bias for each map."""
        if self.op == "batch_norm":
            return 2 * self.shape[0]
        return (
            math.prod(self.weight_shape) + math.prod(self.bias_shape) if self.op == "linear" else 0
        )

    @property
    def statistics(self) -> int:
        """Number of running means and variances, which a checkpoint has beside the parameters."""
        return 2 * self.shape[0] if self.op == "batch_norm" else 0

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
    if architecture.activation not in ("relu", "tanh", "logistic"):
        raise ConfigError(f"activation is {architecture.activation!r}; use relu, tanh or logistic")
    layers = _layers(architecture)
    # Layers are numbered across kinds, so the pool after conv5 is pool5 and the dropout after fc6
    # is drop6 (Caffe's names). A layer that has no number of its own gives its name: `pool_local`.
    numbers = [re.sub(r"\D*", "", layer.name, count=1) for layer in layers]
    result: list[Op] = []
    shape: Shape = (3, architecture.input_px, architecture.input_px)
    for index, layer in enumerate(layers):
        columns = _columns(architecture, layer, first=index == 0, last=index == len(layers) - 1)
        number = numbers[index]
        has_own = number.isdigit() and numbers.count(number) == 1
        suffix = number if has_own else f"_{layer.name}"
        for op in _layer_ops(architecture, layer, shape, columns, suffix):
            result.append(op)
            shape = op.shape
    # A convolution called norm1 would be replaced by the normalization after it.
    for name, count in Counter(op.module for op in result).most_common(1):
        if count > 1:
            raise ConfigError(f"{name} names a layer and an operation of another; rename the layer")
    return tuple(result)


def op_of(ops: tuple[Op, ...], name: str) -> Op:
    """Find an operation by any of its names.

    These are the names of its value (`conv1`, `conv1.lrn`) and of its module (`relu1`, `norm1`,
    `pool1`: Caffe's names), and in a network of torchvision's form its position there
    (`features.2`, `classifier.6`). `conv1` is the value after the activation, in Caffe too.

    Raises:
        ConfigError: The network has no such operation.
    """
    by_name = {op.name: op for op in reversed(ops)}
    by_module = {op.module: op for op in ops}
    op = by_name.get(name) or by_module.get(name) or _torchvision_names(ops).get(name)
    if op is None:
        raise ConfigError(f"the network has no layer {name!r}; it has {names_of(ops)}")
    return op


def _torchvision_names(ops: tuple[Op, ...]) -> dict[str, Op]:
    """The operations by torchvision's names, which are positions in its two parts.

    Empty for other networks: the same position is another operation there.
    """
    convolution, pooled = ("linear", "activation"), ("linear", "activation", "max_pool")
    features = (*pooled, *pooled, *convolution, *convolution, *pooled)
    hidden = ("dropout", *convolution)
    classifier = (*hidden, *hidden, "linear")
    if tuple(op.op for op in ops) != features + classifier:
        return {}
    names = [f"features.{i}" for i in range(len(features))]
    names += [f"classifier.{i}" for i in range(len(classifier))]
    return dict(zip(names, ops, strict=True))


def names_of(ops: tuple[Op, ...]) -> str:
    """The names of all operations in words, those of the module where they differ in brackets."""
    return ", ".join(
        op.name if op.name == op.module or op.op == "linear" else f"{op.name} ({op.module})"
        for op in ops
    ) + (", or torchvision's features.N and classifier.N" if _torchvision_names(ops) else "")


def layer_of(parameter: str) -> str:
    """The layer to which a parameter belongs: `conv1` for `conv1.weight` and `conv1_bn.weight`."""
    return re.sub("_bn(_again)*$", "", parameter.rpartition(".")[0])


def _layers(architecture: Architecture) -> list[Layer]:
    """Apply the ablations to the table of layers: those of `_changed`, and `without`."""
    layers = list(architecture.layers)
    names = [layer.name for layer in layers]
    if not layers or not isinstance(layers[-1], FullyConnected):
        raise ConfigError(
            "a network ends in a fully connected layer with one unit per class; this one does not"
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"two layers have the same name: {', '.join(names)}")
    for before, layer in itertools.pairwise(layers):
        if isinstance(before, FullyConnected) and not isinstance(layer, FullyConnected):
            raise ConfigError(
                f"{layer.name} needs maps, and {before.name} before it is fully connected"
            )
    for name in architecture.without:
        if name not in names[1:] or not isinstance(layers[names.index(name)], Conv):
            raise ConfigError(
                f"without={name!r}: only a convolution after the first can be removed"
            )
    if architecture.input_px < 1:
        raise ConfigError(f"input_px is {architecture.input_px}; it must be at least 1")
    if not 0 < architecture.width < math.inf:
        raise ConfigError(f"width is {architecture.width}; it must be greater than 0 and finite")
    if architecture.classes is not None and architecture.classes < 2:
        raise ConfigError(f"classes is {architecture.classes}; a classifier needs at least 2")
    linked = False
    result: list[Layer] = []
    for index, layer in enumerate(layers):
        layer = _changed(architecture, layer, first=index == 0, last=index == len(layers) - 1)
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


def _changed(architecture: Architecture, layer: Layer, first: bool, last: bool) -> Layer:
    """Apply `scale_std`, `bias`, `normalise`, `classes` and `width` to one layer.

    Args:
        first: Whether it is the first layer, whose inputs are the image's whatever the width.
        last: Whether it is the output layer.
    """
    if architecture.scale_std and layer.std is not None and not first:
        # A sum over w times as many inputs is sqrt(w) times as large.
        layer = replace(layer, std=layer.std / math.sqrt(architecture.width))
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


def _layer_ops(
    architecture: Architecture, layer: Layer, in_shape: Shape, columns: int, suffix: str
) -> Iterator[Op]:
    """Yield the linear operation of a layer and the operations of `layer.then`, and check them.

    Args:
        suffix: Ends the names of the modules that follow the layer: the 1 of `pool1`.
    """
    name = layer.name
    # Written with `not` so that a NaN is rejected too.
    if layer.std is not None and not 0 <= layer.std < math.inf:
        raise ConfigError(f"{name}: std is {layer.std}; it must be at least 0 and finite")
    if not math.isfinite(layer.bias):
        raise ConfigError(f"{name}: bias is {layer.bias}; it must be finite")
    if isinstance(layer, FullyConnected):
        shape: Shape = (layer.units, 1, 1)
    else:
        stride = layer.stride if isinstance(layer, Conv) else 1
        if stride < 1 or layer.size_px < 1 or min(layer.pad) < 0:
            raise ConfigError(f"{name}: size and stride must be at least 1, padding at least 0")
        side = (in_shape[1] + sum(layer.pad) - layer.size_px) // stride + 1
        shape = (layer.kernels, side, side)
    if shape[0] < 1:
        raise ConfigError(f"{name} has {shape[0]} filters or units; it needs at least 1")
    _check_side(name, in_shape, shape)
    if shape[0] % architecture.columns and (columns > 1 or not isinstance(layer, FullyConnected)):
        raise ConfigError(
            f"{name}: {architecture.columns} columns do not divide its {shape[0]} filters or units"
        )
    if in_shape[0] % columns:
        raise ConfigError(f"{name}: {columns} columns do not divide the {in_shape[0]} maps it sees")
    if isinstance(layer, Local) and columns > 1:
        raise ConfigError(f"{name}: a locally connected layer needs columns=1")
    linear = name if "activation" not in layer.then else f"{name}.linear"
    yield Op(linear, name, "linear", layer, in_shape, shape, columns)
    used_names: set[str] = set()
    for op in layer.then:
        before = shape
        _check_constants(architecture, op)
        if isinstance(layer, FullyConnected) and op in OF_MAPS:
            raise ConfigError(f"{name}: {op} needs maps, and a fully connected layer has units")
        if op in POOLS:
            pool = architecture.pool
            side = pooled_px(shape[1], pool.size_px, pool.stride, pool.partial)
            shape = (shape[0], side, side)
            _check_side(f"{name}.{op}", before, shape)
        elif op not in get_args(OpName):
            raise ConfigError(f"{name}: there is no operation {op!r}; see the field `then`")
        key = name if op == "activation" else f"{name}.{op}"
        module = _module_prefix(op, architecture) + suffix
        if op == "batch_norm":
            module = f"{name}_bn"
        # A layer that takes over the operations of a removed one may have two of the same name.
        while key in used_names:
            key, module = f"{key}+", f"{module}_again"
        used_names.add(key)
        yield Op(key, module, op, layer, before, shape, architecture.columns)


def _check_constants(architecture: Architecture, op: str) -> None:
    """Check the constants of an operation that stands behind a layer."""
    match op:
        case "max_pool" | "avg_pool":
            size, stride = architecture.pool.size_px, architecture.pool.stride
            if min(size, stride) < 1:
                raise ConfigError(f"pool: size {size} and stride {stride} must be at least 1")
        case "lrn":
            if architecture.lrn.n < 1:
                raise ConfigError(f"lrn.n is {architecture.lrn.n}; it must be at least 1")
            _check_divisor(op, architecture.lrn)
        case "spatial_norm":
            side = architecture.spatial_norm.size_px
            if side < 1 or side % 2 == 0:
                raise ConfigError(f"spatial_norm.size_px is {side}; it must be odd")
            _check_divisor(op, architecture.spatial_norm)
        case "dropout":
            rate, form = architecture.dropout.rate, architecture.dropout.form
            if not 0 <= rate <= 1:
                raise ConfigError(f"dropout.rate is {rate}; it must be between 0 and 1")
            if rate == 1 and form == "inverted":
                raise ConfigError("dropout.rate is 1; the inverted form divides by 1 - rate")
        case "batch_norm":
            _check_batch_norm(architecture.batch_norm)


def _check_divisor(op: str, norm: Lrn | SpatialNorm) -> None:
    """Check (k + alpha * sum of squares) ** beta, by which a normalization divides."""
    # Written with `not` so that a NaN is rejected too.
    if not norm.k > 0:
        raise ConfigError(f"{op}.k is {norm.k}; it must be greater than 0")
    if not norm.alpha >= 0:
        raise ConfigError(f"{op}.alpha is {norm.alpha}; it must be at least 0")
    if not math.isfinite(norm.beta):
        raise ConfigError(f"{op}.beta is {norm.beta}; it must be finite")


def _check_batch_norm(norm: BatchNorm) -> None:
    if not norm.epsilon > 0:
        raise ConfigError(f"batch_norm.epsilon is {norm.epsilon}; it must be greater than 0")
    if not 0 < norm.momentum <= 1:
        raise ConfigError(
            f"batch_norm.momentum is {norm.momentum}; it must be greater than 0 and at most 1"
        )


def _module_prefix(op: str, architecture: Architecture) -> str:
    """What the name of the module for an operation begins with."""
    match op:
        case "activation":
            return architecture.activation
        case "lrn":
            return "norm"
        case "max_pool" | "avg_pool":
            return "pool"
        case "dropout":
            return "drop"
        case _:
            return op


def pooled_px(side_px: int, size_px: int, stride: int, partial: bool) -> int:
    """Compute the side of a pooled map, in pixels.

    Args:
        partial: A window may begin inside the map and end outside of it, as in the CIFAR-10 nets,
            where 32 pixels pooled by 3/2 give 16 and not 15.
    """
    span = side_px - size_px
    if not partial:
        return span // stride + 1
    count = -(-span // stride) + 1
    # The last window must begin inside the map.
    return count - 1 if (count - 1) * stride >= side_px else count


def _check_side(name: str, before: Shape, after: Shape) -> None:
    """Raise ConfigError if an operation leaves no pixel of its input."""
    if after[1] < 1:
        raise ConfigError(
            f"{name}: its input of {before[1]}x{before[2]} pixels is too small and shrinks to "
            "nothing; use a larger input_px or fewer pools"
        )
