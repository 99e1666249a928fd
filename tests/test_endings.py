"""How commands end: stopped, with an error, with a bug, or after their reader has left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet import errors
from alexnet.checkpoint import write_config
from alexnet.cli import main
from alexnet.config import scaled
from tests.conftest import tiny
from tests.processes import until


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo"], "stopped; the same command continues"),
        (["demo", "--force"], "stopped"),
        (["reproduce", "lrn", "--data=stores/mine"], "stopped; the same command continues"),
        (["reproduce", "lrn"], "stopped"),
        (["evaluate", "runs/mine"], "stopped"),
        # What a training knows. Another command would give no page of the demo.
        (["train", "--resume", "runs/mine", "note"], "stopped; go on by: alexnet"),
        (["demo", "note"], "stopped; the same command continues"),
    ],
)
def test_ctrl_c_says_whether_the_same_command_continues(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(arguments: list[str]) -> None:
        error = KeyboardInterrupt()
        if "note" in arguments:
            error.add_note("go on by: alexnet")
        raise error

    monkeypatch.setattr("alexnet.cli.function_of", lambda verb: interrupted)
    with pytest.raises(SystemExit, match="130"):
        main(arguments)
    assert capsys.readouterr().err == f"{said}\n"


@pytest.mark.parametrize(
    ("signal_number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_stopped_training_prints_the_command_to_continue(
    store: Path, tmp_path: Path, signal_number: int, code: int
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    # The config.json of a run names the number of classes.
    architecture = replace(tiny(store).architecture, classes=10)
    config = tiny(store, checkpoint_minutes=0.0, architecture=architecture)
    # Many epochs: on a busy machine three may be over when the signal is sent.
    write_config(run, replace(config, schedule=scaled(config.schedule, 1000)))
    command = [sys.executable, "-m", "alexnet", "train", "--resume", str(run)]
    # In an activated environment the hint would be shorter.
    environment = os.environ | {"PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        cwd=Path(__file__).parents[1],
        env=environment,
    )
    until((run / "last.safetensors").exists, "the run wrote a checkpoint", process)
    process.send_signal(signal_number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"continue with: {sys.executable} -m alexnet train --resume {run}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", ["--help", "train --help", "summary paper", "summary paper --format json"]
)
def test_a_reader_that_has_left_is_not_an_error(arguments: str, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    completed = subprocess.run(
        [sys.executable, "-m", "alexnet", *arguments.split()],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    os.close(writer)
    assert (completed.returncode, completed.stderr) == (0, "")


def test_closed_stdout_is_not_an_error() -> None:
    completed = subprocess.run(
        ["sh", "-c", 'exec "$0" -m alexnet --version >&-', sys.executable],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert (completed.returncode, completed.stderr) == (0, "")


def test_an_error_keeps_its_exit_code_where_the_reader_has_left() -> None:
    """The text before it is still in the buffer of stdout."""
    program = """
from alexnet import cli
from alexnet.errors import AlexNetError

def fails(arguments):
    print("before")
    raise AlexNetError("no")

cli.function_of = lambda verb: fails
cli.main(["demo"])
"""
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": ""}
    arguments = [sys.executable, "-c", program]
    completed = subprocess.run(
        arguments, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, env=environment
    )
    os.close(writer)
    assert (completed.returncode, completed.stderr) == (2, "alexnet: no\n")


def test_internal_error_keeps_its_traceback_and_is_reported_as_a_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only an AlexNetError becomes a sentence; an unexpected ValueError does not."""

    def broken(arguments: list[str]) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("alexnet.cli.summary.summary", broken)
    with pytest.raises(ValueError, match="not enough values"):
        main(["summary", "paper"])
    assert "this is a bug" in capsys.readouterr().err


def test_all_error_classes_are_alexnet_errors_and_value_errors() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    assert errors.BusyError in kinds
    for kind in kinds:
        assert issubclass(kind, errors.AlexNetError)
        assert issubclass(kind, ValueError)
