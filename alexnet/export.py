"""Export of a trained network to ONNX, written from the plan operation by operation.

Local response normalization thus becomes ONNX's own LRN node, one per column, and not the dozen
small nodes that a tracer records. ONNX multiplies the mean of the squares and the paper multiplies
their sum, so alpha is scaled by the size of the neighborhood.

The input is the center crop, RGB in 0..255, float32; the output is the probabilities. With its
preprocessing, the network takes stored images, uint8, and crops them itself. The metadata of the
file say which of the two it is, and how an image becomes its input.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.architecture import Op
from alexnet.config import Conv, FullyConnected, Local
from alexnet.data.augment import evaluation_crops
from alexnet.data.preprocess import TORCHVISION_STD
from alexnet.errors import RunError, not_installed
from alexnet.files import write_whole
from alexnet.layers import BatchNorm
from alexnet.provenance import code_version, describe
from alexnet.trained import Trained, probabilities

OPSET = 18
LARGEST_DIFFERENCE = 1e-4  # of a probability: ONNX Runtime adds float32 in another order
LARGEST_SHARE = 1e-4
"""Largest difference of the logarithm of a probability, as a share of its range over the classes.
The probabilities of a network that has hardly learned are nearly the same for every input."""
ROUNDING, LEAST = 1e-6, 1e-10  # of a logarithm; and the least probability that is compared


class _Graph:
    """The nodes and constants of a growing graph; `x` is the name of the latest value."""

    def __init__(self, name: str) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.input = self.x = name

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


Crops = Literal["centre", "nine", "ten"]
"""The test crops that a file averages, as in `Augment.test_patches`."""


def write_onnx(
    trained: Trained, path: str | Path, preprocessing: bool = False, crops: Crops = "centre"
) -> bool:
    """Write the network to an .onnx file, with its preprocessing and origin among its metadata.

    Before it is written, the result is compared with the network by ONNX Runtime, where that is
    installed.

    Args:
        preprocessing: False: the input `rgb` is the center crop, (N, 3, crop_px, crop_px)
            float32 in 0..255. True: the input `images` are images of the stored size,
            (N, stored_px, stored_px, 3) uint8.
        crops: The crops whose probabilities are averaged. Any but the center crop needs
            `preprocessing`.

    Returns:
        Whether the two were compared.

    Raises:
        RunError: If the package onnx is not installed, if several crops are asked for without
            preprocessing, or if the two networks differ.
    """
    if crops != "centre" and not preprocessing:
        raise RunError(f"averaging {crops} crops inside the file needs --with-preprocessing")
    try:
        import onnx
        from onnx import TensorProto, helper
    except ImportError:
        raise RunError(not_installed("writing ONNX", "onnx", "onnxruntime")) from None
    px, stored_px = trained.preprocess.test_px, trained.preprocess.stored_px
    positions = _positions(trained, crops)
    if preprocessing:
        graph = _Graph("images")
        kind, shape = TensorProto.UINT8, ["N", stored_px, stored_px, 3]
        _crops(graph, trained, positions)
    else:
        graph = _Graph("rgb")
        kind, shape = TensorProto.FLOAT, ["N", 3, px, px]
        _subtract_mean(graph, trained, positions[0])
    inputs = helper.make_tensor_value_info(graph.input, kind, shape)
    _divide_by_deviation(graph, trained)
    # The graph follows the same plan that the network runs.
    weights, folded = _weights(trained)
    for op in trained.net.plan:
        if op.name not in folded:
            _add(graph, op, trained, weights)
    # The network ends with logits; users of the file expect probabilities.
    graph.add("Flatten", axis=1)
    graph.add("Softmax", axis=1)
    if len(positions) > 1:
        # The paper averages the softmax outputs of the crops, not the logits.
        each_crop = np.array([len(positions), -1, len(trained.classes)])
        graph.add("Reshape", graph.x, graph.constant(each_crop))
        graph.add("ReduceMean", graph.x, graph.constant(np.array([0])), keepdims=0)
    graph.nodes.append(helper.make_node("Identity", [graph.x], ["probabilities"]))
    result = helper.make_tensor_value_info(
        "probabilities", TensorProto.FLOAT, ["N", len(trained.classes)]
    )
    onnx_graph = helper.make_graph(graph.nodes, "alexnet", [inputs], [result], graph.constants)
    # A fixed version of the file format: onnx's default is its newest, which older runtimes refuse.
    model = helper.make_model(
        onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
    )
    about = {"classes": list(trained.classes), "words": list(trained.words)} | {
        k: trained.about[k] for k in ("recipe", "store", "sha256")
    }
    about["code"] = describe(trained.about.get("code") or code_version())
    about["input"] = description(trained, preprocessing, crops)
    helper.set_model_props(model, {key: json.dumps(value) for key, value in about.items()})
    onnx.checker.check_model(model)
    # Compared before it is written, so that a wrong file never exists.
    compared = _compare(model.SerializeToString(), trained, preprocessing, crops)
    write_whole(Path(path), model.SerializeToString())
    return compared


def layers_onnx(trained: Trained) -> bytes:
    """Return the network as an ONNX file whose outputs are the values of all operations.

    The input `x` is preprocessed, (N, 3, input_px, input_px) float32. Each output has the name of
    its operation (`Op.name`); the values of a fully connected layer are (N, units). Nothing is
    folded into another operation, so that every value is that of `Network.activations`.

    Raises:
        RunError: If the package onnx is not installed, or an operation cannot be exported.
    """
    try:
        from onnx import TensorProto, helper
    except ImportError:
        raise RunError(not_installed("writing ONNX", "onnx", "onnxruntime")) from None
    graph, outputs = _Graph("x"), []
    weights, _ = _weights(trained, fold=False)
    for op in trained.net.plan:
        _add(graph, op, trained, weights)
        graph.nodes.append(helper.make_node("Identity", [graph.x], [op.name]))
        outputs.append(helper.make_tensor_value_info(op.name, TensorProto.FLOAT, None))
    px = trained.preprocess.input_px
    inputs = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, px, px])
    onnx_graph = helper.make_graph(graph.nodes, "alexnet", [inputs], outputs, graph.constants)
    model = helper.make_model(
        onnx_graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
    )
    content: bytes = model.SerializeToString()
    return content


def description(trained: Trained, preprocessing: bool, crops: Crops) -> dict[str, Any]:
    """How an image becomes the input of the exported network, and what the network does itself.

    Returns:
        JSON values, which the file has among its metadata as `input`.
    """
    preprocess = trained.preprocess
    px, stored_px = trained.preprocess.test_px, preprocess.stored_px
    before = {
        "color": "RGB, upright as the EXIF orientation says",
        # `data.image.decode` asks for twice what is needed.
        "jpeg_draft_px": 2 * stored_px,
        "shorter_side_px": stored_px,
        "filter": "bicubic with antialiasing (PIL.Image.Resampling.BICUBIC)",
        "center_crop_px": stored_px if preprocessing else px,
        "range": [0, 255],
        "dtype": "uint8" if preprocessing else "float32",
        "layout": "NHWC" if preprocessing else "NCHW",
    }
    mean = "the mean of each color" if preprocess.augment.mean == "channel" else "the mean image"
    divided = preprocess.deviation is not None
    inside = {
        "crop_px": px,
        "crops": len(_positions(trained, crops)),
        "subtracts": mean,
        "divides_by": "the deviation of each color" if divided else None,
    }
    of_predict = len(_positions(trained, preprocess.augment.test_patches))
    return {"before": before, "inside": inside, "crops_of_alexnet_predict": of_predict}


def _positions(trained: Trained, crops: Crops) -> list[tuple[int, int, bool]]:
    """(top, left, reflected) of each crop."""
    preprocess = trained.preprocess
    augment = replace(preprocess.augment, test_patches=crops)
    return evaluation_crops(augment, preprocess.stored_px, preprocess.input_px)


def _compare(model: bytes, trained: Trained, preprocessing: bool, crops: Crops) -> bool:
    """Run the exported network beside ours on random images, if ONNX Runtime is installed.

    Returns:
        Whether it is installed.

    Raises:
        RunError: If the probabilities differ by more than rounding.
    """
    try:
        import onnxruntime
    except ImportError:
        return False
    # The file computes in float32, whatever precision the run is used in on this device.
    preprocess = copy(trained.preprocess)
    preprocess.dtype = torch.float32
    shape = 2, preprocess.stored_px, preprocess.stored_px, 3
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    test = replace(preprocess.augment, test_patches=crops)
    want = probabilities(trained.net, preprocess, torch.from_numpy(images), test).cpu().numpy()
    fed = {"images": images} if preprocessing else {"rgb": _centre(images, preprocess.test_px)}
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, fed)
    difference = float(np.abs(got - want).max())
    # In float64: the rounding of a logarithm in float32 is as large as what is looked for.
    log_got, log_want = (np.log(np.maximum(p.astype(np.float64), LEAST)) for p in (got, want))
    limits = LARGEST_SHARE * np.ptp(log_want, axis=1, keepdims=True) + ROUNDING
    differences = np.abs(log_got - log_want)
    is_close = (differences <= limits).all()
    # Not `difference > ...`: one that is not a number is an error, too.
    if not (is_close and difference <= LARGEST_DIFFERENCE):
        raise RunError(
            f"the exported network's probabilities differ by {difference:.2g}, and their "
            f"logarithms by {differences.max():.2g}; nothing was written"
        )
    return True


def _centre(images: NDArray[np.uint8], px: int) -> NDArray[np.float32]:
    """The center crops of stored images as the network without preprocessing takes them."""
    half = (images.shape[1] - px) // 2
    crop = images[:, half : half + px, half : half + px].astype(np.float32)
    return np.ascontiguousarray(crop.transpose(0, 3, 1, 2))


def _crops(graph: _Graph, trained: Trained, positions: list[tuple[int, int, bool]]) -> None:
    """Add the crops of stored images, less their means, one below the other: (crops * N, 3, ...).

    All crops pass the network as one batch, so that its weights are in the file once.
    """
    px = trained.preprocess.test_px
    graph.add("Cast", to=1)  # TensorProto.FLOAT
    images = graph.add("Transpose", perm=[0, 3, 1, 2])
    rows_and_columns = graph.constant(np.array([2, 3]))
    parts = []
    for top, left, flip in positions:
        starts = graph.constant(np.array([top, left]))
        ends = graph.constant(np.array([top + px, left + px]))
        graph.add("Slice", images, starts, ends, rows_and_columns)
        if flip:
            # From the last column to the first; the end lies before the first of any image.
            last, before_first, columns, backwards = (
                graph.constant(np.array([value])) for value in (-1, -px - 1, 3, -1)
            )
            graph.add("Slice", graph.x, last, before_first, columns, backwards)
        _subtract_mean(graph, trained, (top, left, flip))
        parts.append(graph.x)
    if len(parts) > 1:
        graph.add("Concat", *parts, axis=0)


def _subtract_mean(graph: _Graph, trained: Trained, position: tuple[int, int, bool]) -> None:
    """Rescale the crop at this position to the input, and subtract what the recipe subtracts."""
    preprocess, (top, left, flip) = trained.preprocess, position
    px = trained.preprocess.test_px
    mean = preprocess.subtracted
    if preprocess.mean_moves:
        mean = mean[top : top + px, left : left + px]
        mean = mean.flip(1) if flip else mean
    else:
        _rescale(graph, trained)
    graph.add("Sub", graph.x, graph.constant(mean.cpu().numpy().transpose(2, 0, 1)[None]))
    if preprocess.mean_moves:
        _rescale(graph, trained)


def _rescale(graph: _Graph, trained: Trained) -> None:
    """Add the rescaling of a test crop that is larger than the input, bilinear as in training."""
    px = trained.preprocess.input_px
    if trained.preprocess.test_px != px:
        sides = graph.constant(np.array([px, px]))
        # Regions of interest and factors are not given.
        graph.add("Resize", graph.x, "", "", sides, mode="linear", axes=[2, 3])


def _divide_by_deviation(graph: _Graph, trained: Trained) -> None:
    """Add torchvision's division by the standard deviation, if the recipe has it."""
    if trained.preprocess.augment.mean == "channel":
        deviation = np.array(TORCHVISION_STD, np.float32).reshape(1, 3, 1, 1) * 255
        graph.add("Div", graph.x, graph.constant(deviation))


Weights = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]
"""The weights and biases of each layer, by its name."""


def _weights(trained: Trained, fold: bool = True) -> tuple[Weights, set[str]]:
    """The weights and biases, and the names of the batch normalizations that are folded into them.

    Batch normalization is a factor and a summand for each map. They are folded into the layer
    directly before it, or into the next layer if only dropout lies between and that layer does not
    pad: a padded zero is not normalized, so at the border the summand would be wrong.

    Args:
        fold: False: none is folded.
    """
    net, folded = trained.net, set[str]()
    weights: Weights = {
        op.layer.name: (
            _numbers(net.get_parameter(f"{op.module}.weight")),
            _numbers(net.get_parameter(f"{op.module}.bias")),
        )
        for op in net.plan
        if op.op == "linear"
    }
    for before, op, after in zip(net.plan, net.plan[1:], [*net.plan[2:], None], strict=False):
        if op.op != "batch_norm" or not fold:
            continue
        factor, summand = _factor_and_summand(net.get_submodule(op.module))
        dropped = after is not None and after.op == "dropout"
        if after is not None and dropped:
            after = net.plan[net.plan.index(after) + 1]
        if before.op == "linear":
            weight, bias = weights[before.layer.name]
            by_output = [vector.reshape(-1, *[1] * (bias.ndim - 1)) for vector in (factor, summand)]
            bias = bias * by_output[0] + by_output[1]
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            weights[before.layer.name] = weight, bias
        elif after is not None and _sees_maps_alone(after):
            # The layer behind the dropout of 2012 sees a part of the summand.
            if dropped and net.architecture.dropout.form == "2012":
                summand = summand * (1 - net.architecture.dropout.rate)
            weight, bias = weights[after.layer.name]
            factors, summands = (_by_input(vector, after) for vector in (factor, summand))
            bias = bias + (weight * summands).sum(tuple(range(1, weight.ndim)))
            weights[after.layer.name] = weight * factors, bias
        else:
            continue
        folded.add(op.name)
    return weights, folded


def _numbers(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().cpu().numpy()


def _factor_and_summand(norm: torch.nn.Module) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What batch normalization multiplies each map with and adds to it, at test time."""
    assert isinstance(norm, BatchNorm)
    mean, variance = _numbers(norm.running_mean), _numbers(norm.running_var)
    factor = _numbers(norm.weight) / np.sqrt(variance + norm.epsilon)
    return factor, _numbers(norm.bias) - factor * mean


def _sees_maps_alone(op: Op) -> bool:
    """Whether an operation is a layer that sees no padded zeros beside the maps."""
    if op.op != "linear" or isinstance(op.layer, Local):
        return False
    return isinstance(op.layer, FullyConnected) or max(op.layer.pad) == 0


def _by_input(of_maps: NDArray[np.float64], op: Op) -> NDArray[np.float64]:
    """Numbers of the maps that a layer sees, in a shape that suits its weights."""
    shape = op.weight_shape
    # A fully connected layer sees each pixel of a map by itself.
    if isinstance(op.layer, FullyConnected):
        of_maps = of_maps.repeat(op.in_shape[1] * op.in_shape[2])
    rows = of_maps.reshape(op.columns, -1).repeat(shape[0] // op.columns, axis=0)
    return rows.reshape(*shape[:2], *[1] * (len(shape) - 2))


def _add(graph: _Graph, op: Op, trained: Trained, weights: Weights) -> None:
    """Add the nodes of one operation of the plan."""
    architecture = trained.net.architecture
    pool = architecture.pool
    shape: dict[str, Any] = dict(
        kernel_shape=[pool.size_px] * 2, strides=[pool.stride] * 2, ceil_mode=int(pool.partial)
    )
    match op.op:
        case "linear":
            _linear(graph, op, weights)
        case "batch_norm":
            _batch_norm(graph, trained.net.get_submodule(op.module))
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
        case "dropout":
            # The 2012 form scales the activations at test time, the inverted form does not.
            if architecture.dropout.form == "2012" and architecture.dropout.rate:
                keep = np.array(1 - architecture.dropout.rate, np.float32)
                graph.add("Mul", graph.x, graph.constant(keep))
        case other:
            raise RunError(f"{op.name}: the ONNX export has no operation {other!r}")


def _lrn(graph: _Graph, trained: Trained) -> None:
    """Add local response normalization (section 3.3), for each column by itself."""
    lrn, columns = trained.net.architecture.lrn, trained.net.architecture.lrn_columns
    # Not n: for an even size ONNX would take one map less on one side.
    size = lrn.num_maps
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


def _batch_norm(graph: _Graph, norm: torch.nn.Module) -> None:
    """Add batch normalization that could not be folded into a layer."""
    assert isinstance(norm, BatchNorm)
    names = "weight", "bias", "running_mean", "running_var"
    tensors = [getattr(norm, name).detach().float().cpu().numpy() for name in names]
    constants = [graph.constant(tensor) for tensor in tensors]
    graph.add("BatchNormalization", graph.x, *constants, epsilon=norm.epsilon)


def _linear(graph: _Graph, op: Op, weights: Weights) -> None:
    """Add a convolutional, locally connected or fully connected layer."""
    weight, bias = (array.astype(np.float32) for array in weights[op.layer.name])
    match op.layer:
        case Conv(stride=stride, pad=(before, after)):
            where: dict[str, Any] = dict(
                strides=[stride] * 2, pads=[before, before, after, after], group=op.columns
            )
            graph.add("Conv", graph.x, graph.constant(weight), graph.constant(bias), **where)
        case Local(pad=(before, after)):
            _local(graph, weight, bias, [before, before, after, after])
        case FullyConnected():
            graph.add("Flatten", axis=1)
            if op.columns == 1:
                graph.add("Gemm", graph.x, graph.constant(weight), graph.constant(bias), transB=1)
                return
            # `group` does for a convolution what must be written out for a matrix product.
            parts = graph.add("Split", outputs=op.columns, axis=1, num_outputs=op.columns)
            column_weights = zip(
                parts, np.split(weight, op.columns), np.split(bias, op.columns), strict=True
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
    matrices = weight.reshape(kernels, values, height * width).transpose(2, 1, 0)
    graph.add("MatMul", graph.x, graph.constant(matrices))
    graph.add("Transpose", perm=[1, 2, 0])
    graph.add("Reshape", graph.x, graph.constant(np.array([0, kernels, height, width])))
    graph.add("Add", graph.x, graph.constant(bias[None]))
