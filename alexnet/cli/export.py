"""`alexnet export`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import parse
from alexnet.errors import AlexNetError
from alexnet.files import check_folder_of


@dataclass(frozen=True)
class ExportArguments:
    """Write the weights of a run as safetensors, or the whole network as ONNX.

    The ONNX network takes RGB values from 0 to 255 and returns probabilities.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run."""
    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """New file; its suffix, .onnx or .safetensors, selects the format."""
    which: Literal["last", "best"] = "last"
    """The last checkpoint, or the one with the lowest validation error."""


def export(arguments: list[str]) -> None:
    """Run `alexnet export`."""
    a = parse(ExportArguments, "export", arguments)
    from alexnet import checkpoint, export, load

    if a.file.exists():
        raise AlexNetError(f"{a.file} exists; choose another name")
    # Before the network is loaded and checked, which takes seconds.
    check_folder_of(a.file)
    if a.file.suffix == ".onnx":
        export.write_onnx(load(a.run, a.which), a.file)
    elif a.file.suffix == ".safetensors":
        # The empty dict stands for the velocity, which only a run that continues needs.
        saved = checkpoint.read(a.run, a.which)
        checkpoint.write(a.file, saved.weights, {}, saved.mean, saved.about)
    else:
        raise AlexNetError(f"{a.file} ends in neither .onnx nor .safetensors")
    print(a.file)
