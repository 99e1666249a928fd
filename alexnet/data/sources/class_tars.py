"""A tar file for each class, named by wnid: the Fall 2011 release of ImageNet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alexnet.data.classes import are_wnids, words_beside
from alexnet.data.sources.source import Options, Row, Source, is_image, streamed_with_val
from alexnet.data.sources.tars import members, open_tar


def class_tars(folder: Path, options: Options | None = None) -> Source:
    """The tars' names are the classes; of each, `val_fraction` of the images are held out.

    Files in a tar that are no images by their name are passed over. Raises ValueError for fewer
    than two tars.
    """
    options = options or Options()
    tars = sorted(folder.glob("*.tar"), key=lambda path: path.stem)
    if len(tars) < 2:
        raise ValueError(
            f"{folder} has {len(tars)} tar files; one for each of at least 2 classes is needed"
        )

    def rows() -> Iterator[Row]:
        for label, path in enumerate(tars):
            with open_tar(path) as tar:
                for member, read in members(tar):
                    if is_image(member.name):
                        yield member.name, label, read

    classes = tuple(path.stem for path in tars)
    return Source(
        f"class tars {folder}, {options.val_fraction} of them val",
        classes,
        streamed_with_val(rows, options),
        words=words_beside(classes, (folder, folder.parent)) if are_wnids(classes) else (),
    )
