"""Batch norm and layer norm by oneDNN: float32. All other dtypes and empty inputs go to the reference.

In 3.2 batch norm is fast only where channels lie last, so others are rearranged first. Its sums over samples and places are plain
ones in float32, good to 2e-5 over 50,000 of them: long ones are cut into parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_norm
from ..reference import deliver
from . import channels_last, onednn_c
from .onednn import Pool, Primitive, Unsupported, layout, nbytes, plan, scratch, wanted

FLOAT32 = np.dtype(np.float32)
BOTH = onednn_c.USE_SCALE | onednn_c.USE_SHIFT

LONG, MOST_PARTS = 4096, 32
"""Sums for statistics over more places than that are cut into up to so many parts."""


# ---- batch norm ------------------------------------------------------------------------------------------------------


def _forms(samples: int, channels: int, places: int) -> tuple[Any, Any]:
    """Layouts of the input (N, C, 1, S), channels last, and of what there is one of for each channel."""
    shape = (samples, channels, 1, places)
    return layout(shape, channels_last.strides(shape)), layout((channels,), (1,))


def _mask(made: Any, elements: int) -> tuple[Any, bool]:
    """Layout of what says which outputs were positive, and whether it is a bit for each or a byte."""
    form = wanted(made, onednn_c.WORKSPACE)
    if nbytes(form) not in (elements, -(-elements // 8)):
        raise Unsupported("batch norm: signs are kept in a form that is not known here")
    return form, nbytes(form) < elements


class _BatchNorm:
    """Forward of one shape: by the batch's own statistics, which come out beside y, or by given ones; perhaps with relu."""

    __slots__ = ("mask_bytes", "primitive")

    def __init__(self, samples: int, channels: int, places: int, eps: float, given: bool, relu: bool = False) -> None:
        x, each = _forms(samples, channels, places)
        flags = BOTH | (onednn_c.GIVEN_STATISTICS if given else 0) | (onednn_c.FUSE_RELU if relu else 0)
        made = plan("batch_normalization_forward", onednn_c.FORWARD, x, x, eps, flags)
        arguments = {onednn_c.SRC: x, onednn_c.SCALE: each, onednn_c.SHIFT: each}
        arguments |= {onednn_c.DST: x, onednn_c.MEAN: each, onednn_c.VARIANCE: each}
        self.mask_bytes = 0
        if relu:
            arguments[onednn_c.WORKSPACE], _ = _mask(made, samples * channels * places)
            self.mask_bytes = nbytes(arguments[onednn_c.WORKSPACE])
        self.primitive = Primitive(made, arguments)


class _BatchNormGradient:
    """Backward of one shape, by the batch's own statistics or by given ones; perhaps through relu."""

    __slots__ = ("packed", "primitive")

    def __init__(self, samples: int, channels: int, places: int, training: bool, relu: bool = False) -> None:
        x, each = _forms(samples, channels, places)
        flags = BOTH | (0 if training else onednn_c.GIVEN_STATISTICS) | (onednn_c.FUSE_RELU if relu else 0)
        ahead = plan("batch_normalization_forward", onednn_c.FORWARD, x, x, 0.0, flags)
        made = plan("batch_normalization_backward", onednn_c.BACKWARD, x, x, x, 0.0, flags, ahead)
        arguments = {onednn_c.DIFF_DST: x, onednn_c.SRC: x, onednn_c.MEAN: each}
        arguments |= {onednn_c.VARIANCE: each, onednn_c.SCALE: each}
        arguments |= {onednn_c.DIFF_SRC: x, onednn_c.DIFF_SCALE: each, onednn_c.DIFF_SHIFT: each}
        self.packed = False
        if relu:
            arguments[onednn_c.WORKSPACE], self.packed = _mask(ahead, samples * channels * places)
        self.primitive = Primitive(made, arguments)


_batch_norms, _batch_norm_gradients = Pool(_BatchNorm), Pool(_BatchNormGradient)


def _takes(x: Array) -> bool:
    return bool(x.dtype == FLOAT32 and x.ndim >= 2 and x.size)


def _sizes(x: Array) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def _per_channel(values: Array | None, channels: int, missing: float) -> Array:
    if values is None:
        return np.full(channels, missing, FLOAT32)
    return np.ascontiguousarray(values, FLOAT32)


def _normalise(key: Any, x: Array, scale: Array, shift: Array, y: Array, mean: Array, variance: Array) -> bool:
    """Run the forward of ``key``; False where the reference should do it."""
    unit = _batch_norms.take(key)
    if unit is None:
        return False
    if unit.mask_bytes:  # y says it too
        mask = scratch.take(unit.mask_bytes)
        unit.primitive(x, scale, shift, y, mean, variance, mask)
        scratch.give(mask)
    else:
        unit.primitive(x, scale, shift, y, mean, variance)
    _batch_norms.give(key, unit)
    return True


@lru_cache
def _parts(rows: int) -> int:
    """Into how many parts of equal length sums over ``rows`` are cut."""
    return 1 if rows <= LONG else next(parts for parts in range(MOST_PARTS, 0, -1) if rows % parts == 0)


def _statistics(x: Array, y: Array, eps: float) -> tuple[Array, Array] | None:
    """Mean and variance (C,) of x (N, S, C) in parts: to oneDNN neighbouring rows are more channels, which are merged here.

    ``y``, of x' shape, is overwritten.
    """
    channels = x.shape[-1]
    parts = _parts(x.size // channels)
    wide = parts * channels
    mean, variance = np.empty((parts, channels), FLOAT32), np.empty((parts, channels), FLOAT32)
    one, zero = np.ones(wide, FLOAT32), np.zeros(wide, FLOAT32)
    if not _normalise((x.size // wide, wide, 1, eps, False), x, one, zero, y, mean, variance):
        return None
    middle = mean.mean(axis=0, dtype=np.float64)
    spread = variance.mean(axis=0, dtype=np.float64) + np.square(mean - middle).mean(axis=0)
    return middle.astype(FLOAT32), spread.astype(FLOAT32)


def batch_norm_train(
    x: Array, weight: Array | None, bias: Array | None, eps: float, relu: bool = False
) -> tuple[Array, Array, Array, Array]:
    """As ``reference_norm.batch_norm_train``; y has its channels last."""
    if not _takes(x):
        return reference_norm.batch_norm_train(x, weight, bias, eps, relu)
    channels, y, last = x.shape[1], channels_last.empty(x.shape), channels_last.arranged(x)
    scale, shift = _per_channel(weight, channels, 1.0), _per_channel(bias, channels, 0.0)
    count = x.size // channels
    found = _statistics(last, y, eps) if _parts(count) > 1 else None
    mean, variance = found or (np.empty(channels, FLOAT32), np.empty(channels, FLOAT32))
    done = _normalise((*_sizes(x), eps, found is not None, relu), last, scale, shift, y, mean, variance)
    if not done or (relu and not np.isfinite(mean + variance).all()):  # oneDNN's relu of NaN is 0
        return reference_norm.batch_norm_train(x, weight, bias, eps, relu)
    inverse_std = 1.0 / np.sqrt(variance + FLOAT32.type(eps))
    return channels_last.to_first(y), mean, variance * FLOAT32.type(count), inverse_std


def batch_norm_apply(x: Array, mean: Array, inverse_std: Array, weight: Array | None, bias: Array | None) -> Array:
    """As ``reference_norm.batch_norm_apply``; y has its channels last."""
    if not _takes(x) or mean.dtype != FLOAT32:
        return reference_norm.batch_norm_apply(x, mean, inverse_std, weight, bias)
    channels, y = x.shape[1], channels_last.empty(x.shape)
    scale, shift = _per_channel(weight, channels, 1.0), _per_channel(bias, channels, 0.0)
    given = _per_channel(mean, channels, 0.0), _variance(inverse_std)
    if not _normalise((*_sizes(x), 0.0, True), channels_last.arranged(x), scale, shift, y, *given):
        return reference_norm.batch_norm_apply(x, mean, inverse_std, weight, bias)
    return channels_last.to_first(y)


def _variance(inverse_std: Array) -> Array:
    """The variance that oneDNN wants, eps in it already."""
    return np.reciprocal(np.square(inverse_std, dtype=FLOAT32))


def batch_norm_backward(
    gradient: Array,
    x: Array,
    mean: Array,
    inverse_std: Array,
    weight: Array | None,
    training: bool,
    positive: Array | None = None,
) -> tuple[Array, Array, Array]:
    """As ``reference_norm.batch_norm_backward``; dx has its channels last."""
    key = (*_sizes(x), training, positive is not None)
    unit = _batch_norm_gradients.take(key) if _takes(x) and gradient.dtype == FLOAT32 else None
    if unit is None:
        return reference_norm.batch_norm_backward(gradient, x, mean, inverse_std, weight, training, positive)
    channels, dx = x.shape[1], channels_last.empty(x.shape)
    dw, db = np.empty(channels, FLOAT32), np.empty(channels, FLOAT32)
    mask: tuple[Array, ...] = ()
    if positive is not None:
        signs = channels_last.arranged(positive).reshape(-1) > 0
        mask = (np.packbits(signs, bitorder="little") if unit.packed else signs.view(np.uint8),)
    unit.primitive(
        channels_last.arranged(gradient), channels_last.arranged(x), _per_channel(mean, channels, 0.0),
        _variance(inverse_std), _per_channel(weight, channels, 1.0), dx, dw, db, *mask,
    )  # fmt: skip
    _batch_norm_gradients.give(key, unit)
    return channels_last.to_first(dx), dw, db


# ---- layer norm ------------------------------------------------------------------------------------------------------


class _LayerNorm:
    """Forward of one shape."""

    __slots__ = ("primitive",)

    def __init__(self, rows: int, features: int, eps: float) -> None:
        x, row, each = layout((rows, features), (features, 1)), layout((rows,), (1,)), layout((features,), (1,))
        made = plan("layer_normalization_forward", onednn_c.FORWARD, x, x, row, eps, BOTH)
        arguments = {onednn_c.SRC: x, onednn_c.SCALE: each, onednn_c.SHIFT: each}
        self.primitive = Primitive(made, arguments | {onednn_c.DST: x, onednn_c.MEAN: row, onednn_c.VARIANCE: row})


class _LayerNormGradient:
    """Backward of one shape: gradients of input, weight and bias in one call."""

    __slots__ = ("primitive",)

    def __init__(self, rows: int, features: int) -> None:
        x, row, each = layout((rows, features), (features, 1)), layout((rows,), (1,)), layout((features,), (1,))
        ahead = plan("layer_normalization_forward", onednn_c.FORWARD, x, x, row, 0.0, BOTH)
        made = plan("layer_normalization_backward", onednn_c.BACKWARD, x, x, x, row, 0.0, BOTH, ahead)
        arguments = {onednn_c.DIFF_DST: x, onednn_c.SRC: x, onednn_c.MEAN: row, onednn_c.VARIANCE: row}
        arguments |= {onednn_c.SCALE: each, onednn_c.SHIFT: each}
        self.primitive = Primitive(
            made, arguments | {onednn_c.DIFF_SRC: x, onednn_c.DIFF_SCALE: each, onednn_c.DIFF_SHIFT: each}
        )


_layer_norms, _layer_norm_gradients = Pool(_LayerNorm), Pool(_LayerNormGradient)


def _per_feature(values: Array | None, features: int, missing: float) -> Array:
    return _per_channel(None if values is None else values.reshape(-1), features, missing)


def layer_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, features: int, eps: float
) -> tuple[Array, Array, Array]:
    """As ``reference_norm.layer_norm_forward``."""
    key = (x.size // max(1, features), features, eps)
    unit = _layer_norms.take(key) if x.dtype == FLOAT32 and x.size else None
    if unit is None:
        return reference_norm.layer_norm_forward(x, weight, bias, features, eps)
    y, mean, variance = np.empty(x.shape, FLOAT32), np.empty((key[0], 1), FLOAT32), np.empty((key[0], 1), FLOAT32)
    scale, shift = _per_feature(weight, features, 1.0), _per_feature(bias, features, 0.0)
    unit.primitive(np.ascontiguousarray(x), scale, shift, y, mean, variance)
    _layer_norms.give(key, unit)
    return y, mean, 1.0 / np.sqrt(variance + FLOAT32.type(eps))


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
    """As ``reference_norm.layer_norm_backward``, all three in one call."""
    features = math.prod(shape)
    key = (x.size // max(1, features), features)
    unit = _layer_norm_gradients.take(key) if gradient.dtype == FLOAT32 == x.dtype and x.size else None
    if unit is None:
        return reference_norm.layer_norm_backward(gradient, x, mean, inverse_std, weight, shape, needs, slots)
    dx, dw, db = np.empty(x.shape, FLOAT32), np.empty(shape, FLOAT32), np.empty(shape, FLOAT32)
    scale, shift = _per_feature(weight, features, 1.0), np.zeros(features, FLOAT32)
    unit.primitive(
        np.ascontiguousarray(gradient), np.ascontiguousarray(x), np.ascontiguousarray(mean), _variance(inverse_std),
        scale, shift, dx, dw, db,
    )  # fmt: skip
    _layer_norm_gradients.give(key, unit)
    found = dx, deliver(dw, FLOAT32, slots[1]), deliver(db, FLOAT32, slots[2])
    return tuple(each if need else None for each, need in zip(found, needs, strict=True))  # type: ignore[return-value]


KERNELS: dict[str, Callable[..., Any]] = {
    "batch_norm_train": batch_norm_train,
    "batch_norm_apply": batch_norm_apply,
    "batch_norm_backward": batch_norm_backward,
    "layer_norm_forward": layer_norm_forward,
    "layer_norm_backward": layer_norm_backward,
}
