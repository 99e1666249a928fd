"""ONNX Runtime Web, the program that runs the network in a browser: one pinned version.

It is not part of this package. npm fetches it once into the user's cache, and pages are made from
there; a page contains it, so that its readers fetch nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

from alexnet.errors import RunError
from alexnet.files import user_cache, write_whole

VERSION = "1.30.0"
SCRIPT, WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
FETCH_S = 600
"""Timeout of npm, in seconds; the package has 33 MB."""


def cached() -> Path:
    """The folder in the user's cache where the files are looked for."""
    return user_cache() / f"onnxruntime-web-{VERSION}"


def is_cached() -> bool:
    """Whether the user's cache has the files, and they are those of the pinned version."""
    paths = {name: cached() / name for name in SHA256}
    return all(
        path.is_file() and _is_pinned(name, path.read_bytes()) for name, path in paths.items()
    )


def read(folder: Path | None, fetching: str) -> dict[str, bytes]:
    """Return the script and the WebAssembly program, after a comparison with their checksums.

    Args:
        folder: Folder that has both files; the user's cache when None.
        fetching: The command that fetches them, for the message.

    Raises:
        RunError: A file is missing, or it is not that of the pinned version.
    """
    folder = folder or cached()
    files = {}
    for name in SHA256:
        path = folder / name
        if not path.is_file():
            raise RunError(
                f"the page needs {name} of onnxruntime-web {VERSION}, which is not in {folder}; "
                f"fetch it once with npm: {fetching}"
            )
        files[name] = path.read_bytes()
        if not _is_pinned(name, files[name]):
            raise RunError(
                f"{path} is not the file of onnxruntime-web {VERSION}; fetch it again: {fetching}"
            )
    return files


def fetch() -> None:
    """Fetch the pinned version by npm into the user's cache, if it is not there and intact.

    Raises:
        RunError: npm is not installed or fails, or what it fetched is something else.
    """
    if is_cached():
        return
    mend = "copy the folder dist of that package from another machine and name it with --ort"
    with tempfile.TemporaryDirectory() as temporary:
        npm = ["npm", "pack", "--silent", f"onnxruntime-web@{VERSION}"]
        try:
            result = subprocess.run(npm, cwd=temporary, capture_output=True, timeout=FETCH_S)
        except FileNotFoundError:
            raise RunError(f"npm is not installed; install it, or {mend}") from None
        except subprocess.TimeoutExpired:
            raise RunError(f"npm did not answer in {FETCH_S} s; try again, or {mend}") from None
        archives = list(Path(temporary).glob("*.tgz"))
        if result.returncode or not archives:
            lines = result.stderr.decode(errors="replace").split("\n")
            raise RunError(f"`{' '.join(npm)}` failed ({lines[0][:200]}); try again, or {mend}")
        files = {name: _member(archives[0], name) for name in SHA256}
    cached().mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if not _is_pinned(name, content):
            raise RunError(f"npm fetched another {name} than that of version {VERSION}; {mend}")
        write_whole(cached() / name, content)


def _member(archive: Path, name: str) -> bytes:
    """Read one file of the folder dist of the package."""
    try:
        with tarfile.open(archive) as package:
            file = package.extractfile(f"package/dist/{name}")
            return file.read() if file else b""
    except (tarfile.TarError, KeyError, EOFError, OSError):
        # The checksum is compared with the result.
        return b""


def _is_pinned(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256[name]
