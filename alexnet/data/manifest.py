"""The manifest of a store: what it must contain, checked once when a store is opened.

A store may be damaged, or come from someone else. So every field that is used has its type and
range checked here, and a name can only be that of a file inside the store.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from alexnet.errors import DataError
from alexnet.files import parse_json

FORMAT = 2
UNSEALED = 1  # the format of version 0.2, whose manifests have no checksum of their own
MOST_PX = 1 << 14  # side of a stored image; a batch of larger ones would fit no memory
LEAST_IMAGE_BYTES = 16  # of a shard: the label of an image, and two offsets


def sealed(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with its own checksum, which covers everything else in it.

    It is the SHA-256 of the JSON with sorted keys and without the entry itself. A damaged name of a
    class or number of images would otherwise be read as another one.
    """
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True)
    return rest | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def is_store(folder: Path) -> bool:
    """Tell whether a local folder is a store, by its manifest, which may be damaged.

    Web apps, browser extensions and other data sets have a file manifest.json, too.
    """
    file = folder / "manifest.json"
    if not file.is_file():
        return False
    try:
        return _is_of_a_store(parse_json(file.read_bytes()))
    except ValueError:
        # A damaged one, or that of another program which is not JSON: the files beside it tell.
        return all((folder / name).is_file() for name in ("mean.npy", "dataset_dict.json"))


def _is_of_a_store(content: Any) -> bool:
    """Tell whether the content of a file manifest.json is that of a store."""
    return isinstance(content, dict) and {"format", "splits"} <= content.keys()


def parse_manifest(data: bytes, store: str) -> dict[str, Any]:
    """Return the content of manifest.json.

    Args:
        store: Name of the store, for messages.

    Raises:
        DataError: It is damaged, belongs to something else, or has another format version; the
            message says what to do.
    """
    try:
        manifest = parse_json(data)
    except ValueError:
        raise DataError(f"{store}/manifest.json is damaged; prepare the store again") from None
    if not _is_of_a_store(manifest):
        raise DataError(
            f"{store}/manifest.json is not the manifest of a store; give the folder of a store"
        )
    version = manifest["format"]
    # Not `in`, because 1.0 and true are equal to 1.
    if _count(version) not in (UNSEALED, FORMAT):
        raise DataError(
            f"{store} has store format {str(version)[:20]}, and this program reads formats "
            f"{UNSEALED} and {FORMAT}; prepare it again"
        )
    # One changed digit of the format must not make it a manifest that needs no checksum.
    if (version == FORMAT or "sha256" in manifest) and sealed(manifest) != manifest:
        raise DataError(
            f"{store}/manifest.json is damaged: it does not have the checksum that it states; "
            "prepare the store again"
        )
    if (wrong := _first_wrong(manifest)) is not None:
        raise DataError(
            f"{store}/manifest.json is damaged: {wrong} is missing or not of the right form; "
            "prepare the store again"
        )
    return dict(manifest)


def _first_wrong(manifest: dict[str, Any]) -> str | None:
    """Return the name of the first field that cannot be used, or None."""
    settings, splits = manifest.get("settings"), manifest.get("splits")
    classes, words = manifest.get("classes"), manifest.get("words", [])
    if not is_names(classes) or not classes:
        return "classes"
    # Words are absent from older stores, and empty where the classes have none.
    if not is_names(words) or len(words) not in (0, len(classes)):
        return "words"
    # Notes are absent from older stores, and a source is only shown.
    if not is_names(manifest.get("notes", [])):
        return "notes"
    if not isinstance(manifest.get("source", ""), str):
        return "source"
    if not isinstance(settings, dict) or not 0 < _count(settings.get("size_px")) <= MOST_PX:
        return "settings.size_px"
    if not isinstance(settings.get("encoding", ""), str):
        return "settings.encoding"
    if not is_covariance(manifest.get("covariance")):
        return "covariance"
    if not _is_sha256(manifest.get("mean_sha256")):
        return "mean_sha256"
    if not isinstance(splits, dict) or not splits or not all(map(_is_file_name, splits)):
        return "splits"
    for name, split in splits.items():
        if (wrong := _wrong_in_split(split)) is not None:
            return f"splits.{name}{wrong}"
    return None


def _wrong_in_split(split: Any) -> str | None:
    """Return the name of the first field of a split that cannot be used, or None."""
    if not isinstance(split, dict):
        return ""
    if not isinstance(shards := split.get("shards"), list):
        return ".shards"
    for number, shard in enumerate(shards):
        if not _is_file(shard) or not (
            0 <= _count(shard.get("images")) <= shard["bytes"] // LEAST_IMAGE_BYTES
        ):
            return f".shards[{number}]"
    if _count(split.get("images")) != sum(shard["images"] for shard in shards):
        return ".images"
    # Names and reasons.
    skipped = split.get("skipped", [])
    if not isinstance(skipped, list) or not all(is_names(s) and len(s) == 2 for s in skipped):
        return ".skipped"
    # Stores of version 0.1 have no index.
    if "index" in split and not _is_file(split["index"]):
        return ".index"
    return None


def is_names(value: Any) -> bool:
    """Tell whether a value of JSON is a list of strings."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def is_covariance(value: Any) -> bool:
    """Tell whether a value of JSON is a matrix of 3x3 finite numbers."""
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(row, list) and len(row) == 3 for row in value)
        and all(is_finite(number) for row in value for number in row)
    )


def is_finite(value: Any) -> bool:
    """Tell whether a value of JSON is a number that a float can hold, and neither NaN nor inf."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _is_file(entry: Any) -> bool:
    """Tell whether an entry describes a file: its name, size and checksum."""
    return (
        isinstance(entry, dict)
        and _is_file_name(entry.get("file"))
        and _count(entry.get("bytes")) >= 0
        and _is_sha256(entry.get("sha256"))
    )


def _is_file_name(value: Any) -> bool:
    """Tell whether a value is a name without folders, so that it cannot lead out of the store.

    A hidden name is refused, too, because the cache of remote files keeps its own files under such
    names and does not count them.
    """
    return isinstance(value, str) and re.fullmatch(r"[^./\\\0][^/\\\0]*", value) is not None


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _count(value: Any) -> int:
    """Return a number that counts something; -1 for any other value."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63
    return value if is_count else -1
