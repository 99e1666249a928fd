"""Files of a store: how many are open at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet.config import StoreSettings
from alexnet.data.image import encode
from alexnet.data.prepare import prepare
from alexnet.data.sources import InHand, Item, Source, SourceSplit
from alexnet.data.storage import OpenFiles
from tests.layouts import write


def test_least_recently_used_file_is_closed_unless_it_is_being_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        write(tmp_path / name, name * 3)
    files, opened, closed = [OpenFiles(limit=2)], list[str](), list[int]()
    real_open, real_close, real_read = os.open, os.close, os.pread

    def opening(path: str, flags: int, dir_fd: int | None) -> int:
        opened.append(Path(path).name)
        return real_open(path, flags, dir_fd=dir_fd)

    monkeypatch.setattr("alexnet.data.storage.os.open", opening)
    for name in "abacada":
        assert files[0].read(str(tmp_path / name), 0, 3) == name.encode() * 3
    assert opened == ["a", "b", "c", "d"]  # "a" was never the least recently used
    assert len(files[0]) == 2

    def reading(file: int, length: int, begin: int) -> bytes:
        monkeypatch.setattr("alexnet.data.storage.os.pread", real_read)
        for name in "bcb":  # two others take turns in the one free slot
            assert files[0].read(str(tmp_path / name), 0, 3) == name.encode() * 3
        return real_read(file, length, begin)

    monkeypatch.setattr("alexnet.data.storage.os.pread", reading)
    assert files[0].read(str(tmp_path / "a"), 0, 3) == b"aaa"
    assert opened[4:] == ["b", "c", "b"]
    descriptors = [file for file, _ in files[0]._open.values()]

    def closing(file: int) -> None:
        closed.append(file)
        real_close(file)

    monkeypatch.setattr("alexnet.data.storage.os.close", closing)
    files.clear()
    assert closed == descriptors


MANY = """
import resource, sys
import numpy as np
from concurrent.futures import ThreadPoolExecutor
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
from alexnet.data.store import Store
from alexnet.data.loader import batches
split = Store(sys.argv[1]).split("train", keep=True)
order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(split)), 3))
levels = []
for batch in batches(split, order, 64, workers=8):
    levels += batch.images[:, 0, 0, 0].tolist()
want = {int(i): split.encoded(int(i)) for i in range(len(split))}
assert len(split._files) == 200, len(split._files)
with ThreadPoolExecutor(16) as pool:
    got = list(pool.map(lambda i: split.encoded(int(i)), order))
assert got == [want[int(i)] for i in order]
print(len(levels), sum(levels))
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["{}", "file://{}"])
def test_store_with_more_files_than_the_open_file_limit(where: str, tmp_path: Path) -> None:
    """200 files are read by many threads with 64 descriptors, from a folder and from a URL."""
    levels = list(range(200))
    items = [
        Item(str(level), level % 2, InHand(encode(np.full((8, 8, 3), level, np.uint8), "png")))
        for level in levels
    ]
    split = SourceSplit("train", 200, lambda start: iter(items[start:]))
    source = Source("levels", ("dark", "light"), (split,))
    settings = StoreSettings(size_px=8, encoding="png", shard_images=1)
    prepare(source, tmp_path / "store", settings, workers=1)
    completed = subprocess.run(
        [sys.executable, "-c", MANY, where.format(tmp_path / "store")],
        capture_output=True,
        text=True,
        env=os.environ | {"ALEXNET_CACHE": str(tmp_path / "cache")},
        check=False,
    )
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.split() == ["600", str(3 * sum(levels))]
