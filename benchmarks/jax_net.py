"""The paper's network in JAX with jit, in NHWC layout.

python benchmarks/jax_net.py step precision=float32|bfloat16
"""

import itertools
import sys
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.worker import serve

SHAPES = {  # size, input channels of a group, filters, stride, padding, groups
    "conv1": (11, 3, 96, 4, ((0, 3), (0, 3)), 1),
    "conv2": (5, 48, 256, 1, "SAME", 2),
    "conv3": (3, 256, 384, 1, "SAME", 1),
    "conv4": (3, 192, 384, 1, "SAME", 2),
    "conv5": (3, 192, 256, 1, "SAME", 2),
}
FULLY_CONNECTED = {"fc6": (9216, 4096), "fc7": (4096, 4096), "fc8": (4096, 1000)}


def lrn(x, columns=2):
    parts = []
    for part in jnp.split(x, columns, 3):
        sums = lax.reduce_window(part * part, 0.0, lax.add, (1, 1, 1, 5), (1, 1, 1, 1), "SAME")
        parts.append(part * (2.0 + 1e-4 * sums) ** -0.75)
    return jnp.concatenate(parts, 3)


def forward(weights, x, key):
    for name, (_, _, _, stride, padding, groups) in SHAPES.items():
        filters, bias = weights[name]
        order = ("NHWC", "HWIO", "NHWC")
        x = lax.conv_general_dilated(
            x,
            filters,
            (stride, stride),
            padding,
            dimension_numbers=order,
            feature_group_count=groups,
        )
        x = jax.nn.relu(x + bias)
        if name in ("conv1", "conv2"):
            x = lrn(x)
        if name in ("conv1", "conv2", "conv5"):
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(len(x), -1)
    for name in ("fc6", "fc7"):
        weight, bias = weights[name]
        key, dropout_key = jax.random.split(key)
        x = jax.nn.relu(x @ weight + bias)
        x = x * jax.random.bernoulli(dropout_key, 0.5, x.shape)
    weight, bias = weights["fc8"]
    return (x @ weight + bias).astype(jnp.float32)


def initial_weights(key):
    shapes = {n: (s[0], s[0], s[1], s[2]) for n, s in SHAPES.items()} | FULLY_CONNECTED
    return {n: (0.01 * jax.random.normal(key, s), jnp.zeros(s[-1])) for n, s in shapes.items()}


def loss(weights, x, labels, key, precision):
    weights = jax.tree.map(lambda w: w.astype(precision), weights)
    logits = forward(weights, x.astype(precision), key)
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()


def step(weights, velocity, x, labels, key, number, precision):
    """A training step; its number decides the masks of dropout."""
    key = jax.random.fold_in(key, number)
    gradients = jax.grad(loss)(weights, x, labels, key, precision)
    velocity = jax.tree.map(
        lambda v, g, w: 0.9 * v - 1e-5 * g - 5e-9 * w, velocity, gradients, weights
    )
    return jax.tree.map(jnp.add, weights, velocity), velocity


def main():
    options = {"precision": "float32", "batch": 128} | dict(a.split("=") for a in sys.argv[2:])
    batch, precision = int(options["batch"]), jnp.dtype(options["precision"])
    key = jax.random.key(0)
    weights = initial_weights(key)
    state = weights, jax.tree.map(jnp.zeros_like, weights)
    x, labels = jax.random.normal(key, (batch, 224, 224, 3)), jnp.arange(batch) % 1000
    # Images are arguments: of constants, XLA could compute what follows when it compiles.
    compiled = jax.jit(partial(step, precision=precision))
    numbers = itertools.count()

    on_gpu = jax.default_backend() == "gpu"

    def run():
        nonlocal state
        state = compiled(*state, x, labels, key, next(numbers))
        if not on_gpu:
            jax.block_until_ready(state)

    device = "gpu" if on_gpu else "cpu"
    note = f"{device}, jax {jax.__version__}, {options['precision']}, batch {batch}"
    wait = (lambda: jax.block_until_ready(state)) if on_gpu else None
    serve(run, batch, "images", note, wait=wait)


if __name__ == "__main__":
    main()
