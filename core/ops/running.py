"""Running products, extrema and sums of exponentials along one axis; ``reduce`` has the running sum.

A 0-d array counts as one element.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from ..bfloat16 import is_floating
from ..op import Array, define
from .arithmetic import Gradients, Needs, floating
from .indexing import add_at, lanes


def accumulate(ufunc: np.ufunc, x: Array, axis: int) -> Array:
    """``ufunc.accumulate``. CuPy has it for sums and products alone: there each round joins runs of twice the length."""
    if isinstance(x, np.ndarray):
        return ufunc.accumulate(x, axis=axis)
    y = x.copy()
    moved = np.moveaxis(y, axis, 0)
    distance = 1
    while distance < len(moved):
        moved[distance:] = ufunc(moved[distance:], moved[:-distance])
        distance *= 2
    return y


def _logaddexp(x: Array, axis: int) -> Array:
    return accumulate(np.logaddexp, x, axis)


def _backwards(x: Array, axis: int, accumulate: Any = np.add.accumulate) -> Array:
    """Running sums from the end."""
    return np.flip(accumulate(np.flip(x, axis), axis=axis), axis)


def _cumprod(x: Array, axis: int) -> tuple[Array, Any]:
    if x.ndim == 0:
        return x.copy(), (x, x, None)
    y = np.multiply.accumulate(x, axis=axis, dtype=x.dtype if is_floating(x.dtype) else np.int64)
    return y, (x, y, axis)


def _cumprod_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """Sums from the end of gradient * y, divided by x. The first 0 gets the products without it, what follows gets 0."""
    x, y, axis = saved
    if axis is None:
        return (gradient,)
    zeros = np.add.accumulate(x == 0, axis=axis, dtype=np.int64)
    first = (x == 0) & (zeros == 1)
    one = x.dtype.type(1)
    before = _backwards(gradient * y, axis) / np.where(zeros > 0, one, x)
    without = np.multiply.accumulate(np.where(first, one, x), axis=axis)
    at_first = _backwards(gradient * without, axis)
    return (np.where(zeros == 0, before, np.where(first, at_first, x.dtype.type(0))),)


CUMPROD = define("cumprod", _cumprod, _cumprod_vjp)


def _extreme(ufunc: np.ufunc) -> Any:
    def forward(x: Array, axis: int) -> tuple[tuple[Array, Array], Any]:
        """Values, and where each was seen last."""
        if x.ndim == 0:
            return (x.copy(), np.zeros_like(x, dtype=np.int64)), None
        values = accumulate(ufunc, x, axis)
        shape = [1] * x.ndim
        shape[axis] = x.shape[axis]
        places = array_module(x).arange(x.shape[axis]).reshape(shape)
        seen = np.where((x == values) | (x != x), places, 0)
        return (values, accumulate(np.maximum, seen, axis)), (axis, seen)

    return forward


def _extreme_vjp(saved: Any, gradient: tuple[Array, None], needs: Needs, slots: Any) -> Gradients:
    given = gradient[0]
    if saved is None:
        return (given,)
    axis, seen = saved
    indices = np.moveaxis(accumulate(np.maximum, seen, axis), axis, -1)
    dx = np.zeros_like(np.moveaxis(given, axis, -1), order="C")
    add_at(dx, (*lanes(indices)[:-1], indices), np.moveaxis(given, axis, -1))
    return (np.moveaxis(dx, -1, axis),)


CUMMAX = define("cummax", _extreme(np.maximum), _extreme_vjp, differentiable=(0,))
CUMMIN = define("cummin", _extreme(np.minimum), _extreme_vjp, differentiable=(0,))


def _logcumsumexp(x: Array, axis: int) -> tuple[Array, Any]:
    """log of the running sums of exp(x), by ``logaddexp`` from one element to the next."""
    x = floating(x)
    if x.ndim == 0:
        return x.copy(), None
    y = _logaddexp(x, axis)
    return y, (x, y, axis)


def _logcumsumexp_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """Sums from the end of gradient * exp(x - y); positive and negative parts in logarithms, for nothing to overflow."""
    if saved is None:
        return (gradient,)
    x, y, axis = saved
    parts = []
    with np.errstate(divide="ignore", invalid="ignore"):
        for part in (np.maximum(gradient, 0), np.maximum(-gradient, 0)):
            logs = np.where(y == -np.inf, y, np.log(part) - y)
            parts.append(np.exp(_backwards(logs, axis, _logaddexp) + x))
    return (np.where(x == -np.inf, x.dtype.type(0), parts[0] - parts[1]),)


LOGCUMSUMEXP = define("logcumsumexp", _logcumsumexp, _logcumsumexp_vjp)
