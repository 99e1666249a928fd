"""The part of a network that one rank holds and computes.

A rank holds the filters of its column and its share of the fully connected units. Parameters have
the names of the full network; `ShardedNetwork.shards` says which part of each a rank holds.
Activations are exchanged where the paper exchanges them: before conv3 and in the fully connected
layers (section 3.2). The last layer is cut by its inputs, so that nets whose columns never meet
exchange nothing before the logits. With more classes than hidden units it is cut by classes, and
the loss is computed without gathering them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from alexnet import layers
from alexnet.architecture import Op, plan
from alexnet.config import Architecture, Conv, FullyConnected
from alexnet.data.loader import Share
from alexnet.distributed.collectives import (
    begin_sum,
    gather_maps,
    gather_rows,
    gather_stack,
    sum_parts,
)
from alexnet.distributed.loss import cross_entropy_by_classes, mixed_cross_entropy
from alexnet.distributed.mesh import Group, Mesh
from alexnet.errors import MeshError
from alexnet.layers import DropoutKey
from alexnet.model import Network
from alexnet.ops import Mask
from alexnet.ops.linear import fully_connected_by, way_of_fully_connected


@dataclass(frozen=True)
class ParamShard:
    """The part of a parameter that a rank holds.

    It is the `group.index`-th of `group.size` equal parts along `dim`, or, if `dim` is None, all of
    it.
    """

    dim: int | None
    group: Group
    summed_over: Group
    """Ranks with the same part and other images: their gradients are added."""

    def local(self, full: torch.Tensor) -> torch.Tensor:
        """Cut this rank's part out of the full parameter."""
        if self.dim is None or self.group.size == 1:
            return full
        return full.tensor_split(self.group.size, self.dim)[self.group.index]


class _Layout:
    """How the layers of an architecture lie on the ranks of a mesh, for the modules of one rank."""

    def __init__(self, architecture: Architecture, mesh: Mesh) -> None:
        """Raises MeshError where the layers do not divide among the ranks."""
        ops = plan(architecture)
        linear = [op for op in ops if op.op == "linear"]
        normalised = [op for op in ops if op.op == "batch_norm"]
        if mesh.columns.size > 1 and architecture.lrn_across_columns:
            raise MeshError(
                "the response normalization of this net sums across its columns, which ranks with "
                "one column each cannot; set parallel.columns to 1"
            )
        if normalised and mesh.world.size > 1:
            raise MeshError(
                f"{normalised[0].name} needs the statistics of the whole batch, of which each of "
                f"{mesh.world.size} ranks sees a part; train this network in a single process"
            )
        if mesh.hybrid and not architecture.links:
            raise MeshError(
                "parallel.hybrid gathers all maps before fc6, and a network without links has "
                "separate columns there; set it to False"
            )
        if mesh.hybrid and not any(isinstance(op.layer, FullyConnected) for op in linear[-2:-1]):
            raise MeshError(
                "parallel.hybrid needs a fully connected layer before the last; set it to False"
            )
        self.mesh = mesh
        self.first, self.last = linear[0].layer.name, linear[-1].layer.name
        self.by_classes = architecture.links and linear[-1].shape[0] > linear[-1].in_shape[0]
        self.shards = {
            f"{op.layer.name}.{parameter}": self._shard(op, parameter)
            for op in linear
            for parameter in ("weight", "bias")
        }
        # A single process has them whole.
        self.shards |= {
            f"{op.module}.{name}": ParamShard(None, Group(), Group())
            for op in normalised
            for name in ("weight", "bias", "running_mean", "running_var")
        }
        self.global_size = 0
        """Number of images on all ranks together in the batch that is being computed."""

    def _shard(self, op: Op, parameter: str) -> ParamShard:
        """Choose the part of a parameter for this rank."""
        mesh, connected = self.mesh, isinstance(op.layer, FullyConnected)
        group = mesh.units if connected else mesh.columns
        # With a hybrid mesh, each rank sees all images in the fully connected layers.
        summed_over = Group() if connected and mesh.hybrid else mesh.data
        by_inputs = op.layer.name == self.last and not self.by_classes
        divided = op.in_shape[0] if by_inputs else op.shape[0]
        if divided % group.size:
            raise MeshError(
                f"{op.layer.name}: {group.size} ranks do not divide {divided} maps or units; "
                "train with a number of ranks that does"
            )
        # Of a layer that is cut by its inputs, every rank has the bias: it is added after the sum.
        dim = 0 if not by_inputs else 1 if parameter == "weight" else None
        return ParamShard(dim, group, summed_over)

    def meets(self, op: Op) -> bool:
        """Whether a layer sees what all columns made, and not the image itself."""
        return op.columns == 1 and op.layer.name != self.first

    def rows(self) -> tuple[int, ...]:
        """Number of images of each part of the batch that is being computed."""
        return Share(count=self.mesh.data.size).sizes(self.global_size)

    def make(self, op: Op, architecture: Architecture, generator: torch.Generator) -> nn.Module:
        """Make this rank's module of an operation; see `layers.make`."""
        local = replace(op, columns=max(1, op.columns // self.mesh.columns.size))
        if op.op == "dropout":
            return _Dropout(self, op, architecture)
        if op.op != "linear":
            return layers.make(local, architecture, generator)
        # The full weights are drawn and then cut, so that any number of ranks begins with the same
        # network. The copy frees the rest of them.
        weight, bias = (
            self.shards[f"{op.layer.name}.{parameter}"]
            .local(full)
            .clone(memory_format=torch.preserve_format)
            for parameter, full in zip(
                ("weight", "bias"), layers.initial_weights(op, generator), strict=True
            )
        )
        if isinstance(op.layer, Conv):
            return _Conv2d(self, op, local, weight, bias)
        if isinstance(op.layer, FullyConnected):
            return _Linear(self, op, local, weight, bias)
        # Nets with locally connected layers have one column, which no mesh divides.
        return layers.Local2d(local, weight, bias)


class _Conv2d(layers.Conv2d):
    """The filters of this rank's columns."""

    def __init__(
        self, layout: _Layout, op: Op, local: Op, weight: torch.Tensor, bias: torch.Tensor
    ) -> None:
        super().__init__(local, weight, bias)
        self.layout, self.name, self.meets = layout, op.layer.name, layout.meets(op)

    def convolve(self, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if self.meets:
            x = gather_maps(x, self.layout.mesh.columns)
        return super().convolve(x, bias)


class _Linear(layers.Linear):
    """This rank's units; of the last layer, its inputs or its classes."""

    def __init__(
        self, layout: _Layout, op: Op, local: Op, weight: torch.Tensor, bias: torch.Tensor
    ) -> None:
        super().__init__(local, weight, bias)
        self.layout, self.name, self.meets = layout, op.layer.name, layout.meets(op)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layout, mesh, dtype = self.layout, self.layout.mesh, x.dtype
        after_maps = x.dim() > 2
        x = x.flatten(1)
        if self.name == layout.last and not layout.by_classes:
            # The parts of the sum are added in the dtype of the products, and only then rounded.
            way = way_of_fully_connected(x, self.weight, self.bias, training=self.training)
            part = fully_connected_by(x.to(way.dtype), self.weight, None, way)
            return (sum_parts(part, mesh.units) + self.bias.to(way.dtype)).to(dtype)
        if after_maps and self.meets:
            x = gather_maps(x, mesh.columns)
            if mesh.hybrid:
                x = gather_rows(x, mesh.data, layout.rows())
        elif self.meets:
            x = gather_maps(x, mesh.units)
        return super().forward(x)


class _Dropout(layers.Dropout):
    """Draws this rank's part of the mask that a single process would draw."""

    def __init__(self, layout: _Layout, op: Op, architecture: Architecture) -> None:
        super().__init__(architecture.dropout, op.layer.name)
        self.layout, self.connected = layout, isinstance(op.layer, FullyConnected)

    def mask(self, x: torch.Tensor, key: DropoutKey | None) -> Mask | torch.Tensor:
        # Without a key nothing has to be the same on other ranks.
        if key is None:
            return super().mask(x, key)
        layout, mesh = self.layout, self.layout.mesh
        group = mesh.units if self.connected else mesh.columns
        count = math.prod(x.shape[1:])
        # The units have the numbers that they have in the full batch, so that any number of ranks
        # drops the same ones.
        all_rows = self.connected and mesh.hybrid
        first_row = 0 if all_rows else sum(layout.rows()[: mesh.data.index])
        return Mask(
            layers.layer_key(key, self.layer),
            self.p,
            first_row,
            group.index * count,
            group.size * count,
        )


class ShardedNetwork(Network):
    """The network of one rank of a mesh; in a mesh of one, the network."""

    def __init__(self, architecture: Architecture, seed: int, mesh: Mesh) -> None:
        """Raises MeshError where the layers do not divide among the ranks."""
        layout = _Layout(architecture, mesh)
        # A single process has the ordinary modules.
        super().__init__(architecture, seed, layers.make if mesh.world.size == 1 else layout.make)
        self.mesh, self.shards = mesh, layout.shards
        self._layout = layout
        # The gradients that are being added over the ranks.
        self._pending: dict[str, tuple[torch.Tensor, dist.Work | None]] = {}
        for name, weight in self.named_parameters():
            if self.shards[name].summed_over.size > 1:
                begin = partial(self._begin_sum, name)
                weight.register_hook(begin)  # type: ignore[no-untyped-call]

    def forward(self, images: torch.Tensor, dropout_key: DropoutKey | None = None) -> torch.Tensor:
        """Compute the logits of this rank's images, for all classes; see `Network.forward`.

        Every rank must have the same number of images.
        """
        mesh, layout = self.mesh, self._layout
        # The sizes of the other ranks' parts are not known here, so they must be equal.
        layout.global_size = len(images) * mesh.data.size
        logits = super().forward(images, dropout_key)
        if layout.by_classes:
            logits = gather_maps(logits, mesh.units)
        if mesh.hybrid:
            logits = logits.chunk(mesh.data.size)[mesh.data.index]
        return logits

    def activations(
        self,
        images: torch.Tensor,
        dropout_key: DropoutKey | None = None,
        global_size: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Compute this rank's part of every intermediate value; see `Network.activations`.

        Args:
            global_size: Number of images on all ranks together. None: every rank has the same
                number of images.
        """
        equal = len(images) * self.mesh.data.size
        self._layout.global_size = equal if global_size is None else global_size
        return super().activations(images, dropout_key)

    def loss(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        global_size: int,
        dropout_key: DropoutKey | None = None,
        smoothing: float = 0.0,
        mixed: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute this rank's part of the mean loss, and its number of wrong classifications.

        In a hybrid mesh every rank sees the full batch after the convolutions.

        Args:
            labels: Labels of this rank's images.
            global_size: Number of images on all ranks together.
            smoothing: As `Config.label_smoothing`.
            mixed: Labels of the images that were mixed in and their shares, as `data.mixing.mix`
                returns them; only in a single process.

        Returns:
            The sum of the losses of the images seen here, divided by `global_size`, and the number
            of them whose most probable class is wrong.
        """
        mesh, layout = self.mesh, self._layout
        layout.global_size = global_size
        logits = super().forward(images, dropout_key)
        if mesh.hybrid:
            labels = gather_rows(labels, mesh.data, layout.rows())
        if mixed is not None:
            losses, wrong = mixed_cross_entropy(logits, labels, *mixed, smoothing)
        # Logits of 10,000 classes are larger than what the loss needs of them.
        elif layout.by_classes:
            losses, wrong = cross_entropy_by_classes(logits, labels, mesh.units, smoothing)
        else:
            losses, wrong = (
                F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing),
                (logits.argmax(1) != labels).sum(),
            )
        # Divided by the full batch, so that the sum over the ranks is the mean.
        return losses / global_size, wrong

    def _begin_sum(self, name: str, gradient: torch.Tensor) -> None:
        """Begin to add a gradient over the ranks while those of earlier layers are computed."""
        # The gradient of a bias may share memory with one that is still needed.
        if gradient.dim() == 1:
            gradient = gradient.clone()
        summed_over = self.shards[name].summed_over
        self._pending[name] = begin_sum(gradient, summed_over)

    def reduce_gradients(
        self, gradients: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each parameter's gradient over the full batch, as soon as its sum is complete."""
        for name, local in gradients:
            gradient, work = self._pending.pop(name, (local, None))
            if work is not None:
                work.wait()
            yield name, gradient

    def local(self, full: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cut this rank's parts out of the full network's tensors."""
        return {
            name: self.shards[name].local(tensor) if name in self.shards else tensor
            for name, tensor in full.items()
        }

    def gather_network(self) -> Network | None:
        """Gather the full network on rank 0; None on the others."""
        if self.mesh.world.size == 1:
            return self
        full = self.full(dict(self.named_parameters()))
        if not self.mesh.first:
            return None
        net = Network(self.architecture).to(next(iter(full.values())))
        net.load_state_dict(full)
        return net

    @torch.no_grad()
    def full(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Gather the full network's tensors of these names on rank 0, for a checkpoint.

        The other ranks take part in the collective and return what they hold.
        """
        result = {}
        for name, tensor in tensors.items():
            shard = self.shards[name]
            result[name] = tensor.detach()
            if shard.dim is not None and shard.group.size > 1 and 0 in shard.group.ranks:
                parts = gather_stack(result[name], shard.group)
                result[name] = torch.cat(list(parts), shard.dim)
        return result
