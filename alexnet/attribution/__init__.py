"""What in an image is evidence for a class, by several methods.

Every function takes the network and one preprocessed image, (3, input_px, input_px), and returns
plain float32 arrays; the drawing is in `figures`. The score of a class is its logit, and a method
that needs an image without content takes the mean image, which is 0 after preprocessing.

The networks' own backward pass is used, on which `tests/test_module.py` holds the fast paths to
float64, and where a method needs the values between, the modules are run one by one.
"""

from __future__ import annotations

from alexnet.attribution.crops import CropAnswers, crop_answers
from alexnet.attribution.deconvnet import Projection, deconvnet, strongest_projections
from alexnet.attribution.grad_cam import grad_cam, map_layer
from alexnet.attribution.gradients import integrated_gradients, saliency, smoothgrad
from alexnet.attribution.occlusion import Occlusion, occlusion

__all__ = [
    "CropAnswers",
    "Occlusion",
    "Projection",
    "crop_answers",
    "deconvnet",
    "grad_cam",
    "integrated_gradients",
    "map_layer",
    "occlusion",
    "saliency",
    "smoothgrad",
    "strongest_projections",
]
