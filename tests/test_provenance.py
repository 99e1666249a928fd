"""The version, commit and state of the code that files are marked with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet import __version__, provenance
from alexnet.provenance import describe

GIT = "git", "-c", "user.name=t", "-c", "user.email=t@example.org"


def git(folder: Path, *arguments: str) -> str:
    completed = subprocess.run([*GIT, *arguments], cwd=folder, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.strip()


def version_in(folder: Path) -> str:
    """The code version that a copy of the package in `folder` reports."""
    return printed(folder, "from alexnet.provenance import code_version; print(code_version())")


def printed(folder: Path, program: str) -> str:
    """What a Python program prints that is started in `folder`."""
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with the modules of the package that `code_version` needs."""
    package = tmp_path / "somewhere" / "alexnet"
    package.mkdir(parents=True)
    for name in ("__init__.py", "cores.py", "provenance.py"):
        shutil.copy(Path(provenance.__file__).with_name(name), package)
    return package.parent


def test_checkout_reports_its_commit_and_whether_it_is_clean(copy: Path) -> None:
    git(copy, "init", "-q")
    (copy / ".gitignore").write_text("__pycache__\n")
    git(copy, "add", ".")
    git(copy, "commit", "-qm", "first")
    commit = git(copy, "rev-parse", "HEAD")
    clean = {"version": __version__, "commit": commit, "clean": True}
    assert version_in(copy) == str(clean)
    (copy / "notes.txt").write_text("beside the package, not in it")
    assert version_in(copy) == str(clean)
    (copy / "alexnet" / "new.py").write_text("")
    assert version_in(copy) == str(clean | {"clean": False})
    (copy / "alexnet" / "new.py").unlink()
    (copy / ".gitignore").write_text("__pycache__\nruns\n")
    assert version_in(copy) == str(clean | {"clean": False})


def test_installed_package_reports_only_its_version(copy: Path) -> None:
    assert version_in(copy) == str({"version": __version__})


def test_package_that_pip_installed_from_git_reports_its_commit(copy: Path) -> None:
    about = copy / f"alexnet-{__version__}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Name: alexnet\nVersion: {__version__}\n")
    only_version = str({"version": __version__})
    for text in ('{"url": "file:///alexnet", "dir_info": {}}', "[]", "{"):
        (about / "direct_url.json").write_text(text)
        assert version_in(copy) == only_version
    source = {"url": "https://example.org/alexnet", "vcs_info": {"vcs": "git", "commit_id": "0123"}}
    (about / "direct_url.json").write_text(json.dumps(source))
    assert version_in(copy) == str({"version": __version__, "commit": "0123", "clean": True})
    # What is imported is another package than the one that pip installed.
    (copy / "src").mkdir()
    (copy / "alexnet").rename(copy / "src" / "alexnet")
    program = "import sys; sys.path.insert(0, 'src'); "
    program += "from alexnet.provenance import code_version; print(code_version())"
    assert printed(copy, program) == only_version


def test_commit_of_a_surrounding_checkout_is_not_reported(copy: Path) -> None:
    git(copy, "init", "-q")
    git(copy, "commit", "-q", "--allow-empty", "-m", "another project")
    assert version_in(copy) == str({"version": __version__})


def test_description_is_short_and_marks_a_changed_tree() -> None:
    wheel: dict[str, str | bool] = {"version": "0.1.0"}
    assert describe(wheel) == "alexnet 0.1.0"
    assert describe(None) == "not recorded"
    checkout = wheel | {"commit": "0123456789abcdef", "clean": True}
    assert describe(checkout) == "alexnet 0.1.0, commit 0123456789ab"
    assert describe(checkout | {"clean": False}) == "alexnet 0.1.0, commit 0123456789ab, changed"


def test_every_edit_of_the_code_changes_its_checksum(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = copy / "alexnet"
    monkeypatch.setattr(provenance, "PACKAGE", package)
    seen = {provenance.code_sha256()}
    (package / "notes.txt").write_text("not code")
    for hidden in ("._cores.py", ".ipynb_checkpoints/cores.py", "data/.ipynb_checkpoints/x.py"):
        (package / hidden).parent.mkdir(parents=True, exist_ok=True)
        (package / hidden).write_text("x = 1")
    assert provenance.code_sha256() in seen
    for name, text in (("cores.py", "x = 1"), ("a.cpp", ""), ("a.cpp", "int x;"), ("b.py", "")):
        (package / name).write_text(text)
        seen.add(provenance.code_sha256())
    (package / "b.py").rename(package / "c.py")
    assert len(seen | {provenance.code_sha256()}) == 6


@pytest.mark.parametrize(
    ("info", "name"),
    [
        (
            "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\n"
            "processor\t: 1\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: another\n\n",
            "AMD EPYC family 25 model 17",
        ),
        ("processor\t: 0\nmodel name\t: A: B\n", "A: B"),
        ("processor\t: 0\nCPU part\t: 0xd0c\n", "aarch64"),
    ],
)
def test_processor_is_named_by_family_and_model(
    info: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rented machines call processors of three generations "AMD EPYC"."""
    (tmp_path / "cpuinfo").write_text(info)
    monkeypatch.setattr(provenance, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(provenance.platform, "processor", lambda: "aarch64")
    monkeypatch.setattr(provenance, "available_cores", lambda: 2)
    assert provenance.machine() == f"{name}, 2 cores"
