"""Reference kernels: batch norm, layer norm and root mean square norm.

Dimensions: N samples, C channels, S all places of a channel in a sample, M rows, D features of a row. Statistics are
taken in two passes (mean first, squared deviations after) in float32 or float64; half precision is widened.

Ioffe and Szegedy, Batch normalization, 2015 (arXiv 1502.03167); Ba, Kiros and Hinton, Layer normalization, 2016 (arXiv
1607.06450).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..backend import array_module
from ..op import Array
from .reference import deliver, wide


def _per_channel(values: Array) -> Array:
    """(C,) -> (C, 1), to meet (N, C, S)."""
    return values[:, None]


def _channel_view(x: Array) -> Array:
    """(N, C, ...) -> (N, C, S), widened."""
    return wide(x).reshape(x.shape[:2] + (math.prod(x.shape[2:]),))


def _channel_total(x: Array) -> Array:
    """Sum over samples and places: (N, C, S) -> (C,)."""
    xp = array_module(x)
    return xp.sum(xp.sum(x, axis=2), axis=0)


def batch_norm_statistics(x: Array) -> tuple[Array, Array]:
    """Mean (C,) and sum of squared deviations M2 (C,) over samples and places: x (N, C, ...)."""
    xp = array_module(x)
    work = _channel_view(x)
    count = max(1, work.shape[0] * work.shape[2])
    mean = _channel_total(work) / work.dtype.type(count)
    centred = work - _per_channel(mean)
    xp.multiply(centred, centred, out=centred)
    return mean, _channel_total(centred)


def batch_norm_apply(x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None) -> Array:
    """``(x - mean) * inverse_std * weight + bias`` per channel: x (N, C, ...), the others (C,)."""
    work = _channel_view(x)
    scale = inverse_std if weight is None else inverse_std * wide(weight)
    y = work - _per_channel(mean)
    y *= _per_channel(scale.astype(y.dtype, copy=False))
    if bias is not None:
        y += _per_channel(wide(bias))
    return y.reshape(x.shape).astype(x.dtype, copy=False)


def batch_norm_train(
    x: Array, weight: Array | None, bias: Array | None, eps: float, relu: bool = False
) -> tuple[Array, Array, Array, Array]:
    """Batch norm by the batch's own statistics: y (N, C, ...), mean, M2 and inverse_std (C,). ``relu``: y's positive part."""
    mean, deviations = batch_norm_statistics(x)
    count = max(1, x.size // max(1, x.shape[1]))
    variance = deviations / deviations.dtype.type(count)
    inverse_std = 1.0 / array_module(x).sqrt(variance + variance.dtype.type(eps))
    y = batch_norm_apply(x, mean, inverse_std, weight, bias)
    if relu:
        array_module(x).maximum(y, 0, out=y)
    return y, mean, deviations, inverse_std


def batch_norm_backward(
    gradient: Array,
    x: Array,
    mean: Array,
    inverse_std: Array,
    weight: Array | None,
    training: bool,
    positive: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Gradients of input (N, C, ...), weight (C,) and bias (C,); through relu where its output ``positive`` is given.

    In training the statistics depend on x:
    ``dx = weight * inverse_std * (gradient - mean(gradient) - xhat * mean(gradient * xhat))``.
    """
    if positive is not None:
        gradient = gradient * (positive > 0)
    g, centred = _channel_view(gradient), _channel_view(x) - _per_channel(mean)
    bias_total = _channel_total(g)
    weight_total = _channel_total(g * centred) * inverse_std
    scale = (inverse_std if weight is None else inverse_std * wide(weight)).astype(g.dtype, copy=False)
    if not training:
        dx = g * _per_channel(scale)
    else:
        count = g.dtype.type(max(1, g.shape[0] * g.shape[2]))
        dx = centred
        dx *= _per_channel(-weight_total * inverse_std / count)
        dx += g
        dx -= _per_channel(bias_total / count)
        dx *= _per_channel(scale)
    return dx.reshape(x.shape).astype(x.dtype, copy=False), weight_total, bias_total


def move_running(
    mean: Array, variance: Array, batches: Array, seen: Array, m2: Array, share: float, degrees: float
) -> None:
    """``running = (1 - share) running + share seen`` for mean (C,) and variance (C,), which is ``m2 / degrees``; one more of ``batches``."""
    batches[...] += 1
    for running, now in ((mean, seen), (variance, m2 / degrees)):
        running[...] = running * (1.0 - share) + now.astype(running.dtype, copy=False) * share


def layer_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, features: int, eps: float
) -> tuple[Array, Array, Array]:
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last ``features`` elements of each row.

    x (..., D), weight and bias of D elements. Returns y, mean and inverse_std (M, 1), which the backward wants.
    """
    xp = array_module(x)
    rows = wide(x).reshape(x.size // max(1, features), features)
    mean = xp.mean(rows, axis=1, keepdims=True)
    xhat = rows - mean
    variance = xp.mean(xhat * xhat, axis=1, keepdims=True)
    inverse_std = 1.0 / xp.sqrt(variance + rows.dtype.type(eps))
    xhat *= inverse_std
    y = xhat if weight is None else xhat * wide(weight).reshape(-1)
    if bias is not None:
        y = y + wide(bias).reshape(-1)
    return y.reshape(x.shape).astype(x.dtype, copy=False), mean, inverse_std


def layer_norm_backward(
    gradient: Array,
    x: Array,
    mean: Array,
    inverse_std: Array,
    weight: Array | None,
    shape: tuple[int, ...],
    needs: Sequence[bool],
    slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None, Array | None]:
    """Gradients of input, weight and bias, the latter of ``shape``: those of the three that ``needs`` names, else None."""
    xhat = wide(x).reshape(len(mean), math.prod(shape)) - mean
    xhat *= inverse_std
    return (
        layer_norm_input_gradient(gradient, xhat, inverse_std, weight) if needs[0] else None,
        layer_norm_weight_gradient(gradient, xhat, shape, slots[1], _dtype(weight)) if needs[1] else None,
        layer_norm_bias_gradient(gradient, shape, slots[2], _dtype(weight)) if needs[2] else None,
    )


def layer_norm_input_gradient(gradient: Array, xhat: Array, inverse_std: Array, weight: Array | None) -> Array:
    """``inverse_std * (h - mean(h) - xhat * mean(h * xhat))`` with ``h = gradient * weight``, row by row."""
    xp = array_module(gradient)
    rows = wide(gradient).reshape(xhat.shape)
    h = rows.copy() if weight is None else rows * wide(weight).reshape(-1)
    along = xp.mean(h * xhat, axis=1, keepdims=True)
    h -= xp.mean(h, axis=1, keepdims=True)
    h -= xhat * along
    h *= inverse_std
    return h.reshape(gradient.shape).astype(gradient.dtype, copy=False)


def _dtype(weight: Array | None) -> Any:
    """Of the gradients of weight and bias, which may be float32 beside halves."""
    return None if weight is None else weight.dtype


def layer_norm_weight_gradient(
    gradient: Array, xhat: Array, shape: tuple[int, ...], out: Array | None = None, dtype: Any = None
) -> Array:
    """Sum over rows of ``gradient * xhat``, as the weight's ``shape`` and ``dtype`` (None: the gradient's)."""
    xp = array_module(gradient)
    total = xp.sum(wide(gradient).reshape(xhat.shape) * xhat, axis=0)
    return deliver(total.reshape(shape), dtype or gradient.dtype, out)


def layer_norm_bias_gradient(
    gradient: Array, shape: tuple[int, ...], out: Array | None = None, dtype: Any = None
) -> Array:
    """Sum over rows of ``gradient``, as the bias' ``shape`` and ``dtype`` (None: the gradient's)."""
    xp = array_module(gradient)
    features = math.prod(shape)
    total = xp.sum(wide(gradient).reshape(gradient.size // max(1, features), features), axis=0)
    return deliver(total.reshape(shape), dtype or gradient.dtype, out)


def rms_norm_forward(x: Array, weight: Array | None, features: int, eps: float) -> tuple[Array, Array]:
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last ``features`` elements of each row.

    x (..., D), weight of D elements. Returns y and the inverse root (M, 1), which the backward wants.
    """
    xp = array_module(x)
    rows = wide(x).reshape(x.size // max(1, features), features)
    inverse = 1.0 / xp.sqrt(xp.mean(rows * rows, axis=1, keepdims=True) + rows.dtype.type(eps))
    y = rows * inverse
    if weight is not None:
        y = y * wide(weight).reshape(-1)
    return y.reshape(x.shape).astype(x.dtype, copy=False), inverse


def rms_norm_backward(
    gradient: Array,
    x: Array,
    inverse: Array,
    weight: Array | None,
    shape: tuple[int, ...],
    needs: Sequence[bool],
    slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None]:
    """Gradients of input and weight, the latter of ``shape``: those of the two that ``needs`` names, else None."""
    xhat = wide(x).reshape(len(inverse), math.prod(shape)) * inverse
    return (
        rms_norm_input_gradient(gradient, xhat, inverse, weight) if needs[0] else None,
        layer_norm_weight_gradient(gradient, xhat, shape, slots[1], _dtype(weight)) if needs[1] else None,
    )


def rms_norm_input_gradient(gradient: Array, xhat: Array, inverse: Array, weight: Array | None) -> Array:
    """``inverse * (h - xhat * mean(h * xhat))`` with ``h = gradient * weight``, row by row."""
    xp = array_module(gradient)
    rows = wide(gradient).reshape(xhat.shape)
    h = rows if weight is None else rows * wide(weight).reshape(-1)
    h = (h - xhat * xp.mean(h * xhat, axis=1, keepdims=True)) * inverse
    return h.reshape(gradient.shape).astype(gradient.dtype, copy=False)


KERNELS: dict[str, Callable[..., Array]] = {
    "batch_norm_statistics": batch_norm_statistics,
    "batch_norm_apply": batch_norm_apply,
    "batch_norm_train": batch_norm_train,
    "batch_norm_backward": batch_norm_backward,
    "move_running": move_running,
    "layer_norm_forward": layer_norm_forward,
    "layer_norm_backward": layer_norm_backward,
    "rms_norm_forward": rms_norm_forward,
    "rms_norm_backward": rms_norm_backward,
}
