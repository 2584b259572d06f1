"""Matrix products by oneDNN: float32, any transposition, strided batches, bias and activation on the way out.

What NumPy's BLAS does as well (tiny products), what oneDNN has no fast code for and all other dtypes go to the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ...op import Array
from .. import reference
from . import onednn_c
from .onednn import Pool, Primitive, dense, layout, plan

SMALLEST = 80**3
"""Multiplications below which NumPy is faster: a call of oneDNN costs some 6 us more."""

ACTIVATIONS: dict[str, tuple[int, float]] = {
    "relu": (onednn_c.RELU, 0.0),
    "tanh": (onednn_c.TANH, 0.0),
    "sigmoid": (onednn_c.SIGMOID, 0.0),
    "gelu": (onednn_c.GELU, 0.0),
    "gelu_tanh": (onednn_c.GELU_TANH, 0.0),
    "silu": (onednn_c.SILU, 1.0),
}
"""Name -> oneDNN's number and parameter."""

FLOAT32 = np.dtype(np.float32)
Numbers = tuple[int, ...]


# ---- how operands lie ------------------------------------------------------------------------------------------------


def _matrix_strides(shape: Numbers, strides: Numbers) -> Numbers | None:
    """Strides in elements if oneDNN takes these matrices as they lie, by rows or by columns; else None.

    What a size of 1 makes meaningless is set to what a dense matrix would have.
    """
    strides = tuple(step // FLOAT32.itemsize for step in strides)
    rows, columns = shape[-2:]
    down, along = strides[-2:]
    if columns == 1:
        along = 1
    if rows == 1:
        down = columns if along == 1 else 1
    if not ((along == 1 and down >= columns) or (down == 1 and along >= rows)):
        return None
    if any(step <= 0 and size > 1 for step, size in zip(strides[:-2], shape[:-2], strict=True)):
        return None
    return tuple(max(step, 1) for step in strides[:-2]) + (down, along)


class _Product:
    """The primitive of one set of shapes and strides, and which operands it wants copied first."""

    __slots__ = ("copy_a", "copy_b", "copy_out", "primitive")

    def __init__(
        self, a: Numbers, a_strides: Numbers, b: Numbers, b_strides: Numbers, out_strides: Numbers | None,
        bias: bool, activation: str | None,
    ) -> None:  # fmt: skip
        c = a[:-1] + b[-1:]
        left, right = _matrix_strides(a, a_strides), _matrix_strides(b, b_strides)
        target = None if out_strides is None else _matrix_strides(c, out_strides)
        if target is not None and target[-1] != 1:
            target = None
        self.copy_a, self.copy_b, self.copy_out = left is None, right is None, target is None
        forms = layout(a, left or dense(a)), layout(b, right or dense(b)), layout(c, target or dense(c))
        row = (1,) * (len(c) - 1) + c[-1:]
        added = layout(row, dense(row)) if bias else None
        algorithm, alpha = (None, 0.0) if activation is None else ACTIVATIONS[activation]
        made = plan("matmul", forms[0], forms[1], added, forms[2], activation=algorithm, alpha=alpha)
        arguments = (
            {onednn_c.SRC: forms[0], onednn_c.WEIGHTS: forms[1]}
            | ({onednn_c.BIAS: added} if bias else {})
            | {onednn_c.DST: forms[2]}
        )
        self.primitive = Primitive(made, arguments)


_products = Pool(_Product)


def _takes(a: Array, b: Array) -> bool:
    """Whether dtypes and batch dimensions are those that oneDNN serves, and the product is worth a call."""
    a_shape, b_shape = a.shape, b.shape
    return (
        a.dtype == FLOAT32 == b.dtype
        and 6 >= len(a_shape) == len(b_shape) >= 2
        and a_shape[-1] == b_shape[-2]
        and a_shape[:-2] == b_shape[:-2]
        and math.prod(a_shape) * b_shape[-1] >= SMALLEST
        and a.flags.aligned
        and b.flags.aligned
    )


def product(
    a: Array, b: Array, out: Array | None = None, bias: Array | None = None, activation: str | None = None
) -> Array | None:
    """``activation(a @ b + bias)``: a (..., M, K), b (..., K, N), bias (N,) -> (..., M, N), in ``out`` if given.

    Operands may be transposed or cut out of larger arrays, and so may ``out``. None where the reference should do it.
    """
    if not _takes(a, b):
        return None
    if out is not None and (out.dtype != FLOAT32 or not out.flags.aligned):
        return None
    key = (a.shape, a.strides, b.shape, b.strides, None if out is None else out.strides, bias is not None, activation)
    unit = _products.take(key)
    if unit is None:
        return None
    target = np.empty(a.shape[:-1] + b.shape[-1:], FLOAT32) if unit.copy_out else out
    if unit.copy_a:
        a = np.ascontiguousarray(a)
    if unit.copy_b:
        b = np.ascontiguousarray(b)
    if bias is None:
        unit.primitive(a, b, target)
    else:
        unit.primitive(a, b, np.ascontiguousarray(bias, FLOAT32), target)
    _products.give(key, unit)
    if out is None or target is out:
        return target
    out[...] = target
    return out


# ---- kernels ---------------------------------------------------------------------------------------------------------


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """As ``reference.matmul``. Vectors and what broadcasts over batches go there; many rows times one matrix do not."""
    if b.ndim == 2 < a.ndim and a.shape[-1] == b.shape[0] and a.flags.c_contiguous:
        rows = out.reshape(-1, b.shape[1]) if out is not None and out.flags.c_contiguous else None
        found = product(a.reshape(-1, a.shape[-1]), b, rows)
        if found is not None:
            return (
                out if rows is not None else reference.deliver(found.reshape(a.shape[:-1] + b.shape[1:]), a.dtype, out)
            )
    found = product(a, b, out)
    return reference.matmul(a, b, out) if found is None else found


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """As ``reference.linear_forward``."""
    y = product(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), weight.T, bias=bias)
    return reference.linear_forward(x, weight, bias) if y is None else y.reshape(x.shape[:-1] + y.shape[1:])


def linear_input_gradient(gradient: Array, weight: Array, out: Array | None = None) -> Array:
    """As ``reference.linear_input_gradient``."""
    rows = gradient.reshape(math.prod(gradient.shape[:-1]), gradient.shape[-1])
    target = out.reshape(len(rows), weight.shape[1]) if out is not None and out.flags.c_contiguous else None
    dx = product(rows, weight, target)
    if dx is None:
        return reference.linear_input_gradient(gradient, weight, out)
    shape = gradient.shape[:-1] + weight.shape[1:]
    return out if target is not None else reference.deliver(dx.reshape(shape), gradient.dtype, out)


def linear_weight_gradient(gradient: Array, x: Array, out: Array | None = None) -> Array:
    """As ``reference.linear_weight_gradient``."""
    columns = gradient.reshape(math.prod(gradient.shape[:-1]), gradient.shape[-1]).T
    dw = product(columns, x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), out)
    return reference.linear_weight_gradient(gradient, x, out) if dw is None else dw


KERNELS: dict[str, Callable[..., Array]] = {
    "matmul": matmul,
    "linear_forward": linear_forward,
    "linear_input_gradient": linear_input_gradient,
    "linear_weight_gradient": linear_weight_gradient,
}
