"""The program as people type it: every verb, and every mistake one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from alexnet.cli import VERBS, main
from alexnet.configfile import to_dict
from alexnet.data import shapes
from alexnet.train.checkpoint import read_config, write_config
from tests.conftest import tiny

ROOT = Path(__file__).parents[1]


def pictures(folder: Path, each: int = 4) -> Path:
    for label in range(3):
        (folder / shapes.CLASSES[label]).mkdir(parents=True)
        for number in range(each):
            path = folder / shapes.CLASSES[label] / f"{number}.png"
            Image.fromarray(shapes.picture(label, number)).resize((64, 48)).save(path)
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Runs the program, which must exit with 2, and returns what it said."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert "Traceback" not in said.err + said.out
    return said.err + said.out


def runs(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_from_a_folder_of_pictures_to_predictions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """prepare, train, evaluate, predict, features, figure, export: one after the other, as the README shows them."""
    store, run = tmp_path / "store", tmp_path / "run"
    said = runs(
        capsys,
        "prepare",
        pictures(tmp_path / "pictures"),
        store,
        "--size-px",
        128,
        "--val-fraction",
        0.25,
    )
    assert "3 classes" in said
    assert "train: 9 pictures, 0 skipped" in said
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
    said = runs(capsys, "train", "demo", "--data", store, "--out", run, *narrow, "--device", "cpu")
    assert "epoch   2/2" in said
    config = read_config(run)
    assert (config.recipe, config.architecture.width, config.sgd.batch) == ("demo", 0.125, 4)
    assert "10 patches: top-1 error" in runs(capsys, "evaluate", run, "--data", store)
    results = json.loads(runs(capsys, "evaluate", run, run, "--data", store, "--json"))
    assert [r["images"] for r in results] == [3, 3]
    picture = tmp_path / "pictures" / "disc" / "0.png"
    (line,) = runs(capsys, "predict", run, picture, "--json").splitlines()
    assert set(json.loads(line)["classes"]) == {"disc", "ring", "square"}
    assert "disc" in runs(capsys, "predict", run, tmp_path / "pictures")
    runs(capsys, "features", run, "--layer", "fc7", "--data", store, "--out", tmp_path / "fc7")
    assert (tmp_path / "fc7" / "fc7.npy").is_file()
    for kind in ("filters", "answers", "neighbours", "curves", "signal"):
        assert runs(capsys, "figure", kind, run).strip() == str(run / f"{kind}.png")
    runs(capsys, "export", run, tmp_path / "net.onnx")
    runs(capsys, "export", run, tmp_path / "net.safetensors")
    assert "disc" in runs(capsys, "predict", tmp_path / "net.safetensors", picture)
    runs(capsys, "train", "--resume", run)


def test_summary_prints_the_papers_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    said = runs(capsys, "summary", "paper")
    assert "60,965,224" in said
    assert "659,272" in said
    assert "724,406,816" in said
    assert "56,909,194" in runs(capsys, "summary", "original", "--architecture.classes", 10)


def test_mistakes_are_sentences(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    png, text = tmp_path / "a.png", tmp_path / "letter.txt"
    Image.fromarray(shapes.picture(0, 0)).save(png)
    text.write_text("dear")
    wide = ["--architecture.columns", "5"]
    for arguments, says in (
        (["dance"], "there is no verb 'dance'; the verbs are demo, prepare"),
        (
            ["train", "resnet", "--data", store],
            "there is no recipe 'resnet'; the recipes are cifar_11",
        ),
        (["train", "--data", store], "name the recipe first"),
        (["train", "demo"], "name the prepared store: --data STORE"),
        (
            ["train", "demo", "--data", tmp_path / "none"],
            "none is no prepared store (no manifest.json); make one",
        ),
        (["train", "demo", "--data", store, "--out", run], "holds something already"),
        (
            ["train", "demo", "--data", store, "--out", tmp_path / "r"],
            "sees 112 pixels a side and the store has 40",
        ),
        (
            ["train", "demo", "--data", store, "--out", tmp_path / "r", *wide],
            "conv1: 5 columns do not divide",
        ),
        (["train", "demo", "--data", store, "--sgd.batch", "-1"], "sgd.batch is -1"),
        (["train", "demo", "--data", store, "--epochs", "0"], "epochs is 0"),
        (["train", "demo", "--data", store, "--sgd.speed", "1"], "Unrecognized"),
        (["train", "--resume", tmp_path / "none"], "is no run"),
        (["prepare", tmp_path / "none", tmp_path / "s"], "does not exist"),
        (["prepare", "nobody/nothing", tmp_path / "s"], "Hugging Face hub does not give it"),
        (["prepare", store, "s3://bucket/store"], "s3:/bucket/store is a URL; write to a folder"),
        (
            ["train", "demo", "--data", store, "--out", "s3://bucket/run"],
            "s3:/bucket/run is a URL; write to a folder",
        ),
        (["prepare", tmp_path, store], "class folders; at least 2 are needed"),
        (["evaluate", run, "--data", store, "--split", "moon"], "has no split 'moon'"),
        (["evaluate", run], "--data"),
        (["evaluate", tmp_path / "none", "--data", store], "no run that has reached a checkpoint"),
        (["predict", run, tmp_path / "none.jpg"], "does not exist"),
        (["predict", run, text], "could not be read as pictures"),
        (["predict", text, png], "is damaged"),
        (["features", run, "--data", store, "--out", store], "exists"),
        (
            ["features", run, "--layer", "fc9", "--data", store, "--out", tmp_path / "f"],
            "no layer 'fc9'",
        ),
        (["figure", "filters", tmp_path / "none"], "does not exist"),
        (["figure", "portrait", run], "portrait"),
        (["figure", "curves"], "name the run"),
        (["summary", "vgg"], "there is no recipe 'vgg'"),
        (["summary", "paper", "--architecture.input-px", "30"], "shrinks to nothing"),
        (["export", run, png], "exists; choose another name"),
        (["export", run, tmp_path / "net.h5"], "ends in neither .onnx nor .safetensors"),
    ):
        said = " ".join(fails(capsys, *arguments).replace("│", " ").split())
        assert says in said, (arguments, said)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        main([verb, "--help"])
    except SystemExit as stopped:
        assert stopped.code == 0
    assert verb in capsys.readouterr().out


def test_the_commands_config_is_the_recipes_with_the_fields_set(
    store: Path, tmp_path: Path
) -> None:
    """What is saved is the whole, so that a command and a value in Python are the same run."""
    from dataclasses import replace

    from alexnet import recipes
    from alexnet.cli.making import TrainArguments, parse_train
    from alexnet.config import Steps

    a = parse_train(
        "original", ["--data", "x", "--epochs", "50", "--seed", "3", "--architecture.lrn.k", "1"]
    )
    want = recipes.original()
    want = replace(
        want,
        data="x",
        seed=3,
        architecture=replace(want.architecture, lrn=replace(want.architecture.lrn, k=1.0)),
    )
    assert isinstance(a, TrainArguments)
    assert isinstance(a.config.schedule, Steps)
    assert a.config.schedule.drops == (14, 28, 43)
    assert to_dict(replace(a.config, schedule=want.schedule)) == to_dict(want)


def test_help_and_recipes_need_no_torch() -> None:
    for arguments in (
        ["--help"],
        ["train", "original", "--help"],
        ["train"],
        ["prepare", "--help"],
    ):
        program = (
            "import sys; from alexnet.cli import main\n"
            f"try: main({arguments!r})\nexcept SystemExit: pass\n"
            "assert 'torch' not in sys.modules and 'datasets' not in sys.modules"
        )
        assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_says_how_to_go_on(
    store: Path, tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_config(run, tiny(store, checkpoint_minutes=0.0, architecture=long(store)))
    command = [sys.executable, "-m", "alexnet", "train", "--resume", str(run)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT
    )
    for _ in range(600):
        if (run / "last.safetensors").exists():
            break
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"go on with: alexnet train --resume {run}" in said
    assert "Traceback" not in said


def long(store: Path) -> object:
    """The tiny net with its classes settled, as a run's file has it."""
    from dataclasses import replace

    return replace(tiny(store).architecture, classes=10)


def test_a_reader_that_has_enough_is_no_error() -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    piped = f"{sys.executable} -m alexnet summary paper | head -1"
    done = subprocess.run(
        piped, shell=True, capture_output=True, text=True, cwd=ROOT, env=environment, check=True
    )
    assert "Traceback" not in done.stderr
