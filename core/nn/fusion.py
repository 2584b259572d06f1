"""What Sequential does at once: batch norm and relu, relu and the maximum of 2x2 blocks, or all three; linear layers and activations.

Only where nobody can tell: layers of exactly these classes, without hooks, and only with kernels whose fused forms give the bits of
their parts: on the CPU compiled loops in float32, on a GPU our own. Exporters and summaries hook the layers and so see each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..graph import apply
from ..ops.fused import BATCH_NORM_RELU, BATCH_NORM_RELU_POOL, RELU_POOL, served
from ..tensor import Tensor
from . import fusion_linear
from .activation import ReLU
from .hooks import is_plain
from .linear import Linear
from .norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .pool import MaxPool2d

FEWEST_CHANNELS = 16
"""With fewer the fused maximum is not faster."""
_NORMS = frozenset({BatchNorm1d, BatchNorm2d, BatchNorm3d})
_FIRST = _NORMS | {ReLU}
_TWO = ((2, 2), (2, 2), (0, 0), (1, 1))


def available(input: Any) -> bool:
    """Whether there are kernels for it where ``input`` lies."""
    return isinstance(input, Tensor) and (served(input.array) or fusion_linear.available(input))


def run(modules: Sequence[Any], input: Any) -> Any:
    """The output of the last module, each applied to the output of the one before."""
    at, last = 0, len(modules) - 1
    joins = fusion_linear.available(input)
    while at <= last:
        module = modules[at]
        if at == last:
            pass
        elif type(module) in _FIRST:
            taken, output = _together(modules[at : at + 3], input)
            if taken:
                at, input = at + taken, output
                continue
        elif joins and type(module) is Linear:
            taken, output = fusion_linear.together(modules[at:], input, is_plain)
            if taken:
                at, input = at + taken, output
                continue
        input = module(input)
        at += 1
    return input


def _together(modules: Sequence[Any], input: Any) -> tuple[int, Any]:
    """How many of the modules were done at once, and their output; 0 if one must come after the other."""
    first = modules[0]
    if not isinstance(input, Tensor) or (type(first) is ReLU and type(modules[1]) is not MaxPool2d):
        return 0, None
    array = input.array
    if not served(array):
        return 0, None
    if type(first) is ReLU:
        if is_plain(first) and _halves(modules[1], array.shape):
            return 2, apply(RELU_POOL, input)
        return 0, None
    if type(modules[1]) is not ReLU or not is_plain(modules[1]) or not is_plain(first) or not first.fits(array):
        return 0, None
    if len(modules) == 3 and _halves(modules[2], array.shape):
        return 3, first.by_batch(input, BATCH_NORM_RELU_POOL)
    return 2, first.by_batch(input, BATCH_NORM_RELU)


def _halves(module: Any, shape: tuple[int, ...]) -> bool:
    """Whether a module takes the maximum of 2x2 blocks of images of ``shape`` (N, C, H, W)."""
    return (
        type(module) is MaxPool2d
        and is_plain(module)
        and not module.return_indices
        and not module.ceil_mode
        and (_pair(module.kernel_size), _pair(module.stride), _pair(module.padding), _pair(module.dilation)) == _TWO
        and len(shape) == 4
        and shape[0] > 0
        and shape[1] >= FEWEST_CHANNELS
        and min(shape[2:]) >= 2
    )


def _pair(value: Any) -> tuple[int, ...]:
    return (value, value) if isinstance(value, int) else tuple(value)
