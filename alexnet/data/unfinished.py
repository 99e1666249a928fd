"""The state of an unfinished preparation: where it resumes, and whether it may.

The images are divided into splits by their positions in the source. A source that has changed since
the preparation began would therefore put images that were training images into the validation
split, so such a preparation is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.config import StoreSettings
from alexnet.data.pixel_sums import Sums
from alexnet.data.sources import Source
from alexnet.data.store_folder import StoreFolder
from alexnet.errors import DataError
from alexnet.files import write_whole

# Version of the state, and of the choice of images held out in streams. No other one is resumed.
# Another choice in folders and tables needs no new version: the fingerprints of the splits tell it.
STATE = 6
STATE_FILE = "state.json"


@dataclass(frozen=True)
class Job:
    """A preparation in progress.

    Attributes:
        target: Where the store is written.
        state: How far the preparation has come.
        spare: Number of unreadable images that a split may have, whatever the share of them.
        arguments: Those of the command that does this, for messages; empty if unknown.
    """

    source: Source
    settings: StoreSettings
    target: StoreFolder
    state: dict[str, Any]
    spare: int = 0
    arguments: Sequence[object] = ()

    def save(self) -> None:
        """Write the state."""
        content = {"sha256": _digest(self.state), "content": self.state}
        write_whole(self.target.partial / STATE_FILE, json.dumps(content).encode())

    def digests(self, split: str, file: str) -> Path:
        """Path of the digests of the images of a file of the store."""
        return self.target.partial / f"digests-{split}-{file}.npz"

    def sums(self) -> Sums:
        """Return the sums of the training images in finished files.

        Raises:
            DataError: If their file is damaged.
        """
        saved = self.state["sums"]
        if saved is None:
            return Sums.zero(self.settings.size_px)
        path = self.target.partial / saved["file"]
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != saved["sha256"]:
            raise DataError(f"{path} is missing or damaged; {_begin_again(self.target)}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return Sums(arrays["pixels"], arrays["products"], int(arrays["images"]))

    def set_sums(self, sums: Sums, images: int) -> None:
        """Write the sums of the training images, of which `images` were read, and name the file.

        A new file each time: the state names the sums that belong to it, and a process killed
        between the two writes must not find newer sums than its state.
        """
        buffer = io.BytesIO()
        np.savez(buffer, pixels=sums.pixels, products=sums.products, images=sums.images)
        data, name = buffer.getvalue(), f"sums-{images}.npz"
        write_whole(self.target.partial / name, data)
        self.state["sums"] = {"file": name, "sha256": hashlib.sha256(data).hexdigest()}


def begin(target: StoreFolder, source: Source, settings: StoreSettings) -> Job:
    """Resume an interrupted preparation, or begin a new one.

    Raises:
        DataError: If another preparation was begun there, if the source has changed since then, or
            if the state or a file that it names is damaged.
    """
    # As JSON gives it back, for the comparison below.
    expected = json.loads(json.dumps(_expected(source, settings)))
    state = _read_state(target)
    if state is None:
        target.partial.mkdir(parents=True, exist_ok=True)
        job = Job(source, settings, target, expected | {"splits": {}, "sums": None})
        job.save()
    elif difference := _difference(state, expected):
        raise DataError(
            f"{target.partial} cannot be continued: {difference}; restore that, or "
            f"{_begin_again(target)}"
        )
    else:
        job = Job(source, settings, target, state)
        _check_files(job)
    target.new.mkdir(exist_ok=True)
    return job


def _check_files(job: Job) -> None:
    """Raise DataError if a file of the store that the state names is missing or cut short."""
    for split, record in job.state["splits"].items():
        for shard in record["shards"]:
            path = job.target.new / split / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise DataError(f"{path} is missing or damaged; {_begin_again(job.target)}")


def consumed(target: StoreFolder) -> dict[str, int]:
    """Return how many images of each split an interrupted preparation has read, by split.

    Raises:
        DataError: If its state is damaged.
    """
    state = _read_state(target)
    splits = state["splits"] if state else {}
    return {name: record["consumed"] for name, record in splits.items()}


def _expected(source: Source, settings: StoreSettings) -> dict[str, Any]:
    """Return what must not change while a preparation is interrupted."""
    relevant_settings = asdict(settings)
    del relevant_settings["most_skipped"]  # the only setting that does not affect what is written
    return {
        "state": STATE,
        "source": source.description,
        "settings": relevant_settings,
        "classes": source.classes,
        "images": {split.name: [split.count, split.fingerprint] for split in source.splits},
        "archives": source.archives,
    }


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Return in what a state differs from the one that is expected; "" if it does not."""
    if old["source"] != new["source"]:
        return f"it was begun from another source, {old['source']!r}"
    changed = [key for key, value in new["settings"].items() if old["settings"].get(key) != value]
    if changed:
        options = (f"--{key.replace('_', '-')} {old['settings'].get(key)}" for key in changed)
        return f"it was begun with other settings ({', '.join(options)})"
    if old["classes"] != new["classes"]:
        return f"the source had {len(old['classes'])} classes, and other ones than now"
    if list(old["images"]) != list(new["images"]):
        return f"it was begun with the splits {', '.join(old['images'])}"
    for name, (count, fingerprint) in new["images"].items():
        old_count, old_fingerprint = old["images"][name]
        if count != old_count:
            return f"the split {name!r} of the source had {old_count} images and has {count} now"
        if fingerprint != old_fingerprint:
            return (
                f"the names or labels of the images of the split {name!r} have changed, or an "
                "earlier version held out others"
            )
    if old["archives"] != new["archives"]:
        return "the archives of the source have changed (their names, sizes or dates)"
    return ""


def _read_state(target: StoreFolder) -> dict[str, Any] | None:
    """Return the state of an interrupted preparation; None if there is none.

    Raises:
        DataError: If it is damaged, or if the folder belongs to something else.
    """
    path = target.partial / STATE_FILE
    if not path.exists():
        # A process killed before its first state was complete leaves at most a hidden file.
        if target.partial.exists() and (
            not target.partial.is_dir() or any(target.partial.glob("[!.]*"))
        ):
            raise DataError(
                f"{target.partial} is not an unfinished store; move it away, or choose another name"
            )
        return None
    try:
        content = json.loads(path.read_bytes())
        state: dict[str, Any] = content["content"]
        # The checksum stands for a check of every field: no later line has to doubt the state.
        if state["state"] == STATE and content["sha256"] == _digest(state):
            return state
    # Bytes that are not UTF-8, no JSON, JSON of another form, and brackets in brackets.
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise DataError(
        f"{path} is damaged or was written by another version of this program; "
        f"{_begin_again(target)}"
    )


def _begin_again(target: StoreFolder) -> str:
    return f"remove {target.partial} to begin again"


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()
