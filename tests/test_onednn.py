"""A fully connected layer by oneDNN against PyTorch's, forward and backward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from alexnet.ops import fully_connected, onednn, trial
from alexnet.ops.trial import WAYS
from tests.conftest import HAS_ONEDNN
from tests.transformed_gradients import assert_transformed_alike

pytestmark = pytest.mark.skipif(not HAS_ONEDNN, reason="this PyTorch has no oneDNN")


def test_large_layers_of_one_column_are_suited() -> None:
    assert onednn.suits((256, 256), 1)
    assert not onednn.suits((256, 255), 1)
    assert not onednn.suits((256, 256), 2)


def leaves(
    images: int, inputs: int, units: int, dtype: torch.dtype = torch.float32
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = (images, inputs), (units, inputs), (units,)
    drawn = [torch.randn(shape, generator=generator) for shape in shapes]
    return [each.to(dtype).requires_grad_() for each in drawn]


@pytest.mark.parametrize("shape", [(128, 300, 70), (1, 300, 70), (5, 7, 1), (64, 1024, 10)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_layer_equals_that_of_pytorch(shape: tuple[int, int, int], with_bias: bool) -> None:
    ours, exact = leaves(*shape), leaves(*shape, torch.float64)
    results = []
    for layer, (x, weight, bias) in ((onednn.linear, ours), (F.linear, exact)):
        inputs = [x, weight, bias] if with_bias else [x, weight]
        y = layer(x, weight, bias if with_bias else None)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
        results.append([y, *torch.autograd.grad(y, inputs, dy)])
    for got, wanted in zip(*results, strict=True):
        # Sums of at most 1,024 products in float32: 2^-24 for each of some tens of roundings.
        assert float((got - wanted).detach().norm() / wanted.detach().norm()) < 2e-6


def test_only_the_gradients_that_are_needed_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = leaves(3, 20, 4)
    y = onednn.linear(x.detach(), weight, bias)
    product, calls = onednn._product, []
    monkeypatch.setattr(onednn, "_product", lambda *given: calls.append(given) or product(*given))
    y.sum().backward()
    assert len(calls) == 1
    assert weight.grad is not None
    assert torch.equal(bias.grad, torch.full((4,), 3.0))  # type: ignore[arg-type]


def test_gradient_can_be_differentiated_again() -> None:
    x, weight, bias = leaves(4, 9, 3)
    second = []
    for layer in (onednn.linear, F.linear):
        (dx,) = torch.autograd.grad(layer(x, weight, bias).square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(dx.square().sum(), weight)[0])
    # Twice the roundings of a single gradient.
    torch.testing.assert_close(*second, rtol=1e-5, atol=1e-4)


def test_gradient_of_a_linear_layer_may_be_transformed() -> None:
    x, weight, bias = leaves(4, 9, 3)
    assert_transformed_alike(
        lambda x: onednn.linear(x, weight, bias), lambda x: F.linear(x, weight, bias), x
    )


def test_observed_layer_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "way", lambda *_, **__: WAYS[trial.ONEDNN])
    x, weight, bias = leaves(4, 9, 3)
    batched = torch.func.vmap(lambda x: fully_connected(x[None], weight, bias, training=True)[0])
    torch.testing.assert_close(batched(x), F.linear(x, weight, bias))
