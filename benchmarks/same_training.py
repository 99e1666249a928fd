"""Compare the losses of `paper` on the fast path with plain PyTorch, over 100 steps.

python benchmarks/same_training.py STORE OUT.png [steps=100] [batch=32]

Both use the same weights, images, crops and dropout masks. The plain path calls PyTorch's own
operators one by one (local_response_norm for each column) in NCHW layout, takes gradients from
autograd, and updates with the learning rate inside the velocity.
"""

import sys
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from alexnet import ops, recipes
from alexnet.data.augment import Preprocess, sample_augmentation
from alexnet.data.loader import batches, epoch_order
from alexnet.data.store import Store
from alexnet.device import resolve_device
from alexnet.model import build
from alexnet.provenance import code_version, describe
from alexnet.train.sgd import ParamHyper, sgd_step, zero_velocity


def plain_forward(net, x, key):
    """The plan's operations by PyTorch's own functions."""
    for step in net.steps:
        layer = step.layer
        if step.op == "linear":
            weight, bias = (
                net.get_parameter(f"{layer.name}.{kind}") for kind in ("weight", "bias")
            )
            if len(step.weight_shape) == 2:
                x = F.linear(x.flatten(1), weight, bias)
            else:
                x = F.pad(x, layer.pad * 2)
                x = F.conv2d(x, weight.contiguous(), bias, layer.stride, groups=step.columns)
        elif step.op == "activation":
            x = F.relu(x)
        elif step.op == "lrn":
            x = torch.cat(
                [F.local_response_norm(part, 5, 5e-4, 0.75, 2.0) for part in x.chunk(2, 1)], 1
            )
        elif step.op == "max_pool":
            x = F.max_pool2d(x, 3, 2)
        else:
            x = x * ops.dropout_mask(tuple(x.shape), 0.5, *key, layer.name, x.device)
    return x


def plain_descend(loss, parameters, velocity, of, momentum):
    for (name, w), g in zip(
        parameters.items(), torch.autograd.grad(loss, list(parameters.values())), strict=True
    ):
        lr, weight_decay = of[name].lr, of[name].weight_decay
        v = momentum * velocity[name] - lr * g - weight_decay * lr * w
        velocity[name] = v
        w.data = w.data + v.detach()


def train(store, config, fast, steps, batch):
    device = resolve_device("auto")
    net = build(replace(config.architecture, classes=len(store.classes))).to(device)
    if not fast:
        net = net.to(memory_format=torch.contiguous_format)
    preprocess = Preprocess(config.augment, store.statistics, config.architecture.input_px, device)
    parameters, velocity, split = (
        dict(net.named_parameters()),
        zero_velocity(net),
        store.split("train"),
    )
    of = {name: ParamHyper(config.sgd.lr, config.sgd.weight_decay) for name in parameters}
    losses, began_s = [], time.perf_counter()
    for at, b in enumerate(batches(split, epoch_order(len(split), 0, 0)[: steps * batch], batch)):
        drawn = sample_augmentation(
            config.augment,
            store.statistics,
            config.architecture.input_px,
            0,
            0,
            b.index,
            b.position,
        )
        x, labels = preprocess(b.images, drawn), b.labels.to(device)
        logits = (
            net(x, dropout_key=(0, at)) if fast else plain_forward(net, x.contiguous(), (0, at))
        )
        loss = F.cross_entropy(logits, labels)
        (sgd_step if fast else plain_descend)(loss, parameters, velocity, of, config.sgd.momentum)
        losses.append(loss.item())
    took_s = time.perf_counter() - began_s
    print(f"{'fast' if fast else 'plain'}: {len(losses)} steps in {took_s:.0f} s", flush=True)
    return losses


def main():
    data, out, *rest = sys.argv[1:]
    given = {"steps": 100, "batch": 32, "recipe": "paper"} | dict(a.split("=") for a in rest)
    config, store = getattr(recipes, given["recipe"])(), Store(data)
    curves = [
        train(store, config, fast, int(given["steps"]), int(given["batch"]))
        for fast in (True, False)
    ]
    fast, plain = map(torch.tensor, curves)
    print(describe(code_version()))
    largest = float((fast - plain).abs().max())
    print(f"largest difference of the loss: {largest:.2g}; last: {fast[-1]:.4f} {plain[-1]:.4f}")

    from matplotlib.figure import Figure

    figure = Figure((8, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(plain, color="0.6", linewidth=4, label="plain PyTorch")
    axes.plot(fast, color="C3", linewidth=1.2, label="ours")
    axes.set(
        xlabel="step",
        ylabel="training loss",
        title=f"{given['recipe']}, batch {given['batch']}, the same pictures",
    )
    axes.legend(frameon=False)
    figure.savefig(out, dpi=120)


if __name__ == "__main__":
    main()
