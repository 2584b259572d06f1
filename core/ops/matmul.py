"""Matrix products, in all the cases of ``torch.matmul``."""

from __future__ import annotations

import math
from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from .arithmetic import Gradients, Needs


def product(a: Array, b: Array, out: Array | None = None) -> Array:
    """``a @ b``, in ``out`` if there is one."""
    return kernel("matmul", device_kind(a))(a, b, out)


def _matmul(a: Array, b: Array) -> tuple[Array, Any]:
    try:
        return product(a, b), (a, b)
    except ValueError:
        raise ShapeError(_complaint(a, b)) from None


def _complaint(a: Array, b: Array) -> str:
    shapes = f"{tuple(a.shape)} @ {tuple(b.shape)}"
    if not a.ndim or not b.ndim:
        return f"matmul: {shapes}: both must have at least 1 dimension; multiply by numbers with *"
    inner = b.shape[-2] if b.ndim > 1 else b.shape[0]
    if a.shape[-1] != inner:
        which = "last but one" if b.ndim > 1 else "only"
        return f"matmul: {shapes}: the last size of the first ({a.shape[-1]}) must equal the {which} of the second ({inner})"
    return f"matmul: {shapes}: the leading (batch) dimensions do not broadcast"


def _rows(x: Array) -> Array:
    """(..., n) -> (rows, n)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _matmul_vjp(saved: Any, gradient: Array, needs: Needs, slots: Any) -> Gradients:
    a, b = saved
    if a.ndim == 1 or b.ndim == 1:
        return _vector_vjp(a, b, gradient, needs)
    da = db = None
    if needs[0]:
        out = slots[0] if a.ndim == gradient.ndim == 2 else None
        da = product(gradient, b.swapaxes(-1, -2), out)
    if needs[1]:
        if b.ndim == 2:  # one product over all rows, however many batch dimensions a has
            db = product(_rows(a).T, _rows(gradient), slots[1])
        else:
            db = product(a.swapaxes(-1, -2), gradient)
    return da, db


def _vector_vjp(a: Array, b: Array, gradient: Array, needs: Needs) -> Gradients:
    """A vector counts as a matrix of one row (a) or one column (b); what is left over in front the graph sums."""
    da = db = None
    if a.ndim == 1 and b.ndim == 1:
        return gradient * b if needs[0] else None, gradient * a if needs[1] else None
    if b.ndim == 1:
        column = gradient[..., None]
        if needs[0]:
            da = column * b
        if needs[1]:
            db = product(a.swapaxes(-1, -2), column)[..., 0]
        return da, db
    row = gradient[..., None, :]
    if needs[0]:
        da = product(row, b.swapaxes(-1, -2))[..., 0, :]
    if needs[1]:
        db = a[:, None] * row
    return da, db


MATMUL = define("matmul", _matmul, _matmul_vjp)
