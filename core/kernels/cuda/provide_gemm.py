"""What the kernel table gets on a GPU: matrix products by cuBLASLt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import cublaslt, gemm, gemm_fused
from .cublaslt import describe

__all__ = ["describe", "load"]


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that cuBLASLt serves. Raises Unavailable (an ImportError), saying what is missing and what it costs."""
    try:
        cublaslt.load()
    except cublaslt.Unavailable as error:
        raise cublaslt.Unavailable(f"{error}; {cublaslt.MISSING}") from None
    return gemm.KERNELS | gemm_fused.KERNELS
