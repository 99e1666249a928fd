"""Where labelled images come from: a module for each format, and `find`, which tells them apart.

A source is a value: class names, and splits that yield their items in a fixed order from any item
on, so that an interrupted preparation can take up again. Whatever form ImageNet comes in, its
classes are the wnids in alphabetical order with words beside them: a run trained on one form
evaluates on every other.
"""

from alexnet.data.sources.recognise import find
from alexnet.data.sources.source import PICTURES, Item, Source, SourceSplit, in_hand

__all__ = ["PICTURES", "Item", "Source", "SourceSplit", "find", "in_hand"]
