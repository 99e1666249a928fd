"""The fastest of several ways to compute the same on this GPU, found out by a short trial.

How fast cuDNN computes a convolution of few channels, or one in groups, differs from card to card
and from version to version by more than any rule foresees. Whether the pass between convolutions is
faster in Triton or in CUDA C++ has been measured on no card. So each shape is tried once: forward
and gradients, in a CUDA graph, as a training step runs them. The choice is kept in the user's cache
and holds for this card, this PyTorch and this cuDNN. The ways differ in rounding.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch.autograd.graph import saved_tensors_hooks

from alexnet.files import in_turn, parse_json, user_cache, write_whole

CudaWay = Callable[..., torch.Tensor]
"""Computes a result from x, a weight, and further arguments that are not tensors."""

WARM_UP_RUNS = 3
"""Runs before a capture, in which libraries choose their kernels and take their memory."""
TURNS = 5
"""Measurements of each way; the shortest counts."""
MARGIN = 0.9
"""Another way than the first must take less than this share of its time, as in `trial.py`: where
other processes use the card, too, the times of one way differ."""
REPLAYS = 10
"""Replays of the graph in one measurement, so that the events around them cost nothing."""

_CHOSEN: dict[str, str] = {}
"""Names of the ways that this process has chosen, by `_key`."""


def possible(x: torch.Tensor) -> bool:
    """Whether a trial may decide what computes x: on CUDA, unless the bits must be the same."""
    return x.is_cuda and not torch.are_deterministic_algorithms_enabled()


def fastest(
    ways: Mapping[str, CudaWay], x: torch.Tensor, weight: torch.Tensor, *arguments: object
) -> CudaWay:
    """Return the fastest of the ways to compute a result from x, a weight and further arguments.

    Args:
        ways: By name. The first one is taken where no trial can be made.
        x, weight: On CUDA. Their gradients are part of the trial where they are required.
        arguments: Further arguments of the ways.
    """
    default = next(iter(ways))
    if len(ways) == 1:
        return ways[default]
    key = _key(ways, x, weight, arguments)
    if key not in _CHOSEN:
        # A capture records operations and runs none, so nothing can be measured in it.
        if torch.cuda.is_current_stream_capturing():
            return ways[default]
        _CHOSEN[key] = _read(key, ways) or _tried(key, ways, x, weight, arguments)
    return ways[_CHOSEN[key]]


def _key(
    ways: Mapping[str, CudaWay],
    x: torch.Tensor,
    weight: torch.Tensor,
    arguments: tuple[object, ...],
) -> str:
    """What a choice depends on, in words."""
    tensors = [
        f"{tuple(tensor.shape)} {tensor.stride()} {tensor.dtype} gradient {tensor.requires_grad}"
        for tensor in (x, weight)
    ]
    return "; ".join([_where(x.device), *tensors, str(arguments), " or ".join(ways)])


def _where(device: torch.device) -> str:
    """The part of a key that is the same for all trials of this card."""
    # Not `cudnn.allow_tf32`, the older switch: PyTorch raises if a newer one contradicts it.
    conv = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    tf32 = "TF32; " if conv.fp32_precision == "tf32" else ""
    return f"{_card(device)}; {tf32}torch {torch.__version__}; cuDNN {_cudnn()}"


def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


def _cudnn() -> int | None:
    return torch.backends.cudnn.version()  # type: ignore[no-untyped-call, no-any-return]


def _tried(
    key: str,
    ways: Mapping[str, CudaWay],
    x: torch.Tensor,
    weight: torch.Tensor,
    arguments: tuple[object, ...],
) -> str:
    """Measure each way, keep the result, and return the name of the fastest one.

    Where another process has been first, its choice holds.
    """
    turns: dict[str, Callable[[], float]] = {}
    # Streams and events are those of the current GPU, which need not be that of x.
    with torch.cuda.device_of(x), ExitStack() as held:  # type: ignore[no-untyped-call]
        for name, way in ways.items():
            try:
                turns[name] = turn_of(with_gradients(way, x, weight, arguments))
            # cuDNN may have no kernel for a way, or the memory may not suffice for it. The first
            # way is the ordinary one, whose error is the user's.
            except RuntimeError:
                if not turns:
                    raise
        # One process after the other: on a card that they share, each would measure the others,
        # too. Not before the graphs are there, because a way may make a trial of its own. Without a
        # folder nothing is kept, as `_write` says.
        with suppress(OSError):
            _folder().mkdir(parents=True, exist_ok=True)
            held.enter_context(in_turn(_folder().with_suffix(".lock")))
        if (earlier := _read(key, ways)) is not None:
            return earlier
        # In turns: another program may take the card for a while.
        rounds = [{name: turn() for name, turn in turns.items()} for _ in range(TURNS)]
        seconds = {name: min(times[name] for times in rounds) for name in turns}
        default, best = next(iter(ways)), min(seconds, key=lambda name: seconds[name])
        chosen = best if seconds[best] < MARGIN * seconds[default] else default
        _write(key, chosen, seconds)
    return chosen


def with_gradients(
    way: CudaWay, x: torch.Tensor, weight: torch.Tensor, arguments: tuple[object, ...]
) -> Callable[[], object]:
    """Return a function that computes a result and the gradients that a training step needs."""
    with torch.inference_mode(False):
        # A tensor that was made in inference mode cannot get a gradient; its copy can.
        leaves = [
            (tensor.clone() if tensor.is_inference() else tensor)
            .detach()
            .requires_grad_(tensor.requires_grad or tensor is weight)
            for tensor in (x, weight)
        ]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]

    def run() -> object:
        # Without the caller's hooks on saved tensors: those of `torch.utils.checkpoint` would
        # compute the caller's function again, and with it the trial.
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
        ):
            y = way(*leaves, *arguments)
            # Any gradient will do; the values themselves need no random numbers.
            return torch.autograd.grad(y, wanted, y.detach())

    return run


def turn_of(run: Callable[[], object]) -> Callable[[], float]:
    """Capture a CUDA graph of `run`; return a function that measures its seconds on the GPU.

    In a graph, because otherwise the host might need longer to launch the kernels than the GPU to
    compute them.
    """
    graph = captured(run)
    first, last = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )

    def turn() -> float:
        first.record()
        for _ in range(REPLAYS):
            graph.replay()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3 / REPLAYS

    turn()  # the clock of an idle GPU is low
    return turn


def captured(
    run: Callable[[], object], warm_up: Callable[[], object] | None = None
) -> torch.cuda.CUDAGraph:
    """Record a function as a CUDA graph.

    Args:
        run: The function.
        warm_up: What runs before the capture instead, where `run` would change something.
    """
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_RUNS):
            (warm_up or run)()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as NCCL's, may call CUDA in the meantime.
    # Without a stream, PyTorch takes one of the GPU on which the first graph was captured.
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        run()
    return graph


def choices_on_file() -> dict[str, str]:
    """The choices of every trial that was ever made on this card with this PyTorch and cuDNN."""
    files = (_parsed(file) for file in sorted(_folder().glob("*.json")))
    here = f"{_where(torch.device('cuda'))}; "
    return {key: chosen for key, chosen in files if key.startswith(here)}


def in_words(choices: Mapping[str, str]) -> str:
    """Count the shapes of each way: "3 grouped, 1 in blocks, 2 Triton"."""
    counts = Counter(choices.values())
    return ", ".join(f"{counts[name]} {name}" for name in sorted(counts))


def _folder() -> Path:
    return user_cache() / "cuda-trials"


def _file(key: str) -> Path:
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return _folder() / f"{name}.json"


def _parsed(file: Path) -> tuple[str, str]:
    """Return the key and the choice in a file; two empty words if it is damaged or not there."""
    try:
        content = parse_json(file.read_bytes())
    except (OSError, ValueError):
        return "", ""
    entries = content if isinstance(content, dict) else {}
    return str(entries.get("key", "")), str(entries.get("chosen", ""))


def _read(key: str, ways: Mapping[str, CudaWay]) -> str | None:
    """Return the choice of an earlier process; None without one, or if the file is damaged."""
    try:
        key_there, chosen = _parsed(_file(key))
    except OSError:  # there is no folder for a cache
        return None
    # The whole key, because the name of the file is only a part of its hash.
    return chosen if key_there == key and chosen in ways else None


def _write(key: str, chosen: str, seconds: Mapping[str, float]) -> None:
    """Keep a choice for later processes; called by one process after the other."""
    kept = {"key": key, "chosen": chosen, "seconds": dict(seconds)}
    try:
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_whole(_file(key), json.dumps(kept, indent=1).encode())
    except OSError as error:
        # The next process tries again, which takes some seconds.
        print(f"warning: the choice of a kernel is not kept: {error}", file=sys.stderr)
