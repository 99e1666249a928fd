"""A network on several ranks is the network: outputs, losses, gradients, weights. Ranks are processes, over gloo."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alexnet.config import Architecture, Parallel
from alexnet.data.loader import Share
from alexnet.model import Network
from alexnet.parallel.mesh import join, leave
from alexnet.parallel.part import Part
from alexnet.train.sgd import Rates, descend, zero_velocity
from tests.conftest import tiny_architecture
from tests.ranks import on_ranks

STEPS = 3


def compared(parallel: Parallel, architecture: Architecture, batch: int, tolerance: float) -> dict[str, int]:
    """On a rank: some steps of its part against the same steps of the whole net, in float64."""
    mesh = join(parallel)
    part, whole = Part(architecture, 0, mesh).double(), Network(architecture, 0).double()
    generator = torch.Generator().manual_seed(1)
    share = Share(mesh.shards.place, mesh.shards.size)
    own, parameters = dict(part.named_parameters()), dict(whole.named_parameters())
    velocities = zero_velocity(part), zero_velocity(whole)
    of = {name: Rates(0.05, 0.0005) for name in parameters}
    for step in range(STEPS):
        x = torch.randn(batch, 3, 32, 32, dtype=torch.float64, generator=generator)
        x = x.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, part.last.shape[0], (batch,), generator=generator)
        rows = slice(sum(share.sizes(batch)[: share.place]), sum(share.sizes(batch)[: share.place + 1]))
        loss, wrong = part.loss_of(x[rows], labels[rows], batch, (0, step))
        expected, all_wrong = whole.loss(x, labels, (0, step))
        sums = torch.stack([loss.detach(), wrong.double()])
        if mesh.units.place:
            sums.zero_()
        torch.distributed.all_reduce(sums)
        torch.testing.assert_close(sums, torch.stack([expected.detach(), all_wrong.double()]))
        descend(loss, own, velocities[0], of, 0.9, part.summed)
        descend(expected, parameters, velocities[1], of, 0.9)
        for name, weight in own.items():
            torch.testing.assert_close(weight, part.cuts[name].of(parameters[name]), rtol=0, atol=tolerance)
    if batch % mesh.shards.size == 0:
        with torch.no_grad():
            torch.testing.assert_close(part(x[rows]), whole(x)[rows], rtol=0, atol=tolerance)
    mesh.sent_bytes.clear()
    gathered = part.whole(own)
    if mesh.first:
        for name, weight in parameters.items():
            torch.testing.assert_close(gathered[name], weight.detach(), rtol=0, atol=tolerance)
    leave()
    return dict(mesh.sent_bytes)


MANY_CLASSES = replace(tiny_architecture(), classes=48)  # more than the 32 hidden units: cut by classes
NO_LINKS = replace(tiny_architecture(), links=False)
ONE_COLUMN = replace(tiny_architecture(), columns=1)


@pytest.mark.parametrize(
    ("ranks", "parallel", "architecture", "batch"),
    [
        (2, Parallel(columns=2), tiny_architecture(), 6),
        (2, Parallel(columns=2), MANY_CLASSES, 6),
        (2, Parallel(columns=2), NO_LINKS, 6),
        (2, Parallel(), tiny_architecture(), 5),
        (4, Parallel(columns=2), tiny_architecture(), 8),
        (2, Parallel(hybrid=True), ONE_COLUMN, 5),
        (4, Parallel(columns=2, hybrid=True), MANY_CLASSES, 7),
        (4, Parallel(), tiny_architecture(), 3),  # a rank without pictures
    ],
)
def test_ranks_together_are_the_network(ranks: int, parallel: Parallel, architecture: Architecture, batch: int) -> None:
    on_ranks(ranks, compared, parallel, architecture, batch, 1e-12)  # float64: sums in another order, of values near 1
