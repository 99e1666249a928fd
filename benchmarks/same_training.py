"""The fast path changes the speed, not the training: losses of `paper` over 100 steps beside plain PyTorch's.

python benchmarks/same_training.py STORE OUT.png [steps=100] [batch=32]

The same weights, pictures, patches and dropout masks. Plain: every operator PyTorch's own, one by one (normalisation
in each column by local_response_norm), NCHW, gradients by autograd, the rate inside the velocity by three torch calls.
"""

import sys
import time
from dataclasses import replace

import torch
import torch.nn.functional as F

from alexnet import ops, recipes
from alexnet.data.augment import Preprocess, draw
from alexnet.data.loader import batches, epoch_order
from alexnet.data.store import Store
from alexnet.device import resolve_device
from alexnet.model import build
from alexnet.provenance import code_version, describe
from alexnet.train.sgd import Rates, descend, zero_velocity


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
        elif step.op == "unit":
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
        v = momentum * velocity[name] - of[name].rate * g - of[name].decay * of[name].rate * w
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
    of = {name: Rates(config.sgd.rate, config.sgd.decay) for name in parameters}
    losses, began_s = [], time.perf_counter()
    for at, b in enumerate(batches(split, epoch_order(len(split), 0, 0)[: steps * batch], batch)):
        drawn = draw(
            config.augment, store.statistics, config.architecture.input_px, 0, 0, b.index, b.place
        )
        x, labels = preprocess(b.images, drawn), b.labels.to(device)
        logits = (
            net(x, dropout_key=(0, at)) if fast else plain_forward(net, x.contiguous(), (0, at))
        )
        loss = F.cross_entropy(logits, labels)
        (descend if fast else plain_descend)(loss, parameters, velocity, of, config.sgd.momentum)
        losses.append(loss.item())
    print(
        f"{'fast' if fast else 'plain'}: {len(losses)} steps in {time.perf_counter() - began_s:.0f} s",
        flush=True,
    )
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
    print(
        f"largest difference of the loss: {float((fast - plain).abs().max()):.2g}; last: {fast[-1]:.4f} {plain[-1]:.4f}"
    )

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
