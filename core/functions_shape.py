"""Functions about shape beside those in ``tensor_shape``: all composed, so that gradients pass. Methods where torch has them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import as_array, as_dtype, common_shape, to_device
from .errors import RangeError, ShapeError
from .graph import Variable, apply, wrap
from .ops import indexing, placing, shape
from .tensor_math import checked_dim

if TYPE_CHECKING:
    from .tensor import Tensor


def _given(tensors: tuple[Any, ...]) -> list[Any]:
    """Tensors given one by one or as one sequence."""
    return list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], list | tuple) else list(tensors)


def reshape(input: Tensor, shape: Any) -> Tensor:
    """The same elements in another shape; one size may be -1.

    >>> phalanx.reshape(phalanx.arange(6), (2, -1)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    return input.reshape(shape)


def permute(input: Tensor, dims: Any) -> Tensor:
    """The dimensions in the order ``dims``.

    >>> phalanx.permute(phalanx.zeros(2, 3, 4), (2, 0, 1)).shape
    (4, 2, 3)
    """
    return input.permute(dims)


def split(tensor: Tensor, split_size_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Parts of one size (the last may be smaller), or of the given sizes, along ``dim``.

    >>> phalanx.split(phalanx.arange(5), 2)
    (tensor([0, 1]), tensor([2, 3]), tensor([4]))
    """
    return tensor.split(split_size_or_sections, dim)


# ---- parts -----------------------------------------------------------------------------------------------------------


def tensor_split(input: Tensor, indices_or_sections: Any, dim: int = 0) -> tuple[Tensor, ...]:
    """Parts along ``dim``: n of nearly equal size, or cut at the given positions.

    >>> [part.tolist() for part in phalanx.tensor_split(phalanx.arange(5), 2)]
    [[0, 1, 2], [3, 4]]
    """
    axis = checked_dim("tensor_split", dim, input.array.ndim)
    size = input.shape[axis]
    where = indices_or_sections.tolist() if isinstance(indices_or_sections, Variable) else indices_or_sections  # type: ignore[attr-defined]
    if isinstance(where, int):
        if where < 1:
            raise RangeError(f"tensor_split: at least 1 section expected, got {where}")
        whole, more = divmod(size, where)
        where = [i * whole + min(i, more) for i in range(1, where)]
    cuts = [slice(a, b) for a, b in zip([None, *where], [*where, None], strict=True)]
    return tuple(input[(slice(None),) * axis + (cut,)] for cut in cuts)


def _split_along(name: str, least: int, axis: int) -> Any:
    def split(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
        if input.array.ndim < least:
            raise ShapeError(f"{name}: at least {least} dimensions expected, got shape {input.shape}")
        dim = 0 if name == "hsplit" and input.array.ndim == 1 else axis
        if isinstance(indices_or_sections, int) and input.shape[dim] % max(indices_or_sections, 1):
            raise ShapeError(
                f"{name}: {input.shape[dim]} positions do not divide into {indices_or_sections} equal parts"
            )
        return tensor_split(input, indices_or_sections, dim)

    return split


def hsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """``tensor_split`` along dimension 1 (0 of a vector), into equal parts.

    >>> [part.tolist() for part in phalanx.hsplit(phalanx.tensor([[1, 2], [3, 4]]), 2)]
    [[[1], [3]], [[2], [4]]]
    """
    return _split_along("hsplit", 1, 1)(input, indices_or_sections)


def vsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """``tensor_split`` along dimension 0, into equal parts.

    >>> [part.tolist() for part in phalanx.vsplit(phalanx.tensor([[1, 2], [3, 4]]), 2)]
    [[[1, 2]], [[3, 4]]]
    """
    return _split_along("vsplit", 2, 0)(input, indices_or_sections)


def dsplit(input: Tensor, indices_or_sections: Any) -> tuple[Tensor, ...]:
    """``tensor_split`` along dimension 2, into equal parts.

    >>> [part.shape for part in phalanx.dsplit(phalanx.zeros(2, 2, 4), 2)]
    [(2, 2, 2), (2, 2, 2)]
    """
    return _split_along("dsplit", 3, 2)(input, indices_or_sections)


def unfold(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Windows of ``size``, ``step`` apart, along ``dimension``; their elements are the new last dimension.

    >>> phalanx.arange(5).unfold(0, 2, 2).tolist()
    [[0, 1], [2, 3]]
    """
    axis = checked_dim("unfold", dimension, input.array.ndim)
    length = input.shape[axis] if input.array.ndim else 1
    if not 0 <= size <= length or step < 1:
        raise RangeError(f"unfold: a size of at most {length} and a step of at least 1 expected, got {size} and {step}")
    count = (length - size) // step + 1
    places = (np.arange(count) * step)[:, None] + np.arange(size)
    x = input if input.array.ndim else input.reshape(1)
    windows = apply(indexing.INDEX_SELECT, x, axis=axis, index=places.reshape(-1))
    shape = x.shape
    whole = windows.reshape(*shape[:axis], count, size, *shape[axis + 1 :]).movedim(axis + 1, -1)
    return whole if input.array.ndim else whole.reshape(size)


# ---- joined ----------------------------------------------------------------------------------------------------------


def atleast_1d(*tensors: Any) -> Any:
    """At least one dimension; several tensors give a tuple.

    >>> phalanx.atleast_1d(phalanx.tensor(1.0)).shape
    (1,)
    """
    return _each(tensors, lambda x: x.reshape(1) if x.ndim == 0 else x)


def atleast_2d(*tensors: Any) -> Any:
    """At least two dimensions, new ones in front; several tensors give a tuple.

    >>> phalanx.atleast_2d(phalanx.tensor([1.0, 2.0])).shape
    (1, 2)
    """
    return _each(tensors, lambda x: x.reshape(1, -1) if x.ndim < 2 else x)


def atleast_3d(*tensors: Any) -> Any:
    """At least three dimensions: (n,) -> (1, n, 1), (m, n) -> (m, n, 1); several tensors give a tuple.

    >>> phalanx.atleast_3d(phalanx.zeros(2, 3)).shape
    (2, 3, 1)
    """
    return _each(tensors, lambda x: x.reshape(1, -1, 1) if x.ndim < 2 else x.unsqueeze(-1) if x.ndim == 2 else x)


def _each(tensors: tuple[Any, ...], change: Any) -> Any:
    found = tuple(change(x) for x in _given(tensors))
    return found[0] if len(tensors) == 1 and isinstance(tensors[0], Variable) else found


def block_diag(*tensors: Any) -> Tensor:
    """Matrices along the diagonal of a larger one, 0 elsewhere; vectors count as rows.

    >>> phalanx.block_diag(phalanx.ones(1, 2), phalanx.tensor([[5.0]])).tolist()
    [[1.0, 1.0, 0.0], [0.0, 0.0, 5.0]]
    """
    matrices = [atleast_2d(x) for x in _given(tensors)]
    width = sum(x.shape[1] for x in matrices)
    rows, left = [], 0
    for x in matrices:
        edges = ((0, 0), (left, width - left - x.shape[1]))
        rows.append(x.new_zeros(x.shape[0], edges[1][0]))
        rows[-1] = apply(shape.CAT, rows[-1], x, x.new_zeros(x.shape[0], edges[1][1]), axis=1)
        left += x.shape[1]
    return apply(shape.CAT, *rows, axis=0)


def meshgrid(*tensors: Any, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of a grid: n vectors -> n tensors of n dimensions; "xy" exchanges the first two.

    >>> [x.tolist() for x in phalanx.meshgrid(phalanx.tensor([1, 2]), phalanx.tensor([3, 4]), indexing="ij")]
    [[[1, 1], [2, 2]], [[3, 4], [3, 4]]]
    """
    if indexing not in ("ij", "xy"):
        raise RangeError(f'meshgrid: indexing is "ij" or "xy", got {indexing!r}')
    given = [x.reshape(-1) for x in _given(tensors)]
    sizes = [x.shape[0] for x in given]
    grid = [
        x.reshape([-1 if i == axis else 1 for i in range(len(given))]).expand(sizes) for axis, x in enumerate(given)
    ]
    return tuple(x.transpose(0, 1) if indexing == "xy" and len(given) > 1 else x for x in grid)


def cartesian_prod(*tensors: Any) -> Tensor:
    """Every combination of one element from each vector, as rows.

    >>> phalanx.cartesian_prod(phalanx.tensor([1, 2]), phalanx.tensor([3, 4])).tolist()
    [[1, 3], [1, 4], [2, 3], [2, 4]]
    """
    given = _given(tensors)
    if len(given) == 1:
        return given[0]
    return apply(shape.STACK, *(x.reshape(-1) for x in meshgrid(*given)), axis=1)


def combinations(input: Tensor, r: int = 2, with_replacement: bool = False) -> Tensor:
    """The combinations of ``r`` elements of a vector, as rows.

    >>> phalanx.combinations(phalanx.tensor([1, 2, 3])).tolist()
    [[1, 2], [1, 3], [2, 3]]
    """
    if input.array.ndim != 1:
        raise ShapeError(f"combinations: a 1-D tensor expected, got shape {input.shape}")
    pick = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    return input[np.array(list(pick(range(len(input)), r)), np.int64).reshape(-1, r)]


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """The shape that tensors of these shapes broadcast to.

    >>> phalanx.broadcast_shapes((2, 1), (3,))
    (2, 3)
    """
    sizes = [(shape,) if isinstance(shape, int) else tuple(shape) for shape in shapes]
    full = common_shape(sizes)
    if full is None:
        raise ShapeError(f"broadcast_shapes: {' and '.join(map(str, sizes))} do not broadcast")
    return full


def broadcast_tensors(*tensors: Any) -> tuple[Tensor, ...]:
    """The tensors expanded to the shape that they broadcast to.

    >>> [x.shape for x in phalanx.broadcast_tensors(phalanx.zeros(2, 1), phalanx.zeros(3))]
    [(2, 3), (2, 3)]
    """
    given = _given(tensors)
    full = broadcast_shapes(*(x.shape for x in given))
    return tuple(x.expand(full) for x in given)


def unravel_index(indices: Tensor, shape: Any) -> tuple[Tensor, ...]:
    """Positions in a tensor of ``shape`` for positions in it flattened.

    >>> phalanx.unravel_index(phalanx.tensor([3]), (2, 2))
    (tensor([1]), tensor([1]))
    """
    return tuple(wrap(as_array(part)) for part in np.unravel_index(indices.array, tuple(shape)))


def vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Tensor:
    """Powers of each element as rows, N of them, falling unless ``increasing``.

    >>> phalanx.vander(phalanx.tensor([2.0, 3.0]), 3).tolist()
    [[4.0, 2.0, 1.0], [9.0, 3.0, 1.0]]
    """
    count = len(x) if N is None else N
    powers = range(count) if increasing else range(count - 1, -1, -1)
    return apply(shape.STACK, *(x**power for power in powers), axis=-1)


# ---- turned ----------------------------------------------------------------------------------------------------------


def fliplr(input: Tensor) -> Tensor:
    """The columns in reverse order.

    >>> phalanx.fliplr(phalanx.tensor([[1, 2], [3, 4]])).tolist()
    [[2, 1], [4, 3]]
    """
    return input.flip(1)


def flipud(input: Tensor) -> Tensor:
    """The rows in reverse order.

    >>> phalanx.flipud(phalanx.tensor([[1, 2], [3, 4]])).tolist()
    [[3, 4], [1, 2]]
    """
    return input.flip(0)


def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turned by 90 degrees ``k`` times in the plane of ``dims``, from the first towards the second.

    >>> phalanx.rot90(phalanx.tensor([[1, 2], [3, 4]])).tolist()
    [[2, 4], [1, 3]]
    """
    a, b = (checked_dim("rot90", d, input.array.ndim) for d in dims)
    if a == b:
        raise RangeError(f"rot90: two different dimensions expected, got {tuple(dims)}")
    turns = k % 4
    if turns == 0:
        return input.clone()
    if turns == 2:
        return input.flip(a, b)
    return input.flip(b).transpose(a, b) if turns == 1 else input.transpose(a, b).flip(b)


def tile(input: Tensor, *dims: Any) -> Tensor:
    """Copies side by side, as :meth:`Tensor.repeat`; fewer numbers than dimensions count for the last ones.

    >>> phalanx.tile(phalanx.tensor([1, 2]), (2,)).tolist()
    [1, 2, 1, 2]
    """
    times = tuple(dims[0]) if len(dims) == 1 and not hasattr(dims[0], "__index__") else dims
    return input.repeat(*(1,) * (input.array.ndim - len(times)), *times)


# ---- diagonals and triangles -----------------------------------------------------------------------------------------


def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of dimensions ``dim1`` and ``dim2``, as the last dimension.

    >>> phalanx.diagonal(phalanx.tensor([[1, 2], [3, 4]])).tolist()
    [1, 4]
    """
    a, b = (checked_dim("diagonal", d, input.array.ndim) for d in (dim1, dim2))
    if a == b:
        raise RangeError(f"diagonal: two different dimensions expected, got {dim1} and {dim2}")
    return apply(placing.DIAGONAL, input, offset=offset, axis1=a, axis2=b)


def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Matrices (in dimensions ``dim1`` and ``dim2``) with the last dimension of ``input`` on their diagonals.

    >>> phalanx.diag_embed(phalanx.tensor([1, 2])).tolist()
    [[1, 0], [0, 2]]
    """
    ndim = input.array.ndim + 1
    a, b = (checked_dim("diag_embed", d, ndim) for d in (dim1, dim2))
    if a == b:
        raise RangeError(f"diag_embed: two different dimensions expected, got {dim1} and {dim2}")
    size = input.shape[-1] + abs(offset)
    i = np.arange(input.shape[-1])
    key = (Ellipsis, i - min(offset, 0), i + max(offset, 0))
    zeros = wrap(np.zeros_like(input.array, shape=(*input.shape[:-1], size, size)))
    return apply(placing.INDEX_PUT, zeros, input, key=key).movedim((-2, -1), (a, b))


def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """A matrix with all elements of ``input`` on its diagonal.

    >>> phalanx.diagflat(phalanx.tensor([1, 2]), 1).tolist()
    [[0, 1, 0], [0, 0, 2], [0, 0, 0]]
    """
    return diag_embed(input.reshape(-1), offset)


def trace(input: Tensor) -> Tensor:
    """The sum of the diagonal of a matrix.

    >>> phalanx.trace(phalanx.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    if input.array.ndim != 2:
        raise ShapeError(f"trace: a matrix expected, got shape {input.shape}")
    return diagonal(input).sum()


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = "int64", device: Any = None) -> Tensor:
    """Rows and columns, (2, count), of the lower triangle of a (row, col) matrix.

    >>> phalanx.tril_indices(2, 2).tolist()
    [[0, 1, 1], [0, 0, 1]]
    """
    return _positions(np.tri(row, col, offset), dtype, device)


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = "int64", device: Any = None) -> Tensor:
    """Rows and columns, (2, count), of the upper triangle of a (row, col) matrix.

    >>> phalanx.triu_indices(2, 2).tolist()
    [[0, 0, 1], [0, 1, 1]]
    """
    return _positions(1 - np.tri(row, col, offset - 1), dtype, device)


def _positions(mask: np.ndarray, dtype: Any, device: Any) -> Tensor:
    """Where ``mask`` is not 0, one row for each dimension."""
    return wrap(to_device(np.stack(np.nonzero(mask)).astype(as_dtype(dtype)), device))
