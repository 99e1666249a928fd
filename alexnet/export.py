"""Export of a trained network to ONNX, written from the plan operation by operation.

Local response normalization thus becomes ONNX's own LRN node, one per column, and not the dozen
small nodes that a tracer records. ONNX multiplies the mean of the squares and the paper multiplies
their sum, so alpha is scaled by the size of the neighborhood.

The input is the center crop, RGB in 0..255, float32; the output is the probabilities.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.architecture import Op
from alexnet.config import Conv, FullyConnected, Local
from alexnet.data.augment import TORCHVISION_STD
from alexnet.errors import RunError
from alexnet.files import write_whole
from alexnet.model import evaluation_mode
from alexnet.trained import Trained

OPSET = 18
LARGEST_DIFFERENCE = 1e-4  # of a probability: ONNX Runtime adds float32 in another order


class _Graph:
    """The nodes and constants of a growing graph; `x` is the name of the latest value."""

    def __init__(self, x: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.x = x

    def constant(self, value: NDArray[Any]) -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node on `inputs`, or on `self.x` if there are none; return its output names.

        A node with one output returns the name itself.
        """
        from onnx import helper

        names = [f"{op_type.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op_type, list(inputs or (self.x,)), names, **attributes))
        self.x = names[0]
        return names[0] if outputs == 1 else names


def write_onnx(trained: Trained, path: str | Path) -> None:
    """Write the network to an .onnx file, with class names and origin among its metadata.

    The result is compared with the network by ONNX Runtime before it is written.

    Raises:
        RunError: If the `export` extra is not installed, or if the two networks differ.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise RunError(
            "writing ONNX needs the export extra: pip install 'alexnet[export]'"
        ) from None
    net, preprocess = trained.net, trained.preprocess
    side = preprocess.input_px
    graph = _Graph("rgb")
    _preprocess(graph, trained)
    # The graph follows the same plan that the network runs.
    for op in net.plan:
        _step(graph, op, trained)
    # The network ends with logits; users of the file expect probabilities.
    flat = graph.add("Flatten", axis=1)
    graph.nodes.append(helper.make_node("Softmax", [flat], ["probabilities"], axis=1))
    input_info = helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, side, side])
    result = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, ["N", len(trained.classes)]
    )
    onnx_graph = helper.make_graph(graph.nodes, "alexnet", [input_info], [result], graph.constants)
    # A fixed version of the file format: onnx's default is its newest, which older runtimes refuse.
    model = helper.make_model(
        onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
    )
    about = {"classes": list(trained.classes), "words": list(trained.words)} | {
        k: trained.about[k] for k in ("recipe", "store", "sha256")
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.checker.check_model(model)
    # Compared before it is written, so that a wrong file never exists.
    _compare(model.SerializeToString(), trained)
    write_whole(Path(path), model.SerializeToString())


def _compare(model: bytes, trained: Trained) -> None:
    """Run the exported network beside ours on random input, if ONNX Runtime is installed.

    Raises:
        RunError: If the probabilities differ by more than rounding.
    """
    try:
        import onnxruntime
    except ImportError:
        return
    side = trained.preprocess.input_px
    rgb = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    # The graph begins with this preprocessing; our network expects it to be done.
    x = torch.from_numpy(rgb) - trained.preprocess.centre_patch_mean().cpu()
    if trained.preprocess.augment.mean == "channel":
        x = x / (255 * x.new_tensor(TORCHVISION_STD))
    with torch.no_grad(), evaluation_mode(trained.net):
        logits = trained.net(x.permute(0, 3, 1, 2).to(trained.preprocess.device))
        want = logits.softmax(1).cpu().numpy()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"rgb": np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))})
    if np.abs(got - want).max() > LARGEST_DIFFERENCE:
        raise RunError(
            f"the exported network's probabilities differ by {np.abs(got - want).max():.2g}; "
            "nothing was written"
        )


def _preprocess(graph: _Graph, trained: Trained) -> None:
    """Add the subtraction of the mean, and torchvision's division by the standard deviation."""
    mean = trained.preprocess.centre_patch_mean().cpu().numpy()  # (side, side, 3)
    graph.add("Sub", graph.x, graph.constant(mean.transpose(2, 0, 1)[None]))
    if trained.preprocess.augment.mean == "channel":
        deviation = np.array(TORCHVISION_STD, np.float32).reshape(1, 3, 1, 1) * 255
        graph.add("Div", graph.x, graph.constant(deviation))


def _step(graph: _Graph, step: Op, trained: Trained) -> None:
    """Add the nodes of one operation of the plan."""
    architecture = trained.net.architecture
    pool = architecture.pool
    shape: dict[str, Any] = dict(
        kernel_shape=[pool.size_px] * 2, strides=[pool.stride] * 2, ceil_mode=int(pool.partial)
    )
    match step.op:
        case "linear":
            _linear(graph, step, trained)
        case "activation":
            graph.add(
                {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}[architecture.activation]
            )
        case "lrn":
            _lrn(graph, trained)
        case "spatial_norm":
            _spatial(graph, trained)
        case "max_pool":
            graph.add("MaxPool", **shape)
        case "avg_pool":
            graph.add("AveragePool", **shape)
        case _:
            # Dropout: the 2012 form scales the activations at test time, the inverted form does
            # not.
            if architecture.dropout.form == "2012":
                keep = np.array(1 - architecture.dropout.rate, np.float32)
                graph.add("Mul", graph.x, graph.constant(keep))


def _lrn(graph: _Graph, trained: Trained) -> None:
    """Add local response normalization (section 3.3), for each column by itself."""
    lrn, columns = trained.net.architecture.lrn, trained.net.architecture.columns
    # The paper's formula has n // 2 neighbors on each side; for an even n ONNX would take one less
    # on one of them.
    size = 2 * (lrn.n // 2) + 1
    constants: dict[str, Any] = dict(size=size, alpha=lrn.alpha * size, beta=lrn.beta, bias=lrn.k)
    if columns == 1:
        graph.add("LRN", **constants)
        return
    # ONNX's LRN has no groups, and a sum must not cross from one column to the other.
    parts = graph.add("Split", outputs=columns, axis=1, num_outputs=columns)
    graph.add("Concat", *[graph.add("LRN", part, **constants) for part in parts], axis=1)


def _spatial(graph: _Graph, trained: Trained) -> None:
    """Add normalization over a square neighborhood within a map, which ONNX has no node for."""
    s = trained.net.architecture.spatial_norm
    a, half = graph.x, s.size_px // 2
    graph.add("Mul", a, a)
    graph.add("AveragePool", kernel_shape=[s.size_px] * 2, pads=[half] * 4, count_include_pad=1)
    # The mean times the number of positions is the sum; padding counts as zeros.
    graph.add("Mul", graph.x, graph.constant(np.array(s.alpha * s.size_px**2, np.float32)))
    graph.add("Add", graph.x, graph.constant(np.array(s.k, np.float32)))
    graph.add("Pow", graph.x, graph.constant(np.array(s.beta, np.float32)))
    graph.add("Div", a, graph.x)


def _linear(graph: _Graph, step: Op, trained: Trained) -> None:
    """Add a convolutional, locally connected or fully connected layer."""
    name = step.layer.name
    weight = trained.net.get_parameter(f"{name}.weight").detach().float().cpu().numpy()
    bias = trained.net.get_parameter(f"{name}.bias").detach().float().cpu().numpy()
    match step.layer:
        case Conv(stride=stride, pad=(before, after)):
            where: dict[str, Any] = dict(
                strides=[stride] * 2, pads=[before, before, after, after], group=step.columns
            )
            graph.add("Conv", graph.x, graph.constant(weight), graph.constant(bias), **where)
        case Local(pad=(before, after)):
            _local(graph, weight, bias, [before, before, after, after])
        case FullyConnected():
            graph.add("Flatten", axis=1)
            if step.columns == 1:
                graph.add("Gemm", graph.x, graph.constant(weight), graph.constant(bias), transB=1)
                return
            # `group` does for a convolution what must be written out for a matrix product.
            parts = graph.add("Split", outputs=step.columns, axis=1, num_outputs=step.columns)
            column_weights = zip(
                parts, np.split(weight, step.columns), np.split(bias, step.columns), strict=True
            )
            outputs = [
                graph.add("Gemm", x, graph.constant(w), graph.constant(b), transB=1)
                for x, w, b in column_weights
            ]
            graph.add("Concat", *outputs, axis=1)


def _local(
    graph: _Graph, weight: NDArray[np.float32], bias: NDArray[np.float32], pads: list[int]
) -> None:
    """Add a locally connected layer, for which ONNX has no node.

    A convolution with one-hot filters gathers the input patch of each position; one matrix product
    per position follows.
    """
    kernels, channels, size, _, height, width = weight.shape
    values = channels * size * size
    one_hot = np.eye(values, dtype=np.float32).reshape(values, channels, size, size)
    graph.add("Conv", graph.x, graph.constant(one_hot), pads=pads)
    graph.add("Reshape", graph.x, graph.constant(np.array([0, values, height * width])))
    graph.add("Transpose", perm=[2, 0, 1])
    each = weight.reshape(kernels, values, height * width).transpose(2, 1, 0)
    graph.add("MatMul", graph.x, graph.constant(each))
    graph.add("Transpose", perm=[1, 2, 0])
    graph.add("Reshape", graph.x, graph.constant(np.array([0, kernels, height, width])))
    graph.add("Add", graph.x, graph.constant(bias[None]))
