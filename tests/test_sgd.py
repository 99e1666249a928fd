"""The update rule of section 5, and the schedules of the learning rate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alexnet import recipes
from alexnet.config import Plateau, StepSchedule, scaled
from alexnet.train import sgd
from alexnet.train.sgd import (
    ParamHyper,
    PlateauState,
    after_epoch,
    colour_on,
    finished,
    lr_factor,
    param_hyper,
    update,
)

START = PlateauState()


def test_ten_steps_follow_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(7, generator=generator, dtype=torch.float64)
    v = torch.zeros_like(w)
    w_want, v_want = w.clone(), v.clone()
    for step in range(10):
        lr = 0.01 if step < 5 else 0.001
        g = torch.randn(7, generator=generator, dtype=torch.float64)
        v_want = 0.9 * v_want - 0.0005 * lr * w_want - lr * g
        w_want = w_want + v_want
        update(w, v, g, ParamHyper(lr, 0.0005), 0.9)
    torch.testing.assert_close(w, w_want, rtol=1e-13, atol=0)
    torch.testing.assert_close(v, v_want, rtol=1e-12, atol=1e-16)


@pytest.mark.usefixtures("compiled_code")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("decay", [0.0, 0.0005])
def test_compiled_update_matches_the_plain_one(
    memory_format: torch.memory_format, decay: float
) -> None:
    """They differ by a few units of 2**-24 of each term: float32 operations, some of them fused."""
    tensors = [torch.randn(6, 5, 3, 3) for _ in range(3)]
    w, v, g = (t.contiguous(memory_format=memory_format) for t in tensors)
    exact_w, exact_v, exact_g = (t.double() for t in tensors)
    for _ in range(3):
        assert sgd._update_compiled(w, v, g, ParamHyper(0.01, decay), 0.9)
        update(exact_w, exact_v, exact_g, ParamHyper(0.01, decay), 0.9)
    torch.testing.assert_close(w.double(), exact_w, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(v.double(), exact_v, rtol=1e-6, atol=1e-6)


def test_update_accepts_a_gradient_in_another_memory_format() -> None:
    w, g = (
        torch.randn(6, 5, 3, 3).contiguous(memory_format=torch.channels_last),
        torch.randn(6, 5, 3, 3),
    )
    v = torch.zeros_like(w)
    before = w.clone()
    update(w, v, g, ParamHyper(0.5, 0.0), 0.9)
    torch.testing.assert_close(w, before - 0.5 * g)


def pytorch_steps(learning_rates: list[float]) -> torch.Tensor:
    w = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([w], lr=learning_rates[0], momentum=0.9, weight_decay=0.0005)
    for lr in learning_rates:
        optimizer.param_groups[0]["lr"] = lr
        w.grad = torch.full_like(w, 0.3)
        optimizer.step()
    return w.detach()


def our_steps(learning_rates: list[float]) -> torch.Tensor:
    w = torch.ones(3, dtype=torch.float64)
    v = torch.zeros_like(w)
    for lr in learning_rates:
        update(w, v, torch.full_like(w, 0.3), ParamHyper(lr, 0.0005), 0.9)
    return w


def test_update_equals_pytorch_sgd_until_the_learning_rate_changes() -> None:
    torch.testing.assert_close(our_steps([0.01] * 9), pytorch_steps([0.01] * 9), rtol=1e-13, atol=0)
    falling = [0.01] * 5 + [0.001] * 4
    assert (our_steps(falling) - pytorch_steps(falling)).abs().min() > 1e-3


def test_zero_learning_rate_freezes_a_parameter() -> None:
    w, v = torch.ones(2), torch.ones(2)
    update(w, v, torch.ones(2), ParamHyper(0.0, 0.1), 0.9)
    assert torch.equal(w, torch.ones(2))
    assert torch.equal(v, torch.ones(2))


def test_learning_rates_of_original_through_its_end_game() -> None:
    config = recipes.original()

    def hyper(name: str, epoch: int) -> tuple[float, float]:
        r = param_hyper(config, name, epoch, START)
        return round(r.lr, 12), r.weight_decay

    assert hyper("conv1.weight", 24) == (0.01, 0.0005)
    assert hyper("conv1.weight", 25) == (0.001, 0.0005)
    assert hyper("conv1.bias", 66) == (0.02, 0.0)
    assert hyper("conv1.weight", 67) == (1e-5, 0.0005)
    # The authors' log sets "epsw on conv1", the learning rate of the weights alone.
    assert hyper("conv1.bias", 71) == (0.02, 0.0)
    assert hyper("conv1.bias", 72) == (0.0, 0.0)
    assert hyper("conv1.weight", 72) == (0.0, 0.0005)
    assert hyper("fc8.weight", 90) == (1e-5, 0.0005)
    assert hyper("fc8.bias", 90) == (0.02, 0.0)
    assert colour_on(config.schedule, 66)
    assert not colour_on(config.schedule, 67)
    assert not finished(config.schedule, 90, START)
    assert finished(config.schedule, 91, START)


def test_biases_of_paper_learn_like_weights() -> None:
    assert param_hyper(recipes.paper(), "fc8.bias", 3, START) == param_hyper(
        recipes.paper(), "fc8.weight", 3, START
    )


def test_cifar_weight_decay_is_set_for_each_layer() -> None:
    config = recipes.cifar_26()
    assert param_hyper(config, "fc64.weight", 0, START) == ParamHyper(0.001, 0.03)
    assert param_hyper(config, "fc64.bias", 0, START) == ParamHyper(0.002, 0.0)


def test_plateau_drops_three_times_and_then_ends() -> None:
    schedule = Plateau(epochs=100, patience=2, min_delta=0.01, drops=3)
    state, drops, epoch = START, [], 0
    errors = [0.5, 0.4, 0.395, 0.396] + [0.4] * 50  # 0.395 improves by less than 0.01
    while not finished(schedule, epoch, state):
        drops.append(round(-torch.log10(torch.tensor(lr_factor(schedule, epoch, state))).item()))
        state = after_epoch(schedule, state, errors[epoch])
        epoch += 1
    assert drops == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]


def test_an_equal_error_is_no_improvement() -> None:
    schedule, state = Plateau(epochs=100, patience=2, min_delta=0, drops=3), START
    for _ in range(5):
        state = after_epoch(schedule, state, 0.9)
    assert (state.drops, state.best_error) == (2, 0.9)


def test_plateau_ends_at_its_last_epoch() -> None:
    assert finished(Plateau(epochs=4), 4, START)


def test_shortened_schedule_still_ends_at_a_thousandth_of_its_learning_rate() -> None:
    config = replace(recipes.original(), schedule=scaled(recipes.original().schedule, 50))
    assert param_hyper(config, "fc8.weight", 49, START).lr == pytest.approx(1e-5)
    assert isinstance(config.schedule, StepSchedule)
    assert config.schedule.drops == (14, 28, 43)


def test_training_ends_once_the_target_error_is_reached() -> None:
    schedule = StepSchedule(10, until_error=0.25)
    state = PlateauState()
    for epoch, error in enumerate((0.5, 0.26), 1):
        state = after_epoch(schedule, state, error)
        assert not finished(schedule, epoch, state)
    assert finished(schedule, 3, after_epoch(schedule, state, 0.25))
    assert not finished(StepSchedule(10), 3, after_epoch(StepSchedule(10), state, 0.0))
