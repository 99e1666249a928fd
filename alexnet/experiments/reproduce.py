"""Run claims and write their records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from alexnet.errors import AlexNetError
from alexnet.experiments.checks import check
from alexnet.experiments.claim import Claim
from alexnet.experiments.records import new_record, opened, write
from alexnet.experiments.runner import run, run_ahead
from alexnet.experiments.specs import Settings
from alexnet.experiments.table import record_lines
from alexnet.files import check_may_write, locked
from alexnet.program import command


def run_and_record(
    claims: Sequence[Claim], settings: Settings, records: Path, strict: bool
) -> Iterator[str]:
    """Run claims and write their records.

    Args:
        claims: The claims to run.
        settings: The store, the scale and the seeds.
        records: Folder of the records.
        strict: A claim that cannot be run on this store is an error; otherwise it is left out.

    Yields:
        The results of each claim as lines of text, or the reason why it has none.

    Raises:
        AlexNetError: No claim can be run, the records cannot be written, another process uses the
            folder of the runs, or a claim has no record, after those of the others.
    """
    fit = []
    for claim in claims:
        try:
            check(claim, settings)
            fit.append(claim)
        # Without names on the command line all claims are tried, and a store fits only some.
        except AlexNetError:
            if strict or (claim.learns_first and settings.first is not None):
                raise
    if settings.first is not None and not any(claim.learns_first for claim in fit):
        raise AlexNetError("--first names what claim pretrain learns first; no other claim does")
    if not fit:
        raise AlexNetError(
            f"no claim can be tested on {settings.store.name} with these options; name one, such "
            f"as {command('reproduce', 'lrn', '--data', settings.store.name)}, to see what it needs"
        )
    for folder in (settings.out, records):
        folder.mkdir(parents=True, exist_ok=True)
    # Before hours of training.
    check_may_write(records / "record")
    used = f"{settings.out} is already used"
    # Another command would share the runs, and take one that is being trained for one that failed.
    with locked(settings.out / ".lock", used, "wait for it to finish or choose another --out"):
        # Records are written claim by claim, so that an interruption costs one claim at most.
        run_ahead(fit, settings)
        failed = 0
        for claim in fit:
            try:
                raw = new_record(claim, run(claim, settings), settings)
            # One bad run must not cost the records of the other claims.
            except AlexNetError as error:
                failed += 1
                yield f"{claim.id}: {error}"
                continue
            path = write(raw, records)
            yield "\n".join([claim.id, *record_lines(opened(raw)), f"  {path}"])
    if failed:
        raise AlexNetError(f"{failed} of the claims have no record; see above")
