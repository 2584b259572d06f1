"""Picking elements by position. Positions are attributes: arrays without gradient.

A position that is picked several times gets the sum of its gradients, added in the order in which it was picked.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import array_module, device_kind
from ..errors import RangeError, ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from ..part import Part, simple
from .arithmetic import Gradients, Needs


class PositionError(RangeError, IndexError):
    """A position outside of a tensor."""


def beside(x: Array, key: Any) -> Any:
    """``key`` with its arrays where ``x`` lies: positions may come from the host."""
    if isinstance(x, np.ndarray):
        return key
    if isinstance(key, tuple):
        return tuple([beside(x, part) for part in key])
    return array_module(x).asarray(key) if isinstance(key, np.ndarray) else key


def _index(x: Array, key: Any) -> tuple[Array, Any]:
    key = beside(x, key)
    try:
        return x[key], (x.shape, key)
    except IndexError as error:
        raise PositionError(f"index {_described(key)} of a tensor of shape {tuple(x.shape)}: {error}") from None


def _described(key: Any) -> str:
    parts = key if isinstance(key, tuple) else (key,)
    return ", ".join(f"array{part.shape}" if hasattr(part, "shape") else str(part) for part in parts)


def _picks_once(key: Any) -> bool:
    """Whether no element can be picked twice: slices, ints, None, Ellipsis and at most boolean arrays."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(not hasattr(part, "dtype") or part.dtype.kind == "b" or part.ndim == 0 for part in parts)


def at(ufunc: Any, target: Array, key: Any, values: Array) -> None:
    """``ufunc.at(target, key, values)``: every value is taken, in order. Three times as fast where positions are one number.

    Raises IndexError for a position outside; on a GPU that wraps around.
    """
    if device_kind(target) != "cpu":
        _at_on_device(ufunc, target, key, values)
        return
    flat = _flat(key, target.shape) if target.flags.c_contiguous else None
    if flat is None:
        ufunc.at(target, key, values)
    else:
        given = values if np.shape(values) == flat.shape else np.broadcast_to(values, flat.shape)
        ufunc.at(target.reshape(-1), flat.reshape(-1), given.reshape(-1))


def add_at(target: Array, key: Any, values: Array) -> None:
    """``at`` for a sum."""
    at(np.add, target, key, values)


def _at_on_device(ufunc: Any, target: Array, key: Any, values: Array) -> None:
    """The values of one place are sorted together, in order; CuPy's own ``at`` adds in the order of chance."""
    xp = array_module(target)
    places = xp.arange(target.size).reshape(target.shape)[key]
    given = xp.broadcast_to(xp.asarray(values, target.dtype), places.shape).reshape(-1)
    places = places.reshape(-1)
    if ufunc is np.add:
        sums = kernel("embedding_backward", "cuda")(given[:, None], places, target.size)
        target += sums.reshape(target.shape)
        return
    order = xp.argsort(places, kind="stable")
    places, given = places[order], given[order]
    count = xp.arange(len(places)) - xp.searchsorted(places, places)
    for turn in range(int(count.max()) + 1 if len(places) else 0):
        now = count == turn
        where = xp.unravel_index(places[now], target.shape)
        target[where] = ufunc(target[where], given[now])


def _flat(key: Any, shape: tuple[int, ...]) -> Array | None:
    """Positions in the flattened array, of one integer array for each dimension; None for other keys, or if one is outside."""
    parts = key if isinstance(key, tuple) else (key,)
    if len(parts) != len(shape) or not all(hasattr(part, "dtype") and part.dtype.kind in "iu" for part in parts):
        return None
    flat: Any = 0
    for part, size in zip(parts, shape, strict=True):
        if part.size and (part.min() < -size or part.max() >= size):
            return None
        flat = flat * size + np.where(part < 0, part + size, part)
    return flat if len(parts) else None


def _index_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    shape, key = saved
    if simple(key):
        return (Part(shape, [(key, gradient)]),)
    if hasattr(key, "dtype") and key.dtype.kind in "iu" and key.ndim and len(shape) > 1:
        return (_rows_vjp(gradient, key, shape),)
    dx = np.zeros_like(gradient, shape=shape)
    if _picks_once(key):
        dx[key] = gradient
    else:
        at(np.add, dx, key, gradient)
    return (dx,)


def _rows_vjp(gradient: Array, indices: Array, shape: tuple[int, ...]) -> Array:
    """Gradient of ``x[indices]`` for whole rows of x, which is an embedding's."""
    width = math.prod(shape[1:])
    if not width or not gradient.size:
        return np.zeros_like(gradient, shape=shape)
    rows = gradient.reshape(indices.shape + (width,))
    add = kernel("embedding_backward", device_kind(gradient))
    return add(rows, indices % shape[0], shape[0]).reshape(shape)


INDEX = define("index", _index, _index_vjp)


def _index_select(x: Array, axis: int, index: Array) -> tuple[Array, Any]:
    if index.ndim > 1:
        raise ShapeError(f"index_select: an index of 1 dimension expected, got shape {tuple(index.shape)}")
    index = beside(x, index)
    try:
        return np.take(x, index.reshape(-1), axis=axis), (x.shape, axis, index.reshape(-1))
    except IndexError as error:
        raise PositionError(f"index_select along dimension {axis} of shape {tuple(x.shape)}: {error}") from None


def _index_select_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    shape, axis, index = saved
    moved = np.moveaxis(gradient, axis, 0)
    size = shape[axis]
    others = shape[: axis % len(shape)] + shape[axis % len(shape) + 1 :]
    if not others:
        dx = np.zeros_like(gradient, shape=shape)
        add_at(dx, index, gradient)
        return (dx,)
    return (np.moveaxis(_rows_vjp(moved, index, (size, *others)), 0, axis),)


INDEX_SELECT = define("index_select", _index_select, _index_select_vjp)


def grid(index: Array, axis: int) -> tuple[Array, ...]:
    """Positions of ``index``'s elements, with ``index`` itself along ``axis``."""
    positions = lanes(index)
    positions[axis] = index
    return tuple(positions)


def lanes(index: Array) -> list[Array]:
    """For each axis of ``index`` its positions, so shaped that together they broadcast to ``index``'s shape."""
    arange = array_module(index).arange
    return [
        arange(size).reshape([-1 if i == axis else 1 for i in range(index.ndim)])
        for axis, size in enumerate(index.shape)
    ]


def _gather(x: Array, axis: int, index: Array) -> tuple[Array, Any]:
    if x.ndim == 0 and index.ndim == 0:
        return x.copy(), (x.shape, ())
    if index.ndim != x.ndim or any(
        i > n for d, (i, n) in enumerate(zip(index.shape, x.shape, strict=True)) if d != axis % x.ndim
    ):
        raise ShapeError(
            f"gather: the index, of shape {tuple(index.shape)}, must fit into the tensor's shape {tuple(x.shape)} "
            f"but for dimension {axis}"
        )
    positions = grid(beside(x, index), axis)
    try:
        return x[positions], (x.shape, positions)
    except IndexError as error:
        raise PositionError(f"gather along dimension {axis} of shape {tuple(x.shape)}: {error}") from None


def _gather_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    shape, positions = saved
    dx = np.zeros_like(gradient, shape=shape)
    at(np.add, dx, positions, gradient)
    return (dx,)


GATHER = define("gather", _gather, _gather_vjp)
