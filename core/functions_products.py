"""Products of vectors and matrices beside ``matmul``, all composed. Methods where PyTorch has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .backend import array_module
from .errors import RangeError, ShapeError
from .functions_reduce import norm
from .graph import apply, wrap
from .ops.matmul import MATMUL
from .ops.shape import STACK
from .promotion import binary
from .tensor_math import checked_dim, with_numpy_names

if TYPE_CHECKING:
    from .tensor import Tensor


def _plus(input: Any, product: Any, beta: Any, alpha: Any) -> Any:
    """``beta * input + alpha * product``; with a beta of 0 whatever ``input`` holds does not count."""
    product = product if alpha == 1 else product * alpha
    if beta == 0:
        return product + input.detach().new_zeros(input.shape)
    return (input if beta == 1 else input * beta) + product


def _wants(name: str, ndim: int, *tensors: Any) -> None:
    if any(x.array.ndim != ndim for x in tensors):
        shapes = " and ".join(str(x.shape) for x in tensors)
        raise ShapeError(f"{name}: tensors of {ndim} dimensions expected, got shapes {shapes}")


def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices (``matmul`` also takes vectors and batches).

    >>> phalanx.mm(phalanx.ones(2, 3), phalanx.ones(3, 1)).tolist()
    [[3.0], [3.0]]
    """
    _wants("mm", 2, input, mat2)
    return binary(MATMUL, input, mat2)


def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two batches of matrices, (B, n, m) and (B, m, p).

    >>> phalanx.bmm(phalanx.ones(2, 1, 3), phalanx.ones(2, 3, 1)).tolist()
    [[[3.0]], [[3.0]]]
    """
    _wants("bmm", 3, input, mat2)
    if input.shape[0] != mat2.shape[0]:
        raise ShapeError(f"bmm: batches of one size expected, got shapes {input.shape} and {mat2.shape}")
    return binary(MATMUL, input, mat2)


def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector.

    >>> phalanx.mv(phalanx.ones(2, 3), phalanx.ones(3))
    tensor([3., 3.])
    """
    _wants("mv", 2, input)
    _wants("mv", 1, vec)
    return binary(MATMUL, input, vec)


def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The product of two vectors.

    >>> phalanx.dot(phalanx.tensor([1.0, 2.0]), phalanx.tensor([3.0, 4.0]))
    tensor(11.)
    """
    _wants("dot", 1, input, tensor)
    return binary(MATMUL, input, tensor)


def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * (mat1 @ mat2)``.

    >>> phalanx.addmm(phalanx.ones(1), phalanx.ones(1, 2), phalanx.ones(2, 1), alpha=3).tolist()
    [[7.0]]
    """
    _wants("addmm", 2, mat1, mat2)
    return _plus(input, mat1 @ mat2, beta, alpha)


def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * (mat @ vec)``.

    >>> phalanx.addmv(phalanx.ones(1), phalanx.ones(1, 2), phalanx.ones(2)).tolist()
    [3.0]
    """
    _wants("addmv", 1, vec)
    return _plus(input, mat @ vec, beta, alpha)


def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * outer(vec1, vec2)``.

    >>> phalanx.addr(phalanx.zeros(2, 2), phalanx.tensor([1.0, 2.0]), phalanx.tensor([3.0, 4.0])).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    return _plus(input, vec1.outer(vec2), beta, alpha)


def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * (batch1 @ batch2)``, matrix by matrix.

    >>> phalanx.baddbmm(phalanx.zeros(2, 1, 1), phalanx.ones(2, 1, 3), phalanx.ones(2, 3, 1)).tolist()
    [[[3.0]], [[3.0]]]
    """
    _wants("baddbmm", 3, batch1, batch2)
    return _plus(input, batch1 @ batch2, beta, alpha)


def addbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """``beta * input + alpha * sum over the batch of (batch1 @ batch2)``.

    >>> phalanx.addbmm(phalanx.zeros(1, 1), phalanx.ones(2, 1, 3), phalanx.ones(2, 3, 1)).tolist()
    [[6.0]]
    """
    _wants("addbmm", 3, batch1, batch2)
    return _plus(input, (batch1 @ batch2).sum(0), beta, alpha)


def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimensions of both; of a 0-d tensor the plain product.

    >>> phalanx.inner(phalanx.tensor([1.0, 2.0]), phalanx.tensor([3.0, 4.0]))
    tensor(11.)
    """
    if not input.array.ndim or not other.array.ndim:
        return input * other
    return tensordot(input, other, ([-1], [-1]))


def vdot(input: Tensor, other: Tensor) -> Tensor:
    """The product of two vectors.

    >>> phalanx.vdot(phalanx.tensor([1.0, 2.0]), phalanx.tensor([3.0, 4.0]))
    tensor(11.)
    """
    _wants("vdot", 1, input, other)
    return binary(MATMUL, input, other)


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sum of products over ``dims``: the last n of ``a`` with the first n of ``b``, or two lists of dimensions.

    >>> phalanx.tensordot(phalanx.ones(2, 3, 4), phalanx.ones(3, 4, 5), 2).shape
    (2, 5)
    """
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.array.ndim, b.array.ndim):
            raise RangeError(f"tensordot: dims={dims} of tensors of shapes {a.shape} and {b.shape}")
        first, second = list(range(a.array.ndim - dims, a.array.ndim)), list(range(dims))
    else:
        given = dims.tolist() if hasattr(dims, "tolist") else dims
        lists = [[d] if isinstance(d, int) else list(d) for d in given]
        first = [checked_dim("tensordot", d, a.array.ndim) for d in lists[0]]
        second = [checked_dim("tensordot", d, b.array.ndim) for d in lists[1]]
    sizes = [a.shape[d] for d in first]
    if sizes != [b.shape[d] for d in second]:
        raise ShapeError(f"tensordot: sizes {sizes} of a do not equal {[b.shape[d] for d in second]} of b")
    left = [d for d in range(a.array.ndim) if d not in first]
    right = [d for d in range(b.array.ndim) if d not in second]
    inner_size = math.prod(sizes)
    rows, columns = [a.shape[d] for d in left], [b.shape[d] for d in right]
    product = a.permute(*left, *first).reshape(math.prod(rows), inner_size) @ b.permute(*second, *right).reshape(
        inner_size, math.prod(columns)
    )
    return product.reshape(*rows, *columns) if rows or columns else product.reshape(())


def kron(input: Tensor, other: Tensor) -> Tensor:
    """Kronecker product: each element of ``input`` times all of ``other``.

    >>> phalanx.kron(phalanx.tensor([1.0, 10.0]), phalanx.tensor([1.0, 2.0]))
    tensor([ 1.,  2., 10., 20.])
    """
    ndim = max(input.array.ndim, other.array.ndim)
    a_shape = (1,) * (ndim - input.array.ndim) + input.shape
    b_shape = (1,) * (ndim - other.array.ndim) + other.shape
    a = input.reshape([size for n in a_shape for size in (n, 1)])
    b = other.reshape([size for n in b_shape for size in (1, n)])
    return (a * b).reshape([m * n for m, n in zip(a_shape, b_shape, strict=True)])


@with_numpy_names
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """Vector product along ``dim`` (the first of size 3).

    >>> phalanx.cross(phalanx.tensor([1.0, 0.0, 0.0]), phalanx.tensor([0.0, 1.0, 0.0]))
    tensor([0., 0., 1.])
    """
    full = np.broadcast_shapes(input.shape, other.shape)
    found = [i for i, size in enumerate(full) if size == 3]
    if dim is None and not found:
        raise ShapeError(f"cross: a dimension of size 3 expected, got shapes {input.shape} and {other.shape}")
    axis = found[0] if dim is None else checked_dim("cross", dim, len(full))
    if full[axis] != 3:
        raise ShapeError(f"cross: dimension {dim} of size 3 expected, got shapes {input.shape} and {other.shape}")
    a, b = input.expand(full).unbind(axis), other.expand(full).unbind(axis)
    parts = [a[i] * b[j] - a[j] * b[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return apply(STACK, *parts, axis=axis)


def matrix_power(input: Tensor, n: int) -> Tensor:
    """The product of ``n`` equal square matrices, by repeated squaring; see ``linalg.matrix_power`` for negative n.

    >>> phalanx.matrix_power(phalanx.tensor([[1.0, 1.0], [0.0, 1.0]]), 3).tolist()
    [[1.0, 3.0], [0.0, 1.0]]
    """
    if input.array.ndim < 2 or input.shape[-1] != input.shape[-2]:
        raise ShapeError(f"matrix_power: square matrices expected, got shape {input.shape}")
    if n < 0:
        raise RangeError(f"matrix_power: n of at least 0 expected, got {n}; linalg.matrix_power inverts")
    if n == 0:
        eye = array_module(input.array).eye(input.shape[-1], dtype=input.dtype)
        return wrap(np.broadcast_to(eye, input.shape).copy())
    result: Any = None
    square: Any = input
    while n:
        if n & 1:
            result = square if result is None else result @ square
        n >>= 1
        square = square @ square if n else square
    return result


def chain_matmul(*matrices: Tensor) -> Tensor:
    """The product of several matrices, in the order that costs least.

    >>> phalanx.chain_matmul(phalanx.ones(2, 3), phalanx.ones(3, 4), phalanx.ones(4, 1)).shape
    (2, 1)
    """
    given: Sequence[Any] = matrices[0] if len(matrices) == 1 and isinstance(matrices[0], list | tuple) else matrices
    _wants("chain_matmul", 2, *given)
    sizes = [given[0].shape[0], *(x.shape[1] for x in given)]
    count = len(given)
    cost = [[0] * count for _ in range(count)]
    cut = [[0] * count for _ in range(count)]
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            ways = [(cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k) for k in range(i, j)]
            cost[i][j], cut[i][j] = min(ways)

    def product(i: int, j: int) -> Any:
        return given[i] if i == j else product(i, cut[i][j]) @ product(cut[i][j] + 1, j)

    return product(0, count - 1)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: Any = None) -> Tensor:
    """Distances of all pairs of rows: (..., P, M), (..., R, M) -> (..., P, R). The gradient is 0 where two rows are equal.

    >>> phalanx.cdist(phalanx.tensor([[0.0, 0.0]]), phalanx.tensor([[3.0, 4.0]])).tolist()
    [[5.0]]
    """
    if x1.array.ndim < 2 or x2.array.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(f"cdist: shapes (..., P, M) and (..., R, M) expected, got {x1.shape} and {x2.shape}")
    return norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """Distances of all pairs of different rows of (N, M): N (N - 1) / 2 of them, row by row.

    >>> phalanx.pdist(phalanx.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]]))
    tensor([5.    , 1.    , 4.2426])
    """
    _wants("pdist", 2, input)
    first, second = np.nonzero(1 - np.tri(len(input.array)))
    return norm(input[first] - input[second], p, -1)


def cov(input: Tensor, *, correction: int = 1) -> Tensor:
    """Covariance of the rows (variables) over the columns (observations).

    >>> phalanx.cov(phalanx.tensor([[0.0, 2.0], [1.0, 5.0]])).tolist()
    [[2.0, 4.0], [4.0, 8.0]]
    """
    if input.array.ndim > 2:
        raise ShapeError(f"cov: at most 2 dimensions expected, got shape {input.shape}")
    x: Any = input.reshape(1, -1) if input.array.ndim < 2 else input
    apart = x - x.mean(1, keepdim=True)
    found = apart @ apart.mT / max(x.shape[1] - correction, 0)
    return found if input.array.ndim == 2 else found.reshape(())


def corrcoef(input: Tensor) -> Tensor:
    """Pearson's correlation of the rows over the columns.

    >>> phalanx.corrcoef(phalanx.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 4.0]])).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    found = cov(input)
    if not found.array.ndim:
        return found / found
    scale = found.diagonal().sqrt()  # type: ignore[attr-defined]
    return (found / scale.unsqueeze(1) / scale.unsqueeze(0)).clamp(-1, 1)


def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Every element of one vector times every element of another: (n,), (m,) -> (n, m).

    >>> phalanx.outer(phalanx.tensor([1.0, 2.0]), phalanx.tensor([3.0, 4.0])).tolist()
    [[3.0, 4.0], [6.0, 8.0]]
    """
    _wants("outer", 1, input, vec2)
    return input.unsqueeze(1) * vec2.unsqueeze(0)


ger = outer
