"""Dropout in Triton against the plain implementation; without a GPU, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from alexnet import ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from alexnet.ops.triton_dropout import dropout_triton, masked  # noqa: E402

KEY = ops.dropout_key(1, 2, "fc6")


@pytest.mark.parametrize(
    ("shape", "mask"),
    [
        ((5, 7), ops.Mask(KEY, 0.5)),
        ((300, 37), ops.Mask(KEY, 0.3)),  # several programs
        ((3, 5, 4, 2), ops.Mask(KEY, 0.5)),
        ((6, 9), ops.Mask(KEY, 0.5, first_row=3, first_unit=9, units=27)),
        ((2, 1025), ops.Mask(KEY, 0.5, first_row=7, first_unit=1025, units=2050)),
        ((4, 4), ops.Mask(KEY, 0.0)),
        ((4, 4), ops.Mask(KEY, 1.0)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_dropout_has_the_bits_of_the_plain_mask(
    shape: tuple[int, ...], mask: ops.Mask, dtype: torch.dtype
) -> None:
    x, dy = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    keep = mask.draw(shape, x.device)
    x.requires_grad_()
    y = masked(x, mask)
    assert torch.equal(y, x * keep)
    (dx,) = torch.autograd.grad(y, x, dy)
    assert torch.equal(dx, dy * keep)


def test_triton_dropout_reads_the_key_from_the_device() -> None:
    key = torch.tensor([KEY], device=DEVICE)
    x, mask = torch.ones(4, 64, device=DEVICE), ops.Mask(key, 0.5)
    before = masked(x, mask)
    key += 1
    assert not torch.equal(masked(x, mask), before)
    assert torch.equal(masked(x, mask), masked(x, ops.Mask(KEY + 1, 0.5)))


def test_triton_dropout_passes_opcheck() -> None:
    x = torch.randn(3, 8, device=DEVICE, requires_grad=True)
    arguments = x, torch.tensor([KEY], device=DEVICE), 1, 24, 0, 0, 2**31
    opcheck(
        dropout_triton,
        arguments,
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )
