"""The suites of `python -m benchmarks`, and their table."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alexnet.config import Architecture
from alexnet.cores import available_cores
from alexnet.provenance import code_version, describe, machine
from benchmarks.interleave import ROOT, Candidate, Result, interleave


@dataclass(frozen=True)
class Comparison:
    """Our program and the candidates that take turns with it, the limit of the machine first."""

    title: str
    ours: Candidate
    others: tuple[Candidate, ...]


@dataclass(frozen=True)
class Settings:
    """The settings of the command line; `python` is the interpreter with the other frameworks."""

    precision: str = "float32"
    batch: int = 128
    data: str = ""
    python: str = sys.executable


def our_candidate(name: str, what: str, **arguments: object) -> Candidate:
    """A function of `ours.py` with its arguments."""
    words = (f"{key}={value}" for key, value in arguments.items())
    return Candidate(name, ("-m", "benchmarks.ours", what, *words))


def peer(name: str, file: str, *arguments: str, python: str = sys.executable) -> Candidate:
    """A script of this folder that measures another program."""
    return Candidate(name, (str(ROOT / "benchmarks" / file), *arguments), python)


def step(settings: Settings, folder: Path) -> list[Comparison]:
    precision, batch = f"precision={settings.precision}", f"batch={settings.batch}"
    options = (precision, batch)
    channels_last = (*options, "layout=channels_last")
    others = [
        our_candidate(
            "limit: one large matrix product",
            "matmul",
            precision=settings.precision,
            macs_per_image=_paper_macs().step,
        ),
        peer("plain PyTorch", "plain.py", "step", *options),
        peer("plain PyTorch, channels last", "plain.py", "step", *channels_last),
        peer("plain PyTorch, torch.compile", "plain.py", "step", *channels_last, "compile=yes"),
    ]
    if settings.precision != "float32":
        others.append(peer("plain PyTorch, float32", "plain.py", "step", batch))
    others += [
        peer("TensorFlow", "tensorflow_net.py", "step", *options, python=settings.python),
        peer("JAX", "jax_net.py", "step", *options, python=settings.python),
    ]
    ours = our_candidate("ours", "step", precision=settings.precision, batch=settings.batch)
    cifar = {
        "recipe": "cifar_11",
        "batch": settings.batch,
        "classes": 10,
        "precision": settings.precision,
    }
    without = our_candidate("the same without normalisation", "step", **cifar, normalise=False)
    return [
        Comparison(f"one training step of `paper`, {settings.precision}", ours, tuple(others)),
        Comparison(
            "one training step of `cifar_11`", our_candidate("ours", "step", **cifar), (without,)
        ),
    ]


def ops(settings: Settings, folder: Path) -> list[Comparison]:
    precision = settings.precision
    others = (
        our_candidate("limit: a copy", "copy", precision=precision),
        our_candidate("torch local_response_norm", "lrn", precision=precision, kind="pytorch"),
    )
    return [
        Comparison(
            f"normalisation forward and backward, {precision}",
            our_candidate("ours", "lrn", precision=precision),
            others,
        )
    ]


def infer(settings: Settings, folder: Path) -> list[Comparison]:
    precision, python = f"precision={settings.precision}", settings.python
    exported = str(_export(folder))
    others = (
        our_candidate(
            "limit: one large matrix product",
            "matmul",
            precision=settings.precision,
            macs_per_image=_paper_macs().forward,
        ),
        peer("plain PyTorch", "plain.py", "infer", precision),
        peer(
            "plain PyTorch, channels last", "plain.py", "infer", precision, "layout=channels_last"
        ),
        peer("TensorFlow", "tensorflow_net.py", "infer", precision, python=python),
    )
    exporting = (
        peer("ONNX Runtime", "onnx_net.py", "onnxruntime", exported, precision, python=python),
        peer("OpenVINO", "onnx_net.py", "openvino", exported, precision, python=python),
    )
    return [
        Comparison(
            f"100 preprocessed crops through `paper`, {settings.precision}",
            our_candidate("ours", "infer", precision=settings.precision),
            others,
        ),
        # An exported file subtracts the mean itself, so ours does, too.
        Comparison(
            f"100 crops of RGB values through `paper`, {settings.precision}",
            our_candidate("ours", "infer", precision=settings.precision, raw=True),
            exporting,
        ),
    ]


def loader(settings: Settings, folder: Path) -> list[Comparison]:
    data = settings.data or str(_shapes_store(folder))
    files = _as_files(data, folder)
    ppm = str(_as_ppm(files, folder))
    python = settings.python
    # As many for each: a GPU is fed by all cores.
    cores = available_cores()
    workers = f"workers={cores}"
    # The other libraries read the JPEG files in both comparisons: a PPM store is our alternative.
    others = (
        peer("folder, Pillow and DataLoader", "folder_loader.py", str(files), workers),
        peer("WebDataset", "feeders.py", "webdataset", str(files), workers, python=python),
        peer("LitData", "feeders.py", "litdata", str(files), workers, python=python),
        peer("DALI, CPU operators", "feeders.py", "dali", str(files), workers, python=python),
    )

    def feed(store: str) -> Candidate:
        name = "ours, crops ready for the network"
        return our_candidate(name, "loader", data=store, workers=cores, augment=True)

    return [
        Comparison(
            "decoding alone",
            our_candidate("ours, one worker", "loader", data=data, workers=1),
            (our_candidate("limit: simplejpeg on one core", "decode", data=data),),
        ),
        Comparison("from a store of JPEGs to crops", feed(data), others),
        Comparison("from the same images stored as PPM to crops", feed(ppm), others),
    ]


def prepare(settings: Settings, folder: Path) -> list[Comparison]:
    if not settings.data:
        raise ValueError("name the images to prepare: --data SOURCE (as for alexnet prepare)")
    return [
        Comparison(
            "preparing a store",
            our_candidate("ours", "prepare", data=settings.data),
            (
                our_candidate(
                    "limit: decode, resize and encode",
                    "prepare",
                    data=settings.data,
                    complete=False,
                ),
            ),
        )
    ]


SUITES: dict[str, Callable[[Settings, Path], list[Comparison]]] = {
    "ops": ops,
    "step": step,
    "loader": loader,
    "prepare": prepare,
    "infer": infer,
}


def bench(what: str, settings: Settings, rounds: int, as_json: bool) -> Iterator[str]:
    """Lines of the table, or JSON objects, as they are measured."""
    if not as_json:
        yield f"{machine()}; medians of {rounds} turns, least to most in brackets"
        yield describe(code_version())
    with tempfile.TemporaryDirectory() as folder:
        for comparison in SUITES[what](settings, Path(folder)):
            if not as_json:
                yield f"\n{comparison.title}"
            for result in interleave(comparison.ours, comparison.others, rounds):
                if as_json:
                    about = {
                        "match": comparison.title,
                        "machine": machine(),
                        "code": code_version(),
                    }
                    values = {"skipped": result} if isinstance(result, str) else result.to_dict()
                    yield json.dumps(about | values)
                else:
                    yield line(result)


def line(result: Result | str) -> str:
    """A row of the table: their speed, our speed in the same turns, and the ratio."""
    if isinstance(result, str):
        return f"  {result}"
    r = result
    theirs = f"{r.per_second:>14,.0f} {r.unit}/s [{r.least:,.0f} to {r.most:,.0f}]"
    ours = f"{r.ours_per_second:>14,.0f}"
    return f"  {r.name:<34} {theirs:<56} ours {ours}  = {r.ratio:5.2f}x  ({r.note})"


class Macs(NamedTuple):
    """Multiply-adds of one image."""

    forward: int
    step: int


def _paper_macs() -> Macs:
    """Multiply-adds of an image in a forward pass and in a training step of `paper`.

    A step costs three times the forward pass, less the gradient of the image, which is not needed.
    """
    from alexnet import recipes
    from alexnet.architecture import plan

    architecture: Architecture = recipes.paper().architecture
    counts = [step.multiply_adds for step in plan(architecture) if step.op == "linear"]
    return Macs(sum(counts), 3 * sum(counts) - counts[0])


def _export(folder: Path) -> Path:
    """An untrained `paper` as ONNX."""
    import numpy as np
    import torch

    from alexnet.data.preprocess import Preprocess
    from alexnet.data.store import Statistics
    from alexnet.export import write_onnx
    from alexnet.trained import Trained
    from benchmarks.ours import network

    config, net = network("paper")
    statistics = Statistics(np.full((256, 256, 3), 120.0), np.eye(3))
    preprocess = Preprocess(config.augment, statistics, 224, torch.device("cpu"))
    about = {"recipe": "paper", "store": "none", "sha256": "none"}
    path = folder / "paper.onnx"
    write_onnx(Trained(net, preprocess, tuple(map(str, range(1000))), about), path)
    return path


def _shapes_store(folder: Path) -> Path:
    from alexnet.config import StoreSettings
    from alexnet.data import shapes
    from alexnet.data.prepare import prepare

    prepare(shapes.source(1024, 10), folder / "store", StoreSettings())
    return folder / "store"


def _as_files(data: str, folder: Path) -> Path:
    """Write the JPEG files of a store into a folder."""
    from alexnet.data.store import Store

    split, files = Store(data).split("train"), folder / "files"
    files.mkdir()
    for index in range(min(2048, len(split))):
        (files / f"{index:05}.jpg").write_bytes(split.encoded(index))
    return files


def _as_ppm(files: Path, folder: Path) -> Path:
    """Prepare a store with the pixels of the files, not compressed."""
    from alexnet.config import StoreSettings
    from alexnet.data.prepare import prepare
    from alexnet.data.sources import Item, Source, SourceSplit

    items = [Item(path.name, 0, path.read_bytes) for path in sorted(files.iterdir())]
    splits = (SourceSplit("train", len(items), lambda start: iter(items[start:])),)
    prepare(
        Source("the same images", ("all",), splits), folder / "ppm", StoreSettings(encoding="ppm")
    )
    return folder / "ppm"
