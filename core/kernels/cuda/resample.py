"""Resizing on the device: one launch for each dimension, forward and transposed.

The neighbours and weights of a plan lie on the device, kept by what they are, and for the gradient turned round: for each element of
the input the outputs that it goes into.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...backend import array_module, cupy
from .. import reference_resample
from ..reference_resample import Plan
from .launch import launch, suffix

Array = Any
BLOCK = 256
MOST_BLOCKS = 1 << 20


@lru_cache(maxsize=256)
def _lists(device: int, index: bytes, weight: bytes, taps: int, length: int | None) -> tuple[Array, Array, Array]:
    """Where each element's list starts (one more than elements), neighbours and weights, on the device; of the transpose with ``length``."""
    neighbours = np.frombuffer(index, np.int64).reshape(taps, -1)
    shares = np.frombuffer(weight, np.float64).reshape(taps, -1)
    out = neighbours.shape[1]
    if length is None:
        starts, places, weights = np.arange(out + 1) * taps, neighbours.T.reshape(-1), shares.T.reshape(-1)
    else:
        flat = neighbours.reshape(-1)
        order = np.argsort(flat, kind="stable")  # by tap, then by output, as the reference adds
        starts = np.searchsorted(flat[order], np.arange(length + 1))
        places, weights = order % out, shares.reshape(-1)[order]
    found = tuple(
        cupy().asarray(np.ascontiguousarray(each, dtype))
        for each, dtype in ((starts, np.int32), (places, np.int32), (weights, np.float32))
    )
    cupy().cuda.get_current_stream().synchronize()  # whichever stream asks next finds them
    return found  # type: ignore[return-value]


def _along(x: Array, plan: Plan, length: int | None) -> Array:
    """``x`` (C-contiguous) resized along the plan's axis, or back to ``length``."""
    axis, index, weight = plan
    key = (np.ascontiguousarray(index, np.int64).tobytes(), np.ascontiguousarray(weight, np.float64).tobytes())
    starts, places, weights = _lists(x.device.id, *key, len(index), length)
    out = index.shape[1] if length is None else length
    outer, inner = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    y = array_module(x).empty(x.shape[:axis] + (out,) + x.shape[axis + 1 :], x.dtype)
    launch(
        "resample", f"gather_{suffix(x.dtype)}", min(-(-y.size // BLOCK), MOST_BLOCKS), BLOCK, x, outer, x.shape[axis], out, inner,
        starts, places, weights, y,
    )  # fmt: skip
    return y


def _takes(x: Array) -> bool:
    return x.dtype.name in ("float32", "bfloat16", "float16") and x.size > 0


def _through(x: Array, plans: Sequence[Plan], lengths: Sequence[int | None]) -> Array:
    """The plans one after another in the order in which ``x`` lies, in float32 where there are several."""
    order = list(range(x.ndim)) if x.flags.c_contiguous else sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    dtype = x.dtype
    work = array_module(x).ascontiguousarray(x.transpose(order))
    if len(plans) > 1:
        work = work.astype(np.float32, copy=False)
    for (axis, index, weight), length in zip(plans, lengths, strict=True):
        work = _along(work, (order.index(axis), index, weight), length)
    return work.astype(dtype, copy=False).transpose([order.index(axis) for axis in range(x.ndim)])


def resample_forward(x: Array, plans: Sequence[Plan]) -> Array:
    """As ``reference_resample.resample_forward``; y lies as x does."""
    if not _takes(x) or not plans:
        return reference_resample.resample_forward(x, plans)
    return _through(x, plans, [None] * len(plans))


def resample_backward(gradient: Array, lengths: Sequence[int], plans: Sequence[Plan]) -> Array:
    """As ``reference_resample.resample_backward``; dx lies as the gradient does."""
    if not _takes(gradient) or not plans:
        return reference_resample.resample_backward(gradient, lengths, plans)
    return _through(gradient, list(reversed(plans)), list(reversed(lengths)))


KERNELS: dict[str, Callable[..., Any]] = {
    "resample_forward": resample_forward,
    "resample_backward": resample_backward,
}
