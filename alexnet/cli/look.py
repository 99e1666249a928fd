"""`alexnet look`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import on_disk, parse
from alexnet.errors import AlexNetError
from alexnet.program import command


@dataclass(frozen=True)
class LookArguments:
    """Show what a store contains: its facts on the terminal, and a figure with images.

    The figure has images of up to ten classes with their labels, and the number of images of each
    class and split. Nothing is written into the store.
    """

    store: Positional[Annotated[str, tyro.conf.arg(metavar="STORE")]]
    """Folder or URL of the store."""
    out: Path | None = None
    """Image file; NAME-look.png in the current folder when not given, with the store's name."""


def look(arguments: list[str]) -> None:
    """Run `alexnet look`."""
    a = parse(LookArguments, "look", arguments)
    if (Path(a.store) / "config.json").is_file():
        from alexnet.checkpoint import read_config

        data = read_config(Path(a.store)).data
        images = f"its images are shown by: {command('look', data)}" if data else "it has no store"
        raise AlexNetError(f"{a.store} is a run; {images}")
    from alexnet import figures
    from alexnet import look as looking
    from alexnet.data.store import Store

    # Not in the store or beside it: that may be a URL or a folder that cannot be written.
    out = on_disk(a.out or Path(f"{Path(a.store).resolve().name}-look.png"))
    # Before the store is read, as `figure` does before it draws.
    figures.check_out(out)
    store = Store(a.store)
    known, figure = looking.look(store)
    width = max(len(name) for name, _ in known)
    for name, text in known:
        print(f"{name:{width}}  {text}")
    figures.save(figure, out)
    print(f"{'figure':{width}}  {out}")
