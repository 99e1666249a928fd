"""The command line: every verb, and one sentence and exit code 2 for every error of the user."""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from PIL import Image

from alexnet import checkpoint, figures, recipes
from alexnet.checkpoint import read_config, write_config
from alexnet.cli import main
from alexnet.cli.prepare import _recipe_for
from alexnet.cli.train import TrainArguments, parse_train
from alexnet.config import Config
from alexnet.data import shapes
from alexnet.data.manifest import sealed
from alexnet.saved_config import to_dict
from alexnet.terminal import print_if_read, printable
from tests.commands import printed, refused
from tests.conftest import RECIPES
from tests.small_stores import class_folder, folder_of

ROOT = Path(__file__).parents[1]


def test_from_a_folder_of_images_to_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """prepare, train, evaluate, predict, features, figure and export, as in the README."""
    store, run = tmp_path / "store", tmp_path / "run"
    names = dict.fromkeys(shapes.CLASSES[:3], 4)
    output = printed(
        capsys,
        "prepare",
        folder_of(tmp_path / "pictures", names, lambda *of: shapes.image(*of)[:192:4, ::4]),
        store,
        "--size-px",
        128,
        "--val-fraction",
        0.25,
    )
    assert "3 classes" in output
    assert "train: 9 images, 0 skipped" in output
    narrow = [
        "--architecture.width",
        0.125,
        "--sgd.batch",
        4,
        "--schedule.epochs",
        2,
        "--schedule.drops",
        1,
    ]
    output = printed(
        capsys, "train", "demo", "--data", store, "--out", run, *narrow, "--device", "cpu"
    )
    assert "epoch   2/2" in output
    *_, evaluation, report, prediction = (line.rpartition(": ")[2] for line in output.splitlines())
    for line in evaluation, report, prediction.replace("IMAGE...", str(tmp_path / "pictures")):
        main(shlex.split(line.strip())[1:])
    config = read_config(run)
    assert (config.recipe, config.architecture.width, config.sgd.batch) == ("demo", 0.125, 4)
    assert "10 crops: top-1 error" in printed(capsys, "evaluate", run, "--data", store)
    results = json.loads(printed(capsys, "evaluate", run, run, "--data", store, "--json"))
    assert [r["images"] for r in results] == [3, 3]
    image = tmp_path / "pictures" / "disc" / "0.png"
    (line,) = printed(capsys, "predict", run, image, "--json").splitlines()
    assert json.loads(line)["image"] == str(image)
    assert set(json.loads(line)["classes"]) == {"disc", "ring", "square"}
    assert "disc" in printed(capsys, "predict", run, tmp_path / "pictures")
    printed(capsys, "features", run, "--layer", "fc7", "--data", store, "--out", tmp_path / "fc7")
    assert (tmp_path / "fc7" / "fc7.npy").is_file()
    for kind in ("filters", "answers", "neighbours", "curves", "signal"):
        assert printed(capsys, "figure", kind, run).strip() == str(run / f"{kind}.png")
    printed(capsys, "export", run, tmp_path / "net.onnx")
    printed(capsys, "export", run, tmp_path / "net.safetensors")
    assert "disc" in printed(capsys, "predict", tmp_path / "net.safetensors", image)
    printed(capsys, "train", "--resume", run)


def test_export_says_what_the_network_takes_and_where_predict_takes_other_crops(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "net.onnx"
    output = printed(capsys, "export", run, path)
    assert output.splitlines()[0] == str(path)
    assert "float32 (N, 3, 32, 32)" in output
    assert "the shorter side rescaled to 40 pixels (bicubic), then the central 32x32" in output
    assert "this file takes the center crop; `alexnet predict` averages 10 crops" in output
    assert max(map(len, output.splitlines())) <= 100
    whole = tmp_path / "whole.onnx"
    # The field's own spelling is British; the word as prose has it is understood too.
    both = [tmp_path / "centre.onnx", tmp_path / "center.onnx"]
    for file in both:
        printed(capsys, "export", run, file, "--with-preprocessing", "--crops", file.stem)
    assert both[0].read_bytes() == both[1].read_bytes()
    output = printed(capsys, "export", run, whole, "--with-preprocessing", "--crops", "ten")
    assert "uint8 (N, 40, 40, 3)" in output
    assert "crops:" not in output


def test_summary_prints_the_papers_counts(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    output = printed(capsys, "summary", "paper")
    of_run = printed(capsys, "summary", run)
    assert of_run == printed(capsys, "summary", run / "config.json")
    assert "conv4" in of_run
    assert "60,965,224" in output
    assert "659,272" in output
    assert "724,406,816" in output
    assert "56,909,194" in printed(capsys, "summary", "original", "--architecture.classes", 10)


def test_path_through_a_file_or_a_dangling_link_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = class_folder(tmp_path / "images")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted")
    for parent in ("file", "link"):
        out = tmp_path / parent / "store"
        assert "leads nowhere" in refused(capsys, "prepare", images, out)
        assert not out.exists()


def test_user_errors_are_one_sentence(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png, text = tmp_path / "a.png", tmp_path / "letter.txt"
    Image.fromarray(shapes.image(0, 0)).save(png)
    text.write_text("dear")
    wide = ["--architecture.columns", "5", "--architecture.input-px", "32"]
    for arguments, message in (
        (["dance"], "there is no verb 'dance'; the verbs are demo, prepare"),
        (["trian"], "there is no verb 'trian'; the nearest is train"),
        (["neighbors"], "it is a figure: alexnet figure neighbours RUN"),
        (["train", png], "a.png is a file; give a folder of images, a recipe, or"),
        (
            ["train", "resnet", "--data", store],
            "'resnet' is neither a recipe nor a folder that exists; all recipes are listed by: ",
        ),
        (["train", "papr"], "nor a folder that exists; the nearest recipe is paper; all recipes"),
        (["train", "--data", store], "name the recipe first"),
        (["train", "demo"], "name the prepared store: --data STORE"),
        (["train", "demo", "--data", store, "--minutes", "3"], "--minutes is for a folder of im"),
        (["train", tmp_path, "--minutes", "3", "--epochs", "2"], "either --epochs or --minutes"),
        (["train", tmp_path, "--recipe", "papr"], "no recipe 'papr'; the nearest is paper"),
        (["train", tmp_path, "--recipe", "x.json"], "no recipe 'x.json'; the recipes are caffe_"),
        (["train", tmp_path, "--recipe"], "--recipe needs a value"),
        (
            ["train", "demo", "--recipe", "modern", "--data", store],
            "--recipe is for a folder of im",
        ),
        (["train", tmp_path, "--minutes", "-1"], "--minutes is -1; it must be a positive number"),
        (["train", tmp_path, "--minutes", "inf"], "--minutes is inf; it must be a positive num"),
        (
            ["train", "demo", "--data", tmp_path / "none"],
            "none is not a prepared store (no manifest.json); make one",
        ),
        (["look", tmp_path], f"make one with: alexnet prepare {tmp_path} STORE"),
        (["train", "demo", "--data", store, "--out", run], "is not empty; choose another --out"),
        (
            ["train", "demo", "--data", store, "--out", tmp_path / "r"],
            "sees 112 pixels per side, and the store has 40",
        ),
        (
            ["train", "demo", "--data", store, "--out", tmp_path / "r", *wide],
            "conv1: 5 columns do not divide",
        ),
        (["train", "demo", "--data", store, "--sgd.batch", "-1"], "sgd.batch is -1"),
        (["train", "demo", "--data", store, "--epochs", "0"], "epochs is 0"),
        (["train", "demo", "--data", store, "--sgd.speed", "1"], "there is no option --sgd.speed"),
        (["train", "--resume", tmp_path / "none"], "is not a run"),
        (["prepare", tmp_path / "none", tmp_path / "s"], "does not exist"),
        (["prepare", "nobody/nothing", tmp_path / "s"], "Hugging Face hub does not provide it"),
        (["prepare", store, "s3://bucket/store"], "s3://bucket/store is a URL; write to a folder"),
        (
            ["train", "demo", "--data", store, "--out", "s3://bucket/run"],
            "s3://bucket/run is a URL; write to a folder",
        ),
        (
            ["prepare", tmp_path, tmp_path.parent / "s"],
            "lie in no class folder; put them into folders, one for each class (at least 2)",
        ),
        (["evaluate", run, "--data", store, "--split", "moon"], "has no split 'moon'"),
        (["evaluate"], "at least one run"),
        (
            ["evaluate", tmp_path / "none", "--data", store],
            "none does not exist; give the folder of a run",
        ),
        (
            ["evaluate", f"{run}s", "--data", store],
            f"{run}s does not exist; the nearest run is {run}",
        ),
        (["look", run], "is a run; its images are shown by: alexnet look "),
        (
            ["predict", run, "https://a.net/b.jpg"],
            "https://a.net/b.jpg is a URL; download the image",
        ),
        (["predict", run, tmp_path / "none.jpg"], "does not exist"),
        (["predict", run, text], "could not be read as images"),
        (["predict", text, png], "letter.txt is not a run of this program"),
        (["predict", png, run], f"the run comes first: alexnet predict {run} {png}"),
        (["features", run, "--data", store, "--out", store], "exists"),
        (
            ["features", run, "--layer", "fc9", "--data", store, "--out", tmp_path / "f"],
            "no layer 'fc9'",
        ),
        (["figure", "filters", tmp_path / "none"], "does not exist"),
        (
            ["figure"],
            "name a figure and a run, for example: alexnet figure filters RUN; the figures",
        ),
        (
            ["figure", "filtres", run],
            "figure cannot be filtres; the nearest is filters; it is one of",
        ),
        (["figure", "curves"], "name the run"),
        (["summary", "vgg"], "there is no recipe 'vgg'; the recipes are caffe_alexnet"),
        (["summary", "orignal"], "there is no recipe 'orignal'; the nearest is original"),
        (["which", tmp_path / "none"], "none does not exist"),
        (["summary", "paper", "--architecture.input-px", "30"], "shrinks to nothing"),
        (["export", run, png], "exists; choose another name"),
        (["figure", "filters", run, "--out", tmp_path / "a.txt"], "a.txt has none of the suffixes"),
        (["figure", "filters", run, "--out", "s3://b/a.png"], "s3://b/a.png is a URL; write to a"),
        (["report", run, "--out", "s3://b/page"], "s3://b/page is a URL; write to a folder"),
        (["report", run / "last.safetensors"], "last.safetensors is a file; a page has the curves"),
        (["export", run, "s3://b/net.onnx"], "s3://b/net.onnx is a URL; write to a folder"),
        *(
            (["reproduce", option, "s3://b/x"], "s3://b/x is a URL; write to a folder")
            for option in ("--out", "--records", "--document", "--report")
        ),
        (["export", run, tmp_path / "net.h5"], "ends in neither .onnx nor .safetensors"),
        (
            ["export", run, tmp_path / "a.onnx", "--groups", "split"],
            "--groups is for --layout caffe",
        ),
        (["export", run, tmp_path / "a.onnx", "--crops", "ten"], "needs --with-preprocessing"),
        (["export", run, tmp_path / "a.safetensors", "--with-preprocessing"], "are for .onnx"),
    ):
        assert message in (sentence := refused(capsys, *arguments)), (arguments, sentence)
    assert not (tmp_path / "r").exists()


def test_check_names_the_parts_that_are_intact_and_the_first_that_is_not(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = printed(capsys, "check", store, run, run / "best.safetensors")
    for part in (
        f"{store}/manifest.json: intact",
        f"{store}/mean.npy: intact",
        f"{store}/train: intact (60 images in 3 files)",
        f"{store}/val: intact (30 images in 2 files)",
        f"{run}/config.json: readable (it has no checksum)",
        f"{run}/metrics.jsonl: readable (4 lines, no checksum)",
        f"{run}/last.safetensors: intact (tiny, 10 classes)",
        f"{run}/best.safetensors: intact (tiny, 10 classes)",
    ):
        assert part in output
    assert "train: intact" in printed(capsys, "check", f"file://{store}")
    for whole in (store, run):
        for number, file in enumerate(sorted(whole.rglob("*.*"))):
            # Hugging Face's files are not used by this program.
            if file.name in ("dataset_info.json", "state.json", "dataset_dict.json"):
                continue
            if not file.is_file() or file.parent.name == "tensorboard":
                continue
            copy = tmp_path / f"{whole.name}-{number}"
            shutil.copytree(whole, copy)
            damaged = copy / file.relative_to(whole)
            data = damaged.read_bytes()
            middle = len(data) // 2
            flipped = bytes([data[middle] ^ 0xFF])
            damaged.write_bytes(data[:middle] + flipped + data[middle + 1 :])
            assert str(damaged) in refused(capsys, "check", copy)
    assert "neither a store nor a run" in refused(capsys, "check", tmp_path / "none")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "a/b: No space left on device; make room"),
        (errno.ENOENT, "a/b: No such file or directory; check the name"),
        (errno.EROFS, "choose another"),
        (
            errno.ESTALE,
            f"a/b: {os.strerror(errno.ESTALE)}; the file system did not answer; try again",
        ),
        (errno.EACCES, "a/b: Permission denied; change its permissions or choose another path"),
    ],
)
def test_errors_of_the_disk_are_sentences_with_the_path(
    number: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(arguments: list[str]) -> None:
        raise OSError(number, os.strerror(number), "a/b")

    monkeypatch.setattr("alexnet.cli.summary.summary", failing)
    assert message in refused(capsys, "summary", "paper")


def test_remote_store_that_refuses_access_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such errors have no number of the system."""

    def failing(arguments: list[str]) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr("alexnet.cli.summary.summary", failing)
    assert refused(capsys, "summary", "paper") == "alexnet: Access Denied"


FULL = """
import resource, signal, sys
from alexnet.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
main(["train", "--resume", sys.argv[2]])
"""


@pytest.mark.slow
def test_checkpoint_that_does_not_fit_is_one_sentence_and_leaves_no_file(
    store: Path, run: Path, tmp_path: Path
) -> None:
    """A limit on the size of files stands for a full disk: files of half a checkpoint fit."""
    copy = tmp_path / "run"
    copy.mkdir()
    write_config(copy, replace(read_config(run), data=str(store), checkpoint_minutes=0.0))
    limit = (run / "last.safetensors").stat().st_size // 2
    completed = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), str(copy)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert completed.returncode == 2, completed.stderr
    assert "Traceback" not in completed.stderr
    assert (
        f"alexnet: {copy / 'last.safetensors'}: File too large; make room on this disk"
        in completed.stderr
    )
    assert {path.name for path in copy.iterdir()} <= {"config.json", "metrics.jsonl", "tensorboard"}


def test_train_options_change_only_the_fields_they_name() -> None:
    """The saved config is complete: a command and the same Config in Python are the same run."""
    from alexnet.config import StepSchedule

    arguments = parse_train(
        "original", ["--data", "x", "--epochs", "50", "--seed", "3", "--architecture.lrn.k", "1"]
    )
    expected = recipes.original()
    expected = replace(
        expected,
        data="x",
        seed=3,
        architecture=replace(expected.architecture, lrn=replace(expected.architecture.lrn, k=1.0)),
    )
    assert isinstance(arguments, TrainArguments)
    assert isinstance(arguments.config.schedule, StepSchedule)
    assert arguments.config.schedule.drops == (14, 28, 43)
    assert to_dict(replace(arguments.config, schedule=expected.schedule)) == to_dict(expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_saved_config_is_a_recipe_of_its_own(recipe: Callable[[], Config], tmp_path: Path) -> None:
    """Without options the same run again; an option changes its field, and nothing else."""
    config = replace(recipe(), data="stores/mine", seed=5)
    write_config(tmp_path, config)
    name = str(tmp_path / "config.json")
    assert parse_train(name, []).config == config
    changed = parse_train(name, ["--data", "stores/other", "--sgd.lr", "0.5"]).config
    assert changed == replace(config, data="stores/other", sgd=replace(config.sgd, lr=0.5))
    assert parse_train(name, ["--epochs", "7"]).config.schedule.epochs == 7


def test_train_from_a_config_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = run / "config.json"
    printed(capsys, "train", config, "--epochs", 1)
    started = read_config(Path("runs/tiny"))
    assert (started.recipe, started.schedule.epochs) == ("tiny", 1)
    assert replace(started, schedule=read_config(run).schedule) == read_config(run)
    assert "--sgd.lr" in printed(capsys, "train", config, "--help")
    # The number of classes in the file is that of its own store; one that is given must fit.
    two = tmp_path / "two"
    printed(capsys, "prepare", class_folder(tmp_path / "images"), two, "--size-px", 40)
    printed(capsys, "train", config, "--data", two, "--init", run, "--epochs", 1, "--out", "other")
    assert read_config(Path("other")).architecture.classes == 2
    given = "train", config, "--data", two, "--architecture.classes", 10, "--out", "none"
    assert "architecture.classes is 10 and" in refused(capsys, *given)
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"recipe": "tiny"')
    assert "damaged.json is not JSON" in refused(capsys, "train", damaged)
    damaged.write_text('{"recipe": "tiny", "architecture": 3}')
    assert "damaged.json.architecture is 3" in refused(capsys, "train", damaged)
    assert "none.json" in refused(capsys, "train", "none.json")


def test_hostile_name_of_an_image_that_is_prepared_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path / "images", {"one": 4, "two": 4})
    (tmp_path / "images" / "one" / "a\x1b[2J.png").touch()
    (tmp_path / "images" / "b\x1b[2J.png").touch()
    settings = "--most-skipped", "0.5", "--size-px", "16"
    output = printed(capsys, "prepare", tmp_path / "images", tmp_path / "store", *settings)
    assert "a?[2J.png" in output
    assert "b?[2J.png" in output
    assert "\x1b" not in output


def test_hostile_names_of_classes_do_not_reach_the_terminal(
    copied_run: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saved = checkpoint.read(copied_run)
    classes = [f"\x1b[2J{name}" for name in saved.about["classes"]]
    file = copied_run / "last.safetensors"
    checkpoint.write(file, saved.weights, {}, saved.mean, saved.about | {"classes": classes})
    hostile = Path(shutil.copytree(store, tmp_path / "hostile"))
    manifest = json.loads((store / "manifest.json").read_text()) | {"classes": classes}
    (hostile / "manifest.json").write_text(json.dumps(sealed(manifest)))
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    monkeypatch.setattr(figures, "explanation", lambda *_: Figure())
    explain = "explain", copied_run, tmp_path / "a.png", "--methods", "gradient"
    for arguments in (("evaluate", copied_run, "--data", hostile), explain):
        output = printed(capsys, *arguments)
        assert "?[2J" in output
        assert "\x1b" not in output


@pytest.mark.parametrize(
    ("size_px", "images", "recipe"),
    [
        (256, 100, "original"),
        (128, 50_000, "modern_small"),
        (32, 50_000, "cifar_26"),
        (32, 5_000, "cifar_11"),
        (28, 60_000, "cifar_11"),
        (64, 100_000, "cifar_26"),
        (16, 100, None),
    ],
)
def test_prepare_advises_a_recipe_that_fits_the_store(
    size_px: int, images: int, recipe: str | None
) -> None:
    assert _recipe_for(size_px, images) == recipe


def test_prepare_of_few_images_names_the_quick_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path / "images", {"one": 4, "two": 4})
    output = printed(capsys, "prepare", tmp_path / "images", tmp_path / "store")
    quick, slow = output.splitlines()[-2:]
    assert quick == f"train a small network in minutes: alexnet train {tmp_path / 'images'}"
    assert slow.startswith("or the paper's, in hours: alexnet train original --data ")


def test_line_for_a_closed_stderr_does_not_reach_stdout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`2>&-` leaves no stderr, and `print` then takes stdout for it."""
    monkeypatch.setattr(sys, "stderr", None)
    print_if_read("about 3 min left", err=True)
    print_if_read("1/2 done")
    assert capsys.readouterr().out == "1/2 done\n"


def test_terminal_without_a_letter_of_a_name_loses_no_prediction(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("\u0141\u00f3d\u017a.png", "z.png"):
        Image.fromarray(shapes.image(0, 0)).save(tmp_path / name)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    main(["predict", str(run), str(tmp_path)])
    lines = terminal.buffer.getvalue().decode("latin-1").splitlines()  # type: ignore[attr-defined]
    files = [line.split(": ")[0].rpartition("/")[2] for line in lines]
    assert files == ["z.png", "\\u0141\u00f3d\\u017a.png"]


def test_names_keep_their_spaces_and_joined_emoji() -> None:
    """macOS has a narrow space in the names of screenshots."""
    for name in ("3.45\u202fPM.png", "a\u00a0b\u3000c", "\U0001f469\u200d\U0001f52c"):
        assert printable(name) == name
    # A line and its direction, the end of a line, and bytes that are not UTF-8.
    assert printable("a\x1b[2Jb\u202ec\u2028d\u200b\udcfc\n") == "a?[2Jb?c?d???"


def test_test_on_a_part_of_other_images_says_so(
    run: Path,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a folder that is prepared for a test alone, a tenth is held out and the rest ignored."""
    later = of_other_images(store, tmp_path / "later")
    says = f"of the 90 images of {later}; --split names another of its splits: train"
    for tested in (run, run / "last.safetensors"):
        main(["evaluate", str(tested), "--data", str(later), "--json"])
        assert says in capsys.readouterr().err
    # An imported run was trained on no store, and not on that in the current folder.
    saved = checkpoint.read(run)
    about = saved.about | {"config": saved.about["config"] | {"data": ""}}
    imported = tmp_path / "imported.safetensors"
    checkpoint.write(imported, saved.weights, {}, saved.mean, about)
    monkeypatch.chdir(later)
    main(["evaluate", str(imported), "--data", ".", "--json"])
    assert "of the 90 images of ." in capsys.readouterr().err
    main(["evaluate", str(run), "--data", str(later), "--split", "val"])
    assert "names another of its splits" not in capsys.readouterr().err


def test_other_splits_of_the_store_of_a_training_are_not_named(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the store lies now, and whatever is left of the run."""
    left = tmp_path / "left"
    left.mkdir()
    shutil.copy(run / "last.safetensors", left)
    moved = shutil.copytree(store, tmp_path / "moved")
    # A store of the same name that has been prepared anew.
    saved, anew = checkpoint.read(run), of_other_images(store, tmp_path / "anew")
    about = saved.about | {"config": saved.about["config"] | {"data": str(anew)}}
    checkpoint.write(tmp_path / "a.safetensors", saved.weights, {}, saved.mean, about)
    for tested, data in (
        (left, moved),
        (left / "last.safetensors", moved),
        (tmp_path / "a.safetensors", anew),
    ):
        main(["evaluate", str(tested), "--data", str(data)])
        assert "names another of its splits" not in capsys.readouterr().err


def of_other_images(store: Path, copy: Path) -> Path:
    """A store with another checksum, and the same classes and sizes."""
    shutil.copytree(store, copy)
    manifest = json.loads((store / "manifest.json").read_text()) | {"name": "other images"}
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
    return copy
