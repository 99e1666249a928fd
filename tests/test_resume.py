"""Runs resumed with another learning rate or length, or after a loss that is not finite."""

from __future__ import annotations

import errno
import io
import os
import re
import shlex
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from alexnet import checkpoint, progress, recipes
from alexnet.checkpoint import read_config, write_config
from alexnet.cli import main
from alexnet.config import Config, Parallel, Plateau, Sgd, StepSchedule, scaled
from alexnet.errors import ConfigError, RunError
from alexnet.progress import Progress, duration
from alexnet.train import checkpoints, loop, start
from alexnet.train.changes import ROUNDED, changes_in_words, hardware_in_words
from alexnet.train.endings import NotFinite
from alexnet.train.run_log import read_metrics
from alexnet.train.start import fit, resume
from tests.conftest import tiny
from tests.runs import same_bits, stopped_after


def rates(run: Path) -> list[float]:
    return [line["lr"] for line in read_metrics(run, "epoch")]


def test_complete_run_without_room_for_its_card_is_complete(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop, "write_card", full)
    fit(tiny(store), tmp_path / "run")
    assert "card.md was not written: No space left on device" in capsys.readouterr().err
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_finished_run_says_so_and_how_to_lengthen_it(
    copied_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "--resume", str(copied_run)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"{copied_run} is already finished (3 epochs); lengthen it with: "
        f"alexnet train --resume {copied_run} --epochs 6"
    )
    main(["train", "--resume", str(copied_run), "--epochs", "3"])
    assert "is already finished" in capsys.readouterr().err
    # The command works as it was printed.
    main(shlex.split(line.split("alexnet ", 1)[1]))
    assert len(read_metrics(copied_run, "epoch")) == 6


def test_run_can_be_ended_where_it_is(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit(tiny(store, schedule=StepSchedule(1)), run)
    write_config(run, replace(read_config(run), schedule=StepSchedule(3)))
    for _ in range(2):
        capsys.readouterr()
        main(["train", "--resume", str(run), "--epochs", "1"])
    assert "is already finished (1 epochs)" in capsys.readouterr().err
    assert read_config(run).schedule.epochs == 1
    assert len(read_metrics(run, "epoch")) == 1


def test_new_settings_of_a_finished_run_wait_for_a_new_length(
    copied_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (copied_run / "config.json").read_bytes(), (copied_run / "metrics.jsonl").read_bytes()
    data = read_config(copied_run).data
    options = f"--lr 0.5 --data {data}/../{Path(data).name} --workers 3 --parallel.timeout-s 90.0"
    main(["train", "--resume", str(copied_run), *options.split()])
    assert capsys.readouterr().err.endswith(f"--resume {copied_run} --epochs 6 {options}\n")
    assert before == (
        (copied_run / "config.json").read_bytes(),
        (copied_run / "metrics.jsonl").read_bytes(),
    )


def test_lengthened_run_goes_on_with_the_schedule_of_a_new_run_of_that_length(
    copied_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The drop moves from the third epoch to the fifth, so the fourth has the first rate again."""
    before = read_config(copied_run)
    resume(copied_run, epochs=6)
    assert read_config(copied_run) == replace(before, schedule=scaled(before.schedule, 6))
    assert rates(copied_run) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-3, 1e-4, 1e-4])
    (change,) = read_metrics(copied_run, "change")
    assert change == {"kind": "change", "step": 12, "epoch": 3, "lr": 0.001, "epochs": 6}
    assert (
        "6 epochs in place of 3; the learning rate drops at the beginning of epoch 5"
        in capsys.readouterr().err
    )
    saved = checkpoint.read(copied_run)
    assert saved.config.schedule.epochs == 6
    assert saved.about["position"]["epoch"] == 6


def test_new_learning_rate_holds_from_the_checkpoint_and_is_saved(
    store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with stopped_after(4):
        fit(tiny(store), run)
    main(["train", "--resume", str(run), "--sgd.lr", "0.0005"])
    assert rates(run) == pytest.approx([5e-4, 5e-4, 5e-5])
    assert read_config(run).sgd == replace(tiny(store).sgd, lr=0.0005)
    assert [line["lr"] for line in read_metrics(run, "change")] == [0.0005]
    # The line of the epoch that had no batch left shows a speed all the same.
    assert all(line["images_per_s"] > 0 for line in read_metrics(run, "epoch"))


def test_change_that_is_stopped_before_the_training_is_logged_when_it_is_made_again(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two, resident images are decoded for minutes."""
    before = read_config(copied_run)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "training_split", stopped)
        resume(copied_run, epochs=4)
    assert read_config(copied_run) == before
    resume(copied_run, epochs=4)
    assert [line["epochs"] for line in read_metrics(copied_run, "change")] == [4]


def test_single_process_keeps_the_timeout_of_a_run_of_ranks(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it is how long a store may be silent."""
    config = read_config(copied_run)
    write_config(copied_run, replace(config, parallel=Parallel(columns=2, timeout_s=7)))
    joined: list[Parallel] = []

    def join(parallel: Parallel, device: str) -> None:
        joined.append(parallel)
        raise RunError("enough")

    monkeypatch.setattr(start, "init_mesh", join)
    with pytest.raises(RunError, match="enough"):
        resume(copied_run)
    assert joined == [Parallel(timeout_s=7)]


def test_empty_name_of_a_store_is_refused_on_resume(run: Path) -> None:
    """It would be the current folder, and later the sign of an imported run."""
    before = (run / "config.json").read_bytes()
    with pytest.raises(ConfigError, match="--data names no store"):
        resume(run, data="")
    assert (run / "config.json").read_bytes() == before


def test_run_is_resumed_with_its_store_elsewhere_and_another_timeout(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a cluster, where a store is copied to the disk of each job."""
    shutil.copytree(store, moved := tmp_path / "moved")
    with stopped_after(5):
        fit(tiny(store), tmp_path / "run")
    before = read_config(tmp_path / "run")
    capsys.readouterr()
    options = "--data", str(moved), "--workers", "1", "--parallel.timeout-s", "600"
    main(["train", "--resume", str(tmp_path / "run"), *options])
    assert f"\nstore {moved} in place of {store}\n" in capsys.readouterr().err
    parallel = replace(before.parallel, timeout_s=600)
    changed = replace(before, data=str(moved), workers=1, parallel=parallel)
    assert read_config(tmp_path / "run") == changed
    # What is learned is the same.
    assert read_metrics(tmp_path / "run", "change") == []
    weights = [checkpoint.read(folder).about["sha256"] for folder in (tmp_path / "run", run)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("epochs", "lost"),
    [
        (24, ""),
        # The two rates of conv1 fall on one epoch, where the first never acts.
        (3, "drops of the learning rate: 1, learning rates of single layers: 1"),
        (
            1,
            "drops of the learning rate: 3, learning rates of single layers: 2, the end of the "
            "color noise",
        ),
    ],
)
def test_what_a_shorter_schedule_leaves_out_is_said(epochs: int, lost: str) -> None:
    """Only the shorter one is saved: a longer one that is made of it later lacks the same."""
    config = recipes.original()
    shorter = replace(config, schedule=scaled(config.schedule, epochs))
    (line,) = changes_in_words(config, shorter)
    assert line.partition("; left out, also of a longer run later: ")[2] == lost
    longer = replace(config, schedule=scaled(shorter.schedule, 91))
    (line,) = changes_in_words(shorter, longer)
    assert "left out" not in line


@pytest.mark.parametrize("layout", [(), ("--columns", "2")])
def test_new_timeout_holds_for_the_meeting_of_the_ranks(
    layout: tuple[str, ...], copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[Parallel] = []

    def join(parallel: Parallel, device: str) -> None:
        joined.append(parallel)
        raise RunError("enough")

    monkeypatch.setattr(start, "init_mesh", join)
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(copied_run), "--timeout-s", "600", *layout])
    assert joined == [Parallel(columns=2 if layout else 1, timeout_s=600)]


def test_another_processor_or_number_of_threads_is_said_on_resume(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    threads = torch.get_num_threads()
    said = []
    for steps, machine in (
        (2, "one CPU, 2 cores"),
        (2, "one CPU, 4 cores"),
        (9, "another, 4 cores"),
    ):
        monkeypatch.setattr(checkpoints, "machine", lambda machine=machine: machine)
        with stopped_after(steps) if steps < 9 else nullcontext():
            resume(run) if run.exists() else fit(tiny(store), run)
        said.append(
            [line for line in capsys.readouterr().err.splitlines() if " in place of " in line]
        )
    count = f"with {threads} thread{'s' if threads > 1 else ''}"
    line = f"on another {count} in place of one CPU {count}: {ROUNDED}"
    assert said == [[], [], [line]]


@pytest.mark.parametrize(
    ("device", "before", "line"),
    [
        (
            "cpu",
            {"machine": "a, 2 cores", "threads": 1},
            "on a with 2 threads in place of a with 1 thread",
        ),
        ("cpu", {"machine": "a, 1 core", "threads": 2}, ""),
        ("cpu", {"machine": "a, 1 core"}, ""),
        ("cpu", {"machine": "b, 1 core"}, "on a in place of b"),
        ("cpu", {}, ""),
        ("cuda", {"machine": "b, 1 core, H100", "threads": 1}, ""),
        ("cuda", {"machine": "a, 4 cores, A100", "threads": 2}, "on H100 in place of A100"),
        ("mps", {"machine": "a, 1 core", "threads": 1}, ""),
        # It was continued on a machine without a GPU in between.
        (
            "cuda",
            {"machine": "a, 2 cores", "threads": 2, "device": "cpu"},
            "on cuda in place of cpu",
        ),
        ("cpu", {"machine": "a, 2 cores", "threads": 2, "device": "cpu"}, ""),
        # Earlier versions have left out the family, as in the rows above.
        ("cpu", {"machine": "a family 6 model 1, 2 cores", "threads": 2}, ""),
        (
            "cpu",
            {"machine": "a family 6 model 2, 2 cores", "threads": 2},
            "on a family 6 model 1 with 2 threads in place of a family 6 model 2 with 2 threads",
        ),
    ],
)
def test_hardware_is_compared_by_what_decides_the_bits(
    device: str, before: dict[str, Any], line: str
) -> None:
    gpu = ", H100" * (device == "cuda")
    now = {"machine": f"a family 6 model 1, 4 cores{gpu}", "threads": 2}
    assert hardware_in_words(before, now, device) == ([f"{line}: {ROUNDED}"] if line else [])


def test_same_settings_change_nothing(store: Path, run: Path, tmp_path: Path) -> None:
    with stopped_after(5):
        fit(tiny(store), tmp_path / "run")
    config = (tmp_path / "run" / "config.json").read_bytes()
    resume(tmp_path / "run", epochs=3, lr=0.001)
    assert (tmp_path / "run" / "config.json").read_bytes() == config
    assert read_metrics(tmp_path / "run", "change") == []
    assert same_bits(tmp_path / "run", run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 2}, "epochs is 2 and the run has completed 3; give a larger number"),
        ({"epochs": 0}, "epochs is 0; a schedule needs at least 1"),
        ({"lr": -1.0}, r"sgd\.lr is -1\.0; it must be at least 0"),
        ({"lr": float("nan")}, r"sgd\.lr is nan"),
        ({"workers": -1}, "workers is -1"),
        ({"timeout_s": 0.0}, r"parallel\.timeout_s is 0\.0"),
    ],
)
def test_impossible_changes_are_refused_and_nothing_is_written(
    copied_run: Path, changes: dict[str, float], message: str
) -> None:
    before = {path.name: path.read_bytes() for path in copied_run.iterdir() if path.is_file()}
    with pytest.raises(ConfigError, match=message):
        resume(copied_run, **changes)  # type: ignore[arg-type]
    after = {path.name: path.read_bytes() for path in copied_run.iterdir() if path.is_file()}
    assert before == after


def test_run_that_ended_before_its_last_epoch_goes_on_when_asked(
    store: Path, tmp_path: Path
) -> None:
    """A plateau begins again with the first rate; an error that was reached ends nothing more."""
    plateau = Plateau(epochs=9, patience=1, min_delta=0.9, drops=1)
    goal = StepSchedule(epochs=4, until_error=1.0)
    for name, schedule, ended in (("plateau", plateau, 3), ("goal", goal, 1)):
        run = tmp_path / name
        fit(tiny(store, schedule=schedule), run)
        assert len(rates(run)) == ended
        assert resume(run) == {}
        resume(run, epochs=ended + 1)
        assert len(rates(run)) == ended + 1
        assert rates(run)[-1] == pytest.approx(0.001)


def test_checkpoint_within_an_epoch_has_no_error_of_the_last_one(
    store: Path, tmp_path: Path
) -> None:
    """Its weights were not those that were validated."""
    run = tmp_path / "run"
    fit(tiny(store, schedule=StepSchedule(1)), run)
    assert checkpoint.read(run).about["evaluation"]["val_error"] >= 0
    write_config(run, replace(read_config(run), schedule=StepSchedule(2)))
    with stopped_after(1):
        resume(run)
    about = checkpoint.read(run).about
    assert about["position"]["batch"] > 0 and about["evaluation"] is None


def test_not_finite_without_a_checkpoint_names_the_command_that_begins_again(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_config(run, replace(read_config_of(store), sgd=Sgd(batch=16, lr=1e30)))
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--resume", str(run)])
    assert stopped.value.code == 1
    text = capsys.readouterr().err
    assert re.search(r"step 1: the output of conv\d\.linear is not finite; begin", text)
    mend = f"begin again at a tenth of the learning rate with: alexnet train --resume {run} --lr "
    assert mend + "1e+29" in text
    assert not (run / "last.safetensors").exists()
    resume(run, lr=0.001)
    assert rates(run)[0] == 0.001


def read_config_of(store: Path) -> Config:
    config = tiny(store)
    return replace(config, architecture=replace(config.architecture, classes=10))


@pytest.mark.parametrize("minutes", [0.0, 10.0])
def test_weights_that_are_not_finite_are_never_saved(copied_run: Path, minutes: float) -> None:
    """The loss of the step before the save is finite; its update makes the weights infinite."""
    write_config(copied_run, replace(read_config(copied_run), checkpoint_minutes=minutes))
    before = (copied_run / "last.safetensors").read_bytes()
    command = f"alexnet train --resume {copied_run} --lr 1e\\+299"
    where = r"go on from the checkpoint \(epoch 4, step 12\) at a tenth of the learning rate with: "
    with pytest.raises(NotFinite, match=where + command):
        resume(copied_run, epochs=4, lr=1e300)
    assert (copied_run / "last.safetensors").read_bytes() == before
    resume(copied_run, lr=0.001)
    assert len(rates(copied_run)) == 4


@pytest.mark.parametrize(("completed", "left"), [(0, "6 min"), (1050, "33 s")])
def test_training_says_once_how_long_it_will_take(
    completed: int, left: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that is resumed near its end."""
    now_s = iter([0.0, *range(5, 50)])  # the first step takes 5 s, of which the speed knows nothing
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(now_s)))
    with Progress("epoch 1/2", 1200, "images", completed, in_all=1200) as bar:
        for _ in range(15):
            bar.advance(10)
    lines = [line for line in capsys.readouterr().err.splitlines() if " left " in line]
    assert lines == [f"about {left} left at 3 images/s"]
    assert [duration(s) for s in (40, 720, 9000, 86400 * 3)] == [
        "40 s",
        "12 min",
        "2.5 h",
        "3.0 days",
    ]


def test_work_goes_on_where_the_reader_of_its_progress_has_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0)
    monkeypatch.setattr(progress, "FORECAST_AFTER_S", 0)
    went_on = []
    for in_all in (None, 3):
        reader, writer = os.pipe()
        os.close(reader)
        with os.fdopen(writer, "w") as stderr, monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stderr)
            with Progress("a", 3, "images", in_all=in_all) as bar:
                for _ in range(3):
                    bar.advance(1)
        went_on.append(in_all)
    assert went_on == [None, 3]


def test_brackets_in_names_are_shown_beside_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich takes them for styles where it is not told otherwise."""
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    with Progress("[old]", 2, "images [a]") as bar:
        bar.advance(1, "[/y]")
    assert all(name in screen.getvalue() for name in ("[old]", "images [a]", "[/y]"))


def test_log_file_gets_no_bar_and_a_dumb_terminal_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress("a", 2, "images") as bar:
        bar.advance(1)
    assert capsys.readouterr().err == ""
    terminal = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(progress, "Console", lambda **_: terminal)
    monkeypatch.setattr(progress, "PLAIN_EVERY_S", 0)
    with Progress("a", 2, "images") as bar:
        bar.advance(1)
    assert capsys.readouterr().err.startswith("a: 1/2, ")


def test_store_may_be_silent_for_half_of_the_timeout(
    store: Path, copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also its server, before the first image is read."""
    opened: list[tuple[str, float]] = []

    def refuse(name: str, answer_s: float) -> None:
        opened.append((name, answer_s))
        raise RunError("enough")

    monkeypatch.setattr(start, "Store", refuse)
    for train in (
        lambda: fit(tiny(store, parallel=Parallel(timeout_s=7)), copied_run.parent / "new"),
        lambda: resume(copied_run, timeout_s=600),
    ):
        with pytest.raises(RunError, match="enough"):
            train()
    assert opened == [(str(store), 3.5), (str(store), 300)]


def test_ranks_compare_the_weights_with_which_a_run_without_a_checkpoint_begins(
    store: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rank reads the file of `init`, which may be another one on its machine."""
    begun = tmp_path / "begun"
    begun.mkdir()
    write_config(begun, replace(read_config_of(store), init=str(run)))
    real, compared = start.check_same_on_all_ranks, dict[str, str]()

    def check(mesh: Any, make: Any, fingerprint: Any) -> Any:
        value = real(mesh, make, fingerprint)
        compared.update(fingerprint(value))
        return value

    monkeypatch.setattr(start, "check_same_on_all_ranks", check)
    with stopped_after(1):
        resume(begun)
    assert checkpoint.read(run).about["sha256"] in compared["start of its weights"]
