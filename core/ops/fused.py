"""Ops in one that often follow each other: batch norm, relu, the maximum of 2x2 blocks. ``nn.fusion`` uses them."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels import reference_fused
from ..kernels.table import kernel
from ..op import Array, define
from . import expect
from .norm import check_channels


def served(array: Array) -> bool:
    """Whether there are kernels for these ops, where the array lies and for its dtype, that give the bits of their parts."""
    kind = device_kind(array)
    characters = "f" if kind == "cpu" else "fEe"  # NumPy's for float32, bfloat16, float16
    return array.dtype.char in characters and kernel("relu_pool", kind) is not reference_fused.relu_pool


def _halves(op: str, x: Array) -> None:
    expect.one_float_dtype(op, input=x)
    if x.ndim != 4 or min(x.shape[2:]) < 2:
        raise ShapeError(f"{op}: input must be images (batch, channels, height, width) of 2x2 or more, got {x.shape}")


def _relu_pool(x: Array) -> tuple[Array, Any]:
    _halves("relu_pool", x)
    y, index = kernel("relu_pool", device_kind(x))(x)
    return y, (index, x.shape)


def _relu_pool_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("relu_pool_backward", device_kind(gradient))(gradient, *saved),)


RELU_POOL = define("relu_pool", _relu_pool, _relu_pool_vjp)
"""Positive part of the maximum of 2x2 blocks: x (N, C, H, W) -> (N, C, H / 2, W / 2)."""


def _batch_norm_relu(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    expect.one_float_dtype("batch_norm_relu", input=x)
    check_channels("batch_norm_relu", x, weight=weight, bias=bias)
    y, mean, deviations, inverse_std = kernel("batch_norm_relu", device_kind(x))(x, weight, bias, eps)
    return (y, mean, deviations), (x, mean, inverse_std, weight, bias, y)


def _batch_norm_relu_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    g = gradient[0]
    return kernel("batch_norm_relu_backward", device_kind(g))(g, *saved)[: len(needs)]


BATCH_NORM_RELU = define("batch_norm_relu", _batch_norm_relu, _batch_norm_relu_vjp, differentiable=(0,))
"""As BATCH_NORM_TRAIN, and of y the positive part."""


def _batch_norm_add_relu(
    x: Array, other: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    expect.one_float_dtype("batch_norm_add_relu", input=x, other=other)
    check_channels("batch_norm_add_relu", x, weight=weight, bias=bias)
    if x.shape != other.shape:
        raise ShapeError(
            f"batch_norm_add_relu: what is added must be of the input's shape {x.shape}, got {other.shape}"
        )
    y, mean, deviations, inverse_std = kernel("batch_norm_add_relu", device_kind(x))(x, other, weight, bias, eps)
    return (y, mean, deviations), (x, mean, inverse_std, weight, y)


def _batch_norm_add_relu_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    g = gradient[0]
    return kernel("batch_norm_add_relu_backward", device_kind(g))(g, *saved)[: len(needs)]


BATCH_NORM_ADD_RELU = define("batch_norm_add_relu", _batch_norm_add_relu, _batch_norm_add_relu_vjp, differentiable=(0,))
"""The end of a residual block: the positive part of batch norm plus something of its shape. Inputs x, what is added, perhaps weight,
perhaps bias; outputs as of BATCH_NORM_TRAIN."""


def _batch_norm_relu_pool(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    _halves("batch_norm_relu_pool", x)
    check_channels("batch_norm_relu_pool", x, weight=weight, bias=bias)
    y, mean, deviations, inverse_std, index = kernel("batch_norm_relu_pool", device_kind(x))(x, weight, bias, eps)
    return (y, mean, deviations), (x, mean, inverse_std, weight, index)


def _batch_norm_relu_pool_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    g = gradient[0]
    return kernel("batch_norm_relu_pool_backward", device_kind(g))(g, *saved)[: len(needs)]


BATCH_NORM_RELU_POOL = define(
    "batch_norm_relu_pool", _batch_norm_relu_pool, _batch_norm_relu_pool_vjp, differentiable=(0,)
)
"""As BATCH_NORM_RELU for images (N, C, H, W), and of y the maxima of 2x2 blocks."""
