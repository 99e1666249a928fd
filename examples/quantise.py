"""Write a trained network as ONNX in 8 bits, calibrated on a store, and measure what it costs.

    python examples/quantise.py RUN STORE OUT.onnx

The products of the convolutions and fully connected layers become int8, with the scales that ONNX
Runtime's own quantizer finds on images of the training split; local response normalization and the
pools stay float32. OUT.onnx takes images of the stored size, as with `--with-preprocessing` of
`alexnet export`. It needs onnx and onnxruntime.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import numpy as np

import alexnet
from alexnet.data.loader import batches
from alexnet.errors import AlexNetError, not_installed
from alexnet.evaluation import score
from alexnet.export import write_onnx
from alexnet.files import check_may_write, write_whole


def probabilities(model: Path, split, order: np.ndarray) -> np.ndarray:
    """The answers of an ONNX file for the images at these positions of a split."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    images = (batch.images.numpy() for batch in batches(split, order, 32))
    return np.concatenate([session.run(None, {"images": batch})[0] for batch in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=128, help="for the calibration")
    parser.add_argument(
        "--weight-bits",
        type=int,
        choices=(7, 8),
        default=7,
        help="8 where sums do not saturate: with AVX512-VNNI, and on most accelerators",
    )
    a = parser.parse_args()
    if a.out.exists() or a.out.suffix != ".onnx" or a.images < 1:
        parser.error("OUT must be a new .onnx file, and --images at least 1")
    try:
        from onnxruntime import quantization
    except ImportError:
        parser.exit(2, f"quantise.py: {not_installed('8 bits', 'onnx', 'onnxruntime')}\n")

    # Not after minutes of calibration.
    check_may_write(a.out)
    trained = alexnet.load(a.run, device="cpu")
    store = alexnet.Store(a.store)
    if store.size_px != trained.preprocess.stored_px or list(trained.classes) != store.classes:
        parser.error(f"{a.store} has images of another size or other classes than {a.run}")
    train, val = map(store.split, (trained.config.train_split, trained.config.val_split))
    order = np.random.default_rng(0).permutation(len(train))[: a.images]

    class Calibration(quantization.CalibrationDataReader):
        images = batches(train, order, 8)

        def get_next(self):
            batch = next(self.images, None)
            return batch and {"images": batch.images.numpy()}

    with tempfile.TemporaryDirectory() as folder:
        exact, small = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        write_onnx(trained, exact, preprocessing=True)
        # The quantizer advises to simplify the graph first, which ours does not need.
        logging.disable(logging.WARNING)
        quantization.quantize_static(
            exact,
            small,
            Calibration(),
            op_types_to_quantize=["Conv", "Gemm"],
            per_channel=True,
            # Weights of 7 bits by default: a processor with AVX2 and without VNNI adds pairs of
            # products in 16 bits, where those of 8 bits saturate.
            reduce_range=a.weight_bits == 7,
        )
        p = {each.stem: probabilities(each, val, np.arange(len(val))) for each in (exact, small)}
        for each in (exact, small):
            error = score(p[each.stem], val.labels, 1).top1_error
            print(f"{each.stem:<8} {each.stat().st_size / 1e6:7.2f} MB  top-1 error {error:.2%}")
        write_whole(a.out, small.read_bytes())
    changed = (p["float32"].argmax(1) != p["int8"].argmax(1)).mean()
    most = np.abs(p["float32"] - p["int8"]).max()
    print(f"another best class: {changed:.2%}; largest change of a probability: {most:.3f}")


if __name__ == "__main__":
    try:
        main()
    except AlexNetError as error:
        print(f"quantise.py: {error}", file=sys.stderr)
        sys.exit(2)
