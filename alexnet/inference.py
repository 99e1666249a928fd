"""A trained network at work: classes of picture files, and features of any layer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from alexnet.data.loader import batches
from alexnet.data.picture import centre_square, decode
from alexnet.data.places import is_url
from alexnet.data.sources import PICTURES
from alexnet.data.store import Store
from alexnet.evaluation import probabilities
from alexnet.files import write_whole
from alexnet.progress import Progress
from alexnet.weights import Trained

BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """The best classes of one picture, best first, with their probabilities; or why it could not be read."""

    picture: str
    classes: tuple[tuple[str, float], ...]
    error: str | None = None


def picture_files(paths: Sequence[str | Path]) -> list[Path]:
    """The picture files among paths and in their folders, in order. Raises ValueError for a path that is not there."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(
                p for p in path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file()
            )
        elif path.is_file():
            files.append(path)
        else:
            raise ValueError(f"{path} does not exist")
    if not files:
        raise ValueError(f"no pictures in {', '.join(map(str, paths))}")
    return files


def predict(trained: Trained, paths: Sequence[str | Path], most: int = 5) -> Iterator[Prediction]:
    """The `most` best classes of every picture, averaged over the recipe's test patches (ten, say).

    A file that is no picture gives a Prediction with `error` and no classes.
    """
    most = min(most, len(trained.classes))
    for path in picture_files(paths):
        try:
            images = _image(trained, path)
        except (ValueError, OSError) as error:
            yield Prediction(str(path), (), str(error))
            continue
        p = probabilities(trained.net, trained.preprocess, images, trained.preprocess.augment)[
            0
        ].cpu()
        best = torch.argsort(p, descending=True, stable=True)[:most].tolist()
        yield Prediction(str(path), tuple((trained.classes[i], float(p[i])) for i in best))


def _image(trained: Trained, path: Path) -> torch.Tensor:
    """(1, stored_px, stored_px, 3) uint8, prepared as the training pictures were."""
    stored_px = trained.preprocess.stored_px
    rgb = centre_square(decode(path.read_bytes(), upright=True, enough_px=stored_px), stored_px)
    return torch.from_numpy(np.ascontiguousarray(rgb))[None]


@torch.no_grad()
def features(
    trained: Trained, layer: str, pictures: str | Path, out: str | Path, split: str = "val"
) -> int:
    """Write a layer's values for every picture, centre patch, and return how many there are.

    pictures: a store, or a folder of picture files. out: a new folder, which gets `<layer>.npy` (N, ...) float32 and
    `names.txt` with a line for each. Written in pieces: memory does not grow with N. Raises ValueError for a layer
    the network does not have, for a folder that exists, and for a file that is no picture.
    """
    known = [step.name for step in trained.net.steps]
    if layer not in known:
        raise ValueError(f"the network has no layer {layer!r}; it has {', '.join(known)}")
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} exists; choose another --out")
    count, pieces = _pieces(trained, Path(pictures), split)
    first: torch.Tensor | None = None
    out.parent.mkdir(parents=True, exist_ok=True)
    names: list[str] = []
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place,
        Progress(f"features {layer}", count, "images") as progress,
    ):
        beside = Path(place) / "whole"
        beside.mkdir()
        for images, own in pieces:
            value = activation(trained, layer, trained.preprocess.centre(images))
            if first is None:
                first = value
                file = np.lib.format.open_memmap(
                    beside / f"{layer}.npy", "w+", np.float32, (count, *value.shape[1:])
                )
            file[len(names) : len(names) + len(own)] = value.numpy()
            names += own
            progress.advance(len(own))
        file.flush()
        write_whole(beside / "names.txt", "".join(f"{name}\n" for name in names).encode())
        beside.rename(out)
    return count


def activation(trained: Trained, layer: str, x: torch.Tensor) -> torch.Tensor:
    """A layer's values (`Step.name`) for preprocessed pictures x, on the CPU: (N, ...) float32."""
    value = trained.net.activations(x)[layer].float().cpu()
    return value.flatten(1) if value.dim() == 4 and value.shape[2:] == (1, 1) else value


def _pieces(
    trained: Trained, place: str | Path, split: str
) -> tuple[int, Iterator[tuple[torch.Tensor, list[str]]]]:
    """How many pictures there are, and batches of them with their names."""
    if is_url(place) or (Path(place) / "manifest.json").is_file():
        stored = Store(place).split(split)
        if stored.size_px != trained.preprocess.stored_px:
            raise ValueError(
                f"{place} has {stored.size_px} pixels and the run {trained.preprocess.stored_px}"
            )
        order = np.arange(len(stored))
        found = (
            (b.images, [stored.name(int(i)) for i in b.index])
            for b in batches(stored, order, BATCH)
        )
        return len(stored), found
    files = picture_files([Path(place)])

    def read() -> Iterator[tuple[torch.Tensor, list[str]]]:
        for a in range(0, len(files), BATCH):
            own = files[a : a + BATCH]
            images = []
            for path in own:
                try:
                    images.append(_image(trained, path))
                except ValueError as error:
                    raise ValueError(f"{path} is no picture: {error}") from None
            yield torch.cat(images), [str(path) for path in own]

    return len(files), read()
