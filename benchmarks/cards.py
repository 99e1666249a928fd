"""Estimate the training speed of several cards of one machine from that of one card.

    python -m benchmarks.cards

Nothing of it was measured. The step of one card is the estimate of docs/gpu.md.
The ranks share the batch and take the step of `train/graph_step.py`: each copies its gradients into
one tensor in float32, and a ring adds these tensors over NVLink (`cost.py`) after the backward pass
and before the update, so that the sum overlaps with nothing. The images are on the cards already.
"""

from __future__ import annotations

from alexnet import recipes
from alexnet.architecture import plan
from benchmarks.cost import Layout, Machine, predict, step_macs

ONE_H100 = {
    128: (29_000, 44_000),
    256: (32_000, 50_000),
    512: (34_000, 53_000),
    1024: (34_000, 55_000),
}
"""Images/s of one H100 by its batch, careful and hopeful."""
LINK_BYTES_PER_S = 185e9, 370e9
"""What a card sends through the ring, careful and hopeful. NVLink of an H100 carries 450 GB/s each
way, of which a ring of NCCL leaves 370 by its maintainers (NVIDIA/nccl-tests, issue 212)."""
MESSAGE_S = 3e-6
"""Assumed: the smallest sum over eight cards then takes 42 us."""
COPY_BYTES_PER_S = 3.0e12
GRADIENT_COPY_BYTES = 2 + 4 + 2
"""For each parameter: bfloat16 is read and float32 written, of which the update then reads twice as
much."""


def several(cards: int) -> dict[int, tuple[float, float]]:
    """Estimated images/s of `paper` on cards of one machine by the batch of each, as `ONE_H100`."""
    paper = recipes.paper().architecture
    parameters = sum(op.parameters for op in plan(paper))
    copy_s = parameters * GRADIENT_COPY_BYTES / COPY_BYTES_PER_S
    estimates: dict[int, tuple[float, float]] = {}
    for batch, speeds in ONE_H100.items():
        careful, hopeful = (
            predict(
                paper,
                Layout(cards),
                cards * batch,
                Machine(speed * step_macs(paper, Layout(), 1), link, MESSAGE_S),
            )
            for speed, link in zip(speeds, LINK_BYTES_PER_S, strict=True)
        )
        estimates[batch] = (
            cards * batch / (careful.compute_s + careful.exchange_s + copy_s),
            cards * batch / (hopeful.compute_s + hopeful.exchange_s + copy_s),
        )
    return estimates


def row(cards: int) -> str:
    """The estimates as a row of a Markdown table, rounded to thousands."""
    cells = [
        f"{careful:,.0f} to {hopeful:,.0f}"
        for careful, hopeful in (
            (round(low, -3), round(high, -3)) for low, high in several(cards).values()
        )
    ]
    return f"| {cards} H100 | {' | '.join(cells)} |"


if __name__ == "__main__":
    for number in (2, 4, 8):
        print(row(number))
