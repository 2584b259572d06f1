"""Rows of a table by index."""

from __future__ import annotations

from typing import Any

from ..backend import array_module, device_kind
from ..kernels.table import kernel
from ..op import Array, define
from . import expect


def _embedding(
    weight: Array, indices: Array, *, padding_idx: int | None = None, scale_grad_by_freq: bool = False
) -> tuple[Array, Any]:
    expect.integers("embedding", "indices", indices)
    expect.dimensions("embedding", "weight", weight, 2, "(num_embeddings, embedding_dim)")
    expect.within("embedding", "index", indices, weight.shape[0], f": the table has {weight.shape[0]} rows")
    saved = (indices, weight.shape[0], padding_idx, scale_grad_by_freq)
    return kernel("embedding_forward", device_kind(weight))(indices, weight), saved


def _embedding_vjp(saved: Any, gradient: Array, needs: Any, slots: Any) -> tuple[Array | None, ...]:
    *where, scale_grad_by_freq = saved
    if scale_grad_by_freq:
        indices, rows = where[:2]
        counts = array_module(indices).bincount(indices.reshape(-1), minlength=rows)
        gradient = gradient / counts[indices][..., None].astype(gradient.dtype)
    return kernel("embedding_backward", device_kind(gradient))(gradient, *where, out=slots[0]), None


EMBEDDING = define("embedding", _embedding, _embedding_vjp)
"""Inputs weight (V, D) and integer indices (...); output (..., D). Row ``padding_idx`` gets no gradient."""
