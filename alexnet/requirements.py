"""The packages that this program needs, and those of them that are missing here or too old.

Another package may have replaced one with an earlier version: pip does so with a warning only.
"""

from __future__ import annotations

import shlex
import sys
from importlib import metadata

from packaging.requirements import Requirement


def unmet() -> list[Requirement]:
    """Return what the installed program requires and this environment does not have."""
    try:
        lines = metadata.requires("alexnet") or []
    except metadata.PackageNotFoundError:  # run from its folder, without having been installed
        return []
    # Those with a marker belong to an optional part.
    required = [line for line in map(Requirement, lines) if line.marker is None]
    # A build before a release, as NVIDIA's containers have, is recent enough.
    return [
        line
        for line in required
        if not line.specifier.contains(_version(line.name), prereleases=True)
    ]


def mend(requirements: list[Requirement]) -> str:
    """Say what is there in place of some requirements, and the command that installs them."""
    there = ", ".join(f"{line.name} {_version(line.name)}" for line in requirements)
    python = shlex.quote(sys.executable or "python3")
    specs = " ".join(shlex.quote(str(line)) for line in requirements)
    return f"{there}: {python} -m pip install {specs}"


def _version(package: str) -> str:
    """The version that is installed; 0, which meets no requirement, if none is."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "0"
