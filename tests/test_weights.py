"""Weights of other programs: read, named, imported and exported.

Each conversion is compared with the other program's own network, written out in `frameworks.py`,
at every layer and from the bytes of an image on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet import load, recipes
from alexnet.architecture import plan
from alexnet.checkpoint import read as read_checkpoint
from alexnet.checkpoint import write
from alexnet.cli import main
from alexnet.cli.train import parse_train
from alexnet.data.image import encode
from alexnet.data.store import Store
from alexnet.diagnostics import new_shares, smoothness
from alexnet.distributed.mesh import Group, Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import AlexNetError, MeshError, RunError
from alexnet.inference import activations
from alexnet.model import Network
from alexnet.train.loop import fit, resume
from alexnet.trained import Trained
from alexnet.weights import caffemodel
from alexnet.weights.exporting import operations, write_layout
from alexnet.weights.files import read, read_mean
from alexnet.weights.identify import identify
from alexnet.weights.importing import import_weights
from alexnet.weights.layouts import (
    dense,
    from_torchvision,
    grouped,
    split,
    to_caffe,
    with_channels_reversed,
)
from alexnet.weights.protobuf import Budget, Message, field
from tests import frameworks, reference
from tests.commands import refused
from tests.conftest import tiny
from tests.test_documentation import ROOT, documented_commands
from tests.weight_files import (
    CLASSES,
    WIDTH,
    caffe_architecture,
    caffe_file,
    torchvision_file,
    trained_of,
)

IMAGES = np.random.default_rng(3).integers(0, 256, (2, 256, 256, 3), np.uint8)
MEAN_IMAGE = np.random.default_rng(4).uniform(90, 130, (3, 256, 256)).astype(np.float32)


def assert_same(trained: Trained, want: dict[str, Any], images: Any = IMAGES) -> None:
    """Compare the values of all layers, asked for by the other program's names."""
    x = trained.preprocess.centre(torch.from_numpy(images))
    with torch.no_grad():
        got = activations(trained, list(want), x)
    for name, value in want.items():
        value = np.asarray(value).reshape(got[name].shape)
        size = np.abs(value).max()
        assert size > 0.01, name
        # Ours are float32; the largest sum has 9,216 terms.
        assert np.abs(got[name].numpy() - value).max() < 2e-5 * size, name


@pytest.mark.parametrize(
    ("suffix", "pool_first"),
    [(".caffemodel", True), (".npz", False)],
    ids=["caffenet with its layers", "alexnet, weights alone"],
)
def test_caffes_nets_give_caffes_values_in_every_layer(
    suffix: str, pool_first: bool, tmp_path: Path
) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    path = caffe_file(tmp_path / f"net{suffix}", blobs, pool_first)
    np.save(tmp_path / "mean.npy", MEAN_IMAGE)
    # The weights alone do not tell the two apart.
    net = "" if suffix == ".caffemodel" else ("caffenet" if pool_first else "caffe_alexnet")
    import_weights(path, tmp_path / "run", net, mean=tmp_path / "mean.npy")
    trained = load(tmp_path / "run", device="cpu")
    want = frameworks.caffe_forward(blobs, frameworks.caffe_input(IMAGES, MEAN_IMAGE), pool_first)
    assert_same(trained, want)
    # The fused pass is taken here; it sums across the columns as well.
    with torch.no_grad():
        logits = trained.net(trained.preprocess.centre(torch.from_numpy(IMAGES)))
    torch.testing.assert_close(logits.numpy(), want["fc8"], rtol=1e-4, atol=1e-4, check_dtype=False)


@pytest.mark.slow
@pytest.mark.parametrize("pool_first", [False, True], ids=["alexnet", "caffenet"])
def test_caffes_nets_of_full_size_give_caffes_values(pool_first: bool, tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(1)
    path = caffe_file(tmp_path / "net.caffemodel", blobs, pool_first, width=1.0, classes=1000)
    import_weights(path, tmp_path / "run")
    mean = np.array([104.00698793, 116.66876762, 122.67891434])
    want = frameworks.caffe_forward(blobs, frameworks.caffe_input(IMAGES[:1], mean), pool_first)
    assert_same(load(tmp_path / "run", device="cpu"), want, IMAGES[:1])


def data_parallel(state: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of PyTorch's ImageNet example, which wraps the convolutions."""
    renamed = {name.replace("features.", "features.module."): t for name, t in state.items()}
    return {"epoch": 90, "arch": "alexnet", "state_dict": renamed}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [("a.pt", data_parallel), ("a.safetensors", dict)],
    ids=["data parallel", "safetensors"],
)
def test_torchvisions_net_gives_its_values_in_every_layer(
    name: str, wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    state = torchvision_file(tmp_path / name, wrap)
    import_weights(tmp_path / name, tmp_path / "run")
    net = frameworks.torchvision_alexnet(WIDTH, CLASSES)
    net.load_state_dict(state)
    want, x = {}, frameworks.torchvision_input(IMAGES)
    with torch.no_grad():
        for part in ("features", "classifier"):
            x = x.flatten(1) if part == "classifier" else x
            for i, module in enumerate(net.get_submodule(part)):  # type: ignore[arg-type]
                x = module(x)
                want[f"{part}.{i}"] = x
    assert_same(load(tmp_path / "run", device="cpu"), want)


def test_name_that_torchvision_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="not a parameter of torchvision"):
        from_torchvision({"features.1.weight": torch.zeros(1)})


def test_slims_net_gives_its_values_in_every_layer(tmp_path: Path) -> None:
    variables = frameworks.slim_variables(2, WIDTH, CLASSES)
    np.savez(tmp_path / "slim.npz", **variables)
    import_weights(tmp_path / "slim.npz", tmp_path / "run")
    rgb = IMAGES[:, 16:240, 16:240].transpose(0, 3, 1, 2) - np.array(
        [123.68, 116.78, 103.94]
    ).reshape(3, 1, 1)
    assert_same(load(tmp_path / "run", device="cpu"), frameworks.slim_forward(variables, rgb))


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


def test_layouts_come_back_as_they_were(tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(7, WIDTH, CLASSES)
    np.savez(tmp_path / "net.npz", **blobs, data_mean=MEAN_IMAGE)
    import_weights(tmp_path / "net.npz", tmp_path / "run", "caffenet")
    saved = read_checkpoint(tmp_path / "run")
    write_layout(saved, tmp_path / "back.npz", "caffe")
    with np.load(tmp_path / "back.npz") as back:
        assert {*back} == {*blobs, "data_mean"}
        for name, blob in {**blobs, "data_mean": MEAN_IMAGE}.items():
            np.testing.assert_array_equal(back[name], blob)
    write_layout(saved, tmp_path / "back.caffemodel", "caffe")
    found = read(tmp_path / "back.caffemodel")
    for name, blob in blobs.items():
        np.testing.assert_array_equal(found.arrays[name], blob)
    assert identify(found).chosen().net.name == "caffenet"

    state = torchvision_file(tmp_path / "a.pth")
    import_weights(tmp_path / "a.pth", tmp_path / "other")
    saved = read_checkpoint(tmp_path / "other")
    for name in ("back.pth", "back.safetensors", "torchvision.npz"):
        write_layout(saved, tmp_path / name, "torchvision")
    loaded = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor)
    assert identify(read(tmp_path / "back.safetensors")).chosen().net.name == "torchvision"
    for layout, run in (("caffe", "other"), ("torchvision", "run")):
        with pytest.raises(RunError, match=r"is another network .* would give other answers"):
            write_layout(
                read_checkpoint(tmp_path / run),
                tmp_path / ("x.npz" if layout == "caffe" else "x.pth"),
                layout,  # type: ignore[arg-type]
            )


@pytest.mark.parametrize("name", ["x.npz", "x.caffemodel"])
def test_run_that_divides_each_channel_has_no_form_in_caffes_layout(
    name: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "net.npz", **frameworks.caffe_blobs(7, WIDTH, CLASSES))
    about = import_weights(tmp_path / "net.npz", tmp_path / "run", "caffenet")
    about["config"]["augment"]["mean"] = "channel"
    saved = replace(read_checkpoint(tmp_path / "run"), about=about)
    with pytest.raises(RunError, match=r"divides each channel by a deviation .* export it as ONNX"):
        write_layout(saved, tmp_path / name, "caffe")


def test_grouped_kernels_equal_two_layers_and_one_with_zeros() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((12, 4, 3, 3)), rng.standard_normal(12)
    x = rng.standard_normal((2, 8, 9, 9))
    want = frameworks.conv(x, weight, bias, 1, 1, group=2)
    full = dense(weight, 2)
    assert full.shape == (12, 8, 3, 3)
    np.testing.assert_allclose(frameworks.conv(x, full, bias, 1, 1), want, atol=1e-12)
    parts = [
        frameworks.conv(half, w, b, 1, 1)
        for half, (w, b) in zip(np.split(x, 2, 1), split(weight, bias, 2), strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, 1), want)
    back = grouped(full, 2)
    assert back is not None
    np.testing.assert_array_equal(back, weight)
    full[0, 7, 1, 1] = 1e-9
    assert grouped(full, 2) is None


def test_columns_are_named_by_letters_as_long_as_there_are_some() -> None:
    def of_columns(count: int) -> dict[str, Any]:
        return {
            "conv1.weight": np.zeros((2 * count, 3, 1, 1), np.float32),
            "conv1.bias": np.zeros(2 * count, np.float32),
            "conv2.weight": np.zeros((count, 2, 1, 1), np.float32),
            "conv2.bias": np.zeros(count, np.float32),
        }

    assert {"conv2a/0", "conv2i/1"} <= set(to_caffe(of_columns(9), "split", 9))
    with pytest.raises(RunError, match="conv2 has 27 columns, and there are letters for 26"):
        to_caffe(of_columns(27), "split", 27)


def test_a_dense_file_with_zeros_is_the_grouped_net(tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    ours = {
        f"{name[:-2]}.{'bias' if name[-1] == '1' else 'weight'}": b for name, b in blobs.items()
    }
    ours["conv1.weight"] = with_channels_reversed(ours["conv1.weight"])
    written = to_caffe(ours, "dense", 2)
    assert written["conv2/0"].shape[1] == 2 * blobs["conv2/0"].shape[1]
    np.savez(tmp_path / "dense.npz", **written)
    chosen = identify(read(tmp_path / "dense.npz")).chosen("caffenet")
    assert chosen.grouped
    np.testing.assert_array_equal(chosen.arrays["conv2.weight"], blobs["conv2/0"])
    assert {"conv2a/0", "conv2b/1", "conv3/0"} <= set(to_caffe(ours, "split", 2))
    # Without the zeros it is the net that many ports have, with 62 million parameters.
    written["conv2/0"] = written["conv2/0"] + 1
    np.savez(tmp_path / "full.npz", **written)
    (one, other) = identify(read(tmp_path / "full.npz")).candidates
    assert one.title == "Caffe's AlexNet (bvlc_alexnet), without groups"
    assert plan(one.config.architecture)[4].columns == 1
    assert other.config.architecture.columns == 1


def test_response_normalization_can_cross_columns() -> None:
    architecture = caffe_architecture(False)
    net = Network(architecture).eval()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    want = reference.lrn(x.numpy(), 5, 1.0, 1e-4 / 5, 0.75, columns=1)
    np.testing.assert_allclose(net.norm1(x).numpy(), want, rtol=1e-12)
    inside = replace(architecture, lrn_across_columns=False)
    assert architecture.lrn_columns == 1
    assert inside.lrn_columns == 2
    assert Network(inside).norm1.columns == 2
    mesh = Mesh(columns=Group(ranks=(0, 1)))
    with pytest.raises(MeshError, match="sums across its columns"):
        ShardedNetwork(architecture, 0, mesh)


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


def test_numbers_of_a_message_come_back() -> None:
    data = field(1, 300) + field(2, 1.5) + field(3, "text") + field(1, 7)
    message = Message(memoryview(data), Budget())
    assert message.integers(1) == [300, 7]
    assert message.real(2, 0.0) == 1.5
    assert message.text(3) == "text"
    assert message.integer(9, 4) == 4


def test_googles_protobuf_reads_and_writes_the_same_caffemodel() -> None:
    """The field numbers are those of caffe.proto, given to Google's own implementation."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="c", syntax="proto2")
    kinds = {"int64": 3, "float": 2, "string": 9, "uint32": 13}
    for name, fields in {
        "BlobShape": [("dim", 1, "int64", 3)],
        "BlobProto": [("data", 5, "float", 3), ("shape", 7, "BlobShape", 1)],
        "ConvolutionParameter": [
            ("pad", 3, "uint32", 3),
            ("kernel_size", 4, "uint32", 3),
            ("group", 5, "uint32", 1),
            ("stride", 6, "uint32", 3),
        ],
        "LRNParameter": [
            ("local_size", 1, "uint32", 1),
            ("alpha", 2, "float", 1),
            ("beta", 3, "float", 1),
            ("k", 5, "float", 1),
        ],
        "LayerParameter": [
            ("name", 1, "string", 1),
            ("type", 2, "string", 1),
            ("blobs", 7, "BlobProto", 3),
            ("convolution_param", 106, "ConvolutionParameter", 1),
            ("lrn_param", 118, "LRNParameter", 1),
        ],
        "NetParameter": [("name", 1, "string", 1), ("layer", 100, "LayerParameter", 3)],
    }.items():
        message = file.message_type.add(name=name)
        for key, number, kind, label in fields:
            one = message.field.add(name=key, number=number, label=label)
            if kind in kinds:
                one.type = kinds[kind]
                one.options.packed = label == 3 and kind in ("int64", "float")
            else:
                one.type, one.type_name = 11, f".c.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    net_class = message_factory.GetMessageClass(pool.FindMessageTypeByName("c.NetParameter"))

    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    data = caffemodel.write("net", blobs, operations(caffe_architecture(False)))
    net = net_class()
    net.ParseFromString(data)
    layers = {layer.name: layer for layer in net.layer}
    assert [layer.type for layer in net.layer][:5] == [
        "Convolution",
        "ReLU",
        "LRN",
        "Pooling",
        "Convolution",
    ]
    assert layers["conv2"].convolution_param.group == 2
    assert list(layers["conv1"].convolution_param.stride) == [4]
    assert layers["norm1"].lrn_param.alpha == pytest.approx(1e-4)
    weight = layers["conv2"].blobs[0]
    np.testing.assert_array_equal(
        np.array(weight.data, np.float32).reshape(tuple(weight.shape.dim)), blobs["conv2/0"]
    )
    again = caffemodel.parse(net.SerializeToString())
    assert {*again.arrays} == {*blobs}
    np.testing.assert_array_equal(again.arrays["fc6/0"], blobs["fc6/0"])
    assert again.operations == caffemodel.parse(data).operations


def test_the_older_form_of_a_caffemodel_is_read(tmp_path: Path) -> None:
    """`layers` with numbers for types, and blobs with four sides, as of 2014."""
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    numbers = {"linear": 14, "activation": 18, "lrn": 15, "max_pool": 17}
    content = []
    for o in operations(caffe_architecture(True)):
        layer = field(4, o.name) + field(5, 4 if o.is_convolution else numbers[o.kind])
        for key in filter(None, (o.weight, o.bias)):
            shape = (1, 1, 1, *blobs[key].shape)[-4:]
            sides = b"".join(field(i, side) for i, side in enumerate(shape, 1))
            layer += field(6, sides + field(5, blobs[key].tobytes()))
        if o.kind == "lrn":
            layer += field(18, field(1, 5) + field(2, 1e-4) + field(3, 0.75))
        if o.is_convolution:
            layer += field(10, b"".join(field(n, int(o.settings[k])) for n, k in ((5, "group"),)))
        content.append(field(2, layer))
    data_layer = (
        field(4, "data")
        + field(5, 5)
        + field(36, field(3, 227) + b"".join(field(5, value) for value in (104.0, 117.0, 123.0)))
    )
    content.insert(0, field(2, data_layer))
    path = tmp_path / "old.caffemodel"
    path.write_bytes(b"".join(content))
    file = read(path)
    assert (file.input_px, file.mean) == (227, (104.0, 117.0, 123.0))
    found = identify(file)
    # Strides and padding are Caffe's defaults where the file says nothing.
    assert "stride of conv1 is 1, and 4" in found.reason
    v0 = field(2, field(1, field(1, "conv1")))
    path.write_bytes(v0)
    with pytest.raises(RunError, match="upgrade_net_proto_binary converts it"):
        read(path)


# --- Options of import


def test_classes_and_means_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npz"
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    caffe_file(path, blobs, False)
    words = tmp_path / "synset_words.txt"
    words.write_text("".join(f"n0000000{i} thing {i}, other {i}\n" for i in range(CLASSES)))
    mean = tmp_path / "mean.binaryproto"
    sides = b"".join(field(i, side) for i, side in enumerate((1, 3, 256, 256), 1))
    mean.write_bytes(sides + field(5, MEAN_IMAGE.tobytes()))
    np.testing.assert_array_equal(read_mean(mean), MEAN_IMAGE)
    main(
        [
            *("import", str(path), str(tmp_path / "run"), "--net", "caffenet"),
            *("--classes", str(words), "--mean", str(mean)),
        ]
    )
    printed = capsys.readouterr().out
    assert "CaffeNet (bvlc_reference_caffenet), 10 classes" in printed
    assert "mean: mean.binaryproto; channels of the file: BGR" in printed
    trained = load(tmp_path / "run", device="cpu")
    assert trained.classes[3] == "n00000003"
    assert trained.names[3] == "thing 3"
    want = torch.from_numpy(MEAN_IMAGE[::-1].transpose(1, 2, 0).copy())
    assert torch.equal(trained.preprocess.whole_mean, want)
    words.write_text("one\ntwo\n")
    for options, says in (
        (("--net", "caffenet", "--classes", str(words)), "has 2 classes, and .* has 10 outputs"),
        (("--net", "caffenet", "--classes", "none.txt"), "none.txt does not exist; name a text"),
        (("--net", "paper"), "cannot be paper; it can be caffe_alexnet or caffenet"),
        ((), "can be caffe_alexnet or caffenet, which the weights do not tell apart"),
        (("--net", "caffenet", "--mean", str(words)), "is not a mean; name a .binaryproto or"),
    ):
        sentence = refused(capsys, "import", path, tmp_path / "other", *options)
        assert re.search(says, sentence), sentence
    torch.save(
        Network(replace(recipes.one_column().architecture, width=1 / 8, classes=3)).state_dict(),
        tmp_path / "a.pth",
    )
    with pytest.raises(RunError, match=r"has no mean, which .* subtracts .* --mean FILE"):
        import_weights(tmp_path / "a.pth", tmp_path / "other", "one_column")


@pytest.mark.parametrize("where", ["in the file", "mean.npy"])
def test_mean_of_the_crop_is_that_of_the_center_crop(where: str, tmp_path: Path) -> None:
    crop = MEAN_IMAGE[:, :227, :227]
    inside = {"data_mean": crop} if where == "in the file" else {}
    np.savez(tmp_path / "a.npz", **frameworks.caffe_blobs(1, WIDTH, CLASSES), **inside)
    np.save(tmp_path / "mean.npy", crop)
    named = None if inside else tmp_path / "mean.npy"
    about = import_weights(tmp_path / "a.npz", tmp_path / "run", "caffenet", mean=named)
    assert about["imported"]["mean"] == f"{where}, of the center crop"
    preprocess = load(tmp_path / "run", device="cpu").preprocess
    assert preprocess.stored_px == 256
    want = torch.from_numpy(crop[::-1].transpose(1, 2, 0).copy())
    assert torch.equal(preprocess.centre_patch_mean(), want)


def test_what_an_imported_run_lacks_is_said(tmp_path: Path, store: Path) -> None:
    torchvision_file(tmp_path / "a.pth")
    run = tmp_path / "run"
    import_weights(tmp_path / "a.pth", run)
    with pytest.raises(RunError, match=r"was imported and not trained here; begin .* --init .*run"):
        resume(run)
    with pytest.raises(AlexNetError, match="was imported and belongs to no store; name one"):
        load(run, device="cpu").open_store()
    assert load(run, device="cpu").preprocess.stored_px == 256
    with pytest.raises(RunError, match="exists; choose another name"):
        import_weights(tmp_path / "a.pth", run)
    # A store with the same number of classes gives them their names.
    for number, where in enumerate((store, f"file://{store}")):
        named = tmp_path / f"named{number}"
        import_weights(tmp_path / "a.pth", named, classes=str(where))
        assert load(named, device="cpu").classes == tuple(Store(store).classes)


def test_a_structured_npy_is_read_by_its_fields(tmp_path: Path) -> None:
    dtype = np.dtype([("conv1.weight", "<f4", (6, 3, 11, 11)), ("conv1.bias", "<f8", (6,))])
    value = np.zeros((), dtype)
    value["conv1.bias"] = np.arange(6)
    np.save(tmp_path / "a.npy", value)
    arrays = read(tmp_path / "a.npy").arrays
    assert arrays["conv1.weight"].shape == (6, 3, 11, 11)
    np.testing.assert_array_equal(arrays["conv1.bias"], np.arange(6))


def test_export_has_the_names_of_other_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = torchvision_file(tmp_path / "a.pth")
    main(["import", str(tmp_path / "a.pth"), str(tmp_path / "run")])
    out = tmp_path / "back.pth"
    main(["export", str(tmp_path / "run"), str(out), "--layout", "torchvision"])
    assert list(torch.load(out, weights_only=True)) == list(state)
    net = frameworks.torchvision_alexnet(WIDTH, CLASSES)
    net.load_state_dict(torch.load(out, weights_only=True))
    assert "is not in this file" not in capsys.readouterr().out
    path = caffe_file(tmp_path / "a.npz", frameworks.caffe_blobs(1, WIDTH, CLASSES), True)
    import_weights(path, tmp_path / "caffe", "caffenet")
    out = tmp_path / "b.caffemodel"
    main(["export", str(tmp_path / "caffe"), str(out), "--layout", "caffe"])
    assert "the mean that the run subtracts" in capsys.readouterr().out
    for arguments, says in (
        ((tmp_path / "b.npz", "--groups", "split"), "--groups is for --layout caffe"),
        ((tmp_path / "b.txt", "--layout", "torchvision"), "ends in none of .pth"),
        ((tmp_path / "b.npz", "--layout", "caffe"), "is another network"),
    ):
        assert says in refused(capsys, "export", tmp_path / "run", *arguments)


# --- The card


def test_a_run_has_a_card_and_check_says_whether_it_is_trained(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit(tiny(store), run)
    card = (run / "card.md").read_text()
    saved = read_checkpoint(run)
    for part in (
        "# run\n",
        f"| trained on | `{store}`, checksum `{saved.about['store'][:12]}` |",
        f"| sha256 of the weights of `last.safetensors` | `{saved.about['sha256']}` |",
        "top-1 error",
        "| code | alexnet ",
        "- Yes: they differ from their start",
        "is new against the start that seed",
    ):
        assert part in card, part
    assert "measured by `alexnet evaluate`" not in card
    main(["evaluate", str(run), "--data", str(store)])
    assert "measured by `alexnet evaluate` | top-1 error" in (run / "card.md").read_text()
    capsys.readouterr()
    main(["check", str(run)])
    printed = capsys.readouterr().out
    assert "trained? Yes: they differ from their start" in printed
    assert f"{run}/card.md: of these weights" in printed
    # The weights of the same file as the seed draws them.
    start = Network(saved.config.architecture, saved.config.seed)
    write(run / "last.safetensors", dict(start.named_parameters()), {}, saved.mean, saved.about)
    main(["check", str(run)])
    printed = capsys.readouterr().out
    assert "trained? No: the weights are the start that the seed draws." in printed
    assert f"{run}/card.md: of other weights; `alexnet evaluate` writes it anew" in printed


def test_imported_random_weights_are_called_random(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = caffe_file(tmp_path / "a.caffemodel", frameworks.caffe_blobs(1, WIDTH, CLASSES), False)
    main(["import", str(path), str(tmp_path / "run")])
    capsys.readouterr()
    main(["check", str(tmp_path / "run")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "trained? Probably not: nothing that was tested tells them from random" in printed
    assert "The start is not known: the weights were imported." in printed
    card = (tmp_path / "run" / "card.md").read_text()
    assert "imported from | `a.caffemodel` (Caffe), Caffe's AlexNet (bvlc_alexnet)" in card


def test_new_shares_and_smoothness_tell_learning_from_decay() -> None:
    architecture = caffe_architecture(False)
    start, net = Network(architecture, 1), Network(architecture, 1)
    with torch.no_grad():
        for weight in net.parameters():
            weight *= 0.5
    assert max(new_shares(net, start).values()) < 1e-6
    assert min(new_shares(Network(architecture, 2), start).values()) > 0.9
    # `test_random_filters_of_any_size_are_called_random` has the noise.
    edges = torch.linspace(-1, 1, 11).expand(96, 3, 11, 11)
    assert smoothness(edges)[0] > 0.5


# --- The page


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    caffe_file(tmp_path / "bvlc_reference_caffenet.caffemodel", blobs, True)
    lines = (f"n0000000{i} thing {i}\n" for i in range(CLASSES))
    (tmp_path / "synset_words.txt").write_text("".join(lines))
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/one.png"):
        (tmp_path / name).write_bytes(encode(IMAGES[0], "png"))
    (tmp_path / "photo.png").rename("photo.jpg")  # the content of a file decides, not its name
    commands = documented_commands(ROOT / "docs" / "weights.md")
    assert [command[0] for command in commands] == [
        *("which", "import", "predict", "features", "figure", "check", "export", "train")
    ]
    for command in commands:
        if command[0] == "train":  # at full size; `test_training` begins from another run
            assert parse_train(command[1], command[2:]).config.init == "runs/caffenet"
        else:
            main(command)
    printed = capsys.readouterr().out
    assert "CaffeNet (bvlc_reference_caffenet)" in printed
    assert "photo.jpg: thing" in printed
    values = np.load(tmp_path / "features" / "conv1.lrn.npy")
    assert values.shape == (1, 6, 27, 27)
    with np.load(tmp_path / "caffenet.npz") as back:
        np.testing.assert_array_equal(back["conv1/0"], blobs["conv1/0"])
