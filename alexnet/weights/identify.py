"""Which AlexNet a file of weights is, by its names, shapes and, where it has them, operations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from alexnet.architecture import Op, plan, pooled_px
from alexnet.config import Architecture, Config, Conv, Dropout, Lrn, Pool
from alexnet.errors import ConfigError, RunError
from alexnet.layer_tables import dense_architecture
from alexnet.weights.compare import answers
from alexnet.weights.layouts import Named, grouped, name_parameters
from alexnet.weights.nets import NETS, Net
from alexnet.weights.operations import KINDS, Array, Arrays, Operation, WeightFile
from alexnet.weights.preprocessing import preprocessing_of

MOST_MAPS = 10_000
"""More than any AlexNet's layer has."""


@dataclass(frozen=True)
class Candidate:
    """A network that the file can be.

    Attributes:
        net: The network.
        config: Its config with the width, the classes, the pools and the constants of the file. Of
            weights alone the dropout is the inverted one, which is not seen in use.
        arrays: The parameters by our names, with the shapes of the config. The channels of conv1
            are in the order of the file.
        grouped: The file had dense filters with zeros where columns do not see each other.
    """

    net: Net
    config: Config
    arrays: Arrays
    grouped: bool = False

    @property
    def title(self) -> str:
        """The network in words."""
        without = self.net.config().architecture.columns > self.config.architecture.columns
        pool, known = self.config.architecture.pool, self.net.config().architecture.pool
        other = _window(pool) != _window(known)
        pools = f", with pools of {pool.size_px} pixels and stride {pool.stride}" if other else ""
        return self.net.title + (", without groups" if without else "") + pools


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
            raise RunError(f"{path} is not an AlexNet that is known: {self.reason}")
        names = [candidate.net.name for candidate in self.candidates]
        if name:
            for candidate in self.candidates:
                if candidate.net.name == name:
                    return candidate
            raise RunError(f"{path} cannot be {name}; it can be {_choice(names)}")
        if len(names) > 1:
            raise RunError(
                f"{path} can be {_choice(names)}, which the weights do not tell apart; name it "
                "with --net"
            )
        return self.candidates[0]


def identify(file: WeightFile) -> Identity:
    """Compare a file with every network that is known."""
    named = name_parameters(file)
    if named is None:
        return Identity(file, None, (), _unknown_names(file))
    if reason := not_understood(file):
        return Identity(file, named, (), reason)
    named = replace(named, arrays={name: _flat(name, a) for name, a in named.arrays.items()})
    candidates: list[Candidate] = []
    reasons: list[tuple[int, str]] = []
    for net in NETS:
        if named.layout not in net.layouts:
            continue
        result = _compared(file, named, net)
        if isinstance(result, Candidate):
            candidates.append(result)
        else:
            reasons.append(result)
    # Constants in the file tell networks of the same form apart.
    exact = [
        candidate
        for candidate in candidates
        if candidate.config.architecture.lrn == _lrn(candidate.net)
    ]
    # The nearest network is the one with the fewest differences.
    reason = "" if candidates else min(reasons)[1]
    candidates = exact or candidates
    return Identity(file, named, _distinct(candidates), reason)


def _lrn(net: Net) -> Lrn:
    return net.config().architecture.lrn


def _distinct(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Leave out what differs from an earlier candidate in training alone."""
    result: dict[str, Candidate] = {}
    for candidate in candidates:
        config = candidate.config
        same = answers(config.architecture), config.augment.mean, candidate.net.bgr
        result.setdefault(repr(same), candidate)
    return tuple(result.values())


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
        f"it has {several} {first!r} of shape {file.arrays[first].shape}, and too few with the "
        "names of an AlexNet (ours, torchvision's, Caffe's or TF-slim's)"
    )


def _compared(file: WeightFile, named: Named, net: Net) -> Candidate | tuple[int, str]:
    """Compare a file with a network, with its groups and without.

    Returns:
        The candidate; or the number of differences, and the first in words.
    """
    config = net.config()
    forms = [config] + (
        [replace(config, architecture=dense_architecture(config.architecture))]
        if config.architecture.columns > 1
        else []
    )
    results = [_compared_with(file, named, net, form) for form in forms]
    candidates = [result for result in results if isinstance(result, Candidate)]
    return candidates[0] if candidates else results[0]


def _compared_with(
    file: WeightFile, named: Named, net: Net, config: Config
) -> Candidate | tuple[int, str]:
    sized = _with_size(config, named.arrays, file.input_px)
    if sized is None:
        return len(named.arrays) + 1, f"its shapes are not those of {net.title}"
    sized = replace(sized, architecture=_with_constants(sized.architecture, file))
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
    return Candidate(net, sized, {n: arrays[n] for n in wanted}, was_dense)


def _with_size(config: Config, arrays: Arrays, input_px: int | None) -> Config | None:
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
    """Take the zeros out of dense filters where the plan has groups; tell if there were any."""
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
        lacks = f"it lacks {len(missing)}: {_first_names(missing)}"
        yield f"of the {len(wanted)} arrays of {net.title} {lacks}"
        yield from missing[1:]
    if unknown := [name for name in arrays if name not in wanted]:
        yield f"it has {_first_names(unknown)}, which {net.title} has not"
    if named.rest:
        yield f"it has {_first_names(list(named.rest))}, which {net.title} has not"
    for name, shape in wanted.items():
        if name in arrays and arrays[name].shape != shape:
            # Of the parameters, only the weights of fc6 depend on the size of the input.
            mend = "; for another size of input see --input-px" if name == "fc6.weight" else ""
            yield f"{name} has the shape {arrays[name].shape}, and {shape} in {net.title}{mend}"


def _first_names(names: list[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _choice(names: list[str]) -> str:
    return " or ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} or {names[-1]}"


def _differences_of_order(file: WeightFile, ops: tuple[Op, ...], net: Net) -> list[str]:
    """Where the operations of a file stand in another order than those of a network, in words."""
    theirs, ours = order_of_file(file), order_of_plan(ops, bool(factors_of(file)))
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
    """Where strides, padding, groups, pools and the reach of the LRN differ, in words."""
    linear = [op for op in ops if op.op == "linear"]
    theirs = [operation for operation in file.operations if operation.weight]
    for op, operation in zip(linear, theirs, strict=False):
        if not isinstance(op.layer, Conv):
            continue
        before, after = op.layer.pad
        ours = {"stride": op.layer.stride, "pad": before, "pad_after": after, "group": op.columns}
        for name, value in operation.settings.items():
            # Dense filters with zeros stand for groups.
            if name in ours and ours[name] != value and not (name == "group" and value == 1):
                yield f"{name} of {op.module} is {value}, and {ours[name]} in {net.title}"
    pools = [op for op in ops if op.op == "max_pool"]
    for op, operation in zip(pools, _operations(file, "max_pool"), strict=False):
        yield from _differences_of_pool(op, operation, architecture.pool, net)
    norms = _operations(file, "lrn")
    # Caffe's layers sum over all maps.
    columns = {int(norm.settings.get("columns", 1)) for norm in norms}
    if norms and columns != {architecture.lrn_columns}:
        across = architecture.lrn_columns == 1
        yield f"its LRN sums {'inside' if across else 'across'} groups, unlike {net.title}"
    known = architecture.spatial_norm
    for operation in _operations(file, "spatial_norm"):
        s = operation.settings
        pairs = [(s["size"], known.size_px), (s["k"], known.k), (s["alpha"], known.alpha)]
        if not all(_nearly_equal(a, b) for a, b in [*pairs, (s["beta"], known.beta)]):
            yield f"its normalization inside maps has other constants than that of {net.title}"


def _differences_of_pool(op: Op, operation: Operation, pool: Pool, net: Net) -> Iterator[str]:
    """Where a pool of a file is another than that of a network, in words."""
    s = operation.settings
    ours = {"size": pool.size_px, "stride": pool.stride, "pad": 0, "pad_after": 0}
    for name, value in ours.items():
        if s[name] != value:
            yield f"{name} of {op.module} is {s[name]}, and {value} in {net.title}"
            return
    side = pooled_px(op.in_shape[1], pool.size_px, pool.stride, bool(s["ceil_mode"]))
    if side != op.shape[1]:
        yield (
            f"{op.module} makes {side} pixels of {op.in_shape[1]}, since its ceil_mode is "
            f"{s['ceil_mode']}, and {op.shape[1]} in {net.title}"
        )


def _operations(file: WeightFile, kind: str) -> list[Operation]:
    return [operation for operation in file.operations if operation.kind == kind]


def order_of_plan(ops: tuple[Op, ...], factors: bool = False) -> dict[str, tuple[str, ...]]:
    """What follows each layer of a plan, by the kinds of `Operation`.

    Args:
        factors: Dropout is a factor in use, as in its form of 2012. False: it does nothing there.
    """
    result: dict[str, tuple[str, ...]] = {}
    for op in ops:
        after = result.setdefault(op.layer.name, ())
        if op.op != "linear" and (op.op != "dropout" or factors):
            kind = "mul" if op.op == "dropout" else op.op
            result[op.layer.name] = (*after, kind)
    return result


def order_of_file(file: WeightFile) -> list[tuple[str, ...]]:
    """What follows each layer of a file; empty if the file has weights alone."""
    result: list[tuple[str, ...]] = []
    for operation in file.operations:
        if operation.weight:
            result.append(())
        elif result and operation.kind != "dropout" and not _does_nothing(operation):
            result[-1] = (*result[-1], operation.kind)
    # Probabilities are in the order of the outputs.
    if result and result[-1] == ("softmax",):
        result[-1] = ()
    return result


def _does_nothing(operation: Operation) -> bool:
    """Whether it is the mean of windows of one pixel: torchvision's adaptive pool, once written."""
    s = operation.settings
    return operation.kind == "avg_pool" and (s["size"], s["stride"], s["pad"]) == (1, 1, 0)


def says_rgb(file: WeightFile) -> bool:
    """Whether a file says itself that its images are R, G, B, as our own ONNX files do."""
    return "RGB" in file.metadata.get("input", "")


def is_bgr(identity: Identity, net: Net) -> bool | None:
    """Whether the images of a network have the order B, G, R; None if the file does not tell."""
    if says_rgb(identity.file):
        return False
    # A run of ours is for R, G, B, and ports of Caffe's nets to PyTorch have the same names.
    if net.bgr and identity.named is not None and identity.named.layout == "ours":
        return None
    return net.bgr


def factors_of(file: WeightFile) -> list[Array]:
    """The factors that a file applies after its first layer, such as the 0.5 of 2012's dropout."""
    names = [operation.weight for operation in file.operations]
    first = next((i for i, name in enumerate(names) if name), 0)
    later = file.operations[first:]
    return [file.arrays[operation.constant] for operation in later if operation.kind == "mul"]


def not_understood(file: WeightFile) -> str:
    """What a file computes that no AlexNet does, in words; empty if there is nothing."""
    for operation in file.operations:
        if operation.kind not in KINDS:
            what = operation.kind or "a layer without a type"
            name = f" ({operation.name})" if operation.name else ""
            return f"it has {what}{name}, which no AlexNet that is known has"
    if isinstance(before := preprocessing_of(file), str):
        return before
    factors = factors_of(file)
    if any(factor.size != 1 or not 0 < factor.item() < 1 for factor in factors):
        return "it multiplies by constants that are not the factor of a dropout (0 to 1)"
    if any(a.item() != b.item() for a, b in pairwise(factors)):
        return "it multiplies by different numbers after its layers, and dropout has one rate"
    norms = [{"columns": 1} | operation.settings for operation in _operations(file, "lrn")]
    if not norms:
        return ""
    if not all(math.isfinite(value) for norm in norms for value in norm.values()):
        return "its LRN has constants that are not finite"
    if any(norm != norms[0] for norm in norms):
        return "its LRN operations have different constants, and those of an AlexNet are the same"
    # Of an even n the programs take one map more on one side, and our formula on both.
    n = norms[0]["n"]
    if not 1 <= n < MOST_MAPS or n % 2 == 0:
        return f"its LRN sums over {n} maps, and that of an AlexNet over an odd number"
    return ""


def _with_constants(architecture: Architecture, file: WeightFile) -> Architecture:
    """Take what a file says of its LRN, its pools and its dropout; see `not_understood`."""
    factors = factors_of(file)
    dropout = replace(architecture.dropout, form="inverted")
    if factors:
        dropout = Dropout(_round(1 - factors[0].item()), "2012")
    architecture = replace(architecture, dropout=dropout)
    if norms := _operations(file, "lrn"):
        architecture = replace(architecture, lrn=_lrn_of(norms[0], architecture.lrn))
    if pools := _operations(file, "max_pool"):
        architecture = replace(architecture, pool=_pool_of(pools, architecture.pool))
    return architecture


def _lrn_of(norm: Operation, known: Lrn) -> Lrn:
    """The constants of a file."""
    s = norm.settings
    n = int(s["n"])
    in_file = Lrn(n, _round(s["k"]), _round(s["alpha"]) / n, _round(s["beta"]))
    # The config keeps its own digits.
    pairs = zip(_values(in_file), _values(known), strict=True)
    return known if all(_nearly_equal(a, b) for a, b in pairs) else in_file


def _pool_of(pools: list[Operation], known: Pool) -> Pool:
    """The window of all pools of a file; the known one if they differ, which is then a difference.

    Windows reach over the border as in the known network, unless the file has another window.
    """
    windows = {(int(pool.settings["size"]), int(pool.settings["stride"])) for pool in pools}
    size_px, stride = min(windows)
    if len(windows) > 1 or min(size_px, stride) < 1 or (size_px, stride) == _window(known):
        return known
    return Pool(size_px, stride, any(pool.settings["ceil_mode"] for pool in pools))


def _window(pool: Pool) -> tuple[int, int]:
    """The size and the stride of a pool, in pixels."""
    return pool.size_px, pool.stride


def _nearly_equal(a: float, b: float) -> bool:
    """Whether two numbers are equal up to the 32 bits of a file."""
    return abs(a - b) <= 1e-6 * abs(b)


def _round(value: float) -> float:
    """A number of 32 bits with the digits that it was written with."""
    return float(f"{value:.7g}")


def _values(lrn: Lrn) -> tuple[float, ...]:
    return lrn.n, lrn.k, lrn.alpha, lrn.beta
