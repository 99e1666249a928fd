"""The estimates for several cards in docs/gpu.md are those of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet import recipes
from benchmarks.cards import ONE_H100, row, several
from benchmarks.cost import Layout, payload_bytes

PAGE = (Path(__file__).parent.parent / "docs" / "gpu.md").read_text()


@pytest.mark.parametrize("cards", [2, 4, 8])
def test_page_has_the_estimates_of_the_model(cards: int) -> None:
    assert f"{row(cards)}\n" in PAGE
    for batch, speeds in several(cards).items():
        for speed, of_one in zip(speeds, ONE_H100[batch], strict=True):
            assert 0.5 * cards * of_one < speed < cards * of_one


def test_page_has_the_estimates_for_one_card_and_the_bytes_of_the_gradients() -> None:
    cells = [f"{careful:,} to {hopeful:,}" for careful, hopeful in ONE_H100.values()]
    assert f"| H100 | {' | '.join(cells)} |\n" in PAGE
    gradients = payload_bytes(recipes.paper().architecture, Layout(8), 4096)["gradients"]
    assert f"{gradients / 1e6:.0f} MB in float32" in PAGE
