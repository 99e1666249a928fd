"""From an `Architecture` value to a network, and to the table of its shapes, parameters and multiply-adds."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from alexnet import native, ops
from alexnet.config import Architecture, Conv, Full, Layer, Local
from alexnet.ops import blocks, winograd
from alexnet.ops.pool import pooled_px

Shape = tuple[
    int, int, int
]  # (channels, height, width); a fully connected layer has height and width 1


@dataclass(frozen=True)
class Step:
    """One operation of the network, with everything that follows from the specification."""

    name: str
    """Key in `Network.activations`. A layer's bare name is its neurons' output, after their unit; `conv1.linear`,
    `conv1.lrn`, `conv1.max_pool` and so on are the values between."""
    op: str
    layer: Layer
    in_shape: Shape
    shape: Shape
    columns: int
    """Groups that see only themselves; 1: everything sees everything."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Of the layer's weights; the bias has a value for each kernel (for each position too, where local)."""
        fan_in = self.in_shape[0] // self.columns
        match self.layer:
            case Conv(size_px=size):
                return (self.shape[0], fan_in, size, size)
            case Local(size_px=size):
                return (self.shape[0], fan_in, size, size, *self.shape[1:])
            case Full():
                return (self.shape[0], math.prod(self.in_shape) // self.columns)

    @property
    def bias_shape(self) -> tuple[int, ...]:
        return self.shape if isinstance(self.layer, Local) else self.shape[:1]

    @property
    def parameters(self) -> int:
        return (
            math.prod(self.weight_shape) + math.prod(self.bias_shape) if self.op == "linear" else 0
        )

    @property
    def multiply_adds(self) -> int:
        """Of the weights, forward, an image."""
        if self.op != "linear":
            return 0
        positions = self.shape[1] * self.shape[2] if isinstance(self.layer, Conv) else 1
        return math.prod(self.weight_shape) * positions

    @property
    def neurons(self) -> int:
        return math.prod(self.shape) if self.op == "linear" else 0


def plan(architecture: Architecture) -> tuple[Step, ...]:
    """Every operation in order. Raises ValueError, naming the layer, for a specification that cannot work."""
    layers = _layers(architecture)
    steps: list[Step] = []
    shape: Shape = (3, architecture.input_px, architecture.input_px)
    for place, layer in enumerate(layers):
        columns = _columns(architecture, layer, first=place == 0, last=place == len(layers) - 1)
        for step in _layer_steps(architecture, layer, shape, columns):
            steps.append(step)
            shape = step.shape
    return tuple(steps)


def _layers(architecture: Architecture) -> list[Layer]:
    """The table with the ablations applied: widths, classes, removed layers, normalisation, biases."""
    layers = list(architecture.layers)
    names = [layer.name for layer in layers]
    if not layers or not isinstance(layers[-1], Full):
        raise ValueError(
            "a network ends in a fully connected layer that gives the classes; this one does not"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"two layers have one name: {', '.join(names)}")
    for name in architecture.without:
        if name not in names[1:] or not isinstance(layers[names.index(name)], Conv):
            raise ValueError(
                f"without={name!r}: only a convolution after the first can be left out"
            )
    if architecture.width <= 0:
        raise ValueError(f"width is {architecture.width}; it must be above 0")
    if architecture.classes is not None and architecture.classes < 2:
        raise ValueError(f"classes is {architecture.classes}; a classifier needs at least 2")
    linked = False
    result: list[Layer] = []
    for place, layer in enumerate(layers):
        layer = _resized(architecture, layer, last=place == len(layers) - 1)
        if layer.name in architecture.without:
            linked = linked or (isinstance(layer, Conv) and layer.linked)
            stays = tuple(op for op in layer.then if op != "unit")
            result[-1] = replace(result[-1], then=result[-1].then + stays)
            continue
        if linked and isinstance(layer, Conv):  # the layer after a removed link takes the link over
            layer = replace(layer, linked=True)
            linked = False
        result.append(layer)
    return result


def _resized(architecture: Architecture, layer: Layer, last: bool) -> Layer:
    if architecture.bias is not None and layer.bias != 0:
        layer = replace(layer, bias=architecture.bias)
    if not architecture.normalise:
        layer = replace(layer, then=tuple(op for op in layer.then if op not in ("lrn", "spatial")))
    if isinstance(layer, Full):
        units = (
            (architecture.classes or layer.units)
            if last
            else round(layer.units * architecture.width)
        )
        return replace(layer, units=units)
    return replace(layer, kernels=round(layer.kernels * architecture.width))


def _columns(architecture: Architecture, layer: Layer, first: bool, last: bool) -> int:
    """How many groups the layer's inputs fall into: the image and a linked layer's maps are one."""
    if architecture.columns < 1:
        raise ValueError(f"columns is {architecture.columns}; it must be at least 1")
    if (
        first
        or last
        or (architecture.links and (isinstance(layer, Full) or getattr(layer, "linked", False)))
    ):
        return 1
    return architecture.columns


def _layer_steps(
    architecture: Architecture, layer: Layer, in_shape: Shape, columns: int
) -> Iterator[Step]:
    name = layer.name
    if isinstance(layer, Full):
        shape: Shape = (layer.units, 1, 1)
    else:
        stride = layer.stride if isinstance(layer, Conv) else 1
        if stride < 1 or layer.size_px < 1 or min(layer.pad) < 0:
            raise ValueError(f"{name}: size and stride must be at least 1 and padding at least 0")
        side = (in_shape[1] + sum(layer.pad) - layer.size_px) // stride + 1
        shape = (layer.kernels, side, side)
    if shape[0] < 1:
        raise ValueError(f"{name} has {shape[0]} kernels or units; it needs at least 1")
    _check_side(name, in_shape, shape)
    if shape[0] % architecture.columns and (columns > 1 or not isinstance(layer, Full)):
        raise ValueError(
            f"{name}: {architecture.columns} columns do not divide its {shape[0]} kernels or units"
        )
    if in_shape[0] % columns:
        raise ValueError(f"{name}: {columns} columns do not divide the {in_shape[0]} maps it sees")
    if isinstance(layer, Local) and columns > 1:
        raise ValueError(f"{name}: a locally connected layer belongs to nets of one column")
    linear = name if "unit" not in layer.then else f"{name}.linear"
    yield Step(linear, "linear", layer, in_shape, shape, columns)
    seen: set[str] = set()
    for op in layer.then:
        before = shape
        if op in ("max_pool", "avg_pool"):
            pool = architecture.pool
            side = pooled_px(shape[1], pool.size_px, pool.stride, pool.partial)
            shape = (shape[0], side, side)
            _check_side(f"{name}.{op}", before, shape)
        key = name if op == "unit" else f"{name}.{op}"
        while key in seen:  # a removed layer's pool or normalisation after one of the same kind
            key += "+"
        seen.add(key)
        yield Step(key, op, layer, before, shape, architecture.columns)


# What `ops.norm_pool` does at once: unit, normalisation, maximum, unit; at least a maximum, or the first two.
ONE_PASS = re.compile("u?n?mu?|un")
LETTERS = {"unit": "u", "lrn": "n", "max_pool": "m"}


def passes(steps: tuple[Step, ...]) -> tuple[tuple[Step, ...], ...]:
    """The steps, those together that can be one pass over memory."""
    word = "".join(LETTERS.get(step.op, "-") for step in steps)
    result: list[tuple[Step, ...]] = []
    place = 0
    while place < len(steps):
        found = ONE_PASS.match(word, place)
        end = found.end() if found else place + 1
        result.append(steps[place:end])
        place = end
    return tuple(result)


def _check_side(name: str, before: Shape, after: Shape) -> None:
    if after[1] < 1:
        raise ValueError(
            f"{name}: its input of {before[1]}x{before[2]} pixels is too small and shrinks to nothing; "
            "use a larger input_px or fewer pools"
        )


class Parameters(nn.Module):
    """One layer's weight and bias, drawn as the layer says."""

    def __init__(self, step: Step, generator: torch.Generator) -> None:
        super().__init__()
        weight = torch.empty(step.weight_shape)
        if (
            step.layer.std is None
        ):  # PyTorch's own start: uniform, bounded by 1 / sqrt(fan-in), biases too
            bound = 1 / math.sqrt(math.prod(step.weight_shape[1:4]))
            bias = torch.empty(step.bias_shape).uniform_(-bound, bound, generator=generator)
            weight.uniform_(-bound, bound, generator=generator)
        else:
            weight.normal_(0, step.layer.std, generator=generator)
            bias = torch.full(step.bias_shape, float(step.layer.bias))
        if isinstance(step.layer, Conv):
            weight = weight.contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)


class Network(nn.Module):
    """The network of an architecture. Parameters are named `conv1.weight`, `conv1.bias`, ... `fc8.bias`.

    It knows nothing of devices or processes, and has no train and test mode: dropout acts when a key is given.
    """

    def __init__(self, architecture: Architecture, seed: int = 0) -> None:
        super().__init__()
        self.architecture = architecture
        self.columns = architecture.columns  # that are computed here
        self.steps = plan(architecture)
        self.passes = (
            passes(self.steps)
            if architecture.unit == "relu"
            else tuple((step,) for step in self.steps)
        )
        generator = torch.Generator().manual_seed(seed)
        for step in self.steps:
            if step.op == "linear":
                self.add_module(step.layer.name, Parameters(step, generator))

    def forward(
        self, images: torch.Tensor, dropout_key: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Logits (N, classes) in float32 (float64 stays). images: (N, 3, input_px, input_px), preprocessed.

        Values are in the dtype of `images` and so are products, but for bfloat16 on a CPU that is slower in it: there
        products are float32. dropout_key: (seed, step) in training, None at test.
        """
        x = images
        for steps in self.passes:
            x = self._run(steps[0], x, dropout_key) if len(steps) == 1 else self._run_pass(steps, x)
        logits = x.flatten(1)
        return logits if logits.dtype == torch.float64 else logits.float()

    def activations(
        self, images: torch.Tensor, dropout_key: tuple[int, int] | None = None
    ) -> dict[str, torch.Tensor]:
        """Every named value on the way, in order; the last is the logits. See `Step.name` for the names.

        Step by step, where `forward` does several in one pass: its slow twin."""
        result: dict[str, torch.Tensor] = {}
        x = images
        for step in self.steps:
            x = result[step.name] = self._run(step, x, dropout_key)
        return result

    def _run_pass(self, steps: tuple[Step, ...], x: torch.Tensor) -> torch.Tensor:
        architecture, kinds = self.architecture, [step.op for step in steps]
        norm = architecture.lrn if "lrn" in kinds else None
        window = architecture.pool if "max_pool" in kinds else None
        after = window is not None and kinds[-1] == "unit"
        return ops.norm_pool(x, kinds[0] == "unit", norm, window, after, self.columns)

    def _run(
        self, step: Step, x: torch.Tensor, dropout_key: tuple[int, int] | None
    ) -> torch.Tensor:
        architecture = self.architecture
        match step.op:
            case "linear":
                weight, bias = (
                    self.get_parameter(f"{step.layer.name}.{kind}") for kind in ("weight", "bias")
                )
                kind = (
                    torch.float32
                    if x.dtype == torch.bfloat16 and native.slow_in_bfloat16(x.device)
                    else x.dtype
                )
                return self._linear(step, weight.to(kind), bias.to(kind), x.to(kind)).to(x.dtype)
            case "unit":
                return apply_unit(x, architecture.unit)
            case "lrn":
                c = architecture.lrn
                return ops.lrn(x, c.n, c.k, c.alpha, c.beta, self.columns)
            case "spatial":
                s = architecture.spatial
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

    def _mask(self, step: Step, x: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
        return ops.dropout_mask(
            tuple(x.shape), self.architecture.dropout.rate, *key, step.layer.name, x.device
        )

    def _linear(
        self, step: Step, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        return apply_linear(step, weight, bias, x)


def apply_linear(
    step: Step, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    match step.layer:
        case Conv(stride=stride, pad=(before, after)):
            if step.columns == 1 and blocks.wins(x, weight, stride):
                return blocks.conv2d(x, weight, bias, stride, (before, after))
            if winograd.wins(x, weight, stride, (before, after), step.columns):
                return winograd.conv2d(x, weight, bias, step.columns)
            if before != after:
                x = F.pad(x, (before, after, before, after))
                before = 0
            return F.conv2d(x, weight, bias, stride, before, groups=step.columns)
        case Local(pad=pad):
            return ops.locally_connected(x, weight, bias, pad)
        case Full():
            x = x.flatten(1)
            if step.columns == 1:
                return F.linear(x, weight, bias)
            parts = zip(
                *(t.chunk(step.columns, dim) for t, dim in ((x, 1), (weight, 0), (bias, 0))),
                strict=True,
            )
            return torch.cat([F.linear(*part) for part in parts], dim=1)


def apply_unit(x: torch.Tensor, unit: Literal["relu", "tanh", "logistic"]) -> torch.Tensor:
    """Section 3.1: max(0, x), tanh(x) or 1 / (1 + exp(-x))."""
    return F.relu(x) if unit == "relu" else torch.tanh(x) if unit == "tanh" else torch.sigmoid(x)


def build(architecture: Architecture, seed: int = 0) -> Network:
    """The network of an architecture, its weights drawn from `seed`. Raises ValueError as `plan` does."""
    return Network(architecture, seed)
