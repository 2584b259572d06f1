"""Other sizes of sequences, images and volumes by their neighbours' values."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels.reference_resample import plan
from ..kernels.table import kernel
from ..kernels.window import Size
from ..op import Array, define
from . import expect

MODES = ("nearest", "nearest-exact", "linear", "cubic", "smooth linear", "smooth cubic")
"""The smooth ones widen the kernel where the image shrinks."""


def _resample(
    x: Array, *, size: Size, factors: tuple[float | None, ...], mode: str = "nearest", align_corners: bool = False
) -> tuple[Array, Any]:
    expect.one_float_dtype("interpolate", input=x)
    if not all(x.shape[1:]) or len(size) != x.ndim - 2:
        raise ShapeError(f"interpolate: cannot make size {size} of an input of shape {x.shape}")
    changed = [
        plan(axis + 2, length, out, factor, mode, align_corners)
        for axis, (length, out, factor) in enumerate(zip(x.shape[2:], size, factors, strict=True))
        if length != out or (factor is not None and factor != 1)
    ]
    lengths = tuple(x.shape[axis] for axis, _, _ in changed)
    return kernel("resample_forward", device_kind(x))(x, changed), (lengths, changed)


def _resample_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("resample_backward", device_kind(gradient))(gradient, *saved),)


RESAMPLE = define("interpolate", _resample, _resample_vjp)
"""x (N, C, S) -> (N, C, *size). ``factors``: for each dimension the scale that places are computed with, or None."""
