"""Set the smallest weights of each layer to zero, and measure what it costs.

    python examples/prune.py RUN STORE OUT.safetensors --share 0.6 --layer fc6,fc7

Prints for each layer the share of weights that are zero before and after, and the share of zeros in
its input without pruning; then the errors of both networks on the validation images of STORE.
`evaluate`, `predict`, `explain`, `explore`, `features`, `export`, `golden`, `which` and `check`
read OUT.safetensors in place of a run, and so does `figure filters`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import alexnet
from alexnet import checkpoint
from alexnet.data.loader import batches
from alexnet.errors import AlexNetError
from alexnet.trained import check_store


def pruned(weight: torch.Tensor, share: float) -> torch.Tensor:
    """The weights with this share of them, those closest to 0, set to 0."""
    smallest = weight.abs().flatten().argsort()[: round(share * weight.numel())]
    result = weight.flatten().clone()
    result[smallest] = 0
    return result.view_as(weight)


def zeros(values: torch.Tensor) -> str:
    return f"{(values == 0).float().mean():7.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the weights of a layer")
    parser.add_argument("--layer", default="all", help="names, separated by commas")
    a = parser.parse_args()
    if a.out.exists() or a.out.suffix != ".safetensors" or not 0 <= a.share <= 1:
        parser.error("OUT must be a new .safetensors file, and --share a number from 0 to 1")

    saved, trained = checkpoint.read(a.run), alexnet.load(a.run, device="cpu")
    layers = [layer.name for layer in trained.net.architecture.layers]
    layers = [name for name in layers if f"{name}.weight" in saved.weights]
    chosen = layers if a.layer == "all" else a.layer.split(",")
    if unknown := set(chosen) - set(layers):
        parser.error(f"the network has no layer {min(unknown)!r}; it has {', '.join(layers)}")

    # Before OUT is written, which must not stay behind when the errors cannot be measured.
    store = alexnet.Store(a.store)
    check_store(trained, store, a.run)

    # At equal distances, because the images of a split are in the order of their classes.
    val = store.split(trained.config.val_split)
    order = np.linspace(0, len(val) - 1, min(32, len(val))).astype(int)
    images = trained.preprocess.centre(next(batches(val, order, 32, workers=0)).images)
    with torch.no_grad():
        values = {"input": images} | trained.net.activations(images)
    # Normalization and pools stand between an activation function and the layer after it.
    plan = trained.net.plan
    before_op = zip(plan, ["input", *(op.name for op in plan[:-1])], strict=True)
    inputs = {op.module: values[name] for op, name in before_op if op.op == "linear"}
    weights = dict(saved.weights)
    print("layer    zero weights: before  after    zero inputs")
    for name in layers:
        before = weights[f"{name}.weight"]
        weights[f"{name}.weight"] = pruned(before, a.share) if name in chosen else before
        after = weights[f"{name}.weight"]
        print(f"{name:<21}{zeros(before)}{zeros(after)}{zeros(inputs[name]):>15}")

    # The error that training measured is that of other weights.
    about = {key: value for key, value in saved.about.items() if key != "evaluation"}
    checkpoint.write(a.out, weights, {}, saved.mean, about)
    for name, result in (("before", a.run), ("after", a.out)):
        errors = alexnet.evaluate([result], a.store, device="cpu")
        text = ", ".join(f"{e.top1_error:.1%} ({e.patches} crops)" for e in errors)
        print(f"top-1 error {name} pruning: {text}")


if __name__ == "__main__":
    try:
        main()
    except AlexNetError as error:
        print(f"prune.py: {error}", file=sys.stderr)
        sys.exit(2)
