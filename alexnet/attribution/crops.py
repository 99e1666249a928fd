"""The test crops of an image, each with its own answer (section 4.1 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.augment import evaluation_crops, fixed_crop
from alexnet.data.image import Rgb
from alexnet.model import evaluation_mode
from alexnet.trained import Trained


@dataclass(frozen=True)
class CropAnswers:
    """The predictions for each test crop of an image.

    Attributes:
        crops: (top, left, reflected) of each crop in the stored image, in pixels.
        side_px: Side of a crop, in pixels of the stored image; larger than the input where the
            recipe rescales its test crops (`Augment.test_px`).
        probabilities: (crops, classes) float32.
    """

    crops: tuple[tuple[int, int, bool], ...]
    side_px: int
    probabilities: NDArray[np.float32]

    @property
    def average(self) -> NDArray[np.float32]:
        """The average over the crops, (classes,), which is the network's prediction."""
        mean: NDArray[np.float32] = self.probabilities.mean(0)
        return mean

    def pixels(self, image: Rgb, number: int) -> Rgb:
        """Cut one crop out of the stored image, (side_px, side_px, 3)."""
        top, left, reflected = self.crops[number]
        crop = image[top : top + self.side_px, left : left + self.side_px]
        return crop[:, ::-1] if reflected else crop


@torch.no_grad()
def crop_answers(trained: Trained, image: Rgb) -> CropAnswers:
    """Compute the prediction for each of the recipe's test crops: ten, for instance.

    Args:
        image: (stored_px, stored_px, 3) uint8, as a store has it.
    """
    preprocess = trained.preprocess
    test_px = preprocess.augment.test_px
    crops = evaluation_crops(preprocess.augment, preprocess.stored_px, preprocess.input_px)
    batch = torch.from_numpy(np.ascontiguousarray(image))[None]
    x = torch.cat([preprocess(batch, fixed_crop(*crop, 1, test_px)) for crop in crops])
    with evaluation_mode(trained.net):
        probabilities: NDArray[np.float32] = trained.net(x).softmax(1).float().cpu().numpy()
    return CropAnswers(tuple(crops), preprocess.test_px, probabilities)
