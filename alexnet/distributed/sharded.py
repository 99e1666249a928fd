"""What one rank holds and computes of a network: its column's kernels, its share of the fully connected units.

Parameters have the whole network's names; `cuts` says which part of each a rank holds. Exchange stands where the paper
has it: before conv3 and in the fully connected layers (section 3.2). The last layer is cut by its inputs, so that nets
whose columns never meet exchange nothing before the logits; with more classes than hidden units it is cut by classes,
and the loss is taken without gathering them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from alexnet import ops
from alexnet.config import Architecture, FullyConnected
from alexnet.data.loader import Share
from alexnet.distributed.collectives import (
    begin_sum,
    gather_maps,
    gather_rows,
    gather_stack,
    sum_parts,
)
from alexnet.distributed.loss import cross_entropy_by_classes
from alexnet.distributed.mesh import Group, Mesh
from alexnet.errors import MeshError
from alexnet.model import Network, Op, apply_linear


@dataclass(frozen=True)
class ParamShard:
    """The part of a parameter that a rank holds: the `group.index`-th of `group.size` along `dim`; None: all of it."""

    dim: int | None
    group: Group
    summed_over: Group
    """Ranks with the same part and other pictures: their gradients are added."""

    def local(self, whole: torch.Tensor) -> torch.Tensor:
        if self.dim is None or self.group.size == 1:
            return whole
        return whole.tensor_split(self.group.size, self.dim)[self.group.index]


class ShardedNetwork(Network):
    """The network of one rank of a mesh; in a mesh of one, the network."""

    def __init__(self, architecture: Architecture, seed: int, mesh: Mesh) -> None:
        """Raises MeshError where the layers do not divide among the ranks."""
        super().__init__(architecture, seed)
        if mesh.hybrid and not architecture.links:
            raise MeshError(
                "parallel.hybrid gathers all maps before fc6; a net without links has columns apart there"
            )
        self.mesh = mesh
        self.columns = architecture.columns // mesh.columns.size
        linear = [step for step in self.steps if step.op == "linear"]
        self.last = linear[-1]
        if mesh.hybrid and not isinstance(linear[-2].layer, FullyConnected):
            raise MeshError("parallel.hybrid needs a fully connected layer before the last")
        self.by_classes = architecture.links and self.last.shape[0] > self.last.in_shape[0]
        self.cuts: dict[str, ParamShard] = {}
        for step in linear:
            layer = self.get_submodule(step.layer.name)
            for kind in ("weight", "bias"):
                cut = self.cuts[f"{step.layer.name}.{kind}"] = self._cut(step, kind)
                if cut.dim is not None and cut.group.size > 1:
                    own = cut.local(getattr(layer, kind).detach())
                    setattr(
                        layer, kind, nn.Parameter(own.clone(memory_format=torch.preserve_format))
                    )
        self._whole_rows = 0  # of the batch that is being computed
        self._begun: dict[
            str, tuple[torch.Tensor, dist.Work | None]
        ] = {}  # sums of gradients on their way
        for name, weight in self.named_parameters():
            if self.cuts[name].summed_over.size > 1:
                weight.register_hook(partial(self._begin, name))  # type: ignore[no-untyped-call]

    def _cut(self, step: Op, kind: str) -> ParamShard:
        mesh, full = self.mesh, isinstance(step.layer, FullyConnected)
        group = mesh.units if full else mesh.columns
        summed = Group() if full and mesh.hybrid else mesh.data
        by_inputs = step is self.last and not self.by_classes
        divided = step.in_shape[0] if by_inputs else step.shape[0]
        if divided % group.size:
            raise MeshError(
                f"{step.layer.name}: {group.size} ranks do not divide {divided} maps or units"
            )
        dim = 0 if not by_inputs else 1 if kind == "weight" else None
        return ParamShard(dim, group, summed)

    def forward(
        self, images: torch.Tensor, dropout_key: tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Logits of this rank's pictures, of all classes; as `Network.forward`. Every shard has as many pictures."""
        self._whole_rows = len(images) * self.mesh.data.size
        logits = super().forward(images, dropout_key)
        if self.by_classes:
            logits = gather_maps(logits, self.mesh.units)
        if self.mesh.hybrid:
            logits = logits.chunk(self.mesh.data.size)[self.mesh.data.index]
        return logits

    def loss(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        whole: int,
        dropout_key: tuple[int, int] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the pictures seen here add to the mean over a batch of `whole`, and how many are classed wrongly.

        In a hybrid mesh every rank sees the whole batch after the convolutions. labels: of this rank's pictures.
        """
        self._whole_rows = whole
        logits = super().forward(images, dropout_key)
        if self.mesh.hybrid:
            labels = gather_rows(labels, self.mesh.data, self._rows())
        if self.by_classes:
            losses, wrong = cross_entropy_by_classes(logits, labels, self.mesh.units)
        else:
            losses, wrong = (
                F.cross_entropy(logits, labels, reduction="sum"),
                (logits.argmax(1) != labels).sum(),
            )
        return losses / whole, wrong

    def _rows(self) -> tuple[int, ...]:
        """Pictures of each shard of the batch that is being computed."""
        return Share(count=self.mesh.data.size).sizes(self._whole_rows)

    def _mask(self, step: Op, x: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
        """This rank's part of the mask that one process draws."""
        full = isinstance(step.layer, FullyConnected)
        group = self.mesh.units if full else self.mesh.columns
        whole = (self._whole_rows, x.shape[1] * group.size, *x.shape[2:])
        mask = ops.dropout_mask(
            whole, self.architecture.dropout.rate, *key, step.layer.name, x.device
        )
        mask = mask.chunk(group.size, 1)[group.index]
        if full and self.mesh.hybrid:
            return mask
        return torch.split(mask, list(self._rows()))[self.mesh.data.index]

    def _linear(
        self, step: Op, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor
    ) -> torch.Tensor:
        mesh = self.mesh
        meets = step.columns == 1 and step is not self.steps[0]  # sees what all columns made
        own = replace(step, columns=max(1, step.columns // mesh.columns.size))
        if not isinstance(step.layer, FullyConnected):
            return apply_linear(own, weight, bias, gather_maps(x, mesh.columns) if meets else x)
        after_maps = x.dim() > 2
        x = x.flatten(1)
        if step is self.last and not self.by_classes:
            return sum_parts(F.linear(x, weight), mesh.units) + bias
        if after_maps and meets:
            x = gather_maps(x, mesh.columns)
            if mesh.hybrid:
                x = gather_rows(x, mesh.data, self._rows())
        elif meets:
            x = gather_maps(x, mesh.units)
        return apply_linear(own, weight, bias, x)

    def _begin(self, name: str, gradient: torch.Tensor) -> None:
        """As soon as a gradient is there its sum is begun, while those of earlier layers are computed."""
        if gradient.dim() == 1:  # a bias's may share memory with what is still needed
            gradient = gradient.clone()
        self._begun[name] = begin_sum(gradient, self.cuts[name].summed_over)

    def reduce_gradients(
        self, gradients: Iterable[tuple[str, torch.Tensor]]
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Each parameter's gradient over the whole batch, once it is there."""
        for name, own in gradients:
            gradient, work = self._begun.pop(name, (own, None))
            if work is not None:
                work.wait()
            yield name, gradient

    def local(self, whole: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """This rank's parts of the whole network's tensors."""
        return {
            name: self.cuts[name].local(tensor) if name in self.cuts else tensor
            for name, tensor in whole.items()
        }

    def gather_network(self) -> Network | None:
        """The whole network, on the first rank."""
        if self.mesh.world.size == 1:
            return self
        whole = self.full(dict(self.named_parameters()))
        if not self.mesh.first:
            return None
        net = Network(self.architecture).to(next(iter(whole.values())))
        net.load_state_dict(whole)
        return net

    @torch.no_grad()
    def full(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The whole network's tensors of these names, on the first rank; on others what they hold. For checkpoints."""
        result = {}
        for name, tensor in tensors.items():
            cut = self.cuts[name]
            result[name] = tensor.detach()
            if cut.dim is not None and cut.group.size > 1 and 0 in cut.group.ranks:
                result[name] = torch.cat(list(gather_stack(result[name], cut.group)), cut.dim)
        return result
