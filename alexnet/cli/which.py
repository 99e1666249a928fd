"""`alexnet which`"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import parse
from alexnet.errors import AlexNetError
from alexnet.terminal import printable


@dataclass(frozen=True)
class WhichArguments:
    """Say which AlexNet a file of weights is, and where it differs from others.

    Files: PyTorch's .pth, .safetensors, NumPy's .npz and .npy, ONNX, Caffe's .caffemodel, and
    checkpoints of this program. No code from the file is run. What the weights alone cannot tell is
    said to be unknown.
    """

    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """The file, or the folder of a run."""
    json: bool = False
    """Print JSON."""


def which(arguments: list[str]) -> None:
    """Run `alexnet which`."""
    a = parse(WhichArguments, "which", arguments)
    # Before PyTorch is imported, which takes seconds.
    if not a.file.exists():
        raise AlexNetError(f"{a.file} does not exist")
    from alexnet import checkpoint
    from alexnet.card import of_checkpoint
    from alexnet.weights.facts import in_words, of_identity, table
    from alexnet.weights.files import read
    from alexnet.weights.identify import identify

    path = a.file / "last.safetensors" if (a.file / "config.json").is_file() else a.file
    file = read(path)
    if checkpoint.ABOUT in file.metadata:
        about = of_checkpoint(path)
        lines = [f"{path}: a run of this program, recipe {about['recipe']}"]
        lines += table([(key.replace("_", " "), str(value)) for key, value in about.items()])
    else:
        identity = identify(file)
        about, lines = of_identity(identity), in_words(identity)
    print(json.dumps(about) if a.json else "\n".join(map(printable, lines)))
