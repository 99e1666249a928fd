"""One self-contained HTML page of all records: `alexnet reproduce --report FILE.html`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from alexnet import figures
from alexnet.diagnostics import colourfulness, orientedness
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.document import NOT_RUN, not_run, reading
from alexnet.experiments.measures import apart
from alexnet.experiments.pictures import pictures
from alexnet.experiments.record import Record
from alexnet.experiments.records import OWN
from alexnet.experiments.table import (
    no_records,
    published,
    standing,
    table_rows,
)
from alexnet.trained import load
from alexnet.web_page import templates

Section = tuple[str, list[tuple[Figure, str]]]
"""A heading, and figures with their captions."""


def page(records: Sequence[Record], runs: Sequence[Path] = (), folder: Path = OWN) -> str:
    """The whole page: first the figures, then the table, then each claim.

    Args:
        records: As `records.read` gives them.
        runs: Trained runs; the first is shown with its filters, answers and neighbors.
        folder: Where the records were read; the page names it if there are none.

    Raises:
        ValueError: For a folder that is not a run, or a run whose store is gone.
    """
    environment = templates(Path(__file__).parent)
    environment.filters["inline"] = _inline
    return environment.get_template("report.html.jinja").render(
        rows=list(table_rows(records)),
        standing=standing(records),
        reading=reading(records).split("\n\n"),
        figures=[
            *((one.title, [(one.figure, one.caption)]) for one in pictures(records)),
            *(_sections_of_runs(records, runs) if runs else ()),
        ],
        claims=[
            (claim, [record for record in records if record.claim is claim]) for claim in CLAIMS
        ],
        no_records=no_records(folder),
        NOT_RUN=NOT_RUN,
        not_run=not_run,
        published=published,
        table_rows=table_rows,
    )


def _sections_of_runs(records: Sequence[Record], runs: Sequence[Path]) -> list[Section]:
    """Figures 3 and 4 of the first run, and the signals and curves of all runs."""
    first, net = runs[0], load(runs[0]).net
    run_names = figures.run_names(runs)
    name = run_names[0]
    # Before the colors are measured: it refuses a first layer that has no filters.
    filters = figures.filters(net)
    indices = [
        f"column {number}: color {mean(colour):.2f}, orientation {mean(oriented):.2f}"
        for number, (colour, oriented) in enumerate(
            zip(colourfulness(net), orientedness(net), strict=True), 1
        )
    ]
    caption = (
        f"The filters of the first layer of {name}. Color is the share of a filter's energy "
        "that is not gray; orientation is the coherence of its gradients. Both lie between 0 and "
        f"1. Means: {'; '.join(indices)}. {_specialising(records)}"
    )
    answers = f"Eight validation images, their class, and the five most probable classes by {name}."
    near = (
        "Five validation images; each row shows the six nearest training images by L2 distance in "
        "the last hidden layer."
    )
    signal = (
        "The distance of two images in each layer of the untrained networks. A network that is "
        "below the line cannot tell images apart."
    )
    names = ", ".join(run_names)
    return [
        ("Figure 3: the filters of the first layer", [(filters, caption)]),
        (
            "Figure 4: answers and neighbors",
            [(figures.answers(first), answers), (figures.neighbours(first), near)],
        ),
        ("Signal at the start", [(figures.signals(runs), signal)]),
        ("Learning curves", [(figures.curves(runs), f"Errors and losses by epoch: {names}.")]),
    ]


def _specialising(records: Sequence[Record]) -> str:
    """How often the columns specialize, over the seeds of claim `filters`."""
    shares = [
        apart(run.colour)[1]
        for record in records
        if record.claim.id == "filters"
        for run in record.results["base"]
    ]
    if not shares:
        return ""
    often = sum(share <= 0.05 for share in shares)
    return (
        f"In {often} of the {len(shares)} recorded seeds of claim filters, the color of the "
        "columns lies further apart than in 95 of 100 random halves of the same filters."
    )


def _inline(text: str) -> Markup:
    """Convert Markdown's code, bold and emphasis to HTML; the texts use nothing else."""
    marked = str(escape(text))
    # Bold before emphasis, since `**` contains `*`.
    for mark, tag in (("`", "code"), ("**", "b"), ("*", "em")):
        pieces = marked.split(mark)
        marked = "".join(f"<{tag}>{p}</{tag}>" if i % 2 else p for i, p in enumerate(pieces))
    return Markup(marked)
