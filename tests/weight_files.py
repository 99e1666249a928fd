"""Files of weights as other programs write them, untrained networks of ours, and comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from alexnet import recipes
from alexnet.checkpoint import read as read_checkpoint
from alexnet.checkpoint import write
from alexnet.config import Config
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.inference import activations
from alexnet.model import Network
from alexnet.saved_config import to_dict
from alexnet.trained import Trained
from alexnet.weights import caffemodel
from alexnet.weights.exporting import operations
from alexnet.weights.files import read
from alexnet.weights.identify import identify
from tests import frameworks

WIDTH, CLASSES = 1 / 16, 10
IMAGES = np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), np.uint8)
MEAN_IMAGE = np.random.default_rng(4).uniform(90, 130, (3, 256, 256)).astype(np.float32)


def caffe_architecture(pool_first: bool, width: float = WIDTH, classes: int = CLASSES) -> Any:
    recipe = recipes.caffenet if pool_first else recipes.caffe_alexnet
    return replace(recipe().architecture, width=width, classes=classes)


def caffe_file(path: Path, blobs: dict[str, Any], pool_first: bool, **size: Any) -> Path:
    """A .caffemodel with its layers, or an .npz with the blobs alone."""
    if path.suffix == ".npz":
        np.savez(path, **blobs)
    else:
        layers = operations(caffe_architecture(pool_first, **size))
        path.write_bytes(caffemodel.write("net", blobs, layers))
    return path


def torchvision_file(path: Path, wrap: Callable[[Any], Any] = dict) -> dict[str, torch.Tensor]:
    """Random weights under torchvision's names, in the format of the file's suffix."""
    torch.manual_seed(5)
    state = frameworks.torchvision_alexnet(WIDTH, CLASSES).state_dict()
    if path.suffix == ".safetensors":
        save_file(state, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        torch.save(wrap(state), path)
    return dict(state)


def trained_of(recipe: str, change: Callable[[Config], Config] = lambda config: config) -> Trained:
    """A network with random weights, an eighth of the width of a recipe's, ready to be used."""
    config = change(getattr(recipes, recipe)())
    architecture = replace(config.architecture, width=1 / 8, classes=CLASSES)
    config = replace(config, architecture=architecture)
    net = Network(architecture).eval()
    statistics = Statistics(np.full((256, 256, 3), 120.0), np.eye(3))
    preprocess = Preprocess(config.augment, statistics, architecture.input_px, torch.device("cpu"))
    classes = tuple(f"class {i}" for i in range(CLASSES))
    about = {"config": to_dict(config), "recipe": recipe, "store": "", "sha256": "0"}
    return Trained(net, preprocess, classes, about)


def assert_same(trained: Trained, want: dict[str, Any], images: Any = IMAGES) -> None:
    """Compare the values of all layers, asked for by the other program's names."""
    x = trained.preprocess.centre(torch.from_numpy(images))
    with torch.no_grad():
        got = activations(trained, list(want), x)
    for name, value in want.items():
        value = np.asarray(value).reshape(got[name].shape)
        size = np.abs(value).max()
        assert size > 0.01, name
        # Ours are float32; the largest sum has 9,216 terms.
        assert np.abs(got[name].numpy() - value).max() < 2e-5 * size, name


def reason_of(path: Path) -> str:
    """Why a file holds none of the networks that are known."""
    found = identify(read(path))
    assert not found.candidates
    return found.reason


def run_of(architecture: Any, recipe: str, path: Path) -> Any:
    """A run with these weights at their start."""
    config = replace(getattr(recipes, recipe)(), architecture=architecture)
    about = {
        "config": to_dict(config),
        "recipe": recipe,
        "store": "",
        "classes": [f"class {i}" for i in range(CLASSES)],
        "covariance": np.zeros((3, 3)).tolist(),
    }
    path.mkdir()
    px = architecture.input_px
    stored = torch.zeros(px, px, 3)
    weights = dict(Network(architecture).named_parameters())
    write(path / "last.safetensors", weights, {}, stored, about | {"stored_px": px})
    return read_checkpoint(path)
