"""Linear algebra of matrices in the last two dimensions, as ``torch.linalg``; all of it has gradients."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .backend import as_array
from .errors import RangeError, ShapeError
from .functions_products import chain_matmul, cross
from .functions_products import matrix_power as _power
from .functions_reduce import norm as _vector_norm
from .functions_shape import diagonal
from .graph import apply, wrap
from .ops import linalg as ops
from .ops.arithmetic import WHERE
from .tensor_math import Dim, checked_dim, with_numpy_names

if TYPE_CHECKING:
    from .tensor import Tensor

__all__ = [
    "QR",
    "SVD",
    "Eigh",
    "SlogDet",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "lstsq",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "vecdot",
    "vector_norm",
]  # fmt: skip


class SlogDet(NamedTuple):
    """What ``slogdet`` returns.

    >>> phalanx.linalg.slogdet(phalanx.eye(2)).sign
    tensor(1.)
    """

    sign: Any
    logabsdet: Any


class SVD(NamedTuple):
    """What ``svd`` returns.

    >>> phalanx.linalg.svd(phalanx.eye(2)).S
    tensor([1., 1.])
    """

    U: Any
    S: Any
    Vh: Any


class QR(NamedTuple):
    """What ``qr`` returns.

    >>> phalanx.linalg.qr(phalanx.eye(2)).R.shape
    (2, 2)
    """

    Q: Any
    R: Any


class Eigh(NamedTuple):
    """What ``eigh`` returns.

    >>> phalanx.linalg.eigh(phalanx.eye(2)).eigenvalues
    tensor([1., 1.])
    """

    eigenvalues: Any
    eigenvectors: Any


def inv(A: Tensor) -> Tensor:
    """The inverse of each square matrix. Raises RangeError for a singular one.

    >>> phalanx.linalg.inv(phalanx.tensor([[2.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return apply(ops.INV, A)


def solve(A: Tensor, B: Tensor, *, left: bool = True) -> Tensor:
    """X with ``A @ X = B`` (``X @ A = B`` without ``left``); B is a matrix, or a vector for each matrix of A.

    >>> phalanx.linalg.solve(phalanx.tensor([[2.0, 0.0], [0.0, 4.0]]), phalanx.tensor([2.0, 8.0]))
    tensor([1., 2.])
    """
    vector = B.array.ndim == 1 or (A.array.ndim - 1 == B.array.ndim and B.shape == A.shape[:-1])
    if vector:
        if not left:
            raise ShapeError("solve: left=False expects matrices B")
        return apply(ops.SOLVE, A, B.unsqueeze(-1)).squeeze(-1)
    return apply(ops.SOLVE, A, B) if left else apply(ops.SOLVE, A.mT, B.mT).mT


def cholesky(A: Tensor, *, upper: bool = False) -> Tensor:
    """Lower triangular L with ``L @ L.mT = A`` (its transpose with ``upper``), of symmetric positive definite matrices.

    Works on the symmetric part of A. Raises RangeError where A is not positive definite.

    >>> phalanx.linalg.cholesky(phalanx.tensor([[4.0, 2.0], [2.0, 5.0]])).tolist()
    [[2.0, 0.0], [1.0, 2.0]]
    """
    factor = apply(ops.CHOLESKY, A)
    return factor.mT if upper else factor


def det(A: Tensor) -> Tensor:
    """The determinant of each square matrix; its gradient is right for singular ones, too.

    >>> round(phalanx.linalg.det(phalanx.tensor([[1.0, 2.0], [3.0, 4.0]])).item(), 4)
    -2.0
    """
    return apply(ops.DET, A)


def slogdet(A: Tensor) -> SlogDet:
    """Sign and logarithm of the absolute determinant: ``(sign, logabsdet)``.

    >>> phalanx.linalg.slogdet(phalanx.tensor([[2.0, 0.0], [0.0, -1.0]]))
    SlogDet(sign=tensor(-1.), logabsdet=tensor(0.6931))
    """
    return SlogDet(*apply(ops.SLOGDET, A))


def logdet(A: Tensor) -> Tensor:
    """Logarithm of the determinant: -infinity where that is 0, NaN where it is negative.

    >>> phalanx.logdet(phalanx.tensor([[2.0, 0.0], [0.0, 3.0]]))
    tensor(1.7918)
    """
    sign, logarithm = apply(ops.SLOGDET, A)
    return apply(WHERE, sign.array < 0, A.dtype.type(math.nan), logarithm)


def eigh(A: Tensor, UPLO: str = "L") -> Eigh:
    """Eigenvalues in rising order and eigenvectors (columns) of symmetric matrices.

    Works on the symmetric part of A, whatever ``UPLO``. The gradient of the vectors needs eigenvalues that differ.

    >>> phalanx.linalg.eigh(phalanx.tensor([[2.0, 0.0], [0.0, 1.0]])).eigenvalues
    tensor([1., 2.])
    """
    return Eigh(*apply(ops.EIGH, A))


def eigvalsh(A: Tensor, UPLO: str = "L") -> Tensor:
    """Eigenvalues of symmetric matrices in rising order.

    >>> phalanx.linalg.eigvalsh(phalanx.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([1., 2.])
    """
    return apply(ops.EIGH, A)[0]


def svd(A: Tensor, full_matrices: bool = False) -> SVD:
    """``A = U @ diag(S) @ Vh`` with S in falling order; only the columns that S reaches.

    The gradient of U and Vh needs singular values that differ. ``full_matrices=True`` (PyTorch's default) is refused: the
    columns beyond S have no gradient.

    >>> phalanx.linalg.svd(phalanx.tensor([[3.0, 0.0], [0.0, 4.0]])).S
    tensor([4., 3.])
    """
    if full_matrices and A.shape[-1] != A.shape[-2]:
        raise RangeError("svd: full_matrices=True of matrices that are not square is not supported; use False")
    return SVD(*apply(ops.SVD, A))


def svdvals(A: Tensor) -> Tensor:
    """Singular values in falling order.

    >>> phalanx.linalg.svdvals(phalanx.tensor([[3.0, 0.0], [0.0, 4.0]]))
    tensor([4., 3.])
    """
    return apply(ops.SVD, A)[1]


def qr(A: Tensor, mode: str = "reduced") -> QR:
    """``A = Q @ R`` with orthogonal columns in Q and R upper triangular.

    >>> phalanx.linalg.qr(phalanx.tensor([[3.0], [4.0]])).R.abs().tolist()
    [[5.0]]
    """
    if mode != "reduced":
        raise RangeError(f'qr: mode "reduced" is supported, got {mode!r}')
    return QR(*apply(ops.QR, A))


def pinv(A: Tensor, rcond: float | None = None) -> Tensor:
    """The pseudo-inverse, singular values below ``rcond`` times the largest counting as 0 (eps * max(m, n)).

    >>> phalanx.linalg.pinv(phalanx.tensor([[2.0], [0.0]])).tolist()
    [[0.5, 0.0]]
    """
    u, s, vh = apply(ops.SVD, A)
    kept = wrap(_above(s.array, A, rcond))
    inverse = kept.to(s.dtype) / (s + kept.logical_not().to(s.dtype))
    return vh.mT @ (inverse.unsqueeze(-1) * u.mT)


def _above(s: Any, A: Tensor, rcond: float | None) -> Any:
    """Which singular values count."""
    limit = np.finfo(s.dtype).eps * max(A.shape[-2:]) if rcond is None else rcond
    return s > limit * s.max(axis=-1, keepdims=True) if s.shape[-1] else s > limit


def matrix_rank(A: Tensor, *, rtol: float | None = None) -> Tensor:
    """How many singular values are above ``rtol`` times the largest (eps * max(m, n)).

    >>> phalanx.linalg.matrix_rank(phalanx.tensor([[1.0, 2.0], [2.0, 4.0]]))
    tensor(1)
    """
    s = svdvals(A.detach()).array
    return wrap(as_array(_above(s, A, rtol).sum(-1)))


def lstsq(A: Tensor, B: Tensor) -> Tensor:
    """X of the least ``|A @ X - B|``, by the pseudo-inverse (PyTorch's also returns residuals and rank).

    >>> phalanx.linalg.lstsq(phalanx.tensor([[1.0], [1.0]]), phalanx.tensor([[1.0], [3.0]])).round(decimals=4).tolist()
    [[2.0]]
    """
    return pinv(A) @ B


def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Matrix product, as ``phalanx.matmul``.

    >>> phalanx.linalg.matmul(phalanx.ones(1, 2), phalanx.ones(2, 1)).tolist()
    [[2.0]]
    """
    return input @ other


def multi_dot(tensors: Any) -> Tensor:
    """The product of several matrices (the first and last may be vectors), in the order that costs least.

    >>> phalanx.linalg.multi_dot([phalanx.ones(2, 3), phalanx.ones(3, 4), phalanx.ones(4)]).tolist()
    [12.0, 12.0]
    """
    given = list(tensors)
    row, column = given[0].ndim == 1, given[-1].ndim == 1
    if row:
        given[0] = given[0].unsqueeze(0)
    if column:
        given[-1] = given[-1].unsqueeze(1)
    product: Any = chain_matmul(*given)
    product = product.squeeze(0) if row else product
    return product.squeeze(-1) if column else product


def matrix_power(A: Tensor, n: int) -> Tensor:
    """The product of ``n`` equal matrices; of their inverses for a negative n.

    >>> phalanx.linalg.matrix_power(phalanx.tensor([[2.0]]), -2).tolist()
    [[0.25]]
    """
    return _power(A, n) if n >= 0 else _power(inv(A), -n)


@with_numpy_names
def vecdot(x: Tensor, y: Tensor, dim: int = -1) -> Tensor:
    """Products of vectors along ``dim``.

    >>> phalanx.linalg.vecdot(phalanx.ones(2, 3), phalanx.ones(2, 3))
    tensor([3., 3.])
    """
    return (x * y).sum(dim)


@with_numpy_names
def vector_norm(x: Tensor, ord: float = 2, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """``(sum |x|^ord)^(1/ord)`` over ``dim`` (all without it); ord may be infinite or 0.

    >>> phalanx.linalg.vector_norm(phalanx.tensor([3.0, 4.0]))
    tensor(5.)
    """
    return _vector_norm(x, ord, dim, keepdim, dtype)


_MATRIX_NORMS = 'matrix_norm: ord is "fro", "nuc", 1, -1, 2, -2, inf or -inf, got {!r}'


@with_numpy_names
def matrix_norm(
    A: Tensor, ord: Any = "fro", dim: tuple[int, int] = (-2, -1), keepdim: bool = False, dtype: Any = None
) -> Tensor:
    """The norm of each matrix: "fro", "nuc", 2 or -2 (of its singular values), 1, -1, inf, -inf (of its sums).

    >>> phalanx.linalg.matrix_norm(phalanx.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    tensor(6.)
    """
    x: Any = A if dtype is None else A.to(dtype)
    rows, columns = (checked_dim("matrix_norm", d, x.array.ndim) for d in dim)
    if ord == "fro":
        return _vector_norm(x, 2, (rows, columns), keepdim)
    x = x.movedim((rows, columns), (-2, -1))
    if ord in ("nuc", 2, -2):
        s = svdvals(x)
        found: Any = s.sum(-1) if ord == "nuc" else s.amax(-1) if ord == 2 else s.amin(-1)
    elif ord in (1, -1, math.inf, -math.inf):
        sums = x.abs().sum(-2 if abs(ord) == 1 else -1)
        found = sums.amax(-1) if ord > 0 else sums.amin(-1)
    else:
        raise RangeError(_MATRIX_NORMS.format(ord))
    if keepdim:
        for axis in sorted((rows, columns)):
            found = found.unsqueeze(axis)
    return found


@with_numpy_names
def norm(A: Tensor, ord: Any = None, dim: Dim = None, keepdim: bool = False, dtype: Any = None) -> Tensor:
    """A vector norm (one dimension, or no ``ord``) or a matrix norm (two dimensions, or a matrix).

    >>> phalanx.linalg.norm(phalanx.tensor([3.0, 4.0]))
    tensor(5.)
    """
    pair = not isinstance(dim, int | None) and len(dim) == 2
    if ord is None:
        return _vector_norm(A, 2, dim, keepdim, dtype)
    if pair or (dim is None and A.array.ndim == 2):
        two: Any = tuple(dim) if pair else (-2, -1)  # type: ignore[arg-type]
        return matrix_norm(A, ord, two, keepdim, dtype)
    if isinstance(ord, str) or (dim is None and A.array.ndim != 1):
        raise RangeError(f"norm: ord={ord!r} needs a vector, a matrix or dim, got shape {A.shape}")
    return _vector_norm(A, ord, dim, keepdim, dtype)


def cond(A: Tensor, p: Any = None) -> Tensor:
    """The condition number: of the singular values the largest over the smallest, else ``norm(A, p) * norm(inv(A), p)``.

    >>> phalanx.linalg.cond(phalanx.tensor([[4.0, 0.0], [0.0, 2.0]]))
    tensor(2.)
    """
    if p in (None, 2, -2):
        s = svdvals(A)
        top, bottom = s.amax(-1), s.amin(-1)
        return bottom / top if p == -2 else top / bottom
    return matrix_norm(A, p) * matrix_norm(inv(A), p)


inverse, pinverse = inv, pinv
