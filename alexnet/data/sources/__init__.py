"""Sources of labeled images: a module for each format, and `find`, which tells the formats apart.

A source is a value. It has the names of the classes, and splits that yield their items in a fixed
order from any item on, so that an interrupted preparation can resume. Whatever form ImageNet comes
in, its classes are the wnids in alphabetical order, with words beside them: a run trained on one
form can be evaluated on every other.
"""

from alexnet.data.sources.recognise import find, image_folders
from alexnet.data.sources.source import (
    InHand,
    Item,
    Source,
    SourceSplit,
    files_below,
    is_image,
    may_be_image,
    notes_on_left_out,
)

__all__ = [
    "InHand",
    "Item",
    "Source",
    "SourceSplit",
    "files_below",
    "find",
    "image_folders",
    "is_image",
    "may_be_image",
    "notes_on_left_out",
]
