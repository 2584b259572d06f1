"""What cuDNN provides to the kernel table, and what stands in for its attention where it is missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from . import attention, attention_products, conv, cublaslt, cudnn


def _check() -> None:
    """cuDNN can be used. Raises Unavailable (an ImportError)."""
    cudnn.library()
    try:
        cublaslt.load()
    except cublaslt.Unavailable as error:
        raise cudnn.Unavailable(
            f"cuDNN is left alone: it ends the process where it finds no cuBLASLt ({error}); {cudnn.MISSING}"
        ) from None


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that cuDNN serves. Where it is missing a warning says what that costs, and attention is made of products."""
    try:
        _check()
    except cudnn.Unavailable as error:
        warnings.warn(f"fast kernels: {error}", stacklevel=4)
        return attention_products.KERNELS
    return conv.KERNELS | attention.KERNELS


def describe() -> str:
    """Versions, which decide the bits. Raises Unavailable."""
    _check()
    return cudnn.describe()
