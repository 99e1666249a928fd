"""The arms of claims are the intended networks, trained as intended."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch

from alexnet import config_checks, recipes
from alexnet.architecture import plan
from alexnet.cli.reproduce import ReproduceArguments
from alexnet.config import Architecture, Config, Conv, Pool, StepSchedule, scaled
from alexnet.experiments import cost
from alexnet.experiments.bases import fine_tuned, operation
from alexnet.experiments.claim import Scale
from alexnet.experiments.claims import CLAIMS, NO_DROPOUT, chosen
from alexnet.experiments.data_sets import DATA, Kind
from alexnet.experiments.measures import steady_epochs
from alexnet.model import Network
from alexnet.saved_config import differences, to_dict


def test_network_of_every_arm_can_be_built() -> None:
    for claim in CLAIMS:
        for scale, kind, arm in itertools.product(
            ("smoke", "desk", "full"), claim.kinds, claim.arms
        ):
            config = claim.config(arm, scale, kind)
            steps = plan(replace(config.architecture, classes=7))
            assert steps[-1].shape == (7, 1, 1), f"{claim.id}, {scale}, {kind}, {arm.name}"
            # Both fail for what `reproduce` refuses.
            config_checks.check(config)
            steady_epochs(config.schedule)


def test_every_kind_of_data_is_in_the_table() -> None:
    """A missing entry would be a KeyError in the verb that comes first."""
    assert {*DATA} == {*get_args(Kind)}


def test_arms_of_a_claim_differ() -> None:
    for claim in CLAIMS:
        configs = [
            (claim.config(arm, "desk", claim.kinds[0]), arm.part, arm.init) for arm in claim.arms
        ]
        assert len({repr(config) for config in configs}) == len(claim.arms), claim.id


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        (operation("lrn", n=3), "architecture.lrn.n 5 -> 3"),
        (NO_DROPOUT.change, "architecture.dropout.masks true -> false"),
    ],
)
def test_change_of_an_operation_keeps_the_other_settings_of_the_base(
    change: Callable[[Config], Config], changed: str
) -> None:
    """They need not be the defaults: alpha is a fifth of it here, and the rate another one."""
    config = recipes.original()
    lrn = replace(config.architecture.lrn, alpha=2e-5)
    dropout = replace(config.architecture.dropout, rate=0.3, form="inverted")
    base = replace(config, architecture=replace(config.architecture, lrn=lrn, dropout=dropout))
    assert [*differences(to_dict(base), to_dict(change(base)))] == [changed]


def maps(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """Height of the maps before and after each operation, by the name of the operation."""
    steps = plan(replace(architecture, classes=10))
    return {step.name: (step.in_shape[1], step.shape[1]) for step in steps}


@pytest.mark.parametrize(
    ("scale", "kind"), [("desk", "photographs"), ("desk", "cifar10"), ("full", "imagenet")]
)
def test_pooling_windows_cover_every_row_in_both_arms(scale: Scale, kind: Kind) -> None:
    (claim,) = chosen(["overlap"])
    architectures = [claim.config(arm, scale, kind).architecture for arm in claim.arms]
    for architecture in architectures:
        pool, pooled = architecture.pool, 0
        for name, (before, after) in maps(architecture).items():
            if "max_pool" in name:
                starts = [pool.stride * number for number in range(after)]
                covered = {row for start in starts for row in range(start, start + pool.size_px)}
                assert covered >= set(range(before)), name
                assert starts[-1] < before, "a window lies outside the map"
                pooled += 1
        assert pooled == 3
    base, ablated = (maps(architecture) for architecture in architectures)
    assert base["conv3"] == ablated["conv3"]
    assert base["conv5.max_pool"][1] == ablated["conv5.max_pool"][1]


def test_on_64_pixels_the_last_pool_of_the_base_leaves_out_a_row_and_a_column() -> None:
    """A known fault of the base, which the claim names: its other arm sees all of its four."""
    (claim,) = chosen(["overlap"])
    base, ablated = (claim.config(arm, "desk", "tiny-imagenet").architecture for arm in claim.arms)
    assert (maps(base)["conv5.max_pool"], base.pool) == ((6, 2), Pool(3, 2))
    assert (maps(ablated)["conv5.max_pool"], ablated.pool.size_px) == ((4, 2), 2)


def test_maps_of_2_2_pooling_at_full_scale_are_those_of_net_147() -> None:
    (claim,) = chosen(["overlap"])
    ablated = maps(claim.config(claim.arms[1], "full", "imagenet").architecture)
    assert ablated["conv1.linear"][1] == 55
    assert [ablated[f"conv{i}.max_pool"][1] for i in (1, 2, 5)] == [28, 13, 6]


def test_net_without_dropout_computes_what_the_base_computes_at_test() -> None:
    (claim,) = chosen(["dropout"])
    base, without = (
        Network(
            replace(claim.config(arm, "smoke", "photographs").architecture, classes=10)
        ).double()
        for arm in claim.arms
    )
    # In float64, which is computed in one way in training and at test.
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        trained, dropped = without(x, dropout_key=(0, 0)), base(x, dropout_key=(0, 0))
        tested, without_tested = base.eval()(x), without.eval()(x)
    assert torch.equal(trained, tested)
    assert torch.equal(without_tested, tested)
    assert not torch.equal(dropped, tested)


def test_desk_schedule_scales_the_end_game_of_original() -> None:
    (colour,) = chosen(["colour"])
    desk = colour.config(colour.arms[0], "desk", "photographs")
    scaled_schedule = scaled(recipes.original().schedule, 24)
    assert isinstance(desk.schedule, StepSchedule)
    assert isinstance(scaled_schedule, StepSchedule)
    assert desk.schedule.colour_until == scaled_schedule.colour_until == 18
    ends = [(r.layer, r.epoch, r.weights_only) for r in desk.schedule.layer_lrs]
    assert ends == [(r.layer, r.epoch, r.weights_only) for r in scaled_schedule.layer_lrs]
    assert ends == [("conv1", 18, True), ("conv1", 19, False)]
    slow, frozen = desk.schedule.layer_lrs
    assert slow.lr == pytest.approx(desk.sgd.lr / 10)
    assert frozen.lr == 0


def test_fine_tuning_of_the_original_is_the_authors() -> None:
    there, ours = recipes.fine_tuned(), fine_tuned(recipes.original_six_conv())
    assert replace(ours, recipe="fine_tuned") == there


def test_desk_scale_fine_tunes_at_a_tenth_of_the_rate_and_its_end_game_is_in_proportion() -> None:
    (claim,) = chosen(["pretrain"])
    scratch, first, tuned = (claim.config(arm, "desk", "mini-imagenet") for arm in claim.arms)
    assert tuned.sgd.lr == pytest.approx(scratch.sgd.lr / 10)
    assert tuned.sgd.bias_lr == scratch.sgd.bias_lr
    assert tuned.init_layers == recipes.fine_tuned().init_layers
    lengths = [config.schedule.epochs for config in (scratch, first, tuned)]
    # 1.2 million presentations of 37,500 images and of 100,000; 54 of 91 epochs.
    assert lengths == [32, 12, 19]
    assert isinstance(tuned.schedule, StepSchedule)
    assert tuned.schedule.drops == (8, 15)
    rates = [(r.layer, r.epoch, r.lr / tuned.sgd.lr) for r in tuned.schedule.layer_lrs]
    assert rates == [
        *[("conv1", 0, pytest.approx(0.1)), ("conv1", 2, pytest.approx(0.01)), ("conv1", 2, 0)],
        *[("fc8", 0, pytest.approx(10)), ("fc8", 3, pytest.approx(1))],
        *[("fc8", 8, pytest.approx(0.1)), ("fc8", 15, pytest.approx(0.01))],
    ]
    layers = scratch.architecture.layers
    assert [layer.name for layer in layers] == [
        layer.name for layer in recipes.six_conv().architecture.layers
    ]
    assert scratch.architecture.input_px == 56
    conv1 = layers[0]
    assert isinstance(conv1, Conv)
    assert (conv1.size_px, conv1.stride, conv1.std) == (7, 2, 0.015)
    # That of the other convolutions of 3x3, at this width too.
    assert [layer.std for layer in layers if layer.name in ("conv5", "conv6")] == [0.06, 0.06]


def test_cost_of_pretrain_counts_the_images_of_its_parts() -> None:
    """Of 37,500 images 32 and 19 epochs, and of 100,000 twelve."""
    (claim,) = chosen(["pretrain"])
    macs = sum(
        op.multiply_adds
        for op in plan(
            replace(claim.config(claim.arms[0], "desk", "mini-imagenet").architecture, classes=75)
        )
    )
    # A training image costs three passes, and one of the validation after each epoch one.
    images = (3 * 37_500 + 7_500) * (32 + 19) + (3 * 100_000 + 10_000) * 12
    assert ReproduceArguments().seeds == cost.SEEDS
    seconds = cost.claims_s([claim], 1e11)["pretrain"] / cost.SEEDS
    # The head of the first net has 200 classes, which is next to nothing.
    assert seconds == pytest.approx(images * macs / 0.5e11, rel=0.01)


def test_cost_of_relu_counts_the_search_for_its_rates() -> None:
    """Of each arm five epochs at each of six rates, beside five runs of sixty."""
    (claim,) = chosen(["relu"])
    without = cost.claims_s([replace(claim, rates=())], 1e11)["relu"]
    epochs = claim.config(claim.arms[0], "desk", cost.usual_kind(claim)).schedule.epochs
    share = cost.claims_s([claim], 1e11)["relu"] / without
    assert share == pytest.approx(1 + 6 * 5 / (cost.SEEDS * epochs))


def test_full_scale_of_pretrain_has_the_net_of_the_authors() -> None:
    (claim,) = chosen(["pretrain"])
    scratch = claim.config(claim.arms[0], "full", "imagenet")
    assert replace(scratch, recipe="original_six_conv") == recipes.original_six_conv()


def test_arms_of_all_numbers_of_images_see_as_many_presentations() -> None:
    (claim,) = chosen(["images"])
    for arm in claim.arms:
        of_each = claim.part(arm, "desk", "tiny-imagenet").train_of_each or 500
        schedule = claim.config(arm, "desk", "tiny-imagenet").schedule
        assert isinstance(schedule, StepSchedule)
        epochs = schedule.epochs
        assert 50 * of_each * epochs == pytest.approx(1_200_000, rel=0.01)
