"""A frame of one value around an array."""

from __future__ import annotations

from typing import Any

from ..backend import array_module
from ..op import Array, define

Edges = tuple[tuple[int, int], ...]


def _constant_pad(x: Array, *, edges: Edges, value: float = 0.0) -> tuple[Array, Any]:
    return array_module(x).pad(x, edges, constant_values=x.dtype.type(value)), (x.shape, edges)


def _constant_pad_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    shape, edges = saved
    inside = tuple(slice(before, before + size) for (before, _), size in zip(edges, shape, strict=True))
    return (gradient[inside].copy(),)


CONSTANT_PAD = define("constant_pad", _constant_pad, _constant_pad_vjp)
"""``edges``: (before, after) for each dimension, none negative."""
