"""Products of two matrices by oneDNN's sgemm, called out of a compiled function.

Such a call costs a microsecond, a sixth of what a primitive of oneDNN costs, and what lies by columns is multiplied up to a quarter
faster. Batches, matrices cut out of larger ones and large products with a bias go to the primitives; tiny products to NumPy.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_linear
from . import loops_tiles, onednn_matmul, threads
from .compiled import loop, prange
from .dense import PLAIN
from .loops_elementwise import KERNELS as ELEMENTWISE
from .loops_embedding import add_up_columns, bias_gradient
from .mathematics import ONE, ZERO
from .onednn import Unavailable, load
from .products import AS_IT_IS, TURNED, multiply, places, use_threads

FLOAT32 = np.dtype(np.float32)
_relu = ELEMENTWISE["relu_forward"]
SMALLEST, SMALLEST_TURNED = 96**3, 52**3
"""Multiplications below which NumPy is faster, and those if the right matrix lies by columns, NumPy's weak case."""
LONG, HIGH = 1024, 3
"""From so many rows of a batch on, a weight's gradient that has so many times more rows than columns is made faster as its transpose."""
APART, WORTH = 1024, 1 << 24
"""Where a gradient's rows are a multiple of so many numbers apart, a power of two, their columns meet in few lines of the cache: from so
many multiplications on a primitive, which copies them with more care than sgemm, is up to a quarter faster for a weight that is narrower."""
FEW, DEEP = (16, 32), 384
"""Of so many rows that are so long the outputs of a linear layer are made faster as their transpose: then the weight lies well."""
BIAS_APART = 1 << 16
"""Elements of a product up to which adding a bias afterwards is as fast as a primitive that does both."""


@loop("i8, i8, i8, i8, i8, f4[:,:], f4[:,:], f4[:,:] out")
def _product(sgemm, limit, count, turn_a, turn_b, a, b, out):  # type: ignore[no-untyped-def]
    use_threads(limit, count)
    multiply(
        sgemm, turn_a, turn_b, out.shape[0], out.shape[1], a.shape[1] if turn_a == AS_IT_IS else a.shape[0],
        ONE, a.ctypes.data, a.shape[1], b.ctypes.data, b.shape[1], ZERO, out.ctypes.data, out.shape[1],
    )  # fmt: skip


@loop("f4[:,:] out, f4[:]")
def _add_to_rows(y, bias):  # type: ignore[no-untyped-def]
    for i in range(y.shape[0]):
        row = y[i]
        for j in range(row.size):
            row[j] += bias[j]


@loop("f4[:,:], f4[:,:] out")
def _turn(a, out):  # type: ignore[no-untyped-def]
    rows, columns = out.shape
    for block in prange((rows + 15) // 16):
        top = 16 * block
        for left in range(0, columns, 16):
            for i in range(top, min(top + 16, rows)):
                for j in range(left, min(left + 16, columns)):
                    out[i, j] = a[j, i]


@loop("i8, i8, i8, f4[:,:], f4[:,:], f4[:], b1, f4[:,:] out", exact=True)
def _few_rows(sgemm, limit, count, x, weight, bias, relu, y):  # type: ignore[no-untyped-def]
    rows, columns = y.shape
    turned = np.empty((columns, rows), np.float32)
    use_threads(limit, count)
    multiply(
        sgemm, AS_IT_IS, TURNED, columns, rows, x.shape[1],
        ONE, weight.ctypes.data, weight.shape[1], x.ctypes.data, x.shape[1], ZERO, turned.ctypes.data, rows,
    )  # fmt: skip
    for i in range(rows):
        for j in range(columns):
            v = turned[j, i] + bias[j]
            y[i, j] = ZERO if relu and v <= ZERO else v


@loop("i8, i8, i8, f4[:,:], f4[:,:], f4[:,:] out, f4[:] out", exact=True)
def _weight_and_bias(sgemm, limit, count, gradient, x, dw, db):  # type: ignore[no-untyped-def]
    use_threads(limit, count)
    multiply(
        sgemm, TURNED, AS_IT_IS, dw.shape[0], dw.shape[1], x.shape[0], ONE, gradient.ctypes.data, gradient.shape[1],
        x.ctypes.data, x.shape[1], ZERO, dw.ctypes.data, dw.shape[1],
    )  # fmt: skip
    add_up_columns(gradient, db, 0, db.size)


@loop("i8, i8, i8, f4[:,:], f4[:,:], f4[:,:], f4[:,:] out, f4[:] out", exact=True)
def _behind_relu(sgemm, limit, count, gradient, y, x, dw, db):  # type: ignore[no-untyped-def]
    rows, columns = y.shape
    dz = np.empty((rows, columns), np.float32)
    for i in range(rows):
        for j in range(columns):
            dz[i, j] = gradient[i, j] * (ONE if y[i, j] > ZERO else ZERO)
    use_threads(limit, count)
    multiply(
        sgemm, TURNED, AS_IT_IS, dw.shape[0], dw.shape[1], rows, ONE, dz.ctypes.data, columns,
        x.ctypes.data, x.shape[1], ZERO, dw.ctypes.data, dw.shape[1],
    )  # fmt: skip
    add_up_columns(dz, db, 0, db.size)


def product(a: Array, b: Array, out: Array | None = None) -> Array | None:
    """``a @ b`` of two float32 matrices, in ``out`` if it is C-contiguous. None where somebody else should do it."""
    turn_a = turn_b = int(AS_IT_IS)
    rows, inner = a.shape
    columns = b.shape[1]
    if not a.flags.c_contiguous:
        a, turn_a = a.T, int(TURNED)
    if not b.flags.c_contiguous:
        b, turn_b = b.T, int(TURNED)
    if rows * inner * columns < (SMALLEST_TURNED if turn_b == TURNED else SMALLEST):
        return None
    if out is None:
        out = np.empty((rows, columns), FLOAT32)
    elif out.dtype != FLOAT32 or not (out.flags.c_contiguous and out.flags.aligned) or type(out) is not np.ndarray:
        return None
    if not (_plain(a) and _plain(b) and b.shape[1 if turn_b == TURNED else 0] == inner):
        return None
    _product(0, *places(), threads.threads(), turn_a, turn_b, a, b, out)
    return out


@functools.cache
def _sums_agree() -> bool:
    """Whether sgemm adds up in the order of the tiles, tried once: another processor's or another release's might not.

    Then it makes all products, for bits must not depend on which way so many rows or threads take.
    """
    x, weight = np.random.default_rng(0).standard_normal((2, FEW[0], 1000), FLOAT32)
    rows, bias = weight[:, : FEW[0]].copy(), np.zeros(FEW[0], FLOAT32)
    y, turned, dw, wanted = (np.empty(shape, FLOAT32) for shape in (rows.shape, rows.shape, x.shape, x.shape))
    if not (loops_tiles.forward(x, weight, bias, False, y) and loops_tiles.gradients(rows, None, x, dw, bias)):
        return False
    _product(0, *places(), 1, int(AS_IT_IS), int(TURNED), weight, x, turned)
    _product(0, *places(), 1, int(TURNED), int(AS_IT_IS), rows, x, wanted)
    return np.array_equal(y, turned.T) and np.array_equal(dw, wanted)


def _plain(x: Array) -> bool:
    return x.dtype == FLOAT32 and x.flags.num & PLAIN == PLAIN and type(x) is np.ndarray


def _rows(x: Array) -> Array:
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _is_small(a: Array, b: Array) -> bool:
    """Whether NumPy multiplies these matrices fastest; what the reference would find out after all others."""
    return a.size * b.shape[1] < onednn_matmul.SMALLEST and a.dtype is FLOAT32 is b.dtype


@functools.lru_cache(1024)
def are_few_rows(x: tuple[int, ...], weight: tuple[int, ...]) -> bool:
    """Whether a linear layer of these shapes has a few long rows, and is not so small that NumPy is faster."""
    if not x or x[-1] < DEEP or weight[1:] != x[-1:]:
        return False
    rows, outputs = math.prod(x[:-1]), weight[0]
    return rows in FEW and rows * x[-1] * outputs >= SMALLEST_TURNED and rows * outputs <= BIAS_APART


def _lie_apart(gradient: Array, width: int) -> bool:
    """Whether a primitive makes the gradient of a weight with ``width`` columns faster than sgemm."""
    return gradient.shape[1] % APART == 0 and width < APART and gradient.size * width >= WORTH


# ---- kernels ---------------------------------------------------------------------------------------------------------


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """As ``reference.matmul``."""
    if a.ndim == 2 == b.ndim:
        found = product(a, b, out)
        if found is not None:
            return found
    return onednn_matmul.matmul(a, b, out)


def linear_forward(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """As ``reference.linear_forward``."""
    y = _of_few_rows(x, weight, bias, False)
    if y is not None:
        return y
    if x.ndim == 2 and x.size * len(weight) < SMALLEST_TURNED and x.dtype is FLOAT32 is weight.dtype:
        y = np.matmul(x, weight.T)
        if bias is not None:
            y += bias
        return y
    if x.ndim and (bias is None or (x.size // max(1, x.shape[-1]) * len(weight) <= BIAS_APART and _plain(bias))):
        y = product(_rows(x), weight.T)
        if y is not None:
            if bias is not None:
                _add_to_rows(0, y, bias)
            return y if x.ndim == 2 else y.reshape(x.shape[:-1] + weight.shape[:1])
    return onednn_matmul.linear_forward(x, weight, bias)


def _of_few_rows(x: Array, weight: Array, bias: Array | None, relu: bool) -> Array | None:
    """A linear layer of a few long rows, and perhaps relu; None for all others."""
    if bias is None or not are_few_rows(x.shape, weight.shape):
        return None
    if not (_plain(x) and _plain(weight) and _plain(bias)):
        return None
    y = np.empty((*x.shape[:-1], len(weight)), FLOAT32)
    rows, results = (x, y) if x.ndim == 2 else (_rows(x), _rows(y))
    if not (_sums_agree() and loops_tiles.forward(rows, weight, bias, relu, results)):
        _few_rows(0, *places(), threads.threads(), rows, weight, bias, relu, results)
    return y


def linear_activation(
    x: Array, weight: Array, bias: Array | None, activation: str, follows: bool = False
) -> tuple[Array, Array | None]:
    """As ``reference_linear.linear_activation``."""
    if activation != "relu":
        return reference_linear.linear_activation(x, weight, bias, activation, follows)
    y = _of_few_rows(x, weight, bias, True)
    return _relu(linear_forward(x, weight, bias)) if y is None else y, None


def linear_input_gradient(gradient: Array, weight: Array, out: Array | None = None) -> Array:
    """As ``reference.linear_input_gradient``."""
    if out is None and gradient.ndim == 2 and _is_small(gradient, weight):
        return np.matmul(gradient, weight)
    if gradient.ndim and out is None:
        dx = product(_rows(gradient), weight)
        if dx is not None:
            return dx if gradient.ndim == 2 else dx.reshape(gradient.shape[:-1] + weight.shape[1:])
    return onednn_matmul.linear_input_gradient(gradient, weight, out)


def linear_weight_gradient(gradient: Array, x: Array, out: Array | None = None) -> Array:
    """As ``reference.linear_weight_gradient``."""
    if gradient.ndim == 2 == x.ndim and _is_small(gradient.T, x) and (out is None or out.dtype is FLOAT32):
        return np.matmul(gradient.T, x, out=out)
    if gradient.ndim:
        rows, columns = _rows(gradient), _rows(x)
        height, width = rows.shape[1], columns.shape[1]
        if _lie_apart(rows, width):
            return onednn_matmul.linear_weight_gradient(gradient, x, out)
        if len(rows) >= LONG and height >= HIGH * width and (out is None or _plain(out)):
            turned = product(columns.T, rows)
            if turned is not None:
                dw = np.empty((height, width), FLOAT32) if out is None else out
                _turn(dw.size, turned, dw)
                return dw
        dw = product(rows.T, columns, out)
        if dw is not None:
            return dw
    return onednn_matmul.linear_weight_gradient(gradient, x, out)


def _both(
    gradient: Array, x: Array, y: Array | None, out: Array | None, bias_out: Array | None
) -> tuple[Array, Array] | None:
    """Both gradients at once by one thread, of what relu made ``y`` of if that is given; None where somebody else should make one."""
    if gradient.ndim != 2 or x.ndim != 2 or len(gradient) >= LONG:
        return None
    height, width = gradient.shape[1], x.shape[1]
    if gradient.size * width < SMALLEST or len(x) != len(gradient) or not (_plain(gradient) and _plain(x)):
        return None
    if _lie_apart(gradient, width):
        return None
    dw = np.empty((height, width), FLOAT32) if out is None else out
    db = np.empty(height, FLOAT32) if bias_out is None else bias_out
    if not (_plain(dw) and _plain(db)):
        return None
    if y is not None and not (y.shape == gradient.shape and _plain(y)):
        return None
    if _sums_agree() and loops_tiles.gradients(gradient, y, x, dw, db):
        return dw, db
    if threads.threads() != 1:
        return None
    if y is None:
        _weight_and_bias(0, *places(), 1, gradient, x, dw, db)
    else:
        _behind_relu(0, *places(), 1, gradient, y, x, dw, db)
    return dw, db


def linear_gradients(
    gradient: Array, x: Array, out: Array | None = None, bias_out: Array | None = None
) -> tuple[Array, Array]:
    """As ``reference_linear.linear_gradients``."""
    found = _both(gradient, x, None, out, bias_out)
    return (linear_weight_gradient(gradient, x, out), bias_gradient(gradient, bias_out)) if found is None else found


def linear_activation_gradients(
    gradient: Array, x: Array, y: Array | None, aux: Array | None, activation: str, out: Array | None = None,
    bias_out: Array | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """As ``reference_linear.linear_activation_gradients``."""
    found = _both(gradient, x, y, out, bias_out) if activation == "relu" else None
    if found is not None:
        return found
    return reference_linear.linear_activation_gradients(gradient, x, y, aux, activation, out, bias_out)


def _provided() -> dict[str, Callable[..., Any]]:
    try:
        load()
    except Unavailable:
        return {}
    kernels = (
        matmul, linear_forward, linear_activation, linear_input_gradient, linear_weight_gradient, linear_gradients,
        linear_activation_gradients,
    )  # fmt: skip
    return {each.__name__: each for each in kernels}


def __getattr__(name: str) -> Any:
    """``KERNELS``, what sgemm provides to the kernel table: nothing where oneDNN is not to be had at that moment."""
    if name == "KERNELS":
        return _provided()
    raise AttributeError(name)
