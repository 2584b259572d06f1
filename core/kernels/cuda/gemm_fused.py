"""Linear layers by cuBLASLt with more in one launch: the bias's gradient beside the weight's, an activation, its slope.

Where cuBLASLt has no algorithm for it, the reference makes it of the parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...backend import cupy
from ...op import Array
from .. import reference_linear
from .cublaslt import AUX, BGRAD, BGRAD_B, BIAS, DGELU, DRELU, GELU, RELU
from .gemm import beside, is_beside, product, rows_of

BITS = 128
"""cuBLAS keeps relu's mask as bits, so many in each piece of a row."""
_FORWARD = {"relu": RELU, "gelu_tanh": GELU | AUX}
_BACKWARD = {"relu": DRELU, "gelu_tanh": DGELU}


def linear_gradients(
    gradient: Array, x: Array, out: Array | None = None, bias_out: Array | None = None
) -> tuple[Array, Array]:
    """As ``reference_linear.linear_gradients``. The bias's gradient comes in the weight's type, along with it."""
    if gradient.dtype == x.dtype:
        api = cupy()
        features = gradient.shape[-1]
        dtype = x.dtype if out is None else out.dtype
        dw = api.empty((features, x.shape[-1]), dtype) if out is None else out
        fits = bias_out is not None and bias_out.dtype == dtype and is_beside(bias_out)
        db: Any = bias_out if fits else api.empty((features,), dtype)
        if product(rows_of(gradient).T, rows_of(x), dw, epilogue=BGRAD_B, side=db) is not None:
            if bias_out is not None and db is not bias_out:
                bias_out[...] = db
                db = bias_out
            return dw, db if bias_out is not None else db.astype(gradient.dtype, copy=False)
    return reference_linear.linear_gradients(gradient, x, out, bias_out)


def _mask_bits(features: int) -> int:
    return -(-features // BITS) * BITS


def linear_activation(
    x: Array, weight: Array, bias: Array | None, activation: str, follows: bool = False
) -> tuple[Array, Array | None]:
    """As ``reference_linear.linear_activation``. Where a linear layer follows, relu adds a mask of bits, rows padded to 128."""
    same = x.dtype == weight.dtype and (bias is None or bias.dtype == x.dtype)
    if same and activation in _FORWARD and x.size and weight.size and _fits(activation, weight.shape[0]):
        rows, features = rows_of(x), weight.shape[0]
        epilogue, aux, ld = _FORWARD[activation] | (0 if bias is None else BIAS), None, 0
        if activation == "gelu_tanh":
            ld, aux = features, cupy().empty((*x.shape[:-1], features), x.dtype)
        elif follows:
            ld = _mask_bits(features)
            epilogue, aux = epilogue | AUX, cupy().zeros((rows.shape[0], ld // 8), np.uint8)
        side = None if bias is None else beside(bias)
        y = product(rows, weight.T, epilogue=epilogue, side=side, aux=aux, ld_aux=ld)
        if y is not None:
            return y.reshape(*x.shape[:-1], features), aux
    return reference_linear.linear_activation(x, weight, bias, activation)


def _fits(activation: str, features: int) -> bool:
    """Whether rows of the auxiliary matrix are of a length that cuBLAS takes."""
    return activation == "relu" or features % 8 == 0


def linear_activation_input_gradient(
    gradient: Array, weight: Array, y: Array, aux: Array | None, activation: str, bias_out: Array | None = None
) -> tuple[Array, Array | None]:
    """As ``reference_linear.linear_activation_input_gradient``. The bias's gradient comes along where it is wanted in the result's type:
    a float32 one out of half precision is summed without rounding by ``linear_gradients``."""
    if gradient.dtype == weight.dtype and aux is not None and y.size and gradient.size:
        features = y.shape[-1]
        ld = _mask_bits(features) if activation == "relu" else features
        if _fits(activation, features):
            along = bias_out is None or (bias_out.dtype == gradient.dtype and is_beside(bias_out))
            db = None
            if along:
                db = cupy().empty((features,), gradient.dtype) if bias_out is None else bias_out
            epilogue = _BACKWARD[activation] | (BGRAD if along else 0)
            found = product(rows_of(gradient), weight, epilogue=epilogue, side=db, aux=beside(aux), ld_aux=ld)
            if found is not None:
                return found.reshape(y.shape), db
    return reference_linear.linear_activation_input_gradient(gradient, weight, y, aux, activation, bias_out)


KERNELS: dict[str, Callable[..., Any]] = {
    "linear_gradients": linear_gradients,
    "linear_activation": linear_activation,
    "linear_activation_input_gradient": linear_activation_input_gradient,
}
