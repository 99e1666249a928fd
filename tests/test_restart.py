"""What a process does that torchrun has started again, without torchrun."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alexnet import cli
from alexnet.cli import main
from alexnet.cli.arguments import stoppable
from alexnet.distributed import restart
from alexnet.distributed.heartbeat import RankLost
from alexnet.distributed.launch import Report, check_same_on_all_ranks
from alexnet.distributed.mesh import is_distributed
from alexnet.errors import AlexNetError, BusyError, DataError, MeshError, RunError
from alexnet.train.endings import NotFinite
from tests.commands import printed


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A function that runs the program as a rank of an attempt, and returns its exit code."""
    monkeypatch.setattr("alexnet.distributed.restart.only_rank_zero_prints", lambda: None)

    def start(number: int, error: Exception | None, rank: int = 0) -> object:
        file = tmp_path / "run" / f"attempt_{number}" / str(rank) / "error.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(number))
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        (tmp_path / "run").mkdir(exist_ok=True)

        def verb(arguments: list[str]) -> None:
            with stoppable():
                if error is not None:
                    raise error

        monkeypatch.setattr(cli, "function_of", lambda name: verb)
        try:
            main(["train"])
        except SystemExit as stopped:
            return stopped.code
        return 0

    return start


@pytest.mark.parametrize(("error", "code"), [(RunError("a"), 2), (NotFinite("a", 0), 1)])
def test_error_that_comes_again_is_said_once(
    attempt: object, error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attempt(0, error) == code  # type: ignore[operator]
    assert capsys.readouterr().err == "alexnet: a\n"
    for number in (1, 2):
        # Not even begun: the error of the verb is another one.
        assert attempt(number, BusyError("b")) == code  # type: ignore[operator]
        assert capsys.readouterr().err == ""


def test_what_may_pass_is_tried_again(attempt: object) -> None:
    assert attempt(0, BusyError("a")) == 2  # type: ignore[operator]
    with pytest.raises(RuntimeError):
        attempt(1, RuntimeError("a bug or a lost rank"))  # type: ignore[operator]
    assert attempt(2, None) == 0  # type: ignore[operator]
    away = OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    assert attempt(0, away) == 2  # type: ignore[operator]
    assert attempt(1, None) == 0  # type: ignore[operator]
    # A rank that has not printed the message must not keep rank 0 from saying it.
    assert attempt(0, RunError("b"), rank=1) == 2  # type: ignore[operator]
    assert attempt(1, None) == 0  # type: ignore[operator]


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ESTALE, BusyError, "rank 0: /a: no; make sure that this disk works and try again"),
        (errno.EIO, BusyError, "rank 0: /a: no; make sure that this disk works and try again"),
        (errno.EACCES, MeshError, "rank 0: /a: no"),
    ],
)
def test_disk_that_does_not_answer_one_of_the_ranks_is_tried_again(
    number: int, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(reports: list[Report], report: Report) -> None:
        reports[0] = report

    def make() -> None:
        raise OSError(number, "no", "/a")

    monkeypatch.setattr("alexnet.distributed.launch.dist.all_gather_object", gather)
    mesh: Any = SimpleNamespace(world=SimpleNamespace(size=2))
    with pytest.raises(kind, match=f"^{message}$"):
        check_same_on_all_ranks(mesh, make, lambda _: {})


@pytest.mark.parametrize("differs", ["files", "config"])
def test_what_differs_between_ranks_is_named(differs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(reports: list[Report], report: Report) -> None:
        problem, kind, digests = reports[0] = report
        # A later one may only follow from it.
        changed = {differs: "", "config": ""}
        reports[1] = (problem, kind, {**digests, **changed})

    monkeypatch.setattr("alexnet.distributed.launch.dist.all_gather_object", gather)
    mesh: Any = SimpleNamespace(world=SimpleNamespace(size=2))
    parts = {"files": "a", "store": "b", "config": "c"}
    with pytest.raises(MeshError, match=f"^rank 1 has another {differs} than rank 0; start"):
        check_same_on_all_ranks(mesh, lambda: 1, lambda _: parts)


@pytest.mark.parametrize(
    ("cause", "reports", "comes_again"),
    [
        (DataError("an image is damaged"), True, True),
        (DataError("an image is damaged"), False, False),
        (BusyError("the ranks did not meet"), True, False),
        (RuntimeError("connection closed"), True, False),
    ],
)
def test_mistake_during_a_training_is_remembered_by_the_rank_that_says_it(
    cause: Exception,
    reports: bool,
    comes_again: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "attempt_0" / "1" / "error.json"))
    lost = RankLost("rank 1: a mistake", reports)
    with pytest.raises(Ended), stoppable():
        raise lost from cause
    memory = tmp_path / "alexnet.exit"
    assert (memory.read_text() if memory.exists() else None) == ("1" if comes_again else None)


def test_other_programs_may_use_the_names_of_the_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for rank in ("1", "a"):
        monkeypatch.setenv("RANK", rank)
        assert printed(capsys, "--version").startswith("alexnet ")
        with restart.launched():
            print("here")
        assert capsys.readouterr().out == "here\n"
    for size in ("", "all", "1"):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert restart.is_first()
        assert not is_distributed()
    # A job's script sets it for every program, and RANK only where it starts ranks.
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.delenv("RANK")
    assert printed(capsys, "check", "--help").startswith("usage: ")
    assert not is_distributed()


@pytest.mark.parametrize(
    ("rank", "local_rank", "said"), [("0", "0", ""), ("1", "1", ""), ("8", "0", "alexnet: no\n")]
)
def test_mistake_of_another_machine_is_said_by_its_first_rank(
    rank: str,
    local_rank: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "__stderr__", screen := io.StringIO())
    for name, value in (("RANK", rank), ("LOCAL_RANK", local_rank), ("WORLD_SIZE", "16")):
        monkeypatch.setenv(name, value)
    with pytest.raises(AlexNetError), restart.heard_on_each_machine():
        raise RunError("no")
    assert screen.getvalue() == said
