"""Which code made a file: the version, and in a git checkout the commit and whether it was clean.

Every checkpoint header, record of a claim and benchmark result carries this, so that a number can be
traced to the code that gave it.
"""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path

from alexnet import __version__

PACKAGE = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def code_version() -> dict[str, str | bool]:
    """`{"version": ..., "commit": ..., "clean": ...}`; the version alone for an installed wheel.

    clean: no tracked file differed from the commit, and no untracked file lay in the package.
    """
    version: dict[str, str | bool] = {"version": __version__}
    commit = _git("rev-parse", "HEAD")
    # A wheel may be installed below somebody else's checkout, whose commit says nothing of it.
    if commit is None or _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return version
    changed = _git("status", "--porcelain", "--untracked-files=no", ":/")
    added = _git("status", "--porcelain", ".")
    return version | {"commit": commit, "clean": changed == "" and added == ""}


def describe(version: dict[str, str | bool]) -> str:
    """`alexnet 0.1.0, commit 0123456789ab` with `, changed` where the tree was not clean."""
    commit = f", commit {str(version['commit'])[:12]}" if "commit" in version else ""
    return (
        f"alexnet {version['version']}{commit}{'' if version.get('clean', True) else ', changed'}"
    )


def _git(*arguments: str) -> str | None:
    """What git prints about the package's folder; None where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(PACKAGE), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
