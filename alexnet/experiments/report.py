"""One self-contained HTML page of all records: `alexnet reproduce --report FILE.html`."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import matplotlib as mpl
from matplotlib.figure import Figure

from alexnet import figures
from alexnet.diagnostics import colourfulness, orientedness
from alexnet.experiments.claim import Claim
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.effects import QUARTER, apart
from alexnet.experiments.records import Record, Row
from alexnet.experiments.table import NOT_RUN, not_run, ours, p_word, reading, source
from alexnet.figures import INK, TRAIN, VAL
from alexnet.files import write_whole
from alexnet.trained import load

COLOURS = {
    "same sign": "#2e7d4f",
    "opposite sign": "#b3402a",
    "differs": "#2a5d8a",
    "inconclusive": "#767676",
}
STYLE = """
:root { --ink: #222; --soft: #666; --line: #ddd; }
body { font: 16px/1.55 Georgia, 'Times New Roman', serif; color: var(--ink); max-width: 60rem;
  margin: 0 auto; padding: 2rem 1.2rem 5rem; background: #fff; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .2rem; } p { margin: .5rem 0; }
.soft { color: var(--soft); font-size: .92rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: normal; color: var(--soft); } td.m { min-width: 11rem; }
td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
.chip { color: #fff; border-radius: .7em; padding: 0 .6em; white-space: nowrap;
  font: .8rem/1.6 system-ui, sans-serif; }
code { font-size: .82rem; background: #f5f3ef; padding: .1em .3em; overflow-wrap: anywhere; }
@media (max-width: 44rem) { tr, td { display: block; } th { display: none; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { border: 0; padding: .1rem 0; } }
svg { width: 100%; height: auto; } figure { margin: 1.2rem 0; }
figcaption { color: var(--soft); font-size: .9rem; }
"""


def page(records: Sequence[Record], runs: Sequence[Path] = ()) -> str:
    """The whole page.

    Args:
        records: As `records.read` gives them.
        runs: Trained runs; the first is shown with its filters, answers and neighbours.

    Raises:
        ValueError: For a folder that is not a run, or a run whose store is gone.
    """
    parts = [
        "<h1>The claims of the 2012 paper, measured</h1>",
        "<p class=soft>Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep "
        "Convolutional Neural Networks. Every number comes from runs that this project has "
        "recorded; each claim ends with its command.</p>",
        _summary(records),
        "<h2>How to read a row</h2>",
        *(f"<p>{_inline(text)}</p>" for text in reading(records).split("\n\n")),
    ]
    relu = [one for one in records if one.claim.id == "relu"]
    if relu:
        parts += [
            "<h2>Figure 1: ReLU against tanh</h2>",
            _figure(_crossing(relu[0]), _crossing_text(relu[0])),
        ]
    points = [
        (one, row)
        for one in records
        for row in one.rows
        if row.effect.name.startswith("test error") and row.estimate.low is not None
    ]
    if points:
        caption = (
            "Differences of test error in percentage points: the mean over seeds and its 95 % "
            "interval. Diamonds: the paper's own numbers, at its own scale. Pale bars: to be "
            "repeated."
        )
        parts += ["<h2>What each part is worth</h2>", _figure(_bars(points), caption)]
    if runs:
        parts += _figures_of_runs(records, runs)
    parts += [
        "<h2>Each claim</h2>",
        *(_claim(claim, [one for one in records if one.claim is claim]) for claim in CLAIMS),
    ]
    body = "\n".join(parts)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    head += f"<title>The claims, measured</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def write(records: Sequence[Record], path: Path, runs: Sequence[Path] = ()) -> None:
    write_whole(path, page(records, runs).encode())


def _figures_of_runs(records: Sequence[Record], runs: Sequence[Path]) -> list[str]:
    """Figures 3 and 4 of the first run, and the signals and curves of all runs."""
    first, net = runs[0], load(runs[0]).net
    indices = [
        f"column {number}: colour {mean(colour):.2f}, orientation {mean(oriented):.2f}"
        for number, (colour, oriented) in enumerate(
            zip(colourfulness(net), orientedness(net), strict=True), 1
        )
    ]
    kernels = (
        f"The filters of the first layer of {first.name}. Colour is the share of a filter's energy "
        "that is not grey; orientation is the coherence of its gradients. Both lie between 0 and "
        f"1. Means: {'; '.join(indices)}. {_specialising(records)}"
    )
    answers = (
        f"Eight validation images, their class, and the five most probable classes by {first.name}."
    )
    near = (
        "Five validation images; each row shows the six nearest training images by L2 distance in "
        "the last hidden layer."
    )
    signal = (
        "The distance of two images in each layer of the untrained networks. A network that is "
        "below the line cannot tell images apart."
    )
    names = ", ".join(run.name for run in runs)
    return [
        "<h2>Figure 3: the filters of the two columns</h2>",
        _figure(figures.filters(net), kernels),
        "<h2>Figure 4: answers and neighbours</h2>",
        _figure(figures.answers(first), answers),
        _figure(figures.neighbours(first), near),
        "<h2>Signal at the start</h2>",
        _figure(figures.signals(runs), signal),
        "<h2>Learning curves</h2>",
        _figure(figures.curves(runs), f"Errors and losses by epoch: {names}."),
    ]


def _specialising(records: Sequence[Record]) -> str:
    """How often the columns specialise, over the seeds of claim `filters`."""
    shares = [
        apart(run.colour)[1]
        for one in records
        if one.claim.id == "filters"
        for run in one.results["base"]
    ]
    if not shares:
        return ""
    often = sum(share <= 0.05 for share in shares)
    return (
        f"In {often} of the {len(shares)} recorded seeds of claim filters, the colour of the "
        "columns lies further apart than in 95 of 100 random halves of the same filters."
    )


def _verdict(one: Record, row: Row) -> str:
    """A chip in the verdict's colour, and the rest of the sentence beside it."""
    words, *rest = one.verdict(row).split(", ", 1)
    chip = f'<span class=chip style="background:{COLOURS[row.estimate.verdict]}">{words}</span>'
    return chip + "".join(f" {word}" for word in rest)


def _summary(records: Sequence[Record]) -> str:
    rows = "".join(
        f"<tr><td><a href='#{one.claim.id}'>{one.claim.id}</a></td>"
        f"<td class=m>{html.escape(row.effect.name)}<div class=soft>{one.setting()}</div></td>"
        f"<td>{_verdict(one, row)}"
        f"{'<div class=soft>to be repeated</div>' if row.repeat else ''}</td>"
        f"<td class=n>{ours(row)}</td><td class=n>{_p(row)}</td></tr>"
        for one in records
        for row in one.rows
    )
    names = "claim", "measure; scale and data", "verdict", "mean [95 %]", "p, Holm"
    heads = "".join(f"<th>{name}</th>" for name in names)
    return (
        f"<div class=wide><table><tr>{heads}</tr>{rows}</table></div>"
        if rows
        else "<p>No claim has been run yet.</p>"
    )


def _p(row: Row) -> str:
    """The p value, such as `p 0.012`; with its name, since a narrow screen shows no table head."""
    return "" if row.adjusted_p is None else f"p {html.escape(p_word(row.adjusted_p))}"


def _claim(claim: Claim, records: Sequence[Record]) -> str:
    text = f"{html.escape(source(claim))}. {_inline(claim.note)}"
    parts = [
        f"<h3 id={claim.id}>{claim.id}: {html.escape(claim.statement)}</h3><p class=soft>{text}</p>"
    ]
    for one in records:
        lines = "".join(
            f"<li>{html.escape(row.effect.name)}: {_numbers(row)} {_verdict(one, row)}"
            f"{_repeat(row)}</li>"
            for row in one.rows
        )
        errors = html.escape("; ".join(one.errors()))
        parts += [f"<p>{one.setting()}.</p><ul>{lines}</ul><p class=soft>By seed: {errors}</p>"]
        parts += [f"<p><code>{html.escape(one.raw['command'])}</code></p>"]
    if commands := not_run(claim, records):
        lines = "".join(f"<br><code>{html.escape(command)}</code>" for command in commands)
        parts += [f"<p>{NOT_RUN.rstrip()}{lines}</p>"]
    return "".join(parts)


def _numbers(row: Row) -> str:
    return ", ".join(filter(None, (ours(row), _p(row))))


def _repeat(row: Row) -> str:
    reasons = html.escape(", ".join(row.repeat))
    return f"<div class=soft>to be repeated: {reasons}</div>" if row.repeat else ""


def _inline(text: str) -> str:
    """Convert Markdown's code, bold and emphasis to HTML; the texts use nothing else."""
    text = html.escape(text, quote=False)
    # Bold before emphasis, since `**` contains `*`.
    for mark, tag in (("`", "code"), ("**", "b"), ("*", "em")):
        pieces = text.split(mark)
        text = "".join(f"<{tag}>{p}</{tag}>" if i % 2 else p for i, p in enumerate(pieces))
    return text


def _figure(figure: Figure, caption: str) -> str:
    buffer = io.StringIO()
    # No date, and a fixed salt for ids: the same records give the same bytes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "alexnet"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    # The XML declaration before <svg does not belong inside HTML.
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _crossing(one: Record) -> Figure:
    """Training error against epochs; ReLU solid, tanh dashed, as in Figure 1."""
    figure = Figure((7.5, 3.6))
    axes = figure.subplots()
    for name, style in (("relu", "-"), ("tanh", "--")):
        for seed, run in enumerate(one.results[name]):
            errors = [epoch["val_error"] for epoch in run.epochs]
            label = {"relu": "ReLU", "tanh": "tanh"}[name] if seed == 0 else None
            axes.plot(
                range(1, len(errors) + 1),
                errors,
                style,
                color=INK,
                linewidth=1.2,
                alpha=0.8,
                label=label,
            )
    axes.axhline(QUARTER, color=VAL, linewidth=0.8)
    axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None), ylim=(0, 0.8))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _crossing_text(one: Record) -> str:
    (row,) = one.rows
    return (
        "Error over the whole training set after each epoch, one line for each seed. The net with "
        f"tanh needs {ours(row)} times as many epochs to reach the 25 % line (a lower bound where "
        f"it is never reached). The paper says 6: {one.verdict(row)}."
    )


def _bars(points: Sequence[tuple[Record, Row]]) -> Figure:
    """Differences of test error with their intervals; the paper's numbers as diamonds."""
    figure = Figure((7.5, 0.8 + 0.36 * len(points)))
    axes = figure.subplots()
    names = []
    for height, (one, row) in enumerate(reversed(points)):
        e = row.estimate
        assert e.high is not None
        axes.barh(
            height,
            e.mean,
            xerr=e.high - e.mean,
            height=0.55,
            color=TRAIN,
            alpha=0.45 if row.repeat else 1,
            ecolor=INK,
            error_kw={"linewidth": 1},
        )
        if row.effect.number is not None:
            axes.plot(row.effect.number, height, "D", color=VAL, markersize=5)
        name = row.effect.name.removeprefix("test error, ").removesuffix(", percentage points")
        on = " (CIFAR-10)" if one.raw["on"] == "cifar10" else ""
        names.append(f"{one.claim.id}{on}: {name.replace('ablated', row.effect.arms[0])}")
    axes.set_yticks(range(len(points)), names)
    axes.set_ylim(-0.7, len(points) - 0.3)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("percentage points of test error")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return figure
