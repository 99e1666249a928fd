"""Which device a process takes, and on which a saved run goes on; GPUs are pretended."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet import checkpoint, device, load
from alexnet.checkpoint import read_config, write_config
from alexnet.config import Config
from alexnet.distributed import mesh
from alexnet.distributed.mesh import Mesh, check_layout, init_mesh
from alexnet.errors import ConfigError, MeshError
from alexnet.train import loop, start
from alexnet.train.start import fit, resume
from tests.conftest import tiny
from tests.processes import launched
from tests.runs import stopped_after


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The GPUs that this process takes, of a machine that has two."""
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


@pytest.mark.parametrize(
    ("name", "taken"), [("cpu", []), ("cuda", []), ("auto", []), ("cuda:1", [1]), ("cuda:7", [])]
)
def test_a_single_process_takes_the_gpu_that_is_named(
    name: str, taken: list[int], two_gpus: list[int]
) -> None:
    assert init_mesh(tiny(Path()).parallel, name) == Mesh()
    assert two_gpus == taken


@pytest.mark.parametrize(
    ("name", "backend", "taken"),
    [
        ("cpu", "gloo", []),  # though there are GPUs
        ("cuda", "cpu:gloo,cuda:nccl", [1]),
        ("auto", "cpu:gloo,cuda:nccl", [1]),
        ("cuda:0", "cpu:gloo,cuda:nccl", [1]),
    ],
)
def test_each_rank_takes_its_own_gpu(
    name: str,
    backend: str,
    taken: list[int],
    two_gpus: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    mesh._take_gpu(name)
    assert two_gpus == taken
    assert mesh._backend(name) == backend


def test_nothing_is_on_a_gpu_before_a_rank_has_taken_its_own(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def resolve_alone(config: Config) -> Config:
        order.append(config.device)
        raise ConfigError("enough")

    monkeypatch.setattr(start, "is_distributed", lambda: True)
    monkeypatch.setattr(start, "init_mesh", lambda *_: order.append("its own") or Mesh())
    monkeypatch.setattr(start, "resolve", resolve_alone)
    config = tiny(store, device="cuda:0")
    (tmp_path / "saved").mkdir()
    write_config(tmp_path / "saved", config)
    for train in (
        lambda: fit(config, tmp_path / "new"),
        lambda: resume(tmp_path / "saved", device="cuda:0"),
    ):
        with pytest.raises(ConfigError, match="enough"):
            train()
        # Without the index, which would be that of another rank's GPU.
        assert order == ["its own", "cuda"]
        order.clear()


def test_more_ranks_than_gpus_are_refused(
    two_gpus: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(Path(), device="cuda")
    check_layout(config, 4)
    # Not by torchrun: a job's script may set it for all of its programs.
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    check_layout(config, 4)
    launched(monkeypatch, 4)
    check_layout(replace(config, device="cpu"), 4)
    message = "a machine with 2 has 4 ranks; start 2 on it: torchrun --nproc-per-node 2"
    with pytest.raises(MeshError, match=message):
        check_layout(config, 4)


def test_peak_memory_is_known_where_the_system_does_not_say_it_in_its_own_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sandboxes such as gVisor have a /proc/self/status without VmHWM."""
    monkeypatch.setattr(Path, "read_text", lambda path: "VmSize: 10 kB\n")
    assert 2**24 < device.peak_memory_bytes(torch.device("cpu")) < 2**40


def test_saved_device_has_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "resolve_device", torch.device)
    config = device.resolve(tiny(Path(), device="cuda:1", precision="auto"))
    assert (config.device, config.precision) == ("cuda", "bfloat16")


@pytest.fixture
def saved_on_a_gpu(copied_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run of a GPU, on a machine without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    # As version 0.2 saved it.
    write_config(copied_run, replace(read_config(copied_run), device="cuda:0"))
    saved = checkpoint.read(copied_run)
    saved.about["config"]["device"] = "cuda:0"
    checkpoint.write(saved.file, saved.weights, saved.velocity, saved.mean, saved.about)
    return copied_run


def test_run_of_a_gpu_goes_on_where_there_is_none(
    saved_on_a_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume(saved_on_a_gpu, epochs=4)
    line = "on cpu in place of cuda: the same within rounding, not bit for bit"
    assert line in capsys.readouterr().err.splitlines()
    # On the next machine that has a GPU it goes on there.
    assert read_config(saved_on_a_gpu).device == "cuda:0"
    # The second time, its checkpoint comes from here.
    resume(saved_on_a_gpu, epochs=5)
    assert " in place of cuda" not in capsys.readouterr().err


def test_another_device_can_be_chosen_for_a_saved_run(
    saved_on_a_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume(saved_on_a_gpu, epochs=4, device="cpu")
    assert "on cpu in place of cuda" in capsys.readouterr().err
    assert read_config(saved_on_a_gpu).device == "cpu"
    resume(saved_on_a_gpu, epochs=5)
    assert "in place of cuda" not in capsys.readouterr().err


@pytest.mark.parametrize("deterministic", [False, True])
def test_cudnn_measures_its_algorithms_unless_bits_must_be_equal(deterministic: bool) -> None:
    before = torch.backends.cudnn.benchmark
    try:
        device.only_deterministic(deterministic)
        assert torch.backends.cudnn.benchmark is not deterministic
    finally:
        device.only_deterministic(False)
        torch.backends.cudnn.benchmark = before


BACKENDS: Any = torch.backends  # not all of its parts have types
PARTS = (
    BACKENDS.cuda.matmul,
    BACKENDS.cudnn.conv,
    BACKENDS.cudnn.rnn,
    BACKENDS.mkldnn.matmul,
    BACKENDS.mkldnn.conv,
)


def switches() -> list[Any]:
    """What the training sets, as PyTorch has it now; None: PyTorch raises if it is asked for it."""
    found: list[Any] = [
        BACKENDS.cudnn.benchmark,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        BACKENDS.cuda.matmul.allow_bf16_reduced_precision_reduction,
        BACKENDS.cuda.matmul.allow_bf16_reduced_precision_reduction_split_k,
        *(part.fp32_precision for part in PARTS),
    ]
    older: tuple[Callable[[], object], ...] = (
        torch.get_float32_matmul_precision,
        lambda: BACKENDS.cudnn.allow_tf32,
    )
    for ask in older:
        try:
            found.append(ask())
        except RuntimeError:
            found.append(None)
    return found


def assert_for_a_training(during: list[Any], before: list[Any], config: Config) -> None:
    """Check the switches in a training whose caller has those of `before`."""
    deterministic = config.deterministic
    assert during[:3] == [not deterministic, deterministic, False]
    if config.device == "cuda":
        tf32 = config.precision == "tf32"
        assert during[3:5] == [False, True]
        assert during[5:8] == ["tf32" if tf32 else "ieee"] * 3
        assert during[-1] is tf32
    else:
        assert during[3:8] == before[3:8]
        assert during[8:10] == ["ieee", "ieee"]


@pytest.fixture
def own_switches() -> Iterator[None]:
    """Give PyTorch's switches the values they begin with, after a test that changes them."""
    yield
    BACKENDS.cudnn.benchmark = False
    torch.use_deterministic_algorithms(False)
    BACKENDS.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    torch.set_float32_matmul_precision("highest")
    BACKENDS.fp32_precision = BACKENDS.cudnn.fp32_precision = "none"
    BACKENDS.mkldnn.matmul.fp32_precision = BACKENDS.mkldnn.conv.fp32_precision = "none"


def nothing() -> None:
    pass


def the_older_switches() -> None:
    BACKENDS.cudnn.benchmark = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    BACKENDS.cuda.matmul.allow_bf16_reduced_precision_reduction = False, False
    torch.set_float32_matmul_precision("medium")
    BACKENDS.cudnn.allow_tf32 = True


def the_newer_switches() -> None:
    torch.use_deterministic_algorithms(True)
    BACKENDS.cuda.matmul.fp32_precision = "tf32"
    BACKENDS.cudnn.conv.fp32_precision = "ieee"


def one_switch_for_all() -> None:
    BACKENDS.fp32_precision = "tf32"


@pytest.mark.parametrize(
    "set_own", [nothing, the_older_switches, the_newer_switches, one_switch_for_all]
)
@pytest.mark.parametrize(
    ("precision", "deterministic"), [("tf32", False), ("float32", True), ("bfloat16", False)]
)
@pytest.mark.parametrize("on", ["cpu", "cuda"])
def test_switches_of_the_caller_are_the_same_after_those_of_a_training(
    on: str, set_own: Callable[[], None], precision: str, deterministic: bool, own_switches: None
) -> None:
    set_own()
    before = switches()
    config = tiny(Path(), device=on, precision=precision, deterministic=deterministic)
    with device.switched(config):
        assert_for_a_training(switches(), before, config)
    assert switches() == before
    with pytest.raises(KeyboardInterrupt), device.switched(config):
        raise KeyboardInterrupt
    assert switches() == before


@pytest.mark.parametrize("older", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("newer", ["ieee", "tf32", "bf16"])
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_older_switch_is_given_back_where_a_newer_one_contradicts_it(
    precision: str, newer: str, tf32: bool, older: str, own_switches: None
) -> None:
    torch.set_float32_matmul_precision(older)
    BACKENDS.cudnn.allow_tf32 = tf32
    BACKENDS.mkldnn.matmul.fp32_precision = newer
    BACKENDS.cudnn.conv.fp32_precision = "ieee" if newer == "ieee" else "tf32"
    before = switches()
    with device.switched(tiny(Path(), device="cuda", precision=precision)):
        pass
    assert switches() == before
    # The caller takes the contradiction away, and PyTorch answers again.
    BACKENDS.mkldnn.matmul.fp32_precision = "ieee"
    BACKENDS.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    assert (torch.get_float32_matmul_precision(), BACKENDS.cudnn.allow_tf32) == (older, tf32)


@pytest.mark.parametrize("on", ["cpu", "cuda"])
def test_switch_for_all_reaches_every_part_after_a_training(on: str, own_switches: None) -> None:
    for part in PARTS:
        part.fp32_precision = "none"
    one_switch_for_all()
    with device.switched(tiny(Path(), device=on)):
        pass
    BACKENDS.fp32_precision = "ieee"
    assert [part.fp32_precision for part in PARTS] == ["ieee"] * len(PARTS)


def test_training_on_a_cpu_leaves_cuda_s_default_to_the_switch_for_all() -> None:
    """In a process of its own: the default cannot be set again."""
    code = """
import torch
from dataclasses import replace
from alexnet.device import switched
from alexnet.recipes import original
with switched(replace(original(), device="cpu")):
    pass
torch.backends.fp32_precision = "ieee"
print(torch.backends.cudnn.conv.fp32_precision)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "ieee\n"


@pytest.mark.parametrize("ending", ["error", "signal"])
def test_training_that_does_not_end_well_gives_the_switches_back(
    ending: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_switches: None
) -> None:
    the_older_switches()
    before = switches()
    seen: list[list[Any]] = []
    real = loop._forward

    def watched(*arguments: Any) -> Any:
        seen.append(switches())
        if ending == "error":
            raise RuntimeError("an operation failed")
        return real(*arguments)

    monkeypatch.setattr(loop, "_forward", watched)
    config = tiny(store, deterministic=True)
    if ending == "error":
        with pytest.raises(RuntimeError, match="an operation failed"):
            fit(config, tmp_path / "run")
    else:
        with stopped_after(1):
            fit(config, tmp_path / "run")
    assert_for_a_training(seen[0], before, config)
    assert switches() == before


def test_network_that_is_loaded_to_a_cpu_leaves_tf32_of_a_gpu_alone(
    run: Path, own_switches: None
) -> None:
    the_newer_switches()
    before = switches()
    load(run, device="cpu")
    assert switches() == before
