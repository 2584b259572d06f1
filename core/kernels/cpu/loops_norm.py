"""Layer norm and root mean square norm by compiled loops: float32. All other dtypes and empty inputs go to the reference.

Sums over rows are taken part by part, so that threads can share them; a part is always 64 rows. All is exact arithmetic in the order
that is written here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...op import Array
from .. import reference_norm
from ..reference_add_norm import with_sum, with_sum_gradient
from .compiled import loop, prange
from .loops_embedding import column_sums
from .loops_rows import FLOAT32, f4, lies_well
from .mathematics import dot, total

PART = 64
"""Rows whose share of the weight's gradient one thread sums."""


# ---- layer norm ------------------------------------------------------------------------------------------------------


@loop("f4[:,:], f4[:], f4[:], f8, f4[:,:] out, f4[:,:] out, f4[:,:] out", exact=True)
def _layer_norm(x, weight, bias, eps, y, means, inverses):  # type: ignore[no-untyped-def]
    share = f4(1) / f4(x.shape[1])
    for m in prange(x.shape[0]):
        a, b = x[m], y[m]
        mean = total(a) * share
        for i in range(a.size):
            b[i] = a[i] - mean
        inverse = f4(1) / np.sqrt(dot(b, b) * share + f4(eps))
        means[m, 0], inverses[m, 0] = mean, inverse
        for i in range(b.size):
            b[i] = b[i] * inverse * weight[i] + bias[i]


@loop("f4[:,:], f4[:,:], f4[:,:], f4[:,:], f4[:], f4[:,:] out, f4[:,:,:] out, i8", exact=True)
def _layer_norm_gradient(gradient, x, means, inverses, weight, dx, parts, rows):  # type: ignore[no-untyped-def]
    share = f4(1) / f4(x.shape[1])
    for p in prange(parts.shape[0]):
        dw, db = parts[p, 0], parts[p, 1]
        dw[:] = f4(0)
        db[:] = f4(0)
        centred = np.empty(x.shape[1], np.float32)
        for m in range(p * rows, min((p + 1) * rows, x.shape[0])):
            g, a, d = gradient[m], x[m], dx[m]
            mean, inverse = means[m, 0], inverses[m, 0]
            for i in range(g.size):  # few arrays in each loop: checks for overlap cost more than reading twice
                d[i] = g[i] * weight[i]
            for i in range(a.size):
                centred[i] = a[i] - mean
            along = dot(d, centred) * share * inverse * inverse
            whole = total(d) * share
            for i in range(d.size):
                d[i] = (d[i] - whole - centred[i] * along) * inverse
            for i in range(g.size):
                dw[i] += g[i] * (centred[i] * inverse)
            for i in range(g.size):
                db[i] += g[i]


@loop("f4[:,:,:], f4[:] out, f4[:] out", exact=True)
def _add_parts(parts, dw, db):  # type: ignore[no-untyped-def]
    dw[:] = f4(0)
    db[:] = f4(0)
    for p in range(parts.shape[0]):
        a, b = parts[p, 0], parts[p, 1]
        for i in range(a.size):
            dw[i] += a[i]
        for i in range(b.size):
            db[i] += b[i]


@lru_cache(256)
def _constant(features: int, value: float) -> Array:
    found = np.full(features, value, FLOAT32)
    found.setflags(write=False)
    return found


def _flat(values: Array | None, features: int, missing: float) -> Array:
    """Weight or bias as a vector."""
    if values is None:
        return _constant(features, missing)
    return values if values.ndim == 1 and lies_well(values) else np.ascontiguousarray(values, FLOAT32).reshape(-1)


def _place(slot: Array | None, shape: tuple[int, ...]) -> Array:
    return slot if slot is not None and lies_well(slot) else np.empty(shape, FLOAT32)


def layer_norm_forward(
    x: Array, weight: Array | None, bias: Array | None, features: int, eps: float
) -> tuple[Array, Array, Array]:
    """As ``reference_norm.layer_norm_forward``."""
    if not lies_well(x):
        return reference_norm.layer_norm_forward(x, weight, bias, features, eps)
    rows = x.size // features
    y, mean, inverse_std = np.empty_like(x), np.empty((rows, 1), FLOAT32), np.empty((rows, 1), FLOAT32)
    shape = (rows, features)
    _layer_norm(
        x.size,
        x.reshape(shape),
        _flat(weight, features, 1),
        _flat(bias, features, 0),
        eps,
        y.reshape(shape),
        mean,
        inverse_std,
    )
    return y, mean, inverse_std


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
    """As ``reference_norm.layer_norm_backward``, all three in one pass."""
    if not lies_well(x) or not lies_well(gradient) or not lies_well(mean) or not lies_well(inverse_std):
        return reference_norm.layer_norm_backward(gradient, x, mean, inverse_std, weight, shape, needs, slots)
    rows, features = len(mean), math.prod(shape)
    as_rows = (rows, features)
    dx, parts = np.empty_like(x), np.empty((-(-rows // PART), 2, features), FLOAT32)
    _layer_norm_gradient(
        x.size, gradient.reshape(as_rows), x.reshape(as_rows), mean, inverse_std, _flat(weight, features, 1),
        dx.reshape(as_rows), parts, PART,
    )  # fmt: skip
    dw = db = None
    if needs[1] or needs[2]:
        dw, db = (_place(slot, shape) for slot in slots[1:])
        _add_parts(1, parts, dw.reshape(-1), db.reshape(-1))
    return dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None


# ---- root mean square norm -------------------------------------------------------------------------------------------


@loop("f4[:,:], f4[:], f8, f4[:,:] out, f4[:,:] out", exact=True)
def _rms_norm(x, weight, eps, y, inverses):  # type: ignore[no-untyped-def]
    share = f4(1) / f4(x.shape[1])
    for m in prange(x.shape[0]):
        a, b = x[m], y[m]
        inverse = f4(1) / np.sqrt(dot(a, a) * share + f4(eps))
        inverses[m, 0] = inverse
        for i in range(a.size):
            b[i] = a[i] * inverse * weight[i]


@loop("f4[:,:], f4[:,:], f4[:,:], f4[:], f4[:,:] out, f4[:,:] out, i8", exact=True)
def _rms_norm_gradient(gradient, x, inverses, weight, dx, parts, rows):  # type: ignore[no-untyped-def]
    share = f4(1) / f4(x.shape[1])
    for p in prange(parts.shape[0]):
        dw = parts[p]
        dw[:] = f4(0)
        for m in range(p * rows, min((p + 1) * rows, x.shape[0])):
            g, a, d, inverse = gradient[m], x[m], dx[m], inverses[m, 0]
            for i in range(g.size):
                d[i] = g[i] * weight[i]
            along = dot(d, a) * share * inverse * inverse
            for i in range(a.size):
                d[i] = (d[i] - a[i] * along) * inverse
            for i in range(a.size):
                dw[i] += g[i] * (a[i] * inverse)


def rms_norm_forward(x: Array, weight: Array | None, features: int, eps: float) -> tuple[Array, Array]:
    """As ``reference_norm.rms_norm_forward``."""
    if not lies_well(x):
        return reference_norm.rms_norm_forward(x, weight, features, eps)
    shape = (x.size // features, features)
    y, inverse = np.empty_like(x), np.empty((shape[0], 1), FLOAT32)
    _rms_norm(x.size, x.reshape(shape), _flat(weight, features, 1), eps, y.reshape(shape), inverse)
    return y, inverse


def rms_norm_backward(
    gradient: Array,
    x: Array,
    inverse: Array,
    weight: Array | None,
    shape: tuple[int, ...],
    needs: Sequence[bool],
    slots: Sequence[Array | None],
) -> tuple[Array | None, Array | None]:
    """As ``reference_norm.rms_norm_backward``, both in one pass."""
    if not lies_well(x) or not lies_well(gradient) or not lies_well(inverse):
        return reference_norm.rms_norm_backward(gradient, x, inverse, weight, shape, needs, slots)
    rows, features = len(inverse), math.prod(shape)
    as_rows = (rows, features)
    dx, parts = np.empty_like(x), np.empty((-(-rows // PART), features), FLOAT32)
    _rms_norm_gradient(
        x.size, gradient.reshape(as_rows), x.reshape(as_rows), inverse, _flat(weight, features, 1), dx.reshape(as_rows), parts, PART
    )  # fmt: skip
    dw = None
    if needs[1]:
        dw = _place(slots[1], shape)
        column_sums(parts, dw.reshape(-1))
    return dx if needs[0] else None, dw


KERNELS: dict[str, Callable[..., Any]] = {
    "layer_norm_forward": layer_norm_forward,
    "layer_norm_backward": layer_norm_backward,
    "rms_norm_forward": rms_norm_forward,
    "rms_norm_backward": rms_norm_backward,
    "add_layer_norm_forward": with_sum(layer_norm_forward),
    "add_layer_norm_backward": with_sum_gradient(layer_norm_backward),
    "add_rms_norm_forward": with_sum(rms_norm_forward),
    "add_rms_norm_backward": with_sum_gradient(rms_norm_backward),
}
