"""The update of all parameters in one Triton launch against the plain rule; without a GPU, in
Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from alexnet.train.sgd import ParamHyper, update

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from alexnet.ops.triton_update import BLOCK, BLOCKS, Update  # noqa: E402

# More than one program, exactly one, and parts of a block; the first is channels-last.
SHAPES = [(8, 3, 5, 5), (BLOCK * BLOCKS + 7,), (BLOCK * BLOCKS,), (70, 30), (3,)]
HYPER = [
    ParamHyper(0.1, 5e-4),
    ParamHyper(0.2, 0.0),
    ParamHyper(0.01, 5e-4),
    ParamHyper(0.0, 1.0),
    ParamHyper(0.3, 0.1),
]


def values(scale: float, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(round(100 * scale))
    tensors = [scale * torch.randn(shape, generator=generator) for shape in SHAPES]
    tensors[0] = tensors[0].contiguous(memory_format=torch.channels_last)
    return [tensor.to(DEVICE, dtype) for tensor in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_launch_updates_every_parameter_as_the_rule_says(dtype: torch.dtype) -> None:
    weights, velocities, gradients = values(1.0), values(0.1), values(0.5, dtype)
    expected = [(w.clone(), v.clone()) for w, v in zip(weights, velocities, strict=True)]
    copies = [weight.bfloat16() for weight in weights[:-1]]
    one = Update(weights, velocities, [*copies, None])
    one.set_hyper([h.lr for h in HYPER], [h.weight_decay for h in HYPER])
    one.read_from(gradients)
    for _ in range(2):
        one.launch(0.9)
        for (weight, velocity), gradient, hyper in zip(expected, gradients, HYPER, strict=True):
            update(weight, velocity, gradient.float(), hyper, 0.9)
    for (weight, velocity), got, got_velocity in zip(expected, weights, velocities, strict=True):
        # A product and a sum may be contracted, or not: a rounding of values up to 4, each step.
        torch.testing.assert_close(got, weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(got_velocity, velocity, rtol=0, atol=1e-6)
    assert torch.equal(weights[3], values(1.0)[3]), "a learning rate of 0 freezes the weight"
    assert torch.equal(velocities[3], values(0.1)[3])
    for copy, weight in zip(copies, weights, strict=False):
        # A GPU rounds, the interpreter truncates.
        assert ((copy.float() - weight).abs() <= weight.abs() * 2**-7).all()


def test_rates_are_set_whatever_the_default_device() -> None:
    one = Update([torch.ones(3, device=DEVICE)], [torch.zeros(3, device=DEVICE)], [None])
    with torch.device("meta"):
        one.set_hyper([0.5], [2.0])
    assert one._hyper.tolist() == [[0.5, 1.0]]


def test_gradients_in_another_layout_are_read_by_their_indices() -> None:
    weights, velocities, gradients = values(1.0), values(0.1), values(0.5)
    gradients[0], gradients[3] = gradients[0].contiguous(), gradients[3].T.contiguous().T
    assert gradients[0].stride() != weights[0].stride()
    expected = [w.clone() for w in weights]
    one = Update(weights, velocities, [None] * len(weights))
    one.set_hyper([1.0] * len(weights), [0.0] * len(weights))
    one.read_from(one.in_layout(gradients))
    one.launch(0.0)
    for got, weight, gradient in zip(weights, expected, gradients, strict=True):
        torch.testing.assert_close(got, weight - gradient, rtol=1e-6, atol=1e-7)
