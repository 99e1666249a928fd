"""A trained network with everything it takes to use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from alexnet.architecture import plan
from alexnet.checkpoint import copy_into, read
from alexnet.config import Architecture, Augment, Config
from alexnet.data.augment import evaluation_crops, fixed_crop
from alexnet.data.classes import numbered, short_names
from alexnet.data.device_feed import moved
from alexnet.data.image import Rgb, centre_square, upright_pixels
from alexnet.data.manifest import is_store
from alexnet.data.preprocess import Preprocess
from alexnet.data.storage import is_url
from alexnet.data.store import Store
from alexnet.device import allow_tf32, dtype_of, resolve_device
from alexnet.errors import DataError, RunError
from alexnet.model import Network, evaluation_mode
from alexnet.saved_config import from_dict

CROPS_AT_ONCE = 128
"""Number of crops in one forward pass, and of images that are rescaled at once; it limits the
memory."""


@dataclass(frozen=True)
class Trained:
    """A trained network with everything it takes to use it.

    Attributes:
        net: The network, on its device, in eval mode; its weights are float32.
        preprocess: Turns stored images into the network's input.
        classes: The classes, in the order of the network's outputs.
        about: The header of the checkpoint.
    """

    net: Network
    preprocess: Preprocess
    classes: tuple[str, ...]
    about: dict[str, Any]

    def __call__(self, images: torch.Tensor | NDArray[np.uint8] | Iterable[Any]) -> torch.Tensor:
        """Compute the probability of each class for images of any size.

        Each image is rescaled and cropped as the training images were, and the probabilities are
        averaged over the test crops of the recipe (ten, for instance).

        Args:
            images: (N, H, W, 3) uint8, RGB, or images (H, W, 3) of different sizes from any
                iterable: arrays, tensors or PIL images. Those of PIL may be of any mode, and are
                rotated as their EXIF orientation says, as `predict` does with files. An image that
                `rotate` or `transpose` of PIL has turned upright keeps its orientation and would be
                turned again: use `ImageOps.exif_transpose`, or give `np.asarray(image)`.

        Returns:
            (N, classes) float32, on the network's device.

        Raises:
            DataError: If an image has another shape or dtype, or cannot be decoded.
        """
        # The sentence for files comes from `_rgb`.
        if isinstance(images, str | bytes | Path):
            images = [images]
        # One array can be iterated by its rows, and one image of Pillow not at all.
        several = any(hasattr(images, name) for name in ("__iter__", "__getitem__"))
        shape = getattr(images, "shape", None)
        # Also one gray image, (H, W), and one with the channels first, (3, H, W). A batch of gray
        # images has three dimensions as well; `_rgb` says what is wrong with it.
        is_one = shape is not None and (
            len(shape) in (0, 2) or (len(shape) == 3 and 3 in (shape[0], shape[-1]))
        )
        if is_one or not several:
            raise DataError("a trained network takes several images; give one image as [image]")
        answers = [torch.empty(0, len(self.classes), device=self.preprocess.device)]
        remaining = iter(images)
        while part := list(islice(remaining, CROPS_AT_ONCE)):
            # One by one: the images may have different sizes until they are rescaled.
            stored = [centre_square(_rgb(image), self.preprocess.stored_px) for image in part]
            batch = torch.from_numpy(np.stack(stored))
            answers.append(probabilities(self.net, self.preprocess, batch, self.preprocess.augment))
        return torch.cat(answers)

    @cached_property
    def config(self) -> Config:
        """The config of the run."""
        return from_dict(Config, self.about["config"])

    def open_store(self) -> Store:
        """Open the store that the run was trained on.

        Raises:
            DataError: It is not there.
            RunError: It has been prepared anew, with other classes or another image size.
        """
        store = own_store(self.config)
        check_store(self, store)
        return store

    @property
    def words(self) -> tuple[str, ...]:
        """The words for each class where `classes` are wnids; empty if the store had none."""
        return tuple(self.about.get("words", ()))

    @property
    def names(self) -> tuple[str, ...]:
        """The name to display for each class."""
        return short_names(self.classes, self.words)


def own_store(config: Config) -> Store:
    """Open the store that a run with this config was trained on.

    Raises:
        DataError: The store is not where it was then, or it is damaged.
    """
    data = config.data
    if not data:
        raise DataError(
            "the run was imported and belongs to no store; name one where the verb has --data"
        )
    if not (is_url(data) or is_store(Path(data))):
        raise DataError(
            f"the store that the run was trained on is not there any more: {data}"
            + ("" if Path(data).is_absolute() else f", as seen from {Path().absolute()}")
            + "; put it there again, or name another one where the verb has --data"
        )
    return Store(data)


def check_store(trained: Trained, store: Store, run: str | Path = "the run") -> None:
    """Raise RunError if a store has other classes or another image size than a run was trained on.

    Args:
        run: What the message calls the run.
    """
    check_classes(trained, store, run)
    check_image_size(trained, store, run)


def check_classes(
    trained: Trained, store: Store, run: str | Path = "the run", or_numbered: bool = False
) -> None:
    """Raise RunError if a store has other classes than a run was trained on.

    Args:
        run: What the message calls the run.
        or_numbered: A run that was imported without the names of its classes fits each store with
            as many.
    """
    classes = list(trained.classes)
    unnamed = classes == numbered(len(store.classes))
    if or_numbered and unnamed:
        return
    # Equal and in the same order, because labels are positions in the list.
    if (other := _other_classes(classes, store.classes)) is not None:
        if unnamed and "imported" in trained.about:
            file = trained.about["imported"]["file"]
            raise RunError(
                f"the classes of {run} have no names, and those of {store.name} have; if its "
                f"outputs are in the order of these, import {file} again with --classes "
                f"{store.name}"
            )
        raise RunError(f"{run} was trained on other classes than {store.name} has: {other}")


def check_image_size(trained: Trained, store: Store, run: str | Path = "the run") -> None:
    """Raise RunError if the images of a store have another size than a run was trained on."""
    # Rescaling here would give other pixels than the training images had.
    want = trained.preprocess.stored_px
    if want != store.size_px:
        raise RunError(
            f"{run} needs images of {want} pixels, and {store.name} has {store.size_px}; "
            f"prepare it with --size-px {want}"
        )


def _other_classes(run: list[str], store: list[str]) -> str | None:
    """Describe how the classes of a run and a store differ; None if they are equal and in order.

    Words for the classes are not compared.
    """
    if run == store:
        return None
    if len(run) != len(store):
        return f"{len(run)}, and {len(store)} in the store"
    i = next(i for i, pair in enumerate(zip(run, store, strict=True)) if pair[0] != pair[1])
    return f"class {i + 1} is {run[i]!r}, and {store[i]!r} in the store"


def load(run: str | Path, which: Literal["last", "best"] = "last", device: str = "auto") -> Trained:
    """Load the network of a run folder or .safetensors file, ready for use.

    Activations are float32; on CUDA they have the precision that the run was trained and validated
    with, if that is tf32 or bfloat16. There it sets PyTorch's switches for TF32, which hold for the
    whole process. On a CPU the caller's own switches hold for its float32 products, too.

    Raises:
        RunError: As `read` does, or if the header does not describe the weights.
        ConfigError: If the device does not exist, or the config in the header cannot work.
    """
    torch_device = resolve_device(device)
    saved = read(run, which)
    config = saved.config
    _check_size(config.architecture, saved.weights, len(saved.about["classes"]), saved.file)
    # The weights that are drawn here are overwritten at once; drawing them costs little.
    net = Network(config.architecture).to(torch_device).eval()
    copy_into(net, saved.weights, str(run))
    input_px, precision = config.architecture.input_px, precision_of_use(config, torch_device)
    # On a CPU the caller's switches hold for this network, too.
    if torch_device.type == "cuda":
        allow_tf32(precision)
    dtype = dtype_of(precision)
    preprocess = Preprocess(config.augment, saved.statistics, input_px, torch_device, dtype)
    return Trained(net, preprocess, tuple(saved.about["classes"]), saved.about)


def precision_of_use(config: Config, device: torch.device) -> str:
    """Return the precision in which a trained network is used, a value of `Config.precision`.

    A CPU computes a prediction in float32, whatever the run was trained with: the same numbers on
    every machine count more there than speed. float64 is for tests, and its speed on a GPU poor.
    """
    if device.type == "cuda" and config.precision in ("tf32", "bfloat16"):
        return config.precision
    return "float32"


def _check_size(
    architecture: Architecture, weights: dict[str, torch.Tensor], classes: int, file: Path
) -> None:
    """Compare the architecture in a header with the weights before a network of its size is built.

    Raises:
        RunError: They differ in the number of parameters or of classes.
    """
    ops = plan(architecture)
    count = sum(op.parameters + op.statistics for op in ops)
    if count != sum(weight.numel() for weight in weights.values()):
        raise RunError(
            f"{file} has another architecture than its header says; use another checkpoint"
        )
    if ops[-1].shape[0] != classes:
        raise RunError(
            f"{file} is damaged: its network has another number of classes; use another checkpoint"
        )


def _rgb(image: Any) -> Rgb:
    """Return an image as an array (H, W, 3) of uint8; raise DataError if it is not one."""
    if isinstance(image, str | bytes | Path):
        raise DataError(
            "a trained network takes the pixels of images and no files; open them with Pillow, or "
            "use alexnet.predict(trained, paths)"
        )
    dtype = ""
    if isinstance(image, torch.Tensor):
        dtype = str(image.dtype).removeprefix("torch.")
        # NumPy takes no tensor of a GPU, of bfloat16 or with a gradient.
        image = image.detach().cpu() if dtype == "uint8" else image.detach().cpu().double()
    # An array has no orientation, and a photograph of a telephone may lie on its side in its file.
    rgb: Rgb = upright_pixels(image) if isinstance(image, Image.Image) else np.asarray(image)
    # An array of floats in 0..1 would be read as nearly black.
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        mend = ""
        if rgb.ndim == 2:
            mend = "; repeat a gray image three times: np.repeat(gray[..., None], 3, -1)"
        elif rgb.ndim == 3 and rgb.shape[0] == 3 and rgb.shape[2] != 3:
            method = "permute" if isinstance(image, torch.Tensor) else "transpose"
            mend = f"; put the channels last: image.{method}(1, 2, 0)"
        raise DataError(
            "a trained network takes RGB images (H, W, 3) of uint8; it was given "
            f"{dtype or rgb.dtype} of shape {rgb.shape}{mend}"
        )
    return np.ascontiguousarray(rgb)


@torch.no_grad()
def probabilities(
    net: Network, preprocess: Preprocess, images: torch.Tensor, test: Augment
) -> torch.Tensor:
    """Return the softmax output, averaged over the test crops of each image.

    Args:
        images: (N, stored_px, stored_px, 3) uint8.
        test: Says which crops are taken.

    Returns:
        (N, classes) float32, on the network's device.
    """
    positions = evaluation_crops(test, preprocess.stored_px, preprocess.input_px)
    # One copy for all crops.
    images = moved(images, preprocess.device)
    # The crops of a few images share one forward pass, which reads the large weights of the fully
    # connected layers once and not ten times.
    at_once = max(1, CROPS_AT_ONCE // len(images))
    sums = []
    for first in range(0, len(positions), at_once):
        group = positions[first : first + at_once]
        x = torch.cat(
            [
                preprocess(images, fixed_crop(*position, len(images), test.test_px))
                for position in group
            ]
        )
        # The paper averages the softmax outputs of the crops, not the logits.
        with evaluation_mode(net):
            crops = F.softmax(net(x), dim=1).view(len(group), len(images), -1)
        sums.append(crops.sum(0))
    return torch.stack(sums).sum(0) / len(positions)
