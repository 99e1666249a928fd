"""Full disks and disks that cannot be written: one sentence, and nothing is left half."""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alexnet import checkpoint, figures, files, load
from alexnet import explain as explaining
from alexnet.cli import VERBS
from alexnet.config import StepSchedule
from alexnet.data import shapes
from alexnet.data.image import encode
from alexnet.data.store import Store
from alexnet.errors import AlexNetError, BusyError, RunError
from alexnet.explorer import contents, runtime
from alexnet.files import check_space, naming, new_folder, write_whole
from alexnet.train.folder import check_room
from alexnet.train.setup import with_classes
from alexnet.train.start import fit, resume
from alexnet.units import maximise
from tests.commands import refused
from tests.conftest import tiny
from tests.small_stores import class_folder
from tests.weight_files import torchvision_file


@contextmanager
def largest_file(count: int) -> Iterator[None]:
    """Inside, no file can grow beyond a number of bytes: as a disk, in the middle of a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def read_only(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let the system answer as a read-only file system does to every write below a folder."""
    real_open, real_mkdir = os.open, os.mkdir

    def refuse(path: object) -> None:
        if not isinstance(path, int) and folder in Path(os.fsdecode(path)).parents:  # type: ignore[arg-type]
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fspath(path))  # type: ignore[arg-type]

    def opened(path: object, flags: int, *arguments: object, **options: object) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(path)
        return real_open(path, flags, *arguments, **options)  # type: ignore[arg-type]

    def made(path: object, *arguments: object, **options: object) -> None:
        refuse(path)
        real_mkdir(path, *arguments, **options)  # type: ignore[arg-type]

    real_path_open = Path.open

    def path_opened(self: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if set(mode) & set("wa+x"):
            refuse(self)
        return real_path_open(self, mode, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "mkdir", made)
    monkeypatch.setattr(Path, "open", path_opened)


def test_every_verb_that_writes_says_that_a_disk_is_read_only(
    store: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    disk = tmp_path / "disk"
    shutil.copytree(run, disk / "run")
    image = tmp_path / "disc.png"
    Image.fromarray(shapes.image(0, 1)).save(image)
    weights = tmp_path / "x.pth"
    torchvision_file(weights)
    class_folder(tmp_path / "folder", each=3)
    monkeypatch.setattr(contents, "maximise", partial(maximise, steps=2))
    ort = dict.fromkeys(runtime.SHA256, b"")
    monkeypatch.setattr(runtime, "read", lambda folder, fetching: ort)
    capsys.readouterr()
    read_only(monkeypatch, disk)
    before = sorted(disk.rglob("*"))
    few = "--images", 10, "--units", 1
    commands: tuple[tuple[Any, ...], ...] = (
        ("run", "train", "--resume", disk / "run", "--epochs", 4),
        ("", "features", run, "--data", store, "--out", disk / "features"),
        ("", "golden", run, image, disk / "golden"),
        ("x.onnx", "export", run, disk / "x.onnx"),
        ("x.safetensors", "export", run, disk / "x.safetensors"),
        ("x.png", "figure", "filters", run, "--out", disk / "x.png"),
        ("run/curves.png", "figure", "curves", disk / "run"),
        ("demo", "demo", "--out", disk / "demo"),
        ("x.html", "reproduce", "--report", disk / "x.html"),
        ("", "prepare", tmp_path / "folder", disk / "store"),
        ("x.png", "look", store, "--out", disk / "x.png"),
        ("x", "explain", run, image, "--out", disk / "x"),
        ("x.html", "explore", run, "--data", store, "--out", disk / "x.html", *few),
        ("run/predictions.csv", "report", disk / "run"),
        ("", "import", weights, disk / "x"),
    )
    reading = {"evaluate", "predict", "summary", "which", "check"}
    assert {command[1] for command in commands} | reading == set(VERBS)
    for named, *command in commands:
        sentence = "Read-only file system; this disk cannot be written; choose another folder"
        assert refused(capsys, *command) == f"alexnet: {disk / named}: {sentence}"
    with pytest.raises(OSError, match="Read-only") as error:
        fit(tiny(store), disk / "new")
    assert str(error.value.filename) == str(disk / "new")
    assert sorted(disk.rglob("*")) == before


def test_a_page_is_not_computed_for_a_folder_that_cannot_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == tmp_path and mode == os.W_OK))
    line = refused(capsys, "explore", run, "--out", tmp_path / "x.html", "--ort", tmp_path / "none")
    assert line == (
        f"alexnet: {tmp_path / 'x.html'} cannot be written: you may not write to {tmp_path}; "
        "choose another folder"
    )


@pytest.mark.parametrize("verb", ["figure", "explain"])
def test_nothing_is_drawn_for_a_run_whose_folder_cannot_be_written(
    verb: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def never(*_: Any) -> None:
        pytest.fail("it was computed before the folder was found not to be writable")

    monkeypatch.setattr(figures, "answers", never)
    monkeypatch.setattr(explaining, "explain", never)
    monkeypatch.setattr(os, "access", lambda path, mode: not (path == run and mode == os.W_OK))
    (tmp_path / "one.png").write_bytes(encode(shapes.image(0, 0), "png"))
    arguments = ("answers", run) if verb == "figure" else (run, tmp_path / "one.png")
    named = run / ("answers.png" if verb == "figure" else "one-explain.png")
    assert refused(capsys, verb, *arguments) == (
        f"alexnet: {named} cannot be written: you may not write to {run}; choose another folder"
    )


def test_disk_that_fills_up_leaves_no_features_and_no_hidden_folder(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with largest_file(1000):
        text = refused(capsys, "features", run, "--data", store, "--out", out, "--layer", "all")
    assert f"alexnet: {out}: File too large" in text
    assert list(tmp_path.iterdir()) == []


def test_features_of_a_killed_process_are_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / ".out.writing").mkdir()
    (tmp_path / ".out.writing" / "half").touch()
    with new_folder(out) as folder:
        (folder / "a").touch()
        assert not out.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "a"]


@pytest.mark.parametrize("verb", ["export", "figure"])
def test_missing_folder_is_named_and_no_hidden_file(
    verb: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "nodir" / ("x.onnx" if verb == "export" else "x.png")
    command = (
        ("export", run, file) if verb == "export" else ("figure", "curves", run, "--out", file)
    )
    folder = tmp_path / "nodir"
    expected = f"{file} cannot be written: there is no folder {folder}; make it first"
    assert refused(capsys, *command) == f"alexnet: {expected}"


@pytest.mark.parametrize("file", ["x.onnx", "x.safetensors"])
def test_full_disk_leaves_no_part_of_an_exported_file(
    run: Path, tmp_path: Path, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with largest_file(1000):
        sentence = refused(capsys, "export", run, tmp_path / file)
    assert sentence.startswith(f"alexnet: {tmp_path / file}: File")
    assert list(tmp_path.iterdir()) == []


def set_free(monkeypatch: pytest.MonkeyPatch, free: int, total: int = 10**12) -> None:
    usage = type("usage", (), {"free": free, "total": total})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage)


def test_training_needs_room_for_its_checkpoints_at_the_start(
    store: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room that is asked for is that of the files, apart from their headers of some KiB."""
    sizes = [(run / f"{which}.safetensors").stat().st_size for which in ("last", "best")]
    needed = 2 * sizes[0] + sizes[1]
    set_free(monkeypatch, int(0.9 * needed))
    message = r"the checkpoints of .*new need .* KiB and the disk of .* has .* free; make room"
    with pytest.raises(AlexNetError, match=message), monkeypatch.context() as drawn:
        # Before the network is drawn, which may be larger than the memory.
        drawn.delattr("alexnet.train.setup._network")
        fit(tiny(store), tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    set_free(monkeypatch, needed)
    fit(tiny(store, schedule=StepSchedule(1)), tmp_path / "new")
    # A run that has both needs only the copy that replaces one of them.
    set_free(monkeypatch, sizes[0])
    resume(tmp_path / "new", epochs=2)
    set_free(monkeypatch, int(0.9 * sizes[0]))
    with pytest.raises(AlexNetError, match="the checkpoints of"):
        resume(tmp_path / "new", epochs=3)
    set_free(monkeypatch, 0, total=0)  # a file system that does not know its size
    check_space(tmp_path, 10**9, "all needs")
    set_free(monkeypatch, 1000)
    with pytest.raises(AlexNetError, match=r"all needs 1\.0 KiB and the disk of .* 1000 bytes"):
        check_space(tmp_path / "a" / "b", 1025, "all needs")


def test_room_of_double_precision_is_twice_that(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        "alexnet.train.folder.check_space", lambda _, needed, what: asked.append(needed)
    )
    for precision in ("float32", "float64"):
        config = tiny(store, precision=precision)
        check_room(tmp_path, with_classes(config, Store(store)), 0)
    assert asked[1] == 2 * asked[0]


def test_disk_that_fills_up_while_training_keeps_the_last_checkpoint(copied_run: Path) -> None:
    before = (copied_run / "last.safetensors").read_bytes()
    # Among them may be the lock of an evaluation.
    hidden_before = [*copied_run.glob(".*")]
    with (
        largest_file(50_000),
        pytest.raises(RunError) as error,
    ):
        resume(copied_run, epochs=6)
    assert str(error.value) == (
        f"{copied_run / 'last.safetensors'}: File too large; make room on this disk and continue "
        f"with: alexnet train --resume {copied_run}"
    )
    assert (copied_run / "last.safetensors").read_bytes() == before
    assert [*copied_run.glob(".*")] == hidden_before
    resume(copied_run)
    assert checkpoint.read(copied_run).about["position"]["epoch"] == 6


def test_features_need_room_before_the_first_image(
    store: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet import features

    set_free(monkeypatch, 4 * 30 * 32 - 1)
    with pytest.raises(AlexNetError, match=r"the activations of fc7 need 3\.8 KiB and the disk"):
        features(load(run), "fc7", store, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    set_free(monkeypatch, 4 * 30 * 32)
    features(load(run), "fc7", store, tmp_path / "out")
    assert np.load(tmp_path / "out" / "fc7.npy").shape == (30, 32)


def test_error_of_a_hidden_file_bears_the_users_name_and_others_keep_theirs(tmp_path: Path) -> None:
    for name, said in (
        ("hidden", "mine"),
        ("hidden/a", "mine"),
        (None, "mine"),
        ("other", "other"),
    ):
        with pytest.raises(OSError, match="x") as error, naming(Path("mine"), Path("hidden")):
            raise OSError(errno.ENOSPC, "x", name)
        assert error.value.filename == said
    with pytest.raises(IsADirectoryError) as renamed:
        (tmp_path / "a").mkdir()
        write_whole(tmp_path / "a", b"")
    assert str(renamed.value) == f"[Errno 21] Is a directory: '{tmp_path / 'a'}'"


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_disk_that_does_not_answer_while_training_may_answer_later(
    number: int, copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("alexnet.files.os.fsync", away)
    # Ranks that end by it are started again.
    with pytest.raises(BusyError) as error:
        resume(copied_run, epochs=4)
    where, _, mend = str(error.value).partition(f": {os.strerror(number)}; ")
    assert Path(where).parent == copied_run
    assert mend == (
        f"make sure that this disk works and continue with: alexnet train --resume {copied_run}"
    )


def test_checkpoint_on_a_disk_that_does_not_answer_is_not_taken_for_none(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run would begin again, and replace it."""
    # As from Python 3.14 on.
    monkeypatch.setattr(Path, "exists", lambda self: os.path.exists(self))
    real, before = os.stat, (copied_run / "metrics.jsonl").read_bytes()

    def away(path: Any, *arguments: Any, **named: Any) -> os.stat_result:
        if str(path).endswith("last.safetensors"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, "stat", away)
    with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
        resume(copied_run, epochs=4)
    assert (copied_run / "metrics.jsonl").read_bytes() == before
