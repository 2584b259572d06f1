"""Reference kernels: what often follows each other, in one: batch norm, relu, the maximum of 2x2 blocks.

They are made of the kernels for the parts. Dimensions as there: N samples, C channels, images (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference_norm import batch_norm_backward, batch_norm_train
from .reference_pool import max_pool_backward, max_pool_forward
from .window import Window

HALVES = Window((2, 2), (2, 2), (0, 0), (1, 1))
"""2x2 blocks side by side."""
SHUT = 4
"""What is added to the winner's number where relu lets nothing through."""


def batch_norm_relu(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """The positive part of batch norm by the batch's own statistics: y (N, C, ...), mean, M2 and inverse_std (C,)."""
    return batch_norm_train(x, weight, bias, eps, relu=True)


def batch_norm_relu_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None, y: Array
) -> tuple[Array, Array, Array]:
    """Gradients of input (N, C, ...), weight (C,) and bias (C,)."""
    return batch_norm_backward(gradient, x, mean, inverse_std, weight, True, positive=y)


def batch_norm_add_relu(
    x: Array, other: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array]:
    """The positive part of batch norm plus ``other``, which is as x: y (N, C, ...), mean, M2 and inverse_std (C,)."""
    y, *rest = batch_norm_train(x, weight, bias, eps)
    y = y + other
    return array_module(x).maximum(y, 0, out=y), *rest


def batch_norm_add_relu_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, y: Array
) -> tuple[Array, Array, Array, Array]:
    """Gradients of input and of what was added to its norm (N, C, ...), of weight (C,) and bias (C,)."""
    through = gradient * (y > 0)
    dx, dw, db = batch_norm_backward(through, x, mean, inverse_std, weight, True)
    return dx, through, dw, db


def relu_pool(x: Array) -> tuple[Array, Array]:
    """Positive part of the maximum of 2x2 blocks: x (N, C, H, W) -> y (N, C, H / 2, W / 2) and the winners' numbers, uint8.

    The number counts a block's elements in row-major order, the first of equals; ``SHUT`` more where relu lets nothing through.
    """
    xp = array_module(x)
    y, index = max_pool_forward(x, HALVES)
    y = xp.maximum(y, 0)
    return y, index + xp.where(y > 0, np.uint8(0), np.uint8(SHUT))


def relu_pool_backward(gradient: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Each gradient goes to its block's winner, if relu let that through: gradient (N, C, H / 2, W / 2) -> (N, C, H, W) = ``shape``."""
    return max_pool_backward(gradient * (index < SHUT), index & np.uint8(3), shape, HALVES)


def batch_norm_relu_pool(
    x: Array, weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array, Array, Array]:
    """``relu_pool`` of batch norm by the batch's own statistics: y, mean, M2 and inverse_std (C,), and the winners' numbers."""
    y, mean, deviations, inverse_std = batch_norm_train(x, weight, bias, eps)
    pooled, index = relu_pool(y)
    return pooled, mean, deviations, inverse_std, index


def batch_norm_relu_pool_backward(
    gradient: Array, x: Array, mean: Array, inverse_std: Array, weight: Array | None, index: Array
) -> tuple[Array, Array, Array]:
    """Gradients of input (N, C, H, W), weight (C,) and bias (C,)."""
    return batch_norm_backward(relu_pool_backward(gradient, index, x.shape), x, mean, inverse_std, weight, True)


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_relu": batch_norm_relu,
    "batch_norm_relu_backward": batch_norm_relu_backward,
    "batch_norm_add_relu": batch_norm_add_relu,
    "batch_norm_add_relu_backward": batch_norm_add_relu_backward,
    "relu_pool": relu_pool,
    "relu_pool_backward": relu_pool_backward,
    "batch_norm_relu_pool": batch_norm_relu_pool,
    "batch_norm_relu_pool_backward": batch_norm_relu_pool_backward,
}
