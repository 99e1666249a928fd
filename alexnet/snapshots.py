"""The filters of the first layer at some epochs of a training: RUN/snapshots/epoch-0012.npy."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.checkpoint import read_config
from alexnet.config import Config
from alexnet.data.sources.source import readable
from alexnet.errors import RunError
from alexnet.files import write_whole

FOLDER = "snapshots"


@dataclass(frozen=True)
class Growth:
    """The filters of one run as they grow.

    Attributes:
        run: Name of the run's folder.
        recipe: Name of its recipe.
        columns: In how many columns its filters lie.
        epochs: Numbers of epochs that were done, ascending.
        filters: (snapshots, F, C, S, S)
    """

    run: str
    recipe: str
    columns: int
    epochs: list[int]
    filters: NDArray[np.float16]


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
    # Through memory: NumPy's own error for a full disk has no number.
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
    matches = (re.fullmatch(r"epoch-(\d+)", p.stem) for p in (run / FOLDER).glob("epoch-*.npy"))
    for epoch, stem in sorted((int(match[1]), match[0]) for match in matches if match):
        path = run / FOLDER / f"{stem}.npy"
        try:
            array = np.load(path)
        except (ValueError, EOFError) as error:
            raise RunError(f"{path} is damaged ({error}); remove it") from None
        if array.ndim != 4 or (filters and array.shape != filters[0].shape):
            raise RunError(f"{path} has no filters like those of the others; remove it")
        epochs.append(epoch)
        filters.append(array.astype(np.float16))
    return (epochs, np.stack(filters)) if filters else None


def growth(run: Path, config: Config) -> Growth | None:
    """Read the snapshots of a run with this config; None if it has kept none.

    Raises:
        RunError: A file is damaged.
    """
    if (kept := read(run)) is None:
        return None
    # A run can be named as ".", which is not a name to show.
    return Growth(readable(run.resolve().name), config.recipe, config.architecture.columns, *kept)


def growth_beside(run: Path, other: Path) -> Growth:
    """Read the snapshots of `other`, which are to be shown beside those of `run`.

    Raises:
        RunError: It is not a run, or the same one, or one of the two has kept no snapshots.
        ConfigError: Its config is damaged.
    """
    config = read_config(other)
    if other.resolve() == run.resolve():
        raise RunError(f"{other} is the run itself; name another run to put beside it")
    if read(run) is None:
        raise RunError(
            f"{run} has kept no snapshots, so that nothing can be put beside them; "
            "train it with --snapshots N"
        )
    if (of_other := growth(other, config)) is None:
        raise RunError(
            f"{other} has kept no snapshots to put beside those of {run}; "
            "train it with --snapshots N"
        )
    return of_other
