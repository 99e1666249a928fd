"""What a process does that torchrun has started again, without torchrun."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet import cli
from alexnet.cli import main
from alexnet.errors import BusyError, RunError
from alexnet.train.metrics import NotFinite


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """A function that runs the program as a rank of an attempt, and returns its exit code."""
    monkeypatch.setattr("alexnet.distributed.restart.only_rank_zero_prints", lambda: None)

    def start(number: int, error: Exception | None, rank: int = 0) -> object:
        file = tmp_path / "run" / f"attempt_{number}" / str(rank) / "error.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(number))
        monkeypatch.setenv("RANK", str(rank))
        (tmp_path / "run").mkdir(exist_ok=True)

        def verb(arguments: list[str]) -> None:
            from alexnet.cli.arguments import stoppable

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


@pytest.mark.parametrize(("error", "code"), [(RunError("a"), 2), (NotFinite("a"), 1)])
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
    # A rank that has not printed the message must not keep rank 0 from saying it.
    assert attempt(0, RunError("b"), rank=1) == 2  # type: ignore[operator]
    assert attempt(1, None) == 0  # type: ignore[operator]
