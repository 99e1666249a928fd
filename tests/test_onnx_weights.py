"""Networks in ONNX files: recognized by their operations, imported, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet import load, recipes
from alexnet.checkpoint import read as read_checkpoint
from alexnet.cli import main
from alexnet.config import BatchNorm, Dropout, Pool
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.errors import RunError
from alexnet.model import Network
from alexnet.weights import caffemodel
from alexnet.weights.compare import answers
from alexnet.weights.exporting import operations
from alexnet.weights.facts import facts
from alexnet.weights.files import read
from alexnet.weights.identify import identify
from alexnet.weights.importing import import_weights
from alexnet.weights.layouts import name_parameters
from tests import frameworks
from tests.weight_files import (
    CLASSES,
    IMAGES,
    WIDTH,
    assert_same,
    caffe_architecture,
    reason_of,
    trained_of,
)

pytestmark = pytest.mark.usefixtures("no_card")


def test_an_onnx_file_gives_onnx_runtimes_values_in_every_layer(tmp_path: Path) -> None:
    """Caffe's net as a converter writes it: LRN nodes across all channels, Gemm, 224 pixels."""
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper, numpy_helper

    blobs = frameworks.caffe_blobs(6, WIDTH, CLASSES)
    nodes, x, shown = [], "data", []
    pads = {"conv1": 0, "conv2": 2, "conv3": 1, "conv4": 1, "conv5": 1}
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"):
        inputs = [x, f"{name}/0", f"{name}/1"]
        if name in pads:
            group = 2 if name in ("conv2", "conv4", "conv5") else 1
            nodes.append(
                helper.make_node(
                    "Conv",
                    inputs,
                    [name],
                    group=group,
                    strides=[4 if name == "conv1" else 1] * 2,
                    pads=[pads[name]] * 4,
                )
            )
        else:
            if name == "fc6":
                nodes.append(helper.make_node("Flatten", [x], ["flat"]))
                inputs[0] = "flat"
            nodes.append(helper.make_node("Gemm", inputs, [name], transB=1))
        x = name
        number = name[-1]
        after = [("Relu", "relu", {})] if name != "fc8" else []
        if name in ("conv1", "conv2"):
            after.append(("LRN", "norm", dict(size=5, alpha=1e-4, beta=0.75, bias=1.0)))
        if name in ("conv1", "conv2", "conv5"):
            window = dict(kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
            after.append(("MaxPool", "pool", window))
        for kind, prefix, settings in after:
            nodes.append(helper.make_node(kind, [x], [f"{prefix}{number}"], **settings))
            x = f"{prefix}{number}"
            shown.append(x)
    shown.append(x)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in shown],
        [numpy_helper.from_array(blob, name) for name, blob in blobs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "net.onnx")
    import_weights(tmp_path / "net.onnx", tmp_path / "run")
    trained = load(tmp_path / "run", device="cpu")
    assert trained.config.recipe == "caffe_alexnet"
    assert trained.config.architecture.input_px == 224
    session = runtime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    mean = np.array([104.00698793, 116.66876762, 122.67891434], np.float32)
    bgr = IMAGES[:, 16:240, 16:240, ::-1].transpose(0, 3, 1, 2) - mean[:, None, None]
    values = session.run(shown, {"data": np.ascontiguousarray(bgr, np.float32)})
    assert_same(trained, dict(zip(shown, values, strict=True)))


def test_a_network_imported_from_our_own_onnx_file_answers_alike(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from alexnet.export import write_onnx

    trained = trained_of("original")
    write_onnx(trained, tmp_path / "a.onnx")
    import_weights(tmp_path / "a.onnx", tmp_path / "run")
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60
    with torch.no_grad():
        wanted, found = trained.net(x), load(tmp_path / "run").net(x)
    # The file keeps alpha times 25 in 32 bits; everything else is the same.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Our own ONNX files, by recipe, each written once; a copy that a test can change."""
    onnx = pytest.importorskip("onnx")
    from alexnet.export import write_onnx

    folder = tmp_path_factory.mktemp("onnx")

    def model(recipe: str) -> Any:
        path = folder / f"{recipe}.onnx"
        if not path.exists():
            torch.manual_seed(1)
            write_onnx(trained_of(recipe), path)
        return onnx.load(path)

    return model


def saved_as(model: Any, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def without(model: Any, kind: str) -> None:
    """Take the nodes of a kind out of a model, whose output is then their input."""
    for node in [one for one in model.graph.node if one.op_type == kind]:
        for other in model.graph.node:
            for i, name in enumerate(other.input):
                if name == node.output[0]:
                    other.input[i] = node.input[0]
        model.graph.node.remove(node)


def set_of(node: Any, **attributes: Any) -> None:
    """Set attributes of a node of ONNX."""
    from onnx import helper

    for name, value in attributes.items():
        kept = [one for one in node.attribute if one.name != name]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute(name, value)])


def test_an_onnx_file_says_itself_whether_fc6_and_fc7_are_halved(
    exported: Callable[[str], Any], tmp_path: Path
) -> None:
    model = exported("paper")
    path = saved_as(model, tmp_path / "2012.onnx")
    import_weights(path, tmp_path / "run")
    config = read_checkpoint(tmp_path / "run").config
    assert config.architecture.dropout == recipes.paper().architecture.dropout
    # The run computes what the exported network does, from the stored image on.
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    crop = np.ascontiguousarray(IMAGES[:, 16:240, 16:240].transpose(0, 3, 1, 2), np.float32)
    (want,) = session.run(None, {"rgb": crop})
    trained = load(tmp_path / "run", device="cpu")
    with torch.no_grad():
        logits = trained.net(trained.preprocess.centre(torch.from_numpy(IMAGES)))
    np.testing.assert_allclose(logits.softmax(1).numpy(), want, atol=1e-5)
    with pytest.raises(RunError, match="says itself whether fc6 and fc7 are halved"):
        import_weights(path, tmp_path / "other", dropout="2012")
    without(model, "Mul")
    path = saved_as(model, tmp_path / "inverted.onnx")
    found = identify(read(path))
    assert found.chosen().config.architecture.dropout.form == "inverted"
    (fact,) = [one for one in facts(found) if one.what == "fc6 and fc7"]
    assert (fact.value, fact.source) == ("as they are (dropout rescales)", "in the file")


def test_dropout_of_nothing_is_no_factor_in_our_own_onnx_file(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    from alexnet.export import write_onnx

    trained = trained_of("one_column")
    architecture = replace(trained.net.architecture, dropout=Dropout(0.0, "2012"))
    trained = replace(trained, net=Network(architecture).eval())
    write_onnx(trained, tmp_path / "a.onnx")
    found = identify(read(tmp_path / "a.onnx")).chosen()
    assert found.net.name == "one_column"
    assert answers(found.config.architecture) == answers(architecture)


def test_classes_in_our_own_onnx_file_are_those_of_the_run(
    exported: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exported("paper")
    named = {entry.key: entry for entry in model.metadata_props}
    wnids = [f"n0000000{i}" for i in range(CLASSES)]
    words = [f"thing {i}" for i in range(CLASSES)]
    for i, (classes, fits) in enumerate(
        (
            (json.dumps(wnids), True),
            (json.dumps([*wnids[1:], wnids[1]]), False),
            (json.dumps(wnids[1:]), False),
            ("no JSON", False),
        )
    ):
        named["classes"].value, named["words"].value = classes, json.dumps(words)
        path = saved_as(model, tmp_path / "a.onnx")
        main(["import", str(path), str(tmp_path / f"run{i}")])
        assert ("classes: not named" in capsys.readouterr().out) == (not fits)
        about = read_checkpoint(tmp_path / f"run{i}").about
        assert about["classes"] == (wnids if fits else [f"class {i}" for i in range(CLASSES)])
        assert about["words"] == (words if fits else [])


def _add_biases_behind(model: Any, node: Any) -> None:
    """Take the biases out of a layer and add them to its output by an operation of their own."""
    from onnx import helper

    add = helper.make_node("Add", ["product", node.input[2]], [node.output[0]])
    del node.input[2]
    node.output[0] = "product"
    model.graph.node.insert([*model.graph.node].index(node) + 1, add)


@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_weights_of_inputs_and_outputs_are_transposed(
    kind: str, exported: Callable[[str], Any], tmp_path: Path
) -> None:
    """The weights of fc7 are square, so that no shape tells a transpose that was forgotten."""
    from onnx import numpy_helper

    model = exported("paper")
    plain = name_parameters(read(saved_as(model, tmp_path / "a.onnx")))
    constants = {one.name: one for one in model.graph.initializer}
    _, node, _ = [one for one in model.graph.node if one.op_type == "Gemm"]
    weight = constants[node.input[1]]
    turned = np.ascontiguousarray(numpy_helper.to_array(weight).T)
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    set_of(node, transB=0)
    if kind == "MatMul":
        # As converters of TensorFlow write a layer, which has its biases behind it.
        node.op_type = kind
        _add_biases_behind(model, node)
    path = saved_as(model, tmp_path / "b.onnx")
    found = name_parameters(read(path))
    assert plain is not None and found is not None
    assert turned.shape[0] == turned.shape[1]
    for name in ("fc7.weight", "fc7.bias"):
        np.testing.assert_array_equal(found.arrays[name], plain.arrays[name])
    assert identify(read(path)).chosen().net.name == "paper"


@pytest.mark.parametrize(("kind", "name"), [("Gemm", "fc7"), ("Conv", "conv2")])
def test_numbers_behind_a_layer_without_biases_are_its_biases(
    kind: str, name: str, exported: Callable[[str], Any], tmp_path: Path
) -> None:
    from onnx import numpy_helper

    model = exported("paper")
    plain = name_parameters(read(saved_as(model, tmp_path / "a.onnx")))
    node = [one for one in model.graph.node if one.op_type == kind][1]
    (constant,) = [one for one in model.graph.initializer if one.name == node.input[2]]
    if kind == "Conv":
        biases = numpy_helper.to_array(constant).reshape(1, -1, 1, 1)
        constant.CopyFrom(numpy_helper.from_array(biases, constant.name))
    _add_biases_behind(model, node)
    path = saved_as(model, tmp_path / "b.onnx")
    found = name_parameters(read(path))
    assert plain is not None and found is not None
    np.testing.assert_array_equal(found.arrays[f"{name}.bias"], plain.arrays[f"{name}.bias"])
    assert identify(read(path)).chosen().net.name == "paper"


def test_factors_that_are_none_of_dropout_are_refused(
    exported: Callable[[str], Any], tmp_path: Path
) -> None:
    from onnx import numpy_helper

    for value, says in (
        (np.array(2, np.float32), "by constants that are not the factor of a dropout"),
        (np.array([0.5, 0.25], np.float32), "by constants that are not the factor of a dropout"),
        (np.array(0.25, np.float32), "by different numbers after its layers"),
    ):
        model = exported("one_column")
        factor = next(node for node in model.graph.node if node.op_type == "Mul").input[1]
        constant = next(one for one in model.graph.initializer if one.name == factor)
        constant.CopyFrom(numpy_helper.from_array(value, factor))
        assert says in reason_of(saved_as(model, tmp_path / "a.onnx"))
    model = exported("one_column")
    first = next(node for node in model.graph.node if node.op_type == "Mul")
    for other in model.graph.node:
        other.input[:] = [
            first.input[0] if name == first.output[0] else name for name in other.input
        ]
    model.graph.node.remove(first)
    assert "after fc6 it has activation, and" in reason_of(saved_as(model, tmp_path / "a.onnx"))


def test_networks_that_differ_in_one_setting_give_other_answers() -> None:
    plain = recipes.modern().architecture
    for other in (
        replace(plain, batch_norm=BatchNorm(epsilon=1e-3)),
        replace(plain, input_px=192),
        replace(plain, activation="tanh"),
    ):
        assert answers(other) != answers(plain)
    four, five, six = (
        replace(recipes.paper().architecture, lrn=replace(recipes.paper().architecture.lrn, n=n))
        for n in (4, 5, 6)
    )
    assert answers(four) == answers(five) != answers(six)


def test_pools_are_compared(exported: Callable[[str], Any], tmp_path: Path) -> None:
    def pools(**attributes: Any) -> Path:
        model = exported("one_column")
        for node in model.graph.node:
            if node.op_type == "MaxPool":
                set_of(node, **attributes)
        return saved_as(model, tmp_path / "a.onnx")

    assert identify(read(pools())).chosen().title == "the one-column net of the paper's section 3.2"
    # The maps have the same sizes: 55 to 27, 27 to 13, 13 to 6.
    found = identify(read(pools(kernel_shape=[2, 2]))).chosen()
    assert found.config.architecture.pool == Pool(2, 2)
    assert found.title.endswith(", with pools of 2 pixels and stride 2")
    (fact,) = [o for o in facts(identify(read(tmp_path / "a.onnx"))) if o.what == "pools"]
    assert (fact.value, fact.source) == ("2 x 2 pixels, stride 2", "in the file")
    for attributes, says in (
        ({"pads": [1, 1, 1, 1]}, "pad of pool1 is 1, and 0 in the one-column net"),
        ({"pads": [0, 0, 1, 1]}, "pad_after of pool1 is 1, and 0 in"),
        ({"kernel_shape": [3, 2]}, "MaxPool with a window or steps that are not square"),
        ({"dilations": [2, 2]}, "MaxPool with dilation"),
        ({"auto_pad": "SAME_UPPER"}, "MaxPool with auto_pad"),
    ):
        assert says in reason_of(pools(**attributes))
    model = exported("one_column")
    set_of(next(n for n in model.graph.node if n.op_type == "MaxPool"), kernel_shape=[2, 2])
    path = saved_as(model, tmp_path / "a.onnx")
    assert "size of pool1 is 2, and 3 in the one-column net" in reason_of(path)


def test_a_pool_that_rounds_up_is_told_from_one_that_does_not(tmp_path: Path) -> None:
    """At 224 pixels conv1 of Caffe's net makes 54, which 3/2 pools to 27 or, rounded down, 26."""
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    architecture = caffe_architecture(False)
    up = operations(architecture)
    down = operations(replace(architecture, pool=Pool(partial=False)))
    path = tmp_path / "a.caffemodel"
    path.write_bytes(caffemodel.write("net", blobs, up, 224))
    assert identify(read(path)).chosen().config.architecture.input_px == 224
    path.write_bytes(caffemodel.write("net", blobs, down, 224))
    assert "pool1 makes 26 pixels of 54, since its ceil_mode is 0, and 27" in reason_of(path)
    # At 227 pixels no window reaches over the border.
    path.write_bytes(caffemodel.write("net", blobs, down, 227))
    assert identify(read(path)).chosen().net.name == "caffe_alexnet"


def test_operations_that_no_alexnet_has_are_refused(
    exported: Callable[[str], Any], tmp_path: Path
) -> None:
    from onnx import helper, numpy_helper

    def inserted(kind: str, *arrays: Any, second: str = "", **attributes: Any) -> Path:
        """The model with a node between the first activation and what follows it."""
        model = exported("one_column")
        nodes = list(model.graph.node)
        index = next(i for i, node in enumerate(nodes) if node.op_type == "Relu")
        before = nodes[index].output[0]
        for node in nodes[index + 1 :]:
            node.input[:] = ["new" if name == before else name for name in node.input]
        names = [f"extra{i}" for i in range(len(arrays))]
        model.graph.initializer.extend(map(numpy_helper.from_array, arrays, names))
        inputs = [before, *([second.format(x=before, data="rgb")] if second else []), *names]
        model.graph.node.insert(
            index + 1, helper.make_node(kind, inputs, ["new"], "n7", **attributes)
        )
        return saved_as(model, tmp_path / f"{kind}{len(arrays)}{len(second)}.onnx")

    ones = np.ones(6, np.float32)
    for path, says in (
        (inserted("BatchNormalization", ones, ones, ones, ones), "BatchNormalization (n7), which"),
        (inserted("Sigmoid"), "it has Sigmoid (n7), which no AlexNet that is known has"),
        (inserted("Add", second="{x}"), "it has Add of several values (n7)"),
        (inserted("Add", np.ones((1, 6, 1, 1), np.float32)), "after conv1 it has activation, add"),
        (inserted("Softmax"), "after conv1 it has activation, softmax"),
        (inserted("Transpose"), "it has Transpose (n7)"),
        (inserted("MatMul", second="{x}"), "it has MatMul of several values"),
    ):
        assert says in reason_of(path), says
    # PyTorch writes torchvision's adaptive pool as the mean of windows of one pixel.
    assert identify(read(inserted("AveragePool", kernel_shape=[1, 1]))).chosen()
    for harmless in ("Identity", "Dropout"):
        assert identify(read(inserted(harmless))).chosen().net.name == "one_column"


def test_spatial_norm_without_a_window_or_an_output_is_refused(
    exported: Callable[[str], Any], tmp_path: Path
) -> None:
    model = exported("original")
    pool = next(node for node in model.graph.node if node.op_type == "AveragePool")
    set_of(pool, kernel_shape=[0, 0], pads=[0, 0, 0, 0])
    assert "it has Mul of several values" in reason_of(saved_as(model, tmp_path / "window.onnx"))
    model = exported("original")
    quotient = next(node for node in model.graph.node if node.op_type == "Div")
    del quotient.output[:]
    assert "it has Mul of several values" in reason_of(saved_as(model, tmp_path / "output.onnx"))


@pytest.mark.parametrize(
    ("which", "attributes", "says"),
    [
        ("all", {"size": 0}, "its LRN sums over 0 maps, and that of an AlexNet over an odd number"),
        ("all", {"size": 2**40 + 1}, "its LRN sums over 1099511627777 maps"),
        ("all", {"size": -1}, "its LRN sums over "),
        ("all", {"size": 4}, "its LRN sums over 4 maps"),
        ("all", {"beta": float("nan")}, "its LRN has constants that are not finite"),
        ("all", {"alpha": float("inf")}, "its LRN has constants that are not finite"),
        ("last", {"bias": 1.5}, "its LRN operations have different constants"),
    ],
)
def test_the_lrn_of_a_file_is_checked(
    which: str,
    attributes: dict[str, Any],
    says: str,
    exported: Callable[[str], Any],
    tmp_path: Path,
) -> None:
    model = exported("caffenet")
    norms = [node for node in model.graph.node if node.op_type == "LRN"]
    for node in norms if which == "all" else norms[-1:]:
        set_of(node, **attributes)
    assert says in reason_of(saved_as(model, tmp_path / "a.onnx"))


def test_our_own_onnx_of_a_net_for_bgr_is_for_rgb(
    exported: Callable[[str], Any], tmp_path: Path
) -> None:
    from onnx import numpy_helper

    model = exported("caffenet")
    name = next(node for node in model.graph.node if node.op_type == "Sub").input[1]
    constant = next(one for one in model.graph.initializer if one.name == name)
    mean = np.random.default_rng(0).uniform(90, 130, (1, 3, 227, 227)).astype(np.float32)
    constant.CopyFrom(numpy_helper.from_array(mean, name))
    import_weights(saved_as(model, tmp_path / "a.onnx"), tmp_path / "run")
    saved = read_checkpoint(tmp_path / "run")
    assert saved.about["imported"]["channels"] == "RGB"
    (fact,) = [o for o in facts(identify(read(tmp_path / "a.onnx"))) if o.what == "channels"]
    assert (fact.value, fact.source) == ("R, G, B", "in the file")
    assert saved.about["imported"]["mean"] == "in the file, of the center crop"
    assert saved.mean.shape == (256, 256, 3)
    centre = load(tmp_path / "run", device="cpu").preprocess.centre_mean
    np.testing.assert_array_equal(centre.numpy(), mean[0].transpose(1, 2, 0))


def test_an_onnx_file_that_crops_stored_images_is_read(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import numpy_helper

    from alexnet.export import write_onnx

    path = tmp_path / "a.onnx"
    write_onnx(trained_of("one_column"), path, preprocessing=True)
    import_weights(path, tmp_path / "run")
    assert (read_checkpoint(tmp_path / "run").mean == 120).all()
    # With a step of -1 it would reverse what it cuts out.
    model = onnx.load(path)
    crop = next(node for node in model.graph.node if node.op_type == "Slice")
    steps = numpy_helper.from_array(np.array([1, -1]), "steps")
    model.graph.initializer.append(steps)
    crop.input.append("steps")
    assert "it has Slice" in reason_of(saved_as(model, path))
    # Before opset 10 the images were its only input.
    short = onnx.load(path)
    del next(node for node in short.graph.node if node.op_type == "Slice").input[1:]
    assert "it has Slice" in reason_of(saved_as(short, tmp_path / "short.onnx"))
    del crop.input[4:]
    next(one for one in model.graph.initializer if one.name == crop.input[3]).CopyFrom(
        numpy_helper.from_array(np.array([1, 2]), crop.input[3])
    )
    assert "it has Slice" in reason_of(saved_as(model, path))


def test_file_that_crops_stored_images_says_the_size_of_its_crops(tmp_path: Path) -> None:
    """With 227 pixels the layers have the shapes of 224."""
    pytest.importorskip("onnx")
    from alexnet.export import write_onnx

    net = trained_of("one_column")
    architecture = replace(net.net.architecture, input_px=227)
    statistics = Statistics(np.full((256, 256, 3), 120.0), np.eye(3))
    net = replace(
        net,
        net=Network(architecture).eval(),
        preprocess=Preprocess(net.config.augment, statistics, 227, torch.device("cpu")),
    )
    write_onnx(net, tmp_path / "a.onnx", preprocessing=True)
    import_weights(tmp_path / "a.onnx", tmp_path / "run")
    assert load(tmp_path / "run", device="cpu").config.architecture.input_px == 227


@pytest.mark.parametrize("said", [112, 95, "112", None])
def test_stored_images_have_the_size_that_the_file_says(said: Any, tmp_path: Path) -> None:
    """At 96 pixels the rule of the other programs is 110; desk scale has 112."""
    onnx = pytest.importorskip("onnx")
    from alexnet.export import write_onnx

    small = trained_of("one_column")
    architecture = replace(small.net.architecture, input_px=96)
    statistics = Statistics(np.full((112, 112, 3), 120.0), np.eye(3))
    augment = small.config.augment
    small = replace(
        small,
        net=Network(architecture).eval(),
        preprocess=Preprocess(augment, statistics, 96, torch.device("cpu")),
    )
    write_onnx(small, tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    entry = next(one for one in model.metadata_props if one.key == "input")
    about = json.loads(entry.value)
    assert about["before"]["shorter_side_px"] == 112
    about["before"]["shorter_side_px"] = said
    entry.value = json.dumps(about if said is not None else "RGB")
    import_weights(saved_as(model, tmp_path / "a.onnx"), tmp_path / "run")
    assert load(tmp_path / "run", device="cpu").preprocess.stored_px == (
        112 if said == 112 else 110
    )


def test_a_torchvision_net_with_its_preprocessing_is_compared(
    exported: Callable[[str], Any], tmp_path: Path
) -> None:
    from onnx import numpy_helper

    model = exported("torchvision")
    import_weights(saved_as(model, tmp_path / "a.onnx"), tmp_path / "run")
    divided = next(node for node in model.graph.node if node.op_type == "Div").input[1]
    constant = next(one for one in model.graph.initializer if one.name == divided)
    constant.CopyFrom(numpy_helper.from_array(np.full((1, 3, 1, 1), 7, np.float32), divided))
    path = saved_as(model, tmp_path / "b.onnx")
    with pytest.raises(RunError, match="divides by other numbers than torchvision's alexnet"):
        import_weights(path, tmp_path / "other")
    pixels = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 2, 2)
    constant.CopyFrom(numpy_helper.from_array(pixels, divided))
    assert "multiplies each pixel" in reason_of(saved_as(model, tmp_path / "c.onnx"))
