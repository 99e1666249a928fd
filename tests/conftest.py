"""Small stores and runs that tests share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Two workers of pytest-xdist share the two cores that tests are meant for; so do the processes that
# a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

# Without a GPU, kernels run in Triton's interpreter. It reads the variable once, when imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from alexnet import native, recipes
from alexnet.config import (
    Architecture,
    Augment,
    Config,
    Conv,
    FullyConnected,
    LayerLr,
    Sgd,
    StepSchedule,
    StoreSettings,
)
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.sources import ilsvrc
from alexnet.data.sources.cifar import CIFAR_CLASSES
from alexnet.data.store import Store
from alexnet.device import allow_tf32
from alexnet.files import user_cache
from alexnet.train.start import fit
from tests.claim_records import RECORDS

if TYPE_CHECKING:
    from alexnet.experiments.record import Record
    from tests.s3 import Server

# Of an example Hypothesis allows 200 ms, which a busy machine does not keep. A GPU machine may lack
# Hypothesis.
with suppress(ImportError):
    from hypothesis import settings

    settings.register_profile("busy machine", deadline=None)
    settings.load_profile("busy machine")

# A background job of a script ignores Ctrl-C, and so would the processes that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
HAS_COMPILER = (
    sys.platform == "linux"
    and os.environ.get("ALEXNET_NATIVE") != "0"
    and bool(native._compilers())
)
"""Whether `alexnet.native` must compile its libraries here. Tests of compiled code skip by this and
not by what `native` returns, so that they fail where a library cannot be compiled or loaded."""
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@pytest.fixture(scope="session", autouse=True)
def fixed_threads() -> None:
    """Compute with the same number of threads everywhere.

    The order of a sum, and with it the last bit, depends on it.
    """
    torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give the tests, and the programs that they start, a cache folder of their own.

    The times of products that are measured beside other tests must not decide how the user's own
    runs multiply. What costs time is taken along: the compiled libraries, the list of fonts, and
    the program of the explorer's page.
    """
    cache = tmp_path_factory.mktemp("cache")
    native.kernels(), native.winograd(), native.arena()  # compiled in the user's cache
    mine = user_cache()
    (cache / "alexnet" / "native").mkdir(mode=0o700, parents=True)
    for library in (mine / "native").glob("*.so"):
        shutil.copy(library, cache / "alexnet" / "native")
    for folder in (mine.parent / "matplotlib", *mine.glob("onnxruntime-web-*")):
        if folder.exists():
            (cache / folder.relative_to(mine.parent)).symlink_to(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(cache))
        yield


@pytest.fixture(scope="session", autouse=True)
def equal_devkits_are_parsed_once() -> Iterator[None]:
    """Remember the classes of every meta.mat: to read one starts a process that imports SciPy."""
    read = ilsvrc._synsets
    known: dict[bytes, list[ilsvrc.Synset]] = {}

    def read_once(file: ilsvrc.DevkitFile) -> list[ilsvrc.Synset]:
        contents = file.data[128:]  # behind the header, which has the time
        if contents not in known:
            known[contents] = read(file)
        return known[contents]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ilsvrc, "_synsets", read_once)
        yield


@pytest.fixture(scope="session")
def compiled_code() -> None:
    """Skip a test of the compiled operators where there is no compiler."""
    if not HAS_COMPILER:
        pytest.skip("needs Linux and a C++ compiler")


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed PyTorch's generator, so that a test does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def true_float32() -> None:
    """Compute in float32 what a test calls float32, as training does.

    PyTorch lets cuDNN's convolutions use TF32 unless told otherwise, and two ways to compute the
    same then differ by more than they round.
    """
    allow_tf32("float32")


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported runs get no card, which tests their weights and takes a second."""
    monkeypatch.setattr("alexnet.weights.importing.write_card", lambda *_: None)


@pytest.fixture(scope="session")
def pictures() -> Path:
    """The folder of real images that only developers have beside their checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the developers' folder of real images beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with 60 training and 30 validation images of shapes, 40 pixels a side."""
    folder = tmp_path_factory.mktemp("stores") / "shapes"
    prepare(
        shapes.source(60, 30),
        folder,
        StoreSettings(size_px=40, encoding="jpeg", shard_images=25),
        workers=2,
    )
    return folder


@pytest.fixture
def server(store: Path) -> Iterator[Server]:
    """The same store in a bucket of an S3 server on this machine."""
    # Imported here: it needs boto3, which a GPU machine may not have.
    from tests.s3 import Server

    running = Server(store)
    yield running
    running.end()


def tiny_architecture() -> Architecture:
    """Every part of `original` at 32 pixels: two columns, both normalisations, links, dropout."""
    layers = (
        Conv("conv1", 8, 5, stride=2, pad=(0, 3), std=0.1, then=("lrn", "max_pool", "activation")),
        Conv(
            "conv2",
            12,
            3,
            pad=(1, 1),
            bias=1,
            std=0.1,
            then=("activation", "lrn", "spatial_norm", "max_pool"),
        ),
        Conv("conv3", 16, 3, pad=(1, 1), linked=True, std=0.1),
        Conv("conv4", 16, 3, pad=(1, 1), std=0.1, bias=1),
        FullyConnected("fc6", 32, bias=1, std=0.1, then=("activation", "dropout")),
        FullyConnected("fc7", 32, bias=1, std=0.1, then=("activation", "dropout")),
        FullyConnected("fc8", 10, std=0.1),
    )
    return Architecture(layers, input_px=32, columns=2)


def tiny(store: Path, **changes: object) -> Config:
    """A config that trains in seconds and has every changing part of `original`.

    These are chunks, colour noise, drops of the learning rate and a frozen layer.
    """
    config = Config(
        "tiny",
        tiny_architecture(),
        Augment(chunk=4, mean="centre", colour="original"),
        Sgd(batch=16, lr=0.001, bias_lr=0.002, bias_lr_follows=False, bias_decay=False),
        StepSchedule(epochs=3, drops=(2,), layer_lrs=(LayerLr("conv1", 2, 0.0),), colour_until=2),
        data=str(store),
        device="cpu",
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def run(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny config: three epochs, whose learning rate drops at the third."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    fit(tiny(store), folder)
    return folder


@pytest.fixture
def copied_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, which a test may change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that claims take for photographs."""
    folder = tmp_path_factory.mktemp("stores") / "photographs"
    prepare(shapes.source(60, 30), folder, StoreSettings(size_px=112))
    return Store(folder)


@pytest.fixture(scope="module")
def like_cifar(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that claims take for CIFAR-10."""
    # Imported here, as below.
    from tests.claim_stores import of_32_pixels

    return of_32_pixels(CIFAR_CLASSES, tmp_path_factory.mktemp("stores") / "like-cifar")


@pytest.fixture(scope="module")
def recorded() -> list[Record]:
    """The records of claims that the project keeps."""
    # Imported here: it needs SciPy, whose import would cost every rank of a test a second.
    from alexnet.experiments import records

    return records.read(RECORDS)


RECIPES = [getattr(recipes, name) for name in recipes.__all__]
