"""The checksums of a local store's files, compared in the background of a training run.

Training reads an image here and one there, so nothing would notice a damaged byte that still
decodes. A thread therefore reads every file once at the beginning of a run. It takes a core for
about a second per gigabyte, on Linux at a low priority, and training need not wait for it. Files
that are intact are remembered by size and time, so that later runs do not read a large store again.
`alexnet check` verifies a store at once and ignores these records.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from alexnet.files import file_sha256, parse_json, user_cache, write_whole

# Intact files are remembered whenever so many bytes of them have been read. Smaller splits are read
# again in each run, which takes less than a second: most stores are small, and each would otherwise
# leave a file in the user's cache.
REMEMBERED_BYTES = 256 << 20
NICER = 10
"""How much lower than that of the process the priority of the thread is, as `nice` counts."""


def verify_in_background(
    sha256: Mapping[Path, str], store: str, report: Callable[[Path], None]
) -> None:
    """Start the thread that compares files with their checksums.

    Args:
        sha256: Checksum of each file.
        store: Checksum of the store, which names what is remembered of it.
        report: Called with the first file that is damaged; the thread ends then.
    """

    def work() -> None:
        _be_nice()
        _verify(sha256, store, report)

    # A daemon, because a run that has ended need not wait for it.
    threading.Thread(target=work, daemon=True).start()


def _verify(sha256: Mapping[Path, str], store: str, report: Callable[[Path], None]) -> None:
    known, intact, new_bytes = _remembered(store), dict[str, object](), 0
    for path, digest in sha256.items():
        with suppress(OSError):  # a file that cannot be read is found by the training itself
            status = path.stat()
            key, state = str(path.absolute()), [status.st_size, status.st_mtime_ns, digest]
            if known.get(key) == state:
                continue
            if file_sha256(path) != digest:
                report(path)
                return
            intact[key] = state
            new_bytes += status.st_size
            # Now and then, so that a run that is stopped early does not begin at the first file.
            if new_bytes >= REMEMBERED_BYTES:
                _remember(store, intact)
                new_bytes = 0


def _be_nice() -> None:
    """Give this thread a low priority, so that it leaves its core to the threads that train."""
    # On other systems a priority is that of the whole process.
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may refuse it
            lower = min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICER)
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), lower)


# The training and the validation split are verified by a thread each.
_REMEMBERING = threading.Lock()


def _memory(store: str) -> Path:
    return user_cache() / "verified" / f"{store}.json"


def _remember(store: str, intact: dict[str, object]) -> None:
    """Add files to those that are remembered. Raises OSError if the cache cannot be written."""
    with _REMEMBERING:
        memory = _memory(store)
        memory.parent.mkdir(parents=True, exist_ok=True)
        write_whole(memory, json.dumps(_remembered(store) | intact).encode())


def _remembered(store: str) -> dict[str, object]:
    """Return what is remembered: size, time and checksum of each intact file, by path."""
    try:
        intact = parse_json(_memory(store).read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(intact) if isinstance(intact, dict) else {}
