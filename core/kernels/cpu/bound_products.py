"""Linear layers of small batches for replays: what ``loops_products`` finds out from shapes at each call is found out once.

Whether several threads take another way is theirs to say, so only what serves any number of them is bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from ..bound import BOUND, FLOAT32
from . import loops_products as products
from . import loops_tiles
from .loops_elementwise import KERNELS as ELEMENTWISE
from .loops_embedding import column_sums

Shape = tuple[int, ...]
_relu, _relu_backward = ELEMENTWISE["relu_forward"], ELEMENTWISE["relu_backward"]


def _small(x: Array, weight: Array, bias: Array) -> Array:
    y = np.matmul(x, weight.T)
    y += bias
    return y


def _tiles(x: Shape, weight: Shape, relu: bool) -> Callable[..., Array] | None:
    if len(x) != 2 or not products.are_few_rows(x, weight):
        return None
    if not (products._sums_agree() and loops_tiles.has_forward(*x, weight[0])):
        return None
    return loops_tiles.bind_forward(*x, weight[0], relu)


def _forward(x: Shape, weight: Shape) -> Callable[..., Array] | None:
    if len(x) == 2 and math.prod(x) * weight[0] < products.SMALLEST_TURNED:
        return _small
    return _tiles(x, weight, False)


def _activation(x: Shape, weight: Shape, activation: str) -> Callable[..., tuple[Array, None]] | None:
    if activation != "relu":
        return None
    run = _forward(x, weight)
    if run is _small:
        return lambda x, weight, bias, activation: (_relu(_small(x, weight, bias)), None)
    behind = _tiles(x, weight, True)
    return None if behind is None else lambda x, weight, bias, activation: (behind(x, weight, bias), None)


def _like(shape: Shape) -> Array:
    """Stands for an array of this shape, without memory."""
    return np.broadcast_to(np.float32(0), shape)


def _is_small(gradient: Shape, other: Shape) -> bool:
    return len(gradient) == 2 and products._is_small(_like(gradient), _like(other))


def _input_gradient(gradient: Shape, weight: Shape) -> Callable[..., Array] | None:
    return np.matmul if _is_small(gradient, weight) else None


def _small_gradients(gradient: Array, x: Array, out: Array | None, bias_out: Array | None) -> tuple[Array, Array]:
    dw = np.matmul(gradient.T, x, out)
    return dw, column_sums(gradient, np.empty(gradient.shape[1], FLOAT32) if bias_out is None else bias_out)


def _of_tiles(gradient: Shape, x: Shape, relu: bool) -> Callable[..., tuple[Array, Array]] | None:
    if len(gradient) != 2 or math.prod(gradient) * x[1] < products.SMALLEST:
        return None
    if products._lie_apart(_like(gradient), x[1]):
        return None
    if not (products._sums_agree() and loops_tiles.has_gradients(*gradient, x[1], 1)):
        return None
    return loops_tiles.bind_gradients(*gradient, x[1], relu)


def _gradients(gradient: Shape, x: Shape) -> Callable[..., tuple[Array, Array]] | None:
    if _is_small(gradient, x):
        return _small_gradients
    run = _of_tiles(gradient, x, False)
    return None if run is None else lambda gradient, x, out, bias_out: run(gradient, x, gradient, out, bias_out)


def _activation_gradients(gradient: Shape, x: Shape, activation: str) -> Callable[..., tuple[Array, Array]] | None:
    if activation != "relu":
        return None
    if _is_small(gradient, x):
        return lambda gradient, x, y, aux, activation, out, bias_out: _small_gradients(
            _relu_backward(gradient, y), x, out, bias_out
        )
    run = _of_tiles(gradient, x, True)
    return (
        None
        if run is None
        else lambda gradient, x, y, aux, activation, out, bias_out: run(gradient, x, y, out, bias_out)
    )


BOUND.update(
    {
        products.linear_forward: _forward,
        products.linear_activation: _activation,
        products.linear_input_gradient: _input_gradient,
        products.linear_gradients: _gradients,
        products.linear_activation_gradients: _activation_gradients,
    }
)
KERNELS: dict[str, Callable[..., Any]] = {}
"""None of its own."""
