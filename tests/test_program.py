"""The commands in messages work when they are copied."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.cli import main
from alexnet.data.store import Store
from alexnet.errors import DataError
from alexnet.program import command, program
from alexnet.train.endings import Interrupted

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def not_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this environment's programs from the PATH, where an activated one has put them."""
    own = str(Path(sys.executable).parent)
    rest = [entry for entry in os.environ["PATH"].split(os.pathsep) if entry != own]
    monkeypatch.setenv("PATH", os.pathsep.join(rest))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `python` and the script `alexnet`, as in a virtual environment."""
    for name in ("python", "alexnet"):
        path = tmp_path / "my env" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{sys.executable}\nfrom alexnet.cli import main\nmain()\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", os.environ["PATH"])
    return tmp_path / "my env"


def started(monkeypatch: pytest.MonkeyPatch, *orig_argv: str, script: str) -> str:
    monkeypatch.setattr(sys, "orig_argv", list(orig_argv))
    monkeypatch.setattr(sys, "argv", [script])
    return program()


def test_script_is_named_by_the_path_that_was_typed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    typed = started(monkeypatch, sys.executable, script=".venv/bin/alexnet")
    assert typed == ".venv/bin/alexnet"
    absolute = str(folder / "alexnet")
    assert started(monkeypatch, sys.executable, script=absolute) == f"'{absolute}'"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    completed = subprocess.run(
        ["my env/alexnet", "train", "demo"], env=environment, capture_output=True, text=True
    )
    assert "(made by: 'my env/alexnet' prepare SOURCE STORE)" in completed.stderr


def test_script_that_the_shell_finds_is_named_without_a_path(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    # The shell starts a script by the absolute path that it has found.
    assert started(monkeypatch, sys.executable, script=str(folder / "alexnet")) == "alexnet"


def test_module_is_named_with_the_interpreter_that_was_called(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = str(ROOT / "alexnet" / "__main__.py")
    for typed, expected in (
        (".venv/bin/python", ".venv/bin/python -m alexnet"),
        ("python3", "python3 -m alexnet"),
        (str(folder / "python"), f"'{folder / 'python'}' -m alexnet"),
    ):
        assert started(monkeypatch, typed, "-m", "alexnet", script=module) == expected
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    on_path = started(monkeypatch, str(folder / "python"), script=module)
    assert on_path == "python -m alexnet"


@pytest.mark.parametrize("script", ["", "-c", "train_mine.py", "/usr/bin/pytest"])
def test_other_programs_say_alexnet(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(monkeypatch, "python", script=script) == "alexnet"


def test_messages_use_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/alexnet"])
    assert command("predict", "my run", "IMAGE...") == ".venv/bin/alexnet predict 'my run' IMAGE..."
    stopped = str(Interrupted(15, tmp_path, 3))
    assert f"continue with: .venv/bin/alexnet train --resume {tmp_path}" in stopped
    with pytest.raises(DataError, match=r"make one with: .venv/bin/alexnet prepare \S+ STORE"):
        Store(tmp_path)
    for arguments in (["train"], ["train", "--help"], ["train", "demo", "--help"]):
        main(arguments)
        assert ".venv/bin/alexnet train" in capsys.readouterr().out, arguments
