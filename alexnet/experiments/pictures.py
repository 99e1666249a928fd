"""The figures of all records with their captions, for the page and beside the document."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from alexnet.experiments.drawings import bars, by_images, crossing, ladder
from alexnet.experiments.measures import OF_TEST_ERROR
from alexnet.experiments.record import Record, where
from alexnet.experiments.table import mark_in_words, table_rows

BY_IMAGES = (
    "What dropout, random crops and color noise are worth with so many training images, at the "
    "same number of presentations: differences of the error with the center crop. Above the line "
    "the network without it errs more. "
)
MEANS = "A point is the mean over seeds, with its 95 % interval."
SINGLE = "A point is one pair of runs: there is no interval."

LADDER = (
    "Error with the center crop, from above: one column, then each later setting on top of those "
    "that are kept. Hollow points are settings that the rows below do not have. "
)
ONE_RUN = "A point is one run: there is no interval."
SEVERAL_RUNS = "Small points are seeds, large ones their means."


@dataclass(frozen=True)
class Picture:
    """A figure of some records.

    Attributes:
        title: Its heading.
        figure: The figure.
        caption: What it shows, in sentences.
        source: SHA-256 of its words, points and lines, by which a file tells whether it has them.
    """

    title: str
    figure: Figure
    caption: str
    source: str

    @property
    def file(self) -> str:
        """Name of its file beside the document."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-") + ".png"


def _picture(title: str, figure: Figure, caption: str) -> Picture:
    words = [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text)]
    # To a millionth, since the last bits of a mean depend on the processor.
    lines = [
        [np.asarray(line.get_xydata()).round(6).tolist(), str(line.get_markerfacecolor())]
        for axes in figure.axes
        for line in axes.lines
    ]
    source = hashlib.sha256(json.dumps([words, lines]).encode()).hexdigest()
    return Picture(title, figure, caption, source)


def pictures(records: Sequence[Record]) -> list[Picture]:
    """The figures of records. Those that have no data are left out."""
    made: list[Picture] = []
    for record in records:
        # Figure 1 compares two arms by epoch; only the claim on ReLU has such curves.
        if record.claim.id == "relu":
            title = f"Figure 1: ReLU against tanh ({where(record.raw)})"
            made.append(_picture(title, crossing(record), _crossing_text(record)))
    # Bars can be compared only if they have one unit, and need an interval.
    points = [
        (record, row)
        for record in records
        if not record.claim.many_parts
        for row in record.rows
        if row.effect.measure in OF_TEST_ERROR and row.estimate.low is not None
    ]
    if points:
        caption = (
            "Differences of test error: the mean over seeds and its 95 % interval. To the right of "
            "the line the first of the two errs more. The diamonds are the paper's own numbers, at "
            f"its own scale.{mark_in_words(row for _, row in points)}"
        )
        made.append(_picture("What each part is worth", bars(points), caption))
    for record in records:
        if record.claim.numbers_of_images:
            caption = BY_IMAGES + (SINGLE if record.rows[0].estimate.low is None else MEANS)
            title = "Overfitting: the number of images"
            made.append(_picture(title, by_images(record), caption))
        if record.claim.id == "ladder":
            title = f"What later settings are worth ({where(record.raw)})"
            single = all(row.estimate.n == 1 for row in record.rows)
            caption = LADDER + (ONE_RUN if single else SEVERAL_RUNS)
            made.append(_picture(title, ladder(record), caption))
    return made


def _crossing_text(record: Record) -> str:
    (row,) = table_rows([record])
    return (
        "Error over the whole training set after each epoch, one line for each seed. The net with "
        f"tanh needs {row.ours} times as many epochs to reach the 25 % line (a lower bound where "
        f"it is never reached). The paper says 6: {row.full_verdict}."
    )
