"""Figures of a run, each a matplotlib Figure for `save`.

They show the network itself (Fig. 2), its first layer (Fig. 3), answers and neighbors (Fig. 4), how
it learned (Fig. 1 and curves), what it confuses, the evidence for a class, and what an untrained
network sees.
"""

from __future__ import annotations

from alexnet.figures.answers import answers, neighbours
from alexnet.figures.errors import MOST_CLASSES, confusion, mistakes
from alexnet.figures.explanation import explanation
from alexnet.figures.filters import filters
from alexnet.figures.learning import curves, signals, single_curves, training_error
from alexnet.figures.network import network
from alexnet.figures.save import check_out, drawn_from, save
from alexnet.figures.style import INK, TRAIN, VAL, run_names
from alexnet.figures.units import units

__all__ = [
    "INK",
    "MOST_CLASSES",
    "TRAIN",
    "VAL",
    "answers",
    "check_out",
    "confusion",
    "curves",
    "drawn_from",
    "explanation",
    "filters",
    "mistakes",
    "neighbours",
    "network",
    "run_names",
    "save",
    "signals",
    "single_curves",
    "training_error",
    "units",
]
