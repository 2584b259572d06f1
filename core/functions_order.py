"""Order statistics, and what is counted and found in sorted values. Those with a gradient are also Tensor methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import array_module, as_array
from .bfloat16 import is_floating
from .errors import DTypeError, RangeError, ShapeError
from .graph import Variable, apply, wrap
from .ops.arithmetic import WHERE
from .ops.indexing import GATHER
from .ops.running import accumulate
from .tensor_math import ValuesIndices, checked_dim, with_numpy_names

if TYPE_CHECKING:
    from .tensor import Tensor


def _picked(input: Tensor, positions: Any, axis: int, keepdim: bool) -> ValuesIndices:
    """The elements at ``positions`` (one along ``axis``) and the positions."""
    values = apply(GATHER, input, axis=axis, index=positions)
    indices = wrap(positions)
    return ValuesIndices(values, indices) if keepdim or not input.ndim else _squeezed(values, indices, axis)


def _squeezed(values: Any, indices: Any, axis: int) -> ValuesIndices:
    return ValuesIndices(values.squeeze(axis), indices.squeeze(axis))


def _lanes(name: str, input: Tensor, dim: int) -> tuple[Any, int]:
    """The order of the elements along ``dim``, NaN last."""
    axis = checked_dim(name, dim, input.array.ndim)
    if input.array.ndim and not input.shape[axis]:
        raise ShapeError(f"{name} of no elements along dimension {dim}: shape {input.shape} has a size of 0 there")
    return input.argsort(axis).array, axis


def msort(input: Tensor) -> Tensor:
    """Sorted along dimension 0.

    >>> phalanx.msort(phalanx.tensor([3.0, 1.0, 2.0]))
    tensor([1., 2., 3.])
    """
    return input.sort(0).values


@with_numpy_names
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The ``k``-th smallest (from 1) along ``dim``: ``(values, indices)``.

    >>> phalanx.kthvalue(phalanx.tensor([3.0, 1.0, 2.0]), 2)
    ValuesIndices(values=tensor(2.), indices=tensor(2))
    """
    order, axis = _lanes("kthvalue", input, dim)
    size = input.shape[axis] if input.ndim else 1
    if not 1 <= k <= size:
        raise RangeError(f"kthvalue: k between 1 and {size} expected, got {k}")
    return _picked(input, order if not input.ndim else np.take(order, [k - 1], axis), axis, keepdim)


def _median(name: str, input: Tensor, dim: Any, keepdim: bool, skip: bool) -> Any:
    if dim is None:
        middle = _median(name, input.detach().flatten(), 0, False, skip).values
        if not input.requires_grad:
            return middle
        # equal elements share the gradient, as those of amax do
        same = (input == middle).logical_or(input.isnan().logical_and(middle.isnan()))
        zero, finite = input.dtype.type(0), bool(np.isfinite(middle.array))
        part = apply(WHERE, same, input - middle if finite else input, zero).sum() / int(same.array.sum())
        return part + middle if finite else part
    order, axis = _lanes(name, input, dim)
    if not input.ndim:
        return ValuesIndices(input.clone(), wrap(order))
    size = input.shape[axis]
    missing = (
        np.isnan(input.array).sum(axis, keepdims=True)
        if is_floating(input.dtype)
        else np.zeros_like(np.take(order, [0], axis))
    )
    there = (
        np.maximum((size - missing + 1) // 2 - 1, 0)
        if skip
        else np.where(missing > 0, size - missing, (size + 1) // 2 - 1)
    )
    shape = tuple(1 if i == axis else n for i, n in enumerate(input.shape))
    return _picked(input, np.take_along_axis(order, np.broadcast_to(there, shape), axis), axis, keepdim)


@with_numpy_names
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element (the lower of two), NaN if one is: of all, or along ``dim`` with ``(values, indices)``.

    >>> phalanx.median(phalanx.tensor([4.0, 1.0, 3.0, 2.0]))
    tensor(2.)
    """
    return _median("median", input, dim, keepdim, skip=False)


@with_numpy_names
def nanmedian(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The :func:`median` of what is not NaN.

    >>> phalanx.nanmedian(phalanx.tensor([4.0, float("nan"), 1.0]))
    tensor(1.)
    """
    return _median("nanmedian", input, dim, keepdim, skip=True)


@with_numpy_names
def mode(input: Tensor, dim: int = -1, keepdim: bool = False) -> ValuesIndices:
    """The most frequent element (the smallest of several) along ``dim``, and where it was seen last.

    >>> phalanx.mode(phalanx.tensor([2, 1, 2, 3])).values
    tensor(2)
    """
    order, axis = _lanes("mode", input, dim)
    if not input.ndim:
        return ValuesIndices(input.clone(), wrap(order))
    ranked = np.take_along_axis(input.array, order, axis)
    size = input.shape[axis]
    places = array_module(ranked).arange(size).reshape([-1 if i == axis else 1 for i in range(input.ndim)])
    first = np.take(ranked, range(1), axis)
    starts = np.concatenate([np.ones_like(first, dtype=bool), np.diff(ranked, axis=axis) != 0], axis)
    length = places - accumulate(np.maximum, np.where(starts, places, 0), axis)
    best = np.argmax(length, axis=axis, keepdims=True)
    return _picked(input, np.take_along_axis(order, best, axis), axis, keepdim)


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(name: str, input: Tensor, q: Any, dim: Any, keepdim: bool, interpolation: str, skip: bool) -> Tensor:
    if not is_floating(input.dtype):
        raise DTypeError(f"{name}: a floating tensor expected, got {input.dtype}; convert it with .float()")
    if interpolation not in _INTERPOLATIONS:
        raise RangeError(f"{name}: interpolation is one of {', '.join(_INTERPOLATIONS)}, got {interpolation!r}")
    xp = array_module(input.array)
    fractions = xp.asarray(q.array if isinstance(q, Variable) else q, np.float64)
    if fractions.ndim > 1 or (fractions < 0).any() or (fractions > 1).any():
        raise RangeError(f"{name}: q is a number in [0, 1] or a 1-D tensor of them, got {q!r}")
    ndim = input.array.ndim
    x: Any = input.flatten() if dim is None else input
    axis = 0 if dim is None else checked_dim(name, dim, ndim)
    x = x.movedim(axis, -1) if x.array.ndim else x.reshape(1)
    if not x.shape[-1]:
        raise ShapeError(f"{name} of no elements: shape {input.shape}")
    ranked = x.sort(-1).values
    missing = np.isnan(x.array).sum(-1, keepdims=True)
    # NaN are last: without ``skip`` a lane that has one gets it
    place = fractions.reshape(-1) * np.maximum((x.shape[-1] - missing if skip else x.shape[-1]) - 1, 0)
    if not skip:
        place = np.where(missing > 0, x.shape[-1] - 1, place)
    place = np.broadcast_to(place, (*x.shape[:-1], fractions.size))
    if interpolation == "nearest":
        place = np.rint(place)
    low, high = np.floor(place).astype(np.int64), np.ceil(place).astype(np.int64)
    below, above = (apply(GATHER, ranked, axis=ranked.ndim - 1, index=index) for index in (low, high))
    if interpolation in ("lower", "higher"):
        result = below if interpolation == "lower" else above
    else:
        share = 0.5 if interpolation == "midpoint" else wrap((place - low).astype(x.dtype))
        result = below.lerp(above, share)
    result = result.movedim(-1, 0)  # q first, then what is left of the input
    if keepdim:
        result = result.reshape(len(result), *[1] * ndim) if dim is None else result.unsqueeze(axis + 1)
    return result if fractions.ndim else result.squeeze(0)


@with_numpy_names
def quantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """What a share ``q`` (a number or a 1-D tensor of several) of the elements lies below; NaN if one is.

    Between two elements: "linear", "lower", "higher", "midpoint" or "nearest". Several q come as the first dimension.

    >>> phalanx.quantile(phalanx.tensor([1.0, 2.0, 3.0, 4.0]), 0.5)
    tensor(2.5)
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, skip=False)


@with_numpy_names
def nanquantile(
    input: Tensor, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The :func:`quantile` of what is not NaN.

    >>> phalanx.nanquantile(phalanx.tensor([1.0, float("nan"), 3.0]), 0.5)
    tensor(2.)
    """
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, skip=True)


# ---- counting and finding; no gradient -------------------------------------------------------------------------------


def _raw(value: Any) -> Any:
    return value.array if isinstance(value, Variable) else np.asarray(value)


def searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Where each value would go into a sorted sequence: before equal ones, or behind them with ``right``.

    The sequence is 1-D, or has the leading dimensions of ``input`` and is sorted along the last.

    >>> phalanx.searchsorted(phalanx.tensor([1, 3, 5]), phalanx.tensor([3, 4]))
    tensor([1, 2])
    """
    if side not in (None, "left", "right"):
        raise RangeError(f'searchsorted: side is "left" or "right", got {side!r}')
    if side == "left" and right:
        raise RangeError('searchsorted: side="left" contradicts right=True; give one of them')
    sequence, values = _raw(sorted_sequence), _raw(input)
    if sorter is not None:
        sequence = np.take_along_axis(sequence, sorter.array, -1)
    where: Any = "right" if right or side == "right" else "left"
    dtype = np.int32 if out_int32 else np.int64
    if sequence.ndim == 1:
        return wrap(as_array(np.searchsorted(sequence, values, where)).astype(dtype, copy=False))
    if sequence.shape[:-1] != values.shape[:-1]:
        raise ShapeError(
            f"searchsorted: a 1-D sequence or one of leading dimensions {values.shape[:-1]} expected, got {sequence.shape}"
        )
    found = array_module(values).empty(values.shape, dtype)
    for lane in np.ndindex(values.shape[:-1]):
        found[lane] = np.searchsorted(sequence[lane], values[lane], where)
    return wrap(found)


def bucketize(input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """The number of the interval between ``boundaries`` (sorted, 1-D) that each value lies in.

    >>> phalanx.bucketize(phalanx.tensor([0.5, 3.0, 9.0]), phalanx.tensor([1.0, 3.0, 5.0]))
    tensor([0, 1, 3])
    """
    if boundaries.ndim != 1:
        raise ShapeError(f"bucketize: boundaries of 1 dimension expected, got shape {boundaries.shape}")
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Whether each element is among ``test_elements``.

    >>> phalanx.isin(phalanx.tensor([1, 2, 3]), phalanx.tensor([2, 5]))
    tensor([False,  True, False])
    """
    return wrap(as_array(np.isin(_raw(elements), _raw(test_elements), invert=invert)))


def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements fall into each of ``bins`` equal intervals of [min, max]; both 0: of all there are.

    >>> phalanx.histc(phalanx.tensor([1.0, 2.0, 1.0]), bins=4, min=0, max=3)
    tensor([0., 2., 1., 0.])
    """
    if bins < 1 or max < min:
        raise RangeError(f"histc: bins > 0 and min <= max expected, got bins={bins}, min={min}, max={max}")
    x = input.array.reshape(-1)
    low, high = (min, max) if min != max or not x.size else (float(x.min()), float(x.max()))
    if low == high:
        low, high = low - 1, high + 1
    counts, _ = np.histogram(x.astype(np.float64), bins, (low, high))
    return wrap(counts.astype(x.dtype))


def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, ... occurs; with ``weights`` the sums of theirs.

    >>> phalanx.bincount(phalanx.tensor([0, 2, 2]))
    tensor([1, 0, 2])
    """
    if input.ndim != 1 or input.dtype.kind not in "iub" or (input.array.size and input.array.min() < 0):
        raise RangeError(
            f"bincount: a 1-D tensor of integers of at least 0 expected, got shape {input.shape}, {input.dtype}"
        )
    return wrap(array_module(input.array).bincount(input.array, None if weights is None else weights.array, minlength))


def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements in order, or with ``dim`` the distinct slices along it.

    ``return_inverse``: also the position of each element among them; ``return_counts``: also how often each occurs.

    >>> phalanx.unique(phalanx.tensor([3, 1, 3]), return_counts=True)
    (tensor([1, 3]), tensor([1, 2]))
    """
    axis = None if dim is None else checked_dim("unique", dim, input.array.ndim)
    find: Any = np.unique
    found = find(input.array, return_inverse=return_inverse, return_counts=return_counts, axis=axis)
    if not isinstance(found, tuple):
        return wrap(found)
    parts = [wrap(part) for part in found]
    if return_inverse and axis is not None:
        parts[1] = parts[1].reshape(-1)
    return tuple(parts)


def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The first of every run of equal elements, or with ``dim`` of equal slices.

    ``return_inverse``: also the number of each element's run; ``return_counts``: also the lengths.

    >>> phalanx.unique_consecutive(phalanx.tensor([1, 1, 2, 1]), return_counts=True)
    (tensor([1, 2, 1]), tensor([2, 1, 1]))
    """
    axis = 0 if dim is None else checked_dim("unique_consecutive", dim, input.array.ndim)
    x = input.array.reshape(-1) if dim is None else input.array
    rows = np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)
    starts = np.ones_like(rows[:, 0] if rows.shape[1] else rows.sum(1), dtype=bool)
    starts[1:] = (rows[1:] != rows[:-1]).any(1)
    first = np.flatnonzero(starts)
    parts = [wrap(np.take(x, first, axis))]
    if return_inverse:
        inverse = np.cumsum(starts) - 1
        parts.append(wrap(inverse.reshape(input.shape) if dim is None else inverse))
    if return_counts:
        parts.append(wrap(np.diff(np.append(first, len(rows)))))
    return parts[0] if len(parts) == 1 else tuple(parts)
