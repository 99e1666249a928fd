"""`alexnet golden`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import on_disk, parse


@dataclass(frozen=True)
class GoldenArguments:
    """Write what every layer computes for one image, as a reference for hardware.

    OUT gets the input and output of every operation for the center crop: as .npy, as raw float32
    and as raw int8 with scales; and golden.json, with shapes, layouts, settings and checksums.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run."""
    image: Positional[Annotated[Path, tyro.conf.arg(metavar="IMAGE")]]
    """Image file."""
    out: Positional[Annotated[Path, tyro.conf.arg(metavar="OUT")]]
    """New folder for the output."""
    layer: str = "all"
    """Names of operations, separated by commas (conv2.linear,conv2.lrn), or all. `alexnet summary
    RUN` lists them."""
    weights: bool = False
    """Write the weights and biases of these layers, too."""
    which: Literal["last", "best"] = "last"
    """The last checkpoint, or the one with the lowest validation error."""
    force: bool = False
    """Replace an OUT that this verb has written."""


def golden(arguments: list[str]) -> None:
    """Run `alexnet golden`."""
    a = parse(GoldenArguments, "golden", arguments)
    from alexnet import golden as vectors
    from alexnet import load

    # Before the network is loaded, which takes seconds.
    vectors.check_out(on_disk(a.out), a.force)
    trained = load(a.run, a.which, device="cpu")
    manifest = vectors.write(trained, a.image, a.out, a.layer, a.weights, a.force)
    values, numbers = vectors.count(manifest)
    print(f"{a.out}: {values} values, {numbers:,} numbers, each as .npy, float32 and int8")
    print(f"{a.out / vectors.MANIFEST}: {len(manifest['layers'])} operations")
    print(f"the center crop of {a.image.name} is {manifest['answer']!r} to this network")
