"""Other programs' AlexNets, written out from their own files, independently of the package.

torchvision's from its module, Caffe's from train_val.prototxt and the formulas of its layers, and
TF-slim's from alexnet.py. Caffe and TF-slim are NumPy in float64, layer by layer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[Any]


def torchvision_alexnet(width: float = 1.0, classes: int = 1000) -> nn.Module:
    """torchvision.models.alexnet, at a fraction of its width."""

    def n(units: int) -> int:
        return round(units * width)

    class AlexNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(
                nn.Conv2d(3, n(64), kernel_size=11, stride=4, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=3, stride=2),
                nn.Conv2d(n(64), n(192), kernel_size=5, padding=2),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=3, stride=2),
                nn.Conv2d(n(192), n(384), kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(n(384), n(256), kernel_size=3, padding=1),
                nn.ReLU(),
                nn.Conv2d(n(256), n(256), kernel_size=3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(kernel_size=3, stride=2),
            )
            self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
            self.classifier = nn.Sequential(
                nn.Dropout(),
                nn.Linear(n(256) * 6 * 6, n(4096)),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(n(4096), n(4096)),
                nn.ReLU(),
                nn.Linear(n(4096), classes),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.avgpool(self.features(x))
            return self.classifier(torch.flatten(x, 1))  # type: ignore[no-any-return]

    return AlexNet().eval()


def torchvision_input(images: NDArray[np.uint8]) -> torch.Tensor:
    """ToTensor, CenterCrop(224) and Normalize of its reference, of images (N, 256, 256, 3)."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = x[:, :, 16:240, 16:240]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (x - mean[:, None, None]) / std[:, None, None]


def conv(x: Array, weight: Array, bias: Array, stride: int, pad: int, group: int = 1) -> Array:
    """A convolution with groups; x (N, C, H, W), weight (K, C / group, S, S)."""
    size = weight.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    outputs = []
    for part, w in zip(np.split(x, group, 1), np.split(weight, group), strict=True):
        windows = np.lib.stride_tricks.sliding_window_view(part, (size, size), (2, 3))
        windows = windows[:, :, ::stride, ::stride]
        outputs.append(np.tensordot(windows, w, axes=((1, 4, 5), (1, 2, 3))))
    return np.concatenate(outputs, -1).transpose(0, 3, 1, 2) + bias.reshape(1, -1, 1, 1)


def caffe_pool(x: Array, size: int = 3, stride: int = 2) -> Array:
    """pooling_layer.cpp: sides are rounded up, and windows are clipped at the border."""
    side = -(-(x.shape[2] - size) // stride) + 1
    rows = [
        [
            x[:, :, i * stride : i * stride + size, j * stride : j * stride + size].max((2, 3))
            for j in range(side)
        ]
        for i in range(side)
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def caffe_lrn(
    x: Array, local_size: int = 5, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """lrn_layer.cpp, across all channels: scale = k + alpha / n * sum of squares."""
    pad, channels = (local_size - 1) // 2, x.shape[1]
    scale = np.full_like(x, k)
    for c in range(channels):
        near = x[:, max(0, c - pad) : min(channels, c + pad + 1)]
        scale[:, c] += alpha / local_size * (near**2).sum(1)
    return x * scale**-beta


def caffe_forward(blobs: dict[str, Array], bgr: Array, pool_first: bool) -> dict[str, Array]:
    """Every top of bvlc_alexnet, or of bvlc_reference_caffenet with `pool_first`.

    Args:
        blobs: `conv1/0` and so on, as Caffe has them.
        bgr: (N, 3, 227, 227), less the mean.
    """
    b = {name: blob.astype(np.float64) for name, blob in blobs.items()}
    x = bgr.astype(np.float64)
    tops: dict[str, Array] = {}

    def normalized_and_pooled(x: Array, number: int) -> Array:
        steps = [("norm", caffe_lrn), ("pool", caffe_pool)]
        for name, step in reversed(steps) if pool_first else steps:
            x = tops[f"{name}{number}"] = step(x)
        return x

    x = tops["relu1"] = np.maximum(conv(x, b["conv1/0"], b["conv1/1"], 4, 0), 0)
    x = normalized_and_pooled(x, 1)
    x = tops["relu2"] = np.maximum(conv(x, b["conv2/0"], b["conv2/1"], 1, 2, 2), 0)
    x = normalized_and_pooled(x, 2)
    x = tops["relu3"] = np.maximum(conv(x, b["conv3/0"], b["conv3/1"], 1, 1), 0)
    x = tops["relu4"] = np.maximum(conv(x, b["conv4/0"], b["conv4/1"], 1, 1, 2), 0)
    x = tops["relu5"] = np.maximum(conv(x, b["conv5/0"], b["conv5/1"], 1, 1, 2), 0)
    x = tops["pool5"] = caffe_pool(x)
    x = x.reshape(len(x), -1)
    x = tops["relu6"] = np.maximum(x @ b["fc6/0"].T + b["fc6/1"], 0)
    x = tops["relu7"] = np.maximum(x @ b["fc7/0"].T + b["fc7/1"], 0)
    tops["fc8"] = x @ b["fc8/0"].T + b["fc8/1"]
    return tops


def caffe_blobs(
    seed: int, width: float = 1.0, classes: int = 1000, scale: float = 1.5
) -> dict[str, NDArray[np.float32]]:
    """Random blobs of Caffe's nets, whose signal neither fades nor grows much."""
    rng = np.random.default_rng(seed)

    def n(units: int) -> int:
        return round(units * width)

    shapes = {
        "conv1": (n(96), 3, 11, 11),
        "conv2": (n(256), n(96) // 2, 5, 5),
        "conv3": (n(384), n(256), 3, 3),
        "conv4": (n(384), n(384) // 2, 3, 3),
        "conv5": (n(256), n(384) // 2, 3, 3),
        "fc6": (n(4096), n(256) * 36),
        "fc7": (n(4096), n(4096)),
        "fc8": (classes, n(4096)),
    }
    blobs = {}
    for name, shape in shapes.items():
        fan_in = int(np.prod(shape[1:]))
        weight = rng.standard_normal(shape, np.float32) * np.float32(scale / np.sqrt(fan_in))
        blobs[f"{name}/0"] = weight
        blobs[f"{name}/1"] = 0.1 * rng.standard_normal(shape[0], np.float32)
    return blobs


def caffe_input(images: NDArray[np.uint8], mean_bgr: Array) -> Array:
    """data_transformer.cpp at test time, of images (N, 256, 256, 3) in RGB: BGR less the mean."""
    bgr = images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float64)
    centre = (256 - 227) // 2
    crop = np.s_[centre : centre + 227]
    mean = mean_bgr[:, crop, crop] if mean_bgr.ndim == 3 else mean_bgr[:, None, None]
    return bgr[:, :, crop, crop] - mean


def slim_variables(seed: int, width: float, classes: int) -> dict[str, NDArray[np.float32]]:
    """Random variables of alexnet_v2, (height, width, inputs, outputs)."""
    rng = np.random.default_rng(seed)

    def n(units: int) -> int:
        return round(units * width)

    shapes = {
        "conv1": (11, 11, 3, n(64)),
        "conv2": (5, 5, n(64), n(192)),
        "conv3": (3, 3, n(192), n(384)),
        "conv4": (3, 3, n(384), n(384)),
        "conv5": (3, 3, n(384), n(256)),
        "fc6": (5, 5, n(256), n(4096)),
        "fc7": (1, 1, n(4096), n(4096)),
        "fc8": (1, 1, n(4096), classes),
    }
    variables = {}
    for name, shape in shapes.items():
        std = np.float32(1.5 / np.sqrt(np.prod(shape[:3])))
        variables[f"alexnet_v2/{name}/weights"] = rng.standard_normal(shape, np.float32) * std
        variables[f"alexnet_v2/{name}/biases"] = 0.1 * rng.standard_normal(shape[3], np.float32)
    return variables


def slim_forward(variables: dict[str, Array], rgb: Array) -> dict[str, Array]:
    """alexnet_v2 for (N, 3, 224, 224), with its layers as convolutions throughout."""

    def layer(x: Array, name: str, stride: int = 1, pad: int = 0) -> Array:
        weight = variables[f"alexnet_v2/{name}/weights"].astype(np.float64).transpose(3, 2, 0, 1)
        return conv(x, weight, variables[f"alexnet_v2/{name}/biases"].astype(float), stride, pad)

    def pool(x: Array) -> Array:
        side = (x.shape[2] - 3) // 2 + 1  # VALID
        return caffe_pool(x)[:, :, :side, :side]

    tops: dict[str, Array] = {}
    x = tops["relu1"] = np.maximum(layer(rgb, "conv1", 4), 0)
    x = tops["pool1"] = pool(x)
    x = tops["relu2"] = np.maximum(layer(x, "conv2", 1, 2), 0)
    x = tops["pool2"] = pool(x)
    x = tops["relu3"] = np.maximum(layer(x, "conv3", 1, 1), 0)
    x = tops["relu4"] = np.maximum(layer(x, "conv4", 1, 1), 0)
    x = tops["relu5"] = np.maximum(layer(x, "conv5", 1, 1), 0)
    x = tops["pool5"] = pool(x)
    x = tops["relu6"] = np.maximum(layer(x, "fc6"), 0)
    x = tops["relu7"] = np.maximum(layer(x, "fc7"), 0)
    tops["fc8"] = layer(x, "fc8")
    return tops
