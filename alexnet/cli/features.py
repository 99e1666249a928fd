"""`alexnet features`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import parse


@dataclass(frozen=True)
class FeaturesArguments:
    """Write the activations of a layer for every image of a store or folder.

    The output folder holds LAYER.npy, one row for each image, and names.txt.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run."""
    data: str
    """Prepared store, or a folder of images."""
    out: Path
    """New folder for the output."""
    layer: str = "fc7"
    """Name of the layer."""
    split: str = "val"
    """Split of the store."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def features(arguments: list[str]) -> None:
    """Run `alexnet features`."""
    a = parse(FeaturesArguments, "features", arguments)
    from alexnet import inference, load

    count = inference.features(load(a.run, device=a.device), a.layer, a.data, a.out, a.split)
    print(f"{a.out}/{a.layer}.npy: {count} images")
