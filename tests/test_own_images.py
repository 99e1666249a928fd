"""`alexnet train FOLDER`: from a folder of images to a tested classifier."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import tarfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import own_images, recipes
from alexnet.checkpoint import read_config
from alexnet.cli import main
from alexnet.cli.short_help import MINUTES
from alexnet.config import Config, Sgd, scaled
from alexnet.data import resident, shapes, sources
from alexnet.data.augment import Augmentation, sample_augmentation
from alexnet.data.image import Rgb
from alexnet.data.sources import Item, Source, SourceSplit, source
from alexnet.data.store import Store
from alexnet.errors import AlexNetError, ConfigError, DataError, RunError
from alexnet.own_images import (
    EPOCHS,
    _as_saved,
    epochs_within,
    recommended,
    report,
    stored_px,
    train_on,
    typical_side_px,
)
from alexnet.train.run_log import read_metrics
from tests import conftest
from tests.commands import refused
from tests.conftest import tiny_architecture
from tests.runs import same_bits, stopped_after
from tests.small_stores import folder_of


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of ten images each, 50 pixels and more a side."""

    def image(label: int, number: int) -> Rgb:
        whole = Image.fromarray(shapes.image(label, 10 * label + number))
        return np.asarray(whole.resize((60 + number, 50 + number)))

    return folder_of(tmp_path / "images", dict.fromkeys(shapes.CLASSES[:2], 10), image)


@pytest.fixture(autouse=True)
def brief_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps before a training are timed for a moment: these tests do not look at the time."""
    monkeypatch.setattr(own_images, "TIMED_S", 0.01)


def tiny(config: Config) -> Config:
    """A change of the recommended settings that trains in a second."""
    return replace(
        config,
        architecture=tiny_architecture(),
        sgd=Sgd(batch=4, lr=0.001),
        schedule=scaled(config.schedule, 2),
    )


def test_folder_becomes_a_tested_run_with_its_page(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "mine"
    results = train_on(str(images), run, tiny)
    assert [result.patches for result in results] == [1, 10]
    assert results[0].images == 2  # a tenth of each class
    assert Store(f"{run}-store").size_px == 37  # 32 * 256 / 224
    assert read_config(run).recipe == "modern_small"
    assert "<svg" in (run / "report.html").read_text()


def test_store_lies_beside_the_splits_of_its_images_if_at_all(
    images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train", "val"):
        shutil.copytree(images, images.parent / "set" / name)
    folder = images.parent / "set"
    main(["prepare", str(folder), str(folder / "store")])
    sentence = refused(capsys, "prepare", folder, folder / "train" / "store")
    assert f"would lie among the images of {folder / 'train'}; " in sentence


def test_number_of_epochs_that_is_the_recipes_own_is_kept(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("alexnet.own_images.train_on", lambda *a: asked.append(a[3]) or [])
    monkeypatch.setattr("alexnet.own_images.report", lambda *_: "")
    epochs = str(recommended(224).schedule.epochs)
    for options in (["--epochs", epochs], ["--schedule.warmup-epochs", "5"]):
        main(["train", str(images), "--out", str(tmp_path / "run"), *options])
    assert asked == [None, MINUTES]


def test_lengthened_run_is_continued_by_the_same_command() -> None:
    """A warm-up that was scaled twice differs in its last bits."""
    schedule = recommended(224).schedule
    differing = 0
    for first in range(10, 60):
        twice, once = scaled(scaled(schedule, first), 77), scaled(schedule, 77)
        differing += twice != once
        assert _as_saved(once, twice) == twice
    assert differing > 0
    assert _as_saved(once, scaled(schedule, 78)) == once


def test_another_recipe_is_trained_on_a_folder(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ["--width", "0.125", "--batch", "4", "--epochs", "1", "--device", "cpu"]
    main(["train", str(images), "--recipe", "demo", "--out", str(run), *small])
    config = read_config(run)
    assert (config.recipe, config.architecture.columns, config.schedule.epochs) == ("demo", 2, 1)
    assert Store(config.data).size_px == 128
    assert (run / "report.html").is_file()


def test_same_command_goes_on_and_then_trains_no_more(images: Path, tmp_path: Path) -> None:
    run, undisturbed = tmp_path / "mine", tmp_path / "undisturbed"
    first = train_on(str(images), undisturbed, tiny)
    with stopped_after(3):
        train_on(str(images), run, tiny)
    assert train_on(str(images), run, tiny) == first
    assert same_bits(run, undisturbed)
    assert train_on(str(images), run, tiny) == first
    assert len(read_metrics(run, "epoch")) == 2


def slower(config: Config) -> Config:
    return replace(tiny(config), sgd=replace(tiny(config).sgd, lr=1e-5))


def longer(config: Config) -> Config:
    return replace(tiny(config), schedule=scaled(tiny(config).schedule, 4))


def other(config: Config) -> Config:
    return replace(longer(config), seed=3)


def larger(config: Config) -> Config:
    return replace(tiny(config), architecture=replace(tiny_architecture(), input_px=40))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            slower,
            RunError,
            r"other settings \(sgd.lr \S+ -> 1e-05\); go on with them by `.* --lr 1e-05`, or",
        ),
        (longer, RunError, "go on with them by `.* --resume .* --epochs 4`, or choose"),
        (other, RunError, "go on as it is by `.* --resume .*mine`, or choose"),
        (larger, DataError, "was prepared for 37 pixels a side, and this recipe needs 46"),
    ],
)
def test_other_settings_than_those_of_the_run_are_refused(
    images: Path,
    tmp_path: Path,
    change: Callable[[Config], Config],
    error: type[Exception],
    sentence: str,
) -> None:
    train_on(str(images), tmp_path / "mine", tiny)
    with pytest.raises(error, match=sentence):
        train_on(str(images), tmp_path / "mine", change)


def test_images_that_were_exchanged_are_not_overlooked(images: Path, tmp_path: Path) -> None:
    train_on(str(images), tmp_path / "mine", tiny)
    folder = images / shapes.CLASSES[0]
    (folder / "0.png").rename(folder / "new.png")
    with pytest.raises(
        DataError, match=r"was prepared for other images than .* has now; "
    ) as refused:
        train_on(str(images), tmp_path / "mine", tiny)
    # Under its new name, an image that was trained on could be tested on.
    assert "--init" not in str(refused.value)


def test_run_can_go_on_with_more_images_if_few_of_its_own_would_be_tested_on(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, folder = tmp_path / "mine", images / shapes.CLASSES[0]

    def refusal() -> str:
        with pytest.raises(DataError) as refused:
            train_on(str(images), run, tiny)
        return str(refused.value)

    # An image that cannot be read is not in the store.
    (folder / "bad.png").write_bytes(b"no image")
    train_on(str(images), run, tiny)
    # Another choice of the same images, as by an earlier version.
    with monkeypatch.context() as another:
        another.setattr(source, "_held_out_rank", lambda seed, name: name)
        assert "has now, or by an earlier version, which held out others; choose" in refusal()
        assert "--init" not in refusal()
    shutil.copy(folder / "0.png", folder / "new.png")
    sentence = refusal()
    assert "was prepared for other images than" in sentence and "earlier" not in sentence
    assert f"choose another --out (with --init {run} to go on from that run), or" in sentence
    # Of 15 images two are held out: the second one was trained on.
    for number in range(3):
        shutil.copy(folder / "0.png", folder / f"new{number}.png")
    assert "--init" not in refusal()


def test_images_of_the_same_name_in_both_splits_are_told_apart(
    images: Path, tmp_path: Path
) -> None:
    """Moved to where a removed image of its name was, an image would be tested on unseen."""
    folder, of_class = tmp_path / "set", shapes.CLASSES[0]
    for split in ("train", "val"):
        shutil.copytree(images, folder / split)
    train_on(str(folder), tmp_path / "mine", tiny)
    (folder / "train" / of_class / "0.png").replace(folder / "val" / of_class / "0.png")
    with pytest.raises(DataError, match="was prepared for other images") as refused:
        train_on(str(folder), tmp_path / "mine", tiny)
    assert "--init" not in str(refused.value)


def test_store_that_is_used_again_is_announced(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for again in (False, True):
        train_on(str(images), tmp_path / "mine", tiny)
        error = capsys.readouterr().err
        assert ("mine-store, which was prepared before, is used; images changed" in error) == again


def tars_of(images: Path, folder: Path) -> None:
    """Write an archive of each class."""
    folder.mkdir()
    for of_class in images.iterdir():
        with tarfile.open(folder / f"{of_class.name}.tar", "w") as archive:
            archive.add(of_class, ".")


def test_archives_that_were_exchanged_are_not_overlooked(images: Path, tmp_path: Path) -> None:
    tars_of(images, tmp_path / "tars")
    train_on(str(tmp_path / "tars"), tmp_path / "mine", tiny)
    train_on(str(tmp_path / "tars"), tmp_path / "mine", tiny)
    os.utime(next((tmp_path / "tars").iterdir()), (1, 1))
    with pytest.raises(DataError, match="was prepared for archives of other names, sizes or dates"):
        train_on(str(tmp_path / "tars"), tmp_path / "mine", tiny)


def test_log_that_grows_beside_archives_is_none_of_them(images: Path, tmp_path: Path) -> None:
    tars_of(images, tmp_path / "tars")
    before = sources.find(str(tmp_path / "tars"))
    (tmp_path / "tars" / "log.txt").write_text("prepare train: 1 of 20 images")
    assert sources.find(str(tmp_path / "tars")).archives == before.archives != ""
    (tmp_path / "tars" / "classes.txt").write_text("a\nb\n")
    assert sources.find(str(tmp_path / "tars")).archives != before.archives


def test_source_without_images_to_test_on_is_refused_before_the_preparation(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.find(str(images))
    alone = replace(source, splits=source.splits[:1])
    monkeypatch.setattr(sources, "find", lambda folder: alone)
    with pytest.raises(DataError, match="has no images to test on"):
        train_on(str(images), tmp_path / "mine", tiny)
    assert not (tmp_path / "mine-store").exists()


def test_preparation_may_not_lie_beside_splits_in_capital_letters(images: Path) -> None:
    """Beside another folder they would be classes, and the same command could not go on."""
    for name in ("Training", "Testing"):
        shutil.copytree(images, images.parent / "set" / name)
    with pytest.raises(AlexNetError, match="name a folder elsewhere with --out"):
        train_on(str(images.parent / "set"), images.parent / "set" / "runs" / "mine", tiny)


def test_store_of_another_size_gets_a_recipe_that_fits(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = recipes.modern_small(), recipes.modern(), recipes.cifar_11()
    fitting = [own_images.fitting(px, tried) for px in (256, 128, 32, 20)]
    assert fitting == [tried[1], tried[0], tried[2], None]
    monkeypatch.setattr(own_images, "fitting", lambda px, tried: None)
    with pytest.raises(DataError, match=r"no recipe fits the 40 pixels .*--size-px \d+, or 32 for"):
        train_on(str(store), tmp_path / "mine")


def test_slash_behind_a_store_makes_no_other_name_of_it(store: Path, tmp_path: Path) -> None:
    train_on(str(store), tmp_path / "mine", tiny)
    # With another name the run would be refused as one with other settings.
    train_on(f"{store}/", tmp_path / "mine", tiny)
    assert read_config(tmp_path / "mine").data == str(store)


def test_other_name_of_the_same_images_is_no_reason_to_remove_a_run(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_on(str(images), tmp_path / "mine", tiny)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"was prepared from .*; name the images as") as refused:
        train_on("images", tmp_path / "mine", tiny)
    assert "rm -r" not in str(refused.value)


def test_folder_in_the_place_of_the_store_is_refused_with_an_option_of_train(
    images: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine-store").mkdir()
    with pytest.raises(DataError, match=r"is not a store; move it away, or choose another --out$"):
        train_on(str(images), tmp_path / "mine", tiny)


def test_too_many_bad_images_end_with_a_command_that_allows_them(
    images: Path, tmp_path: Path
) -> None:
    for item in list(sources.find(str(images)).splits[0].items(0))[:8]:
        (images / item.name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"cannot be read, .* or allow more with alex") as bad:
        train_on(str(images), tmp_path / "mine", tiny)
    main(shlex.split(str(bad.value).rpartition("allow more with ")[2])[1:])
    assert train_on(str(images), tmp_path / "mine", tiny)[0].images >= 1


@pytest.mark.parametrize("text", ['{"name": "my app"}', '[{"file": "a"}]', '{"n": 1}\n{"n": 2}'])
def test_images_with_a_manifest_of_their_own_are_not_a_store(
    text: str, images: Path, tmp_path: Path
) -> None:
    (images / "manifest.json").write_text(text)
    assert train_on(str(images), tmp_path / "mine", tiny)[0].images == 2


def test_command_that_removes_a_run_quotes_its_name(images: Path, tmp_path: Path) -> None:
    run = tmp_path / "my run"
    train_on(str(images), run, tiny)
    with pytest.raises(DataError, match=f"after: rm -r '{run}-store' '{run}'$"):
        train_on(str(images), run, larger)


@pytest.mark.parametrize("verb", ["train", "prepare"])
def test_nothing_is_written_among_the_images(
    images: Path, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next call would take it for a class."""
    monkeypatch.chdir(images)
    sentence = refused(capsys, *(["train", "."] if verb == "train" else ["prepare", ".", "store"]))
    assert f"would lie among the images of {images}; " in sentence
    assert {path.name for path in images.iterdir()} == set(shapes.CLASSES[:2])


def test_one_bad_file_does_not_stop_a_folder_of_few_images(images: Path, tmp_path: Path) -> None:
    source = sources.find(str(images))
    held_out = next(source.splits[1].items(0)).name
    (images / held_out).write_bytes(b"not an image")
    # Half of the two images of the validation split.
    assert train_on(str(images), tmp_path / "mine", tiny)[0].images == 1


def test_resumed_run_of_a_folder_ends_with_its_page_too(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_on(str(images), tmp_path / "mine", tiny)
    (tmp_path / "mine" / "report.html").unlink()
    main(["train", "--resume", str(tmp_path / "mine")])
    assert f"the worst mistakes: {tmp_path / 'mine' / 'report.html'}" in capsys.readouterr().out
    assert (tmp_path / "mine" / "report.html").is_file()


def test_what_was_left_out_is_said_and_a_wrong_setting_comes_before_it(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / shapes.CLASSES[0] / "empty.jpg").touch()
    with pytest.raises(ConfigError, match=r"sgd\.lr is -1"):
        train_on(str(images), tmp_path / "mine", backwards)
    assert not (tmp_path / "mine-store").exists()
    train_on(str(images), tmp_path / "mine", tiny)
    assert f"skipped {shapes.CLASSES[0]}/empty.jpg: not an image" in capsys.readouterr().err


def test_hostile_name_of_an_image_that_is_trained_on_does_not_reach_the_terminal(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (images, images / shapes.CLASSES[0]):
        (folder / "a\x1b[2J.png").touch()
    train_on(str(images), tmp_path / "mine", tiny)
    printed = capsys.readouterr().err
    assert printed.count("a?[2J.png") == 2
    assert "\x1b" not in printed


def backwards(config: Config) -> Config:
    return replace(tiny(config), sgd=replace(tiny(config).sgd, lr=-1.0))


@pytest.mark.parametrize("fits", [True, False])
def test_small_set_is_decoded_once(
    images: Path, tmp_path: Path, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 18 * 37 * 37 * 3  # two of the twenty images are held out
    monkeypatch.setattr(resident, "MAX_CPU_BYTES", size if fits else size - 1)
    train_on(str(images), tmp_path / "mine", tiny)
    assert read_config(tmp_path / "mine").resident == fits


@pytest.mark.parametrize(
    ("changes", "once"),
    [
        ({"device": "cuda"}, True),
        ({"device": "cuda:1"}, True),
        ({"device": "cuda", "gpu_decoding": True}, False),
        ({"device": "mps"}, False),
    ],
)
def test_small_set_is_decoded_once_for_a_gpu_unless_it_decodes_itself(
    changes: dict[str, object],
    once: bool,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[Config] = []
    monkeypatch.setattr(own_images, "_train_and_test", lambda config, *_: trained.append(config))
    train_on(str(store), tmp_path / "mine", lambda config: replace(tiny(config), **changes))  # type: ignore[arg-type]
    (config,) = trained
    assert config.resident == once


def test_store_is_trained_on_as_it_is(store: Path, tmp_path: Path) -> None:
    train_on(str(store), tmp_path / "mine", tiny)
    assert read_config(tmp_path / "mine").data == str(store)
    assert not (tmp_path / "mine-store").exists()


def test_recommended_recipe_follows_the_size_and_the_number() -> None:
    assert {recommended(px, 100).recipe for px in (32, 47)} == {"cifar_11"}
    assert {recommended(32, images).recipe for images in (50_000, None)} == {"cifar_26"}
    assert {recommended(px, 100).recipe for px in (48, 300)} == {"modern_small"}
    assert [stored_px(recommended(px, 100)) for px in (32, 48)] == [32, 128]


def test_time_becomes_a_number_of_epochs_within_limits() -> None:
    least, most = EPOCHS
    assert [epochs_within(540, epoch_s) for epoch_s in (0.1, 5, 5.4, 7, 1000)] == [
        most,
        108,
        100,
        77,
        least,
    ]
    assert epochs_within(math.inf, 5) == most


def test_speed_is_measured_with_threads_that_wait_as_in_training(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside another program, threads that spin made a step fifteen times as slow."""
    inside: list[bool] = []

    @contextmanager
    def yielding(device: torch.device) -> Iterator[None]:
        inside.append(True)
        yield
        inside.append(False)

    def sampled(*arguments: Any) -> Augmentation:
        assert inside == [True]
        return sample_augmentation(*arguments)

    monkeypatch.setattr(own_images, "yielding", yielding)
    monkeypatch.setattr(own_images, "sample_augmentation", sampled)
    config = replace(conftest.tiny(store), precision="float32")
    assert own_images.image_s(config, Store(store), least_s=0.01) > 0
    assert inside == [True, False]


def test_begun_run_keeps_its_epochs_on_a_machine_of_another_speed(
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "mine"
    # 18 images, and two to validate at a third of the time: 18.67 s an epoch.
    monkeypatch.setattr(own_images, "image_s", lambda *_: 1.0)
    first = train_on(str(images), run, tiny, minutes=4)
    assert read_config(run).schedule.epochs == 12
    assert f"12 epochs into {run}: about 4 min" in capsys.readouterr().out
    train_on(str(images), tmp_path / "short", tiny, minutes=0.1)
    assert "10 epochs (the least; --epochs gives fewer) into" in capsys.readouterr().out
    monkeypatch.setattr(own_images, "image_s", lambda *_: 1e-3)
    assert train_on(str(images), run, tiny, minutes=4) == first
    assert len(read_metrics(run, "epoch")) == 12


def test_typical_side_is_the_median_of_readable_images(images: Path) -> None:
    assert 50 <= typical_side_px(sources.find(str(images))) <= 59
    for path in images.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the images of"):
        typical_side_px(sources.find(str(images)))


def test_warning_of_pillow_does_not_change_the_typical_side(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sources.find(str(images))
    side = typical_side_px(source)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2400)  # a warning for each of them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert typical_side_px(source) == side


def test_typical_side_of_an_archive_is_that_of_its_first_images(images: Path) -> None:
    """An archive knows its number of images, and is read from front to back."""
    listed = sources.find(str(images)).splits[0]
    starts: list[int] = []

    def items(start: int) -> Iterator[Item]:
        starts.append(start)
        return listed.items(start)

    train = SourceSplit("train", 10**6, items)
    assert 50 <= typical_side_px(Source("archive", ("a", "b"), (train,))) <= 59
    assert starts == [0]


def test_a_network_of_one_answer_is_said_to_have_learned_nothing(
    images: Path, tmp_path: Path
) -> None:
    run = tmp_path / "mine"
    results = train_on(str(images), run, tiny)
    always_first = replace(results[-1], confusion=[[5, 0], [5, 0]], images=10)
    text = report([*results[:-1], always_first], run)
    assert f"every test image was called {shapes.CLASSES[0]}: the network has learned" in text
    # The last epoch of a run is what it is for, unless an earlier one was much better.
    assert "erred" not in text
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["kind"] == "epoch":
            line["val_error"] = 0.5 * line["epoch"] / 2
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    better = f"epoch 1 erred 25.0% with the center crop; its weights: {run / 'best.safetensors'}"
    assert better in report([*results[:-1], always_first], run)
    # Two images say nothing, and more training would not help.
    too_few = replace(results[-1], confusion=[[1, 0], [1, 0]], images=2)
    text = report([*results[:-1], too_few], run)
    assert f"every one of 2 test images was called {shapes.CLASSES[0]}" in text
    assert "add images" in text and "learned nothing" not in text
