"""The options of `import` and `export`: what a file does not say, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from alexnet import evaluate, load, recipes
from alexnet.card import write_card
from alexnet.checkpoint import read as read_checkpoint
from alexnet.cli import main
from alexnet.config import Lrn, Pool
from alexnet.data.store import Store
from alexnet.errors import AlexNetError, RunError
from alexnet.model import Network
from alexnet.train.start import resume
from alexnet.weights import importing
from alexnet.weights.exporting import has_torchvisions_shapes, write_layout
from alexnet.weights.facts import facts
from alexnet.weights.files import read, read_mean
from alexnet.weights.identify import identify
from alexnet.weights.importing import import_weights
from alexnet.weights.protobuf import field
from tests import frameworks
from tests.commands import refused
from tests.weight_files import (
    CLASSES,
    MEAN_IMAGE,
    WIDTH,
    caffe_architecture,
    caffe_file,
    run_of,
    torchvision_file,
)

pytestmark = pytest.mark.usefixtures("no_card")


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


@pytest.mark.parametrize("channels", ["rgb", "bgr"])
def test_names_of_ours_do_not_tell_the_channels_of_caffes_nets(
    channels: Literal["rgb", "bgr"], tmp_path: Path
) -> None:
    net = Network(caffe_architecture(True))
    torch.save(net.state_dict(), tmp_path / "a.pth")
    (fact,) = [one for one in facts(identify(read(tmp_path / "a.pth"))) if one.what == "channels"]
    assert (fact.value, fact.source) == ("", "the weights do not say: B, G, R or else R, G, B")
    with pytest.raises(RunError, match="say which with --channels rgb or --channels bgr"):
        import_weights(tmp_path / "a.pth", tmp_path / "run", "caffenet")
    import_weights(tmp_path / "a.pth", tmp_path / "run", "caffenet", channels=channels)
    weight = read_checkpoint(tmp_path / "run").weights["conv1.weight"]
    assert torch.equal(weight.flip(1) if channels == "bgr" else weight, net.conv1.weight)


def test_mean_of_each_channel_is_not_reversed(tmp_path: Path) -> None:
    """It would be subtracted from other channels than the network of the file knew."""
    torchvision_file(tmp_path / "a.pth")
    with pytest.raises(RunError, match=r"images that are R, G, B; leave out --channels bgr"):
        import_weights(tmp_path / "a.pth", tmp_path / "run", channels="bgr")
    assert not (tmp_path / "run").exists()


def test_two_arrays_for_one_parameter_are_refused(tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    slim = frameworks.slim_variables(2, WIDTH, CLASSES)
    name = "conv1/weights"
    (key,) = [key for key in slim if key.removesuffix(":0").endswith(name)]
    for arrays, second in ((blobs, "conv1_w"), (slim, f"tower_1/{name}")):
        value = arrays[key if arrays is slim else "conv1/0"]
        np.savez(tmp_path / "a.npz", **arrays, **{second: value + 1})
        with pytest.raises(
            RunError, match=f"has two arrays for conv1.weight, one of them as {second}"
        ):
            identify(read(tmp_path / "a.npz"))
    state = torchvision_file(tmp_path / "a.pth")
    average = state["features.0.weight"].clone()
    torch.save(state | {"module.features.0.weight": average}, tmp_path / "a.pth")
    says = r"has two tensors for features\.0\.weight, one of them as module\.features\.0\.weight"
    with pytest.raises(RunError, match=says):
        read(tmp_path / "a.pth")


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


@pytest.mark.parametrize("suffix", [".caffemodel", ".npz"])
def test_lrn_of_four_maps_is_exported_as_that_of_five(suffix: str, tmp_path: Path) -> None:
    """Ours sums over n // 2 maps on both sides; Caffe's of an even number has one side more."""
    architecture = caffe_architecture(False)
    known = architecture.lrn
    four = replace(architecture, lrn=replace(known, n=4))
    path = tmp_path / f"a{suffix}"
    write_layout(run_of(four, "caffe_alexnet", tmp_path / "run"), path, "caffe")
    found = identify(read(path)).chosen("caffe_alexnet")
    assert found.config.architecture.lrn == known


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


@pytest.mark.parametrize(
    "keys", [("model", "state_dict"), ("net", "model"), ("state_dict", "model"), ("weights",) * 4]
)
def test_state_dict_is_found_in_nested_checkpoints(keys: tuple[str, ...], tmp_path: Path) -> None:
    content: dict[str, Any] = {"fc6.bias": torch.ones(2)}
    for key in keys:
        content = {"epoch": 9, key: content}
    torch.save(content, tmp_path / "a.pth")
    assert {*read(tmp_path / "a.pth").arrays} == {"fc6.bias"}


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
    twice = tmp_path / "twice.txt"
    twice.write_text("".join(f"{name}\n" for name in ["a", "crane", *"bcdefg", "crane", "h"]))
    for options, says in (
        (("--net", "caffenet", "--classes", str(words)), "has 2 classes, and .* has 10 outputs"),
        (
            ("--net", "caffenet", "--classes", str(twice)),
            r"names the class 'crane' twice, as number 2 and 9; make .* or give synset_words\.txt",
        ),
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
    assert torch.equal(preprocess.centre_mean, want)


@pytest.mark.parametrize(("side", "fits"), [(226, False), (454, True), (455, False)])
def test_mean_has_the_size_of_an_image_that_crops_are_taken_from(
    side: int, fits: bool, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **frameworks.caffe_blobs(1, WIDTH, CLASSES))
    mean = tmp_path / "mean.npy"
    np.save(mean, np.full((3, side, side), 120, np.float32))
    if fits:
        about = import_weights(tmp_path / "a.npz", tmp_path / "run", "caffenet", mean=mean)
        assert about["stored_px"] == side
        return
    says = rf"mean\.npy has a mean of {side} x {side} pixels; .*\(227 pixels\) .* \(up to 454\)"
    with pytest.raises(RunError, match=says):
        import_weights(tmp_path / "a.npz", tmp_path / "run", "caffenet", mean=mean)


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
    says = (
        rf"^the classes of {run} have no names, .* if its outputs are in the order of these, "
        rf"import a\.pth again with --classes {store}$"
    )
    with pytest.raises(RunError, match=says):
        evaluate([run], store)
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
    shown = capsys.readouterr().out
    assert "is not in this file" not in shown
    # A sixteenth of the width.
    assert "torchvision's own network cannot load this file: it has the full width" in shown
    architecture = replace(recipes.torchvision().architecture, classes=CLASSES)
    assert has_torchvisions_shapes(run_of(architecture, "torchvision", tmp_path / "full"))
    small = replace(architecture, input_px=112)
    assert not has_torchvisions_shapes(run_of(small, "torchvision", tmp_path / "small"))
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
