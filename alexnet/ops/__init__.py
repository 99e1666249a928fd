"""The operators of the paper that PyTorch lacks or has otherwise; slow twins are in `tests/reference.py`."""

from alexnet.ops import pool
from alexnet.ops.dropout import dropout, dropout_mask
from alexnet.ops.local import locally_connected
from alexnet.ops.normalise import lrn, norm_pool, spatial_norm
from alexnet.ops.pool import avg_pool, max_pool

__all__ = [
    "avg_pool",
    "dropout",
    "dropout_mask",
    "locally_connected",
    "lrn",
    "max_pool",
    "norm_pool",
    "pool",
    "spatial_norm",
]
