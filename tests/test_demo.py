"""The built-in data set of shapes, and the demo."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import checkpoint, recipes
from alexnet.cli import main
from alexnet.config import Config, StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.demo import _remove, demo, report
from alexnet.errors import AlexNetError, ConfigError, RunError
from alexnet.explorer import runtime
from alexnet.train.endings import Interrupted
from alexnet.trained import load
from tests.small_stores import SMALL


def test_image_of_shapes_is_determined_by_label_and_seed() -> None:
    assert np.array_equal(shapes.image(3, 7), shapes.image(3, 7))
    assert not np.array_equal(shapes.image(3, 7), shapes.image(3, 8))
    assert shapes.image(0, 0).shape == (256, 256, 3)
    assert shapes.image(0, 0).dtype == np.uint8
    with pytest.raises(ValueError, match="label 10 is not one of the 10"):
        shapes.image(10, 0)
    with pytest.raises(ValueError, match="at least 1 of each"):
        shapes.source(0, 1)
    for train, val in ((500_001, 1), (1, 500_001)):
        with pytest.raises(ValueError, match="at most 500,000 of each are all different, so ask"):
            shapes.source(train, val)


def test_images_of_shapes_are_those_of_earlier_versions() -> None:
    """Within a level or two: the functions of NumPy may differ in the last bit from CPU to CPU."""
    pixels = shapes.image(3, 7)[32::64, 32::64].astype(int)
    expected = [
        [[130, 179, 98], [136, 199, 99], [156, 198, 118], [186, 193, 148]],
        [[133, 176, 99], [142, 211, 102], [160, 220, 117], [194, 216, 152]],
        [[188, 211, 84], [175, 194, 180], [58, 40, 50], [197, 238, 151]],
        [[164, 183, 127], [169, 232, 126], [186, 255, 137], [207, 255, 156]],
    ]
    assert abs(pixels - expected).max() <= 2


def test_training_and_validation_images_differ() -> None:
    train, val = shapes.source(20, 20).splits
    assert not {i.read() for i in train.items(0)} & {i.read() for i in val.items(0)}
    assert [i.label for i in val.items(5)] == [n % 10 for n in range(5, 20)]


def test_a_wrong_number_of_epochs_is_found_before_images_are_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epochs is -1"):
        demo(tmp_path / "demo", epochs=-1)
    assert not (tmp_path / "demo").exists()


def test_wrong_number_of_images_removes_nothing(tmp_path: Path) -> None:
    prepare(shapes.source(20, 10), tmp_path / "store", StoreSettings(size_px=16))
    with pytest.raises(ValueError, match="at least 1 of each"):
        demo(tmp_path, train=0, force=True)
    assert (tmp_path / "store" / "manifest.json").is_file()


def pixels(first: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every eighth pixel scaled to [-1, 1], shape (N, 32 * 32 * 3), and the labels."""
    labels = [n % 10 for n in range(count)]
    rgb = np.stack([shapes.image(label, first + n)[4::8, 4::8] for n, label in enumerate(labels)])
    return torch.from_numpy(rgb).flatten(1).float() / 128 - 1, torch.tensor(labels)


@pytest.mark.slow
def test_linear_classifier_on_pixels_has_at_least_60_percent_error() -> None:
    """Ridge regression to one-hot classes.

    Even the best of several strengths, chosen on the test images themselves, is far from the
    error of the network, so the data set needs more than a linear classifier.
    """
    (x, y), (x_test, y_test) = pixels(0, 600), pixels(10_000, 300)
    x, x_test = (torch.cat([t, torch.ones(len(t), 1)], 1).double() for t in (x, x_test))
    target = torch.nn.functional.one_hot(y, 10).double() - 0.1
    kernel = x @ x.T
    errors = []
    for strength in (1e0, 1e2, 1e3, 1e4, 1e5):
        weights = x.T @ torch.linalg.solve(
            kernel + strength * torch.eye(len(x), dtype=x.dtype), target
        )
        errors.append(float(((x_test @ weights).argmax(1) != y_test).double().mean()))
    assert min(errors) >= 0.6


def test_shortened_demo_runs_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of `make demo` with few images and one epoch; the slow test measures the error."""
    monkeypatch.setattr(runtime, "cached", lambda: tmp_path / "none")
    out = tmp_path / "demo"
    results = demo(out, train=60, val=20, epochs=1)
    assert [r.patches for r in results] == [1, 10]
    assert {r.images for r in results} == {20}
    for name in ("curves.png", "filters.png"):
        assert (out / name).stat().st_size > 5_000
    text = report(results, out)
    assert "chance: 90%" in text
    assert "alexnet train IMAGES --out runs/mine\n" in text
    for path in ("curves.png", "filters.png", "run", "store"):
        assert str(out / path) in text
    # The page needs a program from npm, and the demo does not.
    assert f"alexnet explore {out}/run --out {out}/explore.html --fetch" in text
    (out / "explore.html").touch()
    assert "--fetch" not in report(results, out)


@pytest.mark.parametrize("options", [{}, {"train": 60, "val": 20, "epochs": 2}])
def test_demo_that_was_begun_with_other_numbers_is_not_continued(
    tmp_path: Path, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: Config, run: Path) -> None:
        run.mkdir()
        checkpoint.write_config(run, config)
        raise KeyboardInterrupt

    monkeypatch.setattr("alexnet.demo.fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path / "demo", train=60, val=20, epochs=1)
    with pytest.raises(RunError, match="was begun with --train 60 --val 20 --epochs 1; go on"):
        demo(tmp_path / "demo", **options)


def test_store_of_other_images_is_not_taken_for_that_of_the_demo(tmp_path: Path) -> None:
    other = replace(shapes.source(20, 10), description="my photographs")
    prepare(other, tmp_path / "store", StoreSettings(size_px=16))
    with pytest.raises(RunError, match=r"store is not the demo's store; choose another --out"):
        demo(tmp_path, train=20, val=10)
    assert not (tmp_path / "run").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_finished_demo_is_shown_again_and_force_remakes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "cached", lambda: tmp_path / "none")  # the page takes minutes
    out = tmp_path / "demo"
    results = demo(out, train=60, val=20, epochs=1)
    before = contents(out)
    capsys.readouterr()
    assert demo(out) == results
    assert (
        "is finished (--train 60 --val 20 --epochs 1) and was not made again"
        in capsys.readouterr().out
    )
    assert contents(out) == before
    (out / "done").write_bytes(b"")  # as version 0.2 left it
    assert demo(out) == results
    assert contents(out) == before
    demo(out, train=40, val=20, epochs=1, force=True)
    assert load(out / "run").about["store"] == Store(out / "store").checksum
    assert Store(out / "store").manifest["splits"]["train"]["images"] == 40
    assert "epoch   1/1" in capsys.readouterr().out
    (out / "curves.png").unlink()
    # What is missing is made again, and the network is not trained again.
    demo(out, train=40, val=20, epochs=1)
    assert "epoch   1/1" not in capsys.readouterr().out
    assert (out / "curves.png").exists()


def test_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "curves.png").write_text("mine")
    for force in (False, True):
        with pytest.raises(AlexNetError, match="holds files that are not of a demo; choose"):
            demo(tmp_path, train=40, val=20, epochs=1, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
    assert (tmp_path / "curves.png").read_text() == "mine"


def test_stopped_demo_names_the_command_that_goes_on_with_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*arguments: object) -> None:
        raise Interrupted(2, tmp_path / "run", 3)

    monkeypatch.setattr("alexnet.demo.demo", stopped)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path), "--force"])
    assert ended.value.code == 130
    error = capsys.readouterr().err
    assert error.endswith(f"or go on with everything by: alexnet demo --out {tmp_path}\n")


def test_force_removes_only_what_a_demo_made(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "a" / "run")
    (tmp_path / "b" / "store").mkdir(parents=True)
    (tmp_path / "b" / "store" / "theirs").touch()
    (tmp_path / "c" / "run").mkdir(parents=True)
    (tmp_path / "c" / "run" / "theirs").touch()
    before = contents(tmp_path)
    for out in ("a", "b", "c"):
        with pytest.raises(AlexNetError, match=f"{out}/(run|store) is not"):
            demo(tmp_path / out, force=True)
    assert contents(tmp_path) == before


def test_kill_while_a_demo_is_removed_leaves_no_half_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)

    def killed(folder: Path, **options: object) -> None:
        if folder.exists():
            (folder / "manifest.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as kill:
        kill.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            _remove(tmp_path)
    assert not (tmp_path / "store").exists()
    # The next preparation removes the rest.
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_lock_of_a_run_is_not_removed_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On NFS a file that is open, as the lock is, keeps its folder from being removed."""
    run, removed = tmp_path / "run", list[str]()
    (run / "snapshots").mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    checkpoint.write_config(run, recipes.demo())
    real = shutil.rmtree

    def remove(path: Path) -> None:
        assert not (path / ".lock").exists()
        removed.append(path.name)
        real(path)

    monkeypatch.setattr(shutil, "rmtree", remove)
    _remove(tmp_path)
    assert removed == ["snapshots"]
    assert not run.exists()


@pytest.mark.slow
def test_full_demo_reaches_30_percent_error(tmp_path: Path) -> None:
    results = demo(tmp_path / "demo")
    assert results[-1].top1_error <= 0.30
