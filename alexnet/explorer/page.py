"""Writes the page: the network, the program that runs it, and the scripts.

All of it is one HTML file. Of a large network it is a folder, since a browser reads the whole of a
file before it shows anything.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from alexnet.files import new_folder, replacing
from alexnet.provenance import code_version, describe
from alexnet.snapshots import Growth
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
PIECE_BYTES = 12 << 20
"""Bytes in each script of a folder, where they are 16 MiB of base64. A multiple of 3: so the texts
of several pieces, one behind the other, are the base64 of all of them."""
LARGE_BYTES = 64 << 20
"""From this size of a network on, a folder opens much faster than one file."""
INDEX = "index.html"
GENERATOR = "alexnet explore"
"""What a page says of its origin: no other folder is ever replaced."""
GENERATOR_WITHIN = 2000  # characters from the start of a page
PIECE = re.compile(r"(data|ort|wasm|model)-\d+\.js")


def is_file(out: Path) -> bool:
    """Whether a page of this name is one file; all others are folders."""
    return out.suffix.lower() in (".html", ".htm")


def weight_bytes(trained: Trained) -> int:
    """The size of a network in a page."""
    return sum(4 * parameter.numel() for parameter in trained.net.parameters())


def check_out(out: Path, force: bool) -> None:
    """Raise RunError if something is in the way of the page that must not be replaced."""
    if not out.exists():
        return
    if is_file(out) and out.is_dir():
        raise RunError(f"{out} is a folder; choose another name for a page of one file")
    if not force:
        raise RunError(f"{out} exists; choose another name, or --force to replace it")
    # A mistyped name must not delete a folder of something else.
    if not is_file(out) and (why := _why_not_a_page(out)):
        raise RunError(f"{out} {why}, and is not removed; choose another name")


def _why_not_a_page(folder: Path) -> str:
    """Why a folder is not a page of ours and nothing else; an empty text if it is one."""
    if not folder.is_dir():
        return "is a file without the ending .html"
    index = folder / INDEX
    if not index.is_file():
        return f"is a folder without {INDEX}"
    with index.open(encoding="utf-8", errors="replace") as file:
        if f'name="generator" content="{GENERATOR}"' not in file.read(GENERATOR_WITHIN):
            return f"has an {INDEX} that alexnet explore has not written"
    for path in sorted(folder.iterdir()):
        if path != index and not (PIECE.fullmatch(path.name) and path.is_file()):
            return f"has {path.name}, which is not a part of the page"
    return ""


def write(
    trained: Trained,
    split: Split,
    run: Path,
    out: Path,
    ort: dict[str, bytes],
    images: int,
    units: int,
    other_growth: Growth | None = None,
) -> int:
    """Write the page of a network, and replace an earlier one.

    Args:
        split: Where its images come from.
        run: Folder of the run; the page has its name, and its snapshots if it has kept any.
        out: A file, or a folder (`is_file`), which has the network in pieces beside index.html.
        ort: The files of ONNX Runtime Web (`runtime.read`).
        images, units, other_growth: As in `contents`.

    Returns:
        The size of the page in bytes.

    Raises:
        RunError: The network cannot be exported, or the split has no images, or a folder is in the
            way that is not a page.
    """
    # Before the contents, which take minutes.
    model = layers_onnx(trained)
    content = contents(trained, split, run, images, units, other_growth)
    if not is_file(out):
        return write_folder(out, content, model, ort)
    with replacing(out) as file:
        for text in render(content, model, ort):
            file.write(text.encode())
        return file.tell()


def render(content: Contents, model: bytes, ort: dict[str, bytes]) -> Iterator[str]:
    """Yield the page of one file, part by part: the network may have hundreds of megabytes.

    Args:
        model: The network as ONNX (`layers_onnx`).
        ort: The files of ONNX Runtime Web.
    """
    index, blobs = _blobs(content, ort)
    blobs["model"] = Blob.gzipped(model)
    about = {name: {"gzip": blob.is_gzip, "pieces": []} for name, blob in blobs.items()}
    texts = {name: map(Markup, pieces(blob.content)) for name, blob in blobs.items()}
    yield from _shell(content, index, about, texts)


def write_folder(out: Path, content: Contents, model: bytes, ort: dict[str, bytes]) -> int:
    """Write the page as a folder: index.html, and beside it the rest as scripts.

    A page from disk may load scripts and nothing else. The browser reads one after the other while
    the page is in use already.

    Args:
        model, ort: As in `render`.

    Returns:
        The size of all files in bytes.

    Raises:
        RunError: A folder is in the way that is not a page.
    """
    if out.is_symlink() or out.name in ("", ".."):
        # The hidden folder beside it must be one beside the folder itself.
        out = out.resolve()
    # It may have appeared since the command began, minutes ago.
    check_out(out, force=True)
    index, blobs = _blobs(content, ort)
    # gzip saves 7 % of the weights, and undoing it takes a browser longer than reading those.
    blobs["model"] = Blob(model)
    about: dict[str, dict[str, Any]] = {}
    with new_folder(out, replace=True) as folder:
        for name, blob in blobs.items():
            names = []
            for number, text in enumerate(pieces(blob.content)):
                names.append(f"{name}-{number:02}.js")
                (folder / names[-1]).write_text(_piece(names[-1], text))
            size = len(blob.content)
            about[name] = {"gzip": blob.is_gzip, "pieces": names, "bytes": size}
        # Last, so that a folder that is not complete does not look like a page.
        html = "".join(_shell(content, index, about, {}))
        (folder / INDEX).write_text(html, encoding="utf-8")
        return sum(path.stat().st_size for path in folder.iterdir())


def pieces(blob: bytes) -> Iterator[str]:
    """Yield a blob as base64, PIECE_BYTES of it at a time."""
    for start in range(0, len(blob), PIECE_BYTES):
        yield base64.b64encode(blob[start : start + PIECE_BYTES]).decode()


def _piece(name: str, text: str) -> str:
    """The script that hands a piece to the page: by the text of a function with a comment.

    A browser reads a comment in a third of the time of a string, which it would also keep, and
    base64 has no letter that ends a comment.
    """
    return f'receivePiece("{name}", () => {{/*{text}*/}});\n'


@dataclass(frozen=True)
class Blob:
    """Bytes that a page has as base64: `ort`, `wasm`, `data` or `model`."""

    content: bytes
    is_gzip: bool = False

    @staticmethod
    def gzipped(content: bytes) -> Blob:
        """Compress a blob."""
        # No time in the header: the same page has the same bytes.
        return Blob(gzip.compress(content, GZIP_LEVEL, mtime=0), True)


def _blobs(content: Contents, ort: dict[str, bytes]) -> tuple[dict[str, Any], dict[str, Blob]]:
    """The index of the data, and all blobs but the model, in the order in which they are needed."""
    index, data = pack(content)
    return index, {
        # JPEGs would hardly be smaller.
        "data": Blob(data),
        "ort": Blob.gzipped(ort[runtime.SCRIPT]),
        "wasm": Blob.gzipped(ort[runtime.WASM]),
    }


def _shell(
    content: Contents,
    index: dict[str, Any],
    blobs: dict[str, dict[str, Any]],
    texts: Mapping[str, Iterator[str]],
) -> Iterator[str]:
    """Yield the page's HTML part by part.

    Args:
        index: As `pack` returns it.
        blobs: What the page's scripts need to know of each blob.
        texts: By name, the base64 of the blobs that are inside the page; the others lie beside it.
    """
    about = content.about | {"index": index, "blobs": blobs, "code": describe(code_version())}
    return (
        templates(HERE)
        .get_template("page.html.jinja")
        .generate(
            about=content.about,
            # "</script>" in the name of a class must not end the element.
            json=Markup(json.dumps(about, separators=(",", ":")).replace("<", "\\u003c")),
            generator=GENERATOR,
            style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
            script=Markup(script()),
            blobs=texts,
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
        text = (HERE / "js" / f"{name}.js").read_text(encoding="utf-8")
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
