"""`alexnet check` without arguments: the environment, whatever of it is missing."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from alexnet import cli, environment, native
from alexnet.cli import main
from alexnet.environment import Component, components
from tests.commands import refused


def test_check_without_arguments_has_a_line_for_each_part(
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["check"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [part.name for part in components()]
    assert lines[0].startswith("alexnet ") and "  ok  alexnet 0." in lines[0]
    (line,) = (line for line in lines if line.startswith("PyTorch"))
    assert torch.__version__ in line


def part(name: str) -> Component:
    (found,) = (each for each in components() if each.name == name)
    return found


def test_what_is_missing_is_named_with_its_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native, "kernels", lambda: None)
    monkeypatch.setattr(environment.util, "find_spec", lambda name: None)
    monkeypatch.delenv("ALEXNET_NATIVE", raising=False)
    assert not part("compiled code").ok
    assert "install g++" in part("compiled code").text
    assert "2.9 times" in part("compiled code").text
    # Another environment's pip may be the one that the shell finds.
    install = f"{shlex.quote(sys.executable)} -m pip install"
    assert part("pillow-heif").text == f"HEIC images are left out; {install} pillow-heif"
    assert part("onnx").text.endswith(f"; {install} onnx onnxruntime")
    monkeypatch.setenv("ALEXNET_NATIVE", "0")
    assert part("compiled code").text.startswith("turned off by ALEXNET_NATIVE=0")


def test_package_that_is_too_old_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another package may have replaced NumPy, and an import of a third one then fails."""
    assert part("packages").ok
    versions = metadata.version

    def version(package: str) -> str:
        return "1.26.4" if package == "numpy" else versions(package)

    monkeypatch.setattr(metadata, "version", version)
    mended = f"numpy 1.26.4: {sys.executable} -m pip install 'numpy>=2.0'"
    assert part("packages") == Component("packages", False, f"too old or missing: {mended}")

    def fails(arguments: list[str]) -> None:
        raise ImportError("pyarrow requires NumPy 2.0 or newer, found 1.26.4")

    monkeypatch.setattr(cli, "function_of", lambda verb: fails)
    expected = f"alexnet: packages are too old or missing: {mended}"
    assert refused(capsys, "check") == expected
    # With all packages in place such an error is a fault of the program.
    monkeypatch.undo()
    monkeypatch.setattr(cli, "function_of", lambda verb: fails)
    with pytest.raises(ImportError, match="pyarrow requires"):
        main(["check"])


def test_missing_and_full_folders_are_no_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    assert part("disk of the cache").text.endswith(f"free in {tmp_path}")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2**20))
    assert part("disk here") == Component("disk here", False, "0.0 GiB free in .")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert part("disk here").text == ". cannot be written"
    exists = Path.exists

    def refused_here(path: Path, **options: bool) -> bool:
        if path == Path():
            raise PermissionError(13, "Permission denied")
        return exists(path, **options)

    monkeypatch.setattr(Path, "exists", refused_here)
    assert part("disk here") == Component(
        "disk here", False, ". cannot be read (Permission denied)"
    )


def test_packages_without_metadata_and_failing_drivers_are_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("CUDA error: out of memory\nmore lines")

    def not_found(name: str) -> str:
        raise environment.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", fails)
    monkeypatch.setattr(environment.metadata, "version", not_found)
    assert part("GPU").text == "cannot be used: CUDA error: out of memory"
    assert part("kernels") == Component("kernels", False, "the GPU cannot be asked for its name")
    assert "simplejpeg of unknown version" in part("decoders").text
