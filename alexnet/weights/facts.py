"""What is known of the network of a file, in words, and how it is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from alexnet.architecture import Op, plan
from alexnet.config import Config, Conv
from alexnet.diagnostics import colour_shares
from alexnet.program import command
from alexnet.terminal import entry
from alexnet.weights.identify import (
    Candidate,
    Identity,
    is_bgr,
    order_of_file,
    order_of_plan,
    says_rgb,
)
from alexnet.weights.preprocessing import Preprocessing, preprocessing_of

IN_FILE, FROM_SHAPES, KNOWN = "in the file", "from the shapes", "known of this network"
NOT_KNOWN = "the weights do not say"
ASSUMED = f"{NOT_KNOWN}; import --dropout 2012 halves them"


@dataclass(frozen=True)
class Fact:
    """Something that differs between the networks called AlexNet.

    Attributes:
        what: What it is.
        value: What it is in this file; empty if that is not known.
        source: How it is known.
    """

    what: str
    value: str
    source: str


WORDS = {
    "activation": "ReLU",
    "lrn": "LRN",
    "max_pool": "pool",
    "avg_pool": "average pool",
    "spatial_norm": "spatial norm",
}


def _shared(what: str, values: list[str], source: str) -> Fact:
    """A value that all candidates share; otherwise the choices."""
    if len(set(values)) == 1:
        return Fact(what, values[0], source)
    return Fact(what, "", f"{NOT_KNOWN}: {' or else '.join(dict.fromkeys(values))}")


def facts(identity: Identity) -> list[Fact]:
    """Where the network of a file differs from others, one fact for each question."""
    candidates = identity.candidates
    if not candidates:
        return []
    file = identity.file
    has_order = bool(order_of_file(file))
    has_norms = any(operation.kind == "lrn" for operation in file.operations)
    configs = [candidate.config for candidate in candidates]
    plans = [plan(config.architecture) for config in configs]
    pairs = list(zip(configs, plans, strict=True))
    known = IN_FILE if has_order else KNOWN
    return [
        _shared("after conv1", [_order(ops) for ops in plans], known),
        _shared("groups", [_groups(ops) for ops in plans], FROM_SHAPES),
        _shared("columns", [_columns(candidate) for candidate in candidates], "measured"),
        _shared("pools", [_pools(config) for config in configs], known),
        _shared("LRN", [_norm(*pair) for pair in pairs], IN_FILE if has_norms else KNOWN),
        _dropout(identity),
        _shared(
            "input", [_input(config) for config in configs], IN_FILE if file.input_px else KNOWN
        ),
        _shared("padding of conv1", [_padding(config) for config in configs], KNOWN),
        _channels(identity),
        _scale(identity),
    ]


def _order(ops: tuple[Op, ...]) -> str:
    return ", ".join(WORDS[name] for name in next(iter(order_of_plan(ops).values())))


def _groups(ops: tuple[Op, ...]) -> str:
    groups = [f"{op.module} {op.columns}" for op in ops if op.op == "linear" and op.columns > 1]
    return ", ".join(groups) or "none"


def _columns(candidate: Candidate) -> str:
    """The columns, and how colored their filters are: which is which differs from run to run."""
    columns = candidate.config.architecture.columns
    if columns == 1:
        return "one"
    filters = torch.from_numpy(np.array(candidate.arrays["conv1.weight"], np.float64))
    shares = [sum(part) / len(part) for part in colour_shares(filters, columns)]
    in_each = ", ".join(f"{share:.0%} in column {i}" for i, share in enumerate(shares, 1))
    return f"{columns}; of the energy of the filters of conv1 color is {in_each}"


def _norm(config: Config, ops: tuple[Op, ...]) -> str:
    if not any(op.op == "lrn" for op in ops):
        return "none"
    lrn = config.architecture.lrn
    inside = ", across groups" if config.architecture.lrn_across_columns else ", inside each group"
    return (
        f"n {lrn.n}, k {lrn.k:g}, beta {lrn.beta:g}, alpha {lrn.alpha:g} of the sum "
        f"({lrn.alpha * lrn.n:g} of the mean){inside if config.architecture.columns > 1 else ''}"
    )


def _channels(identity: Identity) -> Fact:
    """The order of the channels of an image."""
    if says_rgb(identity.file):
        return Fact("channels", "R, G, B", IN_FILE)
    known = {is_bgr(identity, candidate.net) for candidate in identity.candidates}
    orders = ["B, G, R"] * (known != {False}) + ["R, G, B"] * (known != {True})
    return _shared("channels", orders, KNOWN)


def _pools(config: Config) -> str:
    pool = config.architecture.pool
    return f"{pool.size_px} x {pool.size_px} pixels, stride {pool.stride}"


HALVED, AS_THEY_ARE = "halved in use (dropout of 2012)", "as they are (dropout rescales)"


def _dropout(identity: Identity) -> Fact:
    """Whether the outputs of fc6 and fc7 are multiplied in use."""
    what = "fc6 and fc7"
    if identity.file.operations:
        dropout = identity.candidates[0].config.architecture.dropout
        if dropout.form == "inverted":
            return Fact(what, AS_THEY_ARE, IN_FILE)
        factor = 1 - dropout.rate
        return Fact(what, HALVED if factor == 0.5 else f"times {factor:g} in use", IN_FILE)
    if any(
        candidate.net.config().architecture.dropout.form == "2012"
        for candidate in identity.candidates
    ):
        return Fact(what, "", ASSUMED)
    return Fact(what, AS_THEY_ARE, KNOWN)


def _input(config: Config) -> str:
    return f"{config.architecture.input_px} x {config.architecture.input_px} pixels"


def _padding(config: Config) -> str:
    layer = config.architecture.layers[0]
    assert isinstance(layer, Conv)
    before, after = layer.pad
    return f"{before} left and top, {after} right and bottom"


def _scale(identity: Identity) -> Fact:
    what = "scale of the input"
    means = [candidate.config.augment.mean for candidate in identity.candidates]
    preprocessing = preprocessing_of(identity.file)
    assert isinstance(preprocessing, Preprocessing)  # otherwise there is no candidate
    factors = [f"{factor:g}" for factor in preprocessing.scale]
    has_no_mean = preprocessing.mean is not None and not preprocessing.mean.any()
    bytes_less_mean = "0 to 255" if has_no_mean else "0 to 255, less a mean"
    if "channel" not in means and set(factors) != {"1"}:
        times = factors[0] if len(set(factors)) == 1 else ", ".join(factors)
        return Fact(what, f"{bytes_less_mean}, times {times}", IN_FILE)
    by_channel = "0 to 1, less a mean and divided by a deviation of each channel"
    values = [by_channel if mean == "channel" else bytes_less_mean for mean in means]
    return _shared(what, values, IN_FILE if has_no_mean else KNOWN)


def of_identity(identity: Identity) -> dict[str, Any]:
    """What is known of a file of weights, as JSON values."""
    file = identity.file
    return {
        "file": str(file.path),
        "format": file.form,
        "networks": [candidate.net.name for candidate in identity.candidates],
        "titles": [candidate.title for candidate in identity.candidates],
        "layout": identity.named.layout if identity.named else None,
        "arrays": len(file.arrays),
        "parameters": sum(array.size for array in file.arrays.values()),
        # Candidates have the same shapes, and so the same number.
        "classes": identity.candidates[0].config.architecture.classes
        if identity.candidates
        else None,
        "facts": {
            fact.what: {"value": fact.value or None, "source": fact.source}
            for fact in facts(identity)
        },
        "reason": identity.reason or None,
    }


def in_words(identity: Identity) -> list[str]:
    """What is known of a file of weights, as lines for a terminal."""
    path, candidates = identity.file.path, identity.candidates
    if not candidates:
        return [f"{path}: an unknown network", *table([("because", identity.reason)])]
    first = candidates[0]
    arrays = first.arrays.values()
    width = first.config.architecture.width
    narrow = f", {width:g} of the width" if width != 1 else ""
    size = (
        f"{sum(array.size for array in arrays):,} parameters in {len(arrays)} arrays, "
        f"{first.config.architecture.classes} classes{narrow}; {identity.file.form}"
    )
    if len(candidates) == 1:
        lines = [f"{path}: {first.title}", *table([("content", size)])]
    else:
        names = [(candidate.net.name, candidate.title) for candidate in candidates]
        lines = [
            f"{path}: one of {len(names)} networks, which the weights do not tell apart",
            *table([*names, ("content", size)]),
        ]
    rows = [
        (fact.what, f"{fact.value} [{fact.source}]" if fact.value else f"unknown [{fact.source}]")
        for fact in facts(identity)
    ]
    if "recipe" in identity.file.metadata:
        rows.append(("made by", f"alexnet export, recipe {identity.file.metadata['recipe']}"))
    net = () if len(candidates) == 1 else ("--net", first.net.name)
    use = f"to use it: {command('import', str(path), 'RUN', *net)}"
    return [*lines, *table(rows), use]


def table(rows: list[tuple[str, str]]) -> list[str]:
    """Rows of a name and its text."""
    return [line for name, text in rows for line in entry(name, text, 24)]
