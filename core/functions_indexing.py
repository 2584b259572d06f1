"""Picking and writing by position, out of place and differentiable; composed of two ops. Each is also a Tensor method.

Where several values go to one place the last one stays, in the order of their positions; sums add in that order.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .bfloat16 import is_floating
from .errors import RangeError, ShapeError
from .graph import Variable, apply, wrap
from .ops.indexing import GATHER, at, grid
from .ops.placing import INDEX_PUT, SCATTER_REDUCE
from .promotion import cast
from .tensor_math import checked_dim
from .tensor_shape import array_key

if TYPE_CHECKING:
    from .tensor import Tensor


def _values(input: Tensor, value: Any) -> Any:
    """A Tensor or number in the dtype of ``input``."""
    return cast(value, input.dtype) if isinstance(value, Variable) else input.dtype.type(value)


def _along(name: str, input: Tensor, dim: int, index: Tensor) -> tuple[Any, ...]:
    """The key of positions ``index`` (1-D) along ``dim``."""
    axis = checked_dim(name, dim, input.array.ndim)
    if index.array.ndim > 1:
        raise ShapeError(f"{name}: an index of 1 dimension expected, got shape {index.shape}")
    return (slice(None),) * axis + (index.array.reshape(-1),)


def index_put(input: Tensor, indices: Any, values: Any, accumulate: bool = False) -> Tensor:
    """``input`` with ``values`` at ``input[indices]``, or with ``accumulate`` added there.

    >>> phalanx.index_put(phalanx.zeros(3), (phalanx.tensor([0, 2]),), phalanx.tensor([1.0, 2.0]))
    tensor([1., 0., 2.])
    """
    key = array_key(tuple(indices) if isinstance(indices, list | tuple) else indices)
    return apply(INDEX_PUT, input, _values(input, values), key=key, accumulate=accumulate)


def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Tensor:
    """``input`` with ``alpha * source[i]`` added at position ``index[i]`` along ``dim``.

    >>> phalanx.index_add(phalanx.zeros(3), 0, phalanx.tensor([0, 0]), phalanx.tensor([1.0, 2.0]))
    tensor([3., 0., 0.])
    """
    source = source if alpha == 1 else source * alpha
    return apply(INDEX_PUT, input, _values(input, source), key=_along("index_add", input, dim, index), accumulate=True)


def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``input`` with ``source[i]`` at position ``index[i]`` along ``dim``.

    >>> phalanx.index_copy(phalanx.zeros(3), 0, phalanx.tensor([2]), phalanx.tensor([5.0]))
    tensor([0., 0., 5.])
    """
    return apply(INDEX_PUT, input, _values(input, source), key=_along("index_copy", input, dim, index))


def index_fill(input: Tensor, dim: int, index: Tensor, value: Any) -> Tensor:
    """``input`` with ``value`` at the positions ``index`` along ``dim``.

    >>> phalanx.index_fill(phalanx.zeros(3), 0, phalanx.tensor([0, 2]), 7.0)
    tensor([7., 0., 7.])
    """
    return apply(INDEX_PUT, input, _values(input, value), key=_along("index_fill", input, dim, index))


def _scattered(name: str, input: Tensor, dim: int, index: Tensor, src: Any) -> tuple[tuple[Any, ...], Any]:
    """Where each element of ``index`` points, and the part of ``src`` that goes there."""
    axis = checked_dim(name, dim, input.array.ndim)
    places = index.array
    if places.ndim != input.array.ndim or any(
        n > size for i, (n, size) in enumerate(zip(places.shape, input.shape, strict=True)) if i != axis
    ):
        raise ShapeError(
            f"{name}: the index, of shape {places.shape}, must fit into the tensor's shape {input.shape} "
            f"but for dimension {dim}"
        )
    if not isinstance(src, Variable):
        return grid(places, axis), input.dtype.type(src)
    array: Any = src.array
    if array.ndim != places.ndim or any(n > size for n, size in zip(places.shape, array.shape, strict=True)):
        raise ShapeError(f"{name}: src of shape {array.shape} must hold the index's shape {places.shape}")
    part: Any = src if array.shape == places.shape else src[tuple(slice(0, n) for n in places.shape)]  # type: ignore[index]
    return grid(places, axis), cast(part, input.dtype)


_OLD_NAMES = {"add": "sum", "multiply": "prod"}


def scatter(
    input: Tensor, dim: int, index: Tensor, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Tensor:
    """``out[index[i][j]][j] = src[i][j]`` for dim 0, and so on; a number may be given as ``src`` or ``value``.

    >>> phalanx.scatter(phalanx.zeros(3), 0, phalanx.tensor([2, 0]), phalanx.tensor([1.0, 2.0]))
    tensor([2., 0., 1.])
    """
    if (src is None) == (value is None):
        raise RangeError("scatter: src or value expected, one of them")
    src = value if src is None else src
    if reduce is not None:
        if reduce not in _OLD_NAMES:
            raise RangeError(f'scatter: reduce is None, "add" or "multiply", got {reduce!r}')
        src = src if isinstance(src, Variable) else wrap(np.full(index.shape, src, input.dtype))
        return scatter_reduce(input, dim, index, src, _OLD_NAMES[reduce])
    key, part = _scattered("scatter", input, dim, index, src)
    return apply(INDEX_PUT, input, part, key=key)


def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """``out[index[i][j]][j] += src[i][j]`` for dim 0, and so on.

    >>> phalanx.scatter_add(phalanx.zeros(3), 0, phalanx.tensor([2, 2]), phalanx.tensor([1.0, 2.0]))
    tensor([0., 0., 3.])
    """
    key, part = _scattered("scatter_add", input, dim, index, src)
    return apply(INDEX_PUT, input, part, key=key, accumulate=True)


_NEUTRAL = {"sum": 0, "mean": 0, "prod": 1, "amax": -math.inf, "amin": math.inf}


def scatter_reduce(
    input: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Tensor:
    """What ``index`` sends to each place reduced by "sum", "prod", "mean", "amax" or "amin".

    The place's own value takes part unless ``include_self`` is False. Equal extrema share the gradient evenly.

    >>> x, i = phalanx.tensor([1.0, 2.0, 3.0, 4.0]), phalanx.tensor([0, 0, 1, 1])
    >>> phalanx.scatter_reduce(phalanx.zeros(2), 0, i, x, "mean", include_self=False)
    tensor([1.5, 3.5])
    """
    if reduce not in _NEUTRAL:
        raise RangeError(f"scatter_reduce: reduce is one of {', '.join(_NEUTRAL)}, got {reduce!r}")
    key, part = _scattered("scatter_reduce", input, dim, index, src)
    x: Any = input
    if not include_self:
        neutral = _NEUTRAL[reduce]
        if not is_floating(input.dtype) and not math.isfinite(neutral):
            limits = np.iinfo(input.dtype)
            neutral = limits.min if neutral < 0 else limits.max
        x = apply(INDEX_PUT, x, input.dtype.type(neutral), key=key)
    if reduce in ("sum", "mean"):
        total = apply(INDEX_PUT, x, part, key=key, accumulate=True)
        if reduce == "sum":
            return total
        count = np.full_like(input.array, int(include_self))
        at(np.add, count, key, 1)
        count = wrap(np.maximum(count, 1))
        return total / count if is_floating(input.dtype) else total // count
    return apply(SCATTER_REDUCE, x, part, key=key, reduce=reduce)


def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """``input`` with the elements of ``source``, in order, where ``mask`` is True.

    >>> phalanx.masked_scatter(phalanx.zeros(3), phalanx.tensor([True, False, True]), phalanx.tensor([1.0, 2.0]))
    tensor([1., 0., 2.])
    """
    full = np.broadcast_shapes(input.shape, mask.shape)
    where = np.broadcast_to(mask.array, full)
    count = int(where.sum())
    if source.array.size < count:
        raise ShapeError(f"masked_scatter: {count} places to fill, source has {source.array.size} elements")
    values = cast(source, input.dtype).reshape(-1)[:count]
    return apply(INDEX_PUT, input if input.shape == full else input.expand(full), values, key=where)


def take(input: Tensor, index: Tensor) -> Tensor:
    """Elements at positions of the flattened tensor, in the shape of ``index``.

    >>> phalanx.take(phalanx.tensor([[1, 2], [3, 4]]), phalanx.tensor([0, 3]))
    tensor([1, 4])
    """
    return input.reshape(-1)[index]


def put(input: Tensor, index: Tensor, source: Tensor, accumulate: bool = False) -> Tensor:
    """``input`` with ``source`` at (or added to) positions of the flattened tensor.

    >>> phalanx.put(phalanx.zeros(3), phalanx.tensor([0, 2]), phalanx.tensor([1.0, 2.0]))
    tensor([1., 0., 2.])
    """
    values = cast(source, input.dtype).reshape(-1)
    flat = apply(INDEX_PUT, input.reshape(-1), values, key=index.array.reshape(-1), accumulate=accumulate)
    return flat.reshape(input.shape)


def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """``gather`` whose ``indices`` broadcast against ``input``; without ``dim`` of the flattened tensor.

    >>> x = phalanx.tensor([[3, 1], [2, 5]])
    >>> phalanx.take_along_dim(x, x.argmax(1, keepdim=True), 1).tolist()
    [[3], [5]]
    """
    if dim is None:
        return take(input, indices.reshape(-1))
    axis = checked_dim("take_along_dim", dim, input.array.ndim)
    places = indices.array
    if places.ndim != input.array.ndim:
        raise ShapeError(f"take_along_dim: indices of {input.array.ndim} dimensions expected, got shape {places.shape}")
    others = [a if i != axis else 1 for i, a in enumerate(input.shape)]
    full = np.broadcast_shapes(places.shape, others)
    x = input.expand([n if i != axis else input.shape[axis] for i, n in enumerate(full)])
    return apply(GATHER, x, axis=axis, index=np.broadcast_to(places, full))


def argwhere(input: Tensor) -> Tensor:
    """Positions of the elements that are not 0, (count, ndim).

    >>> phalanx.argwhere(phalanx.tensor([0, 5, 7])).tolist()
    [[1], [2]]
    """
    return input.nonzero()


def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """``input`` with ``src`` as position ``index`` along ``dim``.

    >>> phalanx.select_scatter(phalanx.zeros(2, 2), phalanx.ones(2), 0, 1).tolist()
    [[0.0, 0.0], [1.0, 1.0]]
    """
    axis = checked_dim("select_scatter", dim, input.array.ndim)
    return apply(INDEX_PUT, input, _values(input, src), key=(slice(None),) * axis + (index,))


def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """``input`` with ``src`` as the slice ``start:end:step`` along ``dim``.

    >>> phalanx.slice_scatter(phalanx.zeros(3), phalanx.ones(2), start=1)
    tensor([0., 1., 1.])
    """
    axis = checked_dim("slice_scatter", dim, input.array.ndim)
    return apply(INDEX_PUT, input, _values(input, src), key=(slice(None),) * axis + (slice(start, end, step),))


def diagonal_scatter(input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """``input`` with ``src`` on the diagonal of two dimensions.

    >>> phalanx.diagonal_scatter(phalanx.zeros(2, 2), phalanx.ones(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    moved = input.movedim((dim1, dim2), (-2, -1))
    count = src.shape[-1] if src.array.ndim else 0
    i = np.arange(count)
    key = (Ellipsis, i - min(offset, 0), i + max(offset, 0))
    return apply(INDEX_PUT, moved, _values(input, src), key=key).movedim((-2, -1), (dim1, dim2))
