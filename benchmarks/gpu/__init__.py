"""Half an hour on one CUDA card, in stages; `python -m benchmarks.gpu` runs them."""
