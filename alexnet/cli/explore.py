"""`alexnet explore`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import needs, on_disk, parse
from alexnet.errors import AlexNetError
from alexnet.program import command


@dataclass(frozen=True)
class ExploreArguments:
    """Write a page that runs the network in the browser, on images of its reader.

    It opens from disk and loads nothing. It shows every map of every layer, each unit with its
    strongest patches, the normalization, test crops, occlusion, the nearest images.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run, or an exported .safetensors file."""
    out: Path
    """The page: a new .html file; or a new folder, which opens faster if the network is large."""
    data: str = ""
    """Store of its images, with the run's classes; the run's own when not given."""
    split: str = ""
    """Split of the store; the validation split when not given."""
    images: int = 400
    """Number of images, the same of each class; if it is less than the number of classes, one image
    of each of as many classes, at equal distances in their list."""
    units: int = 32
    """Units of each layer that get an image which maximizes them."""
    beside: Annotated[Path | None, tyro.conf.arg(metavar="RUN")] = None
    """Another run, whose snapshots stand beside those of RUN."""
    which: Literal["last", "best"] = "last"
    """The last checkpoint, or the one with the lowest validation error."""
    fetch: bool = False
    """Fetch onnxruntime-web by npm into the user's cache."""
    ort: Path | None = None
    """Folder of onnxruntime-web; the cache when not given."""
    force: bool = False
    """Replace an earlier page."""


def explore(arguments: list[str]) -> None:
    """Run `alexnet explore`."""
    needs(arguments, "a run and the page", "explore", "runs/mine", "--out", "page.html")
    a = parse(ExploreArguments, "explore", arguments)
    for name in ("images", "units"):
        if getattr(a, name) < 1:
            raise AlexNetError(f"--{name} is {getattr(a, name)}; it must be at least 1")
    from alexnet import load
    from alexnet.data.store import Store
    from alexnet.explorer import page, runtime
    from alexnet.files import check_may_write, size
    from alexnet.inference import split_for
    from alexnet.snapshots import growth_beside
    from alexnet.trained import check_classes

    out = on_disk(a.out)
    page.check_out(out, a.force)
    check_may_write(out)
    if a.fetch:
        runtime.fetch()
    ort = runtime.read(a.ort, command("explore", *arguments, "--fetch"))
    other_growth = growth_beside(a.run, a.beside) if a.beside else None
    trained = load(a.run, a.which, device="cpu")
    if a.data:
        # The page shows the labels of the images under the names of the run's classes.
        check_classes(trained, Store(a.data), a.run, or_numbered=True)
    split = split_for(trained, a.data, a.split)
    if page.is_file(out) and (of_weights := page.weight_bytes(trained)) > page.LARGE_BYTES:
        folder = out.with_suffix("")
        print(f"the network has {size(of_weights)}; a folder opens faster: --out {folder}")
    num_bytes = page.write(trained, split, a.run, out, ort, a.images, a.units, other_growth)
    opened = "it" if page.is_file(out) else out / page.INDEX
    print(f"{out}: {size(num_bytes)}; open {opened} in a browser, it needs no network")
