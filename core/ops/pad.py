"""A frame of one value around an array."""

from __future__ import annotations

from typing import Any

from ..backend import array_module
from ..op import Array, define

Edges = tuple[tuple[int, int], ...]


def _constant_pad(x: Array, *, widths: Edges, value: float = 0.0) -> tuple[Array, Any]:
    cut = tuple(slice(max(0, -lo), size - max(0, -hi)) for (lo, hi), size in zip(widths, x.shape, strict=True))
    frame = [(max(0, lo), max(0, hi)) for lo, hi in widths]
    return array_module(x).pad(x[cut], frame, constant_values=x.dtype.type(value)), (x.shape, cut, frame)


def _constant_pad_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    shape, cut, frame = saved
    kept = tuple(c.stop - c.start for c in cut)
    inside = gradient[tuple(slice(lo, lo + size) for (lo, _), size in zip(frame, kept, strict=True))]
    if kept == shape:
        return (inside.copy(),)
    out = array_module(gradient).zeros(shape, gradient.dtype)
    out[cut] = inside
    return (out,)


PAD = define("pad", _constant_pad, _constant_pad_vjp)
"""``widths``: (before, after) for each dimension; negative numbers cut."""
