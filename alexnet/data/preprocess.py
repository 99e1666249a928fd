"""Preprocessing: stored uint8 images to network input (sections 2 and 4.1).

`Preprocess` applies to a whole batch, on the device, what `augment.sample_augmentation` has drawn
for each of its images.
"""

from __future__ import annotations

from importlib import util
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alexnet import native
from alexnet.config import Augment, Conv
from alexnet.data.augment import Augmentation, fixed_crop
from alexnet.data.device_feed import moved
from alexnet.data.image import Rgb
from alexnet.data.store import Statistics
from alexnet.errors import DataError
from alexnet.ops import blocks

# torchvision's reference preprocessing, for RGB values in 0..1.
TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def check_sizes(stored_px: int, input_px: int, test_px: int = 0) -> None:
    """Check that crops of `input_px` pixels suit images stored with `stored_px` pixels.

    Args:
        test_px: `Augment.test_px`.

    Raises:
        DataError: If the crop is larger than the stored image, or smaller than half of it, which
            is probably a mistake.
    """
    if input_px > stored_px:
        raise DataError(
            f"the network sees {input_px} pixels per side, and the store has {stored_px}; "
            "prepare it with a larger --size-px or set a smaller architecture.input_px"
        )
    if test_px > stored_px:
        raise DataError(
            f"augment.test_px is {test_px}, and the store has {stored_px} pixels per side; prepare "
            "it with a larger --size-px or set a smaller augment.test_px"
        )
    if stored_px > 2 * input_px:
        raise DataError(
            f"the network sees {input_px} of the {stored_px} pixels per side in the store; "
            f"prepare it with --size-px {input_px} or a little more"
        )


class Preprocess:
    """Crops, reflects, centers and shifts the images of a batch on the device."""

    def __init__(
        self,
        augment: Augment,
        statistics: Statistics,
        input_px: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        stored_px = statistics.mean.shape[0]
        check_sizes(stored_px, input_px, augment.test_px)
        self.augment, self.input_px, self.stored_px = augment, input_px, stored_px
        self.device, self.dtype = device, dtype
        mean = torch.tensor(statistics.mean, dtype=torch.float32, device=device)
        half = (stored_px - input_px) // 2
        self.whole_mean = mean
        # The compiled code reads the mean of a reflected crop forwards from a reflected copy.
        self.mirrored_mean = mean.flip(1).contiguous()
        self.deviation = (
            255 * mean.new_tensor(TORCHVISION_STD) if augment.mean == "channel" else None
        )
        # Made once: a constant that is made in a step reaches a GPU by a copy that waits.
        fixed = mean[half : half + input_px, half : half + input_px]
        if augment.mean == "channel":
            fixed = (255 * mean.new_tensor(TORCHVISION_MEAN)).expand_as(fixed)
        # What is subtracted from a center crop, in gray levels, (input_px, input_px, 3).
        self.centre_mean = fixed.contiguous()
        # The mean of each pixel belongs to the image, so it is cropped and reflected with it. Any
        # other mean is subtracted from every crop as it is.
        self.mean_moves = augment.mean == "pixel"
        self.subtracted = self.whole_mean if self.mean_moves else self.centre_mean

    def __call__(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Return the network's input for a batch.

        Args:
            images: (N, stored_px, stored_px, 3) uint8, on any device.
            augmentation: Crop, reflection and color shift of each image.

        Returns:
            (N, 3, input_px, input_px) on the device, in the channels-last memory format.

        Raises:
            DataError: If the images have another size or dtype, or the augmentation is that of
                another number of images, or a crop reaches beyond its image.
        """
        # Without these checks the compiled code would read foreign memory.
        if images.dtype != torch.uint8:
            raise DataError(
                f"the network takes stored images in bytes (torch.uint8), and these are "
                f"{images.dtype}; round them and convert them"
            )
        given = (augmentation.top, augmentation.left, augmentation.flip, augmentation.shift)
        if counts := {len(each) for each in given} - {len(images)}:
            raise DataError(
                f"an augmentation of {min(counts)} images was given for {len(images)}; "
                "it needs a row for each image"
            )
        stored = self.stored_px, self.stored_px, 3
        if images.shape[1:] != stored:
            raise DataError(
                f"the network takes stored images of shape {stored}, and these have shape "
                f"{tuple(images.shape[1:])}; prepare them with --size-px {self.stored_px}"
            )
        images = moved(images, self.device).contiguous()
        if self._takes_triton():
            packed = moved(self.packed(augmentation), self.device)
            return self.on_device(images, packed, augmentation.sides is not None)
        self._check(augmentation)
        x = self._compiled(images, augmentation)
        if x is None:
            by_pytorch = self.plain if augmentation.sides is None else self.zoomed
            x = by_pytorch(images, augmentation)
        return x.permute(0, 3, 1, 2)

    def packed(self, augmentation: Augmentation) -> torch.Tensor:
        """Return `Augmentation.packed` as a tensor on the host, page-locked for a CUDA device.

        Raises:
            DataError: If a crop reaches beyond its image.
        """
        self._check(augmentation)
        return self._on_host(augmentation.packed(self.input_px))

    def on_device(
        self,
        images: torch.Tensor,
        packed: torch.Tensor,
        zoomed: bool,
        in_blocks_of: Conv | None = None,
    ) -> torch.Tensor:
        """Compute the network's input from tensors that lie on the device, by one Triton kernel.

        A CUDA graph can contain this call: the host has no part in it.

        Args:
            images: (N, stored_px, stored_px, 3) uint8, contiguous.
            packed: What `packed` returned for these images.
            zoomed: Whether the crops have other sides than the input.
            in_blocks_of: The first convolution, for an input in blocks of stride x stride pixels
                that has its padding (`ops/blocks.py`). None: an ordinary input.

        Returns:
            (N, 3, input_px, input_px) in the channels-last memory format; or what
            `blocks.conv2d` makes of it, (N, *blocks.shape(3, input_px, ...)).
        """
        # Imported here: Triton is present only beside a CUDA build of PyTorch.
        from alexnet.ops.triton_crop import crop_triton

        mean, moves = self.subtracted, self.mean_moves
        cut: tuple[int, ...] = ()
        if (conv := in_blocks_of) is not None:
            covered = blocks.covered_px(self.input_px, conv.size_px, conv.stride, conv.pad)
            cut = conv.stride, covered, conv.pad[0]
        x: torch.Tensor = crop_triton(
            images, mean, packed, self.deviation, self.input_px, zoomed, moves, self.dtype, *cut
        )
        return x

    def _takes_triton(self) -> bool:
        return (
            self.device.type == "cuda"
            and self.dtype in (torch.float32, torch.bfloat16)
            and util.find_spec("triton") is not None
        )

    def _check(self, augmentation: Augmentation) -> None:
        """Raise DataError if a crop reaches beyond its image."""
        sides = np.full((2, 1), float(self.input_px)) if (s := augmentation.sides) is None else s
        for first, side in zip((augmentation.top, augmentation.left), sides, strict=True):
            # The end of a zoomed crop is the sum of two rounded numbers.
            beyond = (first < 0) | (first + side > self.stored_px + 1e-6)
            if beyond.any():
                px = np.broadcast_to(side, beyond.shape)[beyond][0]
                raise DataError(
                    f"a crop of {px:g} pixels reaches beyond its image of {self.stored_px}"
                )

    def _on_host(self, values: NDArray[Any]) -> torch.Tensor:
        """Return an array as a tensor from which a copy to the device does not wait."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _to_device(self, values: NDArray[Any]) -> torch.Tensor:
        return moved(self._on_host(values), self.device)

    def centre(self, images: torch.Tensor) -> torch.Tensor:
        """Return the center crop of every image as at test time, without color noise."""
        start = self._centre_start
        return self(images, fixed_crop(start, start, False, len(images), self.augment.test_px))

    def centre_pixels(self, image: Rgb) -> Rgb:
        """Return the pixels that `centre` gives the network, to draw them.

        Args:
            image: (stored_px, stored_px, 3) uint8.

        Returns:
            (input_px, input_px, 3) uint8, rescaled where the crop is larger than the input.
        """
        start = self._centre_start
        crop: Rgb = image[start : start + self.test_px, start : start + self.test_px]
        if self.test_px == self.input_px:
            return crop
        # Bilinear and without smoothing, at the same places as `zoomed`.
        planes = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float()
        planes = F.interpolate(planes, size=self.input_px, mode="bilinear", align_corners=False)
        rescaled: Rgb = planes[0].permute(1, 2, 0).round().byte().contiguous().numpy()
        return rescaled

    @property
    def test_px(self) -> int:
        """Side of the test crops, in pixels of the stored image."""
        return self.augment.test_px or self.input_px

    @property
    def _centre_start(self) -> int:
        """The first row, and column, of the center crop in the stored image."""
        start: int = (self.stored_px - self.test_px) // 2
        return start

    def plain(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Compute the input from crops of its own size by indexing.

        Indexing treats the whole batch at once, which takes only a few kernels on a GPU.

        Returns:
            (N, input_px, input_px, 3) on the device.
        """
        flip = self._to_device(augmentation.flip)
        side = torch.arange(self.input_px, device=self.device)
        rows = self._to_device(augmentation.top)[:, None] + side
        along = torch.where(flip[:, None], self.input_px - 1 - side, side)
        columns = self._to_device(augmentation.left)[:, None] + along
        image_index = torch.arange(len(images), device=self.device)[:, None, None]
        rows, columns = rows[:, :, None], columns[:, None, :]
        mean = self.subtracted[rows, columns] if self.mean_moves else self.subtracted
        return self._shifted(images[image_index, rows, columns].float() - mean, augmentation)

    def _shifted(self, x: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Apply the color shift and the scales to centered crops, (N, input_px, input_px, 3)."""
        x += self._to_device(augmentation.shift)[:, None, None, :]
        if augmentation.scale != 1:
            x *= augmentation.scale
        if self.deviation is not None:
            x /= self.deviation
        return x.to(self.dtype)

    def zoomed(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Compute the input from crops of different sizes, rescaled bilinearly.

        Returns:
            (N, input_px, input_px, 3) on the device.
        """
        # The reference path is exact, so that it gives the same numbers on every processor.
        exact = self.dtype == torch.float64
        precision, dtype = (torch.float64, np.float64) if exact else (torch.float32, np.float32)
        # `grid_sample` counts from -1 to 1 on both axes of the stored image, edges of the outer
        # pixels included. `affine_grid` would give the same; it took 41 of 62 ms a batch.
        rows, columns = (
            self._to_device((2 * (v + 0.5) / self.stored_px - 1).astype(dtype))
            for v in self._places(augmentation)
        )
        size = len(images), self.input_px, self.input_px
        grid = torch.stack([columns[:, None].expand(size), rows[:, :, None].expand(size)], -1)
        values = images.to(precision)
        if self.mean_moves:
            values -= self.subtracted
        values = F.grid_sample(
            values.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False
        ).permute(0, 2, 3, 1)
        if not self.mean_moves:
            values = values - self.subtracted
        # `grid_sample` gives one plane for each channel.
        return self._shifted(values, augmentation).contiguous()

    def _places(
        self, augmentation: Augmentation
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where in the stored images each row and column of zoomed crops is read.

        Returns:
            Two arrays (N, input_px) of coordinates of pixel centers, between 0 and stored_px - 1.
        """
        assert augmentation.sides is not None
        along = (np.arange(self.input_px) + 0.5) / self.input_px
        height, width = augmentation.sides[:, :, None]
        across = np.where(augmentation.flip[:, None], 1 - along, along)
        y = augmentation.top[:, None] + height * along - 0.5
        x = augmentation.left[:, None] + width * across - 0.5
        return y.clip(0, self.stored_px - 1), x.clip(0, self.stored_px - 1)

    def _compiled(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor | None:
        """Compute what `plain` and `zoomed` do, in one pass over memory.

        Returns None where the compiled code is missing or does not serve this device or dtype.
        """
        if self.device.type != "cpu" or self.dtype not in native.SUFFIX:
            return None
        if (operators := native.kernels()) is None:
            return None
        px = self.input_px
        out = torch.empty((len(images), px, px, 3), dtype=self.dtype, device="cpu")
        shift = (augmentation.shift, np.float32)
        if augmentation.sides is None:
            name, means = "crop", [self.subtracted, self.mirrored_mean]
            choice = [
                (augmentation.top, np.int64),
                (augmentation.left, np.int64),
                (augmentation.flip, np.uint8),
                shift,
            ]
        else:
            name, means = "zoomed_crop", [self.subtracted]
            choice = [*((places, np.float32) for places in self._places(augmentation)), shift]
        # The C++ side takes bare pointers, so that each array must be contiguous and of this dtype.
        # The list keeps the converted copies alive during the call.
        arrays = [np.ascontiguousarray(array, dtype) for array, dtype in choice]
        getattr(operators, f"{name}_{native.SUFFIX[self.dtype]}")(
            *(tensor.data_ptr() for tensor in (images, *means)),
            *(array.ctypes.data for array in arrays),
            None if self.deviation is None else self.deviation.data_ptr(),
            out.data_ptr(),
            native.Crop(len(images), self.stored_px, px, self.mean_moves, augmentation.scale),
        )
        return out
