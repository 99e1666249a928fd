"""`alexnet prepare`: turn a source into a finished store, on all cores and resumable.

The result does not depend on the number of workers or on interruptions: the images are written in
the order of the source, in files of a fixed number of images, or of fewer where their bytes are too
many for one file, and an interrupted preparation resumes at the beginning of a file.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.config import LOSSLESS_PX, MEMORY_GIB, StoreSettings
from alexnet.cores import available_cores
from alexnet.data.arrow import MAX_BYTES, ArrowFile, build_index, features, write_arrow_file
from alexnet.data.copies import write_digests
from alexnet.data.image import decode
from alexnet.data.manifest import FORMAT, MOST_PX, sealed
from alexnet.data.notes import FIRST, first_of, notes_on_copies, notes_on_splits
from alexnet.data.pixel_sums import Sums
from alexnet.data.processing import Memory, Processed, Unreadable, process_in_order, read
from alexnet.data.sources import Item, Source, SourceSplit
from alexnet.data.storage import LocalStorage
from alexnet.data.store_folder import StoreFolder
from alexnet.data.unfinished import Job, begin, consumed
from alexnet.errors import DataError
from alexnet.files import file_sha256, free_space, size, write_whole
from alexnet.program import command
from alexnet.progress import Progress

STORED_PX = 256  # section 2
LEAST_SIZE_PX = 8  # side of a stored image
# Bytes per pixel of a JPEG. Photographs take 0.4 at quality 95 with 4:2:0 chroma; 0.6 leaves a
# margin.
JPEG_BYTES = 0.6
SAMPLE = 15  # images whose size is looked at
INDEX_FILE = "index.npz"
MOST_NAMES = 100  # of images with an extreme shape, in the manifest


def prepare(
    source: Source,
    folder: str | Path,
    settings: StoreSettings,
    workers: int = 0,
    force: bool = False,
    ignore_disk: bool = False,
    memory_gib: float = MEMORY_GIB,
    spare: int = 0,
    arguments: Sequence[object] = (),
) -> dict[str, Any]:
    """Write a store and return its manifest.

    The work is done in `folder`.partial, from which the store is renamed at the end. An interrupted
    preparation resumes after the last finished file of the store.

    Args:
        workers: Number of threads; 0 for one per core.
        force: Whether an existing store is replaced. It stays until the new one is complete.
        ignore_disk: Whether to begin even when the disk is too small.
        memory_gib: Memory for the images that all threads decode at one time. A larger image is
            decoded alone. The content of the store does not depend on it.
        spare: Number of unreadable images that a split may have, whatever the share of them.
        arguments: Those of the `alexnet prepare` that does the same, for messages: where an option
            is advised, the whole command must work when it is copied.

    Raises:
        DataError: If the store exists and `force` is not set, if a preparation with other settings
            or of another source was begun in its place, if the source has changed since then, if
            the disk is too small and `ignore_disk` is not set, or if too many images cannot be
            read.
        BusyError: If another process prepares this store.
    """
    if workers < 0:
        raise DataError(f"--workers is {workers}; it must be at least 0, which is one per core")
    if not 0 < memory_gib < math.inf:
        raise DataError(f"--memory-gib is {memory_gib}; it must be greater than 0")
    memory = Memory(int(memory_gib * 2**30))
    target = StoreFolder(folder)
    # The filter is set here and not by the threads, because Python has one list of filters for all
    # of them.
    with target.held(), _without_warnings_of_pillow():
        target.check(force)
        settings = settled(settings, source)
        if not ignore_disk:
            _check_disk(source, target, settings, arguments)
        job = replace(begin(target, source, settings), spare=spare, arguments=arguments)
        for split in source.splits:
            _prepare_split(job, split, workers or available_cores(), memory)
        manifest = _finish(job)
        target.publish()
    return manifest


@contextmanager
def _without_warnings_of_pillow() -> Iterator[None]:
    """Ignore what Pillow says of large images and of odd ones, without their names.

    A warning that the user has turned into an error must not change the content of a store.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def settled(settings: StoreSettings, source: Source) -> StoreSettings:
    """Return the settings with the size filled in. Raises DataError for one that cannot work."""
    if settings.size_px == 0:
        settings = replace(settings, size_px=_own_size(source) or STORED_PX)
    if not LEAST_SIZE_PX <= settings.size_px <= MOST_PX:
        raise DataError(
            f"--size-px is {settings.size_px}; give from {LEAST_SIZE_PX} to {MOST_PX:,} pixels per "
            "side"
        )
    if not 1 <= settings.quality <= 100:
        raise DataError(f"--quality is {settings.quality}; JPEG quality goes from 1 to 100")
    if settings.shard_images < 1:
        raise DataError(f"--shard-images is {settings.shard_images}; it must be at least 1")
    if not 0 <= settings.most_skipped <= 1:
        raise DataError(
            f"--most-skipped is {settings.most_skipped}; give a fraction between 0 and 1"
        )
    return settings


def _own_size(source: Source) -> int:
    """Return the size that small square images keep (CIFAR-10), in pixels; 0 for all others.

    More than half of the images have it, so that no odd image decides.
    """
    sizes = sample_sizes(source.splits[0])
    sides = Counter(width for height, width in sizes if height == width)
    for side, count in sides.most_common(1):
        if 2 * count > len(sizes) and LEAST_SIZE_PX <= side <= LOSSLESS_PX:
            return side
    return 0


def sample_sizes(split: SourceSplit) -> list[tuple[int, int]]:
    """Return the height and width of some images of a split, without those that are unreadable.

    Raises:
        DataError: If the source itself is damaged.
    """
    # At even distances, since the images of a class may be alike. Only listed files, which have a
    # fingerprint, can be reached at once; other sources show their first images.
    step = split.count // SAMPLE if split.count and split.fingerprint else 0
    items: Iterable[Item] = (
        [next(split.items(i * step)) for i in range(SAMPLE)]
        if step
        else itertools.islice(split.items(0), SAMPLE)
    )
    sizes = []
    for item in items:
        data = read(item)
        if isinstance(data, Unreadable):  # it will be skipped and reported
            continue
        with suppress(DataError), _without_warnings_of_pillow():  # likewise
            height, width = decode(data).shape[:2]
            sizes.append((height, width))
    return sizes


def _check_disk(
    source: Source, target: StoreFolder, settings: StoreSettings, arguments: Sequence[object]
) -> None:
    """Raise DataError if the disk has less room than the rest of the store may need."""
    # What an interrupted preparation has written is no longer free.
    written = consumed(target)
    known = sum(
        split.count - written.get(split.name, 0)
        for split in source.splits
        if split.count is not None
    )
    image_bytes = settings.size_px**2 * (JPEG_BYTES if settings.settled_encoding() == "jpeg" else 3)
    existing, free = free_space(target.path.parent)
    if free is not None and known * image_bytes > free:
        needed = size(int(known * image_bytes))
        anyway = _or_with(arguments, "begin anyway", "--ignore-disk")
        raise DataError(
            f"the store may need {needed} and {existing} has {size(free)} free; make room or "
            f"choose another disk{anyway}"
        )


def _or_with(arguments: Sequence[object], what: str, option: str, *value: object) -> str:
    """The end of a message: the command that does something with an option, if there is one."""
    if not arguments:
        return ""
    others = list(arguments)
    if option in others:
        first = others.index(option)
        del others[first : first + 1 + len(value)]
    return f", or {what} with {command('prepare', *others, option, *value)}"


def _identity(source: Source, settings: StoreSettings) -> dict[str, Any]:
    """Return the part of the manifest that says what a store was made from, and how."""
    return {
        "source": source.description,
        "settings": asdict(settings) | {"encoding": settings.settled_encoding()},
        "classes": list(source.classes),
        "words": list(source.words),
    }


def _prepare_split(job: Job, split: SourceSplit, workers: int, memory: Memory) -> None:
    """Prepare a split, or the part of it that an interrupted preparation has left."""
    new = {
        "shards": [],
        "skipped": [],
        # Counted for the split and not for each file: with 20,000 classes and 7,000 files the
        # table would have 140 million entries.
        "per_class": [0] * len(job.source.classes),
        "kept": 0,
        "extreme": {"images": 0, "names": []},
        "consumed": 0,
        "finished": False,
    }
    record = job.state["splits"].setdefault(split.name, new)
    if record["finished"]:
        return
    sums = job.sums()
    summed = _gives_statistics(job, split)
    (job.target.new / split.name).mkdir(exist_ok=True)
    items = split.items(record["consumed"])
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool,
        Progress(
            f"prepare {split.name}", split.count, "images", completed=record["consumed"]
        ) as progress,
    ):
        finished: list[Processed] = []
        file_bytes, done = 0, record["consumed"]
        for result in process_in_order(
            items, done, job.source.upright, job.settings, pool, workers, memory, summed
        ):
            progress.advance(result.items)
            if file_bytes + result.stored_bytes > MAX_BYTES:
                _finish_file(job, split, finished, sums)
                finished, file_bytes = [], 0
            finished.append(result)
            file_bytes += result.stored_bytes
            done += result.items
            if done % job.settings.shard_images == 0:
                _finish_file(job, split, finished, sums)
                finished, file_bytes = [], 0
        if finished:
            _finish_file(job, split, finished, sums)
    _check_skipped(job, split, final=True)
    record["finished"] = True
    job.save()


def _gives_statistics(job: Job, split: SourceSplit) -> bool:
    """Tell whether a split is the training split, whose statistics are those of the store."""
    return split.name == job.source.splits[0].name


def _finish_file(job: Job, split: SourceSplit, finished: list[Processed], sums: Sums) -> None:
    """Write a file of the store, then record the progress; the workers go on meanwhile."""
    record = job.state["splits"][split.name]
    rows = [row for result in finished for row in result.rows]
    skipped = [[name, reason] for result in finished for name, reason in result.skipped]
    if rows:
        name = f"data-{len(record['shards']):05d}.arrow"
        path = job.target.new / split.name / name
        about = write_arrow_file(path, rows, job.source.classes)
        record["shards"].append({"file": name} | about | {"sha256": file_sha256(path)})
        write_digests(job.digests(split.name, name), rows)
    for _, _, label in rows:
        record["per_class"][label] += 1
    record["kept"] += sum(result.kept for result in finished)
    record["skipped"] += skipped
    extreme = [name for result in finished for name in result.extreme]
    record["extreme"]["images"] += len(extreme)
    # Not all names: a data set of tiny images has as many of them as it has images.
    record["extreme"]["names"] = (record["extreme"]["names"] + extreme)[:MOST_NAMES]
    record["consumed"] += len(rows) + len(skipped)
    old_sums = job.state["sums"]
    if _gives_statistics(job, split):
        for result in finished:
            sums.merge(result.sums)
        job.set_sums(sums, record["consumed"])
    job.save()
    if old_sums not in (None, job.state["sums"]):
        (job.target.partial / old_sums["file"]).unlink()
    _check_skipped(job, split, final=False)


def _check_skipped(job: Job, split: SourceSplit, final: bool) -> None:
    """Raise DataError if too many images of a split could not be read."""
    record = job.state["splits"][split.name]
    # Where the size of the split is unknown, the share is taken of what was read so far.
    skipped, total = len(record["skipped"]), split.count or record["consumed"]
    if final and not record["consumed"]:
        raise DataError(
            f"the split {split.name!r} of {job.source.description} has no images; add some, or "
            "change --val-fraction of alexnet prepare"
        )
    if final and record["consumed"] == skipped:
        raise DataError(
            f"the split {split.name!r} has no readable image; repair the images and remove "
            f"{job.target.partial}"
        )
    tolerated = max(job.spare, job.settings.most_skipped * max(1, total))
    # 0.29 * 100 is below 29: the share that is advised below must be enough.
    if (final or split.count) and skipped > tolerated + 1e-9 * total:
        names = [f"{name} ({reason})" for name, reason in record["skipped"][:FIRST]]
        first = first_of(names, skipped)
        enough = math.ceil(100 * skipped / max(1, total)) / 100
        allowing = _or_with(job.arguments, "allow more", "--most-skipped", enough)
        raise DataError(
            f"{skipped} of {total} images of {split.name!r} cannot be read, {first}; "
            f"repair them and remove {job.target.partial}{allowing}"
        )


def _finish(job: Job) -> dict[str, Any]:
    """Write the indices, the mean image, the manifest and the small files for `load_from_disk`.

    Returns:
        The manifest, as it is read from the store.
    """
    source, folder = job.source, job.target.new
    sums = job.sums()
    splits = {}
    for split in source.splits:
        record = job.state["splits"][split.name]
        _write_hugging_face_files(folder / split.name, record["shards"], source.classes)
        splits[split.name] = {
            "images": sum(record["per_class"]),
            # Tells later whether the source still has images of the same names and labels.
            "fingerprint": split.fingerprint,
            "per_class": record["per_class"],
            "kept": record["kept"],
            "extreme": record["extreme"],
            "shards": record["shards"],
            "index": _write_index(folder, split.name, record["shards"]),
            "skipped": record["skipped"],
        }
    write_whole(folder / "dataset_dict.json", json.dumps({"splits": list(splits)}).encode())
    # Through memory: NumPy's own error for a full disk has no number.
    mean = io.BytesIO()
    np.save(mean, sums.mean())
    write_whole(folder / "mean.npy", mean.getvalue())
    manifest = {
        "format": FORMAT,
        **_identity(source, job.settings),
        # Tells later whether archives, whose images have no fingerprint, are still the same.
        "archives": source.archives,
        "notes": [
            *source.notes,
            *notes_on_splits(splits, source.classes, job.settings.size_px),
            *notes_on_copies(job),
        ],
        "splits": splits,
        "mean_rgb": sums.mean().mean((0, 1)).tolist(),
        "covariance": sums.covariance().tolist(),
        "mean_sha256": file_sha256(folder / "mean.npy"),
    }
    content = json.dumps(sealed(manifest), indent=1)
    write_whole(folder / "manifest.json", content.encode())
    as_read: dict[str, Any] = json.loads(content)
    return as_read


def _write_index(folder: Path, split: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Write the index of a split; return its entry in the manifest."""
    files = [ArrowFile(f"{split}/{s['file']}", s["bytes"], s["images"]) for s in shards]
    # Computed from the files on disk and not while they are written, so that an interrupted
    # preparation has nothing more to remember.
    data = build_index(LocalStorage(folder), files).to_bytes()
    path = folder / split / INDEX_FILE
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
