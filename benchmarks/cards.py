"""Estimate the training speed of one card, and of several cards of one machine from that.

    python -m benchmarks.cards

Prints the tables of docs/gpu.md. Nothing of it was measured. The step of one card is that of
`roofline.py`. The ranks share the batch and take the step of `train/graph_step.py`: each copies its
gradients into one tensor in float32, and a ring adds these tensors over NVLink (`cost.py`) after
the backward pass and before the update, so that the sum overlaps with nothing. The images are on
the cards already.
"""

from __future__ import annotations

from alexnet import recipes
from alexnet.architecture import plan
from benchmarks.cost import Layout, Machine, predict, step_macs
from benchmarks.roofline import (
    BATCHES,
    BETWEEN_INSTRUCTIONS,
    COPY_BYTES_PER_S,
    Span,
    images_per_s,
)

LINK_BYTES_PER_S = 185e9, 370e9
"""What a card sends through the ring, careful and hopeful. NVLink of an H100 carries 450 GB/s each
way, of which a ring of NCCL leaves 370 by its maintainers (NVIDIA/nccl-tests, issue 212)."""
MESSAGE_S = 3e-6
"""Assumed: the smallest sum over eight cards then takes 42 us."""
GRADIENT_COPY_BYTES = 2 + 4 + 2
"""For each parameter: bfloat16 is read and float32 written, of which the update then reads twice as
much."""


def one(card: str, between: str) -> dict[int, Span]:
    """Estimated images/s of `paper` on one card by its batch, careful and hopeful, in thousands.

    Args:
        between: Language of the pass between two convolutions.
    """
    estimates: dict[int, Span] = {}
    for batch in BATCHES:
        careful, hopeful = images_per_s(card, between, batch)
        estimates[batch] = round(careful, -3), round(hopeful, -3)
    return estimates


def several(cards: int) -> dict[int, Span]:
    """Estimated images/s of `paper` on H100s of one machine by the batch of each, as `one`."""
    paper = recipes.paper().architecture
    parameters = sum(op.parameters for op in plan(paper))
    copy_s = parameters * GRADIENT_COPY_BYTES / COPY_BYTES_PER_S["H100"]
    estimates: dict[int, Span] = {}
    for batch, speeds in one("H100", "Triton").items():
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


def row(name: str, estimates: dict[int, Span]) -> str:
    """The estimates as a row of a Markdown table, rounded to thousands."""
    cells = [
        f"{careful:,.0f} to {hopeful:,.0f}"
        for careful, hopeful in (
            (round(low, -3), round(high, -3)) for low, high in estimates.values()
        )
    ]
    return f"| {name} | {' | '.join(cells)} |"


def rows() -> list[str]:
    """The rows of both tables: one card, and several."""
    single = [
        row(
            card + ("" if between == "Triton" else ", the pass between convolutions in CUDA C++"),
            one(card, between),
        )
        for card in COPY_BYTES_PER_S
        for between in BETWEEN_INSTRUCTIONS
    ]
    return [*single, *(row(f"{cards} H100", several(cards)) for cards in (2, 4, 8))]


if __name__ == "__main__":
    print(*rows(), sep="\n")
