"""How a CPU multiplies fastest, layer by layer, by a short timed trial.

Some processors multiply bfloat16 twice as fast as float32, others slower, and some many times
slower, because they have no instructions for it; Winograd's tiles save multiplications, and blocks
of pixels fill the vectors of conv1, but neither is faster on every processor and for every shape;
and there are several libraries for a product of matrices. What a processor says of itself does not
tell. So the first time that a layer gets values on a CPU, its product is timed in each way that can
compute it: forward and backward in training, forward alone otherwise. In evaluation mode float32
values have a single way.

The batch is not a part of the question: a result must not depend on the other images of its batch.
The times are kept beside the compiled kernels, for processors with the features of this one, this
PyTorch and this number of threads. A process keeps its choices, and a run saves them, because they
decide the last bits.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch.autograd.graph import saved_tensors_hooks

from alexnet import native
from alexnet.files import in_turn, parse_json, write_whole
from alexnet.ops import blocks, fast, onednn, winograd

Method = Literal["direct", "tiles", "own tiles", "oneDNN", "blocks"]
"""How a layer computes a product.

- direct: by the library that PyTorch uses.
- tiles, own tiles: a convolution by Winograd's tiles, where they suit it. PyTorch multiplies the
  tiles, or `winograd.cpp`.
- oneDNN: a fully connected layer by oneDNN.
- blocks: a strided convolution over blocks of pixels.
"""


class Way(NamedTuple):
    """A way to compute a product: the dtype of the factors, and the method."""

    dtype: torch.dtype
    method: Method = "direct"


BFLOAT16, DIRECT, ONEDNN = "bfloat16", "float32", "float32 by oneDNN"
TILES, OWN_TILES = "float32 by tiles", "float32 by tiles, own products"
BLOCKS = "float32 in blocks"
WAYS = {
    BFLOAT16: Way(torch.bfloat16),
    DIRECT: Way(torch.float32),
    TILES: Way(torch.float32, "tiles"),
    OWN_TILES: Way(torch.float32, "own tiles"),
    ONEDNN: Way(torch.float32, "oneDNN"),
    BLOCKS: Way(torch.float32, "blocks"),
}
"""The ways by the names that files have for them. Sums are float32 in all of them."""
VERSION = 4
"""A part of the file's name; raised when a way or the trial changes, so that all is timed anew."""

# Images of a trial. The weights of a fully connected layer are cast at each step, which only a
# batch repays; so it is timed with the paper's batch, but with a part of its units.
IMAGES, CONNECTED_IMAGES, CONNECTED_UNITS = 8, 128, 512
FEW, CONNECTED_FEW = 1, 16
"""Images of a first look, where bfloat16 is one of the ways."""
HOPELESS = 3.0
"""If bfloat16 takes so many times as long as float32, it is not timed any further: without
instructions for it, a layer of the paper can take seconds."""
TURNS = 5
"""Number of times that each way is timed; the shortest time counts."""
MARGIN = 0.9
"""Another way than the usual one must take less than this share of its time: on a busy machine the
times of one way differ by more than what a tenth is worth. The usual one is float32 by PyTorch's
library, with tiles or in blocks where they are possible."""


@dataclass(frozen=True)
class Product:
    """The product of a layer, with all that its speed depends on.

    Attributes:
        kind: "convolution", "fully connected" or "locally connected".
        weight: Shape of the weights.
        inputs: Shape of an image's input.
        training: Whether the gradients are timed, too.
        input_gradient: Whether the gradient of the input is one of them; the images need none.
        values: Dtype of the values that the layer gets and returns.
        bias: Whether the layer adds its bias; a convolution by tiles or in blocks always does.
    """

    kind: str
    weight: tuple[int, ...]
    inputs: tuple[int, ...]
    training: bool
    input_gradient: bool
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    columns: int = 1
    values: torch.dtype = torch.bfloat16
    bias: bool = True

    def __str__(self) -> str:
        """The name in files."""
        sides = ["x".join(map(str, shape)) for shape in (self.weight, self.inputs)]
        text = f"{self.kind} {sides[0]} of {sides[1]}, columns {self.columns}"
        if self.values == torch.float32:
            text = f"float32 {text}"
        if self.kind == "convolution":
            text += f", stride {self.stride}, pad {self.pad[0]} and {self.pad[1]}"
            text += "" if self.bias else ", without bias"
        if not self.training:
            return f"{text}, test"
        return f"{text}, training" + ("" if self.input_gradient else " without input gradient")


Compute = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, Way], torch.Tensor]
"""Computes a layer from x, weight and bias in some way."""
Milliseconds = dict[str, float]
"""For each way that was tried, the time of an image."""

_CHOICES: dict[str, str] = {}
"""The ways that this process has chosen or was given, by the names of products and ways."""
_TRIAL = threading.Lock()


def way(
    kind: str,
    compute: Compute,
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    training: bool,
    stride: int = 1,
    pad: tuple[int, int] = (0, 0),
    columns: int = 1,
) -> Way:
    """Return the way to compute a product: on a CPU the fastest.

    On other devices and of float64 values a product has the dtype of x, and may be computed by
    tiles in training.

    Args:
        kind: As `Product` has it; the arguments after `compute` are those of the layer.
        compute: Computes the product of any number of images.
    """
    untimed = Way(x.dtype, "tiles" if training else "direct")
    timed = (torch.bfloat16, torch.float32) if training else (torch.bfloat16,)
    # The compiler can trace neither clocks nor files, and chooses for itself.
    if x.dtype not in timed or x.device.type != "cpu" or torch.compiler.is_compiling():
        return untimed
    product = Product(
        kind,
        tuple(weight.shape),
        tuple(x.shape[1:]),
        training,
        training and x.requires_grad,
        stride,
        pad,
        columns,
        x.dtype,
        bias is not None,
    )
    ways = _possible(product)
    if len(ways) == 1:
        return untimed
    name = str(product)
    # Looked up once: another thread may replace the choices at any moment (`install`).
    choice = _CHOICES.get(name)
    if choice is None:
        # Threads that use one network would otherwise disturb each other's timing.
        with _TRIAL:
            times = _times(name, ways)
            if times is None:
                # What observes the operations must see those of the layer alone. float32 is right
                # on any processor, and the question remains open.
                if not fast.unobserved(*(t for t in (x, weight, bias) if t is not None)):
                    return WAYS[DIRECT]
                mine = _try(product, ways, compute, weight, bias)
                times = _store_times(name, ways, mine)
            choice = _CHOICES[name] = _fastest(times, ways)
    # A run may be resumed where its way is missing.
    return WAYS[choice if choice in ways else DIRECT]


def chosen() -> dict[str, str]:
    """The choices of this process, in a form that a file can hold, for `install`."""
    return dict(_CHOICES)


def install(choices: Any) -> None:
    """Replace the choices of this process.

    Args:
        choices: What `chosen` returned, perhaps in another version of this program: entries that
            have no meaning here are left out, and so is anything but a dictionary.
    """
    _CHOICES.clear()
    if isinstance(choices, Mapping):
        known = {name: choice for name, choice in choices.items() if isinstance(choice, str)}
        _CHOICES.update({name: choice for name, choice in known.items() if choice in WAYS})


def in_words(choices: Mapping[str, str]) -> str:
    """Count the products of each way: "5 in bfloat16, 3 in float32 by tiles"."""
    counts = Counter(choices.values())
    return ", ".join(f"{counts[name]} in {name}" for name in WAYS if counts[name])


def choices_on_file() -> dict[str, str]:
    """The fastest way of every product that was ever timed here with this number of threads."""
    return {name: _fastest(times, times) for name, times in _read().items()}


def _fastest(times: Milliseconds, ways: Collection[str]) -> str:
    """Return the fastest of these ways; of nearly equal ones the usual one."""
    best = min(ways, key=times.__getitem__)
    usual = next(name for name in (TILES, BLOCKS, DIRECT) if name in ways)
    return best if times[best] < MARGIN * times[usual] else usual


def _possible(product: Product) -> tuple[str, ...]:
    """The ways in which a product can be computed."""
    ways = [DIRECT] if product.values == torch.float32 else [BFLOAT16, DIRECT]
    if product.training:
        # In evaluation mode there is no choice: by tiles and by oneDNN the rounding depends on the
        # other images of the batch, and blocks gain by their gradient.
        weight, columns = product.weight, product.columns
        if product.kind == "convolution" and product.bias:
            tiles = winograd.suits(weight, product.stride, product.pad, columns)
            ways += [TILES, OWN_TILES] * tiles
            ways += [BLOCKS] * blocks.suits(product.inputs[0], product.stride, columns)
        if product.kind == "fully connected":
            ways += [ONEDNN] * onednn.suits(weight, columns)
    return tuple(ways)


def _try(
    product: Product,
    ways: Sequence[str],
    compute: Compute,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
) -> Milliseconds:
    """Time the ways in turns, in milliseconds for an image."""
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    images, few = IMAGES, FEW
    if product.kind == "fully connected":
        images, few = CONNECTED_IMAGES, CONNECTED_FEW
        if product.columns == 1:
            # The casts of the weights and all three products are proportional to the units.
            weight = weight[:CONNECTED_UNITS]
            bias = None if bias is None else bias[:CONNECTED_UNITS]
    elif TILES in ways:
        # Fewer would not be computed by tiles. A multiple, because tiles join images by fours.
        images *= math.ceil(winograd.MIN_PIXELS / math.prod(product.inputs[1:]) / images)

    def timed(name: str, count: int) -> float:
        return _milliseconds(product, compute, weight, bias, WAYS[name], count) / count

    # Gradients are needed even where the caller has turned them off. The caller's hooks on saved
    # tensors must not see those of the trial: the hooks of `torch.utils.checkpoint` would compute
    # the caller's function again, and with it this trial.
    with (
        torch.inference_mode(False),
        torch.set_grad_enabled(product.training),
        saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor),
    ):
        # The weights of a network that was made in inference mode cannot get gradients.
        weight = weight.clone() if weight.is_inference() else weight
        bias = bias.clone() if bias is not None and bias.is_inference() else bias
        # Twice, because the first time includes the generation of code.
        looked = (BFLOAT16, DIRECT) if BFLOAT16 in ways else ()
        looks = [{name: timed(name, few) for name in looked} for _ in range(2)]
        times = {name: min(look[name] for look in looks) for name in looked}
        left = list(ways)
        # In turns: another program may take the cores for a while.
        for turn in range(TURNS):
            if BFLOAT16 in left and times[BFLOAT16] > HOPELESS * times[DIRECT]:
                left.remove(BFLOAT16)
            if left == [DIRECT]:
                break
            for name in left:
                now = timed(name, images)
                # The first turn replaces the look, which was at fewer images.
                times[name] = min(times[name], now) if turn else now
    return times


def _milliseconds(
    product: Product,
    compute: Compute,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tried: Way,
    images: int,
) -> float:
    """Time one computation of a product, with the gradients that it has."""
    x = torch.ones((images, *product.inputs), dtype=product.values, device="cpu")
    if x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    # New leaves, so that nothing reaches the gradients or the graph of the caller.
    leaves = [weight.detach()] if bias is None else [weight.detach(), bias.detach()]
    if product.training:
        leaves = [leaf.requires_grad_() for leaf in leaves]
        x.requires_grad_(product.input_gradient)
    began_s = time.perf_counter()
    y = compute(x, leaves[0], None if bias is None else leaves[1], tried)
    if product.training:
        wanted = [x, *leaves] if product.input_gradient else leaves
        torch.autograd.grad(y, wanted, torch.ones_like(y))
    return 1000 * (time.perf_counter() - began_s)


def _times(name: str, ways: Sequence[str]) -> Milliseconds | None:
    """Return the times that are kept of a product; None if one of the ways was not tried."""
    times = _read().get(name, {})
    # A machine may have got a compiler since, and with it the tiles.
    return times if set(ways) <= times.keys() else None


def _file(make: bool = False) -> Path:
    """Return the file of these features of a processor, this PyTorch and this number of threads.

    Args:
        make: Make its folder if it is not there.

    Raises:
        OSError: Its folder is not there or cannot be made, or others can write to it.
    """
    # The name of the library of the tiles has the checksum of its text and of its compiler.
    tiles = native.winograd()
    name = None if tiles is None else Path(str(tiles._name)).name
    key = [VERSION, native.processor(), torch.__version__, torch.get_num_threads(), name]
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    return native.private_folder(make) / f"products-{digest}.json"


def _read() -> dict[str, Milliseconds]:
    """Return the times that are kept for this machine; nothing of a file that is damaged."""
    try:
        times = parse_json(_file().read_bytes())
    except (OSError, ValueError):
        return {}
    right = isinstance(times, dict) and all(
        isinstance(by_way, dict)
        and {DIRECT} <= by_way.keys() <= WAYS.keys()
        and all(type(ms) is float and ms > 0 for ms in by_way.values())
        for by_way in times.values()
    )
    return times if right else {}


def _store_times(name: str, ways: Sequence[str], mine: Milliseconds) -> Milliseconds:
    """Add the times of a product to the file, and return those that hold.

    Where another process was first, all take its times. Without a file they hold only for this
    process.
    """
    try:
        path = _file(make=True)
        # One process after the other, so that none removes what another has added.
        with in_turn(path.with_suffix(".lock")):
            if (times := _times(name, ways)) is not None:
                return times
            write_whole(path, json.dumps(_read() | {name: mine}, indent=1).encode())
    # A cache that cannot be written is not an error; `native` says so where it matters.
    except OSError:
        pass
    return mine
