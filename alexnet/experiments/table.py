"""Show the records of claims in words: the rows of the results, and tables on the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.experiments.claim import Claim
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.cost import usual_kind
from alexnet.experiments.data_sets import DATA
from alexnet.experiments.estimates import Verdict
from alexnet.experiments.record import UNDERFITTED, Record, Row, where
from alexnet.program import command
from alexnet.progress import duration
from alexnet.terminal import paragraphs, together, wrapped

SIGNIFICANT = 0.05
"""Largest adjusted p value of an effect that stands."""


@dataclass(frozen=True)
class TableRow:
    """A row of the results in words, for the terminal, the document and the page alike."""

    claim: str
    measure: str
    """What was compared, such as `test error, without dropout minus with it`."""
    paper: str
    ours: str
    """The mean over seeds and its interval, such as `1.42 [0.80, 2.04]`."""
    detectable: str
    """Minimum detectable effect (80 % power); empty without an interval."""
    p: str
    """Adjusted p value, see `p_in_words`; empty without an interval."""
    setting: str
    outcome: Verdict
    stands: bool
    """Whether the adjusted p value is at most 0.05."""
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
    for record in records:
        for row in record.rows:
            e, p = row.estimate, row.adjusted_p
            interval = "" if e.low is None else f" [{e.low:z.2f}, {e.high:z.2f}]"
            detectable = e.minimum_detectable
            verdict, detail = record.verdict(row)
            yield TableRow(
                claim=record.claim.id,
                measure=row.effect.compared,
                paper=row.effect.paper,
                ours=f"{e.mean:z.2f}{interval}",
                detectable="" if detectable is None else f"{detectable:.2f}",
                p=p_in_words(p),
                setting=record.setting(row),
                outcome=e.verdict,
                stands=stands(row),
                verdict=verdict,
                detail=detail,
                repeat=", ".join(row.repeat),
            )


def p_in_words(p: float | None) -> str:
    """An adjusted p value such as `0.012` or `<0.001`; empty where there is none.

    One that lies just above 0.05 has a digit more: `0.050` would look as if the effect stood.
    """
    if p is None:
        return ""
    rounded = f"{p:.3f}"
    if float(rounded) <= SIGNIFICANT < p:
        rounded = f"{math.ceil(1e4 * p) / 1e4:.4f}"
    return "<0.001" if p < 0.001 else rounded


def stands(row: Row) -> bool:
    """Whether the adjusted p value of a row is small enough."""
    return row.adjusted_p is not None and row.adjusted_p <= SIGNIFICANT


def standing(records: Sequence[Record]) -> str:
    """Say which of the effects stand, and how many."""
    rows = [row for record in records for row in record.rows if row.adjusted_p is not None]
    return (
        f"An effect stands only where p is at most {SIGNIFICANT}: {sum(map(stands, rows))} of the "
        f"{len(rows)} that have a p value do."
    )


def record_lines(record: Record) -> list[str]:
    """A record on the terminal: its setting, and two lines or more for each row."""
    lines = wrapped(record.setting(), "  ", "      ")
    for row in table_rows([record]):
        paper = "paper: no number" if row.paper == "-" else f"paper: {row.paper}"
        p = [f"p {row.p}{', stands' if row.stands else ''}"] if row.p else []
        phrases = [paper, f"measured: {row.ours}", *p, row.full_verdict]
        # A phrase stands on one line: a number is never apart from its interval.
        numbers = together([f"{phrase};" for phrase in phrases[:-1]] + phrases[-1:])
        compared = f"{row.measure} {REPEATED if row.repeat else ''}"
        lines += [*wrapped(compared, "    ", "      "), *wrapped(numbers, " " * 6, " " * 6)]
    return lines


def published(claim: Claim) -> str:
    """The numbers of the paper, of its authors' log, and of the study at 128 pixels."""
    log = "" if claim.logged == "-" else f"; the authors' log: {claim.logged}"
    study = f"; CaffeNet at 128 pixels: {claim.elsewhere}" if claim.elsewhere else ""
    return f"The paper: {'no number' if claim.paper == '-' else claim.paper}{log}{study}"


LEGEND = """\
Each row says what was compared, the paper's number, and the measured mean over seeds with its \
95 % interval. p is the probability of a difference at least this large if there were no effect, \
corrected for the number of rows (Holm). Same sign: the interval lies wholly on the side that the \
paper claims. Opposite sign: wholly on the other side. Differs: wholly on one side, where the \
paper claims none. Inconclusive: the interval contains the value that stands for no effect (0 for \
a difference, 1 for a ratio), or there is no interval.

A pair such as 40.7 / 18.2 is a top-1 and a top-5 error in percent. CaffeNet at 128 pixels: single \
runs of a study on ImageNet (Mishkin et al. 2016). Full is the paper's scale. \
Desk is a small stand-in, which can confirm a mechanism and cannot refute a claim about ImageNet. \
Underfitted means a training error above {underfitted:.0f} %; where claim dropout was run on the \
same base, the error of the net trained without dropout decides."""
REPEATED = "(*)"


def mark_in_words(rows: Iterable[Row]) -> str:
    """What the mark behind rows to be repeated means; empty where no row has it."""
    sentence = (
        f" A row with {REPEATED} is to be repeated: the settings of the claim have changed since "
        "the run."
    )
    return sentence * any(row.repeat for row in rows)


def no_records(folder: Path) -> str:
    """What is said where a folder has no records: where they are."""
    return (
        f"{folder} has no records. A checkout of the repository has them in records/claims; name "
        f"that folder: {command('reproduce')} --records FOLDER"
    )


def overview(records: Sequence[Record], cost_s: dict[str, float], folder: Path) -> str:
    """All claims in a few lines each: `alexnet reproduce` without arguments.

    Args:
        cost_s: Seconds of five seeds at desk scale on this machine, by claim (`cost.claims_s`).
        folder: Where the records were read.
    """
    one_claim = command("reproduce", "CLAIM")
    lines = paragraphs(
        "Each claim, how long it takes on this machine with five seeds at desk scale (on "
        "tiny-imagenet where it can be tested on it), and what was measured so far. Same sign: "
        "the whole 95 % interval lies on the side that the paper claims."
        f"{mark_in_words(row for record in records for row in record.rows)} All results of a "
        f"claim, and what the words mean: {one_claim}"
    )
    lines += ["", *wrapped(standing(records) if records else no_records(folder))]
    for claim in CLAIMS:
        cost = f" [{duration(cost_s[claim.id])}]" if claim.id in cost_s else ""
        lines += ["", *wrapped(f"{claim.id}: {claim.printed_statement}{cost}", rest="    ")]
        for record in records:
            if record.claim is claim:
                repeated = f" {REPEATED}" if any(row.repeat for row in record.rows) else ""
                text = f"{where(record.raw)}: {_in_short(record)}{repeated}"
                lines += wrapped(text, "  ", "      ")
    return "\n".join(lines)


def _in_short(record: Record) -> str:
    """The effect of a record in words, or the number of its effects by verdict."""
    rows = list(table_rows([record]))
    standing = sum(row.stands for row in rows)
    if len(rows) > 1:
        verdicts = Counter(row.verdict for row in rows)
        counts = ", ".join(f"{n} {verdict}" for verdict, n in verdicts.items())
        return f"{len(rows)} effects: {counts}" + (
            f"; {standing} stand{'s' * (standing == 1)}" if standing else ""
        )
    (row,) = rows
    paper = [] if row.paper == "-" else [f"(paper: {row.paper}):"]
    verdict = f"{row.verdict}, stands" if standing else row.verdict
    return together([row.ours, *paper, verdict])


def listing(
    claims: Sequence[Claim], records: Sequence[Record], cost_s: dict[str, float], folder: Path
) -> str:
    """All results of some claims, no wider than the terminal.

    Args:
        cost_s: As for `overview`.
        folder: Where the records were read.
    """
    lines = [*wrapped(standing(records)), ""] if records else []
    mark = mark_in_words(row for record in records if record.claim in claims for row in record.rows)
    lines += paragraphs(LEGEND.format(underfitted=100 * UNDERFITTED) + mark)
    if not records:
        lines += ["", *wrapped(no_records(folder))]
    for claim in claims:
        lines += ["", *wrapped(f"{claim.id}: {claim.printed_statement}", rest="    ")]
        lines += wrapped(f"{published(claim)}.", "  ", "      ")
        # A claim without arms is no experiment of this command. Commands are copied, so they are
        # not wrapped.
        if not claim.arms:
            lines += ["  Run it:", *(f"      {line}" for line in claim.manual_commands)]
            continue
        needs = f"Data: {', or '.join(DATA[kind].needs for kind in claim.kinds)}"
        if claim.learns_first:
            needs += f", and TINY, which is {DATA['tiny-imagenet'].needs}"
        if claim.id in cost_s:
            usual = DATA[usual_kind(claim)].needs
            needs += f". Five seeds at desk scale, on {usual}: "
            needs += f"about {duration(cost_s[claim.id])} on this machine"
        lines += wrapped(f"{needs}.", "  ", "      ")
        if claim.id in cost_s:
            stores = ["--data", "STORE", *(["--first", "TINY"] if claim.learns_first else [])]
            lines.append(f"  Run it: {command('reproduce', claim.id, *stores)}")
        for record in records:
            if record.claim is claim:
                lines += record_lines(record)
    return "\n".join(lines)
