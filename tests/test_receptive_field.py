"""Receptive fields from the plan are what gradients and changed pixels say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from alexnet import layer_tables, receptive_field, recipes
from alexnet.architecture import plan
from alexnet.config import Architecture, Conv, FullyConnected, Local, Pool
from alexnet.errors import ConfigError
from alexnet.model import Network
from alexnet.receptive_field import Box, Field, field, operations_until, seen
from tests.conftest import tiny_architecture

# As in the CIFAR-10 networks: pools whose last window ends outside of the map, and local layers.
PARTIAL = Architecture(
    (
        Conv("conv1", 4, 5, pad=(2, 2), std=0.2, then=("activation", "max_pool")),
        Conv("conv2", 4, 3, pad=(1, 1), std=0.2, then=("activation", "avg_pool")),
        Local("local3", 4, 3, pad=(1, 1), std=0.2),
        FullyConnected("fc4", 3, std=0.2),
    ),
    input_px=24,
    pool=Pool(partial=True),
)


def touched(net: Network, name: str, row: int, column: int) -> Box:
    """The smallest box around all pixels that have a gradient in one of many random images."""
    px = net.architecture.input_px
    x = torch.randn(64, 3, px, px, dtype=torch.float64).requires_grad_()
    value = net.activations(x)[name]
    if value.dim() == 4:
        value = value[:, :, row, column]
    # Each map with a weight of its own, so that no two of them cancel.
    (gradient,) = torch.autograd.grad((value * torch.randn_like(value[0])).sum(), x)
    pixels = gradient.ne(0).any(0).any(0)
    rows, columns = pixels.any(1).nonzero(), pixels.any(0).nonzero()
    return Box(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


@pytest.mark.parametrize(
    ("architecture", "name"),
    [
        (tiny_architecture(), "conv1.linear"),
        (tiny_architecture(), "conv1"),
        (tiny_architecture(), "conv2.lrn"),
        (tiny_architecture(), "conv2.spatial_norm"),
        (tiny_architecture(), "conv3"),
        (PARTIAL, "conv1.max_pool"),
        (PARTIAL, "conv2"),
        (PARTIAL, "local3"),
        (PARTIAL, "fc4"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.input_px),
)
def test_gradients_are_not_zero_exactly_within_the_field(
    architecture: Architecture, name: str
) -> None:
    # No ReLU, which would hide pixels.
    net = Network(replace(architecture, activation="tanh")).double().eval()
    _, height, width = operations_until(net.architecture, name)[-1].shape
    for row, column in {(0, 0), (height // 2, width // 2), (height - 1, width - 1)}:
        assert touched(net, name, row, column) == seen(net.architecture, name, row, column)


def test_fields_of_the_paper() -> None:
    architecture = recipes.paper().architecture
    assert field(architecture, "conv1") == Field(11, 4, 0)
    assert field(architecture, "conv2") == Field(51, 8, -16)
    assert field(architecture, "conv5") == Field(163, 16, -64)
    assert field(architecture, "fc8") == Field(224, 0, 0)
    assert seen(architecture, "conv1", 1, 2) == Box(4, 8, 15, 19)
    assert seen(architecture, "fc8", 0, 0) == Box(0, 0, 224, 224)
    # The square of the second normalization reaches two pixels of its map further.
    original = recipes.original().architecture
    assert field(original, "conv3").size_px == field(architecture, "conv3").size_px + 4 * 8
    assert field(architecture, "conv1").centre_px(1) == 9


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv5"])
def test_inside_the_image_a_field_is_the_square_of_its_layer(name: str) -> None:
    """Far from the border, where nothing is cut, the two functions agree."""
    architecture = replace(recipes.paper().architecture, input_px=384)
    square = field(architecture, name)
    height = operations_until(architecture, name)[-1].shape[1]
    middle = height // 2
    first = square.first_px + middle * square.stride_px
    box = seen(architecture, name, middle, middle)
    assert box == Box(first, first, first + square.size_px, first + square.size_px)


def test_what_does_not_exist_is_one_sentence() -> None:
    architecture = tiny_architecture()
    with pytest.raises(ConfigError, match=r"no layer 'conv9'; it has conv1.linear"):
        field(architecture, "conv9")
    with pytest.raises(ConfigError, match="conv3 has maps of 3x3; there is no unit at row 3, col"):
        seen(architecture, "conv3", 3, 0)


def test_layers_are_known_by_all_of_their_names() -> None:
    architecture = recipes.paper().architecture
    assert field(architecture, "norm1") == field(architecture, "conv1.lrn")
    assert seen(architecture, "pool2", 1, 2) == seen(architecture, "conv2.max_pool", 1, 2)
    names = [op.name for op in operations_until(recipes.torchvision().architecture, "features.2")]
    assert names == ["conv1.linear", "conv1", "conv1.max_pool"]
    with pytest.raises(ConfigError, match=r"no layer 'norm9'; it has .*conv1\.lrn \(norm1\)"):
        field(architecture, "norm9")


def test_operation_without_a_known_window_is_not_taken_for_one_pixel() -> None:
    """What an operation adds here, mypy names; without it, no field behind may be wrong."""
    architecture = tiny_architecture()
    new: Any = replace(plan(architecture)[0], op="l2_pool")
    for of_operation in (receptive_field._window, layer_tables.settings):
        with pytest.raises(AssertionError, match="l2_pool"):
            of_operation(new, architecture)
