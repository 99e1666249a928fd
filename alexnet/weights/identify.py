"""Which AlexNet a file of weights is, by its names, shapes and, where it has them, operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from alexnet.architecture import Op, plan
from alexnet.config import Architecture, Config, Conv, Lrn
from alexnet.diagnostics import colour_shares
from alexnet.errors import ConfigError, RunError
from alexnet.weights.files import Array, Arrays, WeightFile
from alexnet.weights.layouts import Named, grouped, name_parameters
from alexnet.weights.nets import NETS, Net, ungrouped

IN_FILE, FROM_SHAPES, KNOWN = "in the file", "from the shapes", "known of this network"
NOT_KNOWN = "the weights do not say"


@dataclass(frozen=True)
class Candidate:
    """A network that the file can be.

    Attributes:
        net: The network.
        config: Its config with the width, the classes and the constants of the file.
        arrays: The parameters by our names, with the shapes of the config. The channels of conv1
            are in the order of the file.
        grouped: The file had dense kernels with zeros where columns do not see each other.
    """

    net: Net
    config: Config
    arrays: Arrays
    grouped: bool = False

    @property
    def title(self) -> str:
        """The network in words."""
        without = self.net.config().architecture.columns > self.config.architecture.columns
        return self.net.title + (", without groups" if without else "")


@dataclass(frozen=True)
class Identity:
    """What is known of a file of weights.

    Attributes:
        file: The file.
        named: Its parameters; None if they have unknown names.
        candidates: The networks that it can be; several if the weights do not tell them apart.
        reason: Why it is none of them; empty if there are candidates.
    """

    file: WeightFile
    named: Named | None
    candidates: tuple[Candidate, ...]
    reason: str = ""

    def chosen(self, name: str = "") -> Candidate:
        """The network of this name, or the only one.

        Raises:
            RunError: It is none, or one of several.
        """
        path = self.file.path
        if not self.candidates:
            raise RunError(f"{path} is no AlexNet that is known: {self.reason}")
        names = [one.net.name for one in self.candidates]
        if name:
            for one in self.candidates:
                if one.net.name == name:
                    return one
            raise RunError(f"{path} cannot be {name}; it can be {_or(names)}")
        if len(names) > 1:
            raise RunError(
                f"{path} can be {_or(names)}, which the weights do not tell apart; name it with "
                "--net"
            )
        return self.candidates[0]


def identify(file: WeightFile) -> Identity:
    """Compare a file with every network that is known."""
    named = name_parameters(file)
    if named is None:
        return Identity(file, None, (), _unknown_names(file))
    named = replace(named, arrays={name: _flat(name, a) for name, a in named.arrays.items()})
    found: list[Candidate] = []
    reasons: list[tuple[int, str]] = []
    for net in NETS:
        if named.layout not in net.layouts:
            continue
        result = _compared(file, named, net)
        if isinstance(result, Candidate):
            found.append(result)
        else:
            reasons.append(result)
    # Constants in the file tell networks of the same form apart.
    exact = [one for one in found if one.config.architecture.lrn == _lrn(one.net)]
    # The nearest network is the one with the fewest differences.
    reason = "" if found else min(reasons)[1]
    found = exact or found
    return Identity(file, named, _distinct(found), reason)


def _lrn(net: Net) -> Lrn:
    return net.config().architecture.lrn


def _distinct(found: list[Candidate]) -> tuple[Candidate, ...]:
    """Leave out what differs from an earlier candidate in training alone."""
    result: list[Candidate] = []
    for one in found:
        same = [_use(one) == _use(other) for other in result]
        if not any(same):
            result.append(one)
    return tuple(result)


def _use(candidate: Candidate) -> object:
    """What decides the answers of a network."""
    config = candidate.config
    ops = [(op.name, op.op, op.shape, op.columns) for op in plan(config.architecture)]
    architecture = config.architecture
    norm = architecture.lrn, architecture.lrn_columns
    return ops, norm, architecture.dropout.form, config.augment.mean, candidate.net.bgr


def _flat(name: str, array: Array) -> Array:
    """The weights of a fully connected layer as a matrix; some programs have more sides."""
    if name.startswith("fc") and name.endswith(".weight") and array.ndim > 2 and array.size:
        return array.reshape(len(array), -1)
    return array


def _unknown_names(file: WeightFile) -> str:
    """Say what is in a file without the names of an AlexNet."""
    first = next(iter(file.arrays))
    several = (
        f"{len(file.arrays)} arrays, the first of them" if len(file.arrays) > 1 else "one array,"
    )
    return (
        f"it has {several} {first!r} of shape {file.arrays[first].shape}, and none with a name of "
        "ours, torchvision's, Caffe's or TF-slim's"
    )


def _compared(file: WeightFile, named: Named, net: Net) -> Candidate | tuple[int, str]:
    """Compare a file with a network, with its groups and without.

    Returns:
        The candidate; or the number of differences, and the first in words.
    """
    config = net.config()
    forms = [config] + ([ungrouped(config)] if config.architecture.columns > 1 else [])
    results = [_compared_with(file, named, net, form) for form in forms]
    candidates = [one for one in results if isinstance(one, Candidate)]
    return candidates[0] if candidates else results[0]


def _compared_with(
    file: WeightFile, named: Named, net: Net, config: Config
) -> Candidate | tuple[int, str]:
    sized = _sized(config, named.arrays, file.input_px)
    if sized is None:
        return len(named.arrays) + 1, f"its shapes are not those of {net.title}"
    try:
        ops = plan(sized.architecture)
    except ConfigError as error:
        return len(named.arrays) + 1, f"its shapes are not those of {net.title} ({error})"
    arrays, was_dense = _taken_apart(named.arrays, ops)
    wanted = {
        f"{op.module}.{parameter}": shape
        for op in ops
        if op.op == "linear"
        for parameter, shape in (("weight", op.weight_shape), ("bias", op.bias_shape))
    }
    differences = list(_differences(arrays, wanted, named, net))
    differences += _differences_of_order(file, ops, net)
    differences += _differences_of_settings(file, sized.architecture, ops, net)
    if differences:
        return len(differences), differences[0]
    return Candidate(net, _with_constants(sized, file), {n: arrays[n] for n in wanted}, was_dense)


def _sized(config: Config, arrays: Arrays, input_px: int | None) -> Config | None:
    """Give a config the width, the classes and the input of a file; None if it has no layers."""
    architecture = config.architecture
    first = arrays.get("conv1.weight")
    heads = [name for name in arrays if name.startswith("fc") and name.endswith(".weight")]
    last = arrays[heads[-1]] if heads else None
    layer = architecture.layers[0]
    assert isinstance(layer, Conv)
    if first is None or first.ndim != 4 or not len(first):
        return None
    # A file without its last layer still has a width; its missing names are said by the caller.
    classes = len(last) if last is not None and last.ndim == 2 and len(last) > 1 else None
    return replace(
        config,
        architecture=replace(
            architecture,
            width=len(first) / layer.kernels,
            classes=classes,
            input_px=input_px or architecture.input_px,
        ),
    )


def _taken_apart(arrays: Arrays, ops: tuple[Op, ...]) -> tuple[Arrays, bool]:
    """Take the zeros out of dense kernels where the plan has groups; tell if there were any."""
    result, was_dense = dict(arrays), False
    for op in ops:
        name = f"{op.module}.weight"
        weight = arrays.get(name)
        if op.op != "linear" or op.columns == 1 or weight is None or weight.ndim != 4:
            continue
        outputs, inputs, *size = op.weight_shape
        if weight.shape == (outputs, inputs * op.columns, *size):
            apart = grouped(weight, op.columns)
            if apart is not None:
                result[name], was_dense = apart, True
    return result, was_dense


def _differences(
    arrays: Arrays, wanted: dict[str, tuple[int, ...]], named: Named, net: Net
) -> Iterator[str]:
    """The differences of names and shapes, in words."""
    missing = [name for name in wanted if name not in arrays]
    if missing:
        yield (
            f"of the {len(wanted)} arrays of {net.title} it lacks {len(missing)}: {_few(missing)}"
        )
        yield from missing[1:]
    if unknown := [name for name in arrays if name not in wanted]:
        yield f"it has {_few(unknown)}, which {net.title} has not"
    if named.rest:
        yield f"it has {_few(list(named.rest))}, which {net.title} has not"
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            yield f"{name} has the shape {arrays[name].shape}, and {shape} in {net.title}"


def _few(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _or(names: list[str]) -> str:
    return " or ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} or {names[-1]}"


def _differences_of_order(file: WeightFile, ops: tuple[Op, ...], net: Net) -> list[str]:
    """Where the operations of a file stand in another order than those of a network, in words."""
    theirs, ours = order_of_file(file), order_of_plan(ops)
    if not theirs or len(theirs) != len(ours):
        return []
    return [
        f"after {layer} it has {', '.join(there) or 'nothing'}, and {net.title} has "
        f"{', '.join(here) or 'nothing'}"
        for there, (layer, here) in zip(theirs, ours.items(), strict=True)
        if there != here
    ]


def _differences_of_settings(
    file: WeightFile, architecture: Architecture, ops: tuple[Op, ...], net: Net
) -> Iterator[str]:
    """Where strides, padding, groups and the reach of the normalization differ, in words."""
    linear = [op for op in ops if op.op == "linear"]
    theirs = [operation for operation in file.operations if operation.weight]
    for op, operation in zip(linear, theirs, strict=False):
        if not isinstance(op.layer, Conv):
            continue
        before, after = op.layer.pad
        ours = {"stride": op.layer.stride, "pad": before, "pad_after": after, "group": op.columns}
        for name, value in operation.settings.items():
            # Dense kernels with zeros stand for groups.
            if name in ours and ours[name] != value and not (name == "group" and value == 1):
                yield f"{name} of {op.module} is {value}, and {ours[name]} in {net.title}"
    if architecture.columns > 1 and file.form == "ONNX":
        # ONNX has no groups in its normalization: a net that has them has a node for each.
        first = [operation.kind for operation in file.operations][:8]
        across = first[first.index("lrn") + 1 :][:1] != ["lrn"] if "lrn" in first else None
        if across is not None and across != architecture.lrn_across_columns:
            yield f"its LRN sums {'across' if across else 'inside'} groups, unlike {net.title}"


def order_of_plan(ops: tuple[Op, ...]) -> dict[str, tuple[str, ...]]:
    """What follows each layer of a plan, without dropout, which does nothing in use."""
    result: dict[str, tuple[str, ...]] = {}
    for op in ops:
        after = result.setdefault(op.layer.name, ())
        if op.op not in ("linear", "dropout"):
            result[op.layer.name] = (*after, op.op)
    return result


def order_of_file(file: WeightFile) -> list[tuple[str, ...]]:
    """What follows each layer of a file; empty if the file has weights alone."""
    result: list[tuple[str, ...]] = []
    for operation in file.operations:
        if operation.weight:
            result.append(())
        # Our own export has one node for each column.
        elif result and operation.kind != "dropout" and result[-1][-1:] != (operation.kind,):
            result[-1] = (*result[-1], operation.kind)
    return result


def _with_constants(config: Config, file: WeightFile) -> Config:
    """Take the constants of the response normalization from the file, where it has them."""
    norms = [operation for operation in file.operations if operation.kind == "lrn"]
    if not norms:
        return config
    lrn, s = config.architecture.lrn, norms[0].settings
    n = int(s["n"])
    given = replace(
        lrn, n=n, k=_round(s["k"]), alpha=_round(s["alpha"]) / n, beta=_round(s["beta"])
    )
    # Equal up to the 32 bits of the file: the config keeps its own digits.
    if all(abs(a - b) <= 1e-6 * abs(b) for a, b in zip(_values(given), _values(lrn), strict=True)):
        given = lrn
    return replace(config, architecture=replace(config.architecture, lrn=given))


def _round(value: float) -> float:
    """A number of 32 bits with the digits that it was written with."""
    return float(f"{value:.7g}")


def _values(lrn: Lrn) -> tuple[float, ...]:
    return lrn.n, lrn.k, lrn.alpha, lrn.beta


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


def facts(identity: Identity) -> list[Fact]:
    """Where the network of a file differs from others, one fact for each question."""
    candidates = identity.candidates
    if not candidates:
        return []
    file = identity.file
    has_order = bool(order_of_file(file))
    has_norms = any(operation.kind == "lrn" for operation in file.operations)
    configs = [one.config for one in candidates]
    plans = [plan(config.architecture) for config in configs]
    pairs = list(zip(configs, plans, strict=True))

    def fact(what: str, values: list[str], source: str) -> Fact:
        """A value that all candidates share; otherwise the choices."""
        if len(set(values)) == 1:
            return Fact(what, values[0], source)
        return Fact(what, "", f"{NOT_KNOWN}: {' or else '.join(dict.fromkeys(values))}")

    known = IN_FILE if has_order else KNOWN
    return [
        fact("after conv1", [_order(ops) for ops in plans], known),
        fact("groups", [_groups(ops) for ops in plans], FROM_SHAPES),
        fact("columns", [_columns(one) for one in candidates], "measured"),
        fact("biases of conv", ["yes" for _ in candidates], IN_FILE),
        fact("LRN", [_norm(*pair) for pair in pairs], IN_FILE if has_norms else KNOWN),
        fact("fc6 and fc7", [_dropout(config) for config in configs], KNOWN),
        fact("input", [_input(config) for config in configs], IN_FILE if file.input_px else KNOWN),
        fact("padding of conv1", [_padding(config) for config in configs], KNOWN),
        fact("channels", ["B, G, R" if one.net.bgr else "R, G, B" for one in candidates], KNOWN),
        fact("scale of the input", [_scale(config) for config in configs], KNOWN),
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
    each = ", ".join(f"{share:.0%} in column {i}" for i, share in enumerate(shares, 1))
    return f"{columns}; of the energy of the filters of conv1 color is {each}"


def _norm(config: Config, ops: tuple[Op, ...]) -> str:
    if not any(op.op == "lrn" for op in ops):
        return "none"
    lrn = config.architecture.lrn
    inside = ", across groups" if config.architecture.lrn_across_columns else ", inside each group"
    return (
        f"n {lrn.n}, k {lrn.k:g}, beta {lrn.beta:g}, alpha {lrn.alpha:g} of the sum "
        f"({lrn.alpha * lrn.n:g} of the mean){inside if config.architecture.columns > 1 else ''}"
    )


def _dropout(config: Config) -> str:
    halved = config.architecture.dropout.form == "2012"
    return "halved in use (dropout of 2012)" if halved else "as they are (dropout rescales)"


def _input(config: Config) -> str:
    return f"{config.architecture.input_px} x {config.architecture.input_px} pixels"


def _padding(config: Config) -> str:
    layer = config.architecture.layers[0]
    assert isinstance(layer, Conv)
    before, after = layer.pad
    return f"{before} left and top, {after} right and bottom"


def _scale(config: Config) -> str:
    if config.augment.mean == "channel":
        return "0 to 1, less a mean and divided by a deviation of each channel"
    return "0 to 255, less a mean"
