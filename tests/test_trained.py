"""`Trained` takes images as they are, and answers as `predict` does for their files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from alexnet import load
from alexnet.data import shapes
from alexnet.errors import DataError
from alexnet.evaluation import probabilities


def test_a_trained_network_preprocesses_images(run: Path) -> None:
    trained = load(run)
    assert not trained.net.training
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    wanted = probabilities(
        trained.net, trained.preprocess, torch.from_numpy(pixels), trained.preprocess.augment
    )
    assert torch.equal(trained(pixels), wanted)
    assert torch.equal(trained(torch.from_numpy(pixels)), wanted)
    large = Image.fromarray(pixels[0]).resize((80, 120))
    assert trained([large, pixels[1]]).shape == (2, len(trained.classes))
    assert trained([]).shape == (0, len(trained.classes))
    # As `predict` reads the file: upright, and without transparency and palettes.
    lying = Image.fromarray(np.rot90(np.asarray(large)))
    lying.getexif()[0x0112] = 6
    assert torch.equal(trained([lying]), trained([large]))
    see_through = large.copy()
    see_through.putalpha(7)
    grey = large.convert("L").convert("RGB")
    # As many images in both calls: their number may change the order of a sum.
    assert torch.equal(trained([see_through, grey]), trained([large, grey]))
    assert torch.equal(trained([large.convert("L")]), trained([grey]))
    torch.testing.assert_close(wanted.sum(1), torch.ones(2))
    for bad in (pixels / 255, pixels[..., :1], [pixels[0, 0]], pixels[:, :0]):
        with pytest.raises(DataError, match=r"RGB images \(H, W, 3\) of uint8"):
            trained(bad)
    # As torchvision has them.
    first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    for tensor in (first, [first[0]], [first[0] / 255]):
        with pytest.raises(DataError, match=r"the channels last: image\.permute\(1, 2, 0\)"):
            trained(tensor)
    for dtype in (torch.bfloat16, torch.float32):
        says = rf"it was given {str(dtype)[6:]} of shape \(8, 8, 3\)$"
        with pytest.raises(DataError, match=says):
            trained([torch.zeros(8, 8, 3, dtype=dtype, requires_grad=True)])
    with pytest.raises(DataError, match=r"the channels last: image\.transpose\(1, 2, 0\)"):
        trained(first.numpy())
    assert torch.equal(trained([image.permute(1, 2, 0) for image in first]), wanted)
    for gray in (pixels[..., 0], [pixels[0, ..., 0]], [np.asarray(large.convert("L"))]):
        with pytest.raises(DataError, match=r"; repeat a gray image three times: np\.repeat\(gray"):
            trained(gray)
    for one in (pixels[0], large, np.uint8(0), first[0], pixels[0, ..., 0]):
        with pytest.raises(DataError, match=r"give one image as \[image\]"):
            trained(one)
    for file in (["photo.jpg"], "photo.jpg", Path("photo.jpg")):
        with pytest.raises(DataError, match="the pixels of images and no files"):
            trained(file)


class OnGpu(torch.Tensor):
    """A tensor that NumPy refuses, as those of a GPU are."""

    def __array__(self, dtype: object = None) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self) -> torch.Tensor:  # type: ignore[override]
        return self.as_subclass(torch.Tensor)


def test_images_on_a_gpu_are_answered(run: Path) -> None:
    trained = load(run)
    images = torch.from_numpy(np.stack([shapes.image(label, 0) for label in range(2)]))
    on_gpu = images.as_subclass(OnGpu)
    assert torch.equal(trained(on_gpu), trained(images))
    assert torch.equal(trained(list(on_gpu)), trained(images))


def test_photograph_that_was_turned_by_hand_is_given_as_an_array(run: Path) -> None:
    """Pillow's `rotate` keeps the orientation that the file had, and `exif_transpose` does not."""
    upright = Image.fromarray(shapes.image(0, 0)).resize((40, 60))
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "PNG", exif=exif)
    photograph, trained = Image.open(file), load(run)
    wanted = trained([upright])
    turned = photograph.rotate(270, expand=True)
    assert not torch.equal(trained([turned]), wanted)
    for image in (photograph, np.asarray(turned), ImageOps.exif_transpose(photograph)):
        assert torch.equal(trained([image]), wanted)


def test_a_call_with_many_images_computes_a_part_of_them_at_a_time(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.trained.CROPS_AT_ONCE", 6)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), dtype=np.uint8)
    network = load(run)
    rows: list[int] = []
    wanted = probabilities(
        network.net, network.preprocess, torch.from_numpy(pixels), network.preprocess.augment
    )
    network.net.conv1.register_forward_hook(lambda _, inputs, y: rows.append(len(y)))
    torch.testing.assert_close(network(pixels), wanted)
    # Ten crops of 6 images, one for each image at a time; then of 2 images, three for each.
    assert rows == [6] * 10 + [6, 6, 6, 2]
    # Any iterable will do, whose images need not be in memory together.
    torch.testing.assert_close(network(iter(pixels)), wanted)
