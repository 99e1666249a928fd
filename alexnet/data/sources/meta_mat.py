"""Read the classes from the meta.mat of a devkit, as a program: MATLAB file in, JSON out.

It runs in a process of its own, because SciPy's reader does not only raise errors of any kind for a
damaged file: it can also end its process with a segmentation fault, or take all memory.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import numpy as np
from scipy.io import loadmat


def classes(data: bytes) -> list[tuple[int, str, str | None, int | None]]:
    """Return the devkit id, the wnid, the words and the number of training images of each class.

    The classes are the synsets without children. The last two are None if the file has no such
    field.
    """
    synsets: Any = loadmat(io.BytesIO(data), squeeze_me=True, variable_names=["synsets"])["synsets"]
    names = synsets.dtype.names or ()
    # The field of the ids is called ILSVRC2010_ID or ILSVRC2012_ID. A file without the number of
    # children has classes only.
    number = next(name for name in names if name.endswith("_ID"))
    return [
        (
            int(s[number]),
            str(s["WNID"]),
            str(s["words"]) if "words" in names else None,
            int(s["num_train_images"]) if "num_train_images" in names else None,
        )
        for s in np.atleast_1d(synsets)
        if "num_children" not in names or int(s["num_children"]) == 0
    ]


if __name__ == "__main__":
    print(json.dumps(classes(sys.stdin.buffer.read())))
