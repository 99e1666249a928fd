"""One HTML page of all records, everything in it: `alexnet reproduce --report FILE.html`."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from alexnet import figures, gallery
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.effects import QUARTER, apart
from alexnet.experiments.table import NOT_RUN, errors, not_run, source, where
from alexnet.figures import INK, TRAIN, VAL
from alexnet.files import write_whole
from alexnet.kernels import colourfulness, orientedness
from alexnet.weights import load

COLOURS = {
    "agrees": "#2e7d4f",
    "disagrees": "#b3402a",
    "differs": "#2a5d8a",
    "cannot tell": "#8a8a8a",
}
STYLE = """
:root { --ink: #222; --soft: #666; --line: #ddd; }
body { font: 16px/1.55 Georgia, 'Times New Roman', serif; color: var(--ink); max-width: 54rem; margin: 0 auto;
  padding: 2rem 1.2rem 5rem; background: #fff; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.3rem; margin: 2.6rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 2rem 0 .2rem; } p { margin: .5rem 0; } .soft { color: var(--soft); font-size: .92rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .35rem .6rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: normal; color: var(--soft); } td.m { min-width: 11rem; }
td.n { white-space: nowrap; font-variant-numeric: tabular-nums; }
.chip { color: #fff; border-radius: .7em; padding: 0 .6em; font: .8rem/1.6 system-ui, sans-serif; white-space: nowrap; }
code { font-size: .82rem; background: #f5f3ef; padding: .1em .3em; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } figure { margin: 1.2rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
"""


def page(records: Sequence[dict[str, Any]], runs: Sequence[Path] = ()) -> str:
    """The whole page. records: as `table.read` gives them; runs: trained ones, of which the first is looked at closely.

    Raises ValueError for a run that is none, or whose store is gone.
    """
    parts = [
        "<h1>The claims of the 2012 paper, measured</h1>",
        "<p class=soft>Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural "
        "Networks. Every number was given by runs recorded in this project; each claim ends with its command.</p>",
        _summary(records),
    ]
    relu = [one for one in records if one["claim"] == "relu"]
    if relu:
        parts += [
            "<h2>Figure 1: ReLU against tanh</h2>",
            _figure(_crossing(relu[0]), _crossing_text(relu[0])),
        ]
    points = [
        (one, effect)
        for one in records
        for effect in one["effects"]
        if effect["name"].startswith("test error")
    ]
    if points:
        caption = (
            "Points of test error lost without each part: the mean over seeds and its 95 % interval. Diamonds: the "
            "paper's own numbers, at its own scale."
        )
        parts += ["<h2>What each part is worth</h2>", _figure(_bars(points), caption)]
    if runs:
        parts += _looked_at(records, runs)
    parts += [
        "<h2>Each claim</h2>",
        *(_claim(claim, [one for one in records if one["claim"] == claim.id]) for claim in CLAIMS),
    ]
    body = "\n".join(parts)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    )
    head += f"<title>The claims, measured</title><style>{STYLE}</style>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def write(records: Sequence[dict[str, Any]], path: Path, runs: Sequence[Path] = ()) -> None:
    write_whole(path, page(records, runs).encode())


def _looked_at(records: Sequence[dict[str, Any]], runs: Sequence[Path]) -> list[str]:
    """Figures 3 and 4 of the first run, signals and curves of all."""
    first, net = runs[0], load(runs[0]).net
    indices = [
        f"column {number}: colour {mean(colour):.2f}, orientation {mean(oriented):.2f}"
        for number, (colour, oriented) in enumerate(
            zip(colourfulness(net), orientedness(net), strict=True), 1
        )
    ]
    kernels = (
        f"The first layer of {first.name}. Colour is the share of a kernel's energy that is not grey, orientation the "
        f"coherence of its gradients, both 0 to 1, means: {'; '.join(indices)}. {_specialising(records)}"
    )
    answers = (
        f"Eight validation pictures, their class, and the five that {first.name} finds likeliest."
    )
    near = "Five validation pictures, and in each row the six training pictures nearest by L2 in the last hidden layer."
    signal = "How far two pictures lie apart in each layer of the untrained networks; under the line a start is blind."
    names = ", ".join(run.name for run in runs)
    return [
        "<h2>Figure 3: what the columns turned to</h2>",
        _figure(figures.filters(net), kernels),
        "<h2>Figure 4: answers and neighbours</h2>",
        _figure(gallery.answers(first), answers),
        _figure(gallery.neighbours(first), near),
        "<h2>Signal at the start</h2>",
        _figure(gallery.signals(runs), signal),
        "<h2>Learning curves</h2>",
        _figure(gallery.curves(runs), f"Errors and losses by epoch: {names}."),
    ]


def _specialising(records: Sequence[dict[str, Any]]) -> str:
    """How often, over the seeds of claim `filters`."""
    shares = [
        apart(run["colour"])[1]
        for one in records
        if one["claim"] == "filters"
        for run in one["arms"]["base"]
    ]
    if not shares:
        return ""
    often = sum(share <= 0.05 for share in shares)
    return (
        f"Over the {len(shares)} recorded seeds of claim filters, {often} have columns whose colour lies further apart "
        "than in 95 of 100 random halves of the same kernels."
    )


def _chip(verdict: str) -> str:
    return f'<span class=chip style="background:{COLOURS[verdict]}">{verdict}</span>'


def _summary(records: Sequence[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><a href='#{one['claim']}'>{one['claim']}</a></td><td class=m>{html.escape(effect['name'])}</td>"
        f"<td>{_chip(effect['verdict'])}</td>"
        f"<td class=n>{_number(effect)}</td><td class=n>{effect['n']}</td><td>{where(one)}</td></tr>"
        for one in records
        for effect in one["effects"]
    )
    heads = "".join(
        f"<th>{name}</th>"
        for name in ("claim", "measure", "verdict", "mean [95 % interval]", "seeds", "scale, data")
    )
    return (
        f"<div class=wide><table><tr>{heads}</tr>{rows}</table></div>"
        if rows
        else "<p>No claim has been run yet.</p>"
    )


def _number(effect: dict[str, Any]) -> str:
    interval = "" if effect["low"] is None else f" [{effect['low']:.2f}, {effect['high']:.2f}]"
    return f"{effect['mean']:.2f}{interval}"


def _claim(claim: Any, own: Sequence[dict[str, Any]]) -> str:
    said = html.escape(source(claim))
    parts = [
        f"<h3 id={claim.id}>{claim.id}: {html.escape(claim.statement)}</h3><p class=soft>{said}.</p>"
    ]
    for one in own:
        lines = "".join(
            f"<li>{html.escape(e['name'])}: {_number(e)}, {e['n']} seeds {_chip(e['verdict'])}</li>"
            for e in one["effects"]
        )
        arms = html.escape("; ".join(errors(one)))
        parts += [
            f"<p>{where(one)}:</p><ul>{lines}</ul><p class=soft>Test errors by seed: {arms}</p>"
        ]
        parts += [f"<p><code>{html.escape(one['command'])}</code></p>"]
    if commands := not_run(claim, own):
        parts += [f"<p>{NOT_RUN}{', '.join(f'<code>{command}</code>' for command in commands)}</p>"]
    return "".join(parts)


def _figure(figure: Figure, caption: str) -> str:
    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "alexnet"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    drawn = buffer.getvalue()
    return f"<figure>{drawn[drawn.index('<svg') :]}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _crossing(one: dict[str, Any]) -> Figure:
    """Error over the training set against epochs, ReLU solid, tanh dashed, as in the paper."""
    figure = Figure((7.5, 3.6))
    axes = figure.subplots()
    for name, style in (("relu", "-"), ("tanh", "--")):
        for seed, run in enumerate(one["arms"][name]):
            errors = [epoch["val_error"] for epoch in run["epochs"]]
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


def _crossing_text(one: dict[str, Any]) -> str:
    (effect,) = one["effects"]
    return (
        "Error over the whole training set after each epoch, a line a seed. The 25 % line is reached "
        f"{_number(effect)} times later with tanh (a lower bound where it is never reached). The paper says 6."
    )


def _bars(points: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Figure:
    papers = {(claim.id, effect.name): effect.paper for claim in CLAIMS for effect in claim.effects}
    figure = Figure((7.5, 0.8 + 0.36 * len(points)))
    axes = figure.subplots()
    for row, (one, effect) in enumerate(reversed(points)):
        wide = None if effect["low"] is None else effect["high"] - effect["mean"]
        axes.barh(
            row,
            effect["mean"],
            xerr=wide,
            height=0.55,
            color=TRAIN,
            ecolor=INK,
            error_kw={"linewidth": 1},
        )
        said = papers.get((one["claim"], effect["name"]), "")
        if said.replace(".", "").isdigit():
            axes.plot(float(said), row, "D", color=VAL, markersize=5)
    names = [
        f"{one['claim']}{' (CIFAR-10)' if one['on'] == 'cifar10' else ''}: "
        f"{effect['name'].removeprefix('test error, points more ')}"
        for one, effect in reversed(points)
    ]
    axes.set_yticks(range(len(points)), names)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_xlabel("points of test error")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    return figure
