"""Files of Caffe: read, written, and what in them is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import load
from alexnet.cli import main
from alexnet.errors import RunError
from alexnet.inference import activations
from alexnet.weights import caffemodel
from alexnet.weights.exporting import operations
from alexnet.weights.facts import facts
from alexnet.weights.files import read
from alexnet.weights.identify import identify
from alexnet.weights.importing import import_weights
from alexnet.weights.operations import WeightFile
from alexnet.weights.protobuf import Budget, Message, field
from tests import frameworks
from tests.commands import printed, refused
from tests.weight_files import (
    CLASSES,
    IMAGES,
    MEAN_IMAGE,
    WIDTH,
    assert_same,
    caffe_architecture,
    caffe_file,
    reason_of,
)

pytestmark = pytest.mark.usefixtures("no_card")


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


def test_numbers_of_a_message_come_back() -> None:
    data = field(1, 300) + field(2, 1.5) + field(3, "text") + field(1, 7)
    message = Message(memoryview(data), Budget())
    assert message.integers(1) == [300, 7]
    assert message.real(2, 0.0) == 1.5
    assert message.text(3) == "text"
    assert message.integer(9, 4) == 4


def test_googles_protobuf_reads_and_writes_the_same_caffemodel(tmp_path: Path) -> None:
    """The field numbers are those of caffe.proto, given to Google's own implementation."""
    pytest.importorskip("google.protobuf")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="c", syntax="proto2")
    kinds = {"int64": 3, "float": 2, "bool": 8, "string": 9, "uint32": 13}
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
        "InnerProductParameter": [("transpose", 6, "bool", 1)],
        "PoolingParameter": [
            ("pool", 1, "uint32", 1),
            ("kernel_size", 2, "uint32", 1),
            ("stride", 3, "uint32", 1),
            ("pad", 4, "uint32", 1),
            ("round_mode", 13, "uint32", 1),
        ],
        "InputParameter": [("shape", 1, "BlobShape", 3)],
        "LayerParameter": [
            ("name", 1, "string", 1),
            ("type", 2, "string", 1),
            ("blobs", 7, "BlobProto", 3),
            ("convolution_param", 106, "ConvolutionParameter", 1),
            ("inner_product_param", 117, "InnerProductParameter", 1),
            ("lrn_param", 118, "LRNParameter", 1),
            ("pooling_param", 121, "PoolingParameter", 1),
            ("input_param", 143, "InputParameter", 1),
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
    known = descriptor_pool.DescriptorPool()
    known.Add(file)
    net_class = message_factory.GetMessageClass(known.FindMessageTypeByName("c.NetParameter"))

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
    pool = layers["pool1"].pooling_param
    assert (pool.kernel_size, pool.stride, pool.round_mode) == (3, 2, 0)
    weight = layers["conv2"].blobs[0]
    np.testing.assert_array_equal(
        np.array(weight.data, np.float32).reshape(tuple(weight.shape.dim)), blobs["conv2/0"]
    )

    def read_back(content: bytes) -> WeightFile:
        (tmp_path / "net").write_bytes(content)
        return caffemodel.read(tmp_path / "net")

    again = read_back(net.SerializeToString())
    assert {*again.arrays} == {*blobs}
    np.testing.assert_array_equal(again.arrays["fc6/0"], blobs["fc6/0"])
    assert again.operations == read_back(data).operations
    # What Google's implementation writes of the settings that ours does not.
    layers["fc7"].inner_product_param.transpose = True
    pool.pad, pool.pool, pool.round_mode = 1, 1, 1
    shown = net.layer.add(name="data", type="Input").input_param.shape.add()
    shown.dim.extend([10, 3, 224, 224])
    changed = read_back(net.SerializeToString())
    named = {operation.name: operation for operation in changed.operations}
    assert (named["fc6"].transposed, named["fc7"].transposed) == (False, True)
    assert named["pool1"].kind == "avg_pool"
    settings = {"size": 3, "stride": 2, "pad": 1, "ceil_mode": 0, "pad_after": 1}
    assert named["pool1"].settings == settings
    assert changed.input_px == 224


def older_form(blobs: dict[str, np.ndarray], transposed: bool, settings: bool = True) -> bytes:
    """CaffeNet as of 2014: `layers` with numbers for types, and blobs with four sides.

    Args:
        transposed: The weights of the fully connected layers are (inputs, outputs).
        settings: False: every setting of a layer is Caffe's default.
    """
    numbers = {"linear": 14, "activation": 18, "lrn": 15, "max_pool": 17}
    means = b"".join(field(5, value) for value in (104.0, 117.0, 123.0))
    content = [field(2, field(4, "data") + field(5, 5) + field(36, field(3, 227) + means))]
    for o in operations(caffe_architecture(True)):
        layer = field(4, o.name) + field(5, 4 if o.is_convolution else numbers[o.kind])
        is_connected = o.kind == "linear" and not o.is_convolution
        for key in filter(None, (o.weight, o.bias)):
            blob = blobs[key].T if transposed and is_connected else blobs[key]
            sides = b"".join(
                field(i, side) for i, side in enumerate((1, 1, 1, *blob.shape)[-4:], 1)
            )
            layer += field(6, sides + field(5, np.ascontiguousarray(blob).tobytes()))
        number, fields = {
            "linear": (10, {3: "pad", 4: "size", 5: "group", 6: "stride"}),
            "max_pool": (19, {2: "size", 3: "stride"}),
        }.get("" if is_connected else o.kind, (0, {}))
        if number and settings:
            values = b"".join(field(n, int(o.settings[key])) for n, key in fields.items())
            layer += field(number, values)
        if o.kind == "lrn":
            layer += field(18, field(1, 5) + field(2, 1e-4) + field(3, 0.75))
        if is_connected and transposed:
            layer += field(17, field(6, 1))
        content.append(field(2, layer))
    return b"".join(content)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_older_form_of_a_caffemodel_gives_caffes_values(
    transposed: bool, tmp_path: Path
) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    path = tmp_path / "old.caffemodel"
    path.write_bytes(older_form(blobs, transposed))
    file = read(path)
    assert (file.input_px, file.mean) == (227, (104.0, 117.0, 123.0))
    assert identify(file).chosen().net.name == "caffenet"
    import_weights(path, tmp_path / "run")
    bgr = frameworks.caffe_input(IMAGES, np.array(file.mean))
    want = frameworks.caffe_forward(blobs, bgr, True)
    assert_same(load(tmp_path / "run", device="cpu"), want)


def test_settings_that_the_older_form_leaves_out_are_caffes_defaults(tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    path = tmp_path / "old.caffemodel"
    path.write_bytes(older_form(blobs, transposed=False, settings=False))
    assert "stride of conv1 is 1, and 4" in reason_of(path)
    # The oldest form of all.
    path.write_bytes(field(2, field(1, field(1, "conv1"))))
    says = "cannot be read: it has the oldest form of layers; .* upgrade_net_proto_binary converts"
    with pytest.raises(RunError, match=says):
        read(path)


@pytest.mark.parametrize("form", ["two layers", "one layer", "input_shape"])
def test_size_of_the_input_is_that_of_the_file(form: str, tmp_path: Path) -> None:
    """At 224 pixels Caffe's net has the maps, and so the shapes, that it has at 227."""
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    path = caffe_file(tmp_path / "a.caffemodel", blobs, False)
    shape = field(1, bytes([10, 3]) + b"\xe0\x01" * 2)  # packed, as Caffe writes it
    label = field(1, 10)
    head = field(1, "data") + field(2, "Input")
    begins = {
        "two layers": [field(100, head + field(143, field(1, each))) for each in (shape, label)],
        "one layer": [field(100, head + field(143, field(1, shape) + field(1, label)))],
        "input_shape": [field(8, shape), field(8, label)],
    }
    path.write_bytes(b"".join(begins[form]) + path.read_bytes())
    assert read(path).input_px == 224
    assert identify(read(path)).chosen().config.architecture.input_px == 224


def test_a_layer_of_caffe_that_no_alexnet_has_is_refused(tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    layers = operations(caffe_architecture(False))
    data = caffemodel.write("net", blobs, layers)
    for extra, says in (
        (field(1, "bn1") + field(2, "BatchNorm"), r"it has BatchNorm \(bn1\)"),
        (field(1, "sum") + field(2, "Eltwise"), r"it has Eltwise \(sum\)"),
        (
            field(1, "p") + field(2, "Pooling") + field(121, field(12, 1)),
            "whose settings no AlexNet",
        ),
        (
            field(1, "c") + field(2, "Convolution") + field(106, field(6, 1) + field(14, 2)),
            "Convolution whose settings no AlexNet",
        ),
        (
            field(1, "r") + field(2, "ReLU") + field(123, field(1, 0.1)),
            "ReLU whose settings no AlexNet",
        ),
        (
            field(1, "n") + field(2, "LRN") + field(118, field(4, 1)),
            "LRN whose settings no AlexNet",
        ),
    ):
        path = tmp_path / "a.caffemodel"
        path.write_bytes(data + field(100, extra))
        with pytest.raises(RunError, match=says):
            import_weights(path, tmp_path / "run")
    path.write_bytes(field(100, field(1, "data") + field(2, "Data")) + data)
    assert identify(read(path)).chosen().net.name == "caffe_alexnet"


def test_caffes_scale_goes_into_conv1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """data_transformer.cpp: (pixel - mean) * scale."""
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES, scale=3)
    path = caffe_file(tmp_path / "a.caffemodel", blobs, False)
    transform = (
        field(1, 0.25) + field(3, 227) + b"".join(field(5, v) for v in (104.0, 117.0, 123.0))
    )
    data = field(100, field(1, "data") + field(2, "Data") + field(100, transform))
    path.write_bytes(data + path.read_bytes())
    (fact,) = (fact for fact in facts(identify(read(path))) if fact.what == "scale of the input")
    assert (fact.value, fact.source) == ("0 to 255, less a mean, times 0.25", "in the file")
    main(["import", str(path), str(tmp_path / "run")])
    assert "multiplies images by 0.25, 0.25, 0.25; the filters of conv1" in capsys.readouterr().out
    bgr = 0.25 * frameworks.caffe_input(IMAGES, np.array([104.0, 117.0, 123.0]))
    want = frameworks.caffe_forward(blobs, bgr, False)["fc8"]
    trained = load(tmp_path / "run", device="cpu")
    x = trained.preprocess.centre(torch.from_numpy(IMAGES))
    with torch.no_grad():
        got = activations(trained, ["fc8"], x)["fc8"].numpy().reshape(want.shape)
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max())
    transform = field(100, field(1, float("nan")))
    path.write_bytes(path.read_bytes() + field(100, field(1, "d") + field(2, "Data") + transform))
    assert "it multiplies its images by [nan, nan, nan]" in reason_of(path)


SCALED, WITH_FILE = field(1, 1 / 256) + field(3, 227), field(3, 227) + field(4, "m.binaryproto")


@pytest.mark.parametrize(
    ("transforms", "mean"),
    [
        ([SCALED], 0.0),
        ([WITH_FILE], 104.00698793),
        # Of images and of labels, in either order.
        ([WITH_FILE, SCALED], 104.00698793),
        ([SCALED, WITH_FILE], 104.00698793),
        # Mirrored alone.
        ([field(6, 1)], 0.0),
        ([], 104.00698793),
        ([field(3, 227) + field(5, 117.0)], 117.0),
        ([SCALED, field(5, 117.0)], 117.0),
    ],
    ids=[
        "none",
        "file",
        "file, none",
        "none, file",
        "mirror",
        "not said",
        "number",
        "none, number",
    ],
)
def test_transform_without_a_mean_subtracts_nothing(
    transforms: list[bytes], mean: float, tmp_path: Path
) -> None:
    path = caffe_file(tmp_path / "a.caffemodel", frameworks.caffe_blobs(1, WIDTH, CLASSES), False)
    for i, transform in enumerate(transforms):
        data = field(100, field(1, f"data{i}") + field(2, "Data") + field(100, transform))
        path.write_bytes(path.read_bytes() + data)
    (fact,) = (fact for fact in facts(identify(read(path))) if fact.what == "scale of the input")
    assert ("less a mean" in fact.value) == (mean != 0)
    about = import_weights(path, tmp_path / "run")
    assert ("none, as the file says" in about["imported"]["mean"]) == (mean == 0)
    blue = load(tmp_path / "run", device="cpu").preprocess.whole_mean[..., 2]
    assert blue.unique().tolist() == pytest.approx([mean])


@pytest.mark.parametrize("count", [2, 4])
def test_caffes_means_are_one_or_one_of_each_channel(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = caffe_file(tmp_path / "a.caffemodel", frameworks.caffe_blobs(1, WIDTH, CLASSES), False)
    transform = b"".join(field(5, 104.0) for _ in range(count))
    data = field(100, field(1, "data") + field(2, "Data") + field(100, transform))
    path.write_bytes(data + path.read_bytes())
    says = f"it subtracts {count} means, and an image has three channels"
    assert reason_of(path) == says
    assert says in " ".join(printed(capsys, "which", path).split())
    assert says in refused(capsys, "import", path, tmp_path / "run")
