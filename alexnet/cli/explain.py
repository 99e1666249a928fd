"""`alexnet explain`"""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Paths, needs, on_disk, parse
from alexnet.errors import AlexNetError, DataError
from alexnet.files import check_may_write
from alexnet.terminal import printable


@dataclass(frozen=True)
class ExplainArguments:
    """Draw what in an image is evidence for its class, and the predictions for its test crops.

    One figure for each image, NAME-explain.png. The methods are gradient, integrated-gradients,
    smoothgrad, occlusion, grad-cam and deconvnet.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run, or an exported .safetensors file."""
    images: Positional[Annotated[Paths, tyro.conf.arg(metavar="IMAGE...")]]
    """Image files and folders."""
    methods: str = "all"
    """Names of methods, separated by commas, or all."""
    target: str = ""
    """Class to explain; the one that is predicted when not given."""
    out: Path | None = None
    """Folder of the figures, which is made if it does not exist; that of the run when not given."""
    json: bool = False
    """Print one JSON object for each image, with the values that are drawn."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""


def explain(arguments: list[str]) -> None:
    """Run `alexnet explain`."""
    example = "explain", "runs/mine", "photo.jpg"
    needs(arguments, "a run and its images", *example)
    a = parse(ExplainArguments, "explain", arguments)
    needs(a.images, "the images to explain", *example)
    # As `figure` does. An exported file is no folder, and may lie anywhere.
    out = on_disk(a.out or (Path() if a.run.is_file() else a.run))
    if out.exists() and not out.is_dir():
        raise AlexNetError(f"{out} is not a folder; name another one with --out")
    from alexnet import explain as explaining
    from alexnet import figures, load
    from alexnet.data.sources.source import readable
    from alexnet.inference import image_files, read_image

    trained = load(a.run, device=a.device)
    methods = explaining.methods_of(trained, a.methods)
    label = explaining.label_of(trained, a.target) if a.target else None
    files = image_files(a.images)
    num_unreadable = 0
    # Not before the run and the files are found.
    out.mkdir(parents=True, exist_ok=True)
    outputs = _outputs(files, out)
    check_may_write(outputs[0])
    for file, path in zip(files, outputs, strict=True):
        try:
            image = read_image(file, trained.preprocess.stored_px)
        except DataError as error:
            print(printable(f"alexnet: {error}"), file=sys.stderr)
            num_unreadable += 1
            continue
        explained = explaining.explain(trained, image, methods, label)
        name = readable(str(file))
        figure = figures.explanation(explained, trained.names, Path(name).name)
        figures.save(figure, path, _source(file))
        if a.json:
            facts = {"image": name, "figure": readable(str(path))}
            print(json.dumps(facts | explaining.to_dict(explained, trained.classes)), flush=True)
        else:
            share = explained.answers.average[explained.label]
            answer = f"{trained.names[explained.label]} {share:.1%}"
            print(printable(f"{name}: {answer}  {readable(str(path))}"), flush=True)
    # Raised last: one unreadable file must not cost the explanations of the others.
    if num_unreadable:
        raise AlexNetError(f"{num_unreadable} of the files could not be read as images")


def _outputs(files: list[Path], out: Path) -> list[Path]:
    """Return the figure of each file; files of the same name in two folders get a number.

    A figure of an earlier call is replaced by that of the same file only.
    """
    from alexnet.figures import drawn_from

    paths: list[Path] = []
    for file in files:
        numbered = (f"{file.stem}-{number}" for number in itertools.count(2))
        candidates = (
            out / f"{name}-explain.png" for name in itertools.chain([file.stem], numbered)
        )
        mine = (None, _source(file))
        paths.append(next(p for p in candidates if p not in paths and drawn_from(p) in mine))
    return paths


def _source(file: Path) -> str:
    from alexnet.data.sources.source import readable

    return readable(str(file.resolve()))
