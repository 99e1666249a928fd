"""The checksums of a local store's files, compared in the background of a training run.

Training reads an image here and one there, so nothing would notice a damaged byte that still
decodes. One thread of low priority therefore reads every file once at the beginning of a run. It
takes a core for about a second per gigabyte, and training need not wait for it. Files that are
intact are remembered by size and time, so that later runs do not read a large store again.
`alexnet check` verifies a store at once and does not believe what is remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from alexnet.files import parse_json, user_cache, write_whole

# Smaller splits are read again in each run, which takes less than a second: most stores are small,
# and each would otherwise leave a file in the user's cache.
REMEMBERED_BYTES = 256 << 20


def verify_in_background(
    sha256: Mapping[Path, str], store: str, report: Callable[[Path], None]
) -> None:
    """Start the thread that compares files with their checksums.

    Args:
        sha256: Checksum of each file.
        store: Checksum of the store, which names what is remembered of it.
        report: Called with the first file that is damaged; the thread ends then.
    """
    # A daemon, because a run that has ended need not wait for it.
    threading.Thread(target=_verify, args=(sha256, store, report), daemon=True).start()


def _verify(sha256: Mapping[Path, str], store: str, report: Callable[[Path], None]) -> None:
    # Linux has priorities of threads; elsewhere the call may fail.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
    memory = user_cache() / "verified" / f"{store}.json"
    intact = _remembered(memory)
    with suppress(OSError):  # a file that cannot be read any more is found by the training itself
        total = 0
        for path, digest in sha256.items():
            status = path.stat()
            key, state = str(path.absolute()), [status.st_size, status.st_mtime_ns, digest]
            total += status.st_size
            if intact.get(key) == state:
                continue
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    report(path)
                    return
            intact[key] = state
        if total >= REMEMBERED_BYTES:
            memory.parent.mkdir(parents=True, exist_ok=True)
            # Another split of the store may have been remembered meanwhile.
            write_whole(memory, json.dumps(_remembered(memory) | intact).encode())


def _remembered(memory: Path) -> dict[str, object]:
    """Return what is remembered: size, time and checksum of each intact file, by path."""
    try:
        intact = parse_json(memory.read_bytes())
    except (OSError, ValueError):
        return {}
    return dict(intact) if isinstance(intact, dict) else {}
