"""Writing elements to positions, out of place, and the diagonal. Positions are attributes: arrays without gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from ..errors import ShapeError
from ..op import Array, define
from .arithmetic import Gradients, Needs
from .indexing import PositionError, at, beside


def _described(key: Any, shape: tuple[int, ...]) -> str:
    return f"positions of a tensor of shape {tuple(shape)}"


def _index_put(x: Array, values: Array, key: Any, accumulate: bool = False) -> tuple[Array, Any]:
    """``x`` with ``values`` at ``key``; of values for one place the last counts, with ``accumulate`` their sum is added."""
    y, key = x.copy(), beside(x, key)
    try:
        if accumulate:
            at(np.add, y, key, values)
        else:
            y[key] = values
    except IndexError as error:
        raise PositionError(f"index_put: {_described(key, x.shape)}: {error}") from None
    except ValueError as error:
        raise ShapeError(
            f"index_put: values of shape {np.shape(values)} into {_described(key, x.shape)}: {error}"
        ) from None
    return y, (key, accumulate)


def _index_put_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """Each value gets what its place got; what was overwritten gets 0."""
    key, accumulate = saved
    dx = gradient if needs[0] else None
    if needs[0] and not accumulate:
        dx = gradient.copy()
        dx[key] = 0
    return dx, gradient[key] if needs[1] else None


INDEX_PUT = define("index_put", _index_put, _index_put_vjp)

_REDUCING = {"prod": np.multiply, "amax": np.maximum, "amin": np.minimum}


def _scatter_reduce(x: Array, values: Array, key: Any, reduce: str) -> tuple[Array, Any]:
    """``x`` reduced with the ``values`` that fall on each of its places, by "prod", "amax" or "amin"."""
    y, key = x.copy(), beside(x, key)
    try:
        at(_REDUCING[reduce], y, key, values)
    except IndexError as error:
        raise PositionError(f"scatter_reduce: {_described(key, x.shape)}: {error}") from None
    return y, (x, values, y, key, reduce)


def _scatter_reduce_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """Equal extrema share evenly. A product's part is the product of the others: over those that are not 0, and times 0 or
    without the only 0 where there are zeros."""
    x, values, y, key, reduce = saved
    if reduce != "prod":
        own, given = x == y, values == y[key]
        count = own.astype(gradient.dtype)
        at(np.add, count, key, given.astype(gradient.dtype))
        part = gradient / np.maximum(count, 1)
        return part * own if needs[0] else None, part[key] * given if needs[1] else None
    one = x.dtype.type(1)
    zeros = (x == 0).astype(np.int64)
    at(np.add, zeros, key, (values == 0).astype(np.int64))
    rest = np.where(x == 0, one, x)
    at(np.multiply, rest, key, np.where(values == 0, one, values))

    def others(part: Array, zeros: Array, rest: Array) -> Array:
        mine = part == 0
        return np.where(zeros - mine > 0, x.dtype.type(0), rest / np.where(mine, one, part))

    dx = gradient * others(x, zeros, rest) if needs[0] else None
    return dx, gradient[key] * others(values, zeros[key], rest[key]) if needs[1] else None


SCATTER_REDUCE = define("scatter_reduce", _scatter_reduce, _scatter_reduce_vjp)


def _diagonal(x: Array, offset: int = 0, axis1: int = 0, axis2: int = 1) -> tuple[Array, Any]:
    """A view of the diagonal of two axes, as the last axis."""
    return np.diagonal(x, offset, axis1, axis2), (x.shape, offset, axis1, axis2)


def _diagonal_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    shape, offset, axis1, axis2 = saved
    dx = np.zeros_like(gradient, shape=shape, order="C")
    moved = np.moveaxis(dx, (axis1, axis2), (-2, -1))
    i = array_module(gradient).arange(gradient.shape[-1])
    moved[..., i - min(offset, 0), i + max(offset, 0)] = gradient
    return (dx,)


DIAGONAL = define("diagonal", _diagonal, _diagonal_vjp)
