"""A file of another program's weights becomes a run, with the preprocessing that it expects.

The run takes images as R, G, B, as all runs do. Of a network for B, G, R the channel order of
conv1's filters and of the mean is reversed instead, which gives the same outputs, and shows the
filters in their colors.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from alexnet import checkpoint
from alexnet.architecture import plan
from alexnet.card import write_card
from alexnet.config import Config
from alexnet.config_checks import check
from alexnet.data.classes import are_wnids, numbered
from alexnet.data.manifest import is_names, is_store
from alexnet.data.preprocess import TORCHVISION_MEAN
from alexnet.data.sources.source import readable
from alexnet.data.storage import is_url
from alexnet.data.store import Store
from alexnet.errors import DataError, RunError
from alexnet.files import check_utf8, file_sha256, new_folder, parse_json
from alexnet.provenance import code_version
from alexnet.saved_config import to_dict
from alexnet.weights.files import read, read_mean
from alexnet.weights.identify import Candidate, identify, is_bgr
from alexnet.weights.layouts import MEAN, with_channels_reversed
from alexnet.weights.operations import Array, WeightFile
from alexnet.weights.preprocessing import Preprocessing, preprocessing_of

STORED_PX = {224: 256, 227: 256}
"""Side of the images that crops of a size are taken from, in all of these programs."""

Channels = Literal["auto", "rgb", "bgr"]
DropoutForm = Literal["2012", "inverted"]


def import_weights(
    path: str | Path,
    run: str | Path,
    net: str = "",
    classes: str = "",
    mean: Path | None = None,
    channels: Channels = "auto",
    dropout: DropoutForm | None = None,
    input_px: int | None = None,
) -> dict[str, Any]:
    """Make a run from a file of weights.

    Args:
        path: The file.
        run: A new folder.
        net: The network, where the weights do not tell several apart.
        classes: A file with the name of a class on each line, in the order of the outputs, or a
            store with the same classes; empty: those in the file, or `class 0`, ...
        mean: The mean to subtract, with its channels in the order of the network's input.
        channels: The order of the channels that the network expects; auto: that of its program,
            if the names in the file tell.
        dropout: The form that it was trained with, where the file has weights alone. 2012: the
            outputs of fc6 and fc7 are halved at test. None: inverted, as in all other programs.
        input_px: Side of its input, where the file does not say.

    Returns:
        The header of the checkpoint.

    Raises:
        RunError: The file cannot be read, is not an AlexNet that is known, or lacks its mean.
        DataError: The file of classes does not fit.
    """
    path, run = Path(path), Path(run)
    if run.exists():
        raise RunError(f"{run} exists; choose another name")
    check_utf8(run)
    file = read(path)
    if checkpoint.ABOUT in file.metadata:
        raise RunError(f"{path} was written by this program: use it as it is, as RUN")
    file = _with_input(file, input_px)
    identity = identify(file)
    chosen = identity.chosen(net)
    preprocessing = preprocessing_of(file)
    assert isinstance(preprocessing, Preprocessing)  # otherwise there is no candidate
    bgr = is_bgr(identity, chosen.net) if channels == "auto" else channels == "bgr"
    if bgr is None:
        raise RunError(
            f"{path} has names that our own runs have, whose images are R, G, B, and ports of "
            "Caffe's weights too, whose images are B, G, R; say which with --channels rgb or "
            "--channels bgr"
        )
    if bgr and chosen.config.augment.mean == "channel":
        raise RunError(
            f"{chosen.title} has a mean and a deviation of each channel, for images that are "
            "R, G, B; leave out --channels bgr"
        )
    config, dropout_in_words = _with_dropout(file, chosen, dropout)
    # With a mean for each channel, the run divides by the deviations itself.
    scale = np.ones(3, np.float32) if config.augment.mean == "channel" else preprocessing.scale
    weights = _weights(chosen, bgr, scale, path)
    names, words = _classes(classes, plan(config.architecture)[-1].shape[0], file)
    mean_image, mean_in_words = _mean(file, preprocessing, chosen, mean, bgr)
    check(config)
    about = _header(config, names, words, stored_px=mean_image.shape[0])
    about["imported"] = {
        **_origin(file, path, chosen, bgr, scale),
        "mean": mean_in_words,
        "dropout": dropout_in_words,
    }
    _write_run(run, config, weights, mean_image, about)
    return about


def _origin(
    file: WeightFile, path: Path, chosen: Candidate, bgr: bool, scale: Array
) -> dict[str, Any]:
    """What the header of the checkpoint says of the file, as JSON values.

    Args:
        bgr: Whether the network of the file takes images as B, G, R.
        scale: As for `_weights`.
    """
    return {
        "file": readable(path.name),
        "sha256": file_sha256(path),
        "format": file.form,
        "network": chosen.title,
        "channels": "BGR" if bgr else "RGB",
        "zeros_taken_out": chosen.grouped,
        "scale_in_conv1": scale.tolist() if (scale != 1).any() else None,
    }


def _write_run(
    run: Path, config: Config, weights: dict[str, Array], mean: Array, about: dict[str, Any]
) -> None:
    """Write the folder of the run: its configuration, its checkpoint and its card."""
    with new_folder(run) as folder:
        checkpoint.write_config(folder, config)
        checkpoint.write(
            folder / "last.safetensors",
            {name: torch.from_numpy(array) for name, array in weights.items()},
            {},
            torch.from_numpy(mean),
            about,
        )
        # The checkpoint as it is read back: what cannot be used leaves no run behind.
        write_card(folder, run.resolve().name)


def _with_input(file: WeightFile, input_px: int | None) -> WeightFile:
    """The file with the side of its input that is given.

    Raises:
        RunError: It is not the side of an image, or the file has another.
    """
    if input_px is None:
        return file
    if input_px < 1:
        raise RunError(f"--input-px is {input_px}; it must be at least 1")
    if file.input_px not in (None, input_px):
        raise RunError(f"{file.path} is for images of {file.input_px} pixels; leave out --input-px")
    return replace(file, input_px=input_px)


def _with_dropout(
    file: WeightFile, chosen: Candidate, form: DropoutForm | None
) -> tuple[Config, str]:
    """The config with the form of dropout, and in words what it does in use and who says so.

    Raises:
        RunError: A form is given for a file that has the operations.
    """
    config = chosen.config
    if file.operations and form is not None:
        raise RunError(
            f"{file.path} has the operations of its network, and so says itself whether fc6 and "
            "fc7 are halved; leave out --dropout"
        )
    if form == "2012":
        known = replace(config.architecture.dropout, form="2012")
        config = replace(config, architecture=replace(config.architecture, dropout=known))
    in_use = "halved in use" if config.architecture.dropout.form == "2012" else "as they are"
    if file.operations:
        return config, f"{in_use}, as the operations in the file say"
    if form is not None:
        return config, f"{in_use}, as --dropout {form} says"
    if chosen.net.config().architecture.dropout.form == "2012":
        return config, f"{in_use}, as in all other programs; --dropout 2012 halves them"
    return config, f"{in_use}, as in its program"


def _weights(chosen: Candidate, bgr: bool, scale: Array, path: Path) -> dict[str, Array]:
    """The weights of the run.

    Args:
        scale: (3,): what the file multiplies an image by, which the filters of conv1 do instead.

    Raises:
        RunError: One of them is not a finite number.
    """
    # Copies: those of a file are views of its bytes, which PyTorch cannot take.
    weights = {name: np.array(array, np.float32) for name, array in chosen.arrays.items()}
    weights["conv1.weight"] *= scale[:, None, None]
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise RunError(f"{path} has numbers in {name} that are not finite; get it again")
    if bgr:
        weights["conv1.weight"] = with_channels_reversed(weights["conv1.weight"])
    return weights


def _classes(source: str, count: int, file: WeightFile) -> tuple[list[str], list[str]]:
    """The names of the classes, and the words for them if they are wnids.

    Raises:
        DataError: There are more or fewer than the network has outputs, or two are the same.
    """
    if not source:
        # From 0, as the published lists of classes of these programs are numbered.
        return _classes_in(file, count) or (numbered(count), [])
    # At a URL only a store can be.
    if is_url(source) or is_store(Path(source)):
        store = Store(source)
        names, words = list(store.classes), list(store.words)
    else:
        try:
            lines = Path(source).read_text("utf-8-sig").splitlines()  # Windows marks its files
        except FileNotFoundError:
            raise DataError(f"{source} does not exist; name a text file or a store") from None
        except UnicodeDecodeError:
            raise DataError(f"{source} is not a text in UTF-8; write one class on a line") from None
        # Caffe's synset_words.txt: `n01440764 tench, Tinca tinca`.
        names, words = [line.strip() for line in lines if line.strip()], []
        heads = [name.partition(" ")[0] for name in names]
        if are_wnids(heads):
            words = [name.partition(" ")[2].strip() for name in names]
            names, words = heads, words if all(words) else []
    if len(names) != count:
        raise DataError(f"{source} has {len(names)} classes, and {file.path} has {count} outputs")
    if len(set(names)) < len(names):
        second = next(i for i, name in enumerate(names) if name in names[:i])
        first = names.index(names[second])
        raise DataError(
            f"{source} names the class {names[second]!r} twice, as number {first + 1} and "
            f"{second + 1}; make the two different, or give synset_words.txt with the WordNet ids"
        )
    return names, words


def _classes_in(file: WeightFile, count: int) -> tuple[list[str], list[str]] | None:
    """The classes and their words in the metadata of a file, which our own ONNX files have.

    Returns:
        None if there are none, or not as many different ones as the network has outputs.
    """
    try:
        names, words = (
            parse_json(file.metadata.get(key, "[]").encode()) for key in ("classes", "words")
        )
    except ValueError:
        return None
    if not is_names(names) or not len(set(names)) == len(names) == count:
        return None
    return names, words if is_names(words) and len(words) == count else []


def _stored_px(file: WeightFile, input_px: int) -> int:
    """The side of the images that crops are taken from, which our own ONNX files say."""
    said = file.stated("before", "shorter_side_px")
    if said is not None and input_px <= said <= 2 * input_px:
        return said
    return STORED_PX.get(input_px, round(input_px * 256 / 224))


def _mean(
    file: WeightFile,
    preprocessing: Preprocessing,
    chosen: Candidate,
    mean_file: Path | None,
    bgr: bool,
) -> tuple[Array, str]:
    """The mean image of the run, and where it is from.

    Returns:
        (stored_px, stored_px, 3) float32, R, G, B, in gray levels.

    Raises:
        RunError: There is none, or it fits no image.
    """
    architecture, known = chosen.config.architecture, chosen.net.mean_rgb
    stored_px = _stored_px(file, architecture.input_px)
    if chosen.config.augment.mean == "channel":
        if mean_file is not None:
            raise RunError(f"{chosen.title} has its own mean and deviation; leave out --mean")
        if not preprocessing.is_torchvisions:
            raise RunError(
                f"{file.path} subtracts or divides by other numbers than {chosen.title}, which a "
                "run has no setting for; export the network without its preprocessing"
            )
        mean, source = (
            255 * np.array(TORCHVISION_MEAN, np.float32),
            "torchvision's, of each channel",
        )
    elif mean_file is not None:
        mean, source = read_mean(mean_file), readable(mean_file.name)
    elif MEAN in file.arrays:
        mean, source = file.arrays[MEAN], "in the file"
    elif preprocessing.mean is not None:
        mean, source = preprocessing.mean, "in the file"
        if not mean.any():
            source = "none, as the file says"
        elif mean.ndim == 1:
            source = "in the file, of each channel"
    elif known:
        mean, source = np.array(known, np.float32), "of each channel, as its program publishes it"
        mean = mean[::-1] if bgr else mean
    else:
        raise RunError(
            f"{file.path} has no mean, which {chosen.title} subtracts from its images; name it "
            "with --mean FILE"
        )
    square = mean.ndim == 1 or (mean.ndim == 3 and mean.shape[1] == mean.shape[2])
    if not (square and mean.size) or mean.shape[0] != 3 or not np.isfinite(mean).all():
        raise RunError(
            f"{file.path} has a mean of shape {mean.shape}, which fits no image; "
            "name another with --mean FILE"
        )
    mean = mean[::-1] if bgr and chosen.config.augment.mean != "channel" else mean
    if mean.ndim == 1:
        mean = np.broadcast_to(mean[:, None, None], (3, stored_px, stored_px))
    elif mean.shape[1] == architecture.input_px < stored_px:
        # The center crop of each image, beyond which it goes on as at its border.
        first = (stored_px - architecture.input_px) // 2
        last = stored_px - architecture.input_px - first
        mean = np.pad(mean, ((0, 0), (first, last), (first, last)), "edge")
        source += ", of the center crop"
    side, smallest, largest = mean.shape[1], architecture.input_px, 2 * architecture.input_px
    if not smallest <= side <= largest:
        raise RunError(
            f"{mean_file or file.path} has a mean of {side} x {side} pixels; name with --mean one "
            f"of the crop ({smallest} pixels) or of the stored images (up to {largest})"
        )
    return np.array(mean.transpose(1, 2, 0), np.float32, order="C"), source


def _header(config: Config, names: list[str], words: list[str], stored_px: int) -> dict[str, Any]:
    """The header of a checkpoint as training writes it, where there is no store."""
    return {
        "code": code_version(),
        "torch": torch.__version__,
        "recipe": config.recipe,
        "config": to_dict(config),
        "classes": names,
        "words": words,
        "store": "",
        "stored_px": stored_px,
        # The statistics of its training set are not known, and only color noise needs them.
        "covariance": np.zeros((3, 3)).tolist(),
        "evaluation": None,
        "products": {},
    }
