"""From words to values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from alexnet.data.places import is_url


def parse(kind: Any, verb: str, arguments: list[str]) -> Any:
    return tyro.cli(
        kind, prog=f"alexnet {verb}", args=arguments, config=(tyro.conf.OmitArgPrefixes,)
    )


def on_disk(path: Path) -> Path:
    """Raises ValueError for a URL, which stores are read from and nothing is written to."""
    if is_url(path):
        raise ValueError(f"{path} is a URL; write to a folder and copy that there")
    return path
