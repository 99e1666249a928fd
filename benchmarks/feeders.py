"""The feed of other data-loading libraries, with the augmentation of folder_loader.py.

python benchmarks/feeders.py webdataset|litdata|dali FOLDER [workers=2] [batch=128]

FOLDER holds the images. They are first converted to the format of the library in a temporary
folder; this is not timed.
"""

import io
import sys
import tarfile
import tempfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import torch
from folder_loader import augmented_crop
from PIL import Image

from benchmarks.worker import serve


def decode_and_augment(data):
    return augmented_crop(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def webdataset(files, folder, workers, batch):
    import webdataset

    shards = [f"{folder}/{number}.tar" for number in range(2 * workers)]
    for number, shard in enumerate(shards):
        with tarfile.open(shard, "w") as tar:
            for file in files[number :: len(shards)]:
                tar.add(file, file.name)
    data = (
        webdataset.WebDataset(shards, shardshuffle=len(shards))
        .shuffle(512)
        .to_tuple("jpg")
        .map_tuple(decode_and_augment)
    )
    loader = webdataset.WebLoader(
        data.batched(batch), batch_size=None, num_workers=workers, persistent_workers=True
    )
    name = f"webdataset {webdataset.__version__}"
    return lambda: sum(len(images) for (images,) in loader), len(files), name


def litdata(files, folder, workers, batch):
    import litdata

    with redirect_stdout(sys.stderr):
        litdata.optimize(
            Path.read_bytes, files, folder, chunk_bytes="64MB", num_workers=workers, verbose=False
        )
    data = litdata.StreamingDataset(folder, shuffle=True, transform=decode_and_augment)
    loader = litdata.StreamingDataLoader(
        data, batch_size=batch, num_workers=workers, persistent_workers=True
    )
    name = f"litdata {litdata.__version__}"
    return lambda: sum(len(images) for images in loader), len(files), name


def dali(files, folder, workers, batch):
    import nvidia.dali
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=batch, num_threads=workers, device_id=None)
    def pipeline():
        jpegs, _ = fn.readers.file(
            files=[str(file) for file in files], random_shuffle=True, name="files"
        )
        crops = fn.crop_mirror_normalize(
            fn.decoders.image(jpegs, device="cpu"),
            crop=(224, 224),
            crop_pos_x=fn.random.uniform(range=(0.0, 1.0)),
            crop_pos_y=fn.random.uniform(range=(0.0, 1.0)),
            mirror=fn.random.coin_flip(),
            mean=[120.0] * 3,
            dtype=types.FLOAT,
            output_layout="CHW",
        )
        return crops + fn.random.normal(stddev=10.0, shape=[3, 1, 1])

    built = pipeline()
    built.build()
    turns = -(-len(files) // batch)
    # All its batches are full: the reader goes on with the first files.
    name = f"DALI {nvidia.dali.__version__}, CPU operators"
    return lambda: [built.run() for _ in range(turns)], turns * batch, name


def main():
    which, folder, *rest = sys.argv[1:]
    options = {"workers": 2, "batch": 128} | {
        key: int(value) for key, value in (a.split("=") for a in rest)
    }
    files = sorted(Path(folder).glob("*.jpg"))
    with tempfile.TemporaryDirectory() as folder:
        run, images, name = {"webdataset": webdataset, "litdata": litdata, "dali": dali}[which](
            files, folder, **options
        )
        serve(
            run,
            images,
            "images",
            f"{name}, {options['workers']} workers, torch {torch.__version__}",
        )


if __name__ == "__main__":
    main()
