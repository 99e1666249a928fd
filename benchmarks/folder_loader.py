"""A folder of the same JPEG files read as one does: a data set of Pillow images, crop, flip, a DataLoader.

python benchmarks/folder_loader.py FOLDER [workers=2] [batch=128]: FOLDER holds the pictures.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from alexnet.bench.serve import serve

MEAN, DEVIATION = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]


class Folder(Dataset):
    def __init__(self, folder):
        self.files = sorted(Path(folder).glob("*.jpg"))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        image = Image.open(self.files[index]).convert("RGB")
        left, top = random.randint(0, image.width - 224), random.randint(0, image.height - 224)
        image = image.crop((left, top, left + 224, top + 224))
        if random.random() < 0.5:
            image = ImageOps.mirror(image)
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return (x - MEAN) / DEVIATION


def main():
    given = {"workers": 2, "batch": 128} | dict(a.split("=") for a in sys.argv[2:])
    data = Folder(sys.argv[1])
    loader = DataLoader(
        data, int(given["batch"]), shuffle=True, num_workers=int(given["workers"]), persistent_workers=True
    )

    def run():
        for _ in loader:
            pass

    serve(run, len(data), "images", f"torch {torch.__version__}, Pillow, {given['workers']} workers")


if __name__ == "__main__":
    main()
