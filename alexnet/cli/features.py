"""`alexnet features`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import on_disk, parse


@dataclass(frozen=True)
class FeaturesArguments:
    """Write the activations of layers for the center crop of every image of a store or folder.

    The output folder holds LAYER.npy for each layer, one row for each image; names.txt; for a
    store, labels.npy; and about.json, which says what the values are.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run, or a .safetensors file such as RUN/best.safetensors."""
    data: str
    """Prepared store, or a folder of images."""
    out: Path
    """New folder for the output."""
    layer: str = "fc7"
    """Names of the layers, separated by commas (conv5,fc7), or all. conv1 is the value after the
    activation, conv1.linear the convolution alone; Caffe's names (norm1, pool5) work too, and
    torchvision's (features.2) for a network of that form."""
    split: str = ""
    """Split of the store; the run's validation split when not given."""
    device: str = "auto"
    """auto, cpu, cuda or mps. On CUDA the values have the precision of the training; cpu computes
    float32."""


def features(arguments: list[str]) -> None:
    """Run `alexnet features`."""
    a = parse(FeaturesArguments, "features", arguments)
    from alexnet import inference, load

    trained = load(a.run, device=a.device)
    layers = inference.layer_names(trained, a.layer)
    count = inference.features(trained, layers, a.data, on_disk(a.out), a.split)
    # As `inference.features` writes them: the name of a layer can begin with a slash.
    for path in (Path(f"{a.out}/{layer}.npy") for layer in layers):
        print(f"{path}: {count} images")
    if (a.out / inference.LABELS_FILE).exists():
        print(f"{a.out / inference.LABELS_FILE}: their classes, as numbers")
