"""Layer tables for other programs: JSON, CSV, and the inputs of four accelerator simulators.

The simulators estimate how long a network takes on hardware that does not exist yet, from the sizes
of its layers alone. Their own files for AlexNet often leave out the two columns, which doubles the
work of conv2, conv4 and conv5. These tables are computed from the plan.

A simulator sees the layers with weights only. For one without groups, each column of a layer is an
entry of its own. Padding counts as part of the input, since the filters multiply its zeros too.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

from alexnet.architecture import POOLS, Op, plan
from alexnet.config import Architecture, Conv, Local
from alexnet.errors import ConfigError

Format = Literal["table", "json", "csv", "timeloop", "scalesim", "maestro", "zigzag"]
COUNTS = ("parameters", "neurons", "multiply_adds")


def dense_architecture(architecture: Architecture) -> Architecture:
    """The architecture without columns: every filter sees all maps of the layer before."""
    return replace(architecture, columns=1)


def text(architecture: Architecture, format: Format, name: str) -> str:
    """The table of a network in a format other than `table`, which the command line draws.

    Args:
        name: The name of the network, a word.

    Raises:
        ConfigError: A simulator has no entry for one of the layers.
    """
    ops = plan(architecture)
    if format == "json":
        return _json(ops, architecture, name)
    if format == "csv":
        return _csv(ops, architecture)
    writers: dict[str, Callable[[list[_Product], str], str]] = {
        "timeloop": _timeloop,
        "scalesim": _scalesim,
        "maestro": _maestro,
        "zigzag": _zigzag,
    }
    products = [_product(op, format) for op in ops if op.op == "linear"]
    return writers[format](products, name)


def note(format: Format) -> str:
    """What a reader must know of a format that cannot have comments; empty for the others."""
    if format != "scalesim":
        return ""
    return (
        "SCALE-Sim's file has neither groups nor comments: each column of a layer is a row, and "
        "IFMAP sizes include the padding"
    )


def record(op: Op) -> dict[str, Any]:
    """One operation as JSON values: shapes (maps, height, width), settings and counts."""
    result: dict[str, Any] = {
        "name": op.name,
        "operation": op.op,
        "input": list(op.in_shape),
        "output": list(op.shape),
    }
    if op.op == "linear":
        result["columns"] = op.columns
        result["weight_shape"] = list(op.weight_shape)
    if op.op == "linear" and isinstance(op.layer, Conv | Local):
        result["pad"] = list(op.layer.pad)
        result["stride"] = op.layer.stride if isinstance(op.layer, Conv) else 1
    return result | {count: getattr(op, count) for count in COUNTS}


def settings(op: Op, architecture: Architecture) -> dict[str, Any]:
    """The settings that `record` does not have as JSON values, and formulas of normalizations."""
    lrn, square, pool = architecture.lrn, architecture.spatial_norm, architecture.pool
    match op.op:
        case "activation":
            return {"function": architecture.activation}
        case "lrn":
            formula = "a / (k + alpha * sum of squares of the maps at most n // 2 apart) ** beta"
            constants = {"n": lrn.n, "k": lrn.k, "alpha": lrn.alpha, "beta": lrn.beta}
            return {"formula": formula, "columns": architecture.lrn_columns} | constants
        case "spatial_norm":
            formula = "a / (k + alpha * sum of squares over size x size pixels of a map) ** beta"
            constants = {"size": square.size_px, "k": square.k}
            constants |= {"alpha": square.alpha, "beta": square.beta}
            return {"formula": formula} | constants
        case "batch_norm":
            # At test time, as all values here.
            formula = "gain * (a - mean) / sqrt(variance + epsilon) + bias, for each map or unit"
            return {"formula": formula, "epsilon": architecture.batch_norm.epsilon}
        case "max_pool" | "avg_pool":
            return {"size": pool.size_px, "stride": pool.stride, "partial": pool.partial}
        case "dropout":
            # The 2012 form scales at test time; the inverted form does nothing.
            kept = 1 - architecture.dropout.rate if architecture.dropout.form == "2012" else 1.0
            return {"factor": kept}
        case "linear":
            return {}
        case _:
            assert_never(op.op)


def _json(ops: Sequence[Op], architecture: Architecture, name: str) -> str:
    totals = {count: sum(getattr(op, count) for op in ops) for count in COUNTS}
    # A line for each layer: with `indent`, json writes one for each number of a shape.
    records = (record(op) | settings(op, architecture) for op in ops)
    layers = ",\n".join(f"    {json.dumps(each)}" for each in records)
    return (
        f'{{\n  "network": {json.dumps(name)},\n  "layers": [\n{layers}\n  ],\n'
        f'  "all": {json.dumps(totals)}\n}}'
    )


def _csv(ops: Sequence[Op], architecture: Architecture) -> str:
    """One row for each operation, without a row of totals, which a program would add again."""
    sides = ("maps", "height", "width")
    names = [f"{end}_{side}" for end in ("input", "output") for side in sides]
    output = io.StringIO()
    rows = csv.writer(output, lineterminator="\n")
    window = ["size", "stride", "pad_before", "pad_after"]
    rows.writerow(["name", "operation", *names, "columns", *window, *COUNTS])
    for op in ops:
        columns = op.columns if op.op == "linear" else ""
        counts = [getattr(op, count) for count in COUNTS]
        sizes = (*op.in_shape, *op.shape, columns, *_window(op, architecture))
        rows.writerow([op.name, op.op, *sizes, *counts])
    return output.getvalue().rstrip("\n")


def _window(op: Op, architecture: Architecture) -> list[int | str]:
    """Size, stride and padding before and after of filters and pools, in pixels; else blanks."""
    if op.op in POOLS:
        return [architecture.pool.size_px, architecture.pool.stride, 0, 0]
    if op.op == "linear" and isinstance(op.layer, Conv | Local):
        stride = op.layer.stride if isinstance(op.layer, Conv) else 1
        return [op.layer.size_px, stride, *op.layer.pad]
    return ["", "", "", ""]


@dataclass(frozen=True)
class _Product:
    """A layer with weights as one convolution in groups; a fully connected layer is one, too."""

    name: str
    groups: int
    in_maps: int
    """Number of input maps of one group."""
    out_maps: int
    """Number of output maps of one group."""
    in_px: int
    out_px: int
    size_px: int
    stride: int
    pad: tuple[int, int]

    @property
    def padded_px(self) -> int:
        """Side of the input that the filters see, padding included, in pixels."""
        return (self.out_px - 1) * self.stride + self.size_px

    @property
    def columns(self) -> list[str]:
        """A name for each group, for tools without groups."""
        if self.groups == 1:
            return [self.name]
        return [f"{self.name}_column{column + 1}" for column in range(self.groups)]


def _product(op: Op, format: Format) -> _Product:
    layer = op.layer
    if isinstance(layer, Local):
        raise ConfigError(
            f"{layer.name} is locally connected, which {format} has no entry for; use --format "
            "table, json or csv"
        )
    # A fully connected layer is a convolution whose filters are as large as its input.
    size_px, stride, pad = op.in_shape[1], 1, (0, 0)
    if isinstance(layer, Conv):
        size_px, stride, pad = layer.size_px, layer.stride, layer.pad
    return _Product(
        name=layer.name,
        groups=op.columns,
        in_maps=op.in_shape[0] // op.columns,
        out_maps=op.shape[0] // op.columns,
        in_px=op.in_shape[1],
        out_px=op.shape[1],
        size_px=size_px,
        stride=stride,
        pad=pad,
    )


# The dimensions and projections of Timeloop's own convolution (`problem_base.yaml` of its example
# designs), the only one of its shapes with groups.
_TIMELOOP_SHAPE = """\
  shape:
    name: grouped_convolution
    dimensions: [C, M, R, S, N, P, Q, G]
    coefficients:
    - {name: Wstride, default: 1}
    - {name: Hstride, default: 1}
    - {name: Wdilation, default: 1}
    - {name: Hdilation, default: 1}
    data_spaces:
    - name: Weights
      projection: [[[C]], [[M]], [[R]], [[S]], [[G]]]
    - name: Inputs
      projection:
      - [[N]]
      - [[C]]
      - [[R, Wdilation], [P, Wstride]]
      - [[S, Hdilation], [Q, Hstride]]
      - [[G]]
    - name: Outputs
      projection: [[[N]], [[M]], [[Q]], [[P]], [[G]]]
      read_write: true"""


def _timeloop(products: list[_Product], name: str) -> str:
    lines = [
        f"# {name}: one Timeloop problem for each layer. Timeloop reads one problem at a time:",
        "# split this file at the lines of three dashes.",
        "# G is the number of groups; C and M count the maps of one group. The input of",
        "# (P - 1) * stride + R pixels includes the padding.",
    ]
    for p in products:
        lines += [
            "---",
            f"# {p.name}",
            "problem:",
            "  version: 0.4",
            f"  instance: {{N: 1, G: {p.groups}, C: {p.in_maps}, M: {p.out_maps}, "
            f"R: {p.size_px}, S: {p.size_px}, P: {p.out_px}, Q: {p.out_px}, "
            f"Wstride: {p.stride}, Hstride: {p.stride}, Wdilation: 1, Hdilation: 1}}",
            _TIMELOOP_SHAPE,
        ]
    return "\n".join(lines)


def _scalesim(products: list[_Product], name: str) -> str:
    """The topology file. Its reader takes the first line as the header and all others as rows."""
    header = "Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, "
    lines = [f"{header}Num Filter, Strides,"]
    for p in products:
        sizes = [p.padded_px] * 2 + [p.size_px] * 2 + [p.in_maps, p.out_maps, p.stride]
        row = ", ".join(map(str, sizes))
        lines += [f"{column}, {row}," for column in p.columns]
    return "\n".join(lines)


def _maestro(products: list[_Product], name: str) -> str:
    # MAESTRO's NGCONV has groups, but its own files give it all input maps beside the filters of
    # one group, so that the number of multiply-adds is not clear. A column is clear.
    lines = [
        "// A layer in two columns is two layers: each filter sees the maps of its own column.",
        "// Y and X include the padding. MAESTRO's modelfile_to_mapping.py adds the dataflow.",
        f"Network {name} {{",
    ]
    for p in products:
        dimensions = (
            f"N: 1, K: {p.out_maps}, C: {p.in_maps}, R: {p.size_px}, S: {p.size_px}, "
            f"Y: {p.padded_px}, X: {p.padded_px}"
        )
        for column in p.columns:
            lines += [
                f"Layer {column} {{",
                "Type: CONV",
                f"Stride {{ X: {p.stride}, Y: {p.stride} }}",
                f"Dimensions {{ {dimensions} }}",
                "}",
            ]
    return "\n".join([*lines, "}"])


def _zigzag(products: list[_Product], name: str) -> str:
    lines = [
        f"# {name}: the layers with weights, for ZigZag. G is the number of groups; K and C",
        "# count the maps of one group. The precisions are those of ZigZag's examples: 8 bits, and",
        "# 16 for sums. Pools and normalizations are left out: a layer reads the one before it.",
    ]
    for number, p in enumerate(products):
        sizes = [1, p.groups, p.out_maps, p.in_maps] + [p.out_px] * 2 + [p.size_px] * 2
        lines += [
            f"- id: {number}",
            f"  name: {p.name}",
            "  operator_type: Conv",
            "  equation: O[b][g][k][oy][ox]+=W[g][k][c][fy][fx]*I[b][g][c][iy][ix]",
            f"  dimension_relations: [ix={p.stride}*ox+1*fx, iy={p.stride}*oy+1*fy]",
            "  loop_dims: [B, G, K, C, OY, OX, FY, FX]",
            f"  loop_sizes: {sizes}",
            "  pr_loop_dims: [IX, IY]",
            f"  pr_loop_sizes: {[p.in_px] * 2}",
            f"  padding: {[list(p.pad)] * 2}",
            "  operand_precision: {W: 8, I: 8, O: 16, O_final: 8}",
            # A layer that is its own source has a constant there: the weights, and the image.
            f"  operand_source: {{W: {number}, I: {max(0, number - 1)}}}",
        ]
    return "\n".join(lines)
