"""The operators of the paper that PyTorch lacks or defines otherwise.

`tests/reference.py` has the normalizations, pools and local layers with loops, as slow twins.
"""

from alexnet.ops.dropout import dropout
from alexnet.ops.dropout_mask import Mask, dropout_key, dropout_keys
from alexnet.ops.linear import convolution, fully_connected
from alexnet.ops.local import locally_connected
from alexnet.ops.normalise import adds_bias, lrn, norm_pool, spatial_norm

__all__ = [
    "Mask",
    "adds_bias",
    "convolution",
    "dropout",
    "dropout_key",
    "dropout_keys",
    "fully_connected",
    "locally_connected",
    "lrn",
    "norm_pool",
    "spatial_norm",
]
