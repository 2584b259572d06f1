"""What cuDNN provides to the kernel table, and what stands in for its attention where it is missing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from . import attention, attention_products, conv, cudnn
from .cudnn import describe

__all__ = ["describe", "load"]


def load() -> dict[str, Callable[..., Any]]:
    """All kernels that cuDNN serves. Where it is missing a warning says what that costs, and attention is made of products."""
    try:
        cudnn.library()
    except cudnn.Unavailable as error:
        warnings.warn(f"fast kernels: {error}", stacklevel=4)
        return attention_products.KERNELS
    return conv.KERNELS | attention.KERNELS
