"""How each framework is asked for local response normalization.

A framework is imported by its function and not before, so that each can have its own environment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conformance.cases import Case

Array = NDArray[Any]


@dataclass(frozen=True)
class Adapter:
    """A framework that is ready to compute.

    Attributes:
        version: Of the framework.
        forward: (x, case, dtype) -> y. x: (N, C, H, W) float32, exact in bfloat16; dtype: float32
            or bfloat16. The case has one column.
        gradient: (x, dy, case, dtype) -> dx; None if the framework has no gradients.
        columns: The framework computes columns itself; otherwise it gets one after the other.
    """

    version: str
    forward: Callable[[Array, Case, str], Array]
    gradient: Callable[[Array, Array, Case, str], Array] | None = None
    columns: bool = False


def size_and_alpha(case: Case) -> tuple[int, float]:
    """The size and alpha for an operator that divides alpha by the size."""
    if case.convention == "mean":
        return case.n, case.alpha
    # The paper's window has n // 2 neighbors on each side, whether n is odd or even.
    size = 2 * (case.n // 2) + 1
    return size, case.alpha * size


def torch() -> Adapter:
    """`torch.nn.functional.local_response_norm`."""
    import torch as framework

    def run(x: Any, case: Case) -> Any:
        size, alpha = size_and_alpha(case)
        norm = framework.nn.functional.local_response_norm
        return norm(x, size, alpha=alpha, beta=case.beta, k=case.k)

    return _with_torch(framework, run)


def alexnet() -> Adapter:
    """`alexnet.ops.lrn`, by its fastest path for the case.

    With a C++ compiler that is the compiled pass where beta is 3/4, otherwise the banded product.
    """
    import torch as framework

    from alexnet import ops
    from alexnet.provenance import VERSION

    def run(x: Any, case: Case) -> Any:
        # The compiled pass takes no other layout; networks have this one, too.
        x = x.contiguous(memory_format=framework.channels_last)
        # An even n is the paper's window.
        return ops.lrn(x, case.n, case.k, case.factor, case.beta, case.columns)

    return replace(_with_torch(framework, run), version=VERSION, columns=True)


def alexnet_plain() -> Adapter:
    """`alexnet.ops.plain.lrn`, the formula in PyTorch operations."""
    import torch as framework

    from alexnet.config import Lrn
    from alexnet.ops import plain
    from alexnet.provenance import VERSION

    def run(x: Any, case: Case) -> Any:
        return plain.lrn(x, Lrn(case.n, case.k, case.factor, case.beta), case.columns)

    return replace(_with_torch(framework, run), version=VERSION, columns=True)


def _with_torch(framework: Any, run: Callable[[Any, Case], Any]) -> Adapter:
    from importlib.metadata import version

    def forward(x: Array, case: Case, dtype: str) -> Array:
        y = run(framework.from_numpy(x).to(getattr(framework, dtype)), case)
        result: Array = y.double().numpy()
        return result

    def gradient(x: Array, dy: Array, case: Case, dtype: str) -> Array:
        a = framework.from_numpy(x).to(getattr(framework, dtype)).requires_grad_()
        run(a, case).backward(framework.from_numpy(dy).to(a.dtype))
        result: Array = a.grad.double().numpy()
        return result

    # Without the build's suffix, which names a CPU or GPU build.
    return Adapter(version("torch").partition("+")[0], forward, gradient)


def _onnx_model(case: Case, shape: tuple[int, ...], dtype: str) -> Any:
    """A model of one LRN node."""
    from onnx import TensorProto, helper

    kind = TensorProto.FLOAT if dtype == "float32" else TensorProto.BFLOAT16
    size, alpha = size_and_alpha(case)
    constants = {"size": size, "alpha": alpha, "beta": case.beta, "bias": case.k}
    node = helper.make_node("LRN", ["x"], ["y"], **constants)
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "lrn", [value("x", kind, shape)], [value("y", kind, shape)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def onnxruntime() -> Adapter:
    """ONNX Runtime's CPU provider, with a model of one LRN node."""
    import onnxruntime as framework

    framework.set_default_logger_severity(4)  # its errors are reported here, not on stderr too

    def forward(x: Array, case: Case, dtype: str) -> Array:
        model = _onnx_model(case, x.shape, dtype).SerializeToString()
        session = framework.InferenceSession(model, providers=["CPUExecutionProvider"])
        result: Array = session.run(None, {"x": x})[0]
        return result

    return Adapter(framework.__version__, forward)


def onnx_reference() -> Adapter:
    """`onnx.reference.ReferenceEvaluator`, which claims to be the definition of the operators."""
    import onnx as framework
    from onnx.reference import ReferenceEvaluator

    def forward(x: Array, case: Case, dtype: str) -> Array:
        if dtype == "bfloat16":
            import ml_dtypes

            x = x.astype(ml_dtypes.bfloat16)
        (y,) = ReferenceEvaluator(_onnx_model(case, x.shape, dtype)).run(None, {"x": x})
        return np.asarray(y, np.float64)

    return Adapter(framework.__version__, forward)


def openvino() -> Adapter:
    """OpenVINO's LRN on a CPU, over the axis of the maps."""
    import openvino as framework
    from openvino import opset13 as operators

    def forward(x: Array, case: Case, dtype: str) -> Array:
        kind = framework.Type.f32 if dtype == "float32" else framework.Type.bf16
        size, alpha = size_and_alpha(case)
        value = operators.parameter(list(x.shape), kind)
        axes = operators.constant(np.array([1]))
        norm = operators.lrn(value, axes, alpha, case.beta, case.k, size)
        # A hint of f32: on some processors the plugin would compute in bfloat16 unasked.
        hint = {"INFERENCE_PRECISION_HINT": "f32" if dtype == "float32" else "bf16"}
        model = framework.Core().compile_model(framework.Model([norm], [value]), "CPU", hint)
        if dtype == "float32":
            return np.array(model(x)[0], np.float64)
        # NumPy has no bfloat16: the bits pass as those of another type of two bytes.
        tensor = framework.Tensor(kind, list(x.shape))
        tensor.data[:] = (x.view(np.uint32) >> 16).astype(np.uint16).view(tensor.data.dtype)
        (y,) = model.create_infer_request().infer([tensor]).values()
        bits = np.ascontiguousarray(y).view(np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)

    return Adapter(framework.__version__.partition("-")[0], forward)


def tensorflow() -> Adapter:
    """`tf.nn.local_response_normalization`, whose alpha multiplies the sum."""
    import tensorflow as framework

    def run(x: Any, case: Case) -> Any:
        norm = framework.nn.local_response_normalization
        return norm(x, case.n // 2, bias=case.k, alpha=case.factor, beta=case.beta)

    # TensorFlow has the maps last.
    def tensor(x: Array, dtype: str) -> Any:
        return framework.constant(x.transpose(0, 2, 3, 1), getattr(framework, dtype))

    def array(y: Any) -> Array:
        result: Array = framework.cast(y, framework.float64).numpy().transpose(0, 3, 1, 2)
        return result

    def forward(x: Array, case: Case, dtype: str) -> Array:
        return array(run(tensor(x, dtype), case))

    def gradient(x: Array, dy: Array, case: Case, dtype: str) -> Array:
        a = tensor(x, dtype)
        with framework.GradientTape() as tape:
            tape.watch(a)
            y = run(a, case)
        return array(tape.gradient(y, a, tensor(dy, dtype)))

    return Adapter(framework.__version__, forward, gradient)


def jax() -> Adapter:
    """A composition of `lax.reduce_window`: neither jax.nn nor Flax has the operator."""
    import jax as framework
    import jax.numpy as jnp

    def run(x: Any, case: Case) -> Any:
        size = case.n if case.convention == "mean" else 2 * (case.n // 2) + 1
        total = framework.lax.reduce_window(
            x * x, x.dtype.type(0), framework.lax.add, (1, size, 1, 1), (1, 1, 1, 1), "SAME"
        )
        return x * (case.k + case.factor * total) ** -case.beta

    def forward(x: Array, case: Case, dtype: str) -> Array:
        return np.asarray(run(jnp.asarray(x, dtype), case), np.float64)

    def gradient(x: Array, dy: Array, case: Case, dtype: str) -> Array:
        _, back = framework.vjp(lambda a: run(a, case), jnp.asarray(x, dtype))
        return np.asarray(back(jnp.asarray(dy, dtype))[0], np.float64)

    return Adapter(framework.__version__, forward, gradient)


FRAMEWORKS: dict[str, tuple[Callable[[], Adapter], str]] = {
    "alexnet": (alexnet, "torch"),
    "alexnet-plain": (alexnet_plain, "torch"),
    "torch": (torch, "torch"),
    "onnxruntime": (onnxruntime, "onnxruntime onnx"),
    "openvino": (openvino, "openvino"),
    "tensorflow": (tensorflow, "tensorflow"),
    "jax": (jax, "jax"),
    "onnx-reference": (onnx_reference, "onnx ml_dtypes"),
}
"""By name: what opens the framework, and the packages to install for it."""
