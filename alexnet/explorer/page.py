"""Writes the page: one HTML file with the network, the program that runs it, and the scripts."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from alexnet.data.store import Split
from alexnet.errors import RunError
from alexnet.explorer import runtime
from alexnet.explorer.contents import Contents, contents
from alexnet.export import layers_onnx
from alexnet.files import write_whole
from alexnet.provenance import code_version, describe
from alexnet.trained import Trained
from alexnet.web_page import templates

HERE = Path(__file__).parent
# In the order in which they use each other: the page has them as one script.
SCRIPTS = (
    "data",
    "image",
    "network",
    "lrn",
    "draw",
    "sheet",
    "layers",
    "unit",
    "normalisation",
    "crops",
    "occlusion",
    "neighbours",
    "training",
    "main",
)
GZIP_LEVEL = 9
IMAGES, UNITS = 400, 32
"""How much of a store a page has when nothing else is said: images, and units of each layer."""


def check_out(out: Path, force: bool) -> None:
    """Raise RunError if the page cannot be written: its name, or a file in the way."""
    if out.suffix.lower() not in (".html", ".htm"):
        raise RunError(f"{out} does not end in .html; the page is one file, for example page.html")
    if out.exists() and not force:
        raise RunError(f"{out} exists; choose another name, or --force to replace it")


def write(
    trained: Trained,
    split: Split,
    run: Path,
    out: Path,
    ort: dict[str, bytes],
    images: int = IMAGES,
    units: int = UNITS,
) -> int:
    """Write the page of a network.

    Args:
        split: Where its images come from.
        run: Folder of the run; the page has its name, and its snapshots if it has kept any.
        ort: The files of ONNX Runtime Web (`runtime.read`).
        images, units: As in `contents`.

    Returns:
        The size of the page in bytes.

    Raises:
        RunError: The network cannot be exported, or the split has no images.
    """
    # Before the contents, which take minutes.
    model = layers_onnx(trained)
    page = render(contents(trained, split, run, images, units), model, ort).encode()
    write_whole(out, page)
    return len(page)


def render(content: Contents, model: bytes, ort: dict[str, bytes]) -> str:
    """Return the page as HTML.

    Args:
        model: The network as ONNX (`layers_onnx`).
        ort: The files of ONNX Runtime Web.
    """
    index, data = pack(content)
    about = content.about | {"index": index, "code": describe(code_version())}
    # JPEGs would hardly be smaller. No time in the headers: the same page has the same bytes.
    blobs = {
        "ort": gzip.compress(ort[runtime.SCRIPT], GZIP_LEVEL, mtime=0),
        "wasm": gzip.compress(ort[runtime.WASM], GZIP_LEVEL, mtime=0),
        "model": gzip.compress(model, GZIP_LEVEL, mtime=0),
        "data": data,
    }
    return (
        templates(HERE)
        .get_template("page.html.jinja")
        .render(
            about=content.about,
            # "</script>" in the name of a class must not end the element.
            json=Markup(json.dumps(about, separators=(",", ":")).replace("<", "\\u003c")),
            style=Markup((HERE / "page.css").read_text()),
            script=Markup(script()),
            blobs={key: Markup(base64.b64encode(blob).decode()) for key, blob in blobs.items()},
            ort_version=runtime.VERSION,
        )
    )


def script() -> str:
    """Return the modules of the folder js as one script.

    A module cannot import another one inside a single file, so imports and exports are left out; no
    two modules define the same name.
    """
    parts = []
    for name in SCRIPTS:
        text = (HERE / "js" / f"{name}.js").read_text()
        text = re.sub(r"^import [^;]*;\n", "", text, flags=re.MULTILINE)
        parts.append(f"// {name}.js\n" + re.sub(r"^export ", "", text, flags=re.MULTILINE))
    return "\n".join(parts)


def pack(content: Contents) -> tuple[dict[str, Any], bytes]:
    """Put all arrays and files one behind the other.

    Returns:
        By name, the place of each array, [dtype, shape, offset], and of the files of a name, their
        offsets, the end of the last one included; and the bytes.
    """
    index: dict[str, Any] = {}
    parts: list[bytes] = []
    length = 0

    def add(part: bytes) -> int:
        nonlocal length
        # A typed array of JavaScript begins at a multiple of the size of its numbers.
        padding = -length % 4
        parts.extend((b"\0" * padding, part))
        start = length + padding
        length = start + len(part)
        return start

    for name, array in content.arrays.items():
        index[name] = [array.dtype.name, list(array.shape), add(_little_endian(array))]
    for name, files in content.files.items():
        start = add(b"".join(files))
        index[name] = (start + np.cumsum([0, *map(len, files)])).tolist()
    return index, b"".join(parts)


def _little_endian(array: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
