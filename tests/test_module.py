"""`Network` is an ordinary PyTorch module: whoever looks into it sees what runs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.fx
import torch.nn.functional as F
import torchinfo
import torchlens
from captum.attr import DeepLift, GuidedBackprop
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.forward_ad import dual_level, make_dual, unpack_dual
from torch.func import functional_call, grad, jacrev, jvp, vmap
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from alexnet import model, ops, recipes
from alexnet.architecture import plan
from alexnet.config import Architecture, Conv, FullyConnected, Lrn, Pool
from alexnet.distributed.mesh import ALONE
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import DataError
from alexnet.model import Network, evaluation_mode
from alexnet.ops import blocks, compiled, winograd
from tests.conftest import tiny_architecture

SAME = {"rtol": 1e-4, "atol": 1e-5}
"""The fast path adds the same float32 numbers in another order."""


def plain_architecture() -> Architecture:
    """A net of layers that every tool knows: no normalization, no partial windows, one column."""
    layers = (
        Conv("conv1", 8, 5, stride=2, pad=(1, 1), std=0.1, then=("activation", "max_pool")),
        Conv("conv2", 8, 3, pad=(1, 1), std=0.1, then=("activation", "max_pool")),
        FullyConnected("fc3", 16, std=0.1, then=("activation", "dropout")),
        FullyConnected("fc4", 5, std=0.1),
    )
    return Architecture(layers, input_px=32)


@pytest.fixture
def net() -> Network:
    return Network(tiny_architecture()).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The groups of modules that went through one pass over memory."""
    groups: list[list[str]] = []
    one_pass = model._fused

    def record(modules: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
        groups.append([type(module).__name__ for module in modules])
        return one_pass(modules, x)

    monkeypatch.setattr(model, "_fused", record)
    return groups


def test_every_operation_of_the_plan_is_a_submodule() -> None:
    names = [name for name, _ in Network(recipes.paper().architecture).named_children()]
    assert names == [op.module for op in plan(recipes.paper().architecture)]
    assert names[:8] == ["conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2"]
    assert names[-7:] == ["fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"]
    again = [op.module for op in plan(replace(recipes.paper().architecture, without=("conv2",)))]
    assert again[3:6] == ["pool1", "norm1_again", "pool1_again"]
    named = Architecture((Conv("first", 4, 3), FullyConnected("classes", 2)), input_px=8)
    assert [op.module for op in plan(named)] == ["first", "relu_first", "classes"]


def test_layer_without_a_number_of_its_own_renames_no_other() -> None:
    modules = [op.module for op in plan(recipes.pre_trained().architecture)]
    assert {"relu1", "norm1", "pool5", "drop7"} <= {*modules}
    layers = Conv("conv1", 4, 3), Conv("conv1b", 4, 1), Conv("conv2", 4, 3)
    classes = FullyConnected("fc2", 2, then=("dropout",))
    named = Architecture((*layers, classes), input_px=8)
    assert [op.module for op in plan(named)] == [
        *("conv1", "relu1", "conv1b", "relu_conv1b"),
        *("conv2", "relu_conv2", "fc2", "drop_fc2"),
    ]


def test_parameters_keep_the_names_of_their_layers(net: Network) -> None:
    layers = ["conv1", "conv2", "conv3", "conv4", "fc6", "fc7", "fc8"]
    wanted = [f"{layer}.{parameter}" for layer in layers for parameter in ("weight", "bias")]
    assert list(net.state_dict()) == wanted


def test_a_new_network_leaves_pytorchs_random_numbers_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    Network(tiny_architecture())
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("seen", ["conv1", "relu1", "norm1", "pool2", "relu4", "drop7", "fc8"])
def test_a_hook_sees_the_values_that_the_network_computes(
    net: Network, images: torch.Tensor, seen: str
) -> None:
    values: list[torch.Tensor] = []
    unhooked = net(images)
    handle = net.get_submodule(seen).register_forward_hook(lambda m, x, y: values.append(y))
    torch.testing.assert_close(net(images), unhooked, **SAME)
    (name,) = (op.name for op in net.plan if op.module == seen)
    assert len(values) == 1
    torch.testing.assert_close(values[0], net.activations(images)[name], **SAME)
    handle.remove()
    assert len(values) == 2  # `activations` runs the modules too


def test_what_a_hook_returns_is_what_goes_on(net: Network, images: torch.Tensor) -> None:
    with net.relu2.register_forward_hook(lambda module, x, y: torch.zeros_like(y)):
        silenced = net(images)
    assert torch.equal(silenced[0], silenced[1])
    assert not torch.equal(net(images)[0], net(images)[1])


@pytest.mark.parametrize(
    "register",
    [
        lambda m: m.register_forward_hook(lambda *a: None),
        lambda m: m.register_forward_pre_hook(lambda *a: None),
        lambda m: m.register_full_backward_hook(lambda *a: None),
        lambda m: m.register_full_backward_pre_hook(lambda *a: None),
    ],
)
def test_only_the_hooked_group_is_run_module_by_module(
    net: Network,
    images: torch.Tensor,
    fused: list[list[str]],
    register: Callable[[nn.Module], object],
) -> None:
    net(images)
    assert fused == [
        ["ResponseNorm", "MaxPool2d", "ReLU"],
        ["ReLU", "ResponseNorm"],
    ]
    fused.clear()
    register(net.norm1)
    net(images)
    assert fused == [["ReLU", "ResponseNorm"]]


def test_nothing_is_fused_where_somebody_looks(
    net: Network, images: torch.Tensor, fused: list[list[str]]
) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda *a: None)
    net(images)
    handle.remove()
    with FlopCounterMode(display=False):
        net(images)
    with torch.autocast("cpu", torch.bfloat16):
        net(images)
    net.norm1.forward = lambda x: x  # type: ignore[method-assign]
    net.norm2 = nn.Identity()
    net(images)
    assert fused == []


def test_a_changed_module_is_the_one_that_runs(net: Network, images: torch.Tensor) -> None:
    before = net(images)
    net.norm1.alpha = 1.0  # fused, from the module's own constants
    after = net(images)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, list(net.activations(images).values())[-1], **SAME)
    net.relu3 = nn.Tanh()
    assert net.activations(images)["conv3"].min().item() < 0


@pytest.mark.parametrize("exchanged", ["relu1", "pool1"])
def test_exchanged_modules_are_not_fused_as_the_plan_has_them(exchanged: str) -> None:
    net = Network(replace(recipes.paper().architecture, width=0.125, input_px=96)).eval()
    first, second = net.norm1, net.get_submodule(exchanged)
    net.norm1 = second
    setattr(net, exchanged, first)
    x = torch.randn(2, 3, 96, 96).contiguous(memory_format=torch.channels_last)
    values = net.activations(x)
    torch.testing.assert_close(net(x), values["fc8"], **SAME)
    assert torch.equal(values["conv1.lrn"], net.norm1(values["conv1"]))


def test_flops_are_those_of_the_plan(images: torch.Tensor) -> None:
    net = Network(tiny_architecture())
    with FlopCounterMode(display=False) as counter:
        net(images)
    # PyTorch counts a multiply-add as two operations.
    assert counter.get_total_flops() == 2 * len(images) * sum(op.multiply_adds for op in net.plan)


def test_train_and_eval_mean_what_they_mean_in_pytorch(images: torch.Tensor) -> None:
    net = Network(tiny_architecture())
    assert net.training
    assert not torch.equal(net(images), net(images))
    torch.manual_seed(3)
    once = net(images)
    torch.manual_seed(3)
    assert torch.equal(net(images), once)
    assert torch.equal(net.eval()(images), net(images))
    values = net.train().activations(images)
    dropped = values["fc6.dropout"][values["fc6"] > 0] == 0
    # A half of them, within five deviations.
    assert abs(float(dropped.float().mean()) - 0.5) < 2.5 / len(dropped) ** 0.5
    assert len(dropped) > 30


def test_a_key_determines_the_masks(images: torch.Tensor) -> None:
    net = Network(tiny_architecture())
    assert torch.equal(net(images, (0, 5)), net(images, (0, 5)))
    assert not torch.equal(net(images, (0, 5)), net(images, (0, 6)))
    with pytest.raises(DataError, match=r"no effect in eval mode; call net.train\(\)"):
        net.eval()(images, (0, 5))


def test_evaluation_mode_ends_where_it_began(net: Network) -> None:
    net.train()
    net.drop6.eval()
    with evaluation_mode(net):
        assert not any(module.training for module in net.modules())
    assert net.training
    assert not net.drop6.training
    assert net.drop7.training


def test_a_users_own_loop_trains(images: torch.Tensor) -> None:
    net = Network(tiny_architecture())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    labels = torch.tensor([0, 1, 2, 3])
    before = F.cross_entropy(net.eval()(images), labels)
    net.train()
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
    assert F.cross_entropy(net.eval()(images), labels) < 0.7 * before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            torch.zeros(2, 32, 32, 3, dtype=torch.uint8),
            r"preprocessed images.*\(N, 3, 32, 32\).*uint8",
        ),
        (torch.zeros(2, 3, 40, 40), r"\(N, 3, 32, 32\); it was given torch.float32 .*40, 40"),
        (torch.zeros(3, 32, 32), r"\(N, 3, 32, 32\)"),
        (torch.zeros(2, 12, 16, 16), r"\(N, 3, 32, 32\); it was given torch.float32 .*12, 16, 16"),
        (np.zeros((2, 3, 32, 32)), "takes a tensor of images; it was given ndarray"),
    ],
)
def test_images_that_are_not_preprocessed_are_refused(
    net: Network, given: torch.Tensor, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        net(given)
    with pytest.raises(DataError, match=says):
        net.activations(given)


def test_images_in_the_blocks_of_conv1_give_the_logits_of_their_pixels(
    net: Network, images: torch.Tensor
) -> None:
    """As training on CUDA crops them; conv1 has 5x5 pixels, stride 2, and zeros on one side."""
    channels, height, width = blocks.shape(3, 32, 5, 2, (0, 3))
    assert (channels, height, width) == (12, 18, 18)
    padded = F.pad(images, (0, 4, 0, 4))
    cut = F.pixel_unshuffle(padded, 2).unflatten(1, (3, 4)).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(net(cut), net(images))
    torch.testing.assert_close(net.activations(cut)["fc8"], net.activations(images)["fc8"])


def test_copies_and_pickles_compute_the_same(net: Network, images: torch.Tensor) -> None:
    wanted = net(images)
    assert torch.equal(copy.deepcopy(net)(images), wanted)
    assert torch.equal(pickle.loads(pickle.dumps(net))(images), wanted)


def test_a_copy_is_a_network_of_its_own(net: Network, images: torch.Tensor) -> None:
    wanted = net(images)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        twin.conv1.weight.zero_()
    twin.norm1.alpha = 1.0
    assert torch.equal(net(images), wanted)
    assert not torch.equal(twin(images), wanted)


def test_a_state_dict_makes_another_network_the_same(net: Network, images: torch.Tensor) -> None:
    other = Network(tiny_architecture(), seed=1).eval()
    assert not torch.equal(other(images), net(images))
    state = net.state_dict()
    assert other.load_state_dict(state) == ([], [])
    assert torch.equal(other(images), net(images))
    del state["conv2.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*conv2\.bias"):
        other.load_state_dict(state)
    assert other.load_state_dict(state, strict=False).missing_keys == ["conv2.bias"]


def test_to_converts_the_network_and_moves_it(net: Network, images: torch.Tensor) -> None:
    wanted = net(images)
    double = copy.deepcopy(net).to(torch.float64)
    assert double(images.double()).dtype == torch.float64
    torch.testing.assert_close(double(images.double()).float(), wanted, **SAME)
    half = copy.deepcopy(net).to(torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(half(images.bfloat16()), wanted, rtol=0.1, atol=0.05)
    # No GPU is needed to see that every tensor of the network moves: without values, shapes remain.
    meta = copy.deepcopy(net).to("meta")
    assert all(p.is_meta for p in meta.parameters())
    assert meta(images.to("meta")).shape == wanted.shape


def test_print_shows_the_layers_of_the_paper() -> None:
    text = str(Network(recipes.paper().architecture))
    for line in (
        "(conv1): Conv2d(3, 96, kernel_size=(11, 11), stride=(4, 4), pad=(0, 3))",
        "(relu1): ReLU()",
        "(norm1): ResponseNorm(n=5, k=2, alpha=0.0001, beta=0.75, columns=2)",
        "(pool1): MaxPool2d(kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)",
        "(conv2): Conv2d(96, 256, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), groups=2)",
        "(drop7): Dropout(p=0.5, form='2012')",
        "(fc8): Linear(in_features=4096, out_features=1000, bias=True)",
    ):
        assert line in text
    cifar = str(Network(recipes.cifar_11().architecture))
    assert "Local2d(64, 64, size_px=3, positions=6x6" in cifar
    assert "SpatialNorm(" in str(Network(tiny_architecture()))


def test_torchinfo_counts_the_parameters_of_the_paper() -> None:
    summary = torchinfo.summary(
        Network(recipes.paper().architecture), (1, 3, 224, 224), verbose=0, depth=1
    )
    assert summary.total_params == 60_965_224
    assert [info.class_name for info in summary.summary_list[1:5]] == [
        "Conv2d",
        "ReLU",
        "ResponseNorm",
        "MaxPool2d",
    ]


# It names a part of torch.distributed that no other test has imported yet.
@pytest.mark.filterwarnings("ignore:TorchLens torch capability")
def test_torchlens_records_every_module(net: Network, images: torch.Tensor) -> None:
    trace = torchlens.trace(net, images)
    assert {op.module for op in net.plan} <= {str(module.address) for module in trace.modules}


class PositiveGradients(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(x)
        y.register_hook(lambda dy: dy.clamp(min=0))
        return y


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_guided_backpropagation_differs_from_the_gradient(images: torch.Tensor) -> None:
    """With hooks that never fire, captum returns the plain gradient without a word."""
    net = Network(plain_architecture()).eval()
    x = images.requires_grad_()
    guided = GuidedBackprop(net).attribute(x, target=1)
    (plain,) = torch.autograd.grad(net(x)[:, 1].sum(), x)
    assert not torch.allclose(guided, plain)
    # The same rule as modules of its own: only positive gradients pass a ReLU.
    by_hand = copy.deepcopy(net)
    for name in ("relu1", "relu2", "relu3"):
        setattr(by_hand, name, PositiveGradients())
    (wanted,) = torch.autograd.grad(by_hand(x)[:, 1].sum(), x)
    torch.testing.assert_close(guided, wanted)


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
def test_deeplift_explains_the_whole_difference(images: torch.Tensor) -> None:
    # Without pools, for which the rule of DeepLift is an approximation.
    layers = tuple(
        replace(layer, then=tuple(op for op in layer.then if op != "max_pool"))
        for layer in plain_architecture().layers
    )
    net = Network(replace(plain_architecture(), layers=layers)).eval()
    baseline = torch.randn_like(images)
    attributed, delta = DeepLift(net).attribute(
        images.clone().requires_grad_(), baseline, target=2, return_convergence_delta=True
    )
    difference = net(images)[:, 2] - net(baseline)[:, 2]
    torch.testing.assert_close(attributed.flatten(1).sum(1), difference, rtol=1e-3, atol=1e-4)
    assert float(delta.abs().max()) < 1e-4
    (gradient,) = torch.autograd.grad(net(images.requires_grad_())[:, 2].sum(), images)
    by_gradient = gradient * (images - baseline)
    assert not torch.allclose(attributed, by_gradient, rtol=1e-2, atol=1e-9)


def test_gradients_of_each_image_by_vmap(net: Network, images: torch.Tensor) -> None:
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    labels = torch.tensor([0, 1, 2, 3])

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(net, parameters, (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    for i in range(len(images)):
        alone = F.cross_entropy(net(images[i : i + 1]), labels[i : i + 1])
        for name, wanted in zip(
            parameters, torch.autograd.grad(alone, list(net.parameters())), strict=True
        ):
            torch.testing.assert_close(each[name][i], wanted, **SAME)


# PyTorch itself compiles its rules for forward mode with the deprecated compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_forward_and_reverse_mode_give_one_jacobian(net: Network, images: torch.Tensor) -> None:
    x, direction = images[:1], torch.randn(1, 3, 32, 32)
    jacobian = jacrev(net)(x)
    _, along = jvp(net, (x,), (direction,))
    torch.testing.assert_close(jacobian.flatten(2).matmul(direction.flatten())[0], along[0], **SAME)
    with dual_level():
        tangent = unpack_dual(net(make_dual(x, direction))).tangent
    torch.testing.assert_close(tangent, along, **SAME)


def test_gradients_have_gradients(net: Network, images: torch.Tensor) -> None:
    """By the fast path, against finite differences of its own gradient, and in float64."""
    x = images.requires_grad_()
    results = []
    for module, value in ((net, x), (copy.deepcopy(net).double(), x.double())):
        (g,) = torch.autograd.grad(module(value)[:, 0].sum(), value, create_graph=True)
        (second,) = torch.autograd.grad(g.square().sum(), module.conv1.weight)
        results.append(second.double())
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-4 * float(results[1].abs().max()))


@pytest.mark.parametrize("columns", [1, 2])
def test_second_derivatives_of_the_normalizations(columns: int) -> None:
    x = torch.randn(1, 4, 4, 4, dtype=torch.float64).requires_grad_()
    norm = Lrn(3, 2.0, 0.5, 0.75)
    assert gradgradcheck(lambda t: ops.norm_pool(t, True, norm, Pool(3, 1), True, columns), (x,))
    assert gradgradcheck(lambda t: ops.spatial_norm(t, 3, 1.0, 0.5), (x,))


@pytest.mark.usefixtures("compiled_code")
def test_second_derivatives_of_the_compiled_operators() -> None:
    x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert compiled.takes(x)
    for op in (
        lambda t: ops.norm_pool(t, True, Lrn(5, 2.0, 0.5), Pool(), True, 2),
        lambda t: ops.spatial_norm(t, 3, 1.0, 0.5),
    ):
        results = []
        for value in (x, x.double()):
            (g,) = torch.autograd.grad(op(value).square().sum(), value, create_graph=True)
            (second,) = torch.autograd.grad(g.square().sum(), value)
            results.append(second.double())
        torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("compiled_code")
def test_second_derivatives_through_tiles() -> None:
    x = torch.randn(2, 32, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(32, 16, 3, 3), torch.randn(32)
    results = []
    for op in (
        lambda t: winograd.conv2d(t, weight, bias, 2),
        lambda t: F.conv2d(t, weight, bias, padding=1, groups=2),
    ):
        (g,) = torch.autograd.grad(op(x).pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(g.square().sum(), x)
        results.append(second)
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5 * float(results[1].abs().max()))


def test_the_written_out_normalizations_are_the_fast_ones() -> None:
    """`plain` runs under every transform, and `normalise` everywhere else."""
    x = torch.randn(2, 12, 5, 6, dtype=torch.float64)
    for op in (
        lambda t: ops.lrn(t, 4, 2.0, 0.3, 0.6, 3),
        lambda t: ops.spatial_norm(t, 3, 1.0, 0.3),
        lambda t: ops.norm_pool(t, True, Lrn(5, 2.0, 0.3), Pool(3, 2, True), True, 2),
    ):
        torch.testing.assert_close(vmap(op)(x[None])[0], op(x), rtol=1e-12, atol=1e-12)


def test_a_parametrization_reaches_the_convolution(net: Network, images: torch.Tensor) -> None:
    class Doubled(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return 2 * weight

    twice = copy.deepcopy(net)
    with torch.no_grad():
        twice.conv2.weight *= 2
    parametrize.register_parametrization(net.conv2, "weight", Doubled())
    torch.testing.assert_close(net(images), twice(images), **SAME)
    net(images).sum().backward()
    assert net.conv2.parametrizations.weight.original.grad is not None


@pytest.mark.parametrize("layer", ["conv1", "conv3"])  # padded on one side, and on both
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("padding", (2, 2)),
        ("padding", 2),
        ("dilation", (2, 2)),
        ("padding_mode", "reflect"),
        ("stride", (1, 2)),
    ],
)
def test_changed_settings_of_a_convolution_count(layer: str, name: str, value: object) -> None:
    conv = Network(tiny_architecture()).get_submodule(layer)
    settings = {key: getattr(conv, key) for key in ("stride", "padding", "groups")} | {name: value}
    exact = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, **settings)
    exact.weight, exact.bias = conv.weight, conv.bias
    setattr(conv, name, value)
    x = torch.randn(2, conv.in_channels, 13, 13)
    mode = "reflect" if name == "padding_mode" else "constant"
    padded = F.pad(x, (0, 3, 0, 3), mode) if layer == "conv1" else x
    torch.testing.assert_close(conv(x), exact(padded), **SAME)
    assert conv(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("pad", [(0, 0), (2, 2), (1, 2)])
@pytest.mark.parametrize("layer", ["conv1", "conv3"])
def test_changed_pad_of_a_convolution_counts(layer: str, pad: tuple[int, int]) -> None:
    conv = Network(tiny_architecture()).get_submodule(layer)
    conv.pad = pad
    x = torch.randn(2, conv.in_channels, 13, 13)
    exact = F.conv2d(F.pad(x, pad * 2), conv.weight, conv.bias, conv.stride, groups=conv.groups)
    torch.testing.assert_close(conv(x), exact, **SAME)


def test_symbolic_tracing_gives_the_same_network(net: Network, images: torch.Tensor) -> None:
    traced = torch.fx.symbolic_trace(net)
    torch.testing.assert_close(traced(images), net(images), **SAME)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    assert {"relu1", "pool1"} <= called


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.slow
def test_the_compiler_takes_the_network_in_one_graph(
    net: Network, images: torch.Tensor, training: bool
) -> None:
    net.train(training)
    whole = torch.compile(net, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    got = whole(images)
    torch.manual_seed(1)
    torch.testing.assert_close(got, net(images), **SAME)
    got.sum().backward()
    assert net.conv1.weight.grad is not None


def test_the_compiler_takes_forward_and_loss_of_a_training_step_in_one_graph(
    images: torch.Tensor,
) -> None:
    net = ShardedNetwork(tiny_architecture(), 0, ALONE)
    labels = torch.arange(len(images)) % 10
    dropped = [op.layer.name for op in net.plan if op.op == "dropout"]
    keys = dict(zip(dropped, ops.dropout_keys(3, 5, dropped), strict=True))
    whole = torch.compile(net.loss, fullgraph=True, backend="eager")
    loss, wrong = whole(images, labels, len(images), keys)
    expected, expected_wrong = net.loss(images, labels, len(images), (3, 5))
    torch.testing.assert_close(loss, expected, **SAME)
    assert wrong == expected_wrong


def test_export_takes_batches_of_any_size(net: Network, images: torch.Tensor) -> None:
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(net, (images,), dynamic_shapes={"images": {0: batch}})
    torch.testing.assert_close(exported.module()(images[:3]), net(images[:3]), **SAME)


@pytest.mark.slow
def test_compiled_and_exported_networks_have_the_gradient_of_the_input(
    net: Network, images: torch.Tensor
) -> None:
    """Of the fast path, of the compiler's graph and of the exported one, against float64."""
    exported = torch.export.export(net, (images,)).module()
    forms = (net, torch.compile(net, fullgraph=True, backend="aot_eager"), exported)
    x = images.double().requires_grad_()
    (wanted,) = torch.autograd.grad(copy.deepcopy(net).double()(x)[:, 1].sum(), x)
    for form in forms:
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(form(x)[:, 1].sum(), x)
        atol = 1e-4 * float(wanted.abs().max())
        torch.testing.assert_close(gradient.double(), wanted, rtol=1e-3, atol=atol)


def test_the_module_is_differentiable_in_float64(net: Network) -> None:
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    assert gradcheck(net.double(), (x,), fast_mode=True, atol=1e-4)
