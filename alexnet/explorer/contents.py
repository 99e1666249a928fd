"""What a page knows beside the network: its plan, some images of a store, and facts about units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.architecture import Op
from alexnet.data.augment import evaluation_crops
from alexnet.data.image import Rgb, encode
from alexnet.data.loader import batches
from alexnet.data.sources.source import readable
from alexnet.data.store import Split
from alexnet.errors import RunError
from alexnet.model import evaluation_mode
from alexnet.progress import Progress
from alexnet.receptive_field import field
from alexnet.snapshots import Growth, growth
from alexnet.trained import Trained
from alexnet.units import PATCHES, cut, equally_spaced, maximise, middle

BATCH = 16  # images; the values of all layers are kept for the gradients
EXAMPLES = 12
"""Number of example images on the page, one of each class where there are enough classes.
They are stored without loss, so that the page computes what we do."""
START_P = 0.9
"""About how probable the class of the first example is to the network."""
SPOKEN_FOR = 3
"""Number of classes that are listed as evidence for each unit."""
THUMBNAIL_PX = 16
"""Side of the images whose pixels are compared. Nearest neighbors hardly need more."""
JPEG_QUALITY = 85

MOST_NUMBERED = 1 << 16
"""Most images, classes and positions of a map: the page numbers them with uint16."""

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class Contents:
    """The data of a page.

    Attributes:
        about: Values that JSON can hold.
        arrays: Numbers by name: float32, float16, uint16 or uint8.
        files: Image files by name.
    """

    about: dict[str, Any]
    arrays: dict[str, NDArray[Any]]
    files: dict[str, list[bytes]]


@dataclass(frozen=True)
class Responses:
    """How the units of one layer respond to each of N images, through the center crop.

    Attributes:
        values: (N, units) float32, the largest value in the unit's map.
        places: (N, units), where in the map it is: row * width + column.
        adds: (N, units) float32, what the unit adds to the logit of the image's class, above what
            it adds to the mean logit: value times gradient, summed over the map.
    """

    values: Float32
    places: NDArray[np.int64]
    adds: Float32


def contents(
    trained: Trained,
    split: Split,
    run: Path,
    images: int,
    units: int,
    other_growth: Growth | None = None,
) -> Contents:
    """Compute the data of a page.

    Args:
        split: Where its images come from.
        run: Folder of the run; the page has its name, and its snapshots if it has kept any.
        images: Number of images of the split, as `choose` takes them; all if it has fewer.
        units: For how many units of a layer, at most, an image is made that maximizes them.
        other_growth: The snapshots of another run, which the page shows beside those of this one.

    Raises:
        RunError: The split has no image, or there are more images, classes or positions than a
            page numbers.
        DataError: An image of the split is damaged.
    """
    chosen = choose(split.labels, images)
    if not len(chosen):
        raise RunError("the split has no images; name another store or --split")
    layers = [op for op in trained.net.plan if op.name == op.layer.name]
    _check_numbers(len(chosen), len(trained.classes), layers)
    responses, pixels = respond(trained, split, chosen)
    labels = split.labels[chosen]
    hidden = layers[max(0, len(layers) - 2)].name
    arrays: dict[str, NDArray[Any]] = {
        "mean": _mean(trained),
        "labels": labels.astype(np.uint16),
        "thumbnails": np.stack([thumbnail(crop) for crop in pixels]),
        # Of a fully connected layer, the largest value in a unit's map is the unit's value.
        "hidden": responses[hidden].values.astype(np.float16),
    }
    if (filters := trained.net.first_weight()).dim() == 4:
        arrays["filters"] = filters.float().cpu().numpy()
    growths = [kept for kept in (growth(run, trained.config), other_growth) if kept is not None]
    for number, snapshots in enumerate(growths):
        arrays[f"snapshots/{number}"] = snapshots.filters
    for op in layers:
        arrays |= _facts_of_units(op.name, responses[op.name], labels, len(trained.classes))
    files = {
        "images": [encode(crop, "jpeg", JPEG_QUALITY) for crop in pixels],
        "examples": [encode(image, "png") for image in _stored(split, chosen[:EXAMPLES])],
    }
    made = {op.name: _alive(responses[op.name].values.max(0), units) for op in layers}
    for op in layers:
        files[f"{op.name}/made"] = _maximising(trained, op, made[op.name])
    about = {
        "run": readable(run.resolve().name),
        "snapshots": [
            {"run": kept.run, "recipe": kept.recipe, "columns": kept.columns, "epochs": kept.epochs}
            for kept in growths
        ],
        "recipe": trained.config.recipe,
        "classes": trained.names,
        "layers": [op.name for op in layers],
        "hidden": hidden,
        "examples": list(range(min(EXAMPLES, len(chosen)))),
        "start": _start(responses[layers[-1].name].values, labels),
        "images": {"count": len(chosen), "of": len(split)},
        "thumbnail_px": THUMBNAIL_PX,
        "made": made,
    }
    return Contents(about | _network(trained) | _preprocessing(trained), arrays, files)


def _check_numbers(images: int, classes: int, layers: Sequence[Op]) -> None:
    """Raise RunError if there are more images, classes or positions than a page numbers."""
    if images > MOST_NUMBERED:
        raise RunError(
            f"{images:,} images are too many for a page; give --images {MOST_NUMBERED} or fewer"
        )
    if classes > MOST_NUMBERED:
        raise RunError(f"{classes:,} classes are too many for a page; {MOST_NUMBERED:,} fit")
    for op in layers:
        _, height, width = op.shape
        if height * width > MOST_NUMBERED:
            raise RunError(
                f"the maps of {op.name} have {height} x {width} positions, which are too many for "
                "a page; train with a smaller architecture.input_px"
            )


def choose(labels: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """Choose images of all classes alike.

    Returns:
        At most `limit` positions in the split: the first image of each class, then the second, ...
        With fewer images than classes, the first one of classes at equal distances.
    """
    order = np.argsort(labels, kind="stable")
    sorted_labels = labels[order]
    # Number of each image among those of its class.
    number = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels)
    chosen = order[np.lexsort((sorted_labels, number))]
    classes = len(np.unique(labels))
    # Neighbors in a list of classes are alike: the first 400 of ImageNet are animals.
    return chosen[equally_spaced(classes, limit)] if limit < classes else chosen[:limit]


def _start(logits: Float32, labels: NDArray[np.int64]) -> int:
    """The number of the example that the page begins with.

    Its class is predicted, but not with a probability of nearly 1: nothing that is done to such an
    image changes the answer.
    """
    p = torch.from_numpy(logits[:EXAMPLES]).softmax(1).numpy()
    p_of_class = p[np.arange(len(p)), labels[: len(p)]]
    return int(np.abs(p_of_class - START_P).argmin())


def respond(
    trained: Trained, split: Split, chosen: NDArray[np.int64]
) -> tuple[dict[str, Responses], list[Rgb]]:
    """Compute the responses of all units of all layers to some images, and cut out their crops.

    Returns:
        By name of the layer; and the center crops, (input_px, input_px, 3) each.
    """
    layers = [op.name for op in trained.net.plan if op.name == op.layer.name]
    parts: dict[str, list[tuple[torch.Tensor, ...]]] = {layer: [] for layer in layers}
    crops: list[Rgb] = []
    with (
        evaluation_mode(trained.net),
        Progress(f"{len(chosen)} images", len(chosen), "images") as progress,
    ):
        for batch in batches(split, chosen, BATCH):
            images = batch.images
            labels = torch.from_numpy(split.labels[batch.index]).to(trained.preprocess.device)
            x = trained.preprocess.centre(images).float()
            with torch.enable_grad():
                values = trained.net.activations(x)
                logits = values[trained.net.plan[-1].name].flatten(1)
                margin = logits.gather(1, labels[:, None]).sum() - logits.mean(1).sum()
                grads = torch.autograd.grad(margin, [values[layer] for layer in layers])
            for layer, grad in zip(layers, grads, strict=True):
                value = values[layer].detach()
                maps = value.reshape(*value.shape[:2], -1)
                best, place = maps.max(2)
                adds = (maps * grad.reshape(maps.shape)).sum(2)
                parts[layer].append((best.cpu(), place.cpu(), adds.cpu()))
            for image in images.cpu().numpy():
                crops.append(np.ascontiguousarray(trained.preprocess.centre_pixels(image)))
            progress.advance(len(x))
    joined = {
        layer: Responses(*(torch.cat(tensors).numpy() for tensors in zip(*per_batch, strict=True)))
        for layer, per_batch in parts.items()
    }
    return joined, crops


def _facts_of_units(
    layer: str, responses: Responses, labels: NDArray[np.int64], classes: int
) -> dict[str, NDArray[Any]]:
    """Where the units of a layer are strongest, and the classes that they are evidence for.

    Args:
        labels: (N,), of the images that the responses are to.
        classes: Number of classes.

    Returns:
        (units, k) arrays, largest first, by the names that the page knows them by.
    """
    best = np.argsort(-responses.values, axis=0, kind="stable")[:PATCHES].T
    places = np.take_along_axis(responses.places.T, best, 1)
    spoken_for, adds = speaks_for(responses.adds, labels, classes)
    return {
        f"{layer}/images": best.astype(np.uint16),
        f"{layer}/places": places.astype(np.uint16),
        f"{layer}/values": np.take_along_axis(responses.values.T, best, 1),
        f"{layer}/classes": spoken_for,
        f"{layer}/adds": adds,
    }


def speaks_for(
    adds: Float32, labels: NDArray[np.int64], classes: int
) -> tuple[NDArray[np.uint16], Float32]:
    """Find the classes whose logits each unit raises most, on average over the images of the class.

    Args:
        adds: (N, units), as in `Responses`.
        labels: (N,)
        classes: Number of classes; one without images is never named.

    Returns:
        (units, k) classes and averages, largest first; k is at most SPOKEN_FOR.
    """
    present = np.unique(labels)
    means = np.stack([adds[labels == label].mean(0) for label in present], 1)
    best = np.argsort(-means, axis=1, kind="stable")[:, : min(SPOKEN_FOR, classes)]
    return present[best].astype(np.uint16), np.take_along_axis(means, best, 1)


def thumbnail(crop: Rgb) -> NDArray[np.uint8]:
    """Average a crop in 16x16 squares, as equal as whole pixels can be: (16, 16, 3).

    The page computes the same for the image of its reader.
    """
    px = len(crop)
    starts = np.arange(THUMBNAIL_PX) * px // THUMBNAIL_PX
    sizes = np.diff(starts, append=px)
    sums = np.add.reduceat(np.add.reduceat(crop.astype(np.int64), starts, 0), starts, 1)
    means = sums / (sizes[:, None] * sizes)[..., None]
    small: NDArray[np.uint8] = np.floor(means + 0.5).astype(np.uint8)
    return small


def _stored(split: Split, chosen: NDArray[np.int64]) -> list[Rgb]:
    """Stored images, (stored_px, stored_px, 3) each."""
    return [image for batch in batches(split, chosen, BATCH) for image in batch.images.numpy()]


def _alive(largest: Float32, limit: int) -> list[int]:
    """The units an image is made for: those that responded most to any image, by number."""
    best = np.argsort(-largest, kind="stable")[:limit]
    return sorted(int(unit) for unit in best if largest[unit] > 0)


def _maximising(trained: Trained, op: Op, units: Sequence[int]) -> list[bytes]:
    """What maximizes each unit, cut to what the unit sees, as JPEG files."""
    if not units:
        return []
    architecture = trained.net.architecture
    images = maximise(trained.net, trained.preprocess, op.name, units)
    place = middle(architecture, op.name)
    patches = [cut(architecture, op.name, image, *place).pixels for image in images]
    return [encode(np.ascontiguousarray(p), "jpeg", JPEG_QUALITY, "444") for p in patches]


def _network(trained: Trained) -> dict[str, Any]:
    """The plan of the network."""
    architecture = trained.net.architecture
    ops = [
        {
            "name": op.name,
            "op": op.op,
            "layer": op.layer.name,
            "shape": op.shape,
            "sees": op.columns,
            "field": asdict(field(architecture, op.name)),
        }
        for op in trained.net.plan
    ]
    lrn = asdict(architecture.lrn) | {"columns": architecture.lrn_columns}
    return {
        "ops": ops,
        "columns": architecture.columns,
        "activation": architecture.activation,
        "lrn": lrn,
    }


def _preprocessing(trained: Trained) -> dict[str, Any]:
    """How a stored image becomes the input of the network."""
    preprocess = trained.preprocess
    crops = evaluation_crops(preprocess.augment, preprocess.stored_px, preprocess.input_px)
    deviation = preprocess.deviation
    return {
        "stored_px": preprocess.stored_px,
        "input_px": preprocess.input_px,
        "crop_px": preprocess.test_px,
        "crops": crops,
        "centre": [(preprocess.stored_px - preprocess.test_px) // 2] * 2 + [False],
        "mean_moves": preprocess.mean_moves,
        "deviation": None if deviation is None else deviation.tolist(),
    }


def _mean(trained: Trained) -> Float32:
    """What is subtracted: of the stored image or of the center crop, as `mean_moves` says."""
    result: Float32 = trained.preprocess.subtracted.cpu().numpy()
    return result
