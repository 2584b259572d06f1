"""Matrix products by cuBLASLt: any transposition and strided batch as they lie, bias, activation and bias gradient on the way out.

What cuBLASLt does not serve (integers, operands of two types) goes to the reference. Where it has no algorithm with an epilogue the parts
are done one after the other.

cuBLAS counts by columns, so ``a @ b`` by rows is its ``B A``: what is C-contiguous here is not transposed there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...amp import precision
from ...backend import cupy
from ...op import Array
from .. import reference, reference_linear_loss
from . import cublaslt, products
from .cublaslt import BIAS, PACK, PLAIN
from .launch import require_here
from .products import Problem

Numbers = tuple[int, ...]


# ---- how operands lie ------------------------------------------------------------------------------------------------


def _lies(shape: Numbers, strides: Numbers, size: int) -> tuple[bool, int] | None:
    """Of the last two dimensions: whether columns are contiguous, and the elements from one to the next; None if neither is.

    What a dimension of size 1 has for a stride means nothing.
    """
    rows, columns = shape[-2:]
    down, along = strides[-2] // size, strides[-1] // size
    if along == 1 or columns == 1:
        if rows == 1:
            return False, columns
        if down >= columns:
            return False, down
    if down == 1 or rows == 1:
        if columns == 1:
            return True, rows
        if along >= rows:
            return True, along
    return None


def beside(array: Array) -> Array:
    """A vector or an auxiliary matrix as cuBLAS takes it: ``array``, or a copy where that has gaps or begins at an odd address."""
    return array if is_beside(array) else array.copy(order="C")


def is_beside(array: Array) -> bool:
    """Whether cuBLAS takes it so."""
    return bool(array.flags.c_contiguous) and array.data.ptr % PACK == 0


class _Laid(NamedTuple):
    """An operand, how it lies, and the power of two that divides its address wherever it is cut out of a larger array."""

    array: Array
    turned: bool
    ld: int
    alignment: int


def _alignment(array: Array, ld: int) -> int:
    """The greatest power of two up to 16 that divides all steps of ``array`` in bytes.

    The algorithm counts on it, so it must be the same for a batch that lies alone and for the same one cut out of a larger array, as
    it is on another number of ranks: it follows from sizes and strides, never from addresses.
    """
    low = PACK | ld * array.itemsize
    for size, step in zip(array.shape[:-2], array.strides[:-2], strict=True):
        if size > 1:
            low |= step
    return low & -low


def _laid(array: Array) -> _Laid | None:
    """``array`` as it lies; None where it does so in no way that cuBLAS knows, or at an odder address than its steps say."""
    found = _lies(array.shape, array.strides, array.itemsize)
    if found is None:
        return None
    alignment = _alignment(array, found[1])
    return None if array.data.ptr % alignment else _Laid(array, *found, alignment)


def _operand(array: Array) -> _Laid:
    """``array`` or a copy of it."""
    found = _laid(array)
    if found is None:
        array = array.copy(order="C")
        found = _Laid(array, False, array.shape[-1], _alignment(array, array.shape[-1]))
    return found


@lru_cache(maxsize=64)
def _known(dtype: np.dtype) -> bool:
    return dtype.name in cublaslt.TYPES


def _served(a: Array, b: Array) -> bool:
    """Whether both have one type that cuBLAS multiplies."""
    dtype = a.dtype
    return dtype == b.dtype and _known(dtype)


@lru_cache(maxsize=64)
def _types(dtype: np.dtype, out: np.dtype, tf32: bool) -> tuple[int, int, int] | None:
    """CUDA's numbers of the operands' type, the result's and the sum's; None if cuBLAS cannot give ``out``."""
    if out != dtype and not (out == np.float32 and dtype.itemsize == 2):
        return None
    if dtype == np.float64:
        compute = cublaslt.COMPUTE_64F
    else:
        compute = cublaslt.COMPUTE_TF32 if dtype == np.float32 and tf32 else cublaslt.COMPUTE_32F
    return cublaslt.TYPES[dtype.name], cublaslt.TYPES[out.name], compute


# ---- products --------------------------------------------------------------------------------------------------------


def product(
    a: Array,
    b: Array,
    out: Array | None = None,
    *,
    epilogue: int = PLAIN,
    side: Array | None = None,
    aux: Array | None = None,
    ld_aux: int = 0,
    add: bool = False,
) -> Array | None:
    """``a @ b``: a (M, K), b (K, N), both of one type -> (M, N), in ``out`` (C-contiguous or cut out of such), or on top of it.

    ``side``: the bias or where its gradient goes, (N,), or (M,) for BGRAD_B. ``aux``: what the activation's gradient needs.
    None if cuBLASLt has no algorithm for it.
    """
    api = cupy()
    require_here(a)
    if out is None:
        out = api.empty((a.shape[0], b.shape[1]), a.dtype)
    types = _types(a.dtype, out.dtype, precision.tf32())
    if types is None or not out.size or not a.shape[1]:
        return None
    target = _laid(out)
    if target is None:
        return None
    if target.turned:
        return out if epilogue == PLAIN and product(b.T, a.T, out.T, add=add) is not None else None
    left, right = _operand(a), _operand(b)
    plan = products.plan(
        Problem(
            out.shape[1], out.shape[0], a.shape[1], right.turned, left.turned, right.ld, left.ld, target.ld, *types, epilogue,
            ld_aux=ld_aux, alignment_a=right.alignment, alignment_b=left.alignment, alignment_d=target.alignment,
        )
    )  # fmt: skip
    if plan is None:
        return None
    plan.run(
        right.array.data.ptr, left.array.data.ptr, out.data.ptr, add=add, side=0 if side is None else side.data.ptr,
        aux=0 if aux is None else aux.data.ptr,
    )  # fmt: skip
    return out


def _finished(found: Array, out: Array | None) -> Array:
    """``found``, in ``out`` if there is one."""
    if out is None or found is out:
        return found
    out[...] = found
    return out


def _plain(a: Array, b: Array, out: Array | None = None, add: bool = False) -> Array:
    """``a @ b`` of two matrices of one type, whatever their sizes and ``out``'s layout and type; on top of what it holds if ``add``."""
    rows, columns, inner = a.shape[0], b.shape[1], a.shape[1]
    if not rows * columns * inner:
        if out is None:
            return cupy().zeros((rows, columns), a.dtype)
        if not add:
            out[...] = 0
        return out
    found = product(a, b, out, add=add)
    if found is not None:
        return found
    found = None if out is None else product(a, b)
    if found is None:
        found = reference.matmul(a, b)
    if out is not None and add:
        out += found
        return out
    return _finished(found, out)


# ---- batches ---------------------------------------------------------------------------------------------------------


def _batches(sizes: Numbers, strides: list[Numbers]) -> list[tuple[int, Numbers]]:
    """Batch dimensions as few as they can be: sizes, and each operand's step, outermost first."""
    found: list[tuple[int, Numbers]] = []
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if found and all(outer == inner * size for outer, inner in zip(found[-1][1], steps, strict=True)):
            found[-1] = (found[-1][0] * size, tuple(steps))
        else:
            found.append((size, tuple(steps)))
    return found


def _batched(a: Array, b: Array, out: Array | None) -> Array | None:
    """``a @ b`` over batch dimensions that broadcast; None if cuBLASLt does not do it."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*batch, a.shape[-2], b.shape[-1])
    target = out if out is not None and out.flags.c_contiguous and _laid(out) else cupy().empty(shape, a.dtype)
    types = _types(a.dtype, target.dtype, precision.tf32())
    if types is None:
        return None
    if not target.size or not a.shape[-1]:
        target[...] = 0
        return _finished(target, out)
    left, right, place = _operand(a), _operand(b), _operand(target)
    operands = left.array, right.array, target
    groups = _batches(batch, [_spread(x, batch) for x in operands])
    count, step = groups.pop() if groups else (1, (0, 0, 0))
    plan = products.plan(
        Problem(
            shape[-1], shape[-2], a.shape[-1], right.turned, left.turned, right.ld, left.ld, place.ld, *types, PLAIN, count,
            step[1], step[0], step[2],
            alignment_a=right.alignment, alignment_b=left.alignment, alignment_d=place.alignment,
        )
    )  # fmt: skip
    if plan is None:
        return None
    places = [x.data.ptr for x in operands]
    outer = [tuple(x * array.itemsize for x, array in zip(each, operands, strict=True)) for _, each in groups]
    for index in itertools.product(*(range(size) for size, _ in groups)):
        pa, pb, pd = (
            place + sum(i * each[k] for i, each in zip(index, outer, strict=True)) for k, place in enumerate(places)
        )
        plan.run(pb, pa, pd)
    return _finished(target, out)


def _spread(array: Array, batch: Numbers) -> Numbers:
    """Steps in elements along ``batch``, 0 where ``array`` is repeated."""
    own = array.shape[:-2]
    steps = [
        0 if size == 1 else stride // array.itemsize
        for size, stride in zip(own, array.strides[: len(own)], strict=True)
    ]
    return (0,) * (len(batch) - len(own)) + tuple(steps)


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """As ``reference.matmul``: all cases of ``torch.matmul``, operands as they lie."""
    if not _served(a, b) or not a.ndim or not b.ndim:
        return reference.matmul(a, b, out)
    if a.ndim == 1 or b.ndim == 1:
        left, right = a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b
        found = matmul(left, right)
        if a.ndim == 1:
            found = found[..., 0, :]
        if b.ndim == 1:
            found = found[..., 0]
        return _finished(found, out)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: the inner sizes of {a.shape} and {b.shape} differ")
    if a.ndim == b.ndim == 2:
        return _plain(a, b, out)
    if b.ndim == 2 and a.flags.c_contiguous and (out is None or out.flags.c_contiguous):
        rows = None if out is None else out.reshape(-1, b.shape[1]) if out.size else out.reshape(0, b.shape[1])
        found = _plain(a.reshape(math.prod(a.shape[:-1]), a.shape[-1]), b, rows)
        return out if out is not None else found.reshape(*a.shape[:-1], b.shape[1])
    done = _batched(a, b, out)
    return reference.matmul(a, b, out) if done is None else done


# ---- linear ----------------------------------------------------------------------------------------------------------


def rows_of(x: Array) -> Array:
    """(..., I) -> (N, I)."""
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """As ``reference.linear_forward``."""
    if not _served(x, weight):
        return reference.linear_forward(x, weight, bias)
    rows, y = rows_of(x), None
    if bias is not None and bias.dtype == x.dtype:
        y = product(rows, weight.T, epilogue=BIAS, side=beside(bias))
    if y is None:
        y = _plain(rows, weight.T)
        if bias is not None:
            y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0])


def linear_input_gradient(gradient: Array, weight: Array, out: Array | None = None) -> Array:
    """As ``reference.linear_input_gradient``."""
    if not _served(gradient, weight):
        return reference.linear_input_gradient(gradient, weight, out)
    rows = rows_of(gradient)
    target = out.reshape(rows.shape[0], weight.shape[1]) if out is not None and out.flags.c_contiguous else None
    dx = _plain(rows, weight, target).reshape(*gradient.shape[:-1], weight.shape[1])
    return _finished(dx, out) if target is None else out


def linear_weight_gradient(gradient: Array, x: Array, out: Array | None = None) -> Array:
    """As ``reference.linear_weight_gradient``; half precision may go into a float32 ``out`` without being rounded."""
    if not _served(gradient, x):
        return reference.linear_weight_gradient(gradient, x, out)
    return _plain(rows_of(gradient).T, rows_of(x), out)


def add_weight_gradient(gradient: Array, x: Array, total: Array) -> None:
    """As ``reference_linear_loss.add_weight_gradient``, in one pass over ``total``."""
    if _served(gradient, x):
        _plain(rows_of(gradient).T, rows_of(x), total, add=True)
    else:
        reference_linear_loss.add_weight_gradient(gradient, x, total)


KERNELS: dict[str, Callable[..., Any]] = {
    "add_weight_gradient": add_weight_gradient,
    "matmul": matmul,
    "linear_forward": linear_forward,
    "linear_input_gradient": linear_input_gradient,
    "linear_weight_gradient": linear_weight_gradient,
}
