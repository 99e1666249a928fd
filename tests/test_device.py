"""Which device a process takes, and on which a saved run goes on; GPUs are pretended."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet import device
from alexnet.checkpoint import read_config, write_config
from alexnet.config import Config
from alexnet.distributed import mesh
from alexnet.distributed.mesh import Mesh, check_layout, init_mesh
from alexnet.errors import ConfigError, MeshError
from alexnet.train import loop
from alexnet.train.loop import fit, resume
from tests.conftest import tiny


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

    monkeypatch.setattr(loop, "is_distributed", lambda: True)
    monkeypatch.setattr(loop, "init_mesh", lambda *_: order.append("its own") or Mesh())
    monkeypatch.setattr(loop, "resolve", resolve_alone)
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
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
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
    """A finished run whose config names a GPU, on a machine without one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    # As version 0.2 saved it.
    write_config(copied_run, replace(read_config(copied_run), device="cuda:0"))
    return copied_run


def test_run_of_a_gpu_goes_on_where_there_is_none(
    saved_on_a_gpu: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume(saved_on_a_gpu, epochs=4)
    line = "on cpu in place of cuda: the same within rounding, not bit for bit"
    assert line in capsys.readouterr().err.splitlines()
    # On the next machine that has a GPU it goes on there.
    assert read_config(saved_on_a_gpu).device == "cuda:0"


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
