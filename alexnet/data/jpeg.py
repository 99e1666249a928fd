"""JPEGs of stores, many in one call, by `jpeg.cpp`: the bits that simplejpeg gives, sooner."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from alexnet import native


def decode_jpegs(data: Sequence[bytes], out: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Into out: (N, H, W, 3), contiguous. Returns which were decoded, (N,): the others are no baseline JPEGs of that
    size in YCbCr with sides of whole MCUs, or are damaged, and another decoder should look. None where there is no
    compiler."""
    done = np.zeros(len(data), np.uint8)
    if not any(one.startswith(b"\xff\xd8") for one in data):
        return done.astype(np.bool_)
    compiled = native.jpeg()
    if compiled is not None and out.flags.c_contiguous:
        pointers = (ctypes.c_char_p * len(data))(*data)
        sizes = np.array([len(one) for one in data], np.int64)
        _, height, width, _ = out.shape
        compiled.decode_jpegs(
            len(data), pointers, sizes.ctypes.data, height, width, out.ctypes.data, done.ctypes.data
        )
    return done.astype(np.bool_)
