"""Registration of functions as PyTorch operators, which PyTorch's compiler can use too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.library import define, impl, infer_schema, register_fake


def _nothing(*_: Any) -> None:
    """The results of an operator that has none."""


def operator(
    name: str,
    empty_results: Callable[..., Any] = _nothing,
    device_type: str = "cpu",
    mutates_args: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Any]:
    """Register a function as the operator `alexnet::NAME`, and return the operator.

    `torch.library.custom_op` does this and more: it raises the versions of mutated arguments, and
    refuses to differentiate an operator without a formula. But the first call of such an operator
    imports PyTorch's compiler, which took half of the time of `alexnet predict`. So call these
    where no gradient is recorded, or register one.

    Args:
        empty_results: Takes the arguments of the function and returns uninitialized results, from
            which the compiler knows their shapes.
        device_type: Device type of the tensors that the function takes, such as "cpu"; "default":
            any.
        mutates_args: Names of the arguments that the function writes to.
    """

    def register(function: Callable[..., Any]) -> Any:
        schema = infer_schema(function, mutates_args=mutates_args)
        define(f"alexnet::{name}", schema, tags=torch.Tag.pt2_compliant_tag)
        impl(f"alexnet::{name}", device_type, function)
        register_fake(f"alexnet::{name}", empty_results)
        return getattr(torch.ops.alexnet, name).default

    return register
