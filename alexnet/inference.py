"""Use of a trained network: classify image files, and write the activations of any layer."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet.data.image import centre_square, decode
from alexnet.data.loader import batches
from alexnet.data.sources import files_below, is_image, may_be_image, notes_on_left_out
from alexnet.data.storage import is_url
from alexnet.data.store import Store
from alexnet.errors import RunError
from alexnet.files import write_whole
from alexnet.model import evaluation_mode
from alexnet.progress import Progress
from alexnet.trained import Trained, probabilities

BATCH = 64  # images


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, or the reason why it could not be read.

    Attributes:
        picture: Path of the file.
        classes: Classes and their probabilities, most probable first.
        error: Why the file could not be read; None for a readable one.
    """

    picture: str
    classes: tuple[tuple[str, float], ...]
    error: str | None = None


def image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files among `paths` and in the folders among them, in order.

    A file that is named itself is returned whatever its suffix. Images in a folder that cannot be
    decoded here are left out, as `prepare` does; a note on stderr counts them.

    Raises:
        RunError: If a path does not exist, or there is no image file.
    """
    files: list[Path] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = files_below(path)
            files += [p for p in below if is_image(p) and p.is_file()]
            notes += notes_on_left_out(filter(may_be_image, below), path)
        # The suffix does not matter: the user means this file.
        elif path.is_file():
            files.append(path)
        else:
            raise RunError(f"{path} does not exist")
    if not files:
        raise RunError("; ".join([f"no images in {', '.join(map(str, paths))}", *notes]))
    for note in notes:
        print(note, file=sys.stderr)
    return files


def predict(trained: Trained, paths: Sequence[str | Path], most: int = 5) -> Iterator[Prediction]:
    """Yield the `most` most probable classes of each image.

    The probabilities are averaged over the recipe's test crops (ten, for instance). A file that is
    not an image yields a Prediction with `error` and without classes, so that one bad file does not
    end the classification of a folder.
    """
    # A network with three classes has no five best ones.
    most = min(most, len(trained.classes))
    for path in image_files(paths):
        try:
            images = _image(trained, path)
        except (ValueError, OSError) as error:
            yield Prediction(str(path), (), str(error))
            continue
        preprocess = trained.preprocess
        p = probabilities(trained.net, preprocess, images, preprocess.augment)[0].cpu()
        # A stable sort breaks ties by the order of the classes, the same on every machine.
        best = torch.argsort(p, descending=True, stable=True)[:most].tolist()
        yield Prediction(str(path), tuple((trained.classes[i], float(p[i])) for i in best))


def _image(trained: Trained, path: Path) -> torch.Tensor:
    """Read an image as the training images were prepared: (1, stored_px, stored_px, 3) uint8."""
    stored_px = trained.preprocess.stored_px
    # Photographs of users carry EXIF orientations, which ImageNet's preparation ignores.
    rgb = centre_square(decode(path.read_bytes(), upright=True, enough_px=stored_px), stored_px)
    return torch.from_numpy(np.ascontiguousarray(rgb))[None]


@torch.no_grad()
def features(
    trained: Trained, layer: str, source: str | Path, out: str | Path, split: str = "val"
) -> int:
    """Write the activations of a layer for the center crop of each image.

    Args:
        layer: Name of an operation of the network.
        source: A store, or a folder of image files.
        out: A new folder, which gets `<layer>.npy`, (N, ...) float32, and `names.txt` with a line
            for each image. They are written batch by batch, so memory does not grow with N.
        split: Split of the store.

    Returns:
        The number of images.

    Raises:
        RunError: If the network has no such layer, the folder `out` exists, or a file is not an
            image.
    """
    known = [op.name for op in trained.net.plan]
    if layer not in known:
        raise RunError(f"the network has no layer {layer!r}; it has {', '.join(known)}")
    out = Path(out)
    if out.exists():
        raise RunError(f"{out} exists; choose another --out")
    count, named_batches = _named_batches(trained, Path(source), split)
    first: torch.Tensor | None = None
    out.parent.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    # The files appear under their name when they are complete: they are written to a temporary
    # folder on the same disk, which is renamed at the end.
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary,
        Progress(f"features {layer}", count, "images") as progress,
    ):
        beside = Path(temporary) / "complete"
        beside.mkdir()
        for images, batch_names in named_batches:
            value = activation(trained, layer, trained.preprocess.centre(images))
            # The shape of the array is known only when the first activations are.
            if first is None:
                first = value
                # The file is written through a memory map: ImageNet's fc7 features take 21 GB.
                file = np.lib.format.open_memmap(
                    beside / f"{layer}.npy", "w+", np.float32, (count, *value.shape[1:])
                )
            file[len(names) : len(names) + len(batch_names)] = value.numpy()
            names += batch_names
            progress.advance(len(batch_names))
        file.flush()
        write_whole(beside / "names.txt", "".join(f"{name}\n" for name in names).encode())
        beside.rename(out)
    return count


def activation(trained: Trained, layer: str, x: torch.Tensor) -> torch.Tensor:
    """Return the activations of a layer (`Op.name`) for preprocessed images.

    Args:
        x: (N, 3, input_px, input_px).

    Returns:
        (N, ...) float32, on the CPU.
    """
    with evaluation_mode(trained.net):
        value = trained.net.activations(x)[layer].float().cpu()
    # The fully connected layers give 1x1 maps; their values are a vector for each image.
    return value.flatten(1) if value.dim() == 4 and value.shape[2:] == (1, 1) else value


def _named_batches(
    trained: Trained, source: str | Path, split: str
) -> tuple[int, Iterator[tuple[torch.Tensor, list[str]]]]:
    """Return the number of images, and an iterator over batches of them with their names."""
    # A store is told from a folder of images by its manifest; at a URL only a store can be.
    if is_url(source) or (Path(source) / "manifest.json").is_file():
        stored = Store(source).split(split)
        if stored.size_px != trained.preprocess.stored_px:
            raise RunError(
                f"{source} has images of {stored.size_px} pixels, and the run needs "
                f"{trained.preprocess.stored_px}"
            )
        order = np.arange(len(stored))
        stored_batches = (
            (b.images, [stored.name(int(i)) for i in b.index])
            for b in batches(stored, order, BATCH)
        )
        return len(stored), stored_batches
    files = image_files([Path(source)])

    def read() -> Iterator[tuple[torch.Tensor, list[str]]]:
        for a in range(0, len(files), BATCH):
            paths = files[a : a + BATCH]
            images = []
            for path in paths:
                try:
                    images.append(_image(trained, path))
                except ValueError as error:
                    raise RunError(f"{path} is not an image: {error}") from None
            yield torch.cat(images), [str(path) for path in paths]

    return len(files), read()
