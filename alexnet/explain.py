"""Explanations of what a trained network says about an image, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet import attribution
from alexnet.attribution import CropAnswers, Occlusion, Projection
from alexnet.config import FullyConnected
from alexnet.data.image import Rgb
from alexnet.errors import RunError
from alexnet.receptive_field import Field
from alexnet.receptive_field import field as receptive_field
from alexnet.trained import Trained

GRADIENT_METHODS = ("gradient", "integrated-gradients", "smoothgrad")
METHODS = (*GRADIENT_METHODS, "occlusion", "grad-cam", "deconvnet")


@dataclass(frozen=True)
class Explanation:
    """The evidence for one class in one image. A method that was not asked for has no result.

    Attributes:
        image: (stored_px, stored_px, 3) uint8, the image as a store has it.
        crop: (input_px, input_px, 3) uint8, the center crop as the network sees it, which every map
            below belongs to.
        label: Number of the explained class.
        answers: The answers to the test crops of the image.
        maps: By method of `GRADIENT_METHODS`: (3, input_px, input_px) float32.
        occlusion: The probability of the class while a square is covered.
        grad_cam: (rows, columns) float32, and the receptive fields of these units.
        projections: Units of each layer, led back to the pixels.
    """

    image: Rgb
    crop: Rgb
    label: int
    answers: CropAnswers
    maps: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    occlusion: Occlusion | None = None
    grad_cam: tuple[NDArray[np.float32], Field] | None = None
    projections: tuple[Projection, ...] = ()


def explain(
    trained: Trained,
    image: Rgb,
    methods: Sequence[str] = METHODS,
    label: int | None = None,
) -> Explanation:
    """Explain what a trained network says about an image.

    Args:
        image: (stored_px, stored_px, 3) uint8, as a store has it (`inference.read_image`).
        methods: Some of `METHODS`; see `methods_of`.
        label: The class to explain; None: the one that is predicted, over all test crops.

    Raises:
        RunError: A method does not suit this network.
    """
    net, preprocess = trained.net, trained.preprocess
    answers = attribution.crop_answers(trained, image)
    label = int(answers.average.argmax()) if label is None else label
    # In float32 whatever the run's precision is: gradients are looked at in their details.
    exact = copy(preprocess)
    exact.dtype = torch.float32
    x = exact.centre(torch.from_numpy(np.ascontiguousarray(image))[None])[0]
    maps = {}
    if "gradient" in methods:
        maps["gradient"] = attribution.saliency(net, x, label)
    if "integrated-gradients" in methods:
        maps["integrated-gradients"] = attribution.integrated_gradients(net, x, label)
    if "smoothgrad" in methods:
        maps["smoothgrad"] = attribution.smoothgrad(net, x, label)
    cam = None
    if "grad-cam" in methods:
        layer = attribution.map_layer(net.plan)
        cam = attribution.grad_cam(net, x, label), receptive_field(net.architecture, layer)
    return Explanation(
        image,
        preprocess.centre_pixels(image),
        label,
        answers,
        maps,
        attribution.occlusion(net, x, label) if "occlusion" in methods else None,
        cam,
        attribution.strongest_projections(net, x, label) if "deconvnet" in methods else (),
    )


def methods_of(trained: Trained, names: str) -> tuple[str, ...]:
    """Return the methods that a user names, in the order of `METHODS`.

    Args:
        names: Separated by commas, or "all": all that suit the network.

    Raises:
        RunError: There is no such method.
    """
    asked = list(METHODS) if names == "all" else names.split(",")
    for name in asked:
        if name not in METHODS:
            raise RunError(f"there is no method {name!r}; there are {', '.join(METHODS)}, and all")
    # Its rule is that of the ReLU. Asked for by its name, `deconvnet` itself says so.
    if names == "all" and trained.net.architecture.activation != "relu":
        asked.remove("deconvnet")
    # It needs maps.
    if names == "all" and all(isinstance(op.layer, FullyConnected) for op in trained.net.plan):
        asked.remove("grad-cam")
    return tuple(name for name in METHODS if name in asked)


def label_of(trained: Trained, name: str) -> int:
    """Return the number of the class that a user names, by its name or one that is displayed.

    Raises:
        RunError: There is no such class.
    """
    for names in (trained.classes, trained.names):
        if name in names:
            return names.index(name)
    some = ", ".join(trained.names[:10]) + (", ..." if len(trained.names) > 10 else "")
    raise RunError(f"the run has no class {name!r}; it has {some}")


def per_pixel(method: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reduce the values of three colors to one for each pixel.

    A gradient says how strongly a pixel counts by its largest color (Simonyan and others);
    attributions by integrated gradients are added, so that their sum stays what it is.

    Args:
        values: (3, H, W) of a method of `GRADIENT_METHODS`.

    Returns:
        (H, W).
    """
    reduced: NDArray[np.float32]
    reduced = values.sum(0) if method == "integrated-gradients" else np.abs(values).max(0)
    return reduced


def to_dict(explanation: Explanation, classes: Sequence[str]) -> dict[str, Any]:
    """Return an explanation as values that JSON can hold.

    Args:
        classes: The name of each class.
    """
    e, answers = explanation, explanation.answers
    result: dict[str, Any] = {
        "class": classes[e.label],
        "probability": float(answers.average[e.label]),
        "crops": [
            {
                "top": top,
                "left": left,
                "side": answers.side_px,
                "reflected": reflected,
                "classes": _named(p, classes),
            }
            for (top, left, reflected), p in zip(answers.crops, answers.probabilities, strict=True)
        ],
        "average": _named(answers.average, classes),
    }
    for method, values in e.maps.items():
        result[method] = {"pixels": _rounded(per_pixel(method, values))}
    if e.occlusion is not None:
        result["occlusion"] = {
            "side": e.occlusion.side_px,
            "starts": e.occlusion.starts_px.tolist(),
            "uncovered": e.occlusion.uncovered,
            "probabilities": _rounded(e.occlusion.probabilities),
        }
    if e.grad_cam is not None:
        maps, unit_field = e.grad_cam
        centres = [unit_field.centre_px(index) for index in range(len(maps))]
        result["grad-cam"] = {"map": _rounded(maps), "centers": centres}
    if e.projections:
        result["deconvnet"] = [_projection(p) for p in e.projections]
    return result


def _projection(projection: Projection) -> dict[str, Any]:
    """Return a projection as values that JSON can hold; outside of its box all pixels are 0."""
    box = projection.box
    pixels = projection.pixels[:, box.top : box.bottom, box.left : box.right]
    place = {"top": box.top, "left": box.left, "bottom": box.bottom, "right": box.right}
    return {"layer": projection.layer, "unit": projection.unit, **place, "pixels": _rounded(pixels)}


def _named(p: NDArray[np.float32], classes: Sequence[str]) -> dict[str, float]:
    """Return the five most probable classes and their probabilities, most probable first."""
    return {classes[i]: float(p[i]) for i in np.argsort(-p, kind="stable")[:5]}


def _rounded(values: NDArray[np.float32]) -> Any:
    """Return an array as nested lists, rounded so that its largest number has four digits or more.

    All numbers have as many decimals as that one, so that small ones have fewer digits.
    """
    # A file of digits that nobody looks at would be huge.
    scale = float(np.abs(values).max()) or 1.0
    digits = max(0, 3 - int(np.floor(np.log10(scale))))
    return np.round(values.astype(np.float64), digits).tolist()
