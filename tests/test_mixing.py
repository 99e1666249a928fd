"""Mixup and CutMix: what is drawn, what the images become, and what the loss makes of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alexnet.config import Augment, Sgd, SmoothSchedule
from alexnet.config_checks import check
from alexnet.data.mixing import Mixing, mix, sample_mixing
from alexnet.distributed.loss import mixed_cross_entropy
from alexnet.distributed.mesh import ALONE, check_layout
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import ConfigError, MeshError
from alexnet.train.graph_step import takes
from alexnet.train.start import fit
from tests.conftest import tiny, tiny_architecture
from tests.runs import interrupted, same_bits

PX = 12


def drawn(augment: Augment, index: np.ndarray, epoch: int = 0) -> Mixing:
    return sample_mixing(augment, PX, 7, epoch, index)


@pytest.mark.parametrize("augment", [Augment(mixup=0.4), Augment(cutmix=1.0)])
def test_mixing_is_a_function_of_seed_epoch_and_image(augment: Augment) -> None:
    whole = drawn(augment, np.arange(300))
    part = drawn(augment, np.array([250, 3, 17]))
    for one, other in zip(vars(whole).values(), vars(part).values(), strict=True):
        assert (one[[250, 3, 17]] == other).all()
    assert (drawn(augment, np.arange(300), epoch=1).share != whole.share).any()
    assert whole.share.max() <= 0.5


@pytest.mark.parametrize("px", [24, 56, 96, 224, 227])
def test_square_never_covers_more_than_half(px: int) -> None:
    mixing = sample_mixing(Augment(cutmix=8.0), px, 7, 0, np.arange(4000))
    assert 0.49 * px**2 * 0.9 < mixing.side_px.max() ** 2 <= px**2 / 2
    assert mixing.share.max() <= 0.5


def test_shares_are_those_of_the_beta_distribution() -> None:
    """With 1 it is uniform, so that the smaller share has the mean 1/4; 0.2 mixes less."""
    index = np.arange(20_000)
    assert drawn(Augment(mixup=1.0), index).share.mean() == pytest.approx(0.25, abs=0.005)
    assert drawn(Augment(cutmix=1.0), index).share.mean() == pytest.approx(0.25, abs=0.01)
    # The mean of min(b, 1 - b), by 10**6 numbers of another generator.
    other = np.random.default_rng(0).beta(0.2, 0.2, 10**6)
    want = np.minimum(other, 1 - other).mean()
    assert drawn(Augment(mixup=0.2), index).share.mean() == pytest.approx(want, abs=0.005)
    both = drawn(Augment(mixup=1.0, cutmix=1.0), index)
    assert (both.side_px > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_square_is_inside_and_has_the_share_of_the_target() -> None:
    mixing = drawn(Augment(cutmix=1.0), np.arange(64))
    images = torch.arange(64.0)[:, None, None, None].expand(64, 3, PX, PX)
    labels = torch.arange(64)
    mixed, (others, share) = mix(images, labels, mixing)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert others.tolist() == [*range(1, 64), 0]
    pasted = mixed == others[:, None, None, None]
    torch.testing.assert_close(pasted.float().mean((1, 2, 3)), share)
    assert (pasted | (mixed == images)).all()
    # The pixels that were pasted are a full square.
    for one, side in zip(pasted[:, 0], mixing.side_px, strict=True):
        rows, columns = one.any(1), one.any(0)
        assert rows.sum() == columns.sum() == side
        assert one.sum() == side**2


def test_mixup_adds_the_shares_of_two_images() -> None:
    mixing = drawn(Augment(mixup=1.0), np.arange(5))
    images, labels = torch.randn(5, 3, PX, PX, dtype=torch.float64), torch.arange(5)
    mixed, (others, share) = mix(images, labels, mixing)
    s = share.double()[:, None, None, None]
    torch.testing.assert_close(mixed, (1 - s) * images + s * images[others])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_that_of_the_soft_targets(smoothing: float) -> None:
    """Also where the network has more classes than hidden units, whose loss is another one."""
    labels, others = torch.tensor([0, 1, 2, 3]), torch.tensor([1, 2, 2, 0])
    share = torch.tensor([0.0, 0.25, 0.5, 0.125])
    targets = (1 - share)[:, None] * F.one_hot(labels, 10) + share[:, None] * F.one_hot(others, 10)
    logits = torch.randn(4, 10)
    want = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    got, _ = mixed_cross_entropy(logits, labels, others, share, smoothing)
    torch.testing.assert_close(got / 4, want)
    narrow = tiny_architecture()
    narrow = replace(
        narrow, layers=(*narrow.layers[:-2], replace(narrow.layers[-2], units=8), narrow.layers[-1])
    )
    for architecture in (tiny_architecture(), narrow):
        net = ShardedNetwork(architecture, 0, ALONE).eval()
        images = torch.randn(4, 3, 32, 32)
        loss, wrong = net.loss(images, labels, 4, smoothing=smoothing, mixed=(others, share))
        want = F.cross_entropy(net(images), targets, label_smoothing=smoothing)
        torch.testing.assert_close(loss, want)
        assert wrong == (net(images).argmax(1) != labels).sum()


def test_mixed_run_is_resumed_bit_for_bit(store: Path, tmp_path: Path) -> None:
    """With everything else that is later than the paper."""
    config = tiny(
        store,
        augment=Augment(zoom=0.5, zoom_to=1.2, mixup=0.2, cutmix=1.0),
        sgd=Sgd(16, lr=0.01, ema_decay=0.9),
        schedule=SmoothSchedule(2, warmup_epochs=1),
        label_smoothing=0.1,
    )
    fit(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", 6)
    assert same_bits(tmp_path / "whole", tmp_path / "parts")
    fit(replace(config, augment=replace(config.augment, cutmix=0.0)), tmp_path / "other")
    assert not same_bits(tmp_path / "whole", tmp_path / "other")


@pytest.mark.parametrize("augment", [Augment(mixup=0.2), Augment(cutmix=1.0)])
def test_several_ranks_and_graph_steps_refuse_it(augment: Augment) -> None:
    config = replace(tiny(Path("store")), augment=augment, precision="bfloat16")
    with pytest.raises(MeshError, match=r"^augment\.mixup and augment\.cutmix mix .* of 2 ranks"):
        check_layout(config, 2)
    check_layout(config, 1)
    assert not takes(config, torch.device("cuda"), ALONE)


@pytest.mark.parametrize("value", [-1.0, 101.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_impossible_parameters_are_refused(name: str, value: float) -> None:
    config = replace(tiny(Path("store")), augment=Augment(**{name: value}))
    with pytest.raises(ConfigError, match=rf"^augment\.{name} is .*; it must be between 0 and 100"):
        check(config)
