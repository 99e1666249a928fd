"""The paper's network in TensorFlow: two columns, TensorFlow's own LRN, one tf.function per step.

python benchmarks/tensorflow_net.py step|infer precision=float32|bfloat16
"""

import sys

import tensorflow as tf

from benchmarks.worker import serve

CONVS = {
    "conv2": (5, 48, 128),
    "conv4": (3, 192, 192),
    "conv5": (3, 192, 128),
}  # of one column: size, input channels, filters


def weights():
    def layer(*shape):
        return tf.Variable(tf.random.normal(shape, stddev=0.01)), tf.Variable(tf.zeros(shape[-1]))

    net = {"conv1": layer(11, 11, 3, 96), "conv3": layer(3, 3, 256, 384)}
    for name, (size, inputs, filters) in CONVS.items():
        for column in "ab":
            net[name + column] = layer(size, size, inputs, filters)
    return net | {"fc6": layer(9216, 4096), "fc7": layer(4096, 4096), "fc8": layer(4096, 1000)}


def forward(net, x, bfloat16, training):
    def cast(value):
        return tf.cast(value, tf.bfloat16) if bfloat16 else value

    def conv(name, x, stride=1, padding="SAME"):
        weight, bias = net[name]
        return tf.nn.relu(
            tf.nn.bias_add(tf.nn.conv2d(x, cast(weight), stride, padding), cast(bias))
        )

    def columns(name, parts, after):
        return [after(conv(name + column, part)) for column, part in zip("ab", parts, strict=True)]

    def pool(x):
        return tf.nn.max_pool2d(x, 3, 2, "VALID")

    def norm_pool(x):
        # On a CPU, TensorFlow's normalization supports only float32 and float16.
        normed = tf.nn.local_response_normalization(tf.cast(x, tf.float32), 2, 2.0, 1e-4, 0.75)
        return pool(tf.cast(normed, x.dtype))

    def fully_connected(name, x):
        weight, bias = net[name]
        return tf.nn.bias_add(tf.matmul(x, cast(weight)), cast(bias))

    x = tf.pad(cast(x), [[0, 0], [0, 3], [0, 3], [0, 0]])
    parts = [norm_pool(part) for part in tf.split(conv("conv1", x, 4, "VALID"), 2, 3)]
    parts = columns("conv2", parts, norm_pool)
    parts = tf.split(conv("conv3", tf.concat(parts, 3)), 2, 3)
    parts = columns("conv4", parts, lambda x: x)
    x = tf.concat(columns("conv5", parts, pool), 3)
    x = tf.reshape(x, [tf.shape(x)[0], 9216])
    for name in ("fc6", "fc7"):
        x = tf.nn.relu(fully_connected(name, x))
        x = tf.nn.dropout(x, 0.5) if training else x
    return tf.cast(fully_connected("fc8", x), tf.float32)


def main():
    what, *rest = sys.argv[1:]
    options = {"precision": "float32", "batch": 128 if what == "step" else 100} | dict(
        a.split("=") for a in rest
    )
    batch, bfloat16 = int(options["batch"]), options["precision"] == "bfloat16"
    net = weights()
    variables = [v for layer in net.values() for v in layer]
    velocity = [tf.Variable(tf.zeros_like(v)) for v in variables]
    x = tf.random.normal((batch, 224, 224, 3))
    labels = tf.random.uniform((batch,), 0, 1000, tf.int32)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            logits = forward(net, x, bfloat16, True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        for w, v, g in zip(variables, velocity, tape.gradient(loss, variables), strict=True):
            v.assign(0.9 * v - 1e-5 * g - 5e-4 * 1e-5 * w)
            w.assign_add(v)
        return loss

    @tf.function
    def infer():
        return tf.nn.softmax(forward(net, x, bfloat16, False))

    compute = step if what == "step" else infer
    on_gpu = bool(tf.config.list_physical_devices("GPU"))
    result = compute()

    def run():
        nonlocal result
        result = compute()
        if not on_gpu:
            result.numpy()

    device = "gpu" if on_gpu else "cpu"
    note = f"{device}, tensorflow {tf.__version__}, {options['precision']}, batch {batch}"
    serve(run, batch, "images", note, wait=(lambda: result.numpy()) if on_gpu else None)


if __name__ == "__main__":
    main()
