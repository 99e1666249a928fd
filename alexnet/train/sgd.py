"""The update rule of section 5 and its schedules, as functions of values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from alexnet import native
from alexnet.config import Config, Plateau, Schedule, Steps

DROP = 0.1  # "divide the learning rate by 10"

Gradient = tuple[str, torch.Tensor]  # of the parameter of that name


@dataclass(frozen=True)
class PlateauState:
    """How the validation error has gone; in every checkpoint."""

    best_error: float = float("inf")
    stale_epochs: int = 0
    drops: int = 0


def after_epoch(schedule: Schedule, state: PlateauState, val_error: float) -> PlateauState:
    """The state once an epoch has ended with this validation error (a share)."""
    if not isinstance(schedule, Plateau):
        return replace(state, best_error=min(state.best_error, val_error))
    if val_error <= state.best_error - schedule.least_gain:
        return replace(state, best_error=val_error, stale_epochs=0)
    if state.stale_epochs + 1 < schedule.patience:
        return replace(state, stale_epochs=state.stale_epochs + 1)
    return replace(state, stale_epochs=0, drops=state.drops + 1)


def finished(schedule: Schedule, epoch: int, state: PlateauState) -> bool:
    """Whether training ends before `epoch` (counted from 0) begins."""
    if isinstance(schedule, Plateau):
        return epoch >= schedule.epochs or state.drops > schedule.drops
    goal = schedule.until_error
    return epoch >= schedule.epochs or (goal is not None and state.best_error <= goal)


def fall(schedule: Schedule, epoch: int, state: PlateauState) -> float:
    """What the learning rate is multiplied with in `epoch`."""
    drops = (
        state.drops if isinstance(schedule, Plateau) else sum(epoch >= at for at in schedule.drops)
    )
    return float(DROP**drops)


def colour_on(schedule: Schedule, epoch: int) -> bool:
    """False from the epoch in which the original's end game turns the colour noise off."""
    return (
        not isinstance(schedule, Steps)
        or schedule.colour_until is None
        or epoch < schedule.colour_until
    )


@dataclass(frozen=True)
class Rates:
    """Learning rate and decay of one parameter."""

    rate: float
    decay: float


def rates(config: Config, name: str, epoch: int, state: PlateauState) -> Rates:
    """Of the parameter `name` (conv1.weight, conv1.bias, ...) in an epoch."""
    sgd, schedule = config.sgd, config.schedule
    layer, kind = name.rsplit(".", 1)
    is_bias = kind == "bias"
    rate = sgd.rate * fall(schedule, epoch, state)
    bias_rate = dict(sgd.bias_rate_of).get(layer, sgd.bias_rate)
    if is_bias and bias_rate is not None:
        rate = bias_rate * (fall(schedule, epoch, state) if sgd.bias_falls else 1.0)
    decay = dict(sgd.decay_of).get(layer, sgd.decay)
    if is_bias and not sgd.bias_decay:
        decay = 0.0
    if isinstance(schedule, Steps):
        for change in schedule.layer_rates:
            follows = change.layer == layer and not (is_bias and change.weights_only)
            if follows and epoch >= change.epoch:
                rate = change.rate
    return Rates(rate, decay)


@torch.no_grad()
def update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    rates: Rates,
    momentum: float,
) -> None:
    """v <- momentum v - decay rate w - rate g;  w <- w + v, in place. A rate of 0 freezes: w and v stay.

    The rate is inside the velocity: what was learned at the old rate keeps its size when the rate falls (PyTorch's
    SGD keeps it outside).
    """
    if rates.rate == 0:
        return
    if _update_compiled(weight, velocity, gradient, rates, momentum):
        return
    velocity.mul_(momentum).add_(gradient, alpha=-rates.rate)
    if rates.decay:
        velocity.add_(weight, alpha=-rates.decay * rates.rate)
    weight.add_(velocity)


def descend(
    loss: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    velocity: Mapping[str, torch.Tensor],
    of: Mapping[str, Rates],
    momentum: float,
    summed: Callable[[Iterable[Gradient]], Iterable[Gradient]] = iter,
) -> None:
    """One step downhill: every parameter updated by the loss's gradient. of: the rates of each; summed: gives the
    gradients of all processes together.
    """
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for name, gradient in summed(zip(parameters, gradients, strict=True)):
        update(parameters[name], velocity[name], gradient, of[name], momentum)


def _update_compiled(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    rates: Rates,
    momentum: float,
) -> bool:
    """The same in one pass over memory, where the tensors are float32 on a CPU and the kernels could be compiled."""
    own = weight, velocity, gradient
    if (
        any(t.device.type != "cpu" or t.dtype != torch.float32 for t in own)
        or native.compiled() is None
    ):
        return False
    if (
        velocity.stride() != weight.stride()
        or weight.untyped_storage().nbytes() != 4 * weight.numel()
    ):
        return False
    if gradient.stride() != weight.stride():
        gradient = torch.empty_like(weight).copy_(gradient)
    pointers = weight.data_ptr(), velocity.data_ptr(), gradient.data_ptr()
    operators = native.compiled()
    assert operators is not None
    operators.update(*pointers, weight.numel(), momentum, rates.rate, rates.decay * rates.rate)
    return True


def zero_velocity(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
