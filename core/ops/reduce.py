"""Reductions along axes. ``axis`` is None (all), an int or a tuple of ints; ``keepdims`` keeps reduced axes with size 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..bfloat16 import is_floating
from ..errors import DTypeError, ShapeError
from ..op import Array, define
from .arithmetic import Gradients, Needs, no_vjp

Axis = int | tuple[int, ...] | None

add: Any = np.add.reduce
multiply: Any = np.multiply.reduce


def _reducing(ufunc: np.ufunc, method: str) -> Any:
    """``ufunc.reduce``; CuPy knows it as a method of its arrays only."""
    numpys: Any = ufunc.reduce

    def reduce(x: Array, axis: Axis = 0, keepdims: bool = False) -> Array:
        if isinstance(x, np.ndarray):
            return numpys(x, axis=axis, keepdims=keepdims)
        return getattr(x, method)(axis=axis, keepdims=keepdims)

    return reduce


maximum = _reducing(np.maximum, "max")
minimum = _reducing(np.minimum, "min")
logical_or = _reducing(np.logical_or, "any")
logical_and = _reducing(np.logical_and, "all")


def _kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """``shape`` with the reduced axes at size 1."""
    if axis is None:
        return (1,) * len(shape)
    axes = (axis,) if isinstance(axis, int) else axis
    reduced = {a % len(shape) for a in axes} if shape else set()
    return tuple(1 if i in reduced else size for i, size in enumerate(shape))


def _spread(gradient: Array, shape: tuple[int, ...], axis: Axis, keepdims: bool) -> Array:
    """The reverse of a sum: ``gradient`` repeated along the reduced axes."""
    spread = np.empty_like(gradient, shape=shape)
    spread[...] = gradient if keepdims or axis is None else gradient.reshape(_kept(shape, axis))
    return spread


def _total(x: Array, axis: Axis, keepdims: bool) -> Array:
    """Sum; integers in int64, float16 in float32."""
    if not is_floating(x.dtype):
        return add(x, axis=axis, keepdims=keepdims, dtype=np.int64)
    if x.dtype == np.float16:
        return add(x, axis=axis, keepdims=keepdims, dtype=np.float32)
    return add(x, axis=axis, keepdims=keepdims)


def _sum(x: Array, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Any]:
    total = _total(x, axis, keepdims)
    return total.astype(np.float16) if x.dtype == np.float16 else total, (x.shape, axis, keepdims)


def _sum_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (_spread(gradient, *saved),)


SUM = define("sum", _sum, _sum_vjp)


def _mean(x: Array, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Any]:
    if not is_floating(x.dtype):
        raise DTypeError(f"mean expects a floating dtype, got {x.dtype}: convert with .float() first")
    total = _total(x, axis, keepdims)
    count = x.size // total.size if total.size else math.prod(x.shape[a] for a in _axes(axis, x.ndim))
    y = total / count if count else total * math.nan
    return y.astype(x.dtype, copy=False), (x.shape, axis, keepdims, count)


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return (axis,) if isinstance(axis, int) else axis


def _mean_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    shape, axis, keepdims, count = saved
    return (_spread(gradient / max(count, 1), shape, axis, keepdims),)


MEAN = define("mean", _mean, _mean_vjp)


# ---- extrema ---------------------------------------------------------------------------------------------------------


def _not_empty(name: str, x: Array, axis: Axis) -> None:
    if x.size == 0 and any(x.shape[a] == 0 for a in _axes(axis, x.ndim)):
        where = "" if axis is None else f" along dimension {axis}"
        raise ShapeError(f"{name} of no elements{where}: shape {tuple(x.shape)} has a size of 0 there")


def _extreme(name: str, reduce: Any) -> Any:
    def forward(x: Array, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Any]:
        _not_empty(name, x, axis)
        y = reduce(x, axis=axis, keepdims=keepdims)
        return y, (x, y, axis, keepdims)

    return forward


def _extreme_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """Equal extrema share the gradient evenly."""
    x, y, axis, keepdims = saved
    if not keepdims:
        kept = _kept(x.shape, axis)
        y, gradient = y.reshape(kept), gradient.reshape(kept)
    chosen = (x == y).astype(gradient.dtype)
    return (chosen * (gradient / add(chosen, axis=axis, keepdims=True)),)


AMAX = define("amax", _extreme("amax", maximum), _extreme_vjp)
AMIN = define("amin", _extreme("amin", minimum), _extreme_vjp)


def _choosing(name: str, find: Any) -> Any:
    def forward(x: Array, axis: int, keepdims: bool = False) -> tuple[tuple[Array, Array], Any]:
        _not_empty(name, x, axis)
        if x.ndim == 0:
            return (x.copy(), np.zeros_like(x, dtype=np.int64)), (x, None, 0, True)
        indices = np.expand_dims(find(x, axis=axis), axis)
        values = np.take_along_axis(x, indices, axis)
        saved = (x, indices, axis, keepdims)
        if not keepdims:
            values, indices = values.squeeze(axis), indices.squeeze(axis)
        return (values, indices), saved

    return forward


def _choosing_vjp(saved: Any, gradient: tuple[Array, None], needs: Needs, slots: Any) -> Gradients:
    x, indices, axis, keepdims = saved
    given = gradient[0]
    if indices is None:
        return (given,)
    dx = np.zeros_like(x)
    np.put_along_axis(dx, indices, given if keepdims else np.expand_dims(given, axis), axis)
    return (dx,)


MAX = define("max", _choosing("max", np.argmax), _choosing_vjp, differentiable=(0,))
MIN = define("min", _choosing("min", np.argmin), _choosing_vjp, differentiable=(0,))


# ---- products and running sums ---------------------------------------------------------------------------------------


def _prod(x: Array, axis: int | None = None, keepdims: bool = False) -> tuple[Array, Any]:
    if not is_floating(x.dtype):
        return multiply(x, axis=axis, keepdims=keepdims, dtype=np.int64), None
    return multiply(x, axis=axis, keepdims=keepdims), (x, axis, keepdims)


def _exclusive(x: Array) -> Array:
    """Products of all elements before each along the last axis."""
    before = np.ones_like(x)
    np.cumprod(x[..., :-1], axis=-1, out=before[..., 1:])
    return before


def _prod_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """The product of the others is that of those before times that of those behind: right for zeros, too."""
    x, axis, keepdims = saved
    last = x.reshape(-1) if axis is None else np.moveaxis(x, axis, -1)
    others = _exclusive(last) * _exclusive(last[..., ::-1])[..., ::-1]
    others = others.reshape(x.shape) if axis is None else np.moveaxis(others, -1, axis)
    return (others * (gradient if keepdims else gradient.reshape(_kept(x.shape, axis))),)


PROD = define("prod", _prod, _prod_vjp)


def _cumsum(x: Array, axis: int) -> tuple[Array, int]:
    if x.ndim == 0:
        return x.copy(), axis
    return np.add.accumulate(x, axis=axis, dtype=np.int64 if not is_floating(x.dtype) else x.dtype), axis


def _cumsum_vjp(axis: int, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    if gradient.ndim == 0:
        return (gradient,)
    return (np.flip(np.add.accumulate(np.flip(gradient, axis), axis=axis), axis),)


CUMSUM = define("cumsum", _cumsum, _cumsum_vjp)


def _norm(x: Array, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Any]:
    """Square root of the sum of squares."""
    y = np.sqrt(_total(x * x, axis, keepdims)).astype(x.dtype, copy=False)
    return y, (x, y, axis, keepdims)


def _norm_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """x / norm; 0 where the norm is 0."""
    x, y, axis, keepdims = saved
    if not keepdims:
        kept = _kept(x.shape, axis)
        y, gradient = y.reshape(kept), gradient.reshape(kept)
    return (x * (gradient / np.where(y == 0, 1, y)).astype(x.dtype, copy=False),)


NORM = define("norm", _norm, _norm_vjp)


def _p_norm(x: Array, p: float, axis: Axis = None, keepdims: bool = False) -> tuple[Array, Any]:
    """(sum |x|^p)^(1/p) for a finite p other than 0 and 2."""
    if p == 1:
        y = _total(np.abs(x), axis, keepdims)
    else:
        with np.errstate(divide="ignore"):
            y = _total(np.abs(x) ** p, axis, keepdims) ** (1.0 / p)
    return y.astype(x.dtype, copy=False), (x, y, p, axis, keepdims)


def _p_norm_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """sign(x) (|x| / norm)^(p-1); 0 where x or the norm is 0."""
    x, y, p, axis, keepdims = saved
    if not keepdims:
        kept = _kept(x.shape, axis)
        y, gradient = y.reshape(kept), gradient.reshape(kept)
    if p == 1:
        return (np.sign(x) * gradient,)
    zero = (x == 0) | (y == 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(zero, 0, np.sign(x) * (np.abs(x) / np.where(y == 0, 1, y)) ** (p - 1))
    return ((slope * gradient).astype(x.dtype, copy=False),)


P_NORM = define("p_norm", _p_norm, _p_norm_vjp)


# ---- no gradient -----------------------------------------------------------------------------------------------------


def _argmax(x: Array, axis: int | None = None, keepdims: bool = False) -> tuple[Array, None]:
    _not_empty("argmax", x, axis)
    return np.argmax(x, axis=axis, keepdims=keepdims), None


def _argmin(x: Array, axis: int | None = None, keepdims: bool = False) -> tuple[Array, None]:
    _not_empty("argmin", x, axis)
    return np.argmin(x, axis=axis, keepdims=keepdims), None


def _any(x: Array, axis: Axis = None, keepdims: bool = False) -> tuple[Array, None]:
    return logical_or(x, axis=axis, keepdims=keepdims), None


def _all(x: Array, axis: Axis = None, keepdims: bool = False) -> tuple[Array, None]:
    return logical_and(x, axis=axis, keepdims=keepdims), None


def _argsort(x: Array, axis: int = -1, descending: bool = False) -> tuple[Array, None]:
    """Stable both ways: equal elements keep their order."""
    if x.ndim == 0:
        return np.zeros_like(x, dtype=np.int64), None
    if not descending:
        return np.argsort(x, axis=axis, kind="stable"), None
    order = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return np.flip(x.shape[axis] - 1 - order, axis), None


ARGMAX = define("argmax", _argmax, no_vjp, differentiable=())
ARGMIN = define("argmin", _argmin, no_vjp, differentiable=())
ANY = define("any", _any, no_vjp, differentiable=())
ALL = define("all", _all, no_vjp, differentiable=())
ARGSORT = define("argsort", _argsort, no_vjp, differentiable=())
