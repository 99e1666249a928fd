"""The update rule of section 5 and the learning rate schedules, as functions of values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from alexnet import native
from alexnet.architecture import layer_of
from alexnet.config import Config, Plateau, Schedule, SmoothSchedule, StepSchedule

DROP = 0.1  # "divide the learning rate by 10"

Gradient = tuple[str, torch.Tensor]  # name of the parameter, its gradient


@dataclass(frozen=True)
class PlateauState:
    """History of the validation error that a `Plateau` needs; part of every checkpoint."""

    best_error: float = float("inf")
    stale_epochs: int = 0
    drops: int = 0


def after_epoch(schedule: Schedule, state: PlateauState, val_error: float) -> PlateauState:
    """The state after an epoch that ended with this validation error (a fraction)."""
    if not isinstance(schedule, Plateau):
        # `finished` compares the best error with `until_error`.
        return replace(state, best_error=min(state.best_error, val_error))
    # An equal error is no improvement, with any `min_delta`.
    better = val_error < state.best_error
    if better and val_error <= state.best_error - schedule.min_delta:
        return replace(state, best_error=val_error, stale_epochs=0)
    if state.stale_epochs + 1 < schedule.patience:
        return replace(state, stale_epochs=state.stale_epochs + 1)
    # The next learning rate gets the full patience.
    return replace(state, stale_epochs=0, drops=state.drops + 1)


def finished(schedule: Schedule, epoch: int, state: PlateauState) -> bool:
    """Whether training is finished before `epoch` (counted from 0)."""
    if isinstance(schedule, Plateau):
        # The last stop of the improvement counts as a drop too, and ends the training.
        return epoch >= schedule.epochs or state.drops > schedule.drops
    goal = schedule.until_error if isinstance(schedule, StepSchedule) else None
    return epoch >= schedule.epochs or (goal is not None and state.best_error <= goal)


def lr_factor(schedule: Schedule, epoch: float, state: PlateauState) -> float:
    """Factor applied to the learning rates at `epoch`, counted from 0.

    Only a `SmoothSchedule` distinguishes the moments within an epoch (`middle_of_step`).
    """
    if isinstance(schedule, Plateau):
        return float(DROP**state.drops)
    if isinstance(schedule, SmoothSchedule):
        warmup = schedule.warmup_epochs
        if epoch < warmup:
            return epoch / warmup
        fraction = (epoch - warmup) / (schedule.epochs - warmup)
        return (1 + math.cos(math.pi * fraction)) / 2 if schedule.form == "cosine" else 1 - fraction
    return float(DROP ** sum(epoch >= at for at in schedule.drops))


def middle_of_step(epoch: int, batch: int, batches: int) -> float:
    """The middle of the step of a batch, in epochs from the beginning of training.

    Args:
        epoch, batch: Position of the step, both counted from 0.
        batches: Number of batches in an epoch.
    """
    return epoch + (batch + 0.5) / batches


def colour_on(schedule: Schedule, epoch: int) -> bool:
    """Whether the color noise is on in `epoch`; `original` turns it off near the end."""
    if not isinstance(schedule, StepSchedule) or schedule.colour_until is None:
        return True
    return epoch < schedule.colour_until


@dataclass(frozen=True)
class ParamHyper:
    """Learning rate and weight decay of one parameter."""

    lr: float
    weight_decay: float


def param_hyper(config: Config, name: str, epoch: float, state: PlateauState) -> ParamHyper:
    """The hyperparameters of the parameter `name` (conv1.weight, conv1.bias, ...).

    Args:
        epoch: As in `lr_factor`.
    """
    sgd, schedule = config.sgd, config.schedule
    layer, is_bias = layer_of(name), name.endswith(".bias")
    is_gain = not is_bias and name != f"{layer}.weight"
    factor = lr_factor(schedule, epoch, state)
    lr = sgd.lr * factor
    bias_lr = dict(sgd.bias_lr_of).get(layer, sgd.bias_lr)
    if is_bias and bias_lr is not None:
        lr = bias_lr * (factor if sgd.bias_lr_follows else 1.0)
    weight_decay = dict(sgd.weight_decay_of).get(layer, sgd.weight_decay)
    if (is_bias or is_gain) and not sgd.bias_decay:
        weight_decay = 0.0
    if isinstance(schedule, StepSchedule):
        # In the order of the table, so that of several changes of a layer the latest counts.
        for change in schedule.layer_lrs:
            applies = change.layer == layer and not (is_bias and change.weights_only)
            if applies and epoch >= change.epoch:
                lr = change.lr
    return ParamHyper(lr, weight_decay)


@torch.no_grad()
def update(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    hyper: ParamHyper,
    momentum: float,
) -> None:
    """Update a weight and its velocity in place, by the rule of section 5.

        v <- momentum * v - weight_decay * lr * w - lr * gradient
        w <- w + v

    The learning rate is inside the velocity, so the velocity keeps its size when the learning rate
    drops; PyTorch's SGD keeps it outside. A learning rate of 0 freezes the parameter: w and v stay.
    """
    # The rule itself would let the weights coast on the old velocity for some ten steps.
    if hyper.lr == 0:
        return
    if _update_compiled(weight, velocity, gradient, hyper, momentum):
        return
    velocity.mul_(momentum).add_(gradient, alpha=-hyper.lr)
    # Adding 0 times the weights would cost a pass over memory.
    if hyper.weight_decay:
        velocity.add_(weight, alpha=-hyper.weight_decay * hyper.lr)
    weight.add_(velocity)


def sgd_step(
    loss: torch.Tensor,
    parameters: Mapping[str, torch.Tensor],
    velocity: Mapping[str, torch.Tensor],
    hyper: Mapping[str, ParamHyper],
    momentum: float,
    reduce_gradients: Callable[[Iterable[Gradient]], Iterable[Gradient]] = iter,
) -> None:
    """Update every parameter by the gradient of the loss.

    Args:
        hyper: Learning rate and weight decay of each parameter.
        reduce_gradients: Adds the gradients of all ranks; with one process, the identity.
    """
    # Not loss.backward(): the gradients are used once and need no place in `.grad`.
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    for name, gradient in reduce_gradients(zip(parameters, gradients, strict=True)):
        update(parameters[name], velocity[name], gradient, hyper[name], momentum)


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, decay: float, step: int) -> None:
    """Move the average of the weights, in place, towards the weights after a step.

        a <- d * a + (1 - d) * w,  d = min(decay, (1 + step) / (10 + step))

    A constant decay would keep exp(-steps * (1 - decay)) of the initial weights, which is 9 % after
    the 12,000 steps of a small run with 0.9998.

    Args:
        average, net: Two networks of the same architecture.
        decay: `Sgd.ema_decay`.
        step: Number of the step, from 0.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    # The running statistics of batch normalization are averaged like the weights they belong to.
    pairs = (average.parameters(), net.parameters()), (average.buffers(), net.buffers())
    for averages, values in pairs:
        for averaged, value in zip(averages, values, strict=True):
            averaged.lerp_(value, share)


def _update_compiled(
    weight: torch.Tensor,
    velocity: torch.Tensor,
    gradient: torch.Tensor,
    hyper: ParamHyper,
    momentum: float,
) -> bool:
    """Do the same update in one pass over memory, and return whether it was done.

    It needs float32 tensors on a CPU and the compiled kernels; otherwise nothing is changed.
    """
    tensors = weight, velocity, gradient
    kernels = native.kernels()
    if kernels is None or any(
        tensor.device.type != "cpu" or tensor.dtype != torch.float32 for tensor in tensors
    ):
        return False
    # The kernel walks through memory and ignores strides, so the three tensors must have the same
    # layout, without gaps.
    if (
        velocity.stride() != weight.stride()
        or weight.untyped_storage().nbytes() != 4 * weight.numel()
    ):
        return False
    if gradient.stride() != weight.stride():
        gradient = torch.empty_like(weight).copy_(gradient)
    pointers = weight.data_ptr(), velocity.data_ptr(), gradient.data_ptr()
    kernels.update(*pointers, weight.numel(), momentum, hyper.lr, hyper.weight_decay * hyper.lr)
    return True


def zero_velocity(net: nn.Module) -> dict[str, torch.Tensor]:
    """A velocity of zero for each parameter of the network, by name."""
    return {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
