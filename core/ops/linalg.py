"""Linear algebra over the last two axes, any number of batch axes before them, by LAPACK as the array library has it.

Gradients: Giles, Collected matrix derivative results for forward and reverse mode algorithmic differentiation (2008), and
for the orthogonal factors Walter and Lehmann (arXiv 1009.6112) and Townsend, Differentiating the singular value
decomposition (2016). float16 is computed in float32 and rounded once, as there is no LAPACK for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import array_module
from ..bfloat16 import is_floating, is_half
from ..errors import DTypeError, RangeError, ShapeError
from ..op import Array, define
from .arithmetic import Gradients, Needs


def _matrices(op: str, square: bool = True, **given: Array) -> None:
    for name, x in given.items():
        if not is_floating(x.dtype):
            raise DTypeError(f"{op}: {name} must be of floating point, got {x.dtype}; convert it with .float()")
        if x.ndim < 2 or (square and x.shape[-1] != x.shape[-2]):
            what = "square matrices (..., n, n)" if square else "matrices (..., m, n)"
            raise ShapeError(f"{op}: {name} must be {what}, got shape {tuple(x.shape)}")


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if is_half(x.dtype) else x


def _call(op: str, function: Any, *arrays: Array) -> Any:
    try:
        return function(*(_wide(x) for x in arrays))
    except np.linalg.LinAlgError as error:
        raise RangeError(f"{op}: {error} (shape {tuple(arrays[0].shape)})") from None


def _t(x: Array) -> Array:
    return x.swapaxes(-1, -2)


def _eye(n: int, like: Array) -> Array:
    return array_module(like).eye(n, dtype=like.dtype)


def _inv(a: Array) -> tuple[Array, Array]:
    """The inverse of each matrix."""
    _matrices("inv", A=a)
    y = _call("inv", np.linalg.inv, a).astype(a.dtype, copy=False)
    return y, y


def _inv_vjp(y: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    return (-(_t(y) @ gradient @ _t(y)),)


INV = define("inv", _inv, _inv_vjp)


def _solve(a: Array, b: Array) -> tuple[Array, Any]:
    """x with a @ x = b, for matrices b (..., n, k)."""
    _matrices("solve", A=a)
    _matrices("solve", square=False, B=b)
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"solve: A of shape {tuple(a.shape)} and B of shape {tuple(b.shape)} differ in rows")
    x = _call("solve", np.linalg.solve, a, b).astype(b.dtype, copy=False)
    return x, (a, x)


def _solve_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    a, x = saved
    db = np.linalg.solve(_wide(_t(a)), _wide(gradient)).astype(x.dtype, copy=False)
    return -(db @ _t(x)) if needs[0] else None, db if needs[1] else None


SOLVE = define("solve", _solve, _solve_vjp)


def _cholesky(a: Array) -> tuple[Array, Array]:
    """Lower triangular L with L @ L.mT = a, of the symmetric part of ``a``."""
    _matrices("cholesky", A=a)
    wide = _wide(a)
    y = _call("cholesky", np.linalg.cholesky, (wide + _t(wide)) * wide.dtype.type(0.5)).astype(a.dtype, copy=False)
    return y, y


def _cholesky_vjp(factor: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """The symmetric part of L^-T phi(L^T G) L^-1, where phi takes the lower triangle and half of the diagonal."""
    inverse = np.linalg.inv(_wide(factor)).astype(factor.dtype, copy=False)
    lower = np.tril(_t(factor) @ gradient)
    half = 1 - 0.5 * _eye(factor.shape[-1], factor)
    full = _t(inverse) @ (lower * half) @ inverse
    return ((full + _t(full)) * factor.dtype.type(0.5),)


CHOLESKY = define("cholesky", _cholesky, _cholesky_vjp)


def _det(a: Array) -> tuple[Array, Array]:
    """The determinant of each matrix."""
    _matrices("det", A=a)
    return _call("det", np.linalg.det, a).astype(a.dtype, copy=False), a


def _det_vjp(a: Array, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    """The matrix of cofactors, by the singular values, which also serve where there is no inverse."""
    u, s, vh = np.linalg.svd(_wide(a))
    others = np.ones_like(s)
    for i in range(s.shape[-1]):
        others[..., i] = np.multiply.reduce(np.delete(s, i, -1), axis=-1)
    sign = np.linalg.det(u) * np.linalg.det(vh)
    cofactors = (u * (others * sign[..., None])[..., None, :]) @ vh
    return (gradient[..., None, None] * cofactors.astype(a.dtype, copy=False),)


DET = define("det", _det, _det_vjp)


def _slogdet(a: Array) -> tuple[tuple[Array, Array], Array]:
    """Sign and logarithm of the absolute determinant."""
    _matrices("slogdet", A=a)
    sign, logarithm = _call("slogdet", np.linalg.slogdet, a)
    return (sign.astype(a.dtype, copy=False), logarithm.astype(a.dtype, copy=False)), a


def _slogdet_vjp(a: Array, gradient: tuple[None, Array], needs: Needs, slots: Any) -> Gradients:
    inverse = _t(_call("backward of slogdet", np.linalg.inv, a)).astype(a.dtype, copy=False)
    return (gradient[1][..., None, None] * inverse,)


SLOGDET = define("slogdet", _slogdet, _slogdet_vjp, differentiable=(1,))


def _filled(gradient: Any, like: Array) -> Array:
    """An output's gradient, 0 where it has none."""
    return np.zeros_like(like) if gradient is None else gradient


def _eigh(a: Array) -> tuple[tuple[Array, Array], Any]:
    """Eigenvalues in rising order and eigenvectors (columns) of the symmetric part of ``a``."""
    _matrices("eigh", A=a)
    wide = _wide(a)
    values, vectors = _call("eigh", np.linalg.eigh, (wide + _t(wide)) * wide.dtype.type(0.5))
    values, vectors = values.astype(a.dtype, copy=False), vectors.astype(a.dtype, copy=False)
    return (values, vectors), (values, vectors)


def _eigh_vjp(saved: Any, gradient: Any, needs: Needs, slots: Any) -> Gradients:
    """V (diag(gw) + V^T gV / (w_j - w_i)) V^T, made symmetric."""
    w, v = saved
    inner = _filled(gradient[0], w)[..., None] * _eye(w.shape[-1], w)
    if gradient[1] is not None:
        apart = w[..., None, :] - w[..., :, None] + _eye(w.shape[-1], w)
        off = 1 - _eye(w.shape[-1], w)
        inner = inner + (_t(v) @ gradient[1]) / apart * off
    full = v @ inner @ _t(v)
    return ((full + _t(full)) * w.dtype.type(0.5),)


EIGH = define("eigh", _eigh, _eigh_vjp)


def _svd(a: Array) -> tuple[tuple[Array, Array, Array], Any]:
    """U (..., m, k), singular values (..., k) in falling order, V^T (..., k, n), with k = min(m, n)."""
    _matrices("svd", square=False, A=a)
    found = _call("svd", lambda x: np.linalg.svd(x, full_matrices=False), a)
    u, s, vh = (x.astype(a.dtype, copy=False) for x in found)
    return (u, s, vh), (u, s, vh)


def _svd_vjp(saved: Any, gradient: Any, needs: Needs, slots: Any) -> Gradients:
    u, s, vh = saved
    gu, gs, gvh = gradient
    k = s.shape[-1]
    eye = _eye(k, s)
    inner = _filled(gs, s)[..., None] * eye
    if gu is None and gvh is None:
        return (u @ inner @ vh,)
    squares = s * s
    apart = squares[..., None, :] - squares[..., :, None] + eye
    row, column = s[..., None, :], s[..., :, None]
    outside = 0.0
    if gu is not None:
        skew = _t(u) @ gu
        inner = inner + (skew - _t(skew)) / apart * (1 - eye) * row
        outside = outside + ((gu - u @ skew) / row) @ vh
    if gvh is not None:
        skew = vh @ _t(gvh)
        inner = inner + column * ((skew - _t(skew)) / apart * (1 - eye))
        outside = outside + (u / row) @ (gvh - _t(skew) @ vh)
    return (u @ inner @ vh + outside,)


SVD = define("svd", _svd, _svd_vjp)


def _qr(a: Array) -> tuple[tuple[Array, Array], Any]:
    """Q (..., m, k) with orthogonal columns and upper triangular R (..., k, n), k = min(m, n)."""
    _matrices("qr", square=False, A=a)
    q, r = _call("qr", np.linalg.qr, a)
    q, r = q.astype(a.dtype, copy=False), r.astype(a.dtype, copy=False)
    return (q, r), (q, r)


def _qr_vjp(saved: Any, gradient: Any, needs: Needs, slots: Any) -> Gradients:
    """(gQ + Q copyltu(M)) R^-T with M = R gR^T - gQ^T Q; a wide matrix is [X | Y], of which X alone makes Q."""
    q, r = saved
    gq, gr = _filled(gradient[0], q), _filled(gradient[1], r)
    k = r.shape[-2]
    if r.shape[-1] > k:
        wide = r[..., k:]
        gy = q @ gr[..., k:]
        gq = gq + (q @ wide) @ _t(gr[..., k:])
        return (np.concatenate([_square_qr_vjp(q, r[..., :k], gq, gr[..., :k], k), gy], axis=-1),)
    return (_square_qr_vjp(q, r, gq, gr, k),)


def _square_qr_vjp(q: Array, r: Array, gq: Array, gr: Array, k: int) -> Array:
    m = r @ _t(gr) - _t(gq) @ q
    lower = np.tril(m)
    symmetric = lower + _t(np.tril(m, -1))
    right = gq + q @ symmetric
    return _t(np.linalg.solve(_wide(r), _wide(_t(right)))).astype(q.dtype, copy=False)


QR = define("qr", _qr, _qr_vjp)
