"""Evidence for a class: each method against finite differences, a slow twin or captum."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import Deconvolution, IntegratedGradients, LayerGradCam, Saliency
from numpy.typing import NDArray
from torch import nn

from alexnet import attribution, load
from alexnet.architecture import Op
from alexnet.config import Architecture, Conv, FullyConnected
from alexnet.errors import ConfigError, RunError
from alexnet.model import Network
from tests.conftest import tiny_architecture
from tests.test_module import plain_architecture

LABEL = 3


@pytest.fixture
def net() -> Network:
    """Columns, both normalizations, overlapping pools; in training mode, where a user left it."""
    return Network(tiny_architecture())


@pytest.fixture
def x() -> torch.Tensor:
    return 10 * torch.randn(3, 32, 32)


@pytest.fixture
def exact(net: Network, x: torch.Tensor) -> tuple[Network, torch.Tensor]:
    return net.double(), x.double()


@torch.no_grad()
def logit(net: Network, x: torch.Tensor) -> float:
    return float(net.eval()(x[None])[0, LABEL])


def test_the_gradient_is_that_of_finite_differences(exact: tuple[Network, torch.Tensor]) -> None:
    net, x = exact
    gradient = attribution.saliency(net, x, LABEL)
    largest = np.argsort(-np.abs(gradient).ravel())[:5]
    for place in [*largest, 0, 100, 2000]:
        step = torch.zeros_like(x)
        step.view(-1)[int(place)] = 1e-5
        slope = (logit(net, x + step) - logit(net, x - step)) / 2e-5
        np.testing.assert_allclose(gradient.ravel()[place], slope, rtol=1e-4, atol=1e-6)


def test_the_fast_path_gives_the_gradient_of_float64(net: Network, x: torch.Tensor) -> None:
    fast = attribution.saliency(net, x, LABEL)
    slow = attribution.saliency(net.double(), x.double(), LABEL)
    np.testing.assert_allclose(fast, slow, rtol=1e-3, atol=1e-5 * float(np.abs(slow).max()))


def test_a_network_in_training_mode_is_explained_as_at_test_time(
    net: Network, x: torch.Tensor
) -> None:
    """Dropout is off inside, and every module is as it was afterwards."""
    net.train()
    once = attribution.saliency(net, x, LABEL)
    np.testing.assert_array_equal(once, attribution.saliency(net, x, LABEL))
    assert net.training and net.drop6.training
    assert all(p.grad is None for p in net.parameters())


def test_integrated_gradients_add_up_to_the_difference_of_the_logits(
    exact: tuple[Network, torch.Tensor],
) -> None:
    net, x = exact
    values = attribution.integrated_gradients(net, x, LABEL, steps=128)
    difference = logit(net, x) - logit(net, torch.zeros_like(x))
    assert abs(difference) > 0.01
    np.testing.assert_allclose(values.sum(), difference, rtol=0.02)
    gradient = attribution.saliency(net, x, LABEL)
    assert abs((gradient * x.numpy()).sum() / difference - 1) > 0.02


def test_gradients_are_those_of_captum(x: torch.Tensor) -> None:
    net = Network(plain_architecture()).eval()
    inputs = x[None].requires_grad_()
    wanted = Saliency(net).attribute(inputs, target=LABEL, abs=False)[0]
    np.testing.assert_allclose(attribution.saliency(net, x, LABEL), wanted, rtol=1e-4, atol=1e-6)
    wanted = IntegratedGradients(net).attribute(
        x[None], target=LABEL, n_steps=40, method="riemann_middle"
    )[0]
    got = attribution.integrated_gradients(net, x.detach(), LABEL, steps=40)
    np.testing.assert_allclose(got, wanted.detach(), rtol=1e-3, atol=1e-6)


def test_smoothgrad_is_the_mean_over_noisy_images(exact: tuple[Network, torch.Tensor]) -> None:
    net, x = exact
    with torch.device("meta"):  # which the program around may have set, as any other device
        got = attribution.smoothgrad(net, x, LABEL, seed=7, noise=0.1, samples=34)
    generator = torch.Generator().manual_seed(7)
    deviation = 0.1 * (x.max() - x.min())
    slow = np.zeros(x.shape)
    # The noise is drawn in the parts in which the images go through the network.
    for part in (32, 2):
        for noise in torch.randn((part, *x.shape), generator=generator, dtype=x.dtype):
            slow += attribution.saliency(net, x + deviation * noise, LABEL) / 34
    np.testing.assert_allclose(got, slow, rtol=1e-4, atol=1e-7)
    without = attribution.smoothgrad(net, x, LABEL, noise=0.0, samples=3)
    np.testing.assert_allclose(without, attribution.saliency(net, x, LABEL), rtol=1e-5, atol=1e-9)


def test_occlusion_is_a_forward_pass_for_each_place_of_the_square(
    exact: tuple[Network, torch.Tensor],
) -> None:
    net, x = exact
    result = attribution.occlusion(net, x, LABEL)
    assert (result.side_px, result.starts_px[0], result.starts_px[-1]) == (6, 0, 26)
    assert len(result.starts_px) == 17
    net.eval()
    with torch.no_grad():
        for row, column in ((0, 0), (3, 16), (16, 5)):
            covered = x.clone()
            for y in range(6):
                for z in range(6):
                    covered[:, result.starts_px[row] + y, result.starts_px[column] + z] = 0
            p = net(covered[None]).softmax(1)[0, LABEL]
            np.testing.assert_allclose(result.probabilities[row, column], p, rtol=1e-5)
        np.testing.assert_allclose(result.uncovered, net(x[None]).softmax(1)[0, LABEL])


@pytest.mark.parametrize("input_px", [1, 5, 32, 70])
def test_every_pixel_is_covered_at_some_time(input_px: int) -> None:
    architecture = Architecture(
        (Conv("conv1", 2, 1, then=()), FullyConnected("fc2", 4, std=0.1)), input_px=input_px
    )
    result = attribution.occlusion(Network(architecture), torch.randn(3, input_px, input_px), 1)
    assert np.isfinite(result.drop(input_px)).all()


def test_the_square_may_have_another_side_and_other_positions(
    net: Network, x: torch.Tensor
) -> None:
    result = attribution.occlusion(net, x, LABEL, side_px=8, positions=4)
    assert result.side_px == 8
    assert result.starts_px.tolist() == [0, 8, 16, 24]
    covered = x.clone()
    covered[:, 8:16, 16:24] = 0
    p = torch.softmax(net.eval()(covered[None]), 1)[0, LABEL].detach()
    np.testing.assert_allclose(result.probabilities[1, 2], p, rtol=1e-4)
    assert np.isfinite(result.drop(32)).all()
    whole = attribution.occlusion(net, x, LABEL, side_px=32, positions=1)
    assert whole.starts_px.tolist() == [0]


@pytest.mark.parametrize(
    ("side_px", "positions", "message"),
    [
        (8, 3, "positions is 3; a square of 8 pixels needs at least 4 to cover 32"),
        (31, 1, "positions is 1; a square of 31 pixels needs at least 2 to cover 32"),
        (0, 17, "side_px is 0; it must be from 1 to 32"),
        (33, 17, "side_px is 33; it must be from 1 to 32"),
    ],
)
def test_squares_that_leave_a_pixel_out_are_refused(
    net: Network, x: torch.Tensor, side_px: int, positions: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        attribution.occlusion(net, x, LABEL, side_px, positions)


def test_drop_is_the_mean_over_the_squares_that_cover_a_pixel() -> None:
    probabilities = np.array([[0.1, 0.2], [0.3, 0.5]], np.float32)
    result = attribution.Occlusion(probabilities, np.array([0, 1]), 2, 0.5)
    wanted = [[0.4, 0.35, 0.3], [0.3, 0.225, 0.15], [0.2, 0.1, 0.0]]
    np.testing.assert_allclose(result.drop(3), wanted, atol=1e-6)


def test_grad_cam_is_that_of_captum(x: torch.Tensor) -> None:
    net = Network(plain_architecture()).eval()
    assert attribution.map_layer(net.plan) == "conv2"
    wanted = LayerGradCam(net, net.relu2).attribute(x[None], LABEL, relu_attributions=True)
    got = attribution.grad_cam(net, x, LABEL)
    assert got.shape == (7, 7) and got.max() > 0
    np.testing.assert_allclose(got, wanted[0, 0].detach(), rtol=1e-4, atol=1e-7)


def test_grad_cam_does_not_depend_on_the_order_of_relu_and_pool() -> None:
    """A ReLU and a maximum may change places, so both orders are one function."""
    x = torch.randn(3, 32, 32, dtype=torch.float64)
    results = []
    for then in (("activation", "max_pool"), ("max_pool", "activation")):
        first, second, *rest = plain_architecture().layers
        # With this bias every window has a positive value, and some have negative ones too. Where
        # all are negative, the first order leads a gradient to one of the zeros.
        layers = (first, replace(second, then=then, bias=1.5), *rest)
        net = Network(replace(plain_architecture(), layers=layers)).double().eval()
        values = net.activations(x[None])
        maps = values["conv2" if then[0] == "activation" else "conv2.linear"]
        assert values["conv2.max_pool"].min() > 0
        results.append((maps.min().item(), attribution.grad_cam(net, x, LABEL)))
    assert results[0][0] == 0 and results[1][0] < 0
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-6)


def slow_deconvnet(
    net: Network, x: torch.Tensor, ops: tuple[Op, ...], unit: int, row: int, column: int
) -> NDArray[np.float64]:
    """The deconvnet in loops, of a network with convolutions and pools alone."""
    values = [x[None], *net.activations(x[None]).values()]
    inputs = [value[0].detach().numpy() for value in values]
    y = np.zeros(ops[-1].shape)
    y[unit, row, column] = abs(inputs[len(ops)].reshape(ops[-1].shape)[unit, row, column])
    for op, a in reversed(list(zip(ops, inputs, strict=False))):
        back = np.zeros(op.in_shape)
        if op.op == "activation":
            back = np.maximum(y, 0)
        elif op.op in ("lrn", "spatial_norm"):
            back = y
        elif op.op == "max_pool":
            pool = net.architecture.pool
            for c, i, j in np.ndindex(*y.shape):
                top, left = i * pool.stride, j * pool.stride
                window = a[c, top : top + pool.size_px, left : left + pool.size_px]
                p, q = np.unravel_index(window.argmax(), window.shape)
                back[c, top + p, left + q] += y[c, i, j]
        else:
            assert isinstance(op.layer, Conv)
            weight = net.get_parameter(f"{op.layer.name}.weight").detach().numpy()
            before, after = op.layer.pad
            padded = np.pad(back, ((0, 0), (before, after), (before, after)))
            group_in, group_out = op.in_shape[0] // op.columns, op.shape[0] // op.columns
            for k, i, j in np.ndindex(*y.shape):
                first = k // group_out * group_in
                top, left = i * op.layer.stride, j * op.layer.stride
                side = op.layer.size_px
                padded[first : first + group_in, top : top + side, left : left + side] += (
                    y[k, i, j] * weight[k]
                )
            side = op.in_shape[1]
            back = padded[:, before : before + side, before : before + side]
        y = back
    return y


@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv2.max_pool", "conv4"])
def test_deconvnet_is_its_slow_twin(layer: str, exact: tuple[Network, torch.Tensor]) -> None:
    net, x = exact
    net.eval()
    number = [op.name for op in net.plan].index(layer)
    row, column = 1, 2
    value = net.activations(x[None])[layer][0].detach()
    # A unit that answers: from 0 only 0 would be led back.
    unit = int(value[:, row, column].argmax())
    got = attribution.deconvnet(net, x, layer, unit, row, column)
    wanted = slow_deconvnet(net, x, net.plan[: number + 1], unit, row, column)
    assert np.abs(wanted).max() > 0
    np.testing.assert_allclose(got.pixels, wanted, rtol=1e-4, atol=1e-6 * np.abs(wanted).max())
    outside = np.ones((32, 32), bool)
    outside[got.box.top : got.box.bottom, got.box.left : got.box.right] = False
    assert outside.any() or layer == "conv4"
    assert not got.pixels[:, outside].any()


def test_batch_normalization_is_led_back_by_its_factor() -> None:
    layers = (
        Conv("conv1", 4, 3, std=0.1, then=("batch_norm", "activation")),
        FullyConnected("fc2", 2),
    )
    net = Network(Architecture(layers, input_px=7)).double().eval()
    norm = net.conv1_bn
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 3)
        x = torch.randn(3, 7, 7, dtype=torch.float64)
        value = float(net.activations(x[None])["conv1.batch_norm"][0, 2, 1, 1])
        factor = float(norm.weight[2] / (norm.running_var[2] + norm.epsilon).sqrt())
    got = attribution.deconvnet(net, x, "conv1.batch_norm", 2, 1, 1).pixels
    kernel = net.conv1.weight[2].detach().numpy()
    np.testing.assert_allclose(got[:, 1:4, 1:4], abs(value) * factor * kernel, rtol=1e-5)


def test_deconvnet_takes_the_names_of_other_programs(
    exact: tuple[Network, torch.Tensor],
) -> None:
    net, x = exact
    got = attribution.deconvnet(net, x, "pool1", 0, 1, 1)
    wanted = attribution.deconvnet(net, x, "conv1.max_pool", 0, 1, 1)
    assert got.layer == wanted.layer == "conv1.max_pool"
    np.testing.assert_array_equal(got.pixels, wanted.pixels)


def test_overlapping_windows_add_where_they_have_one_maximum() -> None:
    """One bright pixel is the maximum of four windows of 3x3, two pixels apart."""
    layers = (
        Conv("conv1", 1, 1, then=("max_pool", "activation")),
        Conv("conv2", 1, 2, then=("activation",)),
        FullyConnected("fc3", 2),
    )
    net = Network(Architecture(layers, input_px=5)).double().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1.0)
    x = torch.zeros(3, 5, 5, dtype=torch.float64)
    x[:, 2, 2] = 1
    pixels = attribution.deconvnet(net, x, "conv2", 0).pixels
    value = 4 * (3 + 1) + 1  # four windows, each 3 + the bias 1, and the bias of conv2
    wanted = np.zeros((3, 5, 5))
    wanted[:, 2, 2] = 4 * value
    np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def test_deconvnet_is_that_of_captum_where_captum_has_one(x: torch.Tensor) -> None:
    """Captum changes the ReLUs alone, which is the method on a network without normalization."""
    net = Network(plain_architecture()).eval()
    wanted = Deconvolution(net).attribute(x[None].clone().requires_grad_(), target=LABEL)[0]
    got = attribution.deconvnet(net, x, "fc4", LABEL).pixels / abs(logit(net, x))
    np.testing.assert_allclose(got, wanted.detach(), rtol=1e-3, atol=1e-6 * float(wanted.max()))


def test_the_strongest_unit_of_each_layer_is_led_back(
    exact: tuple[Network, torch.Tensor],
) -> None:
    net, x = exact
    projections = attribution.strongest_projections(net, x, LABEL)
    assert [p.layer for p in projections] == ["conv1", "conv2", "conv3", "conv4", "fc8"]
    assert projections[-1].unit == LABEL
    values = net.eval().activations(x[None])
    for projection in projections[:-1]:
        value = values[projection.layer][0].detach()
        assert value[projection.unit].max() == value.max()
        assert np.abs(projection.pixels).max() > 0


def test_what_a_method_cannot_do_is_one_sentence(net: Network, x: torch.Tensor) -> None:
    tanh = Network(replace(plain_architecture(), activation="tanh"))
    with pytest.raises(RunError, match=r"needs ReLUs, and this network has .* tanh"):
        attribution.strongest_projections(tanh, x, LABEL)
    with pytest.raises(RunError, match="conv3 has units 0 to 15; there is no unit 16"):
        attribution.deconvnet(net, x, "conv3", 16)
    with pytest.raises(ConfigError, match="no layer 'conv9'"):
        attribution.deconvnet(net, x, "conv9", 0)
    flat = Network(Architecture((FullyConnected("fc1", 4),), input_px=32))
    with pytest.raises(RunError, match="needs a convolution, and this network has none"):
        attribution.grad_cam(flat, x, LABEL)


def test_answers_to_the_crops_have_the_prediction_as_their_average(run: Path) -> None:
    trained = load(run)
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    answers = attribution.crop_answers(trained, image)
    assert answers.probabilities.shape == (10, len(trained.classes))
    np.testing.assert_allclose(answers.average, trained([image])[0].numpy(), rtol=1e-5)
    # A crop that is cut by hand gets the same answer.
    top, left, reflected = answers.crops[7]
    assert reflected
    wanted = image[top : top + 32, left : left + 32][:, ::-1]
    np.testing.assert_array_equal(answers.pixels(image, 7), wanted)


def test_an_exchanged_module_is_what_is_explained(net: Network, x: torch.Tensor) -> None:
    """The methods use the modules, so what a user has changed is what is explained."""
    before = attribution.saliency(net, x, LABEL)
    net.norm1 = nn.Identity()
    assert not np.allclose(before, attribution.saliency(net, x, LABEL))
