"""Images of a data set that occur more than once where each should be new.

An image that is trained on and tested on makes the test error too low, and one with two labels is
wrong once at least. Both are found by the bytes of the stored images: copies of one file are found,
while the same photograph in another resolution is not.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alexnet.files import replacing

DIGEST = np.dtype("<u8")
"""Eight bytes of a hash: among 14 million images, two different ones share them with a probability
of 5e-6."""


def write_digests(path: Path, rows: Sequence[tuple[bytes, str, int]]) -> None:
    """Write the digest and the label of each image of a file of the store.

    Args:
        rows: Stored bytes, name and label of each image.
    """
    hashes = b"".join(hashlib.blake2b(data, digest_size=8).digest() for data, _, _ in rows)
    labels = np.array([label for _, _, label in rows], np.int64)
    with replacing(path) as file:
        np.savez(file, digest=np.frombuffer(hashes, DIGEST), label=labels)


def read_digests(path: Path, images: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]] | None:
    """Return the digest and the label of each image of a file of the store, (N,) each.

    None if the file of digests is missing or damaged.

    Args:
        images: Number of images of the file.
    """
    # Zip files and arrays each have an error of their own for damaged bytes.
    with suppress(OSError, ValueError, KeyError, EOFError, BadZipFile):
        # NumPy leaves a file open that is no zip file.
        with np.load(io.BytesIO(path.read_bytes())) as saved:
            digest, label = saved["digest"], saved["label"]
        if digest.shape == label.shape == (images,):
            return digest, label
    return None


def find_copies(digest: NDArray[np.uint64], kind: NDArray[np.integer]) -> NDArray[np.int64]:
    """Find the images of which there are copies of different kinds.

    Args:
        digest: The digest of each image, (N,).
        kind: Its label, or the number of its split, (N,).

    Returns:
        (M, 2): for each of these images, the positions of its first copy and of the first copy of
        another kind, in the order of the first copies.
    """
    # Stable, so that the copies of an image stay in the order of the data set.
    order = np.argsort(digest, kind="stable")
    _, begins, group = np.unique(digest[order], return_index=True, return_inverse=True)
    differs = np.flatnonzero(kind[order] != kind[order][begins][group])
    groups, others = np.unique(group[differs], return_index=True)
    pairs = np.stack([order[begins[groups]], order[differs[others]]], 1)
    return pairs[np.argsort(pairs[:, 0])]


def name_in(path: Path, image: int) -> str:
    """Return the name of an image in a file of a store, by its position in the file."""
    # Mapped, so that the images of the file are not read for the sake of a name.
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        # A file of a store is one batch.
        name: str = stream.read_next_batch()["image"].field("path")[image].as_py()
        return name
