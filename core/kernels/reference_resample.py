"""Reference kernels: resizing along each dimension by a few weighted neighbours.

A *plan* for one dimension is (axis, index (taps, out), weight (taps, out)): output element o is the sum over taps of
``weight[tap, o] * x[index[tap, o]]``. Dimensions are resized one after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from ..backend import array_module
from ..op import Array
from .reference import embedding_backward, wide

Plan = tuple[int, np.ndarray, np.ndarray]
CUBIC = -0.75
"""The free parameter of Keys' kernel, PyTorch's and OpenCV's choice. R. Keys, "Cubic convolution interpolation", 1981."""


def plan(axis: int, length: int, out: int, factor: float | None, mode: str, align_corners: bool) -> Plan:
    """Neighbours and weights along a dimension of ``length`` resized to ``out``; places follow from ``factor`` if there is one."""
    place = np.arange(out)
    if mode.startswith("nearest"):  # in float32, as PyTorch rounds
        step = np.float32(1.0 / factor) if factor else np.float32(length) / np.float32(out)
        half = np.float32(0.5 if mode == "nearest-exact" else 0.0)
        nearest = np.floor((place.astype(np.float32) + half) * step).astype(np.int64)
        return axis, np.minimum(nearest, length - 1)[None], np.ones((1, out))
    if align_corners:
        real = place * ((length - 1) / (out - 1) if out > 1 else 0.0)
    else:
        real = (place + 0.5) * (1.0 / factor if factor else length / out) - 0.5
    if mode == "linear":
        real = np.maximum(real, 0.0)
        low = np.minimum(real.astype(np.int64), length - 1)
        near = real - low
        return axis, np.stack([low, np.minimum(low + 1, length - 1)]), np.stack([1.0 - near, near])
    low = np.floor(real).astype(np.int64)
    t = real - low
    distances = np.stack([t + 1.0, t, 1.0 - t, 2.0 - t])
    inner = ((CUBIC + 2.0) * distances - (CUBIC + 3.0)) * distances * distances + 1.0
    outer = ((CUBIC * distances - 5.0 * CUBIC) * distances + 8.0 * CUBIC) * distances - 4.0 * CUBIC
    index = np.clip(np.stack([low - 1, low, low + 1, low + 2]), 0, length - 1)
    return axis, index, np.where(distances <= 1.0, inner, outer)


def _spread(weight: np.ndarray, axis: int, like: Array) -> Array:
    """Weights (out,) that meet ``axis`` of ``like``."""
    return array_module(like).asarray(weight, like.dtype).reshape((-1,) + (1,) * (like.ndim - 1 - axis))


def resample_forward(x: Array, plans: Sequence[Plan]) -> Array:
    """``x`` resized along the plans' dimensions."""
    xp = array_module(x)
    work = wide(x)
    for axis, index, weight in plans:
        taken = [xp.take(work, xp.asarray(line), axis=axis) for line in index]
        if len(taken) > 1:
            taken = [part * _spread(line, axis, work) for part, line in zip(taken, weight, strict=True)]
        work = taken[0]
        for part in taken[1:]:
            work = work + part
    return work.astype(x.dtype, copy=work is x)


def resample_backward(gradient: Array, lengths: Sequence[int], plans: Sequence[Plan]) -> Array:
    """The transpose of resample_forward; ``lengths`` are the input's along the plans' dimensions."""
    xp = array_module(gradient)
    work = wide(gradient)
    for (axis, index, weight), length in zip(reversed(plans), reversed(lengths), strict=True):
        moved = xp.moveaxis(work, axis, 0)
        shape = (length,) + moved.shape[1:]
        rows = moved.reshape(moved.shape[0], math.prod(moved.shape[1:]))
        total = xp.zeros((length, rows.shape[1]), rows.dtype)
        for line, share in zip(index, weight, strict=True):
            scaled = rows * xp.asarray(share, rows.dtype)[:, None] if len(index) > 1 else rows
            total += embedding_backward(scaled, xp.asarray(line), length)
        work = xp.moveaxis(total.reshape(shape), 0, axis)
    return xp.ascontiguousarray(work).astype(gradient.dtype, copy=False)


KERNELS: dict[str, Callable[..., Array]] = {
    "resample_forward": resample_forward,
    "resample_backward": resample_backward,
}
