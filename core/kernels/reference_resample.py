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
SMOOTH_CUBIC = -0.5
"""The same where the image is smoothed, Pillow's choice."""


def plan(axis: int, length: int, out: int, factor: float | None, mode: str, align_corners: bool) -> Plan:
    """Neighbours and weights along a dimension of ``length`` resized to ``out``; places follow from ``factor`` if there is one."""
    place = np.arange(out)
    if mode.startswith("nearest"):  # in float32, as PyTorch rounds
        step = np.float32(1.0 / factor) if factor else np.float32(length) / np.float32(out)
        half = np.float32(0.5 if mode == "nearest-exact" else 0.0)
        nearest = np.floor((place.astype(np.float32) + half) * step).astype(np.int64)
        return axis, np.minimum(nearest, length - 1)[None], np.ones((1, out))
    if mode.startswith("smooth"):
        return axis, *_smooth(length, out, factor, mode, align_corners)
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
    index = np.clip(np.stack([low - 1, low, low + 1, low + 2]), 0, length - 1)
    return axis, index, cubic(np.stack([t + 1.0, t, 1.0 - t, 2.0 - t]), CUBIC)


def cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel at distances of at least 0."""
    inner = ((a + 2.0) * distance - (a + 3.0)) * distance * distance + 1.0
    outer = ((a * distance - 5.0 * a) * distance + 8.0 * a) * distance - 4.0 * a
    return np.where(distance < 1.0, inner, np.where(distance < 2.0, outer, 0.0))


def _smooth(
    length: int, out: int, factor: float | None, mode: str, align_corners: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Neighbours and weights of a kernel that widens where the image shrinks: no element is passed over."""
    reach = 2.0 if mode == "smooth cubic" else 1.0
    if align_corners:
        step = (length - 1) / (out - 1) if out > 1 else 0.0
    else:
        step = 1.0 / factor if factor else length / out
    widening = max(step, 1.0)
    centre = step * (np.arange(out) + 0.5)
    first = np.maximum((centre - reach * widening + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach * widening + 0.5).astype(np.int64), length)
    taps = np.arange(int((last - first).max()))[:, None]
    index = first + taps
    distance = np.abs((index - centre + 0.5) / widening)
    weight = cubic(distance, SMOOTH_CUBIC) if mode == "smooth cubic" else np.maximum(1.0 - distance, 0.0)
    weight = np.where(index < last, weight, 0.0)
    return np.minimum(index, length - 1), weight / weight.sum(axis=0)


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
