"""What the figures share: colors, axes, and names that fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from alexnet.data.sources.source import readable

INK, SOFT, TRAIN, VAL = "#333333", "#888888", "#1f6f8b", "#d1495b"


def finish(ax: Axes, x: str, y: str) -> None:
    """Label the axes and remove the frame on two sides."""
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    # The curves need no box around them.
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def legend_label(text: str) -> str:
    """Return a label that `legend` shows as `text`, which may be the name of a run."""
    # Matplotlib leaves labels that begin with `_` out of a legend.
    return f" {text}"


def legend(ax: Axes) -> None:
    """Draw the legend of an axis where it hides the least."""
    _written_out(ax.legend(frameon=False, fontsize=8))


def legend_below(figure: Figure, ax: Axes) -> None:
    """Draw the legend of an axis, whose entries those of the others repeat, below all axes.

    The figure has a constrained layout, and the axis two lines of each run.
    """
    entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
    of_runs = [entry for entry in entries if entry[1].startswith(" ")]
    others = [entry for entry in entries if entry not in of_runs]
    # Column by column, so that the two lines of a run stand in one row.
    drawn, labels = zip(*of_runs[::2], *others, *of_runs[1::2], strict=True)
    _written_out(
        figure.legend(drawn, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    )


def _written_out(drawn: Legend) -> None:
    """Show the entries of a legend as `legend_label` was given them."""
    for text in drawn.get_texts():
        text.set_text(text.get_text().removeprefix(" "))
        # A `$` in the name of a run would otherwise begin a formula.
        text.set_parse_math(False)


def shortened(name: str, limit: int) -> str:
    """Return a name of at most `limit` characters; an ellipsis stands for the rest."""
    return name if len(name) <= limit else f"{name[: limit - 1].rstrip()}…"


def run_names(runs: Sequence[Path]) -> list[str]:
    """Return the name of each run's folder, with as many parents as it takes to tell them apart.

    `run` alone says nothing: that of the demo is `demo/run`.
    """
    # Matplotlib takes no name that is not UTF-8.
    parts = [Path(readable(str(run.absolute()))).parts for run in runs]
    for count in range(1, max(map(len, parts))):
        names = ["/".join(part[-count:]) for part in parts]
        if len(set(names)) == len(set(parts)) and "run" not in names:
            return names
    return [readable(str(run)) for run in runs]
