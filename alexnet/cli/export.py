"""`alexnet export`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import on_disk, parse
from alexnet.errors import AlexNetError, not_installed
from alexnet.files import check_may_write


@dataclass(frozen=True)
class ExportArguments:
    """Write the weights of a run as safetensors, or the whole network as ONNX.

    The ONNX network takes the center crop, RGB values from 0 to 255, and returns probabilities. Its
    metadata say how an image becomes its input. With --layout, the weights have the names and
    shapes of another program, if it has this network.
    """

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Folder of the run."""
    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """New file; its suffix, .onnx or .safetensors, selects the format; with --layout .pth, .npz,
    .safetensors or .caffemodel."""
    which: Literal["last", "best"] = "last"
    """The last checkpoint, or the one with the lowest validation error."""
    with_preprocessing: bool = False
    """The ONNX network takes images of the stored size, (N, H, W, 3) of bytes, and crops them."""
    crops: Literal["centre", "center", "nine", "ten"] = "centre"
    """With --with-preprocessing: the crops over which the ONNX network averages."""
    layout: Literal["ours", "torchvision", "caffe"] = "ours"
    """Whose names the weights have."""
    groups: Literal["keep", "split", "dense"] = "keep"
    """With --layout caffe and .npz: one array for a grouped layer, one for each column, or one with
    zeros between columns."""


def export(arguments: list[str]) -> None:
    """Run `alexnet export`."""
    a = parse(ExportArguments, "export", arguments)
    crops: Literal["centre", "nine", "ten"] = "centre" if a.crops == "center" else a.crops
    if a.file.exists():
        raise AlexNetError(f"{a.file} exists; choose another name")
    if a.file.suffix != ".onnx" and (a.with_preprocessing or crops != "centre"):
        raise AlexNetError(f"--with-preprocessing and --crops are for .onnx files, not {a.file}")
    # Before the network is loaded and checked, which takes seconds.
    check_may_write(on_disk(a.file))
    if a.layout == "ours" and a.groups != "keep":
        raise AlexNetError("--groups is for --layout caffe")
    if a.layout == "ours" and a.file.suffix not in (".onnx", ".safetensors"):
        raise AlexNetError(f"{a.file} ends in neither .onnx nor .safetensors")
    from alexnet import checkpoint, export, load

    if a.layout != "ours":
        from alexnet.weights.exporting import has_torchvisions_shapes, lacks_mean, write_layout

        saved = checkpoint.read(a.run, a.which)
        write_layout(saved, a.file, a.layout, a.groups)
        print(a.file)
        if lacks_mean(saved, a.file, a.layout):
            print("  the mean that the run subtracts from its images is not in this file")
        if a.layout == "torchvision" and not has_torchvisions_shapes(saved):
            print(
                "  torchvision's own network cannot load this file: it has the full width, and 6x6 "
                "maps before fc6, as from images of 224 pixels"
            )
        return
    if a.file.suffix == ".onnx":
        # On a GPU a run may be used in a precision that the file does not have.
        trained = load(a.run, a.which, device="cpu")
        compared = export.write_onnx(trained, a.file, a.with_preprocessing, crops)
        print(a.file)
        print(input_in_words(export.description(trained, a.with_preprocessing, crops)))
        if not compared:
            needs = not_installed("the comparison", "onnxruntime")
            print(f"  the file was not compared with the run: {needs}")
        return
    # The empty dict stands for the velocity, which only a run that continues needs.
    saved = checkpoint.read(a.run, a.which)
    checkpoint.write(a.file, saved.weights, {}, saved.mean, saved.about)
    print(a.file)


def input_in_words(about: dict[str, Any]) -> str:
    """The input of the exported network in words, and the crops where `predict` takes others.

    Args:
        about: The result of `export.description`.
    """
    before, inside = about["before"], about["inside"]
    side = before["center_crop_px"]
    shape = f"(N, 3, {side}, {side})" if before["layout"] == "NCHW" else f"(N, {side}, {side}, 3)"
    lines = [
        f"  input: RGB, 0 to 255, {before['dtype']} {shape}",
        f"  of an image: the shorter side rescaled to {before['shorter_side_px']} pixels "
        f"(bicubic), then the central {side}x{side}",
    ]
    if inside["crops"] != about["crops_of_alexnet_predict"]:
        ours, predicts = (
            f"{count} crops" if count > 1 else "the center crop"
            for count in (inside["crops"], about["crops_of_alexnet_predict"])
        )
        lines.append(f"  crops: this file takes {ours}; `alexnet predict` averages {predicts}")
    return "\n".join(lines)
