"""Take the activations of any layer for a folder of images, and draw them.

    python examples/look_at_features.py RUN IMAGES OUT --layer conv1

OUT gets LAYER.npy, one row for each image, names.txt with the file names in the same order, and
LAYER.png, the channels of the first image. `alexnet summary RECIPE` lists the layers.
"""

import argparse
import sys
from pathlib import Path

import matplotlib
import numpy as np

import alexnet
from alexnet.errors import AlexNetError
from alexnet.inference import layer_names

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layer", default="conv1")
    a = parser.parse_args()

    trained = alexnet.load(a.run)
    a.layer, *others = layer_names(trained, a.layer)  # norm1 is our conv1.lrn
    if others:
        parser.error("--layer takes one layer")
    count = alexnet.features(trained, a.layer, a.images, a.out)
    values = np.load(a.out / f"{a.layer}.npy")  # (N, C, H, W), or (N, units) where fully connected
    print(f"{a.layer}: {count} images, {values[0].shape} each, {np.mean(values == 0):.0%} zeros")

    # The channels of the first image, or one matrix of images by units where fully connected.
    panels = values[0] if values.ndim == 4 else values[None]
    columns = min(16, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(columns, 6), max(rows, 2)), squeeze=False
    )
    for ax in axes.flat:
        ax.axis("off")
    for ax, panel in zip(axes.flat, panels, strict=False):
        ax.imshow(panel, cmap="gray", aspect="auto")
    figure.savefig(a.out / f"{a.layer}.png")
    plt.close(figure)


if __name__ == "__main__":
    try:
        main()
    except AlexNetError as error:
        print(f"look_at_features.py: {error}", file=sys.stderr)
        sys.exit(2)
