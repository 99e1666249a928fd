"""Commands of the program, run in the process of the test."""

from __future__ import annotations

import pytest

from alexnet.cli import main


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that ends normally prints on stdout."""
    capsys.readouterr()
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as ended:  # so ends the parser's help
        assert ended.code == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The sentence of a command that the program refuses: exit code 2, one line on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("alexnet: ") and error.endswith("\n") and error.count("\n") == 1, error
    return error[:-1]
