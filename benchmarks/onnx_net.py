"""The exported network (its LRN nodes native) in ONNX Runtime or OpenVINO.

python benchmarks/onnx_net.py onnxruntime|openvino FILE.onnx [precision=float32|bfloat16]
"""

import sys

import numpy as np

from benchmarks.worker import serve


def main():
    runtime, path, *rest = sys.argv[1:]
    options = {"precision": "float32", "batch": 100} | dict(a.split("=") for a in rest)
    batch = int(options["batch"])
    rgb = np.random.default_rng(0).uniform(0, 255, (batch, 3, 224, 224)).astype(np.float32)
    if runtime == "onnxruntime":
        import onnxruntime

        if options["precision"] != "float32":
            sys.exit("ONNX Runtime runs this file in float32")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        version = onnxruntime.__version__

        def run():
            return session.run(None, {"rgb": rgb})

    else:
        import openvino

        precision = {"float32": "f32", "bfloat16": "bf16"}[options["precision"]]
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
        core = openvino.Core()
        model = core.read_model(path)
        model.reshape([batch, 3, 224, 224])
        compiled = core.compile_model(model, "CPU", hints)
        version = openvino.__version__.split("-")[0]

        def run():
            return compiled([rgb])

    serve(run, batch, "images", f"{runtime} {version}, {options['precision']}, batch {batch}")


if __name__ == "__main__":
    main()
