"""The training step on one CUDA card, launched as a whole.

The operations are those of the loop, in the same order: crops, forward, loss, gradients, update.
The host launches some sixty kernels one by one for them, which takes longer than computing a small
batch; as a CUDA graph it launches them at once. What differs from one step to the next therefore
lies in device memory: images, labels, crops and colors, the keys of the dropout masks, the learning
rates.

In bfloat16 the products are computed with copies of the weights, which the update writes, so that
no step casts them anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import util

import torch
from torch import nn

from alexnet.architecture import has_batch_norm
from alexnet.config import Config
from alexnet.data.augment import Augmentation, Preprocess, zooms
from alexnet.data.loader import Batch
from alexnet.data.mixing import mixes
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.ops import dropout_keys
from alexnet.train.sgd import ParamHyper

WARM_UP_STEPS = 3
"""Steps before the capture, in which libraries choose their kernels and take their memory."""


class _Loss(nn.Module):
    """`ShardedNetwork.loss` as a `forward`, which `functional_call` needs."""

    def __init__(self, net: ShardedNetwork, smoothing: float) -> None:
        super().__init__()
        self.net, self.smoothing = net, smoothing

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor, keys: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.net.loss(x, labels, len(labels), keys, self.smoothing)


def takes(config: Config, device: torch.device, ranks: int) -> bool:
    """Whether a run can train by `GraphStep`."""
    return (
        device.type == "cuda"
        and ranks == 1
        and config.precision != "float64"
        and not mixes(config.augment)
        # The steps before the capture would change the running statistics.
        and not has_batch_norm(config.architecture)
        # Some kernels have no deterministic form, and say so when they are called.
        and not config.deterministic
        and util.find_spec("triton") is not None
    )


def _is_multiplied(net: nn.Module, name: str) -> bool:
    """Whether a parameter is cast to the dtype of the products.

    The bias of a convolution is not: the pass after the convolution adds it in float32.
    """
    module, role = name.rsplit(".", 1)
    return role == "weight" or not isinstance(net.get_submodule(module), nn.Conv2d)


class GraphStep:
    """The training step of a network that a single process trains.

    Where the device is no CUDA card, the same operations run one by one, for tests.

    Attributes:
        x: Input of the network in the last step.
    """

    def __init__(
        self,
        net: ShardedNetwork,
        preprocess: Preprocess,
        velocity: Mapping[str, torch.Tensor],
        config: Config,
    ) -> None:
        # Imported here: Triton is present only beside a CUDA build of PyTorch.
        from alexnet.ops.triton_update import Update

        self._config, self._preprocess = config, preprocess
        self._loss = _Loss(net, config.label_smoothing)
        self._names, parameters = zip(*net.named_parameters(), strict=True)
        self._used = {
            f"net.{name}": (
                parameter.detach().to(preprocess.dtype)
                if _is_multiplied(net, name)
                else parameter.detach()
            ).requires_grad_()
            for name, parameter in zip(self._names, parameters, strict=True)
        }
        copies = [used if used.dtype == torch.bfloat16 else None for used in self._used.values()]
        self._update = Update(
            [parameter.detach() for parameter in parameters],
            [velocity[name] for name in self._names],
            copies,
        )
        device, batch, px = preprocess.device, config.sgd.batch, preprocess.stored_px
        self._images = torch.zeros((batch, px, px, 3), dtype=torch.uint8, device=device)
        self._labels = torch.zeros(batch, dtype=torch.int64, device=device)
        self._packed = torch.zeros((batch, 8), device=device)
        self._dropped = [op.layer.name for op in net.plan if op.op == "dropout"]
        self._keys = torch.zeros(len(self._dropped), dtype=torch.int64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._captured: tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]] | None = None
        self.x = self._packed

    def set_hyper(self, hyper: Mapping[str, ParamHyper]) -> None:
        """Set the learning rate and the weight decay of each parameter for the next steps."""
        if self._preprocess.device.type == "cuda" and self._graph is None:
            self._capture()
        self._update.set_hyper(
            [hyper[name].lr for name in self._names],
            [hyper[name].weight_decay for name in self._names],
        )

    def __call__(
        self, batch: Batch, augmentation: Augmentation, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a step and update the network.

        Args:
            batch: Its images and labels may be on the device already.
            step: Number of the step, which determines the dropout masks.

        Returns:
            The mean loss and the number of wrong classifications, before the update; the next call
            overwrites them.
        """
        count = len(batch.labels)
        keys = dropout_keys(self._config.seed, step, self._dropped)
        for to, values in (
            (self._images[:count], batch.images),
            (self._labels[:count], batch.labels),
            (self._packed[:count], self._preprocess.packed(augmentation)),
            (self._keys, keys.pin_memory() if self._keys.is_cuda else keys),
        ):
            to.copy_(values, non_blocking=True)
        # The last batch of an epoch may be smaller.
        if self._captured is None or self._graph is None or count < len(self._labels):
            self.x, readings, gradients = self._forward_and_gradients(count)
            self._update.read_from(gradients)
            self._update.launch(self._config.sgd.momentum)
        else:
            self.x, readings, gradients = self._captured
            self._update.read_from(gradients)
            self._graph.replay()
        return readings[0], readings[1]

    def _forward_and_gradients(
        self, count: int
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Compute the input, (loss, wrong), and the gradients of the first `count` images."""
        x = self._preprocess.on_device(
            self._images[:count], self._packed[:count], zooms(self._config.augment)
        )
        keys = {name: self._keys[i : i + 1] for i, name in enumerate(self._dropped)}
        loss, wrong = torch.func.functional_call(
            self._loss, self._used, (x, self._labels[:count], keys)
        )
        gradients = torch.autograd.grad(loss, list(self._used.values()))
        readings = torch.stack([loss.detach(), wrong.to(loss.dtype)])
        return x, readings, self._update.in_layout(gradients)

    def _capture(self) -> None:
        """Record the step as a CUDA graph.

        The learning rates are 0 until `set_hyper` has set them, which freezes weights and
        velocities, so the steps before the capture change nothing.
        """
        momentum = self._config.sgd.momentum
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP_STEPS):
                *_, gradients = self._forward_and_gradients(len(self._labels))
                self._update.read_from(gradients)
                self._update.launch(momentum)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._captured = self._forward_and_gradients(len(self._labels))
            # It reads the addresses of the gradients from device memory when it is replayed.
            self._update.launch(momentum)
        self._graph = graph
