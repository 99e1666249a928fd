"""`alexnet prepare`: from a source to a finished store, on all cores, resumable, the same for any number of workers.

Pixel sums are kept as integers (exact in float64), so that neither threads nor interruptions change the statistics.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alexnet import native
from alexnet.config import LOSSLESS_PX, StoreSettings
from alexnet.data.jpeg import decode_jpegs
from alexnet.data.picture import as_stored, centre_square, decode, encode
from alexnet.data.sources import Item, Source, SourceSplit
from alexnet.data.store import FORMAT, file_sha256
from alexnet.files import write_whole
from alexnet.progress import Progress

ITEMS_A_TASK = 16
STORED_PX = 256  # section 2
STATE = 2  # of what an interrupted preparation leaves; one of another program is not taken up
MOST_BYTES = 2**31 - 1  # Arrow counts the bytes of a column with 32 bits


@dataclass
class Sums:
    """Exact running sums over pictures, RGB on 0..255."""

    pixels: NDArray[Any]  # (size_px, size_px, 3) int64, or uint16
    products: NDArray[np.float64]  # (3, 3), integers below 2**53
    images: int = 0

    @classmethod
    def zero(cls, size_px: int, kind: Any = np.int64) -> Sums:
        """kind: uint16 is enough for 257 pictures, and the whole of a piece of work stays in the cache."""
        return cls(np.zeros((size_px, size_px, 3), kind), np.zeros((3, 3)))

    def add(self, pictures: list[NDArray[np.uint8]]) -> None:
        for rgb in pictures:
            self.pixels += rgb
            self.products += products(rgb)
        self.images += len(pictures)

    def merge(self, other: Sums) -> None:
        self.pixels += other.pixels
        self.products += other.products
        self.images += other.images

    def mean(self) -> NDArray[np.float64]:
        return self.pixels / max(1, self.images)

    def covariance(self) -> NDArray[np.float64]:
        count = max(1, self.images * self.pixels.shape[0] * self.pixels.shape[1])
        mean = self.pixels.sum((0, 1)) / count
        result: NDArray[np.float64] = self.products / count - np.outer(mean, mean)
        return result


def products(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Sum over pixels of the products of R, G and B, exactly: (3, 3), integers. Compiled where it can be."""
    operators = native.compiled()
    if operators is None:
        return plain_products(rgb)
    rgb, sums = np.ascontiguousarray(rgb), np.zeros((3, 3), np.int64)
    operators.products(rgb.ctypes.data, rgb.size // 3, sums.ctypes.data)
    return sums.astype(np.float64)


def plain_products(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The same in numpy.

    float32 is exact up to 256 products of 255 x 255, so rows of 256 are summed in it and the rest in float64. Four
    pixels at a time, of whose 12 x 12 products the 3 x 3 on the diagonal count: three times as fast as one by one.
    """
    values = rgb.reshape(-1, 3)
    whole = len(values) // 1024 * 1024
    rows = values[:whole].reshape(-1, 256, 12).astype(np.float32)
    wide = (rows.transpose(0, 2, 1) @ rows).sum(0, dtype=np.float64).reshape(4, 3, 4, 3)
    rest = values[whole:].astype(np.float64)
    result: NDArray[np.float64] = sum(wide[k, :, k] for k in range(4)) + rest.T @ rest
    return result


@dataclass
class Done:
    """What a piece of work gave: rows for the store, sums, what was skipped, and how many rows are
    the source's own files."""

    rows: list[tuple[bytes, str, int]]
    sums: Sums
    skipped: list[tuple[str, str]] = field(default_factory=list)
    kept: int = 0

    @property
    def items(self) -> int:
        return len(self.rows) + len(self.skipped)


def prepare(
    source: Source,
    folder: str | Path,
    settings: StoreSettings,
    workers: int = 0,
    force: bool = False,
    ignore_disk: bool = False,
) -> dict[str, Any]:
    """Write the store and return its manifest. workers: threads, 0 for one a core.

    Works in `folder`.partial and renames it at the end; an interrupted preparation takes up after the last finished
    shard. Raises ValueError when the store exists (without force), when one begun with other settings is in the way,
    when the disk is too small (without ignore_disk), or when too many pictures cannot be read.
    """
    folder = Path(folder)
    settings = _settled(settings, source)
    if folder.exists() and not force:
        raise ValueError(f"{folder} exists; choose another place, or --force to replace it")
    if folder.exists() and not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder} is no store and is not removed; choose another place")
    if not ignore_disk:
        _check_disk(source, folder, settings)
    job = _begin(folder.with_name(folder.name + ".partial"), source, settings)
    for split in source.splits:
        _prepare_split(job, split, workers or os.cpu_count() or 1)
    manifest = _finish(job)
    if folder.exists():
        shutil.rmtree(folder)
    job.partial.rename(folder)
    for name in (
        "state.json",
        str(job.state["sums"]),
    ):  # last: a kill before the rename finds them still
        (folder / name).unlink(missing_ok=True)
    return manifest


@dataclass(frozen=True)
class Job:
    """A preparation under way: what is made from what, where, and in `state` how far it is."""

    source: Source
    settings: StoreSettings
    partial: Path
    state: dict[str, Any]

    def save(self) -> None:
        write_whole(self.partial / "state.json", json.dumps(self.state).encode())

    def sums(self) -> Sums:
        """Of the training pictures in finished shards."""
        if self.state["sums"] is None:
            return Sums.zero(self.settings.size_px)
        with np.load(self.partial / self.state["sums"], allow_pickle=False) as saved:
            return Sums(saved["pixels"], saved["products"], int(saved["images"]))


def _settled(settings: StoreSettings, source: Source) -> StoreSettings:
    """The settings with their size. Raises ValueError for one that cannot work."""
    if settings.size_px == 0:
        first = next(source.splits[0].items(0), None)
        try:
            height, width = decode(first.read()).shape[:2] if first else (0, 0)
        except (ValueError, OSError):  # it will be skipped and reported
            height, width = 0, 0
        small = 0 < height == width <= LOSSLESS_PX
        settings = replace(settings, size_px=width if small else STORED_PX)
    if settings.size_px < 8:
        raise ValueError(f"--size-px is {settings.size_px}; at least 8 pixels a side are needed")
    if not 1 <= settings.quality <= 100:
        raise ValueError(f"--quality is {settings.quality}; JPEG quality goes from 1 to 100")
    if settings.shard_images < 1:
        raise ValueError(f"--shard-images is {settings.shard_images}; it must be at least 1")
    most = int(
        MOST_BYTES // (3.1 * settings.size_px**2)
    )  # PNG of noise is a little larger than its pixels
    if settings.settled_encoding() != "jpeg" and settings.shard_images > most:
        raise ValueError(
            f"--shard-images is {settings.shard_images}; a file would pass 2 GiB: {most} is the most"
        )
    if not 0 <= settings.most_skipped <= 1:
        raise ValueError(
            f"--most-skipped is {settings.most_skipped}; it is a share between 0 and 1"
        )
    return settings


def _check_disk(source: Source, folder: Path, settings: StoreSettings) -> None:
    counts = [split.count for split in source.splits]
    known = sum(count for count in counts if count is not None)
    # Photographs take 0.4 bytes a pixel at quality 95 with halved colour.
    each = settings.size_px**2 * (0.6 if settings.settled_encoding() == "jpeg" else 3)
    place = folder.absolute().parent
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if known * each > free:
        raise ValueError(
            f"the store may need {known * each / 2**30:.1f} GiB and {place} has {free / 2**30:.1f} GiB free; "
            "make room, choose another disk, or begin all the same with --ignore-disk"
        )


def _begin(partial: Path, source: Source, settings: StoreSettings) -> Job:
    """An interrupted preparation taken up, or a new one."""
    made_with = asdict(settings)
    del made_with["most_skipped"]  # the only one that changes nothing that is written
    want = {
        "state": STATE,
        "settings": made_with,
        "source": source.description,
        "classes": list(source.classes),
    }
    if partial.exists():
        try:
            state: dict[str, Any] = json.loads((partial / "state.json").read_text())
        except (OSError, ValueError):
            state = {}
        if {key: state.get(key) for key in want} != want:
            raise ValueError(
                f"{partial} was begun from another source or with other settings; remove it first"
            )
        return Job(source, settings, partial, state)
    partial.mkdir(parents=True)
    job = Job(source, settings, partial, want | {"splits": {}, "sums": None})
    job.save()
    return job


def _prepare_split(job: Job, split: SourceSplit, workers: int) -> None:
    new = {
        "shards": [],
        "skipped": [],
        "per_class": [0]
        * len(job.source.classes),  # not of each shard: 20,000 classes, 7,000 shards
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
        taken: list[Done] = []
        for done in _work(job, pool, workers, items):
            progress.advance(done.items)
            taken.append(done)
            if sum(piece.items for piece in taken) == job.settings.shard_images:
                _finish_shard(job, split, taken, sums)
                taken = []
        if taken:
            _finish_shard(job, split, taken, sums)
    _check_skipped(job, split, final=True)
    record["finished"] = True
    job.save()


def _finish_shard(job: Job, split: SourceSplit, taken: list[Done], sums: Sums) -> None:
    """Write a file of the store, then how far the preparation is; the workers go on meanwhile."""
    record = job.state["splits"][split.name]
    rows = [row for done in taken for row in done.rows]
    skipped = [[name, reason] for done in taken for name, reason in done.skipped]
    if rows:
        name = f"data-{len(record['shards']):05d}.arrow"
        record["shards"].append(
            _write_shard(job.partial / split.name / name, rows, job.source.classes)
        )
    for _, _, label in rows:
        record["per_class"][label] += 1
    record["kept"] += sum(done.kept for done in taken)
    record["skipped"] += skipped
    record["consumed"] += len(rows) + len(skipped)
    old = job.state["sums"]
    if split.name == job.source.splits[0].name:  # statistics are the training split's
        for done in taken:
            sums.merge(done.sums)
        job.state["sums"] = f"sums-{record['consumed']}.npz"
        buffer = io.BytesIO()
        np.savez(buffer, pixels=sums.pixels, products=sums.products, images=sums.images)
        write_whole(job.partial / job.state["sums"], buffer.getvalue())
    job.save()
    if old not in (None, job.state["sums"]):
        (job.partial / old).unlink()
    _check_skipped(job, split, final=False)


def _work(
    job: Job, pool: ThreadPoolExecutor, workers: int, items: Iterator[Item]
) -> Iterator[Done]:
    """Pieces of work in order, some more than the workers in flight; none reaches over a shard's end."""
    waiting: deque[Future[Done]] = deque()
    left = job.settings.shard_images
    while True:
        while len(waiting) < 2 * workers + 1 and (
            piece := list(itertools.islice(items, min(ITEMS_A_TASK, left)))
        ):
            waiting.append(pool.submit(_process, piece, job.source.upright, job.settings))
            left = left - len(piece) or job.settings.shard_images
        if not waiting:
            return
        yield waiting.popleft().result()


def _process(items: list[Item], upright: bool, settings: StoreSettings) -> Done:
    done = Done([], Sums.zero(settings.size_px, np.uint16))
    encoding = settings.settled_encoding()
    images: list[NDArray[np.uint8]] = []
    lossy: list[int] = []
    for item in items:
        try:
            data = item.read()
            rgb = as_stored(data, settings.size_px) if _keeps(data, settings) else None
            if rgb is not None:
                done.kept += 1
            else:
                rgb = centre_square(decode(data, upright, settings.size_px), settings.size_px)
                data = encode(rgb, encoding, settings.quality, settings.chroma)
                if encoding == "jpeg":
                    lossy.append(len(images))
        except (ValueError, OSError) as error:
            done.skipped.append((item.name, str(error)))
            continue
        images.append(rgb)
        done.rows.append((data, item.name, item.label))
    # Statistics are of what training will see: images compressed with loss are read back.
    for number, rgb in zip(
        lossy, _read_back([done.rows[i][0] for i in lossy], settings), strict=True
    ):
        images[number] = rgb
    done.sums.add(images)
    return done


def _keeps(data: bytes, settings: StoreSettings) -> bool:
    """Whether a file may be stored as it is: a JPEG, where no lossless store is asked for.

    The bound keeps a shard of them below 2 GiB, whatever else than an image a file carries.
    """
    return (
        settings.encoding in ("auto", "jpeg") and len(data) <= MOST_BYTES // settings.shard_images
    )


def _read_back(encoded: list[bytes], settings: StoreSettings) -> NDArray[np.uint8]:
    """The pixels of JPEGs written here, (N, size_px, size_px, 3)."""
    out = np.empty((len(encoded), settings.size_px, settings.size_px, 3), np.uint8)
    for number, found in enumerate(decode_jpegs(encoded, out)):
        if not found:  # no compiler, or sides that are no whole blocks
            out[number] = decode(encoded[number])
    return out


def _write_shard(
    path: Path, rows: list[tuple[bytes, str, int]], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Write a file of the store, synced; returns what the manifest says of it."""
    ends = np.cumsum([0, *(len(data) for data, _, _ in rows)], dtype=np.int32)
    buffers = [
        None,
        pa.py_buffer(ends),
        pa.py_buffer(b"".join(data for data, _, _ in rows)),
    ]  # one copy
    pictures = pa.BinaryArray.from_buffers(pa.binary(), len(rows), buffers)
    names = pa.array([name for _, name, _ in rows], pa.string())
    table = pa.table(
        {
            "image": pa.StructArray.from_arrays([pictures, names], fields=list(image_type())),
            "label": pa.array([label for _, _, label in rows], pa.int64()),
        }
    ).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features(classes)}})}
    )
    with path.open("wb") as file:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        file.flush()
        os.fsync(file.fileno())
    return {
        "file": path.name,
        "images": len(rows),
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }


def image_type() -> pa.DataType:
    return pa.struct({"bytes": pa.binary(), "path": pa.string()})


def features(classes: tuple[str, ...]) -> dict[str, Any]:
    """What Hugging Face `datasets` calls the columns."""
    return {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}


def _check_skipped(job: Job, split: SourceSplit, final: bool) -> None:
    record = job.state["splits"][split.name]
    skipped, total = len(record["skipped"]), split.count or record["consumed"]
    if final and record["consumed"] == skipped:
        raise ValueError(
            f"the split {split.name!r} has no readable picture; mend them and remove {job.partial}"
        )
    if (final or split.count) and skipped > job.settings.most_skipped * max(1, total):
        name, reason = record["skipped"][-1]
        raise ValueError(
            f"{skipped} of {total} pictures of {split.name!r} cannot be read, the last of them {name} ({reason}); "
            f"mend them and remove {job.partial}, or allow more with --most-skipped"
        )


def _finish(job: Job) -> dict[str, Any]:
    """Mean image, manifest and the small files `load_from_disk` looks for."""
    source, partial = job.source, job.partial
    sums = job.sums()
    splits = {}
    for split in source.splits:
        record = job.state["splits"][split.name]
        splits[split.name] = {
            "images": sum(record["per_class"]),
            "per_class": record["per_class"],
            "kept": record["kept"],
            "shards": record["shards"],
            "skipped": record["skipped"],
        }
        info = {"features": features(source.classes)}
        about = {
            "_data_files": [{"filename": shard["file"]} for shard in record["shards"]],
            "_fingerprint": record["shards"][0]["sha256"][:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split.name,
        }
        write_whole(partial / split.name / "dataset_info.json", json.dumps(info).encode())
        write_whole(partial / split.name / "state.json", json.dumps(about).encode())
    write_whole(partial / "dataset_dict.json", json.dumps({"splits": list(splits)}).encode())
    with (partial / "mean.npy").open("wb") as file:
        np.save(file, sums.mean())
    manifest = {
        "format": FORMAT,
        "source": source.description,
        "settings": asdict(job.settings) | {"encoding": job.settings.settled_encoding()},
        "classes": list(source.classes),
        "words": list(source.words),
        "splits": splits,
        "mean_rgb": sums.mean().mean((0, 1)).tolist(),
        "covariance": sums.covariance().tolist(),
        "mean_sha256": file_sha256(partial / "mean.npy"),
    }
    write_whole(partial / "manifest.json", json.dumps(manifest, indent=1).encode())
    return manifest
