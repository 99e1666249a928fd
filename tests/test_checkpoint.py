"""Checkpoints and the other files of a run: damage is refused, and what is there is never lost."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from alexnet import checkpoint, load
from alexnet.config import (
    Architecture,
    FullyConnected,
    StepSchedule,
)
from alexnet.data.store import Store
from alexnet.errors import AlexNetError, RunError
from alexnet.files import locked
from alexnet.provenance import code_version
from alexnet.saved_config import to_dict
from alexnet.train.run_log import read_metrics
from alexnet.train.start import fit, resume
from alexnet.train.state import TrainState
from tests.conftest import tiny
from tests.runs import IMPORTED, stopped_after

START = {"run": "runs/first", "sha256": "0123", "layers": ["conv1"]}
"""What a header says of the weights that the run began with."""


def test_checkpoint_describes_its_origin(run: Path, store: Path) -> None:
    for which in ("last", "best"):
        saved = checkpoint.read(run, which)  # type: ignore[arg-type]
        about = saved.about
        assert about["recipe"] == "tiny"
        assert about["code"] == code_version()
        assert about["store"] == Store(store).checksum
        assert about["classes"] == Store(store).classes
        assert about["sha256"] == checkpoint.tensors_sha256(saved.weights)
        epochs = read_metrics(run, "epoch")
        assert about["evaluation"]["val_error"] in [m["val_error"] for m in epochs]
    assert about["evaluation"]["val_error"] == min(m["val_error"] for m in epochs)


def test_damaged_or_foreign_checkpoints_are_refused(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    fit(tiny(store, schedule=StepSchedule(1)), run)
    last, data = run / "last.safetensors", (run / "last.safetensors").read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"x" * 100):
        last.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last\.safetensors is damaged"):
            resume(run)
        assert last.read_bytes() == damaged
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 64
    last.write_bytes(flipped)
    with pytest.raises(RunError, match=r"last\.safetensors is damaged .*checksum"):
        checkpoint.read(run)
    last.write_bytes(data)
    config = json.loads((run / "config.json").read_text())
    config["architecture"]["layers"][2]["kernels"] = 24
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"another architecture: conv3\.bias has shape \(16,\) there, \(24,\) here"
    ):
        resume(run)
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        resume(run)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of one layer, small enough to damage each of its bytes."""
    architecture = Architecture((FullyConnected("fc", 2),), input_px=8)
    config = tiny(Path("store"), architecture=architecture, schedule=StepSchedule(1))
    about = {
        "recipe": "tiny",
        "config": to_dict(config),
        "classes": ["a", "b"],
        "store": "none",
        "covariance": np.eye(3).tolist(),
        "position": asdict(TrainState()),
    }
    file = tmp_path_factory.mktemp("small") / "a.safetensors"
    weights = {"fc.weight": torch.randn(2, 192), "fc.bias": torch.randn(2)}
    velocity = {name: torch.randn_like(weight) for name, weight in weights.items()}
    checkpoint.write(file, weights, velocity, torch.full((8, 8, 3), 9.0), about)
    return file


def test_no_changed_byte_of_a_checkpoint_is_accepted(small: Path, tmp_path: Path) -> None:
    """Weights, velocities, mean image and header: a bit in each of 300 places."""
    data, damaged = small.read_bytes(), tmp_path / "damaged.safetensors"
    checkpoint.read(small)
    for place in np.linspace(0, len(data) - 1, 300, dtype=int).tolist():
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        damaged.write_bytes(changed)
        with pytest.raises(RunError, match=r"damaged\.safetensors (is damaged|is not a run)"):
            checkpoint.read(damaged)


def without_checksum(file: Path, old: Path, **changes: object) -> None:
    """Write a checkpoint as version 0.2 did, with changes of its header."""
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["about"]) | changes
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    save_file(tensors, old, {"about": json.dumps(about)})


def test_checkpoint_of_version_0_2_is_read_and_reported_once(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.safetensors"
    without_checksum(small, old)
    for _ in range(2):
        saved = checkpoint.read(old)
    assert not saved.covered
    assert torch.equal(saved.mean, checkpoint.read(small).mean)
    (line,) = capsys.readouterr().err.splitlines()
    assert "its mean image and header are not protected by a checksum" in line
    assert load(old).classes == ("a", "b")


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": 3},
        {"classes": ["a"]},
        {"classes": ["a", "\ud800"]},
        {"words": [1]},
        {"covariance": [[1, 2, 3]]},
        {"covariance": [[math.nan] * 3] * 3},
        {"sha256": None},
        {"store": 10**400},
        {"config": []},
        {"config": {"is": []}},
        {"imported": IMPORTED["file"]},
        {"imported": {"file": "alexnet.pth"}},
        {"init": None},
        {"init": "runs/first"},
        {"init": START | {"sha256": None}},
        {"init": START | {"layers": "conv1"}},
        {"init": START | {"init": {"layers": ["conv1"]}}},
        {"init": START | {"imported": IMPORTED | {"file": 3}}},
        {"config": {"recipe": "a", "architecture": {"layers": [{"is": [1]}]}}},
    ],
)
def test_header_of_another_form_is_refused_by_the_files_name(
    small: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    old = tmp_path / "old.safetensors"
    without_checksum(small, old, **changes)
    with pytest.raises(AlexNetError, match=r"old\.safetensors"):
        load(old)


@pytest.mark.parametrize(
    "about", ["3", "[]", "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\u00ff{"]
)
def test_header_that_is_no_object_is_refused(tmp_path: Path, about: str) -> None:
    save_file(
        {"preprocess.mean": torch.zeros(8, 8, 3)}, tmp_path / "a.safetensors", {"about": about}
    )
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "mean",
    [torch.zeros(8, 8), torch.zeros(8, 8, 3, dtype=torch.int8), torch.full((8, 8, 3), math.inf)],
)
def test_mean_image_of_another_form_is_refused(
    small: Path, tmp_path: Path, mean: torch.Tensor
) -> None:
    saved = checkpoint.read(small)
    save_file(
        saved.weights | {"preprocess.mean": mean},
        tmp_path / "a.safetensors",
        {"about": json.dumps(saved.about)},
    )
    with pytest.raises(RunError, match="is damaged"):
        checkpoint.read(tmp_path / "a.safetensors")


def test_position_of_another_form_is_refused() -> None:
    good = asdict(TrainState())
    assert TrainState.from_dict(good, Path("a")) == TrainState()
    for wrong in (None, 3, {"epoch": "1"}, good | {"step": -1}, good | {"plateau": [1]}):
        with pytest.raises(AlexNetError, match=r"^a"):
            TrainState.from_dict(wrong, Path("a"))


def test_files_of_a_run_have_the_modes_of_the_umask(small: Path, tmp_path: Path) -> None:
    saved = checkpoint.read(small)
    for umask, mode in ((0o022, 0o644), (0o002, 0o664)):
        before = os.umask(umask)
        try:
            checkpoint.write(tmp_path / "a", saved.weights, {}, saved.mean, saved.about)
        finally:
            os.umask(before)
        assert (tmp_path / "a").stat().st_mode & 0o777 == mode


def test_full_disk_leaves_the_old_checkpoint_and_no_other_file(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, file = checkpoint.read(small), tmp_path / "a"
    shutil.copy(small, file)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    for sync, kind in ((full, OSError), (interrupted, KeyboardInterrupt)):
        monkeypatch.setattr("alexnet.files.os.fsync", sync)
        with pytest.raises(kind) as error:
            checkpoint.write(file, saved.weights, {}, saved.mean, saved.about)
        assert kind is KeyboardInterrupt or error.value.filename == str(file)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]
        assert file.read_bytes() == small.read_bytes()


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has such a file")
def test_checkpoint_that_the_disk_does_not_give_is_not_called_damaged(tmp_path: Path) -> None:
    """The memory of a process can be opened; to map it or to read its first byte is an error."""
    last = tmp_path / "last.safetensors"
    last.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error") as error:
        checkpoint.read(tmp_path)
    assert (error.value.errno, error.value.filename) == (errno.EIO, str(last))


def test_damaged_lines_of_the_metrics_are_named_and_a_cut_last_line_is_dropped(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics.jsonl"
    good = '{"kind": "epoch", "step": 1, "epoch": 1}\n'
    path.write_bytes(good.encode() + b'{"kind": "epo')
    assert len(read_metrics(tmp_path)) == 1
    for wrong in (b"\xff", b"3", b"{}", b'{"kind": 1}', b'{"kind": "epoch", "epoch": "x"}'):
        path.write_bytes(good.encode() + wrong + b"\n" + good.encode())
        with pytest.raises(RunError, match=r"metrics\.jsonl, line 2 is damaged \(.*; remove this"):
            read_metrics(tmp_path)
    path.write_text(good)
    with pytest.raises(RunError, match=r"line 1 is damaged .it lacks a field"):
        read_metrics(tmp_path, "epoch")


def test_second_process_of_a_run_is_refused_and_named(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with stopped_after(1):
        fit(tiny(store), run)
    assert not (run / ".lock").exists()
    before = {path.name for path in run.iterdir()}
    message = rf"run is already being trained by process {os.getpid()} on .*; wait for it to finish"
    # A lock of this process keeps out its own second training, too.
    with locked(run / ".lock", f"{run} is already being trained", "wait for it to finish"):
        with pytest.raises(AlexNetError, match=message):
            resume(run)
        with pytest.raises(AlexNetError, match=message):
            fit(tiny(store), run)
    assert {path.name for path in run.iterdir()} == before


def test_rests_of_a_killed_process_do_not_make_a_folder_a_run(store: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").write_text("process 1 on a machine that was switched off")
    (run / ".config.json.writing").write_text("{")  # killed before it was complete
    fit(tiny(store, schedule=StepSchedule(1)), run)
    assert not (run / ".lock").exists()
    (tmp_path / "file").touch()
    with pytest.raises(AlexNetError, match="file is not a folder"):
        fit(tiny(store), tmp_path / "file")


def test_a_file_has_no_best_checkpoint(run: Path) -> None:
    """It would be taken for the best one of its run."""
    with pytest.raises(RunError, match=r"last.safetensors is one checkpoint already; leave out"):
        checkpoint.read(run / "last.safetensors", "best")
    assert checkpoint.read(run / "best.safetensors").file == run / "best.safetensors"
