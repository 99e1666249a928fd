"""Compare the losses of `paper` on the fast path with plain PyTorch, over 100 steps.

python benchmarks/same_training.py STORE OUT.png [--steps 100] [--batch 32]

Both use the same weights, images, crops and dropout masks. The plain path calls PyTorch's own
operators one by one (local_response_norm for each column) in NCHW layout, takes gradients from
autograd, and updates with the learning rate inside the velocity.
"""

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F

from alexnet import ops, recipes
from alexnet.config import Config
from alexnet.data.augment import Augmentation, sample_augmentation
from alexnet.data.loader import Batch, batches, epoch_order
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Store
from alexnet.device import allow_tf32, only_deterministic, resolve_device
from alexnet.distributed.mesh import ALONE
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import AlexNetError, ConfigError
from alexnet.files import check_folder_of
from alexnet.model import Network
from alexnet.provenance import code_version, describe
from alexnet.train.graph_step import GraphStep
from alexnet.train.sgd import ParamHyper, sgd_step, zero_velocity

Step = Callable[[Batch, Augmentation, int], torch.Tensor]
"""Trains on a batch, which may be on the device, as step number so-and-so; returns the loss."""


def plain_forward(net: Network, x: torch.Tensor, key: tuple[int, int]) -> torch.Tensor:
    """The operations of `paper`, with its constants, by PyTorch's own functions."""
    for op in net.plan:
        layer = op.layer
        if op.op == "linear":
            weight, bias = (
                net.get_parameter(f"{layer.name}.{kind}") for kind in ("weight", "bias")
            )
            if len(op.weight_shape) == 2:
                x = F.linear(x.flatten(1), weight, bias)
            else:
                x = F.pad(x, layer.pad * 2)
                x = F.conv2d(x, weight.contiguous(), bias, layer.stride, groups=op.columns)
        elif op.op == "activation":
            x = F.relu(x)
        elif op.op == "lrn":
            x = torch.cat(
                [F.local_response_norm(part, 5, 5e-4, 0.75, 2.0) for part in x.chunk(2, 1)], 1
            )
        elif op.op == "max_pool":
            x = F.max_pool2d(x, 3, 2)
        else:
            mask = ops.Mask(ops.dropout_key(*key, layer.name), 0.5)
            x = x * mask.draw(tuple(x.shape), x.device)
    return x


def plain(config: Config, preprocess: Preprocess) -> Step:
    """Steps by PyTorch's own functions, in NCHW layout."""
    net = Network(config.architecture).to(preprocess.device, memory_format=torch.contiguous_format)
    parameters, velocity = dict(net.named_parameters()), zero_velocity(net)
    hyper = _hyper(config, parameters)

    def step(batch: Batch, augmentation: Augmentation, number: int) -> torch.Tensor:
        x = preprocess(batch.images, augmentation).contiguous()
        logits = plain_forward(net, x, (config.seed, number))
        loss = F.cross_entropy(logits, batch.labels.to(preprocess.device))
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for (name, w), g in zip(parameters.items(), gradients, strict=True):
            lr, weight_decay = hyper[name].lr, hyper[name].weight_decay
            v = config.sgd.momentum * velocity[name] - lr * g - weight_decay * lr * w
            velocity[name] = v.detach()
            w.data = w.data + v.detach()
        return loss.detach()

    return step


def loop(config: Config, preprocess: Preprocess) -> Step:
    """Our steps, operation by operation, as `train/loop.py` takes them."""
    net = ShardedNetwork(config.architecture, 0, ALONE).to(preprocess.device)
    parameters, velocity = dict(net.named_parameters()), zero_velocity(net)
    hyper = _hyper(config, parameters)

    def step(batch: Batch, augmentation: Augmentation, number: int) -> torch.Tensor:
        x = preprocess(batch.images, augmentation)
        labels = batch.labels.to(preprocess.device, non_blocking=True)
        loss, _ = net.loss(x, labels, len(labels), dropout_key=(config.seed, number))
        sgd_step(loss, parameters, velocity, hyper, config.sgd.momentum)
        return loss.detach()

    return step


def graph(config: Config, preprocess: Preprocess) -> Step:
    """Our steps as one CUDA graph."""
    net = ShardedNetwork(config.architecture, 0, ALONE).to(preprocess.device)
    whole = GraphStep(net, preprocess, zero_velocity(net), config)
    whole.set_hyper(_hyper(config, dict(net.named_parameters())))
    return lambda batch, augmentation, number: whole(batch, augmentation, number)[0]


def _hyper(config: Config, parameters: Iterable[str]) -> dict[str, ParamHyper]:
    return {name: ParamHyper(config.sgd.lr, config.sgd.weight_decay) for name in parameters}


def losses(step: Step, data: Iterable[tuple[Batch, Augmentation]]) -> torch.Tensor:
    """The losses of training on these batches, float32 on the CPU."""
    # A graph writes each loss over the one before it.
    kept = [step(*both, number).clone() for number, both in enumerate(data)]
    return torch.stack(kept).float().cpu()


def _read(config: Config, store: Store, steps: int) -> Iterator[tuple[Batch, Augmentation]]:
    """The first batches of a store, with their crops."""
    split, px = store.split("train"), config.architecture.input_px
    order = epoch_order(len(split), 0, 0)[: steps * config.sgd.batch]
    for batch in batches(split, order, config.sgd.batch):
        yield (
            batch,
            sample_augmentation(
                config.augment, store.statistics, px, 0, 0, batch.index, batch.position
            ),
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both programs, print how far their losses are apart, and draw them."""
    parser = argparse.ArgumentParser(prog="same_training.py", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("store", metavar="STORE", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, help="a new .png file")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    a = parser.parse_args(arguments)
    try:
        _compare(a.store, a.out, a.steps, a.batch)
    except AlexNetError as error:
        parser.exit(2, f"same_training.py: {error}\n")


def _compare(data: Path, out: Path, steps: int, batch: int) -> None:
    """Raises AlexNetError for a mistake in the arguments."""
    if min(steps, batch) < 1:
        raise ConfigError("--steps and --batch must be at least 1")
    if out.suffix != ".png" or out.exists():
        raise ConfigError(f"{out} must be a new .png file")
    check_folder_of(out)
    # Not at the top: the machines of `benchmarks.gpu`, which imports this, need not have it.
    from matplotlib.figure import Figure

    config, store = recipes.paper(), Store(data)
    config = replace(
        config,
        architecture=replace(config.architecture, classes=len(store.classes)),
        sgd=replace(config.sgd, batch=batch),
        seed=0,
    )
    device = resolve_device("auto")
    # On a GPU PyTorch's convolutions would otherwise be in TF32.
    only_deterministic(False)
    allow_tf32("float32")
    preprocess = Preprocess(config.augment, store.statistics, config.architecture.input_px, device)
    both = []
    for name, kind in (("ours", loop), ("plain PyTorch", plain)):
        began_s = time.perf_counter()
        both.append(losses(kind(config, preprocess), _read(config, store, steps)))
        took_s = time.perf_counter() - began_s
        print(f"{name}: {len(both[-1])} steps in {took_s:.0f} s", flush=True)
    ours, theirs = both
    print(describe(code_version()))
    largest = float((ours - theirs).abs().max())
    print(f"largest difference of the loss: {largest:.2g}; last: {ours[-1]:.4f} {theirs[-1]:.4f}")

    figure = Figure((8, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(theirs, color="0.6", linewidth=4, label="plain PyTorch")
    axes.plot(ours, color="C3", linewidth=1.2, label="ours")
    axes.set(
        xlabel="step",
        ylabel="training loss",
        title=f"paper, batch {batch}, the same images",
    )
    axes.legend(frameon=False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
