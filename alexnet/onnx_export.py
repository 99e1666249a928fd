"""A trained network as an ONNX file, written from the plan operation by operation.

So that local response normalisation is ONNX's own LRN node, a column each, and not the dozen small ones a tracer
finds. Input: RGB 0..255 of the centre patch, float32; output: probabilities. ONNX divides LRN's alpha by its size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.config import Conv, Full, Local
from alexnet.data.augment import TORCHVISION_STD
from alexnet.files import write_whole
from alexnet.model import Step
from alexnet.weights import Trained

OPSET = 18
LARGEST_DIFFERENCE = 1e-4  # of a probability: float32 sums in another order


class _Graph:
    """Nodes and constants while the graph grows; `x` is the name of the latest value."""

    def __init__(self, x: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.x = x

    def constant(self, value: NDArray[Any]) -> str:
        from onnx import numpy_helper

        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node on `inputs` (self.x where none are given); returns its output's name, or names."""
        from onnx import helper

        names = [f"{kind.lower()}{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs or (self.x,)), names, **attributes))
        self.x = names[0]
        return names[0] if outputs == 1 else names


def write_onnx(trained: Trained, path: str | Path) -> None:
    """Write the network to an .onnx file, class names and origin among its metadata.

    Compared with onnxruntime before it is written. Raises ValueError without the `export` extra, or if they differ.
    """
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise ValueError(
            "writing ONNX needs the export extra: pip install 'alexnet[export]'"
        ) from None
    net, preprocess = trained.net, trained.preprocess
    side = preprocess.input_px
    graph = _Graph("rgb")
    _preprocess(graph, trained)
    for step in net.steps:
        _step(graph, step, trained)
    flat = graph.add("Flatten", axis=1)
    graph.nodes.append(helper.make_node("Softmax", [flat], ["probabilities"], axis=1))
    given = helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["N", 3, side, side])
    result = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, ["N", len(trained.classes)]
    )
    whole = helper.make_graph(graph.nodes, "alexnet", [given], [result], graph.constants)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    about = {"classes": list(trained.classes), "words": list(trained.words)} | {
        k: trained.about[k] for k in ("recipe", "store", "sha256")
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.checker.check_model(model)
    _compare(model.SerializeToString(), trained)
    write_whole(Path(path), model.SerializeToString())


def _compare(model: bytes, trained: Trained) -> None:
    """Run the file's network beside ours, where onnxruntime is installed. Raises ValueError when they differ."""
    try:
        import onnxruntime
    except ImportError:
        return
    side = trained.preprocess.input_px
    rgb = np.random.default_rng(0).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    x = torch.from_numpy(rgb) - trained.preprocess.centre_patch_mean().cpu()
    if trained.preprocess.augment.mean == "channel":
        x = x / (255 * x.new_tensor(TORCHVISION_STD))
    with torch.no_grad():
        want = (
            trained.net(x.permute(0, 3, 1, 2).to(trained.preprocess.device))
            .softmax(1)
            .cpu()
            .numpy()
        )
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"rgb": np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))})
    if np.abs(got - want).max() > LARGEST_DIFFERENCE:
        raise ValueError(
            f"the exported network's probabilities differ by {np.abs(got - want).max():.2g}: not written"
        )


def _preprocess(graph: _Graph, trained: Trained) -> None:
    mean = trained.preprocess.centre_patch_mean().cpu().numpy()  # (side, side, 3)
    graph.add("Sub", graph.x, graph.constant(mean.transpose(2, 0, 1)[None]))
    if trained.preprocess.augment.mean == "channel":
        deviation = np.array(TORCHVISION_STD, np.float32).reshape(1, 3, 1, 1) * 255
        graph.add("Div", graph.x, graph.constant(deviation))


def _step(graph: _Graph, step: Step, trained: Trained) -> None:
    architecture = trained.net.architecture
    pool = architecture.pool
    shape: dict[str, Any] = dict(
        kernel_shape=[pool.size_px] * 2, strides=[pool.stride] * 2, ceil_mode=int(pool.partial)
    )
    match step.op:
        case "linear":
            _linear(graph, step, trained)
        case "unit":
            graph.add({"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}[architecture.unit])
        case "lrn":
            _lrn(graph, trained)
        case "spatial":
            _spatial(graph, trained)
        case "max_pool":
            graph.add("MaxPool", **shape)
        case "avg_pool":
            graph.add("AveragePool", **shape)
        case _:
            if architecture.dropout.form == "2012":
                keep = np.array(1 - architecture.dropout.rate, np.float32)
                graph.add("Mul", graph.x, graph.constant(keep))


def _lrn(graph: _Graph, trained: Trained) -> None:
    lrn, columns = trained.net.architecture.lrn, trained.net.architecture.columns
    size = 2 * (lrn.n // 2) + 1
    constants: dict[str, Any] = dict(size=size, alpha=lrn.alpha * size, beta=lrn.beta, bias=lrn.k)
    if columns == 1:
        graph.add("LRN", **constants)
        return
    parts = graph.add("Split", outputs=columns, axis=1, num_outputs=columns)
    graph.add("Concat", *[graph.add("LRN", part, **constants) for part in parts], axis=1)


def _spatial(graph: _Graph, trained: Trained) -> None:
    s = trained.net.architecture.spatial
    a, half = graph.x, s.size_px // 2
    graph.add("Mul", a, a)
    graph.add("AveragePool", kernel_shape=[s.size_px] * 2, pads=[half] * 4, count_include_pad=1)
    graph.add("Mul", graph.x, graph.constant(np.array(s.alpha * s.size_px**2, np.float32)))
    graph.add("Add", graph.x, graph.constant(np.array(s.k, np.float32)))
    graph.add("Pow", graph.x, graph.constant(np.array(s.beta, np.float32)))
    graph.add("Div", a, graph.x)


def _linear(graph: _Graph, step: Step, trained: Trained) -> None:
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
        case Full():
            graph.add("Flatten", axis=1)
            if step.columns == 1:
                graph.add("Gemm", graph.x, graph.constant(weight), graph.constant(bias), transB=1)
                return
            parts = graph.add("Split", outputs=step.columns, axis=1, num_outputs=step.columns)
            own = zip(
                parts, np.split(weight, step.columns), np.split(bias, step.columns), strict=True
            )
            made = [
                graph.add("Gemm", x, graph.constant(w), graph.constant(b), transB=1)
                for x, w, b in own
            ]
            graph.add("Concat", *made, axis=1)


def _local(
    graph: _Graph, weight: NDArray[np.float32], bias: NDArray[np.float32], pads: list[int]
) -> None:
    """Patches by a convolution with one-hot kernels, then one matrix product a position."""
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
