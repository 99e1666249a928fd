"""LRN in Triton against the plain implementation; without a GPU, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from torch.library import opcheck

from alexnet import ops
from alexnet.config import Lrn

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from alexnet.ops.triton_lrn import lrn_triton  # noqa: E402


@pytest.mark.parametrize(("maps", "columns"), [(1, 1), (7, 1), (6, 2), (40, 2)])
@pytest.mark.parametrize("n", [1, 4, 5, 9])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_triton_lrn_matches_the_plain_implementation(
    maps: int, columns: int, n: int, relu: bool, dtype: torch.dtype
) -> None:
    x = (
        torch.randn(2, maps * columns, 3, 5, generator=torch.Generator().manual_seed(0))
        .mul(3)
        .to(DEVICE, dtype)
    )
    x = x.contiguous(memory_format=torch.channels_last)
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(DEVICE, dtype)
    results = []
    for value, compiled in ((x, True), (x.double(), False)):
        value = value.clone().requires_grad_()
        if compiled:
            y = lrn_triton(value, relu, columns, n // 2, 2.0, 0.1)
        else:
            y = ops.norm_pool(value, relu, Lrn(n, alpha=0.1), columns=columns)
        (g,) = torch.autograd.grad(y, value, dy.to(y.dtype))
        assert y.stride() == value.stride()
        results.append((y.detach().double(), g.double()))
    # float32: a few roundings. bfloat16: computed in float32; the result of 8 bits is rounded by a
    # GPU and truncated by the interpreter.
    low_bits = 2**-8 if DEVICE == "cuda" else 2**-7
    rtol, of_largest = (2e-6, 2**-21) if dtype == torch.float32 else (low_bits, 4e-5)
    for low, exact in zip(*results, strict=True):
        torch.testing.assert_close(
            low, exact, rtol=rtol, atol=of_largest * float(exact.abs().max())
        )


def test_triton_lrn_passes_opcheck() -> None:
    x = (
        torch.randn(2, 8, 4, 5, device=DEVICE)
        .contiguous(memory_format=torch.channels_last)
        .requires_grad_()
    )
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    opcheck(lrn_triton, (x, True, 2, 2, 2.0, 1e-4), test_utils=checks)
