"""What decides the answers of a network, for comparing two of them."""

from __future__ import annotations

from dataclasses import replace

from alexnet.architecture import POOLS, plan
from alexnet.config import Architecture, Conv


def answers(architecture: Architecture) -> object:
    """What decides the answers of a network beside its weights; equal for networks that agree.

    Raises:
        ConfigError: The architecture is invalid.
    """
    dropout = architecture.dropout
    # The 2012 form multiplies in use; the inverted form does nothing there.
    factor = 1 - dropout.rate if dropout.form == "2012" else 1.0
    ops = [op for op in plan(architecture) if op.op != "dropout" or factor != 1]
    kinds = {op.op for op in ops}
    pool, lrn = architecture.pool, replace(architecture.lrn, n=architecture.lrn.num_maps)
    return (
        [(op.name, op.shape, op.columns) for op in ops],
        [(op.layer.stride, op.layer.pad) for op in ops if isinstance(op.layer, Conv)],
        architecture.activation,
        # Whether windows may reach over the border shows in the shapes.
        (pool.size_px, pool.stride) if kinds & {*POOLS} else None,
        (lrn, architecture.lrn_columns) if "lrn" in kinds else None,
        architecture.spatial_norm if "spatial_norm" in kinds else None,
        architecture.batch_norm.epsilon if "batch_norm" in kinds else None,
        factor,
    )
