"""Reductions beside those in ``tensor_math``, and running ones. Each is also a Tensor method."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from .bfloat16 import is_floating
from .errors import DTypeError, RangeError
from .graph import apply
from .ops import arithmetic, reduce, running
from .ops.shape import CAT
from .tensor_math import Dim, ValuesIndices, axes_of, checked_dim, with_numpy_names

if TYPE_CHECKING:
    from .tensor import Tensor


class MinMax(NamedTuple):
    """What ``aminmax`` returns.

    >>> phalanx.aminmax(phalanx.tensor([3.0, 1.0])).min
    tensor(1.)
    """

    min: Any
    max: Any


@with_numpy_names
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> MinMax:
    """``(min, max)`` over ``dim``, or over all elements.

    >>> phalanx.aminmax(phalanx.tensor([3.0, 1.0, 2.0]))
    MinMax(min=tensor(1.), max=tensor(3.))
    """
    where: Any = () if dim is None else dim
    return MinMax(input.amin(where, keepdim), input.amax(where, keepdim))


@with_numpy_names
def nansum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Sum over ``dim``, NaN counting as 0.

    >>> phalanx.nansum(phalanx.tensor([1.0, float("nan"), 2.0]))
    tensor(3.)
    """
    return _numbers(input).sum(dim, keepdim, dtype)


def _numbers(input: Tensor) -> Any:
    """0 in place of NaN."""
    if not is_floating(input.dtype):
        return input
    return apply(arithmetic.WHERE, input.isnan(), input.dtype.type(0), input)


@with_numpy_names
def nanmean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    """Mean over ``dim`` of what is not NaN; NaN where nothing else is.

    >>> phalanx.nanmean(phalanx.tensor([1.0, float("nan"), 2.0]))
    tensor(1.5)
    """
    input = input if dtype is None else input.to(dtype)
    if not is_floating(input.dtype):
        raise DTypeError(f"nanmean: a floating tensor expected, got {input.dtype}; convert it with .float()")
    count = input.isnan().logical_not().sum(dim, keepdim)
    return _numbers(input).sum(dim, keepdim) / count.to(input.dtype)


@with_numpy_names
def var_mean(
    input: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
) -> tuple[Tensor, Tensor]:
    """``(var, mean)`` over ``dim``.

    >>> phalanx.var_mean(phalanx.tensor([1.0, 3.0]))
    (tensor(2.), tensor(2.))
    """
    return input.var(dim, unbiased, keepdim, correction=correction), input.mean(dim, keepdim)


@with_numpy_names
def std_mean(
    input: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: int | None = None
) -> tuple[Tensor, Tensor]:
    """``(std, mean)`` over ``dim``.

    >>> phalanx.std_mean(phalanx.tensor([1.0, 3.0]), correction=0)
    (tensor(1.), tensor(2.))
    """
    return input.std(dim, unbiased, keepdim, correction=correction), input.mean(dim, keepdim)


@with_numpy_names
def count_nonzero(input: Tensor, dim: Dim = None) -> Tensor:
    """How many elements over ``dim`` are not 0.

    >>> phalanx.count_nonzero(phalanx.tensor([[0, 1], [2, 3]]), dim=1)
    tensor([1, 2])
    """
    return (input != 0).sum(dim)


@with_numpy_names
def norm(input: Tensor, p: Any = 2, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """``(sum |x|^p)^(1/p)`` over ``dim`` (None: all); p may be infinite, 0 (how many are not 0), "fro" or "nuc".

    The gradient is 0 where the norm is.

    >>> phalanx.norm(phalanx.tensor([[3.0, 4.0], [6.0, 8.0]]), dim=1)
    tensor([ 5., 10.])
    """
    x = input if dtype is None else input.to(dtype)
    if not is_floating(x.dtype):
        raise DTypeError(f"norm: a floating tensor expected, got {x.dtype}; convert it with .float()")
    if p == "nuc":
        raise RangeError('norm: p="nuc" is linalg.matrix_norm(x, "nuc")')
    if p in (math.inf, -math.inf):
        where: Any = () if dim is None else dim
        return x.abs().amax(where, keepdim) if p > 0 else x.abs().amin(where, keepdim)
    if p == 0:
        return x.sign().abs().sum(dim, keepdim)
    power = 2 if p in ("fro", None) else p
    if not isinstance(power, int | float):
        raise RangeError(f'norm: p is a number, inf, -inf or "fro", got {p!r}')
    axis = axes_of("norm", dim, x.array.ndim)
    if power == 2:
        return apply(reduce.NORM, x, axis=axis, keepdims=keepdim)
    return apply(reduce.P_NORM, x, p=power, axis=axis, keepdims=keepdim)


# ---- running ---------------------------------------------------------------------------------------------------------


@with_numpy_names
def cumprod(input: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    """Running products along ``dim``.

    >>> phalanx.cumprod(phalanx.tensor([1.0, 2.0, 3.0]), 0)
    tensor([1., 2., 6.])
    """
    input = input if dtype is None else input.to(dtype)
    return apply(running.CUMPROD, input, axis=checked_dim("cumprod", dim, input.array.ndim))


@with_numpy_names
def cummax(input: Tensor, dim: int) -> ValuesIndices:
    """Running maxima along ``dim``, and where each was seen last: ``(values, indices)``.

    >>> phalanx.cummax(phalanx.tensor([1.0, 3.0, 2.0]), 0).values
    tensor([1., 3., 3.])
    """
    return ValuesIndices(*apply(running.CUMMAX, input, axis=checked_dim("cummax", dim, input.array.ndim)))


@with_numpy_names
def cummin(input: Tensor, dim: int) -> ValuesIndices:
    """Running minima along ``dim``, and where each was seen last: ``(values, indices)``.

    >>> phalanx.cummin(phalanx.tensor([2.0, 3.0, 1.0]), 0).indices
    tensor([0, 0, 2])
    """
    return ValuesIndices(*apply(running.CUMMIN, input, axis=checked_dim("cummin", dim, input.array.ndim)))


@with_numpy_names
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """``log(cumsum(exp(x)))`` along ``dim`` without overflow.

    >>> phalanx.logcumsumexp(phalanx.tensor([0.0, 0.0]), 0)
    tensor([0.    , 0.6931])
    """
    return apply(running.LOGCUMSUMEXP, input, axis=checked_dim("logcumsumexp", dim, input.array.ndim))


def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """``x[i + 1] - x[i]`` along ``dim``, ``n`` times; ``prepend`` and ``append`` are joined before.

    >>> phalanx.diff(phalanx.tensor([1, 4, 9]))
    tensor([3, 5])
    """
    if n < 0:
        raise RangeError(f"diff: n of at least 0 expected, got {n}")
    if not input.array.ndim:
        raise RangeError("diff: a tensor with at least one dimension expected, got a 0-d one")
    axis = checked_dim("diff", dim, input.array.ndim)
    parts = [part for part in (prepend, input, append) if part is not None]
    x: Any = apply(CAT, *parts, axis=axis) if len(parts) > 1 else input
    for _ in range(min(n, x.shape[axis])):
        size = x.shape[axis]
        below, above = x.narrow(axis, 0, size - 1), x.narrow(axis, 1, size - 1)
        x = below.logical_xor(above) if x.dtype.kind == "b" else above - below
    return x


def trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1) -> Tensor:
    """The area under ``y`` along ``dim`` by the trapezoid rule, at the places ``x`` or at steps of ``dx`` (1).

    >>> phalanx.trapezoid(phalanx.tensor([1.0, 2.0, 3.0]))
    tensor(4.)
    """
    return _trapezoids("trapezoid", y, x, dx, dim).sum(dim)


def _trapezoids(name: str, y: Any, x: Any, dx: float | None, dim: int) -> Any:
    """The area between neighbours."""
    axis = checked_dim(name, dim, y.array.ndim)
    size = y.shape[axis]
    middle = (y.narrow(axis, 0, size - 1) + y.narrow(axis, 1, size - 1)) * 0.5
    if x is None:
        return middle * (1.0 if dx is None else dx)
    if dx is not None:
        raise RangeError(f"{name}: x or dx expected, got both")
    steps = diff(x, dim=-1 if x.array.ndim == 1 else dim)
    if x.array.ndim == 1:
        steps = steps.reshape([-1 if i == axis else 1 for i in range(y.array.ndim)])
    return middle * steps


def cumulative_trapezoid(y: Tensor, x: Tensor | None = None, *, dx: float | None = None, dim: int = -1) -> Tensor:
    """Running :func:`trapezoid` along ``dim``: one value less.

    >>> phalanx.cumulative_trapezoid(phalanx.tensor([1.0, 2.0, 3.0]))
    tensor([1.5, 4. ])
    """
    return _trapezoids("cumulative_trapezoid", y, x, dx, dim).cumsum(dim)


trapz = trapezoid
