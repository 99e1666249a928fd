"""What files of weights say of their network: operations, constants, and what is refused."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from alexnet import load, recipes
from alexnet.architecture import plan
from alexnet.card import write_card
from alexnet.checkpoint import read as read_checkpoint
from alexnet.checkpoint import write
from alexnet.cli import main
from alexnet.cli.which import of_checkpoint
from alexnet.config import Lrn, Pool
from alexnet.errors import RunError
from alexnet.inference import activations
from alexnet.model import Network
from alexnet.weights import caffemodel, importing
from alexnet.weights.exporting import operations, write_layout
from alexnet.weights.facts import facts
from alexnet.weights.files import read, read_mean
from alexnet.weights.identify import identify
from alexnet.weights.importing import import_weights
from alexnet.weights.protobuf import Budget, Malformed, Message, field
from tests import frameworks
from tests.commands import printed, refused
from tests.test_weights import IMAGES, MEAN_IMAGE
from tests.weight_files import CLASSES, WIDTH, caffe_architecture, caffe_file, trained_of


@pytest.fixture(autouse=True)
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """The card of a run tests its weights, which takes a second."""
    monkeypatch.setattr(importing, "write_card", lambda *_: None)


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


def reason_of(path: Path) -> str:
    found = identify(read(path))
    assert not found.candidates
    return found.reason


# --- Dropout


@pytest.fixture
def one_column(tmp_path: Path) -> Path:
    architecture = replace(recipes.one_column().architecture, width=WIDTH, classes=CLASSES)
    path = tmp_path / "port.pth"
    torch.save(Network(architecture).state_dict(), path)
    np.save(tmp_path / "mean.npy", MEAN_IMAGE)
    return path


def test_weights_alone_are_not_halved_unless_it_is_said(
    one_column: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (fact,) = [one for one in facts(identify(read(one_column))) if one.what == "fc6 and fc7"]
    assert fact.value == ""
    assert fact.source == "the weights do not say; import --dropout 2012 halves them"
    common = "--net", "one_column", "--mean", str(tmp_path / "mean.npy")
    for options, form, says in (
        ((), "inverted", "as they are, as in all other programs; --dropout 2012 halves them"),
        (("--dropout", "2012"), "2012", "halved in use, as --dropout 2012 says"),
    ):
        run = tmp_path / f"run-{len(options)}-{form}"
        main(["import", str(one_column), str(run), *common, *options])
        assert f"  fc6 and fc7: {says}\n" in capsys.readouterr().out
        assert read_checkpoint(run).config.architecture.dropout.form == form


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


def test_factors_that_are_none_of_dropout_are_refused(
    exported: Callable[[str], Any], tmp_path: Path
) -> None:
    from onnx import numpy_helper

    for value, says in (
        (np.array(2, np.float32), "by numbers that are none of dropout"),
        (np.array([0.5, 0.25], np.float32), "by numbers that are none of dropout"),
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


# --- Operations


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
    ):
        path = tmp_path / "a.caffemodel"
        path.write_bytes(data + field(100, extra))
        with pytest.raises(RunError, match=says):
            import_weights(path, tmp_path / "run")
    path.write_bytes(field(100, field(1, "data") + field(2, "Data")) + data)
    assert identify(read(path)).chosen().net.name == "caffe_alexnet"


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


# --- Preprocessing inside the file


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
    centre = load(tmp_path / "run", device="cpu").preprocess.centre_patch_mean()
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
    del crop.input[4:]
    next(one for one in model.graph.initializer if one.name == crop.input[3]).CopyFrom(
        numpy_helper.from_array(np.array([1, 2]), crop.input[3])
    )
    assert "it has Slice" in reason_of(saved_as(model, path))


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


# --- Export


def run_of(architecture: Any, recipe: str, path: Path) -> Any:
    """A run with these weights at their start."""
    from alexnet.saved_config import to_dict

    config = replace(getattr(recipes, recipe)(), architecture=architecture)
    about = {
        "config": to_dict(config),
        "recipe": recipe,
        "store": "",
        "classes": [f"class {i}" for i in range(CLASSES)],
        "covariance": np.zeros((3, 3)).tolist(),
    }
    path.mkdir()
    px = architecture.input_px
    stored = torch.zeros(px, px, 3)
    weights = dict(Network(architecture).named_parameters())
    write(path / "last.safetensors", weights, {}, stored, about | {"stored_px": px})
    return read_checkpoint(path)


def test_export_refuses_pools_and_constants_that_the_other_program_has_not(
    tmp_path: Path,
) -> None:
    caffe = caffe_architecture(False)
    torchvision = replace(recipes.torchvision().architecture, width=WIDTH, classes=CLASSES)
    cases = (
        ("torchvision", replace(torchvision, pool=Pool(2, 2)), ("a.pth", "a.npz")),
        ("caffe", replace(caffe, pool=Pool(2, 2)), ("a.npz", "a.caffemodel")),
        ("caffe", replace(caffe, lrn=Lrn(k=2.0)), ("a.npz",)),
    )
    for i, (layout, architecture, names) in enumerate(cases):
        recipe = "torchvision" if layout == "torchvision" else "caffe_alexnet"
        saved = run_of(architecture, recipe, tmp_path / str(i))
        for name in names:
            with pytest.raises(RunError, match="is another network"):
                write_layout(saved, tmp_path / name, layout)  # type: ignore[arg-type]
    # A .caffemodel has the constants.
    write_layout(saved, tmp_path / "a.caffemodel", "caffe")
    found = identify(read(tmp_path / "a.caffemodel")).chosen()
    assert found.config.architecture.lrn == Lrn(k=2.0)
    even = run_of(replace(caffe, lrn=Lrn(n=4)), "caffe_alexnet", tmp_path / "even")
    with pytest.raises(RunError, match="have no such window for an even number"):
        write_layout(even, tmp_path / "b.caffemodel", "caffe")


def test_other_input_sizes_come_back(tmp_path: Path) -> None:
    torchvision = replace(
        recipes.torchvision().architecture, width=WIDTH, classes=CLASSES, input_px=112
    )
    saved = run_of(torchvision, "torchvision", tmp_path / "a")
    write_layout(saved, tmp_path / "a.pth", "torchvision")
    with pytest.raises(RunError, match=r"fc6\.weight has the shape .* --input-px"):
        import_weights(tmp_path / "a.pth", tmp_path / "back")
    with pytest.raises(RunError, match="--input-px is 0; it must be at least 1"):
        import_weights(tmp_path / "a.pth", tmp_path / "back", input_px=0)
    main(["import", str(tmp_path / "a.pth"), str(tmp_path / "back"), "--input-px", "112"])
    back = read_checkpoint(tmp_path / "back")
    assert back.config.architecture.input_px == 112
    assert all(torch.equal(back.weights[name], value) for name, value in saved.weights.items())
    caffe = replace(caffe_architecture(True), input_px=131)
    saved = run_of(caffe, "caffenet", tmp_path / "b")
    write_layout(saved, tmp_path / "b.caffemodel", "caffe")
    assert read(tmp_path / "b.caffemodel").input_px == 131
    import_weights(tmp_path / "b.caffemodel", tmp_path / "caffe")
    with pytest.raises(RunError, match="is for images of 131 pixels; leave out --input-px"):
        import_weights(tmp_path / "b.caffemodel", tmp_path / "other", input_px=227)


# --- Hostile files


def bytearray_of(size: int) -> bytes:
    return b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", size) + b"\x85R."


def zipped(pickled: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as out:
        out.writestr("archive/data.pkl", pickled)
        out.writestr("archive/version", "3\n")
    return content.getvalue()


@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_pickle_takes_no_memory_before_it_is_checked(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    if form == "zip":
        path.write_bytes(zipped(bytearray_of(2**30)))
    else:
        start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(start + bytearray_of(2**30))

    def never(*_: Any, **__: Any) -> None:
        pytest.fail("the file was loaded")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(RunError, match=r"has more than plain tensors \(builtins\.bytearray\)"):
        read(path)


@pytest.mark.parametrize(
    "name", ["torch\nTensor", "torch\nFloatTensor", "torch.storage\nUntypedStorage"]
)
def test_classes_that_take_memory_are_no_part_of_a_state_dict(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(zipped(bytearray_of(9).replace(b"builtins\nbytearray", name.encode())))
    with pytest.raises(RunError, match="has more than plain tensors"):
        read(path)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_what_checkpoints_have_beside_weights_is_read(new: bool, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3])
    content = {
        "state_dict": net.half().state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "other": (torch.nn.Parameter(torch.ones(2)), torch.float32, torch.Size([2]), {1}, b"x"),
    }
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    assert {*read(tmp_path / "a.pth").arrays} == {"0.weight", "0.bias"}


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy"])
def test_numbers_count_as_they_grow(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    array = np.zeros(1000, np.float16)
    if suffix == ".safetensors":
        save_file({"a": torch.from_numpy(array)}, path)
    elif suffix == ".npz":
        np.savez(path, a=array[:500], b=array[500:])
    else:
        np.save(path, array)
    assert read(path).arrays
    monkeypatch.setattr("alexnet.weights.files.MOST_BYTES", 3000)
    with pytest.raises(RunError, match="larger than 2 GiB as float32"):
        read(path)


def test_numbers_of_a_message_count_as_they_grow() -> None:
    message = Message(memoryview(field(9, bytes(200))), Budget(numbers=150))
    assert len(message.floats(9, "<f2")) == 100
    with pytest.raises(Malformed, match="larger than 2 GiB as float32"):
        message.floats(9, "<f2")


def onnx_tensor(*sides: int) -> bytes:
    tensor = (
        b"".join(field(1, side) for side in sides) + field(2, 1) + field(8, "w") + field(9, b"")
    )
    return field(7, field(5, tensor))


def caffe_tensor(*sides: int) -> bytes:
    blob = field(7, b"".join(field(1, side) for side in sides))
    return field(100, field(1, "conv1") + field(2, "Convolution") + field(7, blob))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.onnx", onnx_tensor(0, 2**63)),
        ("a.onnx", onnx_tensor(0, 2**64 - 1)),
        ("a.caffemodel", caffe_tensor(0, 2**63)),
    ],
)
def test_hostile_sides_end_in_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match="an array of 0 numbers has another shape"):
        read(tmp_path / name)


def test_means_of_other_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mean.npy"
    for shape in ((2, 3, 8, 8), (0, 3, 8, 8), (3, 8, 9), (3, 0, 0), (), (4,)):
        np.save(path, np.zeros(shape, np.float32))
        with pytest.raises(RunError, match="is not a mean of three channels"):
            read_mean(path)
    np.save(path, np.zeros((1, 3, 8, 8), np.float32))
    assert read_mean(path).shape == (3, 8, 8)
    blobs = frameworks.caffe_blobs(7, WIDTH, CLASSES)
    for shape in ((3, 256, 200), (3, 2, 256, 256), (3, 0, 0)):
        np.savez(tmp_path / "a.npz", **blobs, data_mean=np.zeros(shape, np.float32))
        with pytest.raises(RunError, match=r"has a mean of shape .*, which fits no image"):
            import_weights(tmp_path / "a.npz", tmp_path / "run", "caffenet")
        assert not (tmp_path / "run").exists()


def test_a_failed_import_leaves_nothing(
    one_column: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RunError("no card")

    monkeypatch.setattr(importing, "write_card", fails)
    before = {*tmp_path.iterdir()}
    with pytest.raises(RunError, match="no card"):
        import_weights(one_column, tmp_path / "run", "one_column", mean=tmp_path / "mean.npy")
    assert {*tmp_path.iterdir()} - before <= {tmp_path / ".run.lock"}
    monkeypatch.setattr(importing, "write_card", write_card)
    import_weights(one_column, tmp_path / "run", "one_column", mean=tmp_path / "mean.npy")
    assert (tmp_path / "run" / "card.md").read_text().startswith("# run\n")


def test_which_counts_parameters_without_running_statistics(tmp_path: Path) -> None:
    base = replace(recipes.one_column().architecture, width=WIDTH, classes=CLASSES)
    layers = tuple(
        replace(one, then=("batch_norm", *one.then)) if one.name == "conv1" else one
        for one in base.layers
    )
    architecture = replace(base, layers=layers)
    saved = run_of(architecture, "one_column", tmp_path / "run")
    statistics = {"conv1_bn.running_mean": torch.zeros(3), "conv1_bn.running_var": torch.ones(3)}
    about = saved.about | {"recipe": "one_column"}
    write(saved.file, dict(saved.weights) | statistics, {}, saved.mean, about)
    want = sum(op.parameters for op in plan(architecture))
    assert of_checkpoint(saved.file)["parameters"] == want
    assert want == sum(value.numel() for value in saved.weights.values())
