"""What Sequential does at once: batch norm and relu, relu and the maximum of 2x2 blocks, or all three; on a GPU linear layers.

Only where nobody can tell: layers of exactly these classes, without hooks, in float32, and only with compiled loops, whose fused forms
give the bits of their parts. Exporters and summaries hook the layers and so see each of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..graph import apply
from ..kernels import reference_fused
from ..kernels.table import kernel
from ..ops.fused import BATCH_NORM_RELU, BATCH_NORM_RELU_POOL, RELU_POOL
from ..tensor import Tensor
from . import fusion_linear
from .activation import ReLU
from .linear import Linear
from .module import Module
from .norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from .pool import MaxPool2d

FEWEST_CHANNELS = 16
"""With fewer the fused maximum is not faster."""
_NORMS = frozenset({BatchNorm1d, BatchNorm2d, BatchNorm3d})
_FIRST = _NORMS | {ReLU}
_TWO = ((2, 2), (2, 2), (0, 0), (1, 1))


def available(input: Any) -> bool:
    """Whether there are kernels for it where ``input`` lies."""
    return kernel("relu_pool") is not reference_fused.relu_pool or fusion_linear.available(input)


def run(modules: Sequence[Any], input: Any) -> Any:
    """The output of the last module, each applied to the output of the one before."""
    at = 0
    while at < len(modules):
        module = modules[at]
        if type(module) in _FIRST and at + 1 < len(modules):
            taken, output = _together(modules[at : at + 3], input)
            if taken:
                at, input = at + taken, output
                continue
        elif type(module) is Linear and at + 1 < len(modules):
            taken, output = fusion_linear.together(modules[at:], input, _is_plain)
            if taken:
                at, input = at + taken, output
                continue
        input = module(input)
        at += 1
    return input


def _together(modules: Sequence[Any], input: Any) -> tuple[int, Any]:
    """How many of the modules were done at once, and their output; 0 if one must come after the other."""
    if not isinstance(input, Tensor) or not isinstance(input.array, np.ndarray) or input.array.dtype != np.float32:
        return 0, None
    first, array = modules[0], input.array
    if type(first) is ReLU:
        if _is_plain(first) and _halves(modules[1], array.shape):
            return 2, apply(RELU_POOL, input)
        return 0, None
    if type(modules[1]) is not ReLU or not _is_plain(modules[1]) or not _is_plain(first) or not _fits(first, array):
        return 0, None
    if len(modules) == 3 and _halves(modules[2], array.shape):
        return 3, first.by_batch(input, BATCH_NORM_RELU_POOL)
    return 2, first.by_batch(input, BATCH_NORM_RELU)


def _is_plain(module: Module) -> bool:
    """Whether a call is nothing but the class's own forward."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in module.__dict__
    )


def _fits(norm: Any, array: Any) -> bool:
    """Whether a batch norm takes this input, by the batch's own statistics."""
    return (
        (norm.training or norm.running_mean is None)
        and array.ndim in norm.dimensions
        and array.shape[1] == norm.num_features
        and array.size > array.shape[1]
        and all(p is None or p.array.dtype == np.float32 for p in (norm.weight, norm.bias))
    )


def _halves(module: Any, shape: tuple[int, ...]) -> bool:
    """Whether a module takes the maximum of 2x2 blocks of images of ``shape`` (N, C, H, W)."""
    return (
        type(module) is MaxPool2d
        and _is_plain(module)
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
