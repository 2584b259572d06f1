"""Batch norm, layer norm and root mean square norm."""

from __future__ import annotations

import math
from typing import Any

from ..backend import array_module, device_kind
from ..errors import ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from . import expect


def check_channels(op: str, x: Array, **per_channel: Array | None) -> None:
    """``x`` has channels in dimension 1, and the others one element for each."""
    if x.ndim < 2:
        raise ShapeError(f"{op}: input must have at least 2 dimensions (batch, channels, ...), got shape {x.shape}")
    for name, array in per_channel.items():
        if array is not None and array.shape != x.shape[1:2]:
            raise ShapeError(
                f"{op}: {name} must have one element for each of the {x.shape[1]} channels (dimension 1) of the input of "
                f"shape {x.shape}, got shape {array.shape}"
            )


def _inverse_std(variance: Array, eps: float) -> Array:
    return 1.0 / array_module(variance).sqrt(variance + variance.dtype.type(eps))


# ---- batch norm by the batch's own statistics


def _batch_norm_train(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    expect.one_float_dtype("batch_norm", input=x)
    check_channels("batch_norm", x, weight=weight, bias=bias)
    y, mean, deviations, inverse_std = kernel("batch_norm_train", device_kind(x))(x, weight, bias, eps)
    return (y, mean, deviations), (x, mean, inverse_std, weight)


def _batch_norm_train_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, mean, inverse_std, weight = saved
    g = gradient[0]
    gradients = kernel("batch_norm_backward", device_kind(g))(g, x, mean, inverse_std, weight, True)
    return gradients[: len(needs)]


BATCH_NORM_TRAIN = define("batch_norm_train", _batch_norm_train, _batch_norm_train_vjp, differentiable=(0,))
"""Inputs x (N, C, ...), perhaps weight (C,), perhaps bias (C,). Outputs y, and for the running statistics mean (C,) and
M2 (C,), the sum of squared deviations from it."""


# ---- batch norm by given statistics


def _batch_norm_eval(
    x: Array, mean: Array, variance: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    expect.one_float_dtype("batch_norm", input=x)
    check_channels("batch_norm", x, running_mean=mean, running_var=variance, weight=weight, bias=bias)
    inverse_std = _inverse_std(variance, eps)
    y = kernel("batch_norm_apply", device_kind(x))(x, mean, inverse_std, weight, bias)
    return y, (x, mean, inverse_std, weight)


def _batch_norm_eval_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    x, mean, inverse_std, weight = saved
    dx, dw, db = kernel("batch_norm_backward", device_kind(gradient))(gradient, x, mean, inverse_std, weight, False)
    return (dx, None, None, dw, db)[: len(needs)]


BATCH_NORM_EVAL = define("batch_norm_eval", _batch_norm_eval, _batch_norm_eval_vjp)
"""Inputs x (N, C, ...), mean (C,), variance (C,), perhaps weight and bias (C,). Mean and variance are constants."""


# ---- layer norm


def _check_features(op: str, x: Array, shape: tuple[int, ...], **parameters: Array | None) -> None:
    expect.parameters_fit(op, x, **parameters)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ShapeError(f"{op}: the input must end in normalized_shape={shape}, got shape {x.shape}")
    for name, array in parameters.items():
        if array is not None and array.shape != shape:
            raise ShapeError(f"{op}: {name} must have normalized_shape={shape}, got shape {array.shape}")


def _layer_norm(
    x: Array, weight: Array | None = None, bias: Array | None = None, *, shape: tuple[int, ...], eps: float = 1e-5
) -> tuple[Array, Any]:
    _check_features("layer_norm", x, shape, weight=weight, bias=bias)
    y, mean, inverse_std = kernel("layer_norm_forward", device_kind(x))(x, weight, bias, math.prod(shape), eps)
    return y, (x, mean, inverse_std, weight, shape)


def _layer_norm_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    rest = 3 - len(needs)
    wanted, places = (*needs, *[False] * rest), (*slots, *[None] * rest)
    return kernel("layer_norm_backward", device_kind(gradient))(gradient, *saved, wanted, places)[: len(needs)]


LAYER_NORM = define("layer_norm", _layer_norm, _layer_norm_vjp)
"""Inputs x (..., *shape), perhaps weight and bias of ``shape``."""


# ---- root mean square norm


def _rms_norm(x: Array, weight: Array | None = None, *, shape: tuple[int, ...], eps: float = 1e-5) -> tuple[Array, Any]:
    _check_features("rms_norm", x, shape, weight=weight)
    y, inverse = kernel("rms_norm_forward", device_kind(x))(x, weight, math.prod(shape), eps)
    return y, (x, inverse, weight, shape)


def _rms_norm_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    rest = 2 - len(needs)
    wanted, places = (*needs, *[False] * rest), (*slots, *[None] * rest)
    return kernel("rms_norm_backward", device_kind(gradient))(gradient, *saved, wanted, places)[: len(needs)]


RMS_NORM = define("rms_norm", _rms_norm, _rms_norm_vjp)
"""Inputs x (..., *shape), perhaps weight of ``shape``. Zhang and Sennrich, 2019 (arXiv 1910.07467)."""


# ---- norms of a residual sum


def _check_sum(op: str, x: Array, residual: Array) -> None:
    expect.one_float_dtype(op, input=x, residual=residual)
    if x.shape != residual.shape:
        raise ShapeError(f"{op}: input and residual must have one shape, got {x.shape} and {residual.shape}")


def _add_layer_norm(
    x: Array, residual: Array, weight: Array | None = None, bias: Array | None = None, *, shape: tuple[int, ...],
    eps: float = 1e-5,
) -> tuple[tuple[Array, Array], Any]:  # fmt: skip
    _check_sum("add_layer_norm", x, residual)
    _check_features("add_layer_norm", x, shape, weight=weight, bias=bias)
    forward = kernel("add_layer_norm_forward", device_kind(x))
    h, y, mean, inverse_std = forward(x, residual, weight, bias, math.prod(shape), eps)
    return (h, y), ("add_layer_norm_backward", h, (mean, inverse_std), weight, shape)


def _add_rms_norm(
    x: Array, residual: Array, weight: Array | None = None, *, shape: tuple[int, ...], eps: float = 1e-5
) -> tuple[tuple[Array, Array], Any]:
    _check_sum("add_rms_norm", x, residual)
    _check_features("add_rms_norm", x, shape, weight=weight)
    h, y, inverse = kernel("add_rms_norm_forward", device_kind(x))(x, residual, weight, math.prod(shape), eps)
    return (h, y), ("add_rms_norm_backward", h, (inverse,), weight, shape)


def _add_norm_vjp(saved: Any, gradient: Any, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    name, h, moments, weight, shape = saved
    of_sum, g = gradient
    if g is None:
        return (of_sum if needs[0] else None, of_sum if needs[1] else None, None, None)[: len(needs)]
    count = 3 if name == "add_layer_norm_backward" else 2
    wanted, places = ((needs[0] or needs[1], *needs[2:]), (None, *slots[2:]))
    rest = count - len(wanted)
    dx, *others = kernel(name, device_kind(g))(
        of_sum, g, h, *moments, weight, shape, (*wanted, *[False] * rest), (*places, *[None] * rest)
    )
    return (dx if needs[0] else None, dx if needs[1] else None, *others)[: len(needs)]


ADD_LAYER_NORM = define("add_layer_norm", _add_layer_norm, _add_norm_vjp)
"""Inputs x and residual (..., *shape), perhaps weight and bias of ``shape``. Outputs ``h = x + residual`` and the layer norm of h."""
ADD_RMS_NORM = define("add_rms_norm", _add_rms_norm, _add_norm_vjp)
"""As ADD_LAYER_NORM, by root mean squares and without bias."""
