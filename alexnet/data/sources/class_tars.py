"""One tar file per class, named by wnid: the Fall 2011 release of ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alexnet.data.classes import ClassList, with_words
from alexnet.data.sources.source import Options, Source, StreamedImage, is_image, streamed_with_val
from alexnet.data.sources.tars import open_tar, visible
from alexnet.errors import DataError


def class_tars(folder: Path, options: Options = Options()) -> Source:
    """Read a folder of tars whose names are the classes; hold out `val_fraction` of each.

    Files in a tar that are not images, to judge by their names, or are hidden are skipped.

    Raises:
        DataError: If there are fewer than two tars; as the items are read, if a tar is damaged or
            has no images.
    """
    # By the name without its suffix, because that is the class.
    tars = sorted(folder.glob("[!.]*.tar"), key=lambda path: path.stem)
    if len(tars) < 2:
        raise DataError(
            f"{folder} has {len(tars)} tar files; at least 2 are needed, one for each class"
        )

    def rows() -> Iterator[StreamedImage]:
        # One tar after the other: an item's place in the order must not change between runs.
        for label, path in enumerate(tars):
            count = 0
            with open_tar(path) as members:
                for member in visible(members):
                    if is_image(member.name):
                        count += 1
                        yield member.name, label, member.read
            if not count:
                raise DataError(f"{path} has no images; remove it or fill it")

    catalogue = with_words(ClassList(tuple(path.stem for path in tars)), folder)
    return Source(
        f"class tars {folder}, {options.val_fraction} of them val",
        catalogue.classes,
        streamed_with_val(rows, options),
        words=catalogue.words,
    )
