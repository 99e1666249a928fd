"""`alexnet predict`"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Paths, needs, parse
from alexnet.errors import AlexNetError
from alexnet.program import command
from alexnet.terminal import printable


@dataclass(frozen=True)
class PredictArguments:
    """Print the most probable classes of image files, or of all images in a folder.

    A class whose name is a WordNet id is shown by its words up to the first comma; --json has
    both.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run, or an exported .safetensors file."""
    images: Positional[Annotated[Paths, tyro.conf.arg(metavar="IMAGE...")]]
    """Image files and folders."""
    most: int = 5
    """Number of classes to print for each image."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    json: bool = False
    """Print one JSON object for each image."""


def predict(arguments: list[str]) -> None:
    """Run `alexnet predict`."""
    example = "predict", "runs/mine", "photo.jpg"
    needs(arguments, "a run and its images", *example)
    a = parse(PredictArguments, "predict", arguments)
    needs(a.images, "the images to classify", *example)
    if a.most < 1:
        raise AlexNetError(f"--most is {a.most}; it must be at least 1")
    from alexnet import inference, load
    from alexnet.data.sources.source import is_image

    for path in a.images:
        if (path / "config.json").is_file() and a.run.is_file() and is_image(a.run):
            images = a.run, *(image for image in a.images if image != path)
            raise AlexNetError(f"the run comes first: {command('predict', path, *images)}")
    num_unreadable = 0
    trained = load(a.run, device=a.device)
    names = dict(zip(trained.classes, trained.names, strict=True))
    # Not strict: a store without wnids has no words at all.
    words = dict(zip(trained.classes, trained.words, strict=False))
    for p in inference.predict(trained, a.images, a.most):
        num_unreadable += p.error is not None
        if a.json:
            words_of = {name: words[name] for name, _ in p.classes if words}
            line = {"image": p.file, "classes": dict(p.classes), "words": words_of}
            # Flushed line by line, so that a reader of the pipe sees each image as it is done.
            print(json.dumps(line | {"error": p.error}), flush=True)
        else:
            best = p.error or "  ".join(f"{names[name]} {share:.1%}" for name, share in p.classes)
            print(printable(f"{p.file}: {best}"), flush=True)
    # Raised last: one unreadable file must not cost the predictions for the others.
    if num_unreadable:
        raise AlexNetError(f"{num_unreadable} of the files could not be read as images")
