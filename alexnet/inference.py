"""Use of a trained network: classes of image files, activations of any layer, nearest images."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.architecture import op_of
from alexnet.cores import decoding_threads
from alexnet.data.device_feed import on_device
from alexnet.data.image import Rgb, centre_square, decode, defect_of_head
from alexnet.data.loader import batches
from alexnet.data.manifest import is_store
from alexnet.data.sources import files_below, is_image, may_be_image, notes_on_left_out
from alexnet.data.sources.source import UnreadableImage, read_file, readable
from alexnet.data.storage import as_url, is_url
from alexnet.data.store import Split, Store
from alexnet.errors import DataError, RunError
from alexnet.files import check_space, new_folder, write_whole
from alexnet.model import evaluation_mode
from alexnet.progress import Progress
from alexnet.provenance import code_version, describe
from alexnet.terminal import printable
from alexnet.trained import Trained, check_image_size, precision_of_use, probabilities

BATCH = 64  # images
NEAREST = 6  # neighbors of each image in Fig. 4
NAMES_FILE, LABELS_FILE, ABOUT_FILE = "names.txt", "labels.npy", "about.json"

_NamedBatch = tuple[torch.Tensor, list[str], NDArray[np.int64] | None]
"""Images (N, stored_px, stored_px, 3) uint8, their names, and their labels if these are known."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, or the reason why it could not be read.

    Attributes:
        file: Path of the file.
        classes: Classes and their probabilities, most probable first.
        error: Why the file could not be read; None for a readable one.
    """

    file: str
    classes: tuple[tuple[str, float], ...]
    error: str | None = None


def image_files(paths: str | Path | Sequence[str | Path]) -> list[Path]:
    """Return the image files among `paths` and in the folders among them, in order.

    One path may stand for a list of one. A file that is named itself is returned whatever its
    suffix. Images in a folder that cannot be decoded here are left out, as `prepare` does; a note
    on stderr counts them.

    Raises:
        RunError: If a path does not exist, or there is no image file.
    """
    # A string is a sequence as well, of its letters.
    if isinstance(paths, str | Path):
        paths = [paths]
    files: list[Path] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = files_below(path)
            # With links that lead nowhere, which are errors of these images and not to be missed.
            files += [p for p in below if is_image(p) and not p.is_dir()]
            notes += notes_on_left_out(filter(may_be_image, below), path)
        # The suffix does not matter: the user means this file.
        elif path.is_file():
            files.append(path)
        elif path.exists():
            raise RunError(f"{path} is not a regular file; save the image and give the file")
        elif is_url(path):
            raise RunError(f"{as_url(path)} is a URL; download the image and give the file")
        else:
            raise RunError(f"{path} does not exist")
    if not files:
        raise RunError("; ".join([f"no images in {', '.join(map(str, paths))}", *notes]))
    for note in notes:
        print(printable(note), file=sys.stderr)
    return files


def predict(
    trained: Trained, paths: str | Path | Sequence[str | Path], most: int = 5
) -> Iterator[Prediction]:
    """Yield the `most` most probable classes of each image.

    `paths` are image files and folders of them, or one of these.

    The probabilities are averaged over the recipe's test crops (ten, for instance). A file that is
    not an image yields a Prediction with `error` and without classes, so that one bad file does not
    end the classification of a folder.
    """
    # A network with three classes has no five best ones.
    most = min(most, len(trained.classes))
    files = image_files(paths)
    # A CPU takes them one by one: it adds in another order for a batch of another size, and the
    # last bits of a prediction must not depend on the files beside it.
    at_once = BATCH if trained.preprocess.device.type == "cuda" else 1
    for first in range(0, len(files), at_once):
        yield from _predictions(trained, files[first : first + at_once], most)


def _predictions(trained: Trained, paths: Sequence[Path], most: int) -> list[Prediction]:
    """Return what `predict` yields for these files, from one batch."""
    preprocess = trained.preprocess
    images: dict[Path, Rgb] = {}
    errors: dict[Path, str] = {}
    for path in paths:
        try:
            images[path] = _decoded(path, preprocess.stored_px)
        except (DataError, OSError) as error:
            errors[path] = str(error)
    classes: dict[Path, tuple[tuple[str, float], ...]] = {}
    if images:
        batch = torch.from_numpy(np.stack(list(images.values())))
        p = probabilities(trained.net, preprocess, batch, preprocess.augment).cpu()
        # A stable sort breaks ties by the order of the classes, the same on every machine.
        best = torch.argsort(p, dim=1, descending=True, stable=True)[:, :most].tolist()
        for path, row, order in zip(images, p.tolist(), best, strict=True):
            classes[path] = tuple((trained.classes[i], row[i]) for i in order)
    return [
        Prediction(readable(str(path)), classes.get(path, ()), errors.get(path)) for path in paths
    ]


def read_image(file: str | Path, size_px: int) -> Rgb:
    """Read an image file as the training images were prepared: (size_px, size_px, 3).

    Raises:
        DataError: The file is not an image or cannot be read; the message names it.
    """
    try:
        return _decoded(Path(file), size_px)
    except DataError as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from None


def _decoded(file: Path, size_px: int) -> Rgb:
    """Do what `read_image` does; the message of its DataError is the reason alone."""
    # Photographs of users carry EXIF orientations, which ImageNet's preparation ignores.
    try:
        data = read_file(file)
    except UnreadableImage as error:
        raise DataError(str(error)) from None
    rgb = decode(data, upright=True, enough_px=size_px)
    return np.ascontiguousarray(centre_square(rgb, size_px))


@torch.no_grad()
def features(
    trained: Trained,
    layers: str | Sequence[str],
    source: str | Path,
    out: str | Path,
    split: str = "",
) -> int:
    """Write the activations of layers for the center crop of each image, in one pass.

    Args:
        layers: Names of operations of the network, as a list or separated by commas; "all": every
            layer of its table.
        source: A store, or a folder of image files.
        out: A new folder. It gets `<layer>.npy` for each layer, (N, ...) float32; `names.txt` with
            a line for each image; from a store, `labels.npy`, (N,) int64, numbers of the store's
            classes; and `about.json`, which says of what network and images they are. Activations
            are written batch by batch, so memory does not grow with N.
        split: Split of the store; if empty, the validation split of the run.

    Returns:
        The number of images.

    Raises:
        ConfigError: If the network has no such layer.
        RunError: If the folder `out` exists, or `split` is given for a folder of images.
        DataError: If a file is not an image.
        AlexNetError: If the disk has less room than the activations need.
    """
    names = layer_names(trained, layers)
    out = Path(out)
    if out.exists():
        raise RunError(f"{out} exists; choose another --out")
    count, named_batches = _named_batches(trained, source, split)
    shapes = {op.name: op.shape for op in trained.net.plan}
    needed = 4 * count * sum(math.prod(shapes[name]) for name in names)
    check_space(out, needed, f"the activations of {', '.join(names)} need")
    # Before the images are read, which may take hours: the store may be gone or changed after them.
    about = _about_features(trained, names, source, split)
    with new_folder(out) as folder:
        _write_features(trained, names, count, named_batches, folder)
        write_whole(folder / ABOUT_FILE, (json.dumps(about, indent=1) + "\n").encode())
    return count


def _about_features(
    trained: Trained, layers: list[str], source: str | Path, split: str
) -> dict[str, Any]:
    """Say what the activations of a folder are, as JSON values.

    Args:
        layers: Our names of the layers.
        source: A store, or a folder of image files.
        split: As in `features`.
    """
    device, shapes = trained.preprocess.device, {op.name: op.shape for op in trained.net.plan}
    images: dict[str, Any] = {"data": readable(str(source))}
    if _is_store_or_url(source):
        store = Store(source)
        images |= {
            "split": split or trained.config.val_split,
            "store": store.checksum,
            # Labels are their numbers. The network may have other classes.
            "classes": store.classes,
        }
    return {
        "about": "alexnet features: activations of a network, one row for each line of names.txt",
        "code": describe(code_version()),
        "run": {
            key: trained.about[key]
            for key in ("recipe", "sha256", "store", "imported", "init")
            if key in trained.about
        },
        "images": images,
        "crop": "center",
        "device": device.type,
        # The files are float32 in any case.
        "precision": precision_of_use(trained.config, device),
        # Of one image: 1x1 maps are written as a vector.
        "layers": {
            name: list(shapes[name][:1] if shapes[name][1:] == (1, 1) else shapes[name])
            for name in layers
        },
    }


def layer_names(trained: Trained, layers: str | Sequence[str]) -> list[str]:
    """Return our names of layers (`Op.name`) that `features` takes, in their order.

    Args:
        layers: Names as `architecture.op_of` takes them.

    Raises:
        ConfigError: If the network has no such layer.
    """
    ops = trained.net.plan
    names = layers.split(",") if isinstance(layers, str) else list(layers)
    if names == ["all"]:
        known = {op.name for op in ops}
        return [layer.name for layer in trained.net.architecture.layers if layer.name in known]
    # A layer that is named twice is one file.
    return list(dict.fromkeys(op_of(ops, name).name for name in names))


def _write_features(
    trained: Trained,
    layers: list[str],
    count: int,
    named_batches: Iterator[_NamedBatch],
    folder: Path,
) -> None:
    """Write the files of `features` into a folder."""
    names: list[str] = []
    labels: list[NDArray[np.int64]] = []
    with ExitStack() as stack:
        progress = stack.enter_context(Progress(f"features {', '.join(layers)}", count, "images"))
        files: dict[str, BinaryIO] = {}
        for images, batch_names, batch_labels in named_batches:
            values = activations(trained, layers, trained.preprocess.centre(images))
            for layer, value in values.items():
                # The shape of the array is known only when the first activations are.
                if layer not in files:
                    # The name of a layer can have a slash, also as its first letter.
                    path = Path(f"{folder}/{layer}.npy")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    files[layer] = stack.enter_context(path.open("wb"))
                    _write_npy_header(files[layer], (count, *value.shape[1:]))
                # Written piece by piece, since ImageNet's fc7 features take 21 GB; and not through
                # a memory map, because a full disk kills a process that writes to one.
                files[layer].write(value.contiguous().numpy().data)
            names += batch_names
            if batch_labels is not None:
                labels.append(batch_labels)
            progress.advance(len(batch_names))
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    if labels:
        # Through memory: NumPy's own error for a full disk has no number.
        content = io.BytesIO()
        np.save(content, np.concatenate(labels))
        write_whole(folder / LABELS_FILE, content.getvalue())
    write_whole(folder / NAMES_FILE, "".join(f"{_one_line(name)}\n" for name in names).encode())


def _one_line(name: str) -> str:
    """Return a name with a question mark for each character at which a reader may end the line.

    All others stay: the names of the rows must be those of the files. Only a terminal needs
    `printable`.
    """
    return "".join("?" if len(f"a{c}b".splitlines()) > 1 else c for c in name)


def _write_npy_header(file: BinaryIO, shape: tuple[int, ...]) -> None:
    """Write the header of a .npy file of float32 in row-major order, whose values follow."""
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


@torch.no_grad()
def activations(
    trained: Trained, layers: Sequence[str], x: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the activations of layers for preprocessed images, from one pass.

    Args:
        layers: Names as `architecture.op_of` takes them.
        x: (N, 3, input_px, input_px).

    Returns:
        (N, ...) float32 by the names that were given, on the CPU, without gradients; those of
        `trained.net.activations(x)` have them.

    Raises:
        ConfigError: If the network has no such layer.
    """
    ours = {layer: layer_names(trained, [layer])[0] for layer in layers}
    with evaluation_mode(trained.net):
        values = trained.net.activations(x)
    # The fully connected layers give 1x1 maps; their values are a vector for each image.
    return {
        layer: value.flatten(1) if value.dim() == 4 and value.shape[2:] == (1, 1) else value
        for layer, value in ((layer, values[ours[layer]].float().cpu()) for layer in layers)
    }


def activation(trained: Trained, layer: str, x: torch.Tensor) -> torch.Tensor:
    """Return the activations of one layer, as `activations` does."""
    return activations(trained, [layer], x)[layer]


def split_for(trained: Trained, data: str | Path = "", split: str = "") -> Split:
    """Open a split of a store whose images suit a run.

    Args:
        data: Folder or URL of the store; if empty, the one that the run was trained on.
        split: Name of the split; if empty, the validation split of the run.

    Raises:
        DataError: The store cannot be read, or has no such split.
        RunError: Its images have another size than those the run was trained on, or the run's own
            store has been prepared anew with other classes.
    """
    store = Store(data) if data else trained.open_store()
    # Its classes may be others: features and patches need no labels.
    check_image_size(trained, store)
    return store.split(split or trained.config.val_split)


def centre_crops(
    trained: Trained, split: Split, order: NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the preprocessed center crops of images of a split, and their labels, in batches.

    Args:
        order: Positions of the images in the split.
    """
    with Progress(f"{len(order)} images", len(order), "images") as progress:
        for batch in batches(split, order, 128):
            yield trained.preprocess.centre(batch.images), batch.labels
            progress.advance(len(batch.labels))


def last_hidden(trained: Trained, x: torch.Tensor) -> torch.Tensor:
    """Return the feature vectors of section 6.1 for preprocessed images: (N, units) float32.

    These are the activations of the last hidden layer, after its nonlinearity.
    """
    return activation(trained, trained.net.plan[-2].layer.name, x).flatten(1)


def nearest(
    asked: torch.Tensor,
    there: Iterable[torch.Tensor],
    top_k: int = NEAREST,
    own: NDArray[np.int64] | None = None,
) -> torch.Tensor:
    """Return the rows of `there` nearest to each of `asked` in L2 distance, nearest first.

    Args:
        asked: (N, values).
        there: (M, values) in blocks of rows, of which one is in memory at a time.
        own: The row of `there` that each of `asked` is, which is left out, (N,).

    Returns:
        Indices of rows of `there`, (N, top_k).
    """
    distances = torch.empty(len(asked), 0, device="cpu")
    rows = torch.empty(len(asked), 0, dtype=torch.int64, device="cpu")
    count = 0
    for block in there:
        # By a matrix product, whatever the sizes: distances of blocks are compared, and another
        # way for a small one would round in another way.
        distance = torch.cdist(asked, block, compute_mode="use_mm_for_euclid_dist")
        index = torch.arange(count, count + len(block), device="cpu").expand(len(asked), -1)
        if own is not None:
            distance[index == torch.from_numpy(own)[:, None]] = torch.inf
        distances, rows = torch.cat([distances, distance], 1), torch.cat([rows, index], 1)
        distances, kept = distances.topk(min(top_k, distances.shape[1]), largest=False)
        rows = rows.gather(1, kept)
        count += len(block)
    # A small training set may have fewer images than the figure has places; the image itself, at an
    # infinite distance, is then the last one.
    return rows[:, : count - (own is not None)]


def _is_store_or_url(source: str | Path) -> bool:
    """Tell a store from a folder of images, by its manifest; at a URL only a store can be."""
    return is_url(source) or is_store(Path(source))


def _named_batches(
    trained: Trained, source: str | Path, split: str
) -> tuple[int, Iterator[_NamedBatch]]:
    """Return the number of images, and an iterator over batches of them with names and labels."""
    if _is_store_or_url(source):
        stored = split_for(trained, source, split)
        order = np.arange(len(stored))
        device = trained.preprocess.device
        pin, threads = device.type == "cuda", decoding_threads(None, device.type)
        stored_batches = (
            (b.images, [stored.name(int(i)) for i in b.index], stored.labels[b.index])
            for b in on_device(batches(stored, order, BATCH, threads, pin=pin), device)
        )
        return len(stored), stored_batches
    files = image_files([Path(source)])
    if split:
        raise RunError(f"{source} is not a store and has no split {split!r}; leave out --split")
    # Before the first image is computed, since one that is found later costs all before it.
    defects = {file: why for file in files if (why := defect_of_head(file))}
    if defects:
        file, why = next(iter(defects.items()))
        others = f", and {len(defects) - 1} more of {len(files)} files" if len(defects) > 1 else ""
        raise DataError(f"{file} cannot be read: {why}; remove it{others}")

    def read() -> Iterator[_NamedBatch]:
        for a in range(0, len(files), BATCH):
            paths = files[a : a + BATCH]
            images = np.stack([read_image(path, trained.preprocess.stored_px) for path in paths])
            yield torch.from_numpy(images), [readable(str(path)) for path in paths], None

    return len(files), read()
