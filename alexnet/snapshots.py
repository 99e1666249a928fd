"""The filters of the first layer at some epochs of a training: RUN/snapshots/epoch-0012.npy."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.errors import RunError
from alexnet.files import write_whole

FOLDER = "snapshots"


def is_due(epoch: int, epochs: int, count: int) -> bool:
    """Whether a snapshot is kept after `epoch` of `epochs` epochs.

    Args:
        epoch: Number of epochs that are done. The start, 0, is kept beside the `count` others.
        count: Number of snapshots at equal distances; 0: none.
    """
    if not count:
        return False
    return epoch == 0 or epoch * count // epochs > (epoch - 1) * count // epochs


def write(run: Path, epoch: int, filters: NDArray[Any]) -> None:
    """Write the filters (F, C, S, S), in half precision: they are looked at."""
    content = io.BytesIO()
    np.save(content, filters.astype(np.float16))
    (run / FOLDER).mkdir(exist_ok=True)
    write_whole(run / FOLDER / f"epoch-{epoch:04}.npy", content.getvalue())


def read(run: Path) -> tuple[list[int], NDArray[np.float16]] | None:
    """Read the snapshots of a run.

    Returns:
        The epochs, and the filters (snapshots, F, C, S, S); None if the run has kept none.

    Raises:
        RunError: A file is damaged.
    """
    epochs: list[int] = []
    filters: list[NDArray[np.float16]] = []
    for path in sorted((run / FOLDER).glob("epoch-*.npy")):
        if not (match := re.fullmatch(r"epoch-(\d+)", path.stem)):
            continue
        try:
            array = np.load(path)
        except (ValueError, EOFError, OSError) as error:
            raise RunError(f"{path} is damaged ({error}); remove it") from None
        if array.ndim != 4 or (filters and array.shape != filters[0].shape):
            raise RunError(f"{path} has no filters like those of the others; remove it")
        epochs.append(int(match[1]))
        filters.append(array.astype(np.float16))
    return (epochs, np.stack(filters)) if filters else None
