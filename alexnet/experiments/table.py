"""Running claims, and the tables of their records: on the terminal and in docs/reproduction.md."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from alexnet.experiments.claim import Claim
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.records import UNDERFITTED, Record, Row, opened, record, where, write
from alexnet.experiments.runner import Terms, check, run, run_ahead
from alexnet.model import plan

FULL_SCALE = (
    "Commands at full scale: `--precision auto` is bfloat16 on CUDA; what 2012 computed in is "
    "`--precision float32`."
)
HEAD = """# Reproduction

Every claim of the paper, and what was measured here. `alexnet reproduce --document
docs/reproduction.md` makes this file from `records/claims`. Records hold runs; every effect is
computed from them, and a test fails when this file and the records disagree.

"""
READING = """**A row.** An effect is computed for each seed, from runs that share seed, data and order. The row
gives its mean and the 95 % interval of the mean (Student's t over seeds). *Same sign*: the interval
lies wholly on the claimed side of no effect (0 of a difference, 1 of a ratio). *Opposite sign*:
wholly on the other side. *Differs*: wholly on one side, where the paper claims none.
*Inconclusive*: no effect is inside the interval, or there is no interval. Where the paper gives a
number, the row says whether the interval contains it. The minimum detectable effect (80 % power) is
the smallest distance from no effect that so many seeds of this standard deviation find with a
probability of 80 %.

**Many rows.** "p, Holm" is the p value of the two-sided t test against no effect, adjusted for the
{tested} rows of the table that have one (Holm 1979). An effect with a value of at most 0.05 stands,
with a family-wise error of 5 %: {stand} do. The rows are not independent: claims share their base
runs, so a base that does well or badly by chance moves all of them. The intervals are over seeds
only: every seed is judged on the same one test sample.

**Scale.** Each row names its scale, in words that come from the record: the first arm's width,
training images and mean training error. *full* is the paper's setting where the data are the
paper's too; *desk* is a small stand-in. A desk record can confirm a mechanism. It cannot refute a
claim about ImageNet, and its numbers are of another network and other images. *Underfitted* means a
training error above {underfitted:.0f} %: such a net has little use for what prevents overfitting, so the effect of
a regulariser has to look small or opposite there."""
REPEAT = """

**To be repeated.** A row is marked so where the recorded configurations differ from what the claim
would run today, or where the record names a reason; the settings that differ are named. A measure
of the first epoch alone is not touched by settings that act later."""
END_GAME = """ One change concerns the
five-convolution claims at desk scale: the recorded runs had no end game. Today the colour noise
ends and conv1's weights learn at a tenth of the rate from epoch 18 of 24, and conv1 is frozen at
19, as in the original's configuration in proportion."""


def reproduce(claims: Sequence[Claim], terms: Terms, records: Path, picky: bool) -> Iterator[str]:
    """Run the claims, record each, and yield the lines that say what was measured.

    picky: a claim that cannot be run on this store is an error; else it is left out.
    """
    fit = []
    for claim in claims:
        try:
            check(claim, terms)
            fit.append(claim)
        except ValueError:
            if picky:
                raise
    run_ahead(fit, terms)
    for claim in fit:
        raw = record(claim, run(claim, terms), terms)
        path = write(raw, records)
        found = opened(raw)
        said = [line for row in found.rows for line in lines_of(found, row)]
        yield "\n".join([claim.id, *(f"  {line}" for line in said), f"  {path}"])


def ours(row: Row) -> str:
    """`1.42 [0.80, 2.04]`"""
    e = row.estimate
    return f"{e.mean:.2f}" + ("" if e.low is None else f" [{e.low:.2f}, {e.high:.2f}]")


def p_word(p: float | None) -> str:
    """`0.012`, `<0.001`, or a dash where nothing was tested."""
    return "-" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def lines_of(one: Record, row: Row) -> list[str]:
    """A row on the terminal: measure; number and verdict; setting; why it is to be repeated."""
    e = row.estimate
    words = [ours(row)]
    if e.minimum_detectable is not None:
        words.append(f"minimum detectable effect (80 % power) {e.minimum_detectable:.2f}")
    if row.adjusted_p is not None:
        words.append(f"p {p_word(row.adjusted_p)} (Holm, over all rows)")
    said = [row.effect.name, f"  {', '.join(words)}: {one.verdict(row)}", f"  {one.setting()}"]
    return said + [f"  to be repeated: {', '.join(row.repeat)}"] * bool(row.repeat)


def source(claim: Claim) -> str:
    """What the paper and its authors' log say."""
    log = "" if claim.logged == "-" else f"; the authors' log: {claim.logged}"
    return f"The paper: {'no number' if claim.paper == '-' else claim.paper}{log}"


def listing(records: Sequence[Record], cost_h: dict[str, float]) -> str:
    """The table of `alexnet reproduce` without arguments. cost_h: hours of five seeds at desk scale
    on this machine, by claim.
    """
    lines = []
    for claim in CLAIMS:
        needs = " or ".join(claim.kinds)
        lines += [f"{claim.id:<11} {claim.statement}"]
        lines += [f"{'':<11}   {source(claim)}; on {needs}"]
        if claim.id in cost_h:
            minutes = 60 * cost_h[claim.id]
            lines += [f"{'':<11}   five seeds at desk scale: about {minutes:.0f} minutes here"]
        own = [one for one in records if one.claim is claim]
        for said in (lines_of(one, row) for one in own for row in one.rows):
            lines += [f"{'':<11}   {line}" for line in said]
    return "\n".join(lines)


def document(records: Sequence[Record]) -> str:
    """docs/reproduction.md."""
    lines = [
        "| claim | measure | the paper | ours [95 % interval] | minimum detectable effect (80 % power) "
        "| p, Holm | scale, data | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *(_cells(one, row) for one in records for row in one.rows),
        "",
        "## Each claim",
        "",
    ]
    for claim in CLAIMS:
        own = [one for one in records if one.claim is claim]
        note = f" {claim.note}" if claim.note else ""
        lines += [f"**{claim.id}**: {claim.statement}. {source(claim)}.{note}", ""]
        for one in own:
            images = ", ".join(f"{name} {n:,}" for name, n in one.raw["store"]["images"].items())
            machine = one.raw["environment"]["machine"]
            lines += [f"`{one.raw['command']}` ({where(one.raw)}; {images}; {machine})", ""]
            lines += [*(f"- {error}" for error in one.errors()), ""]
        if commands := not_run(claim, own):
            lines += [f"{NOT_RUN}{', '.join(f'`{command}`' for command in commands)}", ""]
    return f"{HEAD}{reading(records)}\n\n" + "\n".join(lines).rstrip() + "\n"


def reading(records: Sequence[Record]) -> str:
    """How to read the rows: paragraphs in Markdown, with the counts of these records."""
    rows = [row for one in records for row in one.rows]
    p_values = [row.adjusted_p for row in rows if row.adjusted_p is not None]
    stand = sum(p <= 0.05 for p in p_values)
    said = READING.format(tested=len(p_values), stand=stand, underfitted=100 * UNDERFITTED)
    reasons = {reason for row in rows for reason in row.repeat}
    if reasons:
        said += REPEAT + END_GAME * any("colour_until" in reason for reason in reasons)
    return f"{said}\n\n{FULL_SCALE}"


def _cells(one: Record, row: Row) -> str:
    detectable = row.estimate.minimum_detectable
    verdict, *inside = one.verdict(row).split(", ", 1)
    verdict = ", ".join([f"*{verdict}*", *inside])
    if row.repeat:
        verdict += f"; to be repeated: {', '.join(row.repeat)}"
    cells = (
        one.claim.id,
        row.effect.name,
        row.effect.paper,
        ours(row),
        "-" if detectable is None else f"{detectable:.2f}",
        p_word(row.adjusted_p),
        one.setting(),
        verdict,
    )
    return f"| {' | '.join(cells)} |"


NOT_RUN = "Not run here, in the paper's own setting: "


def not_run(claim: Claim, own: Sequence[Record]) -> tuple[str, ...]:
    """The commands of the paper's own setting, for someone who has the data; none where it was run."""
    if any(one.in_papers_setting for one in own):
        return ()
    return claim.by_hand or (f"alexnet reproduce {claim.id} --data STORE --scale full",)


def cost_h(
    claims: Sequence[Claim], macs_per_s: float, images: int = 4000, seeds: int = 5
) -> dict[str, float]:
    """Hours of each claim's runs at desk scale, by multiply-adds: forward once, backward twice, half
    of the peak.
    """
    found = {}
    for claim in claims:
        seconds = 0.0
        for arm in claim.arms:
            config = claim.config(arm, "desk", claim.kinds[0])
            steps = plan(replace(config.architecture, classes=10))
            part = claim.part(arm, "desk", claim.kinds[0])
            seen = config.schedule.epochs * ((part.classes or 10) * part.train_of_each or images)
            seconds += (
                seeds
                * seen
                * 3
                * sum(step.multiply_adds for step in steps if step.op == "linear")
                / (0.5 * macs_per_s)
            )
        if claim.arms:
            found[claim.id] = seconds / 3600
    return found


def peak_macs_per_s(side: int = 1024) -> float:
    """Multiply-adds a second of a matrix product on this machine's default device."""
    a = torch.ones(side, side)
    best_s = math.inf
    for _ in range(5):
        began_s = time.perf_counter()
        a @ a
        best_s = min(best_s, time.perf_counter() - began_s)
    return float(side**3 / best_s)
