"""Dropout by a given mask, or by a mask that is drawn where it is applied."""

from __future__ import annotations

from typing import Any

from ..backend import device_kind
from ..kernels.table import kernel
from ..op import Array, define
from . import expect


def _dropout(x: Array, keep: Array, *, scale: float) -> tuple[Array, Any]:
    expect.one_float_dtype("dropout", input=x)
    return kernel("dropout_apply", device_kind(x))(x, keep, scale), (keep, scale)


def _dropout_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return kernel("dropout_apply", device_kind(gradient))(gradient, *saved), None


DROPOUT = define("dropout", _dropout, _dropout_vjp)
"""Inputs x and a boolean mask of its shape; output ``x * keep * scale``. Srivastava et al., Dropout, JMLR 2014."""


def _dropout_draw(x: Array, draw: Array, *, scale: float) -> tuple[Array, Any]:
    expect.one_float_dtype("dropout", input=x)
    return kernel("dropout_draw", device_kind(x))(x, draw, scale), (draw, scale)


def _dropout_draw_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    return kernel("dropout_draw", device_kind(gradient))(gradient, *saved), None


DROPOUT_DRAW = define("dropout_draw", _dropout_draw, _dropout_draw_vjp)
"""Inputs x and the six words of a draw (uint32): key, counter, threshold. Element i is kept where random word i is at least the
threshold; the mask is drawn in both passes and not stored. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011."""
