"""Scaled dot-product attention without a mask of its own, as one op: what lies between the products need not be kept."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..errors import ShapeError
from ..kernels.table import kernel
from ..op import Array, define
from . import expect


def _attention(query: Array, key: Array, value: Array, *, scale: float, causal: bool = False) -> tuple[Array, Any]:
    expect.one_float_dtype("attention", query=query, key=key, value=value)
    y, saved = kernel("attention_forward", device_kind(query))(query, key, value, scale, causal)
    return y, (query, key, value, saved, scale, causal)


def _attention_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return kernel("attention_backward", device_kind(gradient))(gradient, *saved, needs)


ATTENTION = define("attention", _attention, _attention_vjp)
"""Inputs query (..., L, E), key (..., S, E), value (..., S, V); output (..., L, V)."""


def _packed_attention(packed: Array, *, scale: float, causal: bool = False) -> tuple[Array, Any]:
    expect.one_float_dtype("packed_attention", packed=packed)
    if packed.ndim != 5 or packed.shape[2] != 3:
        raise ShapeError(
            f"packed_attention: packed must have shape (batch, places, 3, heads, width of a head), got {packed.shape}"
        )
    y, saved = kernel("packed_attention_forward", device_kind(packed))(packed, scale, causal)
    return y, (packed, saved, scale, causal)


def _packed_attention_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return (kernel("packed_attention_backward", device_kind(gradient))(gradient, *saved),)


PACKED_ATTENTION = define("packed_attention", _packed_attention, _packed_attention_vjp)
"""Input packed (B, T, 3, H, D): query, key and value of H heads side by side, as one product gives them; output (B, T, H, D)."""
