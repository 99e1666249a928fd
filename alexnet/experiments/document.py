"""The document of all records in Markdown: docs/reproduction.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from alexnet.experiments.claim import Claim
from alexnet.experiments.claims import CLAIMS
from alexnet.experiments.job import TRAIN_IMAGES
from alexnet.experiments.record import UNDERFITTED, Record, where
from alexnet.experiments.table import TableRow, published, stands, table_rows

if TYPE_CHECKING:
    from alexnet.experiments.pictures import Picture

FULL_SCALE = (
    "Commands at full scale: `--precision auto` is bfloat16 on CUDA; the authors computed in "
    "float32, which is `--precision float32`."
)
HEAD = """# Reproduction

The claims of the paper, questions that it does not ask ({questions}), and
what was measured here. `alexnet reproduce --document docs/reproduction.md` makes this file and its
figures from `records/claims`. Records hold runs; every effect is computed from them, and a test
fails when this file and the records disagree.

"""
# Lines that end in a backslash are one line of the document.
READING = """\
**A row.** An effect is computed for each seed, from runs that share seed, data and order. The row
gives its mean and the 95 % interval of the mean (Student's t over seeds). *Same sign*: the interval
lies wholly on the claimed side of the value that stands for no effect (0 for a difference, 1 for a
ratio). *Opposite sign*: wholly on the other side. *Differs*: wholly on one side, where the paper
claims none. *Inconclusive*: the interval contains the value that stands for no effect, or there is
no interval. Where the paper gives a number, the row says whether the interval contains it. The
minimum detectable effect (80 % power) is the smallest distance from no effect that so many seeds of
this standard deviation find with a probability of 80 %, at a level of 5 % without any adjustment. A
pair such as 40.7 / 18.2 is a top-1 and a top-5 error in percent, and -1.4 / -1.2 points are changes
of the two. "CaffeNet at 128 pixels" is what the one systematic study of this shape found: top-1
errors of single runs on ImageNet 2012, with fc6 and fc7 of 2,048 units (Mishkin, Sergievskiy and
Matas 2016, arXiv 1606.02228, and their repository caffenet-benchmark). "The authors' log" is that
of the training runs in their published code, in percent. CONTRIBUTING.md defines arm, base and end
game.

**Many rows.** "p, Holm" is the p value of the two-sided t test against no effect, adjusted for the
{tested} rows of the table that have one (Holm 1979). An effect with a value of at most 0.05 stands,
with a family-wise error of 5 %: {stand} do. The rows are not independent: claims share their base
runs, so a base that does well or badly by chance moves all of them. On another processor the same
seed ends in another network, so claims of different processors (named below each claim) have
different base runs of the same configuration. An effect as large as its minimum detectable effect
need not stand, because that holds at the unadjusted level. The intervals are over seeds only: every
seed is judged on the same one test sample.

**Scale.** Each row names its scale, in words that come from the record: the width, training images
and mean training error of the first arm, or in claim `images` of the base with so many images.
Training errors are of up to {train_images:,} training images, with the center crop and without
dropout. *full* is the paper's setting where the data are the paper's too; *desk* is a small
stand-in. A desk record can confirm a mechanism. It cannot refute a claim about ImageNet, and its
numbers are of another network and other images. *Underfitted* means a training error above
{underfitted:.0f} %, except in the paper's own setting and where the runs end at a training error
(`relu`). Where claim `dropout` was run on the same base, the training error of the net trained
without dropout decides; where it was run on the same images with another base, nothing is said. An
underfitted net has little use for what prevents overfitting, so a regularizer's effect has to look
small or opposite there."""
REPEAT = """

**To be repeated.** A row is marked so where the recorded configurations differ from what the claim
would run today; the settings that differ are named. A measure of the first epoch alone is not
touched by settings that act later."""


def text(records: Sequence[Record], pictures: Sequence[Picture] = (), folder: str = "") -> str:
    """The text of docs/reproduction.md.

    Args:
        pictures: The figures of these records, which are not written here.
        folder: Where their files are, from the document.
    """
    lines = [
        "| claim | what was compared | the paper | ours [95 % interval] "
        "| minimum detectable effect (80 % power) | p, Holm | scale, data | verdict |",
        "|---|---|---|---|---|---|---|---|",
        *map(_markdown_row, table_rows(records)),
        "",
    ]
    for one in pictures:
        lines += [f"### {one.title}", "", f"![{one.title}]({folder}/{one.file})", ""]
        lines += [one.caption, ""]
    lines += ["## Each claim", ""]
    for claim in CLAIMS:
        of_claim = [record for record in records if record.claim is claim]
        note = f" {claim.note}" if claim.note else ""
        lines += [f"**{claim.id}**: {claim.printed_statement}. {published(claim)}.{note}", ""]
        for record in of_claim:
            images = ", ".join(f"{name} {n:,}" for name, n in record.raw["store"]["images"].items())
            about = f"{where(record.raw)}; store: {images}; {record.machines()}"
            lines += [f"`{record.raw['command']}` ({about})", ""]
            lines += [*(f"- {error}" for error in record.errors()), ""]
        if commands := not_run(claim, of_claim):
            lines += [f"{NOT_RUN}{', '.join(f'`{command}`' for command in commands)}", ""]
    questions = ", ".join(f"`{claim.id}`" for claim in CLAIMS if not claim.in_paper)
    head = HEAD.format(questions=questions)
    return f"{head}{reading(records)}\n\n" + "\n".join(lines).rstrip() + "\n"


def reading(records: Sequence[Record]) -> str:
    """Explain the rows: paragraphs in Markdown, with the counts of these records."""
    rows = [row for record in records for row in record.rows]
    # A row of a single seed has no interval and no p value.
    tested = sum(row.adjusted_p is not None for row in rows)
    stand = sum(map(stands, rows))
    text = READING.format(
        tested=tested, stand=stand, underfitted=100 * UNDERFITTED, train_images=TRAIN_IMAGES
    )
    if any(row.repeat for row in rows):
        text += REPEAT
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


NOT_RUN = "Not run here: "


def not_run(claim: Claim, records: Sequence[Record]) -> tuple[str, ...]:
    """The commands for the paper's own setting, or the only one there is; none if it was run.

    Args:
        records: The records of this claim.
    """
    if any(record.in_papers_setting for record in records):
        return ()
    scale = "desk" if claim.kinds == ("tiny-imagenet",) else "full"
    # The claim on the number of images has no larger scale than desk.
    if scale == "desk" and any(record.raw["scale"] == scale for record in records):
        return ()
    return claim.manual_commands or (f"alexnet reproduce {claim.id} --data STORE --scale {scale}",)
