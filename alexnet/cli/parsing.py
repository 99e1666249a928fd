"""From words to values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tyro


def parse(kind: Any, verb: str, arguments: list[str]) -> Any:
    return tyro.cli(kind, prog=f"alexnet {verb}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))


def on_disk(path: Path) -> Path:
    """Raises ValueError for a URL, which stores are read from and nothing is written to."""
    if re.match(r"\w+:/", str(path)):
        raise ValueError(f"{path} is a URL; write to a folder and copy that there")
    return path
