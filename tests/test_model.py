"""The network of section 3: counts, columns, ablations, names, and errors that name the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from alexnet import recipes
from alexnet.architecture import plan
from alexnet.config import Architecture, Config, Conv, Dropout, FullyConnected, Local, Pool
from alexnet.model import Network, passes
from alexnet.ops import trial
from tests.conftest import tiny_architecture

PAPER, ORIGINAL = recipes.paper().architecture, recipes.original().architecture


def total(architecture: Architecture, what: str) -> int:
    return sum(getattr(step, what) for step in plan(architecture))


def shapes(architecture: Architecture) -> dict[str, tuple[int, int, int]]:
    return {step.name: step.shape for step in plan(architecture)}


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [
        (recipes.paper, 60_965_224),
        (recipes.original, 60_965_224),
        (recipes.one_column, 59_798_312),
        (recipes.six_conv, 61_555_304),
        (recipes.torchvision, 61_100_840),
        (recipes.cifar_26, 145_578),
    ],
)
def test_parameters_are_the_published_count(recipe: object, parameters: int) -> None:
    assert total(recipe().architecture, "parameters") == parameters  # type: ignore[operator]


def test_neurons_and_multiply_adds_of_the_paper() -> None:
    assert total(PAPER, "neurons") == 659_272
    assert total(PAPER, "multiply_adds") == 724_406_816


def test_a_head_of_ten_leaves_56909194_parameters() -> None:
    assert total(replace(ORIGINAL, classes=10), "parameters") == 56_909_194


def test_the_network_holds_what_the_plan_counts() -> None:
    for architecture in (
        tiny_architecture(),
        recipes.cifar_11().architecture,
        recipes.demo().architecture,
    ):
        net = Network(architecture)
        assert sum(p.numel() for p in net.parameters()) == total(architecture, "parameters")


def test_the_maps_are_the_papers() -> None:
    want = {
        "conv1.linear": (96, 55, 55),
        "conv1.max_pool": (96, 27, 27),
        "conv2.max_pool": (256, 13, 13),
        "conv4": (384, 13, 13),
        "conv5.max_pool": (256, 6, 6),
        "fc7": (4096, 1, 1),
        "fc8": (1000, 1, 1),
    }
    assert want.items() <= shapes(PAPER).items()


def test_kernels_see_their_own_column_but_for_the_links() -> None:
    weights = {step.layer.name: step.weight_shape for step in plan(PAPER) if step.op == "linear"}
    assert weights["conv2"] == (256, 48, 5, 5)
    assert weights["conv3"] == (384, 256, 3, 3)
    assert weights["conv4"] == (384, 192, 3, 3)
    assert weights["fc6"] == (4096, 9216)
    apart = {
        step.layer.name: step.weight_shape
        for step in plan(replace(PAPER, links=False))
        if step.op == "linear"
    }
    assert apart["conv3"] == (384, 128, 3, 3)
    assert apart["fc7"] == (4096, 2048)
    assert apart["fc8"] == (1000, 4096)


def test_a_locally_connected_layer_has_a_kernel_and_a_bias_for_every_position() -> None:
    layers = Local("local1", 4, 3, pad=(0, 1)), FullyConnected("fc2", 10)
    local = plan(Architecture(layers, input_px=8))[0]
    assert local.weight_shape == (4, 3, 3, 3, 7, 7)
    assert local.bias_shape == (4, 7, 7)
    assert local.parameters == 4 * 7 * 7 * (3 * 3 * 3 + 1)


def test_without_links_a_column_never_sees_the_other() -> None:
    architecture = replace(tiny_architecture(), links=False)
    net = Network(architecture).double().eval()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = net.activations(images)
    with torch.no_grad():
        net.get_parameter("conv1.weight")[:4] += 1  # the first column's filters
    after = net.activations(images)
    for name in ("conv2", "conv3", "conv4", "fc6", "fc7"):
        half = before[name].shape[1] // 2
        assert torch.equal(before[name][:, half:], after[name][:, half:])
        assert not torch.equal(before[name][:, :half], after[name][:, :half])


def test_without_conv3_conv4_sees_both_columns_and_a_removed_layer_leaves_its_pool() -> None:
    net = {
        step.layer.name: step
        for step in plan(replace(PAPER, without=("conv3",)))
        if step.op == "linear"
    }
    assert net["conv4"].weight_shape == (384, 256, 3, 3)
    without2 = shapes(replace(PAPER, without=("conv2",)))
    assert without2["conv3"] == (384, 13, 13)
    assert without2["conv1.max_pool+"] == (96, 13, 13)
    assert shapes(replace(PAPER, without=("conv5",)))["conv4.max_pool"] == (384, 6, 6)
    for name in ("conv2", "conv3", "conv4", "conv5"):
        small = replace(PAPER, width=0.125, without=(name,))
        assert Network(small)(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)


def test_fields_of_ablations_reach_the_network() -> None:
    assert not [
        step
        for step in plan(replace(ORIGINAL, normalise=False))
        if step.op in ("lrn", "spatial_norm")
    ]
    assert shapes(replace(PAPER, pool=Pool(2, 2)))["conv5.max_pool"] == (256, 6, 6)
    net = Network(replace(tiny_architecture(), bias=0.0))
    assert not net.get_parameter("conv2.bias").any()
    images = torch.randn(2, 3, 32, 32)
    values = {
        unit: Network(replace(tiny_architecture(), activation=unit)).activations(images)
        for unit in ("relu", "tanh")
    }
    assert (values["relu"]["conv3"] >= 0).all()
    assert torch.equal(values["tanh"]["conv3"], values["tanh"]["conv3.linear"].tanh())
    logistic = Network(replace(tiny_architecture(), activation="logistic")).activations(images)
    torch.testing.assert_close(logistic["conv3"], 1 / (1 + (-logistic["conv3.linear"]).exp()))


def test_weights_and_biases_start_as_section_5_says() -> None:
    net = Network(PAPER)
    for name in ("conv2", "fc6"):
        # The deviation of 300,000 draws is known to 1.3e-5 of its own: five times that.
        assert abs(net.get_parameter(f"{name}.weight").std() - 0.01) < 6.5e-5
    ones = {
        name.split(".")[0]
        for name, p in net.named_parameters()
        if name.endswith("bias") and (p == 1).all()
    }
    assert ones == {"conv2", "conv4", "conv5", "fc6", "fc7"}
    assert not net.get_parameter("fc8.bias").any()
    # 880,000 draws: five times 2.3e-5.
    assert abs(Network(ORIGINAL).get_parameter("conv3.weight").std() - 0.03) < 1.2e-4


SCALED_STD = {
    *("paper", "one_column", "six_conv"),
    *("original", "original_2010", "original_one_column", "original_six_conv"),
    *("pre_trained", "fine_tuned", "modern"),
}
"""Recipes whose initial weights grow where the network is made narrower."""


@pytest.mark.parametrize("name", recipes.__all__)
def test_weights_of_a_narrow_network_start_larger_in_some_recipes(name: str) -> None:
    """At a quarter of the width a sum has a quarter of the terms, so its weights are doubled."""
    architecture = getattr(recipes, name)().architecture
    full, narrow = (
        {op.layer.name: op.layer.std for op in plan(each) if op.op == "linear"}
        for each in (replace(architecture, width=1.0), replace(architecture, width=0.25))
    )
    first = next(iter(full))
    assert narrow.pop(first) == full.pop(first)  # the image is as wide as before
    factor = 2 if name in SCALED_STD else 1
    assert narrow == {layer: std and factor * std for layer, std in full.items()}


def test_narrow_paper_starts_with_twice_its_deviation() -> None:
    narrow = plan(replace(PAPER, width=0.25))
    stds = {op.layer.name: op.layer.std for op in narrow if op.op == "linear"}
    assert (stds["conv1"], stds["conv2"], stds["fc8"]) == (0.01, 0.02, 0.02)


def test_activations_end_in_the_logits_and_dropout_halves_at_test_time() -> None:
    net = Network(tiny_architecture()).eval()
    images = torch.randn(4, 3, 32, 32)
    values = net.activations(images)
    assert list(values)[-1] == "fc8"
    assert torch.equal(values["fc8"], net(images))
    assert torch.equal(values["fc7.dropout"], values["fc7"] * 0.5)


@pytest.mark.parametrize(
    "recipe", [recipes.paper, recipes.original, recipes.cifar_26, recipes.cifar_11]
)
@pytest.mark.parametrize("normalise", [True, False])
def test_one_pass_over_memory_gives_what_the_modules_give(
    recipe: Callable[[], Config], normalise: bool
) -> None:
    whole = recipe().architecture
    small = replace(
        whole, width=0.125, classes=4, normalise=normalise, input_px=min(whole.input_px, 80)
    )
    net = Network(small)
    assert any(len(ops) > 1 for ops in passes(net.plan))
    images = torch.randn(2, 3, small.input_px, small.input_px).contiguous(
        memory_format=torch.channels_last
    )
    results = []
    for logits in (net(images, (0, 1)), list(net.activations(images, (0, 1)).values())[-1]):
        results.append(
            (logits.detach(), *torch.autograd.grad(logits.square().sum(), list(net.parameters())))
        )
    for fast, slow in zip(*results, strict=True):  # the same float32 sums, some in another order
        torch.testing.assert_close(
            fast, slow, rtol=1e-4, atol=1e-5 * float(slow.abs().max()) + 1e-30
        )


def test_the_same_seed_gives_the_same_network() -> None:
    one, same, other = (
        Network(tiny_architecture(), seed).get_parameter("fc6.weight") for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ["bfloat16", "float32"])
def test_bfloat16_stays_near_float32_however_it_is_multiplied(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the trial of every layer had been made and won by this way.
    monkeypatch.setattr(trial, "_times", lambda _, ways: {n: float(n != name) for n in ways})
    monkeypatch.setattr(trial, "_CHOICES", {})
    net = Network(tiny_architecture()).eval()
    images = torch.randn(8, 3, 32, 32)
    exact, low = net(images), net(images.bfloat16())
    assert low.dtype == torch.float32
    # eight bits an operation, seven layers: a few hundredths of the largest logit
    torch.testing.assert_close(low, exact, rtol=0, atol=0.04 * float(exact.detach().abs().max()))
    weight = net.get_parameter("conv2.weight")
    (wanted,), (got,) = (torch.autograd.grad(y[:, 0].sum(), weight) for y in (exact, low))
    # Rounding also moves a few maxima and signs, each to another gradient, so the gradients are
    # compared as a whole and not one by one.
    assert float((got - wanted).norm() / wanted.norm()) < 0.1


def changed(**changes: object) -> Architecture:
    return replace(PAPER, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        (changed(activation="gelu"), "activation is 'gelu'"),
        (
            Architecture((Conv("c", 4, 3, then=("maxpool",)), FullyConnected("fc", 2))),  # type: ignore[arg-type]
            "c: there is no operation 'maxpool'",
        ),
        (changed(columns=5), "conv1: 5 columns do not divide its 96 filters"),
        (changed(columns=0), "columns is 0"),
        (changed(input_px=40), r"conv5\.max_pool: its input of 1x1 pixels .* shrinks to nothing"),
        (changed(input_px=4), "conv1: its input of 4x4 pixels .* shrinks to nothing"),
        (changed(without=("conv1",)), "without='conv1'"),
        (changed(without=("fc6",)), "without='fc6'"),
        (changed(width=0.0), "width is 0.0"),
        (changed(width=0.001), "conv1 has 0 filters"),
        (changed(classes=1), "classes is 1"),
        (changed(layers=PAPER.layers[:5]), "ends in a fully connected layer"),
        (
            changed(layers=(PAPER.layers[0], PAPER.layers[0], FullyConnected("fc", 2))),
            "two layers have the same name",
        ),
        (
            Architecture((Conv("conv1", 4, 3, stride=0), FullyConnected("fc", 2))),
            "conv1: size and stride",
        ),
        (
            Architecture(
                (Conv("c", 4, 3), Local("local", 4, 3), FullyConnected("fc", 2)),
                input_px=9,
                columns=2,
            ),
            "local: a locally connected layer needs columns=1",
        ),
    ],
)
def test_a_network_that_cannot_work_is_refused_with_the_layer(
    architecture: Architecture, says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        plan(architecture)


def test_inverted_dropout_changes_training_only() -> None:
    inverted = replace(tiny_architecture(), dropout=Dropout(form="inverted"))
    values = Network(inverted).eval().activations(torch.randn(2, 3, 32, 32))
    assert torch.equal(values["fc7.dropout"], values["fc7"])


def test_a_network_is_made_from_an_architecture() -> None:
    for other in ("original", recipes.original()):
        with pytest.raises(TypeError, match=r"Network\(recipes\.original\(\)\.architecture\)"):
            Network(other)  # type: ignore[arg-type]
