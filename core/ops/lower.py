"""A parameter in a lower precision, taken from a copy that was cast for many parameters at once."""

from __future__ import annotations

from typing import Any

from ..op import Array, define


def _lower(x: Array, copy: Array, *, lo: int) -> tuple[Array, Any]:
    """The elements [lo, lo + size) of the flat ``copy`` in x's shape: a view."""
    return copy[lo : lo + x.size].reshape(x.shape), x.dtype


def _lower_vjp(dtype: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    """A gradient that was made in the parameter's own precision (see ``graph``) passes as it is."""
    return gradient.astype(dtype, copy=False), None


LOWER = define("lower", _lower, _lower_vjp)
"""Inputs: the parameter x, and the flat copy (n,) without gradient."""
