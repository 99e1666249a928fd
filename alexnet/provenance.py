"""The code that made a file: its version and, in a git checkout, the commit and its state.

Checkpoint headers, records of claims and benchmark results carry this, so that a number can be
traced to the code that produced it. Those of version 0.1 have the version alone, or nothing.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from functools import lru_cache
from pathlib import Path

from alexnet.cores import available_cores

VERSION = "0.2.0"
"""The version of the package; pyproject.toml, CITATION.cff and CHANGELOG.md name the same."""

PACKAGE = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def code_version() -> dict[str, str | bool]:
    """The version of this code.

    Returns:
        version: The version of the package. A wheel that was not installed from a git repository
            has this entry only.
        commit: The full hash of the commit.
        clean: Whether no tracked file differs from the commit and the package holds no untracked
            file.
    """
    version: dict[str, str | bool] = {"version": VERSION}
    commit = _git("rev-parse", "HEAD")
    # A wheel may be installed inside another project's checkout, whose commit is not this code's.
    if commit is None or _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return version | _installed_from_git()
    # Untracked files outside the package, such as runs and stores, do not change the code.
    changed = _git("status", "--porcelain", "--untracked-files=no", ":/")
    added = _git("status", "--porcelain", ".")
    return version | {"commit": commit, "clean": changed == "" and added == ""}


def describe(version: dict[str, str | bool] | None) -> str:
    """The version in words: `alexnet 0.1.0, commit 0123456789ab`.

    `, changed` is added if the checkout was not clean. None: a file says nothing of its code.
    """
    if version is None:
        return "not recorded"
    commit = f", commit {str(version['commit'])[:12]}" if "commit" in version else ""
    return (
        f"alexnet {version['version']}{commit}{'' if version.get('clean', True) else ', changed'}"
    )


def _installed_from_git() -> dict[str, str | bool]:
    """Commit and state of what `pip install git+URL` has installed; empty for everything else."""
    # Imported here, because every command imports this module.
    from importlib import metadata

    try:
        distribution = metadata.distribution("alexnet")
        # Another installation of this name may be found.
        if Path(str(distribution.locate_file(PACKAGE.name))).resolve() != PACKAGE:
            return {}
        # By PEP 610.
        about = json.loads(distribution.read_text("direct_url.json") or "{}")
        return {"commit": str(about["vcs_info"]["commit_id"]), "clean": True}
    except (metadata.PackageNotFoundError, KeyError, TypeError, ValueError):
        return {}


def code_sha256() -> str:
    """The SHA-256 of the package's Python, C++ and CUDA files.

    It needs no git, and every edit changes it. An installation that has only compiled Python files
    has that of the C++ and CUDA files alone, so an edit of Python does not change it.
    """
    digest = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*")):
        name = file.relative_to(PACKAGE)
        # Hidden files, such as those of macOS or an editor, are no code of the program.
        is_hidden = any(part.startswith(".") for part in name.parts)
        if file.suffix in (".py", ".cpp", ".cu") and not is_hidden:
            digest.update(f"{name.as_posix()} ".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _git(*arguments: str) -> str | None:
    """The output of git in the package's folder; None if there is no git or no checkout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip() if result.returncode == 0 else None


CPU_INFO = Path("/proc/cpuinfo")


def machine() -> str:
    """The processor and the number of cores that this process may use, in words.

    A rented machine often gives its processor a name such as "AMD EPYC", which the family and the
    model tell apart.
    """
    name = platform.processor() or platform.machine()
    # platform.processor() is empty or only the architecture on most Linux systems.
    if CPU_INFO.exists():
        first_core = CPU_INFO.read_text().split("\n\n")[0]
        pairs = (line.partition(":") for line in first_core.splitlines())
        said = {key.strip(): value.strip() for key, _, value in pairs}
        name = said.get("model name", name)
        if "cpu family" in said and "model" in said:
            name += f" family {said['cpu family']} model {said['model']}"
    cores = available_cores()
    return f"{name}, {cores} core{'s' if cores > 1 else ''}"
