"""The readers of the program that meet files from outside, each with valid files to damage."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, features
from safetensors.torch import save_file

from alexnet import checkpoint, recipes, trained
from alexnet.architecture import plan
from alexnet.checkpoint import read_config, write_config
from alexnet.config import StoreSettings
from alexnet.config_checks import check
from alexnet.data import shapes, sources
from alexnet.data.image import decode
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.errors import DataError
from alexnet.saved_config import to_dict
from alexnet.train.run_log import RunLog, read_metrics
from alexnet.train.start import fit
from alexnet.train.state import TrainState
from alexnet.weights import caffemodel
from alexnet.weights import files as weights_files
from alexnet.weights.exporting import operations
from alexnet.weights.facts import facts
from alexnet.weights.identify import identify
from tests import frameworks, layouts
from tests.conftest import tiny
from tests.fuzz.mutations import damage_bytes, damage_json

Damage = Callable[[Path, random.Random], None]


class Content(NamedTuple):
    """What a reader has read.

    Attributes:
        digest: Digest of all of it.
        items: Number of its items.
        notes: What the program says of items that it leaves out.
    """

    digest: str
    items: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reader:
    """A way in which the program reads files from outside.

    Attributes:
        name: For the table.
        make: Writes the undamaged files into an empty folder.
        read: Reads them as the program does; raises what the program would raise.
        damaged: The files that are damaged, one of them for each input.
        damage: Damages a file in place.
        has_checksum: Whether a checksum covers the content, so that no other content is right.
        share: Share of the inputs of the campaign.
        names_file: Whether the reader itself names the file; `decode` leaves that to its callers.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path], Content]
    damaged: tuple[str, ...]
    damage: Damage
    has_checksum: bool
    share: float
    names_file: bool = True


def digest(*parts: object) -> str:
    """Return a digest of arrays, bytes and JSON values."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            whole.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        elif isinstance(part, bytes):
            whole.update(part)
        else:
            whole.update(repr(part).encode(errors="backslashreplace"))
    return whole.hexdigest()


def in_bytes(path: Path, rng: random.Random) -> None:
    """Damage the bytes of a file."""
    path.write_bytes(damage_bytes(path.read_bytes(), rng))


def in_json(path: Path, rng: random.Random) -> None:
    """Damage the values of a JSON file, or its bytes."""
    if rng.random() < 0.25:
        in_bytes(path, rng)
    else:
        path.write_text(damage_json(path.read_text(), rng))


def in_lines(path: Path, rng: random.Random) -> None:
    """Damage one line of a file of JSON lines, or its bytes."""
    if rng.random() < 0.5:
        in_bytes(path, rng)
    else:
        lines = path.read_text().splitlines()
        at = rng.randrange(len(lines))
        lines[at] = damage_json(lines[at], rng)
        path.write_text("\n".join(lines) + "\n")


# --- Images


def image_files() -> dict[str, bytes]:
    """Return one small image in each format and mode that folders of images are likely to hold."""
    rgb = Image.fromarray(shapes.image(3, 7)).resize((40, 32))
    deep = Image.fromarray(np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64)
    files = {}
    for name, image, options in (
        ("plain.jpg", rgb, {"quality": 90}),
        ("progressive.jpg", rgb, {"progressive": True}),
        ("grey.jpg", rgb.convert("L"), {}),
        ("cmyk.jpg", rgb.convert("CMYK"), {}),
        ("turned.jpg", rgb, {"exif": _orientation(6)}),
        ("plain.png", rgb, {}),
        ("palette.png", rgb.convert("P"), {}),
        ("deep.png", deep, {}),
        ("alpha.png", rgb.convert("RGBA"), {}),
        ("plain.gif", rgb, {}),
        ("plain.bmp", rgb, {}),
        ("plain.ppm", rgb, {}),
        ("plain.webp", rgb, {"exif": _orientation(3)}),
        ("plain.tif", rgb, {}),
        ("packed.tif", rgb, {"compression": "tiff_lzw"}),
        ("deep.tif", deep, {}),
        *((("plain.avif", rgb, {}),) if features.check("avif") else ()),
    ):
        buffer = io.BytesIO()
        image.save(buffer, FORMAT_OF[name.split(".")[1]], **options)
        files[name] = buffer.getvalue()
    return files


FORMAT_OF = {
    "jpg": "JPEG",
    "png": "PNG",
    "gif": "GIF",
    "bmp": "BMP",
    "ppm": "PPM",
    "webp": "WEBP",
    "tif": "TIFF",
    "avif": "AVIF",
}


def _orientation(value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def write_image(name: str, data: bytes, folder: Path) -> None:
    (folder / name).write_bytes(data)


def read_image(folder: Path) -> Content:
    """Decode the one image of a folder, as `prepare` and `predict` do."""
    (path,) = folder.iterdir()
    return Content(digest(decode(path.read_bytes(), upright=True)), 1)


# --- Runs


def run_folder(folder: Path) -> None:
    """Train a tiny net for an epoch, and keep the files of the run."""
    store = folder.parent / "store"
    prepare(shapes.source(48, 16), store, StoreSettings(size_px=40), workers=1)
    config = tiny(store)
    fit(config, folder / "run")
    for path in folder.glob("run/*"):
        path.rename(folder / path.name)
    (folder / "run").rmdir()


def read_checkpoint(folder: Path) -> Content:
    """Read a checkpoint and everything that a resumed run takes from it."""
    path = folder / "last.safetensors"
    saved = checkpoint.read(path)
    _ = saved.config, saved.statistics, TrainState.from_dict(saved.about["position"], path)
    tensors = [
        value.numpy()
        for part in (saved.weights, saved.velocity)
        for _, value in sorted(part.items())
    ]
    return Content(digest(*tensors, saved.mean.numpy(), saved.about), len(tensors))


def read_trained(folder: Path) -> Content:
    """Load a network from a checkpoint, as `predict` does."""
    net = trained.load(folder / "last.safetensors", device="cpu")
    values = [parameter.detach().numpy() for _, parameter in sorted(net.net.named_parameters())]
    return Content(digest(*values, net.classes, net.words, net.names), len(values))


def in_header(path: Path, rng: random.Random, keep_checksum: bool) -> None:
    """Damage the JSON header of a checkpoint; without its checksum it is one of version 0.2."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"]["about"])
    changed = {"about": damage_json(json.dumps(about), rng)}
    header["__metadata__"] = header["__metadata__"] | changed if keep_checksum else changed
    packed = json.dumps(header).encode(errors="surrogatepass")
    path.write_bytes(struct.pack("<Q", len(packed)) + packed + data[8 + length :])


def config_folder(folder: Path) -> None:
    """Write the config of the original network, whose schedule and layers use every class."""
    write_config(folder, recipes.original())


def read_run_config(folder: Path) -> Content:
    """Read the config of a run that is resumed, and check it."""
    config = read_config(folder)
    check(config)
    plan(config.architecture)
    return Content(digest(to_dict(config)), 1)


def read_log(folder: Path) -> Content:
    """Read the metrics of a run, for its figures and when it is resumed."""
    lines = read_metrics(folder)
    with RunLog(folder, 6, 1):
        pass
    return Content(digest(lines), 0)


# --- Weights of other programs


def weights_file(name: str, folder: Path) -> None:
    """Write a small AlexNet of torchvision's or Caffe's form, a few kilobytes."""
    path = folder / name
    state = frameworks.torchvision_alexnet(1 / 64, 4).state_dict()
    arrays = {key: tensor.numpy() for key, tensor in state.items()}
    match path.suffix:
        case ".pth":
            torch.save({"epoch": 3, "state_dict": state}, path)
        case ".safetensors":
            save_file(state, path)
        case ".npz":
            np.savez(path, **arrays)
        case ".onnx":
            write_onnx(path, arrays)
        case _:
            layers = operations(recipes.caffenet().architecture)
            blobs = {key: np.ones((4, 3), np.float32) for o in layers for key in (o.weight, o.bias)}
            path.write_bytes(caffemodel.write("net", blobs, layers))


def write_onnx(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a chain of convolutions and products, without what stands between them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    layers = dict.fromkeys(name.rpartition(".")[0] for name in arrays)
    nodes = [
        helper.make_node(
            "Conv" if arrays[f"{layer}.weight"].ndim == 4 else "Gemm",
            ["x", f"{layer}.weight", f"{layer}.bias"],
            ["x"],
        )
        for layer in layers
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph), path)


def read_weights(folder: Path) -> Content:
    """Read a file of weights and say which network it is, as `alexnet which` does."""
    (path,) = folder.iterdir()
    file = weights_files.read(path)
    found = identify(file)
    answer = [one.title for one in found.candidates], found.reason, facts(found)
    arrays = [array for _, array in sorted(file.arrays.items())]
    # No checksum tells a file with an array less: `answer` says that it lacks one.
    return Content(digest(*arrays, sorted(file.arrays), answer, file.metadata), 1)


def _weights_reader(name: str) -> Reader:
    make = partial(weights_file, name)
    return Reader(f"weights: {name}", make, read_weights, (name,), in_bytes, False, 1)


# --- Stores


def store_folder(folder: Path) -> None:
    """Prepare a small store of two files for each split."""
    source = shapes.source(40, 20)
    prepare(source, folder / "store", StoreSettings(size_px=16, shard_images=20), workers=1)
    for path in (folder / "store").iterdir():
        path.rename(folder / path.name)
    (folder / "store").rmdir()


def read_store(folder: Path) -> Content:
    """Read all of a store, without comparing the checksums of its Arrow files."""
    store = Store(folder)
    parts: list[object] = [store.statistics.mean, store.statistics.covariance, store.classes]
    images = 0
    for name in store.manifest["splits"]:
        split = store.split(name)
        parts += [split.labels, *split.read(np.arange(len(split)))]
        parts += [split.name(number) for number in range(len(split))]
        images += len(split)
    return Content(digest(*parts), images)


def read_checked_store(folder: Path) -> Content:
    """Check a store as `alexnet check` does, and read all of it."""
    Store(folder).verify()
    return read_store(folder)


# --- Sources


def read_source(folder: Path) -> Content:
    """Walk through a source as `prepare` does, without decoding."""
    source = sources.find(str(folder / "source"))
    parts: list[object] = [source.classes, source.words]
    images = 0
    for split in source.splits:
        before = images
        for item in split.items(0):
            try:
                data: object = item.read()
            except DataError:
                raise
            # `prepare` skips an image that cannot be read, and reports it with its reason.
            except Exception as error:
                data = f"skipped: {error}"
            parts += [item.name, item.label, data]
            images += 1
        if split.count is not None and images - before != split.count:
            parts.append("another number than announced")
    # The notes name the folder, which is another one for each process.
    notes = tuple(note.replace(str(folder), "") for note in source.notes)
    return Content(digest(*parts), images, notes)


def source_of(layout: Callable[[Path], object], folder: Path) -> None:
    layout(folder / "source")


def cifar(folder: Path) -> None:
    """Write the binary version of CIFAR-10, with few images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        rows = rng.integers(0, 256, (4, 3073), dtype=np.uint8)
        rows[:, 0] = rng.integers(0, 10, 4)
        (folder / name).write_bytes(rows.tobytes())
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    (folder / "batches.meta.txt").write_text("\n".join(names.split()) + "\n")


WNID_TARS = tuple(f"{wnid}.tar" for wnid in layouts.WNIDS)
SHARDS = tuple(f"imagenet1k-{name}.tar" for name in ("train-0000", "train-0001", "validation-00"))
PARQUET = tuple(
    f"data/{name}.parquet"
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001")
)
ILSVRC = (
    "ILSVRC2012_img_train.tar",
    "ILSVRC2012_img_val.tar",
    "ILSVRC2012_devkit_t12.tar.gz",
)
CIFAR = ("data_batch_1.bin", "test_batch.bin", "batches.meta.txt")
KAGGLE = ("LOC_val_solution.csv", "LOC_synset_mapping.txt")
TINY = ("val/val_annotations.txt", "wnids.txt", "words.txt")


def _image_readers() -> tuple[Reader, ...]:
    files = image_files()
    return tuple(
        Reader(
            f"image: {name}",
            partial(write_image, name, data),
            read_image,
            (name,),
            in_bytes,
            has_checksum=False,
            share=20 / len(files),
            names_file=False,
        )
        for name, data in files.items()
    )


def _source_reader(
    name: str, layout: Callable[[Path], object], damaged: tuple[str, ...], share: float
) -> Reader:
    make = partial(source_of, layout)
    paths = tuple(f"source/{path}" for path in damaged)
    return Reader(name, make, read_source, paths, in_bytes, has_checksum=False, share=share)


READERS: tuple[Reader, ...] = (
    Reader(
        "checkpoint, bytes", run_folder, read_checkpoint, ("last.safetensors",), in_bytes, True, 2
    ),
    Reader(
        "checkpoint, header",
        run_folder,
        read_checkpoint,
        ("last.safetensors",),
        partial(in_header, keep_checksum=True),
        True,
        2,
    ),
    Reader(
        "checkpoint of version 0.2, header",
        run_folder,
        read_trained,
        ("last.safetensors",),
        partial(in_header, keep_checksum=False),
        False,
        2,
    ),
    Reader("config.json", config_folder, read_run_config, ("config.json",), in_json, False, 4),
    Reader("metrics.jsonl", run_folder, read_log, ("metrics.jsonl",), in_lines, False, 2),
    Reader("manifest.json", store_folder, read_checked_store, ("manifest.json",), in_json, True, 3),
    Reader(
        "store, checked",
        store_folder,
        read_checked_store,
        ("train/data-00000.arrow", "val/data-00000.arrow", "train/index.npz", "mean.npy"),
        in_bytes,
        True,
        4,
    ),
    Reader(
        "store, Arrow files unchecked",
        store_folder,
        read_store,
        ("train/data-00000.arrow", "train/data-00001.arrow"),
        in_bytes,
        False,
        2,
    ),
    _source_reader("WebDataset tars", partial(layouts.shards, kind="cls"), SHARDS, 4),
    _source_reader("WebDataset tars with JSON", partial(layouts.shards, kind="json"), SHARDS, 1),
    _source_reader("a tar for each class", layouts.class_tars, WNID_TARS, 4),
    # Fewer inputs of these two: each starts a process that looks at the file first.
    _source_reader("archives of ILSVRC", layouts.archives, ILSVRC, 1),
    _source_reader("Parquet files", layouts.clone, PARQUET, 1),
    _source_reader("CIFAR-10", cifar, CIFAR, 1),
    _source_reader("Kaggle's tables", layouts.kaggle, KAGGLE, 2),
    _source_reader("tiny-imagenet-200", layouts.tiny_imagenet, TINY, 2),
    _source_reader("a table beside images", layouts.table, ("labels.csv", "words.txt"), 2),
    *_image_readers(),
    *map(_weights_reader, ("a.pth", "a.safetensors", "a.npz", "a.onnx", "a.caffemodel")),
)
