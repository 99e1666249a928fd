"""The training step on CUDA, launched as a whole.

The operations are those of the loop, in the same order: crops, forward, loss, gradients, their sum
over the ranks, update. The host launches some sixty kernels one by one for them, which takes longer
than computing a small batch; as a CUDA graph it launches them at once. What differs from one step
to the next therefore lies in device memory: images, labels, crops and colors, the keys of the
dropout masks, the learning rates.

In bfloat16 the products are computed with copies of the weights, which the update writes, so that
no step casts them anew. Where ranks share the batch, all gradients are added in float32 by one
collective operation, which is a part of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import util
from itertools import accumulate

import torch
from torch import nn

from alexnet.architecture import Op
from alexnet.config import Config, Conv
from alexnet.data.augment import Augmentation, zooms
from alexnet.data.loader import Batch
from alexnet.data.mixing import mixes
from alexnet.data.preprocess import Preprocess
from alexnet.distributed.collectives import all_sum
from alexnet.distributed.mesh import Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.layers import BatchNorm
from alexnet.ops import blocks, convolution, cuda_trial, dropout_keys
from alexnet.train.sgd import ParamHyper


class _Loss(nn.Module):
    """`ShardedNetwork.loss` as a `forward`, which `functional_call` needs."""

    def __init__(self, net: ShardedNetwork, smoothing: float) -> None:
        super().__init__()
        self.net, self.smoothing = net, smoothing

    def forward(
        self,
        x: torch.Tensor,
        labels: torch.Tensor,
        global_size: int,
        keys: Mapping[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return self.net.loss(x, labels, global_size, keys, self.smoothing)


def takes(config: Config, device: torch.device, mesh: Mesh) -> bool:
    """Whether a run can train by `GraphStep`.

    Ranks that share the batch alone can. Those that share columns or the units of the fully
    connected layers train by the operations one by one: they also exchange activations, within
    forward and backward.
    """
    return (
        device.type == "cuda"
        and mesh.units.size == 1
        and config.precision != "float64"
        and not mixes(config.augment)
        # Some kernels have no deterministic form, and say so when they are called.
        and not config.deterministic
        and util.find_spec("triton") is not None
    )


def _is_multiplied(net: nn.Module, name: str) -> bool:
    """Whether a parameter is cast to the dtype of the products.

    The bias of a convolution is not: the pass after the convolution adds it in float32. Neither are
    the gains and biases of batch normalization, which PyTorch reads in the dtype of the statistics.
    """
    path, role = name.rsplit(".", 1)
    module = net.get_submodule(path)
    if isinstance(module, BatchNorm):
        return False
    return role == "weight" or not isinstance(module, nn.Conv2d)


def _in_one_tensor(like: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Zeros in float32, and for each of these tensors a part of them of its shape and layout."""
    # The update reads four values at once, from addresses that are multiples of 16 bytes.
    ends = list(accumulate(-(-tensor.numel() // 4) * 4 for tensor in like))
    zeros = torch.zeros(ends[-1], device=like[0].device)
    parts = [
        zeros.as_strided(tensor.shape, tensor.stride(), begin)
        for tensor, begin in zip(like, [0, *ends[:-1]], strict=True)
    ]
    return zeros, parts


class GraphStep:
    """The training step of a network, or of a rank's copy of it.

    On a device other than CUDA, the same operations run one by one, for tests. All ranks must
    make the same calls.

    Attributes:
        x: Input of the network in the last step, which may be in blocks (`ops/blocks.py`).
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
        # What the products use, and what the loss is differentiated by: a copy in the dtype of the
        # products, or the memory of the parameter itself.
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
        self._data = net.mesh.data
        # The gradients of all ranks, where there are several, lie where they are added.
        self._all, self._summed = torch.zeros(0), list[torch.Tensor]()
        if self._data.size > 1:
            self._all, self._summed = _in_one_tensor(parameters)
        # Of the full batch, which is always divided equally.
        batch = config.sgd.batch // self._data.size
        device, px = preprocess.device, preprocess.stored_px
        self._images = torch.zeros((batch, px, px, 3), dtype=torch.uint8, device=device)
        self._labels = torch.zeros(batch, dtype=torch.int64, device=device)
        self._packed = torch.zeros((batch, 8), device=device)
        self._in_blocks_of = self._conv_in_blocks(net.plan[0])
        self._dropped = [op.layer.name for op in net.plan if op.op == "dropout"]
        self._keys = torch.zeros(len(self._dropped), dtype=torch.int64, device=device)
        # The gradient of the loss by itself, which PyTorch would make in each step.
        self._one = torch.ones((), device=device)
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
            batch: This rank's part of it. Its images and labels may be on the device already.
            step: Number of the step, which determines the dropout masks.

        Returns:
            What `ShardedNetwork.loss` returns, before the update: this rank's part of the mean
            loss, and its number of wrong classifications; the next call overwrites them.
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
        # The last batch of an epoch may be smaller. Not the rank's part of it: it may be as large
        # as always, but all ranks divide by the number of images of the whole batch.
        smaller = batch.global_size < self._config.sgd.batch
        if self._captured is None or self._graph is None or smaller:
            self.x, readings, gradients = self._forward_and_gradients(count, batch.global_size)
            self._update.read_from(gradients)
            self._update.launch(self._config.sgd.momentum)
        else:
            self.x, readings, gradients = self._captured
            self._update.read_from(gradients)
            self._graph.replay()
        return readings[0], readings[1]

    def close(self) -> None:
        """Free the graph. Ranks do so before they part: NCCL waits for graphs that may use it."""
        self._graph = self._captured = None

    def _cropped(self, count: int, in_blocks_of: Conv | None) -> torch.Tensor:
        """Compute the input of the first `count` images, see `Preprocess.on_device`."""
        zoomed = zooms(self._config.augment)
        images, packed = self._images[:count], self._packed[:count]
        return self._preprocess.on_device(images, packed, zoomed, in_blocks_of)

    def _conv_in_blocks(self, first: Op) -> Conv | None:
        """The first convolution, where a trial finds it faster over blocks of pixels.

        The crops are then written in blocks at once. A convolution that cuts them itself
        (`linear.cuda_ways`) moves the input twice more.
        """
        conv = first.layer
        if not isinstance(conv, Conv) or conv.stride == 1:
            return None
        if not cuda_trial.possible(self._images):
            return None
        # Pixels that are not all equal, in whole crops at the upper left corner.
        device = self._images.device
        pixels = torch.arange(self._images[0].numel(), device=device) % 251
        self._images.copy_(pixels.view_as(self._images[0]))
        self._packed.copy_(torch.tensor([0.0, 1, 0, 1, 0, 0, 0, 1], device=device))
        in_blocks = self._cropped(len(self._labels), conv)

        def over_blocks(
            x: torch.Tensor, weight: torch.Tensor, stride: int, pad: tuple[int, int]
        ) -> torch.Tensor:
            return blocks.conv2d(in_blocks, weight, None, stride, pad)

        def over_pixels(
            x: torch.Tensor, weight: torch.Tensor, stride: int, pad: tuple[int, int]
        ) -> torch.Tensor:
            return convolution(x, weight, None, stride, pad, training=True)

        ways = {"crops as pixels": over_pixels, "crops in blocks": over_blocks}
        x, weight = self._cropped(len(self._labels), None), self._used[f"net.{first.module}.weight"]
        way = cuda_trial.fastest(ways, x, weight, conv.stride, conv.pad)
        return conv if way is over_blocks else None

    def _forward_and_gradients(
        self, count: int, global_size: int
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Compute the input, (loss, wrong), and the gradients of the first `count` images.

        The gradients are those of all ranks.
        """
        x = self._cropped(count, self._in_blocks_of)
        keys = {name: self._keys[i : i + 1] for i, name in enumerate(self._dropped)}
        loss, wrong = torch.func.functional_call(
            self._loss, self._used, (x, self._labels[:count], global_size, keys)
        )
        gradients = torch.autograd.grad(loss, list(self._used.values()), self._one)
        readings = torch.stack([loss.detach(), wrong])  # in the dtype of the loss
        if not self._summed:
            return x, readings, self._update.in_layout(gradients)
        # One sum in place of one for each gradient, in float32 as those of the loop.
        torch._foreach_copy_(self._summed, gradients)
        all_sum(self._all, self._data)
        return x, readings, self._summed

    def _warm_up(self) -> None:
        """Take a step before the capture, in which libraries choose their kernels.

        The learning rates are 0 until `set_hyper` has set them, which freezes weights and
        velocities; the running statistics of batch normalization are restored.
        """
        count, buffers = len(self._labels), list(self._loss.buffers())
        before = [buffer.clone() for buffer in buffers]
        *_, gradients = self._forward_and_gradients(count, self._config.sgd.batch)
        self._update.read_from(gradients)
        self._update.launch(self._config.sgd.momentum)
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)

    def _capture(self) -> None:
        """Record the step as a CUDA graph; the network stays as it is."""

        def step() -> None:
            batch = self._config.sgd.batch
            self._captured = self._forward_and_gradients(len(self._labels), batch)
            # It reads the addresses of the gradients from device memory when it is replayed.
            self._update.launch(self._config.sgd.momentum)

        self._graph = cuda_trial.captured(step, self._warm_up)
