"""`alexnet import`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import on_disk, parse
from alexnet.program import command


@dataclass(frozen=True)
class ImportArguments:
    """Make a run from the weights of another program, with its own preprocessing.

    It reads what `alexnet which` reads. The run takes images as any run does: where a network is
    for B, G, R, the channels of conv1's filters are reversed.
    """

    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """The file of weights."""
    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """New folder of the run."""
    net: str = ""
    """The network, where the weights do not tell several apart; `alexnet which` names them."""
    classes: str = ""
    """File with a class on each line, such as Caffe's synset_words.txt, or a store with the same
    classes; when not given, those in the file, or class 0, class 1, ..."""
    mean: Path | None = None
    """Mean to subtract, .binaryproto or .npy; the file's own or its program's when not given."""
    channels: Literal["auto", "rgb", "bgr"] = "auto"
    """Order of the channels that the network was trained with; auto: that of its program."""
    dropout: Literal["2012", "inverted"] | None = None
    """Form in training of weights alone: 2012 halves fc6 and fc7 at test; inverted when not
    given."""
    input_px: int | None = None
    """Side of the input in pixels, where the file does not say."""


def import_(arguments: list[str]) -> None:
    """Run `alexnet import`."""
    a = parse(ImportArguments, "import", arguments)
    from alexnet.data.classes import numbered
    from alexnet.weights.importing import import_weights

    about = import_weights(
        a.file, on_disk(a.run), a.net, a.classes, a.mean, a.channels, a.dropout, a.input_px
    )
    came = about["imported"]
    print(f"{a.run}: {came['network']}, {len(about['classes'])} classes")
    print(f"  mean: {came['mean']}; channels of the file: {came['channels']}")
    print(f"  fc6 and fc7: {came['dropout']}")
    if came["scale_in_conv1"]:
        factors = ", ".join(f"{factor:g}" for factor in came["scale_in_conv1"])
        print(f"  scale: the file multiplies images by {factors}; the filters of conv1 do it here")
    if about["classes"] == numbered(len(about["classes"])):
        print("  classes: not named; give --classes FILE to evaluate it on a store")
    print(f"  next: {command('predict', str(a.run), 'IMAGE...')}")
