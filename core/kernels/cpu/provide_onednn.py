"""What oneDNN provides to the kernel table."""

from __future__ import annotations

import os
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
        # products of several threads are NumPy's then: compiled loops must not keep its cores busy between two loops
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        raise onednn.Unavailable(f"{error}; {onednn.MISSING}") from None
    return onednn_matmul.KERNELS | onednn_conv.KERNELS | onednn_norm.KERNELS | onednn_pool.KERNELS
