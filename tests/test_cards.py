"""The estimates for one and for several cards in docs/gpu.md are those of the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet import recipes
from benchmarks.cards import one, rows, several
from benchmarks.cost import Layout, payload_bytes
from benchmarks.roofline import kernels

PAGE = (Path(__file__).parent.parent / "docs" / "gpu.md").read_text()


def test_page_has_the_estimates_of_the_models() -> None:
    estimates = rows()
    assert len(estimates) == 7
    for row in estimates:
        assert f"{row}\n" in PAGE


def test_targets_of_the_page_stand_beside_the_estimates_of_the_models() -> None:
    def span(card: str, batch: int) -> str:
        careful, hopeful = one(card, "Triton")[batch]
        return f"{careful:,.0f} to {hopeful:,.0f}"

    assert f"| H100, batch 512: 40,000 images/s | {span('H100', 512)} |\n" in PAGE
    assert f"| H200, batch 512: 55,000 images/s | {span('H200', 512)} |\n" in PAGE
    imagenet = f"{span('H100', 512)} (H100, batch 512), {span('H100', 128)} (the recipe's batch"
    assert imagenet in PAGE


@pytest.mark.parametrize("cards", [2, 4, 8])
def test_several_cards_lose_less_than_half_to_their_exchange(cards: int) -> None:
    for speeds, of_one in zip(several(cards).values(), one("H100", "Triton").values(), strict=True):
        for speed, single in zip(speeds, of_one, strict=True):
            assert 0.5 * cards * single < speed < cards * single


def test_page_has_the_bytes_of_the_gradients() -> None:
    gradients = payload_bytes(recipes.paper().architecture, Layout(8), 4096)["gradients"]
    assert f"{gradients / 1e6:.0f} MB in float32" in PAGE


def test_estimated_step_has_the_launches_and_operations_of_the_network() -> None:
    """67 launches, as the trace of a step; three products of each layer, two of the first."""
    step = [*kernels(128, "Triton")]
    assert sum(kernel.launches for kernel in step) == 67
    # 529 GFLOP, and 432 for 363 in the two products of conv1.
    assert sum(kernel.flops for kernel in step) == pytest.approx(539.6e9, rel=1e-3)
