"""The cache of compiled libraries: who may have written it, damage, and what a kill leaves."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from alexnet import native
from alexnet.data import verification
from alexnet.files import user_cache
from alexnet.ops import cuda_trial, trial
from tests.test_files import without_home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="compiled on Linux only")

BUILT = b"a library" * 100


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the libraries, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("ALEXNET_NATIVE", raising=False)
    return user_cache() / "native"


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A compiler that always writes the same; the list has the files that it wrote."""
    built: list[Path] = []

    def build(
        compiler: native.Command,
        source: Path,
        flags: Sequence[str],
        libraries: Sequence[str],
        out: Path,
    ) -> None:
        out.write_bytes(BUILT)
        out.chmod(0o777)  # that of a linker whose umask is 000
        built.append(out)

    monkeypatch.setattr(native, "_build", build)
    # Any program that knows --version.
    monkeypatch.setattr(native.shutil, "which", lambda name: sys.executable)
    return built


def made() -> Path:
    return native._shared_object((sys.executable,), "kernels.cpp", (), ())


def test_library_is_compiled_once_and_only_its_owner_can_write_it(
    folder: Path, builds: list[Path]
) -> None:
    path = made()
    assert made() == path
    assert len(builds) == 1
    assert path.parent == folder
    assert [entry.name for entry in folder.iterdir()] == [path.name]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    assert path.read_bytes().startswith(BUILT)


def cut(path: Path) -> None:
    os.truncate(path, 300)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def change_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)


def let_others_write(path: Path) -> None:
    path.chmod(0o757)


def let_the_group_write(path: Path) -> None:
    path.chmod(0o775)


def replace_by_a_link(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


@pytest.mark.parametrize(
    "damage",
    [cut, empty, change_a_bit, let_others_write, let_the_group_write, replace_by_a_link],
)
def test_library_that_is_damaged_or_not_private_is_compiled_again(
    damage: Callable[[Path], None], builds: list[Path]
) -> None:
    path = made()
    sound = path.read_bytes()
    damage(path)
    assert made() == path
    assert len(builds) == 2
    assert path.read_bytes() == sound
    assert not path.is_symlink()
    made()
    assert len(builds) == 2


def link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        (lambda folder: (folder.mkdir(), folder.chmod(0o777)), "can be written by other users"),
        (lambda folder: (folder.mkdir(), folder.chmod(0o775)), "can be written by other users"),
        (link, "is a link"),
    ],
)
def test_folder_that_others_can_write_is_refused(
    prepare: Callable[[Path], None],
    reason: str,
    folder: Path,
    builds: list[Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder.parent.mkdir()
    prepare(folder)
    assert native._load("kernels.cpp", (), (), {}, "everything is slower") is None
    assert builds == []
    message = f"everything is slower: {folder} {reason}; remove it, or make it yours alone"
    assert capsys.readouterr().err.startswith(message)


def status(mode: int, owner: int) -> os.stat_result:
    return os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))


def test_only_the_user_and_root_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native.os, "geteuid", lambda: 1000)
    assert native._unsafe(status(stat.S_IFDIR | 0o700, 1000)) is None
    # A cache that root has prepared for everybody.
    assert native._unsafe(status(stat.S_IFDIR | 0o755, 0)) is None
    assert native._unsafe(status(stat.S_IFDIR | 0o700, 1001)) == "belongs to user 1001"
    assert native._unsafe(status(stat.S_IFREG | 0o644, 1001)) == "belongs to user 1001"


def test_folder_that_a_killed_compilation_left_is_removed(folder: Path, builds: list[Path]) -> None:
    for name, age_s in (("old.compiling", 2 * native.LEFT_S), ("running.compiling", 10)):
        (folder / name).mkdir(parents=True, mode=0o700)
        (folder / name / "kernels.o").write_bytes(b"half")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    folder.chmod(0o700)
    path = made()
    assert sorted(entry.name for entry in folder.iterdir()) == [path.name, "running.compiling"]


def test_where_the_library_of_a_compiler_cannot_be_loaded_the_next_one_is_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As that of clang beside a PyTorch with GCC's OpenMP."""
    asked: list[native.Command] = []

    def shared_object(compiler: native.Command, *arguments: object) -> Path:
        asked.append(compiler)
        return Path(f"{compiler[-1]}.so")

    loadable = ["g++.so"]

    def load(path: str) -> str:
        if path not in loadable:
            raise OSError(f"{path}: undefined symbol: __kmpc_fork_call")
        return path

    monkeypatch.setattr(native.shutil, "which", lambda name: None if " " in name else name)
    monkeypatch.setenv("CXX", "ccache clang++")
    monkeypatch.setattr(native, "_shared_object", shared_object)
    monkeypatch.setattr(native.ctypes, "CDLL", load)
    assert native._load("kernels.cpp", (), (), {}, "slower") == "g++.so"  # type: ignore[comparison-overlap]
    assert asked == [("ccache", "clang++"), ("g++",)]
    assert capsys.readouterr().err == ""
    loadable.clear()
    assert native._load("kernels.cpp", (), (), {}, "slower") is None
    message = "slower: clang++.so: undefined symbol: __kmpc_fork_call; install g++, "
    assert capsys.readouterr().err.startswith(message)


def test_compiler_that_does_not_speak_the_locale_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = tmp_path / "compiler"
    # The first argument is that of CXX.
    compiler.write_text(
        '#!/bin/sh\n[ "$2" = --version ] || { printf "%s caf\\351" "$1" >&2; exit 1; }\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    assert native._load("kernels.cpp", ("--no-such-flag",), (), {}, "slower") is None
    assert capsys.readouterr().err.startswith("slower: compiler failed: -m64 caf")


def test_path_of_a_compiler_may_have_a_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "a compiler"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert native._compilers()[0] == (str(compiler),)


def test_user_without_a_home_folder_has_no_compiled_code_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_home(monkeypatch)
    assert native._load("kernels.cpp", (), (), {}, "slower") is None
    assert "set HOME or XDG_CACHE_HOME" in capsys.readouterr().err
    assert trial.choices_on_file() == {}
    assert cuda_trial._read("key", {}) is None
    assert verification._remembered("store") == {}


def test_damaged_library_is_replaced_and_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("c++") is None:
        pytest.skip("needs a C++ compiler")
    functions: dict[str, native.ArgTypes] = {"collect": []}
    arguments = "winograd.cpp", native.KERNEL_FLAGS, (), functions, "slower"
    path = native._shared_object(native._compilers()[0], *arguments[:3])
    cut(path)  # loading it would kill the process
    library = native._load(*arguments)
    assert library is not None
    assert library.collect
    assert not list(folder.glob("*.compiling"))
    assert native._load(*arguments[:3], {"no_such_function": []}, "slower") is None
    assert "slower" in capsys.readouterr().err
