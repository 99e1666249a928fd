"""The network as a PyTorch module: every operation of the plan is a submodule.

    net = Network(recipes.paper().architecture)
    net.relu5.register_forward_hook(...)

`forward` runs the submodules. Where no hook, transform or tracer observes the values between them,
it computes several in one pass over memory, which gives the same values up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.fx
from torch import nn

from alexnet import layers
from alexnet.architecture import Op, plan
from alexnet.config import Architecture, Conv, Lrn, Pool
from alexnet.errors import ConfigError, DataError
from alexnet.layers import DropoutKey
from alexnet.ops import adds_bias, blocks, fast, norm_pool


class Network(nn.Module):
    """The network of an architecture.

    Submodules are named as in Caffe's layer list: `conv1`, `relu1`, `norm1`, `pool1`, ...,
    `drop7`, `fc8`; parameters are `conv1.weight`, `conv1.bias`, and so on. As in PyTorch, a new
    network is in training mode, in which dropout is active.

    Attributes:
        architecture: What the network was made from.
        plan: Every operation in order, with its shapes and the name of its module.
    """

    def __init__(
        self,
        architecture: Architecture,
        seed: int = 0,
        make: Callable[[Op, Architecture, torch.Generator], nn.Module] = layers.make,
    ) -> None:
        """Build the network with weights drawn from `seed`.

        Args:
            architecture: The table of layers and its settings.
            seed: Seed of the initial weights.
            make: Makes the module of an operation. A rank of a multi-process run has its own.

        Raises:
            ConfigError: The architecture is invalid (see `plan`), or a layer has the name of
                something else that a Network has.
            TypeError: It is the name of a recipe, or a whole config.
        """
        if not isinstance(architecture, Architecture):
            raise TypeError(
                f"a Network is made from an Architecture and not from a "
                f"{type(architecture).__name__}: Network(recipes.original().architecture)"
            )
        super().__init__()
        self.architecture = architecture
        self.plan = plan(architecture)
        self._passes = passes(self.plan)
        self._passes_with_bias = passes(self.plan, with_bias=True)
        self._input_shapes = _input_shapes(self.plan[0])
        # A generator of its own: weights depend on the seed alone, not on earlier random calls.
        generator = torch.Generator().manual_seed(seed)
        for op in self.plan:
            if hasattr(self, op.module):
                raise ConfigError(f"a layer may not be called {op.module!r}; rename the layer")
            self.add_module(op.module, make(op, architecture, generator))

    def forward(self, images: torch.Tensor, dropout_key: DropoutKey | None = None) -> torch.Tensor:
        """Compute the logits.

        Activations and products have the dtype of `images`. The exception is bfloat16 on a CPU:
        where float32 is faster, the products are float32 (`ops.trial`).

        Args:
            images: Preprocessed images, shape (N, 3, input_px, input_px); or in the blocks of a
                strided first convolution (`Preprocess.on_device`).
            dropout_key: Determines the dropout masks, in training mode. None: they come from
                PyTorch's own generator, as in `nn.Dropout`.

        Returns:
            Logits of shape (N, classes), float32, or float64 for float64 images.

        Raises:
            DataError: The images are not preprocessed, or a dropout key is given in eval mode.
        """
        x = _checked(images, self._input_shapes, dropout_key, self.training)
        # Under `torch.fx.symbolic_trace`, x is a placeholder and not a tensor.
        is_tensor = isinstance(x, torch.Tensor)
        with_bias = is_tensor and fast.unobserved(x) and adds_bias(x)
        for ops in self._passes_with_bias if with_bias else self._passes:
            # Looked up at every call, because a user may have exchanged a module.
            modules = [self.get_submodule(op.module) for op in ops]
            # On CUDA a pool alone is worth it too: the position of each maximum takes one byte
            # instead of eight.
            several = len(ops) > 1 or (with_bias and ops[0].op == "max_pool")
            if several and is_tensor and _can_fuse(ops, modules, x):
                x = _fused(modules, x)
            else:
                for module in modules:
                    x = _run(module, x, dropout_key)
        return _logits(x)

    def activations(
        self, images: torch.Tensor, dropout_key: DropoutKey | None = None
    ) -> dict[str, torch.Tensor]:
        """Compute every intermediate value, by name (`Op.name`), in order.

        The modules run one by one. Arguments and errors as in `forward`. The last value is that of
        the output layer, in the dtype of the images.
        """
        x = _checked(images, self._input_shapes, dropout_key, self.training)
        result: dict[str, torch.Tensor] = {}
        # Not by hooks: they would switch off the fast path for everyone else who uses the network.
        for op in self.plan:
            x = result[op.name] = _run(self.get_submodule(op.module), x, dropout_key)
        return result

    def first_weight(self) -> torch.Tensor:
        """Return the weights of the first layer, detached: (K, 3, S, S) where it has filters."""
        return self.get_parameter(f"{self.plan[0].module}.weight").detach()


@contextmanager
def evaluation_mode(*nets: nn.Module) -> Iterator[None]:
    """Inside, dropout does what it does at test time; afterwards each module is as it was."""
    # Module by module: `net.train()` would also turn on a part that a user has frozen by `eval()`.
    training = {module: module.training for net in nets for module in net.modules()}
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def passes(ops: tuple[Op, ...], with_bias: bool = False) -> tuple[tuple[Op, ...], ...]:
    """Group the operations that `ops.norm_pool` computes in a single pass over memory.

    A pass is [activation] [lrn] max_pool [activation], or activation lrn. Anything shorter gains
    nothing: a single operation is one pass over memory already.

    Args:
        with_bias: Begin a pass with the convolution before it, whose bias is added in the pass. It
            may then be as short as the activation, which would be one pass and the bias another.
    """
    groups: list[tuple[Op, ...]] = []
    start = 0
    while start < len(ops):
        first = ops[start]
        has_bias = with_bias and first.op == "linear" and isinstance(first.layer, Conv)
        before = 1 if has_bias else 0
        names = [op.op for op in ops[start + before : start + before + 4]]
        length = 0
        for optional in ("activation", "lrn"):
            if names[length : length + 1] == [optional]:
                length += 1
        if names[length : length + 1] == ["max_pool"]:
            length += 2 if names[length + 1 : length + 2] == ["activation"] else 1
        elif length < 2 and not has_bias:
            length = 1
        groups.append(ops[start : start + before + length])
        start += before + length
    return tuple(groups)


FUSIBLE = {"activation": nn.ReLU, "lrn": layers.ResponseNorm, "max_pool": nn.MaxPool2d}
"""The module that `ops.norm_pool` can stand for, by the operation of the plan."""


def _can_fuse(ops: Sequence[Op], modules: Sequence[nn.Module], x: torch.Tensor) -> bool:
    """Whether one pass over memory computes, up to rounding, what these modules compute."""
    # A user may have exchanged a module, given it a forward of its own, or hooked it.
    return (
        fast.unobserved(x)
        and all(
            _has_its_class(op, module)
            and (not isinstance(module, nn.MaxPool2d) or _is_plain_window(module))
            and "forward" not in vars(module)
            and not module._forward_hooks
            and not module._forward_pre_hooks
            and not module._backward_hooks
            and not module._backward_pre_hooks
            for op, module in zip(ops, modules, strict=True)
        )
        and not fast.any_global_hook()
    )


def _has_its_class(op: Op, module: nn.Module) -> bool:
    """Whether a module is of the class that the network makes for the operation."""
    if op.op == "linear":
        # A rank's convolution is a subclass with the same `forward`.
        return isinstance(module, layers.Conv2d) and type(module).forward is layers.Conv2d.forward
    return type(module) is FUSIBLE.get(op.op)


def _is_plain_window(pool: nn.MaxPool2d) -> bool:
    """Whether a pool has nothing that the fused pass lacks."""
    square = isinstance(pool.kernel_size, int) and isinstance(pool.stride, int)
    return square and pool.padding == 0 and pool.dilation == 1 and not pool.return_indices


def _fused(modules: Sequence[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """Compute the modules of one group of `passes` in one pass over memory."""
    # The constants are those of the modules and not of the architecture, so that the fast path
    # computes what the modules would, even after someone has changed `net.norm1.alpha`.
    norm = window = bias = None
    columns, training = 1, False
    if isinstance(convolution := modules[0], layers.Conv2d):
        modules = modules[1:]
        x, bias = convolution.convolve(x, None), convolution.bias
        training = convolution.training
    for module in modules:
        if isinstance(module, layers.ResponseNorm):
            norm = Lrn(module.n, module.k, module.alpha, module.beta)
            columns = module.columns
        elif isinstance(module, nn.MaxPool2d):
            # `_is_plain_window` has made sure of the types.
            size_px, stride = module.kernel_size, module.stride
            assert isinstance(size_px, int) and isinstance(stride, int)
            window = Pool(size_px, stride, module.ceil_mode)
    # A ReLU at the end of a group without a pool is the one at its beginning.
    relu = isinstance(modules[0], nn.ReLU)
    relu_after = window is not None and isinstance(modules[-1], nn.ReLU)
    return norm_pool(x, relu, norm, window, relu_after, columns, bias, training)


def _run(module: nn.Module, x: torch.Tensor, dropout_key: DropoutKey | None) -> torch.Tensor:
    """Run one module. Only our dropout knows keys; a module that replaced it may not."""
    y: torch.Tensor = module(x, dropout_key) if isinstance(module, layers.Dropout) else module(x)
    return y


def _input_shapes(first: Op) -> tuple[tuple[int, int, int], ...]:
    """The shapes of an image that a network takes: as pixels, and in blocks where it can be."""
    channels, side_px, _ = first.in_shape
    layer, ordinary = first.layer, (channels, side_px, side_px)
    if not isinstance(layer, Conv) or layer.stride == 1:
        return (ordinary,)
    return ordinary, blocks.shape(channels, side_px, layer.size_px, layer.stride, layer.pad)


def _checked(
    images: torch.Tensor,
    shapes: tuple[tuple[int, int, int], ...],
    dropout_key: DropoutKey | None,
    training: bool,
) -> torch.Tensor:
    """Return the images, or raise DataError if the network cannot take them."""
    # NumPy arrays and lists of images are what people try first.
    if not isinstance(images, torch.Tensor):
        raise DataError(
            f"the network takes a tensor of images; it was given {type(images).__name__}"
        )
    if not images.is_floating_point() or images.shape[1:] not in shapes:
        _, input_px, _ = shapes[0]
        raise DataError(
            f"the network takes preprocessed images, floating point, of shape (N, 3, {input_px}, "
            f"{input_px}); it was given {images.dtype} of shape {tuple(images.shape)}. "
            "alexnet.load(run) gives a trained network that preprocesses images itself"
        )
    if dropout_key is not None and not training:
        raise DataError("a dropout key has no effect in eval mode; call net.train() first")
    return images


def _logits(x: torch.Tensor) -> torch.Tensor:
    """Flatten the last values to (N, classes), in float32 at least: losses need the precision."""
    return x.flatten(1).to(torch.promote_types(x.dtype, torch.float32))


# See the end of `layers.py`.
torch.fx.wrap("_checked")
torch.fx.wrap("_logits")
