"""Convolution on the device as a matrix product with the unfolded input, and unfolding alone: what serves where cuDNN does not.

The unfolded input has its channels last, so that a product gives an output that has, too. It is done for as many samples at a time as
fit into ``UNFOLDED_BYTES``, which is a function of shapes alone. Weights are summed over these in order, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ...backend import array_module
from .. import reference_conv
from ..reference import deliver
from ..table import kernel
from ..window import Size, Window
from . import channels_last
from .launch import launch, suffix
from .pool import BLOCK, MOST_BLOCKS, of_window, packed, takes

Array = Any
UNFOLDED_BYTES = 1 << 28


def _blocks(threads: int) -> int:
    return min(-(-threads // BLOCK), MOST_BLOCKS)


class _Moving:
    """A window over images (N, S, C) in groups: what unfolds them and folds them back."""

    def __init__(self, shape: Size, output: Size, window: Window, groups: int, dtype: Any) -> None:
        self.channels, self.size, self.output, self.groups = shape[1], shape[2:], output, groups
        self.geometry = of_window(shape[2:], output, window)
        self.dtype = dtype
        self.elements, self.places = math.prod(window.kernel), math.prod(output)
        self.width = self.elements * shape[1] // groups
        each = max(1, self.places * self.elements * shape[1] * dtype.itemsize)
        self.samples = max(1, min(shape[0], UNFOLDED_BYTES // each))
        self.alone = window.is_pointwise() and groups == 1

    def _run(self, name: str, source: Array, samples: int, target: Array) -> None:
        whole = packed(np.int32(self.channels // self.groups), self.dtype, source, target)
        threads = target.size // (16 // self.dtype.itemsize) if whole else target.size
        launch(
            "im2col", f"{name}_{suffix(self.dtype)}", _blocks(threads), BLOCK, source, samples, *self.geometry,
            np.int32(self.channels), whole, np.int32(self.groups), target,
        )  # fmt: skip

    def unfold(self, x: Array) -> Array:
        """(n, S, C) -> (G, n P, K C/G)."""
        if self.alone:
            return x.reshape(1, len(x) * self.places, self.channels)
        columns = array_module(x).empty((self.groups, len(x) * self.places, self.width), self.dtype)
        self._run("unfold_last", x, len(x), columns)
        return columns

    def fold(self, columns: Array, target: Array) -> None:
        """(G, n P, K C/G) -> ``target`` (n, S, C)."""
        if self.alone:
            target[...] = columns.reshape(target.shape)
        else:
            self._run("fold_last", columns, len(target), target)

    def parts(self, samples: int) -> Iterator[slice]:
        """So many samples at a time."""
        return (slice(at, min(at + self.samples, samples)) for at in range(0, samples, self.samples))


def _matrix(weight: Array, groups: int) -> Array:
    """Weights (O, C/G, K) as G matrices (G, O/G, K C/G), C-contiguous."""
    last = channels_last.arranged(weight)
    return last.reshape(groups, weight.shape[0] // groups, math.prod(weight.shape[1:]))


def _in_groups(x: Array, groups: int) -> Array:
    """(n, P, C) -> (G, n P, C/G), C-contiguous."""
    width = x.shape[-1] // groups
    if groups == 1:
        return x.reshape(1, x.size // width, width)
    moved = x.reshape(x.size // x.shape[-1], groups, width).transpose(1, 0, 2)
    return array_module(x).ascontiguousarray(moved)


def _takes(x: Array, weight: Array, *others: Array) -> bool:
    return takes(x, weight, *others) and all(array.dtype == x.dtype for array in (weight, *others))


def conv_forward(x: Array, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> Array:
    """As ``reference_conv.conv_forward``; y has its channels last."""
    output = window.output(x.shape[2:])
    if not _takes(x, weight) or not math.prod(output):
        return reference_conv.conv_forward(x, weight, bias, window, groups)
    last, matrix = channels_last.arranged(x), _matrix(weight, groups)
    moving = _Moving(x.shape, output, window, groups, x.dtype)
    y = channels_last.empty((x.shape[0], weight.shape[0]) + output, x)
    for part in moving.parts(x.shape[0]):
        columns, target = moving.unfold(last[part]), y[part]
        if groups == 1:
            found = kernel("linear_forward", "cuda")(columns[0], matrix[0], bias)
            target[...] = found.reshape(target.shape)
            continue
        found = kernel("matmul", "cuda")(columns, matrix.swapaxes(1, 2))  # (G, n P, O/G)
        target[...] = found.transpose(1, 0, 2).reshape(target.shape)
        if bias is not None:
            target += bias
    return channels_last.to_first(y)


def conv_input_gradient(gradient: Array, weight: Array, shape: Size, window: Window, groups: int = 1) -> Array:
    """As ``reference_conv.conv_input_gradient``; dx has its channels last."""
    if not _takes(gradient, weight) or not math.prod(shape):
        return reference_conv.conv_input_gradient(gradient, weight, shape, window, groups)
    last, matrix = channels_last.arranged(gradient), _matrix(weight, groups)
    moving = _Moving(tuple(shape), gradient.shape[2:], window, groups, gradient.dtype)
    dx = channels_last.empty(tuple(shape), gradient)
    for part in moving.parts(shape[0]):
        rows = _in_groups(last[part], groups)
        if groups == 1:
            columns = kernel("linear_input_gradient", "cuda")(rows[0], matrix[0])[None]
        else:
            columns = kernel("matmul", "cuda")(rows, matrix)
        moving.fold(columns, dx[part])
    return channels_last.to_first(dx)


def conv_weight_gradient(
    gradient: Array, x: Array, shape: Size, window: Window, groups: int = 1, out: Array | None = None
) -> Array:
    """As ``reference_conv.conv_weight_gradient``."""
    if not _takes(gradient, x) or not math.prod(shape):
        return reference_conv.conv_weight_gradient(gradient, x, shape, window, groups, out)
    xp, given, last = array_module(x), channels_last.arranged(gradient), channels_last.arranged(x)
    moving = _Moving(x.shape, gradient.shape[2:], window, groups, x.dtype)
    total = None
    for part in moving.parts(x.shape[0]):
        columns, rows = moving.unfold(last[part]), _in_groups(given[part], groups)
        found = xp.empty((groups, shape[0] // groups, moving.width), np.float32)
        if groups == 1:
            kernel("linear_weight_gradient", "cuda")(rows[0], columns[0], found[0])
        else:
            found[...] = kernel("matmul", "cuda")(rows.swapaxes(1, 2), columns)
        total = found if total is None else total + found
    assert total is not None
    whole = total.reshape((shape[0],) + tuple(window.kernel) + (shape[1],))
    return deliver(xp.ascontiguousarray(channels_last.to_first(whole)), x.dtype, out)


# ---- unfolding alone -------------------------------------------------------------------------------------------------


def unfold_windows(x: Array, window: Window) -> Array:
    """As ``reference_conv.unfold_windows``."""
    output = window.output(x.shape[2:])
    if not takes(x) or not math.prod(output):
        return reference_conv.unfold_windows(x, window)
    xp, samples = array_module(x), x.shape[0] * x.shape[1]
    columns = xp.empty((x.shape[0], x.shape[1] * math.prod(window.kernel), math.prod(output)), x.dtype)
    launch(
        "im2col", f"unfold_first_{suffix(x.dtype)}", _blocks(columns.size), BLOCK, xp.ascontiguousarray(x), samples,
        *of_window(x.shape[2:], output, window), np.int32(1), columns,
    )  # fmt: skip
    return columns


def fold_windows(columns: Array, size: Size, window: Window) -> Array:
    """As ``reference_conv.fold_windows``."""
    output, channels = window.output(size), columns.shape[1] // math.prod(window.kernel)
    if not takes(columns) or not math.prod(size):
        return reference_conv.fold_windows(columns, size, window)
    xp, samples = array_module(columns), columns.shape[0] * channels
    target = xp.empty((columns.shape[0], channels) + tuple(size), columns.dtype)
    launch(
        "im2col", f"fold_first_{suffix(columns.dtype)}", _blocks(target.size), BLOCK, xp.ascontiguousarray(columns), samples,
        *of_window(tuple(size), output, window), np.int32(1), target,
    )  # fmt: skip
    return target


KERNELS: dict[str, Callable[..., Any]] = {
    "conv_forward": conv_forward,
    "conv_input_gradient": conv_input_gradient,
    "conv_weight_gradient": conv_weight_gradient,
    "unfold_windows": unfold_windows,
    "fold_windows": fold_windows,
}
