"""The networks that are called AlexNet, and how each expects its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alexnet import recipes
from alexnet.config import Architecture, Augment, Config, Conv, FullyConnected, Layer, OpName, Sgd


@dataclass(frozen=True)
class Net:
    """A network that files of weights are compared with.

    Attributes:
        name: Name of its recipe, or of its own if it has none.
        title: The network in words.
        config: Makes its config.
        layouts: Whose names its published files have.
        bgr: Its images have the channels in the order B, G, R.
        mean_rgb: The mean of each channel that it is known to subtract, in gray levels; empty: the
            mean image of its training set.
    """

    name: str
    title: str
    config: Callable[[], Config]
    layouts: tuple[str, ...]
    bgr: bool = False
    mean_rgb: tuple[float, ...] = ()


# The mean of Caffe's mean image of ImageNet 2012. Its files have it as B, G, R.
CAFFE_MEAN = (122.67891434, 116.66876762, 104.00698793)
# TF-slim's vgg_preprocessing, which it uses for alexnet_v2 too.
SLIM_MEAN = (123.68, 116.78, 103.94)


def slim_v2() -> Config:
    """TF-slim's alexnet_v2, which no recipe trains.

    It has torchvision's layers with other widths, no padding in conv1, and so 5x5 maps before fc6.
    """
    pooled: tuple[OpName, ...] = ("activation", "max_pool")
    layers: tuple[Layer, ...] = (
        Conv("conv1", 64, 11, stride=4, std=0.005, then=pooled),
        Conv("conv2", 192, 5, pad=(2, 2), std=0.005, bias=0.1, then=pooled),
        Conv("conv3", 384, 3, pad=(1, 1), std=0.005, bias=0.1),
        Conv("conv4", 384, 3, pad=(1, 1), std=0.005, bias=0.1),
        Conv("conv5", 256, 3, pad=(1, 1), std=0.005, bias=0.1, then=pooled),
        FullyConnected("fc6", 4096, std=0.005, bias=0.1, then=("activation", "dropout")),
        FullyConnected("fc7", 4096, std=0.005, bias=0.1, then=("activation", "dropout")),
        FullyConnected("fc8", 1000, std=0.005),
    )
    base = recipes.torchvision()
    return Config(
        "slim_v2",
        Architecture(layers, dropout=base.architecture.dropout),
        Augment(mean="centre", colour="none", test_patches="centre"),
        Sgd(),
        base.schedule,
    )


NETS = (
    Net("paper", "the network of the paper", recipes.paper, ("ours", "graph")),
    Net("original", "the authors' own network (145)", recipes.original, ("ours", "graph")),
    Net(
        "one_column",
        "the one-column net of the paper's section 3.2",
        recipes.one_column,
        ("ours", "graph"),
    ),
    Net(
        "original_one_column",
        "the authors' one-column net (145-half)",
        recipes.original_one_column,
        ("ours", "graph"),
    ),
    Net("six_conv", "the paper's net with six convolutions", recipes.six_conv, ("ours", "graph")),
    Net(
        "original_six_conv",
        "the authors' net with six convolutions (146)",
        recipes.original_six_conv,
        ("ours", "graph"),
    ),
    Net(
        "caffe_alexnet",
        "Caffe's AlexNet (bvlc_alexnet)",
        recipes.caffe_alexnet,
        ("caffe", "ours", "graph"),
        bgr=True,
        mean_rgb=CAFFE_MEAN,
    ),
    Net(
        "caffenet",
        "CaffeNet (bvlc_reference_caffenet)",
        recipes.caffenet,
        ("caffe", "ours", "graph"),
        bgr=True,
        mean_rgb=CAFFE_MEAN,
    ),
    Net(
        "torchvision",
        "torchvision's alexnet",
        recipes.torchvision,
        ("torchvision", "ours", "graph"),
    ),
    Net("slim_v2", "TF-slim's alexnet_v2", slim_v2, ("slim", "ours", "graph"), mean_rgb=SLIM_MEAN),
)
