"""Dropout by a given mask."""

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
