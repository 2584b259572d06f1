"""Elementwise kernels for arrays that lie densely in memory, in whatever order of their dimensions.

A loop runs over the elements as they lie; the result lies as the input does. So images with channels last keep their layout.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ...op import Array
from ..bound import FLOAT32, PLAIN
from .compiled import Loop


def dense(x: Array) -> Array:
    """``x`` if its elements lie densely and aligned, else a copy of it for which that is so."""
    flags = x.ravel("K").flags
    return x.copy() if flags.owndata or not flags.aligned else x


def alike(x: Array, y: Array) -> Array:
    """``x`` in the order of the dimensions in which the dense ``y`` lies: itself or a copy."""
    if x.strides == y.strides and x.flags.aligned:
        return x
    placed = np.empty_like(y)
    placed[...] = x
    return placed


def of_one(run: Loop, reference: Callable[..., Array]) -> Callable[..., Array]:
    """A kernel ``y = f(x, *numbers)``; what is not float32 goes to the reference."""

    def forward(x: Array, *numbers: float) -> Array:
        if x.dtype is not FLOAT32:
            return reference(x, *numbers)
        if x.flags.num & PLAIN != PLAIN:
            x = dense(x)
        y = np.empty_like(x)
        if numbers:
            numbers = tuple(map(float, numbers))
        run(x.size, x.ravel("K"), y.ravel("K"), *numbers)
        return y

    return forward


def of_two(run: Loop, reference: Callable[..., Array]) -> Callable[..., Array]:
    """A kernel ``dx = f(gradient, x, *numbers)`` for two arrays of one shape; what is not float32 goes to the reference."""

    def backward(gradient: Array, x: Array, *numbers: float) -> Array:
        if gradient.dtype is not FLOAT32 or x.dtype is not FLOAT32 or gradient.shape != x.shape:
            return reference(gradient, x, *numbers)
        if gradient.flags.num & x.flags.num & PLAIN != PLAIN:
            x = dense(x)
            gradient = alike(gradient, x)
        dx = np.empty_like(x)
        if numbers:
            numbers = tuple(map(float, numbers))
        run(x.size, gradient.ravel("K"), x.ravel("K"), dx.ravel("K"), *numbers)
        return dx

    return backward
