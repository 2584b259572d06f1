"""Ops that move elements without computing: views where NumPy gives views, copies else."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import ShapeError
from ..op import Array, define
from .arithmetic import Gradients, Needs

Shape = tuple[int, ...]


def _reshape(x: Array, shape: Shape) -> tuple[Array, Shape]:
    try:
        return x.reshape(shape), x.shape
    except ValueError:
        raise ShapeError(
            f"reshape: {x.size} elements of shape {tuple(x.shape)} do not fit shape {tuple(shape)}"
        ) from None


def _reshape_vjp(shape: Shape, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (gradient.reshape(shape),)


RESHAPE = define("reshape", _reshape, _reshape_vjp)


def _permute(x: Array, axes: Shape) -> tuple[Array, Shape]:
    try:
        return x.transpose(axes), axes
    except ValueError:
        raise ShapeError(f"permute: {axes} does not name each dimension of shape {tuple(x.shape)} once") from None


def _permute_vjp(axes: Shape, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    inverse = [0] * len(axes)
    for position, axis in enumerate(axes):
        inverse[axis] = position
    return (gradient.transpose(inverse),)


PERMUTE = define("permute", _permute, _permute_vjp)


def _transpose(x: Array, dim0: int, dim1: int) -> tuple[Array, tuple[int, int]]:
    try:
        return x.swapaxes(dim0, dim1), (dim0, dim1)
    except ValueError:
        raise ShapeError(f"transpose: dimensions {dim0} and {dim1} of a tensor of shape {tuple(x.shape)}") from None


def _transpose_vjp(dims: tuple[int, int], gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (gradient.swapaxes(*dims),)


TRANSPOSE = define("transpose", _transpose, _transpose_vjp)


def _expand(x: Array, shape: Shape) -> tuple[Array, None]:
    """-1 keeps a size; the graph sums the gradient down."""
    extra = len(shape) - x.ndim
    full = tuple(x.shape[i - extra] if size == -1 and i >= extra else size for i, size in enumerate(shape))
    try:
        return np.broadcast_to(x, full), None
    except ValueError:
        raise ShapeError(
            f"expand: shape {tuple(x.shape)} to {tuple(shape)}: only dimensions of size 1 can grow, new ones come first"
        ) from None


def _expand_vjp(saved: None, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (gradient,)


EXPAND = define("expand", _expand, _expand_vjp)


def _cat(*arrays: Array, axis: int = 0) -> tuple[Array, Any]:
    # PyTorch lets empty 1-D arrays join anything
    joined = [a for a in arrays if a.shape != (0,)] or list(arrays)
    try:
        y = np.concatenate(joined, axis=axis)
    except ValueError:
        raise ShapeError(
            f"cat: shapes {', '.join(str(tuple(a.shape)) for a in arrays)} must be equal but for dimension {axis}"
        ) from None
    return y, (tuple(a.shape for a in arrays), axis)


def _cat_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    shapes, axis = saved
    axis %= gradient.ndim
    before = (slice(None),) * axis
    gradients: list[Array | None] = []
    start = 0
    for shape, needed in zip(shapes, needs, strict=True):
        if len(shape) != gradient.ndim:  # an empty 1-D array
            gradients.append(np.empty_like(gradient, shape=shape) if needed else None)
            continue
        stop = start + shape[axis]
        gradients.append(gradient[(*before, slice(start, stop))] if needed else None)
        start = stop
    return tuple(gradients)


CAT = define("cat", _cat, _cat_vjp)


def _stack(*arrays: Array, axis: int = 0) -> tuple[Array, int]:
    if len({a.shape for a in arrays}) > 1:
        raise ShapeError(f"stack: shapes {', '.join(str(tuple(a.shape)) for a in arrays)} must be equal")
    return np.stack(arrays, axis=axis), axis


def _stack_vjp(axis: int, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    before = (slice(None),) * (axis % gradient.ndim)
    return tuple(gradient[(*before, i)] if needed else None for i, needed in enumerate(needs))


STACK = define("stack", _stack, _stack_vjp)


def _flip(x: Array, axes: Shape) -> tuple[Array, Shape]:
    return np.flip(x, axes), axes


def _flip_vjp(axes: Shape, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (np.flip(gradient, axes),)


FLIP = define("flip", _flip, _flip_vjp)
