"""A folder of JPEG files read by a plain Dataset with Pillow and a DataLoader.

python benchmarks/folder_loader.py FOLDER [workers=2] [batch=128]

FOLDER holds the images. The augmentation is that of section 4.1, in NumPy: a random crop minus the
mean, a random reflection, and a colour shift along three directions.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from benchmarks.worker import serve

MEAN = np.full((256, 256, 3), 120, np.float32)
DIRECTIONS = np.random.default_rng(0).normal(0, 10, (3, 3)).astype(np.float32)


def augmented_crop(image):
    """Augment an image: (256, 256, 3) uint8 to (3, 224, 224) float32."""
    top, left, mirror = np.random.randint(33), np.random.randint(33), np.random.randint(2)
    window = slice(top, top + 224), slice(left, left + 224)
    x = image[window].astype(np.float32) - MEAN[window]
    x += np.random.normal(0, 0.1, 3).astype(np.float32) @ DIRECTIONS
    if mirror:
        x = np.ascontiguousarray(x[:, ::-1])
    return torch.from_numpy(x).permute(2, 0, 1)


class Folder(Dataset):
    def __init__(self, folder):
        self.files = sorted(Path(folder).glob("*.jpg"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return augmented_crop(np.asarray(Image.open(self.files[index]).convert("RGB")))


def main():
    options = {"workers": 2, "batch": 128} | dict(a.split("=") for a in sys.argv[2:])
    data = Folder(sys.argv[1])
    loader = DataLoader(
        data,
        int(options["batch"]),
        shuffle=True,
        num_workers=int(options["workers"]),
        persistent_workers=True,
    )

    def run():
        for _ in loader:
            pass

    serve(
        run, len(data), "images", f"torch {torch.__version__}, Pillow, {options['workers']} workers"
    )


if __name__ == "__main__":
    main()
