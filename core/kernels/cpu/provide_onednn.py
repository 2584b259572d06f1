"""What oneDNN provides to the kernel table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import onednn, onednn_conv, onednn_matmul, onednn_norm, onednn_pool
from .onednn import describe

__all__ = ["describe", "load"]


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that oneDNN serves. Raises Unavailable (an ImportError), saying what is missing and what it costs."""
    try:
        onednn.load()
    except onednn.Unavailable as error:
        raise onednn.Unavailable(f"{error}; {onednn.MISSING}") from None
    return onednn_matmul.KERNELS | onednn_conv.KERNELS | onednn_norm.KERNELS | onednn_pool.KERNELS
