"""Run claims, and show their records as tables, on the terminal and in docs/reproduction.md."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from alexnet.architecture import plan
from alexnet.experiments.claim import Claim
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.estimates import Verdict
from alexnet.experiments.records import UNDERFITTED, Record, opened, record, where, write
from alexnet.experiments.runner import Settings, check, run, run_ahead

FULL_SCALE = (
    "Commands at full scale: `--precision auto` is bfloat16 on CUDA; what 2012 computed in is "
    "`--precision float32`."
)
HEAD = """# Reproduction

Every claim of the paper, and what was measured here. `alexnet reproduce --document
docs/reproduction.md` makes this file from `records/claims`. Records hold runs; every effect is
computed from them, and a test fails when this file and the records disagree.

"""
# Lines that end in a backslash are one line of the document.
READING = """\
**A row.** An effect is computed for each seed, from runs that share seed, data and order. The row
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
training error above {underfitted:.0f} %: such a net has little use \
for what prevents overfitting, so the effect of
a regulariser has to look small or opposite there."""
REPEAT = """

**To be repeated.** A row is marked so where the recorded configurations differ from what the claim
would run today, or where the record names a reason; the settings that differ are named. A measure
of the first epoch alone is not touched by settings that act later."""
END_GAME = """ One change concerns the
five-convolution claims at desk scale: the recorded runs had no end game. Today the colour noise
ends and conv1's weights learn at a tenth of the rate from epoch 18 of 24, and conv1 is frozen at
19, as in the original's configuration in proportion."""


def reproduce(
    claims: Sequence[Claim], settings: Settings, records: Path, strict: bool
) -> Iterator[str]:
    """Run claims and write their records.

    Args:
        claims: The claims to run.
        settings: The store, the scale and the seeds.
        records: Folder of the records.
        strict: A claim that cannot be run on this store is an error; otherwise it is left out.

    Yields:
        The results of each claim as lines of text.
    """
    fit = []
    for claim in claims:
        try:
            check(claim, settings)
            fit.append(claim)
        # Without names on the command line all claims are tried, and a store fits only some.
        except ValueError:
            if strict:
                raise
    # Records are written claim by claim, so that an interruption costs one claim at most.
    run_ahead(fit, settings)
    for claim in fit:
        raw = record(claim, run(claim, settings), settings)
        path = write(raw, records)
        lines = [line for row in table_rows([opened(raw)]) for line in terminal_lines(row)]
        yield "\n".join([claim.id, *(f"  {line}" for line in lines), f"  {path}"])


@dataclass(frozen=True)
class TableRow:
    """A row of the results in words, for the terminal, the document and the page alike."""

    claim: str
    measure: str
    paper: str
    ours: str
    """The mean over seeds and its interval, such as `1.42 [0.80, 2.04]`."""
    detectable: str
    """Minimum detectable effect (80 % power); empty without an interval."""
    p: str
    """Adjusted p value, such as `0.012` or `<0.001`; empty without an interval."""
    setting: str
    outcome: Verdict
    verdict: str
    """The verdict in words, such as `same sign`."""
    detail: str
    """What the verdict says of the paper's number, such as `6 outside the interval`, or empty."""
    repeat: str
    """Reasons to measure the row again, separated by commas; empty if there are none."""

    @property
    def full_verdict(self) -> str:
        """The verdict with its detail, such as `same sign, 6 outside the interval`."""
        return f"{self.verdict}, {self.detail}" if self.detail else self.verdict


def table_rows(records: Sequence[Record]) -> Iterator[TableRow]:
    """Yield the rows of the table of results: one for each effect of each record."""
    for one in records:
        for row in one.rows:
            e, p = row.estimate, row.adjusted_p
            interval = "" if e.low is None else f" [{e.low:.2f}, {e.high:.2f}]"
            detectable = e.minimum_detectable
            # The verdict comes first, and then what it says of the paper's number.
            verdict, _, detail = one.verdict(row).partition(", ")
            yield TableRow(
                claim=one.claim.id,
                measure=row.effect.name,
                paper=row.effect.paper,
                ours=f"{e.mean:.2f}{interval}",
                detectable="" if detectable is None else f"{detectable:.2f}",
                p="" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}",
                setting=one.setting(),
                outcome=e.verdict,
                verdict=verdict,
                detail=detail,
                repeat=", ".join(row.repeat),
            )


def terminal_lines(row: TableRow) -> list[str]:
    """A row on the terminal: measure; number and verdict; setting; reasons to repeat it."""
    numbers = [row.ours]
    if row.detectable:
        numbers.append(f"minimum detectable effect (80 % power) {row.detectable}")
    if row.p:
        numbers.append(f"p {row.p} (Holm, over all rows)")
    # Indented, because a row may be wider than a terminal and its lines must stay together.
    lines = [row.measure, f"  {', '.join(numbers)}: {row.full_verdict}", f"  {row.setting}"]
    return lines + [f"  to be repeated: {row.repeat}"] * bool(row.repeat)


def source(claim: Claim) -> str:
    """The numbers of the paper and of its authors' log."""
    log = "" if claim.logged == "-" else f"; the authors' log: {claim.logged}"
    return f"The paper: {'no number' if claim.paper == '-' else claim.paper}{log}"


def listing(records: Sequence[Record], cost_h: dict[str, float]) -> str:
    """The table of `alexnet reproduce` without arguments.

    Args:
        cost_h: Hours of five seeds at desk scale on this machine, by claim.
    """
    lines = []
    for claim in CLAIMS:
        needs = " or ".join(claim.kinds)
        lines += [f"{claim.id:<11} {claim.statement}"]
        lines += [f"{'':<11}   {source(claim)}; on {needs}"]
        # Claims without arms of their own need no runs, and have no cost.
        if claim.id in cost_h:
            minutes = 60 * cost_h[claim.id]
            lines += [f"{'':<11}   five seeds at desk scale: about {minutes:.0f} minutes here"]
        for row in table_rows([one for one in records if one.claim is claim]):
            lines += [f"{'':<11}   {line}" for line in terminal_lines(row)]
    return "\n".join(lines)


def document(records: Sequence[Record]) -> str:
    """The text of docs/reproduction.md."""
    lines = [
        "| claim | measure | the paper | ours [95 % interval] "
        "| minimum detectable effect (80 % power) | p, Holm | scale, data | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *map(_markdown_row, table_rows(records)),
        "",
        "## Each claim",
        "",
    ]
    for claim in CLAIMS:
        of_claim = [one for one in records if one.claim is claim]
        note = f" {claim.note}" if claim.note else ""
        lines += [f"**{claim.id}**: {claim.statement}. {source(claim)}.{note}", ""]
        for one in of_claim:
            images = ", ".join(f"{name} {n:,}" for name, n in one.raw["store"]["images"].items())
            machine = one.raw["environment"]["machine"]
            lines += [f"`{one.raw['command']}` ({where(one.raw)}; {images}; {machine})", ""]
            lines += [*(f"- {error}" for error in one.errors()), ""]
        if commands := not_run(claim, of_claim):
            lines += [f"{NOT_RUN}{', '.join(f'`{command}`' for command in commands)}", ""]
    return f"{HEAD}{reading(records)}\n\n" + "\n".join(lines).rstrip() + "\n"


def reading(records: Sequence[Record]) -> str:
    """Explain the rows: paragraphs in Markdown, with the counts of these records."""
    rows = [row for one in records for row in one.rows]
    # A row of a single seed has no interval and no p value.
    p_values = [row.adjusted_p for row in rows if row.adjusted_p is not None]
    stand = sum(p <= 0.05 for p in p_values)
    text = READING.format(tested=len(p_values), stand=stand, underfitted=100 * UNDERFITTED)
    reasons = {reason for row in rows for reason in row.repeat}
    if reasons:
        text += REPEAT + END_GAME * any("colour_until" in reason for reason in reasons)
    return f"{text}\n\n{FULL_SCALE}"


def _markdown_row(row: TableRow) -> str:
    """A row of the document's table."""
    # Only the verdict is set in italics, not the comparison with the paper's number.
    verdict = ", ".join(filter(None, (f"*{row.verdict}*", row.detail)))
    if row.repeat:
        verdict += f"; to be repeated: {row.repeat}"
    cells = (
        row.claim,
        row.measure,
        row.paper,
        row.ours,
        row.detectable or "-",
        row.p or "-",
        row.setting,
        verdict,
    )
    return f"| {' | '.join(cells)} |"


NOT_RUN = "Not run here, in the paper's own setting: "


def not_run(claim: Claim, records: Sequence[Record]) -> tuple[str, ...]:
    """The commands for the paper's own setting; none if it was run.

    Args:
        records: The records of this claim.
    """
    if any(one.in_papers_setting for one in records):
        return ()
    return claim.manual_commands or (f"alexnet reproduce {claim.id} --data STORE --scale full",)


def cost_h(
    claims: Sequence[Claim], macs_per_s: float, images: int = 4000, seeds: int = 5
) -> dict[str, float]:
    """Estimate the hours that the runs of each claim take at desk scale.

    The estimate counts the multiply-adds of a forward pass three times, since a backward pass costs
    two, and assumes half of the peak speed.

    Args:
        macs_per_s: Peak speed, as `peak_macs_per_s` measures it.
        images: Training images of a store.
    """
    hours = {}
    for claim in claims:
        seconds = 0.0
        for arm in claim.arms:
            config = claim.config(arm, "desk", claim.kinds[0])
            # Ten classes, because the store is not known yet; their number hardly changes the sum.
            ops = plan(replace(config.architecture, classes=10))
            part = claim.part(arm, "desk", claim.kinds[0])
            num_images = config.schedule.epochs * (
                (part.classes or 10) * part.train_of_each or images
            )
            seconds += (
                seeds
                * num_images
                * 3
                # All other operations have few multiply-adds by comparison.
                * sum(op.multiply_adds for op in ops if op.op == "linear")
                / (0.5 * macs_per_s)
            )
        if claim.arms:
            hours[claim.id] = seconds / 3600
    return hours


def peak_macs_per_s(side: int = 1024) -> float:
    """Multiply-adds per second of a large matrix product on PyTorch's default device."""
    a = torch.ones(side, side)
    # The fastest of five: other programs can only make a run slower.
    best_s = math.inf
    for _ in range(5):
        began_s = time.perf_counter()
        a @ a
        best_s = min(best_s, time.perf_counter() - began_s)
    return float(side**3 / best_s)
