"""`alexnet explore`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import on_disk, parse
from alexnet.errors import AlexNetError
from alexnet.program import command


@dataclass(frozen=True)
class ExploreArguments:
    """Write a page that runs the network in the browser, on images of its reader.

    The page is one file, which opens from disk and loads nothing. It shows every map of every
    layer, each unit with its strongest patches, the normalization, the test crops, occlusion, and
    the nearest images of a store.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run, or an exported .safetensors file."""
    out: Path
    """The page, a new .html file."""
    data: str = ""
    """Store of the images in the page; the run's own when not given."""
    split: str = ""
    """Split of the store; the run's validation split when not given."""
    images: int = 400
    """Number of images of the split in the page, the same of each class."""
    units: int = 32
    """For how many units of a layer, at most, an image is made that maximizes them."""
    which: Literal["last", "best"] = "last"
    """The last checkpoint, or the one with the lowest validation error."""
    fetch: bool = False
    """Fetch onnxruntime-web by npm into the user's cache, if it is not there."""
    ort: Path | None = None
    """Folder with the files of onnxruntime-web; the user's cache when not given."""
    force: bool = False
    """Replace an earlier page."""


def explore(arguments: list[str]) -> None:
    """Run `alexnet explore`."""
    if not arguments:
        raise AlexNetError(
            "name a run and the page, for example: "
            f"{command('explore', 'runs/mine', '--out', 'page.html')}"
        )
    a = parse(ExploreArguments, "explore", arguments)
    for name in ("images", "units"):
        if getattr(a, name) < 1:
            raise AlexNetError(f"--{name} is {getattr(a, name)}; it must be at least 1")
    from alexnet import load
    from alexnet.explorer import page, runtime
    from alexnet.files import check_folder_of, size
    from alexnet.inference import split_for

    out = on_disk(a.out)
    page.check_out(out, a.force)
    check_folder_of(out)
    if a.fetch:
        runtime.fetch()
    ort = runtime.read(a.ort, command("explore", a.run, "--out", out, "--fetch"))
    trained = load(a.run, a.which, device="cpu")
    split = split_for(trained, a.data, a.split)
    num_bytes = page.write(trained, split, a.run, out, ort, a.images, a.units)
    print(f"{out}: {size(num_bytes)}; open it in a browser, it needs no network")
