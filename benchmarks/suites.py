"""The comparisons of `python -m benchmarks`, and their table."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from alexnet.config import Architecture
from alexnet.provenance import code_version, describe, machine
from benchmarks.interleave import ROOT, Candidate, Result, interleave

PEERS = ROOT / "benchmarks"  # a checkout has them, an installed package does not


@dataclass(frozen=True)
class Comparison:
    """Our program and those that take turns with it; the limit of the machine comes first."""

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


def own(name: str, what: str, **arguments: object) -> Candidate:
    words = (f"{key}={value}" for key, value in arguments.items())
    return Candidate(name, ("-m", "benchmarks.ours", what, *words))


def _peer(
    name: str, file: str, *arguments: str, python: str = sys.executable
) -> tuple[Candidate, ...]:
    return (Candidate(name, (str(PEERS / file), *arguments), python),) if PEERS.is_dir() else ()


def step(settings: Settings, folder: Path) -> list[Comparison]:
    given = f"precision={settings.precision}", f"batch={settings.batch}"
    arguments = {"precision": settings.precision, "batch": settings.batch}
    last = (*given, "layout=channels_last")
    others = (
        own(
            "limit: one large matrix product",
            "matmul",
            precision=settings.precision,
            an_image=_paper_costs()[1],
        ),
        *_peer("plain PyTorch", "plain.py", "step", *given),
        *_peer("plain PyTorch, channels last", "plain.py", "step", *last),
        *_peer("plain PyTorch, torch.compile", "plain.py", "step", *last, "compile=yes"),
        *(
            _peer("plain PyTorch, float32", "plain.py", "step", given[1])
            if settings.precision != "float32"
            else ()
        ),
        *_peer("TensorFlow", "tensorflow_net.py", "step", *given, python=settings.python),
        *_peer("JAX", "jax_net.py", "step", *given, python=settings.python),
    )
    whole = Comparison(
        f"one training step of `paper`, {settings.precision}",
        own("ours", "step", **arguments),
        others,
    )
    cifar = {
        "recipe": "cifar_11",
        "batch": settings.batch,
        "classes": 10,
        "precision": settings.precision,
    }
    without = own("the same without normalisation", "step", **cifar, normalise=False)
    return [
        whole,
        Comparison("one training step of `cifar_11`", own("ours", "step", **cifar), (without,)),
    ]


def ops(settings: Settings, folder: Path) -> list[Comparison]:
    given = {"precision": settings.precision}
    others = (
        own("limit: a copy", "copy", **given),
        own("torch local_response_norm", "lrn", kind="pytorch", **given),
    )
    return [
        Comparison(
            f"normalisation forward and backward, {settings.precision}",
            own("ours", "lrn", **given),
            others,
        )
    ]


def infer(settings: Settings, folder: Path) -> list[Comparison]:
    precision = f"precision={settings.precision}"
    others = (
        own(
            "limit: one large matrix product",
            "matmul",
            precision=settings.precision,
            an_image=_paper_costs()[0],
        ),
        *_peer("plain PyTorch", "plain.py", "infer", precision),
        *_peer(
            "plain PyTorch, channels last", "plain.py", "infer", precision, "layout=channels_last"
        ),
    )
    if PEERS.is_dir():
        exported = str(_export(folder))
        for name, runtime in (("ONNX Runtime", "onnxruntime"), ("OpenVINO", "openvino")):
            others += _peer(
                name, "onnx_net.py", runtime, exported, precision, python=settings.python
            )
        others += _peer(
            "TensorFlow", "tensorflow_net.py", "infer", precision, python=settings.python
        )
    return [
        Comparison(
            f"100 patches through `paper`, {settings.precision}",
            own("ours", "infer", precision=settings.precision),
            others,
        )
    ]


def loader(settings: Settings, folder: Path) -> list[Comparison]:
    data = settings.data or str(_shapes_store(folder))
    one = own("ours, one worker", "loader", data=data, workers=1)
    files = _as_files(data, folder)
    limit = own("limit: simplejpeg on one core", "decode", data=data)
    others = _peer("folder, Pillow and DataLoader", "folder_loader.py", str(files), "workers=2")
    for name, library in (
        ("WebDataset", "webdataset"),
        ("LitData", "litdata"),
        ("DALI, CPU operators", "dali"),
    ):
        others += _peer(
            name, "feeders.py", library, str(files), "workers=2", python=settings.python
        )
    from_jpeg, from_ppm = (
        Comparison(
            f"from {name} to patches",
            own(
                "ours, patches ready for the network", "loader", data=place, workers=2, augment=True
            ),
            others,
        )
        for name, place in (
            ("a store of JPEGs", data),
            ("the same pictures stored as PPM", _as_ppm(files, folder)),
        )
    )
    return [Comparison("decoding alone", one, (limit,)), from_jpeg, from_ppm]


def prepare(settings: Settings, folder: Path) -> list[Comparison]:
    if not settings.data:
        raise ValueError("name the pictures to prepare: --data SOURCE (what alexnet prepare takes)")
    limit = own("limit: decode, resize and encode", "prepare", data=settings.data, whole=False)
    return [Comparison("preparing a store", own("ours", "prepare", data=settings.data), (limit,))]


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
        for match in SUITES[what](settings, Path(folder)):
            if not as_json:
                yield f"\n{match.title}"
            for outcome in interleave(match.ours, match.others, rounds):
                if as_json:
                    said = {"skipped": outcome} if isinstance(outcome, str) else outcome.to_dict()
                    about = {"machine": machine(), "code": code_version()}
                    yield json.dumps({"match": match.title} | about | said)
                else:
                    yield line(outcome)


def line(outcome: Result | str) -> str:
    """A row of the table: their speed, our speed in the same turns, and the ratio."""
    if isinstance(outcome, str):
        return f"  {outcome}"
    o = outcome
    theirs = f"{o.a_second:>14,.0f} {o.unit}/s [{o.least:,.0f} to {o.most:,.0f}]"
    return (
        f"  {o.name:<34} {theirs:<56} ours {o.ours_a_second:>14,.0f}  = {o.ratio:5.2f}x  ({o.note})"
    )


def _paper_costs() -> tuple[int, int]:
    """Multiply-adds of an image in a forward pass and in a training step.

    The step costs three times the forward pass, less the gradient of the image, which is unused.
    """
    from alexnet import recipes
    from alexnet.architecture import plan

    architecture: Architecture = recipes.paper().architecture
    counts = [step.multiply_adds for step in plan(architecture) if step.op == "linear"]
    return sum(counts), 3 * sum(counts) - counts[0]


def _export(folder: Path) -> Path:
    """An untrained `paper` as ONNX."""
    import numpy as np
    import torch

    from alexnet.data.augment import Preprocess
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
    """The same JPEG files, as a folder of them."""
    from alexnet.data.store import Store

    split, files = Store(data).split("train"), folder / "files"
    files.mkdir()
    for index in range(min(2048, len(split))):
        (files / f"{index:05}.jpg").write_bytes(split.encoded(index))
    return files


def _as_ppm(files: Path, folder: Path) -> Path:
    """A store that holds their pixels."""
    from alexnet.config import StoreSettings
    from alexnet.data.prepare import prepare
    from alexnet.data.sources import Item, Source, SourceSplit

    items = [Item(path.name, 0, path.read_bytes) for path in sorted(files.iterdir())]
    splits = (SourceSplit("train", len(items), lambda start: iter(items[start:])),)
    prepare(
        Source("the same pictures", ("all",), splits), folder / "ppm", StoreSettings(encoding="ppm")
    )
    return folder / "ppm"
