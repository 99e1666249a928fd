#!/usr/bin/env bash
# Measures one CUDA GPU in under ten minutes: correctness, speeds, then training from a new store.
# Run it from a checkout: benchmarks/gpu.sh FOLDER. FOLDER is new and gets the store, the tables and
# the plot. The variable PYTHON names the interpreter.
set -euo pipefail
out=${1:?usage: benchmarks/gpu.sh FOLDER}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
mkdir -p "$out"
"$python" -c 'import torch; assert torch.cuda.is_available(), "no CUDA GPU here"; print(torch.cuda.get_device_name())'

"$python" -m pytest tests/test_triton.py
"$python" - "$out/store" <<'PYTHON'
import sys
from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare

prepare(shapes.source(16384, 512), sys.argv[1], StoreSettings(quality=90), workers=0)
PYTHON
"$python" benchmarks/same_training.py "$out/store" "$out/same_training.png" batch=128
for what in ops step infer; do
  "$python" -m benchmarks $what --precision bfloat16 --rounds 20 | tee "$out/$what.txt"
done
"$python" -m benchmarks loader --data "$out/store" | tee "$out/loader.txt"
"$python" -m alexnet train paper --data "$out/store" --epochs 3 --workers "$(nproc)" --out "$out/run" | tee "$out/train.txt"
