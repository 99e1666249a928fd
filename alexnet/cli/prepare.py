"""`alexnet prepare`"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Names, on_disk, parse
from alexnet.config import MEMORY_GIB, StoreSettings
from alexnet.errors import DataError
from alexnet.files import check_outside
from alexnet.program import command
from alexnet.terminal import printable

FEW_IMAGES = 20_000
"""With fewer, a small network is advised as well."""


@dataclass(frozen=True)
class PrepareArguments:
    """Make a store from a source of labeled images.

    Each image is rescaled by its shorter side and its central square is kept (section 2). The mean
    image and the color statistics are computed in the same pass.

    SOURCE is the archives of ILSVRC-2012 or ILSVRC-2010, Kaggle's ImageNet, tiny-imagenet-200, one
    folder for each class, a flat folder with a table of labels, Parquet files, WebDataset archives,
    one tar for each class, the binary files of CIFAR-10, or the name of a Hugging Face data set.
    """

    source: Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
    """Where the images are."""
    store: Positional[Annotated[Path, tyro.conf.arg(metavar="STORE")]]
    """New folder for the store."""
    val_fraction: float = 0.1
    """Share of the images held out where folders, tables or tars have no validation split."""
    splits: Names = ()
    """Splits to prepare, train among them; all splits with labels when not given."""
    settings: Annotated[StoreSettings, tyro.conf.arg(name="")] = field(
        default_factory=StoreSettings
    )
    workers: int = 0
    """Number of threads; 0: one for each core."""
    force: bool = False
    """Replace an existing store."""
    ignore_disk: bool = False
    """Start even if the disk seems too small."""
    memory_gib: float = MEMORY_GIB
    """Memory in GiB for the images that all threads decode at one time. A larger image is decoded
    alone; the store is the same in any case."""


def prepare(arguments: list[str]) -> None:
    """Run `alexnet prepare`."""
    a = parse(PrepareArguments, "prepare", arguments)
    from alexnet.data import prepare as preparation
    from alexnet.data import sources
    from alexnet.data.notes import in_words
    from alexnet.data.store_folder import StoreFolder

    # Checked before the source is read, which may take minutes.
    folder = on_disk(a.store)
    StoreFolder(folder).check_early(a.force)
    check_outside(folder, sources.image_folders(a.source), "choose a place elsewhere for the store")
    # Only with --force; any other folder that exists has been refused above.
    inside = Path(a.source).resolve().is_relative_to(folder.resolve())
    if folder.exists() and Path(a.source).exists() and inside:
        raise DataError(
            f"--force would remove {a.source} with the store {folder}; choose another name for the "
            "new store"
        )
    source = sources.find(a.source, a.val_fraction, a.splits)
    for note in source.notes:
        print(printable(note), flush=True)
    manifest = preparation.prepare(
        source,
        folder,
        a.settings,
        a.workers,
        a.force,
        a.ignore_disk,
        a.memory_gib,
        arguments=arguments,
    )
    size_px = manifest["settings"]["size_px"]
    print(f"{a.store}: {len(manifest['classes'])} classes, {size_px} pixels a side")
    print("\n".join(map(printable, in_words(manifest, source.notes))))
    print(f"look at it:  {command('look', a.store)}")
    images = sum(split["images"] for split in manifest["splits"].values())
    few = images < FEW_IMAGES and Path(a.source).is_dir()
    train_images = manifest["splits"]["train"]["images"]
    recipe = _recipe_for(size_px, train_images)
    # A full-size network takes hours for so few, and the small one does not see 256 pixels.
    if few and recipe == "original":
        print(f"train a small network in minutes: {command('train', a.source)}")
    if recipe:
        train = command("train", recipe, "--data", a.store, "--out", f"runs/{folder.name}")
        what = "or the paper's, in hours" if few and recipe == "original" else "train on it"
        print(f"{what}: {train}")


def _recipe_for(size_px: int, images: int) -> str | None:
    """Return a recipe for a store: `original` where it fits, else what `alexnet train FOLDER` would
    take, else a CIFAR-10 recipe that fits; None if none does.

    Args:
        size_px: Side of the stored images.
        images: Number of training images.
    """
    from alexnet import own_images, recipes

    small = own_images.recommended(size_px, images)
    tried = recipes.original(), small, recipes.cifar_26(), recipes.cifar_11()
    config = own_images.fitting(size_px, tried)
    return config.recipe if config else None
