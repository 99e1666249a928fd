"""`alexnet prepare`: turn a source into a finished store, on all cores and resumable.

The result does not depend on the number of workers or on interruptions: the images are written in
the order of the source, in files of a fixed number of images, and an interrupted preparation
resumes at the beginning of a file.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.config import LOSSLESS_PX, StoreSettings
from alexnet.data.arrow import ArrowFile, build_index, features, write_arrow_file
from alexnet.data.image import decode
from alexnet.data.pixel_sums import Sums
from alexnet.data.processing import MAX_BYTES, Processed, process_in_order
from alexnet.data.sources import Source, SourceSplit
from alexnet.data.storage import LocalStorage
from alexnet.data.store import FORMAT, file_sha256
from alexnet.errors import DataError
from alexnet.files import write_whole
from alexnet.progress import Progress

STORED_PX = 256  # section 2
STATE = 2  # format of an interrupted preparation's state; one of another format is not resumed
STATE_FILE = "state.json"
INDEX_FILE = "index.npz"


def prepare(
    source: Source,
    folder: str | Path,
    settings: StoreSettings,
    workers: int = 0,
    force: bool = False,
    ignore_disk: bool = False,
) -> dict[str, Any]:
    """Write a store and return its manifest.

    The work is done in `folder`.partial, which is renamed at the end. An interrupted preparation
    resumes after the last finished file of the store.

    Args:
        workers: Number of threads; 0 for one per core.
        force: Whether an existing store is replaced.
        ignore_disk: Whether to begin even when the disk is too small.

    Raises:
        DataError: If the store exists and `force` is not set, if a preparation with other settings
            was begun in its place, if the disk is too small and `ignore_disk` is not set, or if too
            many images cannot be read.
    """
    folder = Path(folder)
    settings = _settled(settings, source)
    if folder.exists() and not force:
        raise DataError(f"{folder} exists; choose another name, or --force to replace it")
    if folder.exists() and not (folder / "manifest.json").is_file():
        # A mistyped name must not delete a folder of something else.
        raise DataError(f"{folder} is not a store and is not removed; choose another name")
    if not ignore_disk:
        _check_disk(source, folder, settings)
    job = _begin(folder.with_name(folder.name + ".partial"), source, settings)
    if not job.complete:
        for split in source.splits:
            _prepare_split(job, split, workers or os.cpu_count() or 1)
        _finish(job)
    # Before the rename, so that a kill never leaves these files in a finished store. The state goes
    # first: a folder with a manifest and without a state is complete but for the rename.
    (job.partial / STATE_FILE).unlink(missing_ok=True)
    for path in job.partial.glob("sums-*.npz"):
        path.unlink()
    if folder.exists():
        shutil.rmtree(folder)
    # The rename is the moment at which the store exists; before it there is only a partial one.
    job.partial.rename(folder)
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return manifest


@dataclass(frozen=True)
class Job:
    """A preparation in progress.

    Attributes:
        partial: The folder that becomes the store.
        state: How far the preparation has come.
        complete: Whether only the rename of the folder is left.
    """

    source: Source
    settings: StoreSettings
    partial: Path
    state: dict[str, Any]
    complete: bool = False

    def save(self) -> None:
        write_whole(self.partial / STATE_FILE, json.dumps(self.state).encode())

    def sums(self) -> Sums:
        """Return the sums of the training images in finished files."""
        if self.state["sums"] is None:
            return Sums.zero(self.settings.size_px)
        with np.load(self.partial / self.state["sums"], allow_pickle=False) as saved:
            return Sums(saved["pixels"], saved["products"], int(saved["images"]))


def _settled(settings: StoreSettings, source: Source) -> StoreSettings:
    """Return the settings with the size filled in. Raises DataError for one that cannot work."""
    if settings.size_px == 0:
        first = next(source.splits[0].items(0), None)
        try:
            height, width = decode(first.read()).shape[:2] if first else (0, 0)
        except (ValueError, OSError):  # an unreadable image; it will be skipped and reported
            height, width = 0, 0
        # Small square images (CIFAR-10) keep their size; all others get the paper's 256 pixels.
        small = 0 < height == width <= LOSSLESS_PX
        settings = replace(settings, size_px=width if small else STORED_PX)
    if settings.size_px < 8:
        raise DataError(f"--size-px is {settings.size_px}; at least 8 pixels per side are needed")
    if not 1 <= settings.quality <= 100:
        raise DataError(f"--quality is {settings.quality}; JPEG quality goes from 1 to 100")
    if settings.shard_images < 1:
        raise DataError(f"--shard-images is {settings.shard_images}; it must be at least 1")
    # The factor is 3.1 and not 3, because a PNG of noise is a little larger than its pixels.
    most = int(MAX_BYTES // (3.1 * settings.size_px**2))
    if settings.settled_encoding() != "jpeg" and settings.shard_images > most:
        raise DataError(
            f"--shard-images is {settings.shard_images}; a file would exceed 2 GiB: "
            f"{most} is the maximum"
        )
    if not 0 <= settings.most_skipped <= 1:
        raise DataError(
            f"--most-skipped is {settings.most_skipped}; give a fraction between 0 and 1"
        )
    return settings


def _check_disk(source: Source, folder: Path, settings: StoreSettings) -> None:
    """Raise DataError if the disk has less room than the store may need."""
    counts = [split.count for split in source.splits]
    known = sum(count for count in counts if count is not None)
    # Photographs take 0.4 bytes per pixel at quality 95 with 4:2:0 chroma; 0.6 leaves a margin.
    image_bytes = settings.size_px**2 * (0.6 if settings.settled_encoding() == "jpeg" else 3)
    parent = folder.absolute().parent
    while not parent.exists():  # the folders above the store may have to be created yet
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if known * image_bytes > free:
        raise DataError(
            f"the store may need {known * image_bytes / 2**30:.1f} GiB and {parent} has "
            f"{free / 2**30:.1f} GiB free; "
            "make room, choose another disk, or begin anyway with --ignore-disk"
        )


def _begin(partial: Path, source: Source, settings: StoreSettings) -> Job:
    """Resume an interrupted preparation, or begin a new one."""
    relevant_settings = asdict(settings)
    del relevant_settings["most_skipped"]  # the only setting that does not affect what is written
    expected = {
        "state": STATE,
        "settings": relevant_settings,
        "source": source.description,
        "classes": list(source.classes),
    }
    # Not `partial.exists()`, because a kill may have come before the first state was complete.
    if not any(partial.glob("[!.]*")):
        partial.mkdir(parents=True, exist_ok=True)
        job = Job(source, settings, partial, expected | {"splits": {}, "sums": None})
        job.save()
        return job
    state = _read_json(partial / STATE_FILE)
    if {key: state.get(key) for key in expected} == expected:
        return Job(source, settings, partial, state)
    # A kill between the removal of the state and the rename leaves a complete store.
    manifest = _read_json(partial / "manifest.json")
    if not state and manifest | _identity(source, settings) == manifest != {}:
        return Job(source, settings, partial, {}, complete=True)
    raise DataError(
        f"{partial} was begun from another source or with other settings; remove it first"
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file, or nothing if it is missing or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content


def _identity(source: Source, settings: StoreSettings) -> dict[str, Any]:
    """Return the part of the manifest that says what a store was made from, and how."""
    return {
        "source": source.description,
        "settings": asdict(settings) | {"encoding": settings.settled_encoding()},
        "classes": list(source.classes),
        "words": list(source.words),
    }


def _prepare_split(job: Job, split: SourceSplit, workers: int) -> None:
    """Prepare a split, or the part of it that an interrupted preparation has left."""
    new = {
        "shards": [],
        "skipped": [],
        # Counted for the split and not for each file: with 20,000 classes and 7,000 files the
        # table would have 140 million entries.
        "per_class": [0] * len(job.source.classes),
        "kept": 0,
        "consumed": 0,
        "finished": False,
    }
    record = job.state["splits"].setdefault(split.name, new)
    if record["finished"]:
        return
    sums = job.sums()
    (job.partial / split.name).mkdir(exist_ok=True)
    items = split.items(record["consumed"])
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool,
        Progress(
            f"prepare {split.name}", split.count, "images", done=record["consumed"]
        ) as progress,
    ):
        finished: list[Processed] = []
        for result in process_in_order(items, job.source.upright, job.settings, pool, workers):
            progress.advance(result.items)
            finished.append(result)
            if sum(task.items for task in finished) == job.settings.shard_images:
                _finish_file(job, split, finished, sums)
                finished = []
        if finished:
            _finish_file(job, split, finished, sums)
    _check_skipped(job, split, final=True)
    record["finished"] = True
    job.save()


def _finish_file(job: Job, split: SourceSplit, finished: list[Processed], sums: Sums) -> None:
    """Write a file of the store, then record the progress; the workers go on meanwhile."""
    record = job.state["splits"][split.name]
    rows = [row for result in finished for row in result.rows]
    skipped = [[name, reason] for result in finished for name, reason in result.skipped]
    if rows:
        name = f"data-{len(record['shards']):05d}.arrow"
        path = job.partial / split.name / name
        about = write_arrow_file(path, rows, job.source.classes)
        record["shards"].append({"file": name} | about | {"sha256": file_sha256(path)})
    for _, _, label in rows:
        record["per_class"][label] += 1
    record["kept"] += sum(result.kept for result in finished)
    record["skipped"] += skipped
    record["consumed"] += len(rows) + len(skipped)
    old_sums = job.state["sums"]
    if split.name == job.source.splits[0].name:  # the statistics are those of the training split
        for result in finished:
            sums.merge(result.sums)
        # A new file each time: the state names the sums that belong to it, and a process killed
        # between the two writes must not find newer sums than its state.
        job.state["sums"] = f"sums-{record['consumed']}.npz"
        buffer = io.BytesIO()
        np.savez(buffer, pixels=sums.pixels, products=sums.products, images=sums.images)
        write_whole(job.partial / job.state["sums"], buffer.getvalue())
    job.save()
    if old_sums not in (None, job.state["sums"]):
        (job.partial / old_sums).unlink()
    _check_skipped(job, split, final=False)


def _check_skipped(job: Job, split: SourceSplit, final: bool) -> None:
    """Raise DataError if too many images of a split could not be read."""
    record = job.state["splits"][split.name]
    # Where the size of the split is unknown, the share is taken of what was read so far.
    skipped, total = len(record["skipped"]), split.count or record["consumed"]
    if final and record["consumed"] == skipped:
        raise DataError(
            f"the split {split.name!r} has no readable image; repair the images and remove "
            f"{job.partial}"
        )
    if (final or split.count) and skipped > job.settings.most_skipped * max(1, total):
        name, reason = record["skipped"][-1]
        raise DataError(
            f"{skipped} of {total} images of {split.name!r} cannot be read, the last of them "
            f"{name} ({reason}); repair them and remove {job.partial}, or allow more with "
            "--most-skipped"
        )


def _finish(job: Job) -> None:
    """Write the indices, the mean image, the manifest and the small files for `load_from_disk`."""
    source, partial = job.source, job.partial
    sums = job.sums()
    splits = {}
    for split in source.splits:
        record = job.state["splits"][split.name]
        _write_hugging_face_files(partial / split.name, record["shards"], source.classes)
        splits[split.name] = {
            "images": sum(record["per_class"]),
            "per_class": record["per_class"],
            "kept": record["kept"],
            "shards": record["shards"],
            "index": _write_index(partial, split.name, record["shards"]),
            "skipped": record["skipped"],
        }
    write_whole(partial / "dataset_dict.json", json.dumps({"splits": list(splits)}).encode())
    with (partial / "mean.npy").open("wb") as file:
        np.save(file, sums.mean())
    manifest = {
        "format": FORMAT,
        **_identity(source, job.settings),
        "splits": splits,
        "mean_rgb": sums.mean().mean((0, 1)).tolist(),
        "covariance": sums.covariance().tolist(),
        "mean_sha256": file_sha256(partial / "mean.npy"),
    }
    write_whole(partial / "manifest.json", json.dumps(manifest, indent=1).encode())


def _write_index(partial: Path, split: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the index of a split; return its entry in the manifest."""
    files = [ArrowFile(f"{split}/{s['file']}", s["bytes"], s["images"]) for s in shards]
    # Computed from the files on disk and not while they are written, so that an interrupted
    # preparation has nothing more to remember.
    data = build_index(LocalStorage(partial), files).to_bytes()
    path = partial / split / INDEX_FILE
    write_whole(path, data)
    return {"file": INDEX_FILE, "bytes": len(data), "sha256": file_sha256(path)}


def _write_hugging_face_files(
    folder: Path, shards: list[dict[str, Any]], classes: tuple[str, ...]
) -> None:
    """Write the files of a split that `load_from_disk` looks for."""
    # The keys are those that `Dataset.save_to_disk` writes.
    about = {
        "_data_files": [{"filename": shard["file"]} for shard in shards],
        "_fingerprint": shards[0]["sha256"][:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": folder.name,
    }
    info = {"features": features(classes)}
    write_whole(folder / "dataset_info.json", json.dumps(info).encode())
    write_whole(folder / "state.json", json.dumps(about).encode())
