"""Run one claim of the paper: does local response normalization lower the test error?

    python examples/run_one_claim.py STORE OUT --scale desk --seeds 5

STORE: tiny-imagenet, or photographs of 112 pixels or more. On tiny-imagenet a run takes some 20
minutes on one core; two arms with five seeds are ten runs. Each arm of the claim is trained with
each seed; the arms share seed, data and order, so that differences are paired. `alexnet reproduce`
lists the other claims.
"""

import argparse
import sys
from pathlib import Path

from alexnet.cli import main as alexnet
from alexnet.data.store import Store
from alexnet.errors import AlexNetError
from alexnet.experiments import records
from alexnet.experiments.claims import chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--claim", default="lrn")
    parser.add_argument("--scale", default="desk", choices=("smoke", "desk", "full"))
    parser.add_argument("--seeds", type=int, default=5)
    a = parser.parse_args()

    # A claim is a value: its arms change one base configuration, its effects compare the arms.
    (claim,) = chosen([a.claim])
    print(f"{claim.id}: {claim.printed_statement}")
    print(f"arms: {', '.join(arm.name for arm in claim.arms)}; the paper: {claim.paper}")

    where = ["--out", a.out / "runs", "--records", a.out / "records"]
    settings = ["--data", a.store, "--scale", a.scale, "--seeds", a.seeds, "--jobs", 2, *where]
    alexnet(["reproduce", claim.id, *map(str, settings)])

    # The record holds the runs; the effects are computed when it is read.
    read = records.read(a.out / "records")
    checksum = Store(a.store).checksum
    (record,) = (
        r
        for r in read
        if (r.claim, r.raw["scale"], r.raw["store_checksum"]) == (claim, a.scale, checksum)
    )
    for row in record.rows:
        print(f"{row.effect.name}: mean {row.estimate.mean:.2f}, n = {row.estimate.n}")


if __name__ == "__main__":
    try:
        main()
    except AlexNetError as error:
        print(f"run_one_claim.py: {error}", file=sys.stderr)
        sys.exit(2)
